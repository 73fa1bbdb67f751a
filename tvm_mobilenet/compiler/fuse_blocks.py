"""Layers to fused blocks: which layers run as one kernel, row by row, so that what lies between them stays in cache.

A tensor between two layers costs a write and a read of DRAM when the L2 does not hold it. A fused block spares that,
but it reads its pointwise weights again for every block of positions, and its line buffers more than once. Among all
ways to cut a network into fused blocks the one is taken that moves its lines for the fewest cycles, counted from shapes
and caches:

- a tensor at a cut: written and read, from DRAM if it takes more than half of the L2 (`targets.memory.Lines`),
  else from the L2;
- a pointwise layer by itself: its data once for each ``panel_bytes`` of a row of its output (`targets.limits`);
  in a fused block: its weights once for each block of positions that takes half an L1;
- a line buffer: written once, read about as often as the window has rows;
- rows at the seams of a fused block's row tiles, columns at those of its column tiles: computed twice;
- tasks of unequal sizes: cores that wait for the one with the largest.

The L2 holds what the row tiles that run at once read again (``schedules.row_tiles.tasks``), and pointwise weights take
at most half of it. No fused block has more parts than ``MOST_PARTS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.schedules import implemented
from tvm_mobilenet.schedules.row_tiles import columns_of, load_balance, stages, tasks, weight_bytes
from tvm_mobilenet.targets import memory

MOST_PARTS = 5  # TVM takes 3 s to lower a kernel of five parts, 27 s for seven, six minutes for nine


def run(graph: LayerGraph, core) -> LayerGraph:
    """The graph with fused blocks in place of the layers that they take in.

    Parameters
    ----------
    graph : LayerGraph
    core : targets.Core
        Its L2 and CPUs decide.
    """
    calls, count = graph.calls, graph.readers()
    # From the end: the cheapest way to cut what follows call i, and where its first fused block ends.
    best: list[tuple[float, int]] = [(0.0, 0)] * (len(calls) + 1)
    for i in reversed(range(len(calls))):
        end, options = i, []
        while end == i or (end < len(calls) and _follows(calls[end - 1], calls[end], count, first=end - 1 == i)):
            end += 1
            parts = [c.layer for c in calls[i:end]]
            cycles = _layer_cycles(parts[0], core) if len(parts) == 1 else _fused_block_cycles(parts, core)
            if cycles is not None:
                options.append((cycles + best[end][0], end))
        best[i] = min(options)
    fused: list[LayerCall] = []
    i = 0
    while i < len(calls):
        end = best[i][1]
        fused.append(calls[i] if end == i + 1 else join(calls[i:end]))
        i = end
    return replace(graph, calls=tuple(fused))


def _layer_cycles(layer: Layer, core) -> float:
    """Cycles that lines take to move in a layer by itself, and for its output."""
    lines = int(np.prod(layer.input_shape)) * layer.bytes / core.l1d.line
    row = layer.out_channels * dtypes.of(layer.output_dtype).bytes
    panels = -(-row // core.limits.panel_bytes) if layer.declared.with_rows else 0
    return _output_cycles(layer, core) + lines * panels * memory.lines(core).l2


def _output_cycles(layer: Layer, core) -> float:
    """Cycles to write a tensor and to read it."""
    out = _output_bytes(layer)
    line = memory.lines(core)
    return 2 * out / core.l1d.line * (line.dram if out > core.l2.bytes // 2 else line.l2)


def _output_bytes(layer: Layer) -> int:
    return int(np.prod(layer.output_shape)) * dtypes.of(layer.output_dtype).bytes


def _fused_block_cycles(parts: list[Layer], core) -> float | None:
    """Cycles that lines take to move in a fused block, and for its output; None where what it reads again does not fit,
    or
    its last part does not write what has to be written anyway."""
    if len(parts) > MOST_PARTS or parts[-1].declared.windowed or all(part.declared.pixels for part in parts):
        return None
    layer, line = Layer.fused_block(tuple(parts)), core.l1d.line
    if weight_bytes(parts) > core.l2.bytes // 2 or (cut := tasks(layer, core)) is None:
        return None
    row_tiles, column_tiles = cut
    columns = list(zip(*columns_of(layer, column_tiles), strict=True))  # of each part, in each column tile
    cycles = _output_cycles(parts[-1], core)
    for stage, widths, after in zip(stages(layer), columns, [*parts[1:], None], strict=True):
        part = stage.part
        if part.declared.pixels:
            blocks = sum(-(-len(width) * part.channels * part.bytes // (core.l1d.bytes // 2)) for width in widths)
            cycles += weight_bytes([part]) / line * stage.out_height * blocks * memory.lines(core).l2
        if after is not None and after.declared.windowed:
            cycles += _output_bytes(part) / line * (1 + after.kernel[0] / after.stride[0]) * memory.lines(core).l2
    mult_adds = _repeated_mult_adds(layer, row_tiles, [sum(map(len, widths)) for widths in columns])
    mult_adds += (load_balance(layer, row_tiles, column_tiles, core.cpus) - 1) * layer.mult_adds
    return cycles + mult_adds / core.macs_per_cycle(layer.dtype)


def _repeated_mult_adds(layer: Layer, row_tiles: int, widths: list[int]) -> float:
    """What row tiles and column tiles compute a second time, since a window at their side reaches into the next;
    ``widths`` are
    the columns that each part computes in all column tiles."""
    rows, repeated = 0, 0.0
    for stage, width in zip(reversed(stages(layer)), reversed(widths), strict=True):
        repeated += (row_tiles - 1) * rows * stage.part.mult_adds / stage.out_height
        repeated += (width / stage.out_width - 1) * stage.part.mult_adds
        if stage.part.declared.windowed and stage.part.declared.keeps_channels:
            rows = rows * stage.part.stride[0] + max(0, stage.part.kernel[0] - stage.part.stride[0])
    return repeated


def _follows(last: LayerCall, call: LayerCall, count, first: bool) -> bool:
    """Whether a layer may stream from the one before it."""
    layer = call.layer
    if layer.declared.streams != "anywhere" or not _streams(last.layer, first):
        return False
    if call.inputs[0] != last.output or count[last.output] != 1 or last.layer.residual != "none":
        return False
    if {last.layer.dtype, last.layer.output_dtype, layer.input_dtype} != {layer.dtype}:  # a line buffer is of one
        return False
    return (
        layer.batch == 1 and layer.input_layout == layer.output_layout == "NHWC" and layer.dtype in implemented("fused")
    )


def _streams(layer: Layer, first: bool) -> bool:
    """Whether a fused block can go on after this layer."""
    if layer.batch != 1 or layer.output_layout != "NHWC":
        return False
    streams = layer.declared.streams
    return streams == "anywhere" or (streams == "first" and first and layer.groups == 1)


def join(fused_block: Sequence[LayerCall]) -> LayerCall:
    """Calls, each of which reads only what the one before it writes, as one call of a fused block."""
    last = fused_block[-1]
    return LayerCall(
        fused_block[0].name,
        Layer.fused_block(tuple(c.layer for c in fused_block)),
        f"{fused_block[0].source} … {last.source}",
        (fused_block[0].inputs[0], *last.inputs[1:]),
        {f"{i}.{name}": array for i, c in enumerate(fused_block) for name, array in c.constants.items()},
        last.output,
        tuple(fused_block),
    )
