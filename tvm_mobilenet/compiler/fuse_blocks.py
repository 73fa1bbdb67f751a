"""The cut of a network into fused blocks: layers that run as one kernel, row by row, so that tensors between them stay
in cache.

A tensor between two layers costs a write and a read of DRAM when the L2 does not hold it. A fused block avoids both,
but it reads its pointwise weights again for every block of positions, and its line buffers more than once. Among all
ways to cut a network into fused blocks, this pass takes the one whose cache lines move in the fewest cycles. The cycles
are counted from shapes and caches:

- a tensor at a cut: written and read, from DRAM if it takes more than half of the L2 (`targets.memory.Lines`),
  else from the L2;
- a pointwise layer by itself: its data is read once for each ``panel_bytes`` of a row of its output (`targets.limits`);
  in a fused block: its weights are read once for each block of positions that takes half an L1;
- a line buffer: written once, read about as often as the window has rows, and once more if it is a later part's
  residual;
- rows at the borders of a fused block's row tiles, and columns at those of its column tiles: computed twice;
- a depthwise layer and the concatenation of its data with its output: apart, the tensor is written by two layers, its
  data is read once more, and lines at the border of the two are written by both (`compiler.ghosts`);
- tasks of unequal sizes: cores wait for the one with the largest;
- for integer layers also the compute cycles of each form (`schedules.defaults.integer_cycles`), which hide memory
  cycles if a core overlaps the two.

The L2 has to hold all data that concurrent row tiles read again (``schedules.row_tiles.tasks``), and pointwise weights
may take at most half of it. No fused block has more parts than ``MOST_PARTS``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.compiler import ghosts, views
from tvm_mobilenet.kinds.windows import centred
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.schedules import implemented
from tvm_mobilenet.schedules.defaults import integer_cycles
from tvm_mobilenet.schedules.row_tiles import (
    added_part,
    columns_of,
    filters,
    images,
    line_buffer_bytes,
    load_balance,
    repeated_mult_adds,
    repeated_rows,
    stages,
    tasks,
    weight_bytes,
    window,
)
from tvm_mobilenet.targets import memory

MOST_PARTS = 5  # TVM takes 3 s to lower a kernel of five parts, 27 s for seven, six minutes for nine


def run(graph: LayerGraph, core) -> LayerGraph:
    """The graph with fused blocks in place of the layers that they join.

    Parameters
    ----------
    graph : LayerGraph
    core : targets.Core
        The core, whose L2 and CPUs decide.
    """
    calls, count, tensors = graph.calls, graph.readers(), _tensors(graph.calls, core)
    # From the end: the cheapest cut of the calls from i on, and the end of its first fused block.
    best: list[tuple[float, int]] = [(0.0, 0)] * (len(calls) + 1)
    blocks: list[tuple[LayerCall, ...]] = [()] * len(calls)
    for i in reversed(range(len(calls))):
        best[i] = _layer_cycles(calls[i], tensors, core) + best[i + 1][0], i + 1
        for parts, end in _blocks(calls, i, count):
            cycles = _fused_block_cycles([part.layer for part in parts], tensors[parts[-1].output], core)
            if cycles is not None and (option := (cycles + best[end][0], end)) < best[i]:
                best[i], blocks[i] = option, parts
    fused: list[LayerCall] = []
    i = 0
    while i < len(calls):
        fused.append(join(blocks[i]) if blocks[i] else calls[i])
        i = best[i][1]
    return replace(graph, calls=tuple(fused))


def _blocks(
    calls: Sequence[LayerCall], start: int, count, parts: tuple[LayerCall, ...] = (), added: str = ""
) -> Iterator[tuple[tuple[LayerCall, ...], int]]:
    """The parts of each fused block that may begin with these parts and go on with a call, and the call after it.
    ``added`` is a value inside of the block that the residual of a later part has to be.
    """
    if start == len(calls) or len(parts) == MOST_PARTS:
        return
    for part in (calls[start], *(ghosts.at(calls, start) if parts else ())):
        if parts and not _follows(parts[-1], part, first=len(parts) == 1):
            continue
        if any(count[call.output] != 1 for call in part.originals[:-1]):
            continue
        again, after = added, start + len(part.originals)
        if parts:
            others = count[parts[-1].output] - (2 if part.layer.declared.keeps_data else 1)
            if others and (others > 1 or added or _integer(part.layer)):
                continue
            again = parts[-1].output if others else added
        grown = with_inner_residual((*parts, part))
        if grown[-1].layer.back:
            again = ""
        if parts and not again:
            yield grown, after
        yield from _blocks(calls, after, count, grown, again)


def with_inner_residual(parts: Sequence[LayerCall]) -> tuple[LayerCall, ...]:
    """The parts of a fused block, whose last one adds the output of another part from its line buffer, if that is its
    residual and all windows between keep rows and columns.
    """
    *before, last = parts
    made = [part.output for part in before]
    if last.layer.residual != "before" or last.layer.back or last.inputs[1] not in made:
        return tuple(parts)
    between = parts[made.index(last.inputs[1]) + 1 :]
    if any(_integer(part.layer) or (filters(part.layer) and not centred(part.layer)) for part in between):
        return tuple(parts)
    inner = last.replace(layer=last.layer.replace(back=len(between)), inputs=last.inputs[:1])
    return *before, inner


def parts_of(calls: Sequence[LayerCall]) -> tuple[LayerCall, ...]:
    """The parts of a fused block for the calls that it replaces."""
    return with_inner_residual(ghosts.joined(calls))


@dataclass(frozen=True)
class _Tensor:
    """A tensor between kernels: how often each of its lines moves, the number of these lines, and the bytes of the
    memory that it is written into.
    """

    moves: int
    lines: float
    bytes: int


def _tensors(calls: Sequence[LayerCall], core) -> dict[str, _Tensor]:
    """The outputs of all calls, if they are not streamed. Each is written and read. The data of a ghost module is read
    once more, and lines at the border of data and filtered channels belong to both.
    """
    line = core.l1d.line
    found = {call.output: _Tensor(2, _output_bytes(call.layer) / line, _output_bytes(call.layer)) for call in calls}
    for i in range(len(calls)):
        for ghost in ghosts.at(calls, i)[-1:]:
            whole, row = _output_bytes(ghost.layer), ghost.layer.channels * ghost.layer.bytes
            lines = whole / (2 * row) * min(-(-row // line), 2 * row / line)
            found[ghost.inputs[0]] = _Tensor(3, lines, whole)
            found[calls[i].output] = _Tensor(2, lines, whole)
    return found


def _layer_cycles(call: LayerCall, tensors: Mapping[str, _Tensor], core) -> float:
    """Cycles to move the cache lines of a single layer and its output; for integers also its compute cycles."""
    if views.joins(call):
        return 0.0  # its operands are written as its parts
    layer = call.layer
    lines = int(np.prod(layer.input_shape)) * layer.bytes / core.l1d.line
    row = layer.out_channels * dtypes.of(layer.output_dtype).bytes
    panels = -(-row // core.limits.panel_bytes) if layer.declared.with_rows else 0
    moved = _output_cycles(tensors[call.output], core) + lines * panels * memory.lines(core).l2
    return _together(integer_cycles.alone(layer, core), moved, core) if _integer(layer) else moved


def _together(compute: float, moved: float, core) -> float:
    """Cycles of concurrent compute and memory traffic, combined as in predictions (`boards.cost.memory_time`)."""
    return max(compute, moved) + memory.exposed(core) * min(compute, moved)


def _output_cycles(out: _Tensor, core) -> float:
    """Cycles to write a tensor and to read it."""
    line = memory.lines(core)
    return out.moves * out.lines * (line.dram if out.bytes > core.l2.bytes // 2 else line.l2)


def _output_bytes(layer: Layer) -> int:
    return int(np.prod(layer.output_shape)) * dtypes.of(layer.output_dtype).bytes


def _fused_block_cycles(parts: list[Layer], out: _Tensor, core) -> float | None:
    """Cycles to move the cache lines of a fused block and its output.

    None if there is no such block: its last part only filters, all parts are pointwise, or the L2 does not hold its
    weights or the data that it reads again.
    """
    last = parts[-1].declared
    if (last.windowed and not last.keeps_data) or all(part.declared.pixels for part in parts):
        return None
    layer = Layer.fused_block(tuple(parts))
    if weight_bytes(parts) > core.l2.bytes // 2 or (cut := tasks(layer, core)) is None:
        return None
    row_tiles, column_tiles = cut
    columns = list(zip(*columns_of(layer, column_tiles), strict=True))  # columns of each part, in each column tile
    cycles = _output_cycles(out, core) + _moved_in_block(layer, columns, core)
    uneven = load_balance(layer, row_tiles, column_tiles, core.cpus) - 1
    if _integer(layer):
        compute = images(layer) * sum(
            integer_cycles.in_rows(stage.part, stage.out_height + rows, [len(width) for width in widths], core)
            for stage, rows, widths in zip(stages(layer), repeated_rows(layer, row_tiles), columns, strict=True)
        )
        return _together(compute * (1 + uneven), cycles, core)
    mult_adds = uneven * layer.mult_adds + repeated_mult_adds(layer, row_tiles, column_tiles)
    return cycles + mult_adds / core.macs_per_cycle(layer.dtype)


def _moved_in_block(layer: Layer, columns, core) -> float:
    """Cycles to move cache lines between the parts of a fused block."""
    first, line, l2 = layer.parts[0], core.l1d.line, memory.lines(core).l2
    cycles = line_buffer_bytes(layer) / line * l2
    if _integer(layer) and filters(first):
        # The rows under the window are read again from the L2, if the L1 cannot hold them beside the later parts' data.
        under = first.kernel[0] * max(len(window(first, width)) for width in columns[0]) * first.channels * first.bytes
        again = max(0.0, first.kernel[0] / first.stride[0] - 1) if under > core.l1d.bytes // 2 else 0.0
        cycles += int(np.prod(first.input_shape)) * first.bytes / line * again * l2
    for i, (stage, widths, after) in enumerate(zip(stages(layer), columns, [*layer.parts[1:], None], strict=True)):
        part = stage.part
        if part.declared.pixels:
            blocks = sum(-(-len(width) * part.channels * part.bytes // (core.l1d.bytes // 2)) for width in widths)
            cycles += weight_bytes([part]) / line * images(layer) * stage.out_height * blocks * l2
        if i == added_part(layer) and after is not None:
            cycles += _output_bytes(part) / line * l2
    return cycles


def _integer(layer: Layer) -> bool:
    return dtypes.of(layer.dtype).integer


def _follows(last: LayerCall, call: LayerCall, first: bool) -> bool:
    """Whether a layer may stream from the one before it, unless others read that one's output."""
    layer = call.layer
    if layer.declared.streams != "anywhere" or not _streams(last.layer, first):
        return False
    if layer.declared.keeps_data and not ghosts.unchanged(last.layer, layer):
        return False
    if call.inputs[0] != last.output or last.layer.residual != "none":
        return False
    if {last.layer.dtype, last.layer.output_dtype, layer.input_dtype} != {layer.dtype}:  # a line buffer has one dtype
        return False
    if layer.channels != last.layer.out_channels:  # it divides the rows into other positions
        return False
    return layer.input_layout == layer.output_layout == "NHWC" and layer.dtype in implemented("fused")


def _streams(layer: Layer, first: bool) -> bool:
    """Whether a fused block can go on after this layer."""
    if layer.output_layout != "NHWC":
        return False
    streams = layer.declared.streams
    return streams == "anywhere" or (streams == "first" and first and layer.groups == 1)


def join(fused_block: Sequence[LayerCall]) -> LayerCall:
    """One call of a fused block for its parts, each of which reads only the output of the one before."""
    last = fused_block[-1]
    return LayerCall(
        fused_block[0].name,
        Layer.fused_block(tuple(c.layer for c in fused_block)),
        f"{fused_block[0].source} … {last.originals[-1].source}",
        (fused_block[0].inputs[0], *last.inputs[1:]),
        {f"{i}.{name}": array for i, c in enumerate(fused_block) for name, array in c.constants.items()},
        last.output,
        tuple(call for part in fused_block for call in part.originals),
    )
