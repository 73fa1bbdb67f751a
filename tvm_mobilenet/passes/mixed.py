"""A network of int8 of which some layers stay in float: first `quantize`, then `precision` for those in a narrow float.

Values between int8 and float are float32, by conversions that are layers like any other; between two layers of float16
they are float16.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet.passes import precision, quantize
from tvm_mobilenet.passes.layer_graph import LayerGraph


@dataclass(frozen=True)
class Kept:
    """A call that stays in float: its name and source, in which dtype, and why."""

    layer: str
    source: str
    dtype: str
    why: str


def run(graph: LayerGraph, quantization: quantize.Quantization) -> LayerGraph:
    """A graph in float32 as a quantization says it, the layers that it keeps in float included."""
    made = quantize.run(graph, quantization)
    for dtype in dict.fromkeys(kept.dtype for kept in quantization.kept):
        narrow = {kept.layer for kept in quantization.kept if kept.dtype == dtype != "float32"}
        if narrow:
            others = tuple(call.name for call in made.calls if call.name not in narrow)
            made = precision.run(made, precision.Precision(dtype, wide=others))
    return made
