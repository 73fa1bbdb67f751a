"""A network that amplifies float32's rounding is verified as far as float64 shows, and a wrong import is found."""

import numpy as np
import pytest
import torch

import tvm_mobilenet as tm
from tests.checking.test_sure_networks import with_layers
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.checking.amplified import ALIKE, DETERMINED, explained
from tvm_mobilenet.checking.network_ends import OutputCheck
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import VerificationError
from tvm_mobilenet.models.options import ModelOptions


def biased(bias: float) -> torch.nn.Module:
    """Biases of the first two layers cancel; values between them have few digits left."""
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Conv2d(16, 8, 1)
    with torch.no_grad():
        first.bias += bias
        second.bias -= second.weight.sum((1, 2, 3)) * bias
    return torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.Conv2d(8, 4, 1)).eval()


def test_large_biases_that_cancel_are_verified_and_a_wrong_import_of_them_is_found(tmp_path):
    """Of the wrong one constants and code agree; only the outputs tell, by more than rounding."""
    torch.onnx.export(biased(2e3), torch.zeros(1, 3, 12, 12), tmp_path / "m.onnx", dynamo=False)
    network = load_network(ModelOptions(model=str(tmp_path / "m.onnx")))
    layers = list(network.layers)
    layers[-1] = layers[-1].replace(weight=layers[-1].weight * 1.05)
    for made, right in ((network, True), (with_layers(network, layers), False)):
        build.build(made.options, targets.load("host"), output=tmp_path / f"{right}", network=made)
        result = verify.verify(tmp_path / f"{right}", network=made, board="local")
        (output,) = result.outputs
        assert result.first_wrong is None and output.ok == bool(output.amplified) == right
        if right:
            assert output.tolerance / 2 <= output.relative <= output.tolerance <= DETERMINED
            assert "amplifies rounding: ONNX Runtime" in result.summary()
    with pytest.raises(VerificationError, match="imported wrongly"):
        result.require()


@pytest.mark.full
def test_where_rounding_is_all_that_shows_the_message_says_so():
    with pytest.raises(VerificationError, match="amplifies the rounding of float32 so much") as e:
        tm.compile(biased(7e4), "host", torch.zeros(1, 3, 12, 12)).verify().require()
    assert "imported wrongly" not in f"{e.value} {e.value.hint}" and "--input" in e.value.hint


@pytest.mark.parametrize(
    "ours, theirs, is_explained",
    [(1, 1, True), (1, 0.9 * ALIKE, True), (0.9 * ALIKE, 1, True), (1, 2 * ALIKE, False), (2 * ALIKE, 1, False)],
)
def test_only_two_computations_as_far_from_float64_explain_a_difference(ours, theirs, is_explained):
    draw = np.random.default_rng(0)
    exact = [draw.standard_normal(100) for _ in range(2)]
    found, expected = ([x + 5e-4 * far * draw.choice((-1, 1), 100) for x in exact] for far in (ours, theirs))
    off = max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))
    output = explained(OutputCheck("y", off, 0, off, 1, 1, 1, 2e-4), found, expected, exact)
    assert output.ok == bool(output.amplified) == is_explained


@pytest.mark.parametrize("ours, is_explained", [((1.5 * ALIKE, 1, 2, 1, 0.3), True), ((1.5 * ALIKE,) * 5, False)])
def test_one_input_may_be_far_from_float64_by_chance(ours, is_explained):
    draw = np.random.default_rng(0)
    exact = [draw.standard_normal(100) for _ in ours]
    expected = [x + 5e-4 * draw.choice((-1, 1), 100) for x in exact]
    found = [x + 5e-4 * far * draw.choice((-1, 1), 100) for x, far in zip(exact, ours, strict=True)]
    off = max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))
    output = explained(OutputCheck("y", off, 0, off, 1, 1, 1, 2e-4), found, expected, exact)
    assert output.ok == bool(output.amplified) == is_explained
