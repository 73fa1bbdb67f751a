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


@pytest.mark.parametrize("name, least", [("v2", 30), pytest.param("v3-small", 3, marks=pytest.mark.full)])
def test_the_network_computes_what_it_did(name, least):
    """Whatever values share factors: a wrong set of them changes the outputs by far more than rounding."""
    network = load_network(ModelOptions(model=name, alpha=0.35, resolution=32, classes=10))
    groups, draw = equalize.groups(network.graph), np.random.default_rng(0)
    free = [group for group in groups if not group.clamped]
    assert len(groups) >= least and free
    factors = {}
    for group in free:
        factors |= dict.fromkeys(group.values, draw.uniform(0.25, 4, group.channels))
    inputs = network.inputs(1)[0]
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
