"""Factors of channels: a network in float32 computes what it did, and in int8 more of what it should."""

import numpy as np
import pytest

from tvm_mobilenet.checking import reference
from tvm_mobilenet.compiler import calibration, equalization, quantization
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.passes import equalize
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, Port, Signature


@pytest.mark.parametrize("name, least", [("v2", 7), pytest.param("v3-small", 3, marks=pytest.mark.full)])
def test_the_network_computes_what_it_did(name, least):
    """Whatever values share factors: a wrong set of them changes the outputs by far more than rounding."""
    network = load_network(ModelOptions(model=name, alpha=0.35, resolution=32, classes=10))
    groups, draw = equalize.groups(network.graph), np.random.default_rng(0)
    assert len(groups) >= least
    factors = {}
    for group in groups:
        factors |= dict.fromkeys(group.values, draw.uniform(0.25, 4, group.channels))
    inputs = tuple(30 * x for x in network.inputs(1)[0])  # so large that each ReLU6 clamps
    (before,) = calibration.outputs(network.graph, inputs)
    (after,) = calibration.outputs(equalize.run(network.graph, factors), inputs)
    assert np.abs(before - after).max() < 1e-3 * before.std()


def test_channels_of_uneven_size_are_made_even(monkeypatch):
    """Pointwise into depthwise into pointwise, the channels between a hundred times apart."""
    draw = np.random.default_rng(0)
    layers = [
        Layer.parse("pointwise m64 n16 k8 f32 relu"),
        Layer.parse("depthwise 8x8x16 3x3 p1,1,1,1 f32 relu"),
        Layer.parse("pointwise m64 n8 k16 f32"),
    ]
    calls, value = [], "x"
    sizes = np.geomspace(0.01, 1, 16)
    for i, layer in enumerate(layers):
        operands = reference.random_arguments(layer)
        weight, bias = operands["weight"], operands["bias"] * 0
        if i == 0:
            weight = weight * sizes[:, None]
        if i == 2:
            weight = weight / sizes[None]
        call = LayerCall(f"c{i}", layer, f"c{i}", (value,), {}, f"y{i}").replace(weight=weight, bias=bias)
        calls, value = [*calls, call], f"y{i}"
    ports = Port("x", (1, 8, 8, 8), "float32", "x"), Port("y", (1, 8, 8, 8), "float32", value)
    graph = LayerGraph(tuple(calls), Signature(ports[:1], ports[1:], False))
    inputs = [(draw.standard_normal((1, 8, 8, 8)).astype(np.float32),) for _ in range(4)]
    found = quantization.scales_of(graph, inputs, method="minmax")
    assert set(found.factors) == {"y0", "y1"} and found.factors["y0"][0] > found.factors["y0"][-1]
    monkeypatch.setattr(equalization, "POWERS", (0.0,))
    plain = quantization.scales_of(graph, inputs, method="minmax")
    assert not plain.factors
    assert found.layers["c2"].signal_to_noise > plain.layers["c2"].signal_to_noise + 3


def test_channels_that_calibration_hardly_saw_keep_their_size():
    """Small on the images of calibration and large on others: factors from the first would have a ReLU6 clamp them.
    Such factors cost EfficientNet-Lite0, calibrated on two photographs, more of its scores than all rounding."""
    draw = np.random.default_rng(0)
    names = ("pointwise m64 n16 k16 f32 relu6", "depthwise 8x8x16 3x3 p1,1,1,1 f32 relu6", "pointwise m64 n8 k16 f32")
    calls, value = [], "x"
    for i, layer in enumerate(map(Layer.parse, names)):
        operands = reference.random_arguments(layer)
        weight = np.abs(operands["weight"]) + (4 * np.eye(16) if i == 0 else 0)
        call = LayerCall(f"c{i}", layer, f"c{i}", (value,), {}, f"y{i}")
        calls, value = [*calls, call.replace(weight=weight, bias=operands["bias"] * 0)], f"y{i}"
    ports = Port("x", (1, 8, 8, 16), "float32", "x"), Port("y", (1, 8, 8, 8), "float32", value)
    graph = LayerGraph(tuple(calls), Signature(ports[:1], ports[1:], False))
    images = np.abs(draw.standard_normal((4, 1, 8, 8, 16))).astype(np.float32) * np.geomspace(0.01, 1, 16, dtype="f4")
    found = quantization.scales_of(graph, [(image,) for image in images], method="minmax")
    for image in images[..., ::-1]:
        (due,) = calibration.outputs(graph, (image,))
        (own,) = calibration.outputs(equalize.run(graph, found.factors), (image,))
        assert np.abs(own - due).max() < 1e-3 * due.std()
