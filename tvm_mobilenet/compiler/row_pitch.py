"""The row pitch of a tensor, chosen such that the same channels of neighbouring positions do not share sets of the L1.

If the channels of a position fill a multiple of 16 cache lines (256 channels of float32), positions are a power of two
apart. Then a block of k of a product's rows, or the window of a depthwise layer, falls into a few sets and evicts
itself. Such tensors have a row pitch of 17/16 of their channels (`pitch_of`), if all layers that write and read them
take a pitch. The network's inputs and outputs stay dense.
"""

from __future__ import annotations

from dataclasses import replace

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerGraph

ROUND = 16  # lines, for every core: `pitch_of` lists the L1s


def pitch_of(channels: int, line: int, dtype: str) -> int:
    """The pitch for this number of channels, with cache lines of ``line`` bytes; 0 if the tensor stays dense.

    A way of the L1 has 128 lines on the Cortex-A53, 256 on A72 and A76, 64 on most x86. With a multiple of 16 lines,
    every 4th to 16th position falls into the same sets. With a pitch of 17/16, that position lies a sixteenth of a way
    further on: 8 lines on the A53, 16 on A72 and A76. So blocks of 8 lines do not share sets.
    """
    return channels + channels // ROUND if channels * dtypes.of(dtype).bytes % (ROUND * line) == 0 else 0


def run(graph: LayerGraph, core) -> LayerGraph:
    """The graph, with every intermediate at the pitch of its channels on this core."""
    calls, line = graph.calls, core.l1d.line
    by_output = {call.output: call for call in calls}
    outside = {port.value for port in graph.signature.outputs}
    spaced = {v for v, call in by_output.items() if not call.into and v not in outside and _can_write(call.layer, line)}
    alike: list[tuple[str, str]] = []  # values with the same layout in memory
    for call in calls:
        data, *second = call.inputs
        if data in spaced and not _can_read(call.layer, by_output[data].layer):
            spaced.discard(data)
        if not call.layer.declared.pitched:
            spaced.difference_update(call.inputs)
        elif call.layer.input_part or call.layer.output_part:
            spaced.difference_update(second)  # the second operand stays dense
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
    """Whether a layer's output may have a pitch: a feature map of more than one position, with so many channels."""
    if not layer.declared.pitched or layer.output_layout != "NHWC":
        return False
    _, height, width, channels = layer.output_shape
    return height * width > 1 and pitch_of(channels, line, layer.output_dtype) > 0


def _can_read(layer: Layer, writer: Layer) -> bool:
    """Whether a layer reads another's output position by position."""
    return layer.declared.pitched and layer.input_layout == "NHWC" and layer.channels == writer.out_channels
