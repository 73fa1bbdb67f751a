"""A layer of int8 computes what it computed in float32, but for the rounding: whatever is fused into it.

That kernels equal their integer definition says nothing of scales, clamps and tables; this does.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from tvm_mobilenet.checking import network_steps, reference
from tvm_mobilenet.compiler import calibration, quantization
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes import quantize
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, Port, Signature

LEAST = 28.0  # dB that float32 stands above what quantizing adds; a wrong scale, clamp or table leaves 20 at most
INTEGERS = (
    "conv 12x12x3 n16 3x3 s2 p1,1,1,1 nchw f32 relu6",
    "conv 6x6x8 n16 3x3 p1,1,1,1 f32 hardswish",
    "depthwise 9x9x16 3x3 p1,1,1,1 f32 relu",
    "pointwise m30 n16 k24 f32",
    "pointwise m30 n16 k24 f32 hardswish",
    "pointwise m30 n16 k24 f32 sigmoid",
    "pointwise m30 n16 k24 f32 add",
    "pointwise m30 n16 k24 f32 add relu",
    "pointwise m30 n16 k24 f32 relu6 add_after",
    "pointwise m30 n16 k24 f32 prelu",
    "depthwise 9x9x16 3x3 p1,1,1,1 f32 prelu",
    "pointwise m30 n16 k24 f32 leaky0.1",
    "pointwise m30 n16 k24 f32 clip-1,0.5",
    "pointwise m30 n16 k24 f32 add clip-1,1",
    "pointwise m30 n16 k24 f32 hardswish0.2,0.4",
    "dense m3 n30 k24 f32",
    "pool 7x7x24 avg 7x7 f32",
    "pool 8x8x16 avg 2x2 s2 f32 relu",
    "pool 8x7x16 mean 3x3 s2 p1,1,1,1 f32",
    "pool 8x8x16 max 3x3 s2 f32",
    "elementwise 5x5x16 none f32 relu",
    "elementwise 5x5x16 none f32 relu6",
    "elementwise 5x5x16 none f32 clip-1,1",
    "elementwise 5x5x16 none f32 leaky-0.2",
    "elementwise 5x5x16 none f32 hardswish",
    "elementwise 5x5x16 none f32 prelu",
    "elementwise 5x5x16 none f32 hardsigmoid",
    "elementwise 5x5x16 add f32",
    "elementwise 5x5x16 add f32 relu6",
    "elementwise 5x5x16 sub f32",
    "elementwise 5x5x16 mul f32",
    "elementwise 5x5x16 mul f32 relu",
    "elementwise 5x5x16 scale f32",
)
FLOATING = (  # no integer form: between conversions
    "pointwise m30 n16 k24 f32 add hardswish",
    "pointwise m30 n16 k24 f32 hardswish add_after",
    "pointwise m30 n16 k24 f32 add prelu",
    "pool 8x8x16 avg 2x2 s2 f32 hardswish",
    "pool 8x8x16 max 3x3 s2 f32 relu",
    "elementwise 5x5x16 add f32 hardswish",
    "elementwise 5x5x16 mul f32 sigmoid",
    "softmax 1x1x40 f32",
)


def graph_of(layer: Layer) -> tuple[LayerGraph, tuple[np.ndarray, ...]]:
    """A network of the one layer, and its inputs; what it reads is made by others, so that it has scales of its own."""
    operands = reference.random_arguments(layer)
    inputs = [operands["data"] * 2 + 0.3, *([operands["second"]] if "second" in operands else [])]
    ports = tuple(Port(f"x{i}", x.shape, "float32", f"x{i}") for i, x in enumerate(inputs))
    constants = reference.constants_of(layer, operands)
    call = LayerCall("y", layer, "y", tuple(p.value for p in ports), {}, "y").replace(**constants)
    output = Port("y", layer.output_shape, "float32", "y")
    return LayerGraph((call,), Signature(ports, (output,), False)), tuple(x.astype(np.float32) for x in inputs)


@pytest.mark.parametrize("name", [*INTEGERS, *FLOATING])
def test_a_layer_of_int8_is_near_its_layer_of_float32(name):
    layer = Layer.parse(name)
    assert layer.name == name and quantize.integral(layer) == (name in INTEGERS)
    graph, inputs = graph_of(layer)
    (exact,) = calibration.outputs(graph, inputs)
    made = quantize.run(graph, quantization.scales_of(graph, [inputs]))
    network = SimpleNamespace(graph=made, layers=made.calls, signature=made.signature)
    ((found,),) = network_steps.outputs(network, [inputs])
    assert found.shape == exact.shape and found.dtype == np.float32
    ratio = 10 * np.log10((exact.astype(np.float64) ** 2).sum() / ((found - exact).astype(np.float64) ** 2).sum())
    assert ratio > LEAST
