"""The tiles of an untuned fused block's parts, and the cut of the block into tasks (`row_tiles.tasks`)."""

from __future__ import annotations

from tvm_mobilenet.schedules import integer_depthwise
from tvm_mobilenet.schedules.choices import Decisions, line_channels
from tvm_mobilenet.schedules.defaults import conv, depthwise, pointwise
from tvm_mobilenet.schedules.in_order import strips
from tvm_mobilenet.schedules.registers import depthwise_registers, sum_lanes
from tvm_mobilenet.schedules.spaces import fused_block as space
from tvm_mobilenet.schedules.window import evicts_itself

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

WIDTHS = (7, 6, 5, 8, 4, 3, 2)  # depthwise tiles that may divide the row; 8 keeps fewer cache lines in L1


def choose(layer: Layer, core) -> Decisions:
    """The decisions of an untuned build."""
    row_tiles, column_tiles = space.cut(layer, core)
    found: Decisions = {"row_tiles": row_tiles, "column_tiles": column_tiles}
    for i, (part, width) in enumerate(zip(layer.parts, space.row_widths(layer, column_tiles), strict=True)):
        own = _part(part, width, core, first=not i)
        found |= {f"{i}.{name}": value for name, value in own.items()}
    return found


def _part(part: Layer, width: int, core, first: bool) -> Decisions:
    if part.declared.pixels:
        block = space.width_of_block(part, width, core)
        tile_m, tile_n = pointwise.tiles_of(part, block, core)[2]
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
