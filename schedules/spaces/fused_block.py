"""The search space of a fused block: the tile of each part, pieces of a row, and the cut of the output into tasks."""

from __future__ import annotations

from tvm_mobilenet.schedules import integer_conv, integer_depthwise, integer_products
from tvm_mobilenet.schedules.choices import Decisions, line_channels
from tvm_mobilenet.schedules.in_order import strips
from tvm_mobilenet.schedules.registers import depthwise_registers, registers, sum_lanes
from tvm_mobilenet.schedules.row_tiles import COLUMN_TILES, blocks_of, columns_of, images, row_tiles_of, stages, tasks
from tvm_mobilenet.schedules.spaces import depthwise, pointwise

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

# These hold for every core: the limits of the candidates. `refuse` excludes tiles that need too many registers.
WIDTHS = (2, 3, 4, 5, 6, 7, 8, 14, 28)  # of depthwise tiles


def cut(layer: Layer, core) -> tuple[int, int]:
    """Row tiles and column tiles of an untuned build; as many row tiles as CPUs if no cut fits the L2."""
    return tasks(layer, core) or (min(core.cpus, stages(layer)[-1].out_height), 1)


def row_widths(layer: Layer, column_tiles: int) -> list[int]:
    """The number of columns that each part computes for a row of the widest column tile."""
    return [max(map(len, columns)) for columns in zip(*columns_of(layer, column_tiles), strict=True)]


def choices(layer: Layer, core) -> dict[str, tuple]:
    """The candidates of each choice; the names of a part's choices begin with its number."""
    row_tiles, column_tiles = cut(layer, core)
    found: dict[str, tuple] = {}
    for i, (part, width) in enumerate(zip(layer.parts, row_widths(layer, column_tiles), strict=True)):
        found |= {f"{i}.{name}": those for name, those in _part(part, width, core).items()}
    last = stages(layer)[-1]
    several = {s for s in row_tiles_of(core.cpus) if s <= last.out_height} | {row_tiles}
    return {
        **found,
        "row_tiles": tuple(sorted(several)),
        "column_tiles": tuple(b for b in COLUMN_TILES if b <= last.out_width),
    }


def _part(part: Layer, width: int, core) -> dict[str, tuple]:
    if part.declared.pixels:
        tiles_m, tiles_n = pointwise.tiles(width_of_block(part, width, core), part.out_channels, part, core)
        found = {"m_block": blocks_of(width), "tile_m": tuple(tiles_m), "tile_n": tuple(tiles_n)}
        return {**loops(part, core), **found, **pointwise.products(part, core, integer_products)}
    if part.declared.streams == "anywhere":
        if dtypes.of(part.dtype).integer:
            widths, _ = integer_depthwise.widths_of(part, width, core)
            found = {"tile_w": widths, "lanes": tuple(sorted(integer_depthwise.lanes_of(part)))}
            return found | pointwise.products(part, core, integer_depthwise)
        return {"tile_w": tuple(tile_widths(width)), "lanes": lanes(part, width, core), **loops(part, core)}
    tiles_m, tiles_n = pointwise.tiles(width, part.out_channels // part.groups, part, core)
    found = {"tile_m": tuple(tiles_m), "tile_n": tuple(tiles_n)}
    return found | pointwise.products(part, core, integer_conv)


def width_of_block(part: Layer, width: int, core, most: int = 0) -> int:
    """The default number of positions that a pointwise part takes at a time, of rows of ``width``: a row, or as many as
    fill half an L1. The candidates are the pieces of rows of ``most``, if that is given.
    """
    blocks = blocks_of(most or width)
    half = [b for b in blocks if b * part.channels * part.bytes <= core.l1d.bytes // 2]
    return min((b for b in half if b >= width), default=max(half, default=blocks[0]))


def tile_widths(width: int) -> list[int]:
    """The numbers of positions that a depthwise part's tile may have."""
    return [t for t in WIDTHS if t <= width] or [1]


def lanes(part: Layer, width: int, core) -> tuple[int, ...]:
    """The numbers of channels that a depthwise part's tile may take at a time."""
    vector, line = sum_lanes(part, core), line_channels(part, core)
    if strips.possible(part, core):
        return vector, 2 * vector
    return tuple(sorted({vector, 2 * vector, *[line] * whole_lines(part, width, core)}))


def whole_lines(part: Layer, width: int, core) -> bool:
    """Whether a depthwise part may take tiles of four positions and whole cache lines of channels."""
    vector, line, four = sum_lanes(part, core), line_channels(part, core), min(4, width)
    fits = depthwise_registers(1, four, line, vector) <= core.vector_registers
    return fits and part.channels >= line > vector and four in tile_widths(width)


def loops(part: Layer, core) -> dict[str, tuple]:
    """The choice of who writes the loop of a pointwise or depthwise part, if there is a choice."""
    own = pointwise if part.declared.pixels else depthwise
    return {name: choice.candidates for name, choice in own.loop_choice(part, core).items()}


def refuse(layer: Layer, d: Decisions, core) -> str:
    """The reason why these decisions are invalid, or the empty string."""
    if images(layer) * d["row_tiles"] * d["column_tiles"] < min(core.cpus, stages(layer)[-1].out_height):
        return f"{d['row_tiles']} row tiles x {d['column_tiles']} column tiles leave cores without a task"
    integer, vector = dtypes.of(layer.dtype).integer, sum_lanes(layer, core)
    for i, part in enumerate(layer.parts):
        if integer and f"{i}.tile_w" in d:
            continue  # all of its tiles fit the registers
        if integer:
            vector = sum_lanes(part, core)
        if f"{i}.tile_w" not in d:
            need = registers(d[f"{i}.tile_m"], d[f"{i}.tile_n"], vector)
        elif d.get(f"{i}.loop") == "dual_issue":
            if d[f"{i}.lanes"] != vector:
                return f"the dual-issue kernel of part {i} takes one vector of channels at a time"
            continue
        else:
            need = depthwise_registers(1, d[f"{i}.tile_w"], d[f"{i}.lanes"], vector)
        if need > core.vector_registers:
            return f"the tile of part {i} needs {need} registers"
    return ""
