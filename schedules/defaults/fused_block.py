"""The tiles of an untuned fused block's parts, and the cut of the block into tasks (`row_tiles.tasks`)."""

from __future__ import annotations

from tvm_mobilenet.schedules import integer_depthwise
from tvm_mobilenet.schedules.choices import EVEN, Decisions, line_channels
from tvm_mobilenet.schedules.defaults import conv, depthwise, pointwise
from tvm_mobilenet.schedules.in_order import strips
from tvm_mobilenet.schedules.registers import depthwise_registers, sum_lanes
from tvm_mobilenet.schedules.row_tiles import (
    COLUMN_TILES,
    line_buffer_bytes,
    load_balance,
    repeated_mult_adds,
    row_tiles_of,
    scratch_bytes,
    stages,
)
from tvm_mobilenet.schedules.spaces import fused_block as space
from tvm_mobilenet.schedules.window import evicts_itself
from tvm_mobilenet.targets import memory

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

WORTH = 4  # a narrower cut must save this many times the cycles that it adds
NARROWEST = 14  # columns of a column tile: with 7, v2's blocks of 28 columns take 4 % more on an A53
WIDTHS = (7, 6, 5, 8, 4, 3, 2)  # depthwise tiles that may divide the row; 8 keeps fewer cache lines in L1


def choose(layer: Layer, core) -> Decisions:
    """The decisions of an untuned build."""
    cut = space.cut(layer, core)
    widest = space.row_widths(layer, cut[1])
    row_tiles, column_tiles = cut if dtypes.of(layer.dtype).integer else _within_l1(layer, cut, core)
    found: Decisions = {"row_tiles": row_tiles, "column_tiles": column_tiles}
    widths = space.row_widths(layer, column_tiles)
    for i, (part, width, most) in enumerate(zip(layer.parts, widths, widest, strict=True)):
        own = _part(part, width, most, core, first=not i)
        found |= {f"{i}.{name}": value for name, value in own.items()}
    return found


def _within_l1(layer: Layer, cut: tuple[int, int], core) -> tuple[int, int]:
    """A cut into as many tasks, with the fewest column tiles whose intermediates fit the L1; ``cut`` itself if that
    saves too little, or if there is none that is as even.

    This saves the moves of line buffers to and from the L2, and costs columns that are computed twice. An untuned
    GhostNet or v3-large at 224 takes 1 % less on an A72.
    """
    row_tiles, column_tiles = cut
    if scratch_bytes(layer, column_tiles) <= core.l1d.bytes:
        return cut
    saved = memory.exposed(core) * line_buffer_bytes(layer) / core.l1d.line * memory.lines(core).l2
    lost = repeated_mult_adds(layer, row_tiles, column_tiles)
    uneven = max(EVEN, load_balance(layer, row_tiles, column_tiles, core.cpus))
    for narrower in (b for b in COLUMN_TILES if b > column_tiles and stages(layer)[-1].out_width >= b * NARROWEST):
        rows = -(-row_tiles * column_tiles // narrower)
        if scratch_bytes(layer, narrower) > core.l1d.bytes or rows not in row_tiles_of(core.cpus):
            continue
        more = (repeated_mult_adds(layer, rows, narrower) - lost) / core.macs_per_cycle(layer.dtype)
        even = load_balance(layer, rows, narrower, core.cpus) <= uneven
        return (rows, narrower) if even and saved > WORTH * max(0.0, more) else cut
    return cut


def _part(part: Layer, width: int, most: int, core, first: bool) -> Decisions:
    """The decisions of a part for rows of ``width`` positions; its choices are those of rows of ``most``."""
    if part.declared.pixels:
        block = space.width_of_block(part, width, core, most)
        tile_m, tile_n = pointwise.tiles_of(part, min(block, width), core)[2]
        return {**_loops(part, core), "m_block": block, "tile_m": tile_m, "tile_n": tile_n}
    if part.declared.streams == "anywhere":
        if dtypes.of(part.dtype).integer:
            return {
                "tile_w": integer_depthwise.widths_of(part, width, core)[1],
                "lanes": integer_depthwise.lanes_of(part)[0],
            }
        tile_w, lanes = _depthwise_tile(part, width, core, first)
        return {"tile_w": tile_w, "lanes": lanes, **_loops(part, core)}
    tile_m, tile_n = conv.tile_of(part, width, core)
    return {"tile_m": tile_m, "tile_n": tile_n}


def _loops(part: Layer, core) -> Decisions:
    """The dual-issue loop, for a part that can have one."""
    return {name: "dual_issue" for name in space.loops(part, core)}


def _depthwise_tile(part: Layer, width: int, core, first: bool) -> tuple[int, int]:
    """Positions of a depthwise part's tile, in rows of ``width``, and its lanes. ``first``: the part reads the block's
    input.
    """
    tiles, vector = space.tile_widths(width), sum_lanes(part, core)
    if strips.possible(part, core):
        short = core.limits.strip_columns
        return max(t for t in tiles if t <= short or not evicts_itself(part, 1, t, core)), vector

    def fits(tile: int, lanes: int) -> bool:
        return depthwise_registers(1, tile, lanes, vector) <= core.vector_registers

    narrow = [t for t in tiles if fits(t, vector)]
    divides = [t for t in WIDTHS if t in narrow and width % t == 0]
    # On an in-order core the number of loads decides.
    tile_w = min(narrow, key=lambda t: _row_loads(part, width, t)) if core.in_order or not divides else divides[0]
    if first and space.whole_lines(part, width, core) and evicts_itself(part, 1, tile_w, core):
        return min(4, width), line_channels(part, core)
    return tile_w, max(v for v in (vector, depthwise.pair_of(part, core)) if fits(tile_w, v))


def _row_loads(part: Layer, width: int, tile: int) -> int:
    """Vectors that a depthwise part loads for one row of its positions, with tiles of this width."""
    tiles, rest = divmod(width, tile)
    return tiles * depthwise.tile_loads(part, 1, tile) + (depthwise.tile_loads(part, 1, rest) if rest else 0)
