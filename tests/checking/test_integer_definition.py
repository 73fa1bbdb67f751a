"""The definition of integer layers: in whatever dtype their sums are computed, they are exact."""

import numpy as np
import pytest

from tvm_mobilenet.checking import integers, reference
from tvm_mobilenet.layer import Layer


@pytest.mark.parametrize(
    "name",
    [
        "pointwise m30 n16 k24 i8",
        "dense m9 n30 k24 i8",
        "depthwise 9x9x16 3x3 s2 p1,1,0,0 i8",
        "depthwise 9x7x16 5x5 p4,4,4,4 d2 i8",
        "conv 12x12x3 n16 3x3 s2 p0,0,1,1 nchw i8",
        "conv 9x9x16 n8 3x3 p1,1,1,1 g4 i8",
    ],
)
def test_sums_in_float32_are_those_in_float64(name, monkeypatch):
    layer = Layer.parse(name)
    given = integers.random_operands(layer, np.random.default_rng(0))
    narrow = integers.run(layer, **given)
    monkeypatch.setattr(integers, "EXACT", 0)
    assert np.array_equal(integers.run(layer, **given), narrow) and len(np.unique(narrow)) > 100


def test_sums_beyond_float32_are_exact():
    """2,047 products of 127 and 127, one of 1 and a bias of 1: float32 holds no odd number of that size."""
    layer = Layer.parse("dense m1 n1 k2048 i8 writes_f32")
    weight, data = np.full((1, 2048), 127, np.int8), np.full((1, 1, 1, 2048), 127, np.int8)
    weight[0, 0] = data[..., 0] = 1
    constants = {"weight": weight, "bias": np.array([1]), "scale": np.ones(1), "ends": np.array([0, 0, 0, 0])}
    total = integers._sums(layer, data, constants, 0)
    assert total.item() == 2047 * 127**2 + 2 != float(np.float32(total.item()))


def test_a_mean_has_one_rounding_of_the_sum_of_the_values_inside():
    layer = Layer.parse("pool 5x6x3 mean 3x2 s2 p1,1,1,0 d1,2 i8")
    given = integers.random_operands(layer, np.random.default_rng(0))
    data, constants = given["data"], given["constants"]
    zero, own, low, high = map(int, constants["ends"])
    due = np.empty(layer.output_shape, np.int8)
    for _, h, w, c in np.ndindex(due.shape):
        rows = [y for y in (2 * h - 1, 2 * h, 2 * h + 1) if 0 <= y < 5]
        columns = [x for x in (2 * w - 1, 2 * w + 1) if 0 <= x < 6]
        total = sum(int(data[0, y, x, c]) - zero for y in rows for x in columns)
        exact = total * float(constants["scale"][len(rows) * len(columns) - 1])
        due[0, h, w, c] = np.clip(np.rint(exact) + own, low, high)
    assert np.array_equal(integers.run(layer, **given), due) and len(np.unique(due)) > 20


@pytest.mark.parametrize(
    "name",
    [
        "dense m1 n24 k72 i8 group4 small",
        "dense m1 n1 k16 i8 group4 small hardsigmoid",
        "pointwise m2 n8 k16 i8 group4 small",
        "depthwise 3x3x16 3x3 i8 group3 small",
        "pointwise m49 n32 k16 i8 group4 small",
    ],
)
def test_random_constants_keep_what_small_promises_and_do_not_all_saturate(name):
    """A layer of one position has no deviation: with scales from it every right kernel of it would be called wrong."""
    layer = Layer.parse(name)
    for seed in range(8):
        operands = reference.random_arguments(layer, seed)
        data, constants = operands["data"], operands["constants"]
        sums = integers._sums(layer, data, constants, int(constants["ends"][0]))
        assert np.abs(sums).max() < 2**22 and np.abs(sums * constants["scale"]).max() < 2**15
        assert layer.out_channels == 1 or np.unique(integers.run(layer, data, constants)).size > 2
