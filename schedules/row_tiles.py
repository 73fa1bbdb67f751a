"""The cut of a fused block into tasks: row tiles of the last part's rows, column tiles of its columns, and the memory
of each task.

A window at the side of a tile reaches into the next tile, so the values there are computed twice: the fewer sides the
better. A narrower column tile needs less memory for its task. 14 rows and columns make four even tasks only if both are
cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from tvm_mobilenet.schedules.choices import EVEN, imbalance
from tvm_mobilenet.schedules.window import source

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

COLUMN_TILES = (1, 2, 4)  # for every core: each has its own code, and narrower ones compute more columns twice


def row_tiles_of(cpus: int) -> set[int]:
    """The numbers of row tiles for so many CPUs: with column tiles of 1, 2 and 4, and with two and three row tiles a
    CPU.
    """
    return {*(-(-cpus // column_tiles) for column_tiles in COLUMN_TILES), 2 * cpus, 3 * cpus}


def blocks_of(width: int) -> tuple[int, ...]:
    """The numbers of positions that a pointwise part may take at a time: the row in 1, 2, 3, 4 or 8 pieces."""
    return tuple(sorted({-(-width // pieces) for pieces in (1, 2, 3, 4, 8)}))


def images(layer: Layer) -> int:
    """The number of images of a block: that of a part with a window, since a pointwise part has only positions."""
    return max(part.batch for part in layer.parts)


@dataclass(frozen=True)
class Stage:
    """A part of a fused block with the extents of its rows in each image. A pointwise layer alone has only a number of
    positions.
    """

    part: Layer
    height: int
    width: int
    out_height: int
    out_width: int


def stages(layer: Layer) -> list[Stage]:
    """The parts with their rows and columns.

    A pointwise part at the start of a block does not know its rows. They come from the next part with a window; without
    one, each pixel counts as a row.
    """
    found: list[Stage] = []
    height, width = next(((p.height, p.width) for p in layer.parts if not p.declared.pixels), (layer.height, 1))
    for part in layer.parts:
        out = (height, width) if part.declared.pixels else (part.out_height, part.out_width)
        found.append(Stage(part, height, width, *out))
        height, width = out
    return found


def columns_of(layer: Layer, column_tiles: int) -> list[list[range]]:
    """For each column tile, the columns that each part computes: those of the image that the parts after it read."""
    found = stages(layer)
    width = found[-1].out_width
    column_tiles_of_parts = []
    for column_tile in range(column_tiles):
        columns = [range(width * column_tile // column_tiles, width * (column_tile + 1) // column_tiles)]
        for stage, after in reversed(list(pairwise(found))):
            read = window(after.part, columns[0])
            columns.insert(0, range(max(0, read.start), min(stage.out_width, read.stop)))
        column_tiles_of_parts.append(columns)
    return column_tiles_of_parts


def window(part: Layer, columns: range) -> range:
    """The columns that a part's window covers at some of the part's own columns, padding included."""
    if part.declared.pixels:
        return columns
    reach = (part.kernel[1] - 1) * part.dilation[1] + 1
    return range(source(part, 1, columns.start, 0), source(part, 1, columns.stop - 1, 0) + reach)


def scratch_bytes(layer: Layer, column_tiles: int) -> int:
    """The bytes that one row tile keeps between the parts."""
    shapes = zip(between(layer, column_tiles), layer.parts, strict=False)
    return sum(int(np.prod(shape)) * dtypes.of(part.output_dtype).bytes for shape, part in shapes)


def between(layer: Layer, column_tiles: int) -> list[tuple[int, int, int, int]]:
    """The shapes of the intermediates between parts, as wide as in the widest column tile: a line buffer of rows before
    a depthwise part, else a block of one row. A part whose output is a later part's residual keeps the rows that it is
    ahead of it.
    """
    columns = columns_of(layer, column_tiles)
    shapes = []
    for i, (part, after) in enumerate(pairwise(layer.parts)):
        line_buffer = (after.kernel[0] - 1) * after.dilation[0] + 1 if after.declared.windowed else 1
        if i == added_part(layer):
            line_buffer = max(line_buffer, 1 + sum(map(_ahead, layer.parts[i + 1 :])))
        shapes.append(
            (1, line_buffer, max(len(window(after, column_tile[i + 1])) for column_tile in columns), part.out_channels)
        )
    return shapes


def added_part(layer: Layer) -> int:
    """The part of a fused block whose output is the residual of its last part; the last one itself if there is none."""
    return len(layer.parts) - 1 - layer.parts[-1].back


def _ahead(part: Layer) -> int:
    """The rows below its own that a part's window covers, at stride 1."""
    return (part.kernel[0] - 1) * part.dilation[0] - part.padding[0] if part.declared.windowed else 0


def weight_bytes(parts: Sequence[Layer]) -> int:
    """The bytes of the weights of pointwise parts, which every row reads again."""
    sizes = ((int(np.prod(p.weight_shape)), p.weight_dtype) for p in parts if p.declared.pixels)
    return sum(size * dtypes.of(dtype).bytes for size, dtype in sizes)


def tasks(layer: Layer, core) -> tuple[int, int] | None:
    """Row tiles and column tiles for all CPUs: the fewest column tiles, and even tasks if possible; None if nothing
    fits.

    The L2 has to hold all data that is read again: the pointwise weights, and for each task that runs at the same time
    its intermediates and the rows of the input under the first part's window.
    """
    weights = weight_bytes(layer.parts)
    first = layer.parts[0]
    at_once, last = core.sharers(core.l2), stages(layer)[-1]

    def held(column_tiles: int) -> int:
        columns = max(len(window(first, column_tile[0])) for column_tile in columns_of(layer, column_tiles))
        rows = (first.kernel[0] - 1) * first.dilation[0] + 1
        return weights + at_once * (scratch_bytes(layer, column_tiles) + rows * columns * first.channels * first.bytes)

    # For all images together, or each for all CPUs: only so are three images even on four cores.
    cuts = {(-(-core.cpus // (count * b)), b) for count in (images(layer), 1) for b in COLUMN_TILES}
    fits = [
        (max(EVEN, load_balance(layer, row_tiles, column_tiles, core.cpus)), column_tiles, row_tiles)
        for row_tiles, column_tiles in cuts
        if column_tiles <= last.out_width and row_tiles <= last.out_height and held(column_tiles) <= core.l2.bytes
    ]
    if not fits:
        return None
    _, column_tiles, row_tiles = min(fits)
    return row_tiles, column_tiles


def load_balance(layer: Layer, row_tiles: int, column_tiles: int, cpus: int) -> float:
    """The longest share over the mean, for so many CPUs."""
    last = stages(layer)[-1]
    rows, columns = (
        [size * (i + 1) // pieces - size * i // pieces for i in range(pieces)]
        for size, pieces in ((last.out_height, row_tiles), (last.out_width, column_tiles))
    )
    return imbalance([r * c for c in columns for r in rows] * images(layer), cpus)


def filters(part: Layer) -> bool:
    """Whether a part reads a window of rows of the part before it."""
    return part.declared.windowed and part.declared.streams == "anywhere"


def repeated_rows(layer: Layer, row_tiles: int) -> list[int]:
    """The number of rows of each part that are computed twice, because a window at the side of a row tile reaches into
    the next.
    """
    rows, found = 0, []
    for part in reversed(layer.parts):
        found.append((row_tiles - 1) * rows)
        if filters(part):
            rows = rows * part.stride[0] + max(0, part.kernel[0] - part.stride[0])
    return found[::-1]


def repeated_mult_adds(layer: Layer, row_tiles: int, column_tiles: int) -> float:
    """The multiply-adds of rows and columns that are computed twice."""
    columns, found = zip(*columns_of(layer, column_tiles), strict=True), 0.0
    for stage, rows, widths in zip(stages(layer), repeated_rows(layer, row_tiles), columns, strict=True):
        found += stage.part.mult_adds * (rows / stage.out_height + sum(map(len, widths)) / stage.out_width - 1)
    return found


def line_buffer_bytes(layer: Layer) -> float:
    """The bytes that move in and out of line buffers: each is written once, and read about as often as the window has
    rows.
    """
    return sum(
        int(np.prod(part.output_shape)) * dtypes.of(part.output_dtype).bytes * (1 + after.kernel[0] / after.stride[0])
        for part, after in pairwise(layer.parts)
        if after.declared.windowed
    )
