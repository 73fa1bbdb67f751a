"""How far apart the positions of a tensor lie, so that the same channels of neighbours do not share sets of the L1.

With 16 lines of channels or a multiple of them (256 of float32), positions are a power of two apart: a block of k of
the rows that a product reads, or the window of a depthwise layer, falls into a few sets and evicts itself. Such tensors
get a sixteenth more (`pitch_of`), wherever all layers that write and read them take a pitch. The caller's own inputs
and outputs stay dense.
"""

from __future__ import annotations

from dataclasses import replace

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerGraph

ROUND = 16  # lines; of no core: see `pitch_of` for the L1s that it serves


def pitch_of(channels: int, line: int, dtype: str) -> int:
    """The pitch for this number of channels and lines of ``line`` bytes; 0: they need none.

    A way of the L1 has 128 lines on the Cortex-A53, 256 on A72 and A76, 64 on most x86. A multiple of 16 lines comes
    back to its own sets after 4 to 16 positions; with a sixteenth more the next round begins as many lines further on,
    beside the blocks of 8 lines that the first one read.
    """
    return channels + channels // ROUND if channels * dtypes.of(dtype).bytes % (ROUND * line) == 0 else 0


def run(graph: LayerGraph, core) -> LayerGraph:
    """The graph with each tensor between its layers at the pitch of its channels on this core."""
    calls, line = graph.calls, core.l1d.line
    by_output = {call.output: call for call in calls}
    outside = {port.value for port in graph.signature.outputs}
    spaced = {v for v, call in by_output.items() if not call.into and v not in outside and _can_write(call.layer, line)}
    alike: list[tuple[str, str]] = []  # values that lie alike in memory
    for call in calls:
        data, *second = call.inputs
        if data in spaced and not _can_read(call.layer, by_output[data].layer):
            spaced.discard(data)
        if not call.layer.declared.pitched:
            spaced.difference_update(call.inputs)
        elif call.layer.input_part or call.layer.output_part:
            spaced.difference_update(second)  # it lies dense
            spaced.difference_update([data] if call.layer.input_part else [])
        elif second and call.layer.op == "scale":
            spaced.discard(second[0])
        elif second:
            alike.append((second[0], data if call.layer.residual == "none" else call.output))
    while odd := {value for pair in alike for value in pair if value in spaced and not spaced.issuperset(pair)}:
        spaced -= odd

    def pitch(value: str, channels: int, dtype: str) -> int:
        return pitch_of(channels, line, dtype) if value in spaced else 0

    pitches = (
        (
            call.layer.input_pitch or pitch(call.inputs[0], call.layer.channels, call.layer.input_dtype),
            call.layer.output_pitch or pitch(call.output, call.layer.out_channels, call.layer.output_dtype),
        )
        for call in calls
    )
    pitched = (c.replace(layer=c.layer.with_pitches(*both)) for c, both in zip(calls, pitches, strict=True))
    return replace(graph, calls=tuple(pitched))


def _can_write(layer: Layer, line: int) -> bool:
    """Whether a layer's output may have a pitch: a feature map of more than one position, of that many channels."""
    if not layer.declared.pitched or layer.output_layout != "NHWC":
        return False
    _, height, width, channels = layer.output_shape
    return height * width > 1 and pitch_of(channels, line, layer.output_dtype) > 0


def _can_read(layer: Layer, writer: Layer) -> bool:
    """Whether a layer reads another's output position by position."""
    return layer.declared.pitched and layer.input_layout == "NHWC" and layer.channels == writer.out_channels
