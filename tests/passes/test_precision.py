"""Layers in another dtype: what reads and writes which dtype, what is refused, and how large partial sums are."""

import numpy as np
import pytest
import torch
from torch import nn

from tvm_mobilenet import frontend, passes
from tvm_mobilenet.checking import network_steps, reference
from tvm_mobilenet.compiler import calibration
from tvm_mobilenet.compiler.network import Network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.passes import chosen_layers, precision
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, Port, Signature
from tvm_mobilenet.passes.precision import Precision

HALF = Precision("float16")


class Small(nn.Module):
    """A stem, a residual block, a concatenation, which no kind computes, and a classifier; its feature map is an output
    too."""

    def __init__(self, softmax=False, features=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.expand, self.project = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.last, self.softmax, self.features = nn.Linear(16, 10), softmax, features

    def forward(self, x):
        x = self.stem(x).relu()
        y = x + self.project(self.depthwise(self.expand(x).relu()).relu())
        joined = torch.cat([y, torch.tanh(x)], 1)
        z = self.last(joined.mean((2, 3)))
        z = z.softmax(1) if self.softmax else z
        return (z, y) if self.features else z


def graph_of(module: nn.Module, shape=(1, 3, 16, 16)):
    return passes.run(frontend.from_torch(module.eval(), torch.zeros(*shape)))


def names(graph) -> list[str]:
    return [call.layer.name for call in graph.calls]


@pytest.fixture(scope="module")
def small():
    return graph_of(Small())


def test_each_layer_reads_and_writes_what_lies_there(small):
    """The image is float32, so are the scores, whose layer sums in it; a nest that computes stays as it is."""
    made = precision.run(small, HALF)
    assert names(made)[0] == "conv 16x16x3 n8 3x3 s2 p1,1,1,1 nchw f16 reads_f32 writes_f32 relu"
    assert names(made)[-1] == "dense m1 n10 k16 f16 writes_f32 sums_f32"
    held = {call.output: call.layer.output_dtype for call in made.calls} | {"input_0": "float32"}
    generic = []
    for call in made.calls:
        generic += [call.layer] * (call.layer.body is not None)
        assert held[call.inputs[0]] == call.layer.input_dtype, call
        if len(call.inputs) > 1 and call.layer.body is None:
            assert held[call.inputs[1]] == call.layer.second_dtype, call
        if call.layer.body is not None:
            assert tuple(held[value] for value in call.inputs) == call.layer.operand_dtypes
        assert {str(a.dtype) for a in call.constants.values()} <= {call.layer.dtype}
    assert [(one.op, one.output_dtype) for one in generic] == [("tanh", "float32"), ("concat", "float16")]
    assert {p.dtype for p in (*made.signature.inputs, *made.signature.outputs)} == {"float32"}
    assert len({call.name for call in made.calls}) == len({call.output for call in made.calls}) == len(made.calls)


@pytest.mark.parametrize("io", ["float32", "float16"])
@pytest.mark.parametrize("softmax", [False, True])
def test_the_interface_has_the_dtype_that_it_is_asked_for(softmax, io):
    made = precision.run(graph_of(Small(softmax, features=True)), Precision("float16", io))
    ports = (*made.signature.inputs, *made.signature.outputs)
    written = {call.output: call.layer.output_dtype for call in made.calls} | {"input_0": io}
    assert {port.dtype for port in ports} == {io} and all(written[port.value] == io for port in ports)
    if softmax:  # the logits too are float32, and the softmax
        last = next(call for call in made.calls if call.layer.kind == "softmax")
        logits = next(call for call in made.calls if call.output == last.inputs[0])
        assert logits.layer.output_dtype == last.layer.accumulator_dtype == logits.layer.accumulator_dtype == "float32"


@pytest.mark.parametrize("name", ["layer_000", "layer_001", "layer_003"])
def test_a_layer_that_stays_is_computed_and_stored_in_float32(small, name):
    made = precision.run(small, Precision("float16", wide=(name,), values=(name,)))
    kept = next(call for call in made.calls if call.name == name)
    assert kept.layer.dtype == kept.layer.output_dtype == "float32"
    assert all(array.dtype == np.float32 for array in kept.constants.values())
    for call in made.calls:
        if name in call.inputs[:1]:
            assert call.layer.input_dtype == "float32"


def test_what_it_computes_is_near_the_same_in_float32(small):
    inputs = (np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32),)
    (right,) = calibration.outputs(small, inputs)
    for decided in (HALF, Precision("float16", wide=("layer_001",), values=("layer_001",), sums=("layer_003",))):
        network = Network(ModelOptions(dtype="float16"), None, precision.run(small, decided), original=small)
        ((found,),) = network_steps.outputs(network, [inputs])
        assert found.dtype == np.float32 and 0 < np.abs(found - right).max() < 4e-3 * right.std()


def test_float32_has_the_network_that_it_had():
    options = ModelOptions()
    graph = graph_of(Small())
    assert precision.without_images(graph, options) is graph


# ---- weights


def changed(graph, name: str, at, value: float, constant="weight"):
    call = next(call for call in graph.calls if call.name == name)
    array = call.constants[constant].copy()
    array[at] = value
    calls = [c.replace(**{constant: array}) if c is call else c for c in graph.calls]
    return LayerGraph(tuple(calls), graph.signature)


@pytest.mark.parametrize("value, refused", [(65504.0, False), (65519.0, False), (65520.0, True), (-1e6, True)])
@pytest.mark.parametrize("constant", ["weight", "bias"])
def test_a_weight_out_of_range_is_refused_with_its_channel(small, constant, value, refused):
    at = (5, 2) if constant == "weight" else (5,)
    graph = changed(small, "layer_001", at, value, constant)
    if not refused:
        precision.run(graph, HALF)
        return
    with pytest.raises(TvmMobilenetError, match=rf"expand: its folded {constant} of channel 5 is .* range of float16"):
        precision.run(graph, HALF)


def test_channels_whose_weights_vanish_are_told(small):
    graph = changed(changed(small, "layer_001", 5, 1e-9), "layer_001", 7, 2e-8)
    graph = changed(changed(graph, "layer_001", (5,), 1e-12, "bias"), "layer_001", (7,), 1.0, "bias")
    (told,) = precision.lost(graph, precision.run(graph, HALF))
    assert told == "expand: the weights of 1 of 16 channels are too small for float16; of channel 5 it drops 100%"
    assert not precision.lost(small, precision.run(small, HALF))


@pytest.mark.parametrize(
    "wanted, found",
    [
        ("float32", ["layer_000", "layer_001", "layer_002", "layer_003"]),
        ("float32:expand", ["layer_001"]),
        ("float32:layer_003,stem", ["layer_003", "layer_000"]),
        ("float32:exqand", "did you mean expand"),
        ("float32:e", "no layer with weights is called 'e'"),
    ],
)
def test_layers_that_sum_in_float32_are_named(small, wanted, found):
    if isinstance(found, str):
        with pytest.raises(TvmMobilenetError) as error:
            chosen_layers.named(small, wanted)
        assert found in f"{error.value.message} {error.value.hint}"
        return
    named = chosen_layers.named(small, wanted)
    assert list(named[: len(found)]) == found
    made = precision.run(small, Precision("float16", sums=named))
    sums = {call.name for call in made.calls if call.layer.sums}
    assert sums == {*named, next(c.name for c in made.calls if c.layer.kind == "dense")}


# ---- partial sums


@pytest.mark.parametrize(
    "name",
    [
        "pointwise m6 n8 k16 f32 relu6",
        "dense m2 n8 k16 f32",
        "depthwise 5x6x4 3x3 s2 p1,1,1,1 f32",
        "depthwise 9x9x4 3x3 p2,2,2,2 d2 f32",
        "conv 6x6x3 n8 3x3 s2 p0,1,1,0 nchw f32 relu",
        "conv 6x6x8 n4 3x3 p1,1,1,1 g2 f32",
        "conv 6x6x8 n4 1x1 f32 add",
    ],
)
def test_the_largest_partial_sum_is_that_of_the_kernels_order(name):
    """Against plain loops; without the need for it, a bound that is no smaller."""
    layer = Layer.parse(name)
    given = reference.random_arguments(layer, 1)
    inputs = [given["data"]] + ([given["second"]] if "second" in given else [])
    call = LayerCall("a", layer, "", tuple("xy"[: len(inputs)]), {n: given[n] for n in ("weight", "bias")}, "a")
    ports = tuple(Port(n, x.shape, "float32", n) for n, x in zip("xy", inputs, strict=False))
    graph = LayerGraph((call,), Signature(ports, (Port("a", layer.output_shape, "float32", "a"),), False))
    ((exact,), values), ((bound,), _) = (calibration.measure(graph, [tuple(inputs)], limit) for limit in (0.0, 1e9))
    assert exact.exact and not bound.exact and exact.value <= bound.value * (1 + 1e-5)
    assert values["x"] == np.abs(inputs[0]).max()
    beside = [values[name] for name in ("a", *"xy"[: len(inputs)])]
    assert exact.value == pytest.approx(max(by_loops(layer, given), *beside), rel=1e-5)


def by_loops(layer: Layer, given: dict) -> float:
    x = given["data"] if layer.input_layout == "NHWC" else given["data"].transpose(0, 2, 3, 1)
    weight, most = given["weight"].astype(np.float64), 0.0
    if weight.ndim == 2:
        weight = weight[:, :, None, None]
    top, left, bottom, right = layer.padding
    x = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    inner, of_group = weight.shape[1], layer.out_channels // layer.groups
    for h, w, n in np.ndindex(layer.out_height, layer.out_width, layer.out_channels):
        total = float(given["bias"][n])
        most = max(most, abs(total))
        for r, c, k in np.ndindex(*weight.shape[2:], inner):
            row, column = h * layer.stride[0] + r * layer.dilation[0], w * layer.stride[1] + c * layer.dilation[1]
            total += x[0, row, column, n // of_group * inner + k] * weight[n, k, r, c]
            most = max(most, abs(total))
    return most
