"""An int8 network in which some layers stay in float: first `quantize`, then `precision` for layers in a narrow float.

Values between int8 and float layers are float32, and conversions are ordinary layers. Values between two float16 layers
are float16.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet.passes import precision, quantize
from tvm_mobilenet.passes.layer_graph import LayerGraph


@dataclass(frozen=True)
class Kept:
    """A call that stays in float: its name and source, its dtype, and the reason."""

    layer: str
    source: str
    dtype: str
    why: str


def run(graph: LayerGraph, quantization: quantize.Quantization) -> LayerGraph:
    """The quantized graph of a float32 graph, including the layers that the quantization keeps in float."""
    made = quantize.run(graph, quantization)
    for dtype in dict.fromkeys(kept.dtype for kept in quantization.kept):
        narrow = {kept.layer for kept in quantization.kept if kept.dtype == dtype != "float32"}
        if narrow:
            others = tuple(call.name for call in made.calls if call.name not in narrow)
            made = precision.run(made, precision.Precision(dtype, wide=others))
    return made
