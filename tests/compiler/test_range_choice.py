"""Ranges of int8: what follows a value decides how wide its range is."""

import numpy as np
import pytest

from tvm_mobilenet.checking import reference
from tvm_mobilenet.compiler import equalization, quantization, range_choice, ranges
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, Port, Signature

SPIKE = 40.0  # of values whose deviation is about one


@pytest.fixture(autouse=True)
def ranges_alone(monkeypatch):
    """No factors of channels, which would make the others as large as a spike's."""
    monkeypatch.setattr(equalization, "POWERS", (0.0,))


def graph_of(last: str) -> LayerGraph:
    """A pointwise layer that copies its data, and one that reads it."""
    names = ("pointwise m64 n16 k16 f32", f"pointwise m64 n16 k16 f32{last}")
    calls, value = [], "x"
    for i, name in enumerate(names):
        layer = Layer.parse(name)
        operands = reference.random_arguments(layer)
        turned = np.linalg.qr(operands["weight"].reshape(16, 16))[0]
        weight = np.eye(16) if i == 0 else turned
        call = LayerCall(f"c{i}", layer, f"c{i}", (value,), {}, f"y{i}")
        calls.append(call.replace(weight=weight, bias=operands["bias"] * (i / 10)))
        value = f"y{i}"
    ports = Port("x", (1, 8, 8, 16), "float32", "x"), Port("y", (1, 8, 8, 16), "float32", value)
    return LayerGraph(tuple(calls), Signature(ports[:1], ports[1:], False))


def images(graph: LayerGraph, count: int = 4) -> list[tuple[np.ndarray]]:
    """Noise, with a spike at one position of each, which what reads it takes far above six, or below zero."""
    draw, sides = np.random.default_rng(0), np.where(np.arange(16) % 2, 1.0, -1.0)
    direction = graph.calls[1].weight.reshape(16, 16).T @ sides
    found = []
    for i in range(count):
        image = draw.standard_normal((1, 8, 8, 16)).astype(np.float32)
        image[0, i, i] = direction * SPIKE / np.abs(direction).max()
        found.append((image,))
    return found


@pytest.mark.parametrize("method", ["auto", "mse", "percentile"])
def test_what_the_next_activation_clamps_may_be_clipped(method):
    """Spikes that a ReLU6 behind the next layer clamps cost the other values no steps."""
    graph = graph_of(" relu6")
    inputs = images(graph)
    found, whole = (quantization.scales_of(graph, inputs, method=way) for way in (method, "minmax"))
    assert found.scales["y0"].step < 0.75 * whole.scales["y0"].step
    assert found.layers["c1"].signal_to_noise > whole.layers["c1"].signal_to_noise + 2
    assert found.layers["c0"].clipped > 0 == whole.layers["c0"].clipped


def test_what_reaches_the_outputs_is_not_clipped():
    """The same values, read by a layer without activation: its sums count, and spikes are most of them."""
    graph = graph_of("")
    found = quantization.scales_of(graph, images(graph))
    assert found.layers["c0"].clipped == 0 and found.layers["c0"].range == "minmax"


def test_one_image_unlike_the_others_does_not_decide_alone():
    """Of four images three show values that a range of a tenth holds; the fourth has more power than all of them."""
    graph = graph_of(" relu6")
    inputs = images(graph)
    inputs[0] = (inputs[0][0] * 4,)
    same = quantization.scales_of(graph, inputs).scales["y0"].step
    assert same < 0.7 * quantization.scales_of(graph, inputs, method="minmax").scales["y0"].step


def test_a_value_and_what_its_layer_has_inside_have_ranges_of_their_own():
    """A layer with an addition: what it adds to is a hundred times its own sums."""
    layer = Layer.parse("pointwise m64 n16 k16 f32 add_after")
    operands = reference.random_arguments(layer)
    call = LayerCall("y", layer, "y", ("x", "z"), {}, "y").replace(weight=operands["weight"], bias=operands["bias"])
    ports = [Port(n, (1, 8, 8, 16), "float32", n) for n in "xzy"]
    graph = LayerGraph((call,), Signature(tuple(ports[:2]), (ports[2],), False))
    draw = np.random.default_rng(0)
    inputs = [tuple((draw.standard_normal((1, 8, 8, 16)) * s).astype(np.float32) for s in (1, 100)) for _ in range(4)]
    seen, inner, _ = quantization._seen(graph, inputs)
    methods = dict.fromkeys((*seen, *inner), ranges.METHODS)
    found, inside = range_choice.chosen(graph, inputs, seen, inner, methods)
    assert found["y"].scale.step > 20 * inside["y"].scale.step
    assert {"x", "y", "z"} == set(found)


def test_choices_are_tried_on_all_photographs_that_take_turns():
    for count in (2, 5, 8, 31, 32, 64):
        taken = quantization.spread(range(count), 8)
        assert len(set(taken)) == len(taken) == min(8, count) and {i % 2 for i in taken} == {0, 1}
        assert (taken[0], taken[-1]) == (0, count - 1)
    assert quantization.spread([5], 8) == [5]
