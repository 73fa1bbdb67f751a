"""Factors of channels: a network in float32 computes what it did, and in int8 more of what it should."""

from dataclasses import replace

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
    """Whatever values share factors, as long as no ReLU6 clamps: a wrong set of them changes the outputs by far more
    than rounding."""
    network = load_network(ModelOptions(model=name, alpha=0.35, resolution=32, classes=10))
    groups, draw = equalize.groups(network.graph), np.random.default_rng(0)
    assert len(groups) >= least
    factors = {}
    for group in groups:
        factors |= dict.fromkeys(group.values, draw.uniform(0.25, 4, group.channels))
    open_ = [
        replace(c, layer=c.layer.replace(activation="relu")) if c.layer.activation == "relu6" else c
        for c in network.graph.calls
    ]
    graph, inputs = replace(network.graph, calls=tuple(open_)), network.inputs(1)[0]
    (before,) = calibration.outputs(graph, inputs)
    (after,) = calibration.outputs(equalize.run(graph, factors), inputs)
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


def clamped_graph() -> LayerGraph:
    """Pointwise into depthwise into pointwise, with ReLU6; output channels of the first follow its input channels."""
    names = ("pointwise m64 n16 k16 f32 relu6", "depthwise 8x8x16 3x3 p1,1,1,1 f32 relu6", "pointwise m64 n8 k16 f32")
    calls, value = [], "x"
    for i, layer in enumerate(map(Layer.parse, names)):
        operands = reference.random_arguments(layer)
        weight = 4 * np.eye(16) + 0.01 * operands["weight"] if i == 0 else operands["weight"]
        call = LayerCall(f"c{i}", layer, f"c{i}", (value,), {}, f"y{i}")
        calls, value = [*calls, call.replace(weight=weight, bias=operands["bias"] * 0)], f"y{i}"
    ports = Port("x", (1, 8, 8, 16), "float32", "x"), Port("y", (1, 8, 8, 8), "float32", value)
    return LayerGraph(tuple(calls), Signature(ports[:1], ports[1:], False))


def images_of(profiles) -> list:
    """An image a profile, whose channels have these sizes."""
    draw = np.random.default_rng(0)
    return [
        (np.abs(draw.standard_normal((1, 8, 8, 16))).astype(np.float32) * np.asarray(p, np.float32),) for p in profiles
    ]


def test_factors_are_those_of_channels_that_stay_small():
    """They are made from a half of the images and judged on the other: EfficientNet-Lite0 has channels that are small
    on one photograph and large on another, and factors would have a ReLU6 clamp these."""
    graph, sizes = clamped_graph(), np.geomspace(0.02, 1, 16)
    steady = equalization.found(graph, images_of([sizes] * 8), 8)
    assert steady["y0"][0] > 2 > steady["y0"][-1] == 1
    for image in images_of([sizes] * 3):
        (due,) = calibration.outputs(graph, image)
        (own,) = calibration.outputs(equalize.run(graph, steady), image)
        assert np.abs(own - due).max() < 1e-3 * due.std()
    changing = equalization.found(graph, images_of([sizes, sizes[::-1]] * 4), 8)
    assert "y0" not in changing


def test_factors_extend_no_range():
    """Values that share factors may have their largest channels in different places, and so may the two sides of
    zero: full factors leave each range as it is, also that of sums before a residual."""
    group = equalize.Group(("a", "b"), 4, ("reader",))
    ends = {
        ("a", "output"): np.array([[-8.0, -1, 0, 0], [1.0, 2, 0.5, 0]]),
        ("b", "output"): np.array([[0.0, 0, 0, 0], [1.0, 30, 3, 0]]),
        ("b", "sums"): np.array([[0.0, 0, -1, 0], [0.0, 0, 0, 0]]),
    }
    factors = equalization.factors_of(group, ends, 1.0)
    assert (factors == [1, 1, 1, 1]).all()  # each has the end of a range, but the last, which was zero
    ends["b", "sums"] /= 2
    ends["b", "sums"][0, 1] = -1
    factors = equalization.factors_of(group, ends, 1.0)
    assert (factors == [1, 1, 2, 1]).all()
    for low, high in ends.values():
        assert (low * factors).min() == low.min() and (high * factors).max() == high.max()
