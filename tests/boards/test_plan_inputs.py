"""Inputs that a plan refuses: what is no number, and what the layers that read it cannot hold."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support import modules
from tvm_mobilenet.boards.plan_runner import check_inputs
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.plan import input_values, inputs_of
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer


@pytest.fixture(scope="module")
def plan():
    return built.read(modules.small("host")).plan


@pytest.mark.parametrize("odd, told", [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")])
def test_what_is_no_number_is_refused(plan, odd, told):
    (_, port), *_ = plan.inputs
    given = np.zeros(port.shape, port.dtype)
    check_inputs(plan, [given])
    given[0, 1, 2, 3] = odd
    with pytest.raises(TvmMobilenetError, match=f"holds {told}"):
        check_inputs(plan, [given])


def test_what_may_overflow_in_the_sums_is_refused(plan):
    """NaN of an infinity less another is 0 behind a ReLU: a plausible class, of nothing."""
    (_, port), *_ = plan.inputs
    given = np.full(port.shape, 1e18, port.dtype)
    check_inputs(plan, [given])
    given[0, 0, 0, 0] = -1e38
    with pytest.raises(TvmMobilenetError, match=r"holds 1e\+38: beyond 1e\+18 the sums of the layers that read it may"):
        check_inputs(plan, [given])


def test_float16_ends_at_65504(plan):
    (_, port), *_ = plan.inputs
    first, *rest = plan.steps
    layer = Layer.parse(first.layer).replace(dtype="float16", reads="float32")
    narrow = replace(plan, steps=(replace(first, layer=layer.name), *rest))
    given = np.full(port.shape, 65504, port.dtype)
    check_inputs(narrow, [given])
    given[0, 0, 0, 0] = -70000
    check_inputs(plan, [given])
    with pytest.raises(TvmMobilenetError, match="holds 70000: beyond 65504 the sums"):
        check_inputs(narrow, [given])


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_whole_numbers_are_drawn_from_all_there_are(plan, dtype):
    (name, port), *_ = plan.inputs
    whole = replace(plan, inputs=((name, replace(port, dtype=dtype)),))
    (drawn,) = input_values(inputs_of(whole))
    ends = np.iinfo(dtype)
    assert drawn.dtype == dtype and (drawn.min(), drawn.max()) == (ends.min, ends.max)
    check_inputs(whole, [drawn])
