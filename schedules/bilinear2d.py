"""Resizes: bilinear ones, and by nearest neighbour (`schedules/nearest2d.py`).

The nest of a channels-last output::

    parallel over tiles of tile_h rows
      for each tile of tile_w columns, for each vector of channels
        for each column of data under the tile
          blend two rows of data, for each row of the tile
        output = blend of two such columns, through the epilogue

A blend is ``low + (high - low) * share``. Each tile loads a value of the data once. In a map of twice the size, four
columns in two rows load eight vectors and store eight.

The nest of an NCHW output, which is a network's::

    parallel over tiles of tile_h rows
      for each channel, for each tile of tile_w columns
        output = blends of a row, one vector of columns if all lie between the same two values

Register budget: a vector for each row of the tile and column of data, four for the blend.

Cycles a value on one core, default / tuned, predicted (python -m benchmarks.peak)::

                                                          Cortex-A53  Cortex-A72  Cortex-A76
    bilinear2d 28x28x64 half_pixel to56x56 f32            3.35 / -    1.80 / -    0.81 / -
    bilinear2d 28x28x64 half_pixel to56x56 f16            -           -           0.41 / -
    bilinear2d 28x28x21 half_pixel to224x224 to_nchw f32  3.23 / -    1.70 / -    0.81 / -
"""

from __future__ import annotations

from functools import partial
from itertools import groupby

from tvm import tirx
from tvm_mobilenet.schedules import nest, values
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space
from tvm_mobilenet.schedules.resized import Reads, runs, tiles

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.resizes import positions
from tvm_mobilenet.layer import Layer

DTYPES = ("float32", "float16")
# For every core: vector registers for each row of a default tile, which holds two columns of data, their difference
# and share; and columns whose stores stay in the L1 until the next vector of their lines.
PER_ROW, MOST_APART = 8, 16


def decisions(layer: Layer, core) -> Space:
    vector = core.lanes(_dtype(layer))
    lanes = [v for v in (vector, 2 * vector, 4 * vector) if v <= layer.channels] or [layer.channels]
    heights, widths = tiles(layer, 0), tiles(layer, 1)
    more = 2 if planes(layer) else 1  # a row of a plane has no vectors of channels, so each value is in fewer stores
    tile_h = max(t for t in heights if t <= max(1, more * core.vector_registers // PER_ROW))
    fit = [t for t in widths if t > 1 and t * tile_h <= more * core.vector_registers]  # more makes longer code
    tile_w = max(fit, default=widths[min(1, len(widths) - 1)])
    return Space(
        {
            "tile_h": Choice(heights, tile_h),
            "tile_w": Choice(widths, tile_w),
            "lanes": Choice(tuple(lanes), lanes[-1 if tile_w > MOST_APART else 0]),
            **nest.core_choices(layer, core),
        },
        lambda d: "",
    )


def planes(layer: Layer) -> bool:
    """Whether the columns of a channel's row lie side by side in the output."""
    return layer.output_layout == "NCHW" or layer.output_row == 1


def _dtype(layer: Layer) -> str:
    """The dtype of blends; integers are copied."""
    return layer.dtype if dtypes.of(layer.dtype).integer else layer.accumulator_dtype


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    rows, columns = (runs(layer, axis, d[name]) for axis, name in enumerate(("tile_h", "tile_w")))
    row_tiles, dtype = sum(run.count for run in rows), _dtype(layer)
    across, down = positions(layer, 1), positions(layer, 0)
    with nest.Kernel(nest.arguments(layer, []), d) as f, nest.parallel(layer.batch * row_tiles) as task:
        b, tile_row = task // row_tiles, task % row_tiles

        def channels(tile) -> None:
            whole, rest = divmod(layer.channels, d["lanes"])
            if whole:
                with nest.serial(whole) as i:
                    tile(i * d["lanes"], d["lanes"]).channels()
            if rest:
                tile(whole * d["lanes"], rest).channels()

        def strip(run, k) -> None:
            lines, h = run.reads(k, down, dtype), run.start + k * run.tile

            def each_column(body) -> None:
                for column in columns:
                    with nest.serial(column.count) as j:
                        w, under = column.start + j * column.tile, column.reads(j, across, dtype)
                        body(partial(_Tile, layer, f, b, h, w, lines, under))

            if planes(layer):
                with nest.serial(layer.channels) as c:
                    each_column(lambda tile: tile(c, 1).columns())
            else:
                each_column(channels)

        nest.switch(tile_row, [run.count for run in rows], lambda n, k: strip(rows[n], k))
    return f.prim_func


class _Tile:
    """The code of one tile of rows and columns, for some channels.

    A column of data is blended just before the first output that reads it, so that a long tile holds few of them.
    """

    def __init__(self, layer: Layer, f: nest.Kernel, b, h, w, lines: Reads, under: Reads, c, width: int):
        self.layer, self.f, self.dtype = layer, f, _dtype(layer)
        self.b, self.h, self.w, self.c, self.width = b, h, w, c, width
        self.lines, self.under = lines, under
        self.blends = any(high is not None for _, high, _ in lines.outputs)
        self.held: dict[int, nest.Tile] = {}  # by column of data, one row for each row of the tile

    def channels(self) -> None:
        """Write neighbouring channels of each output."""
        out, integer = self.f["output"], dtypes.of(self.layer.dtype).integer
        for j, read in enumerate(self.under.outputs):
            self._hold(read)
            for i in range(len(self.lines.outputs)):

                def index(lane, i=i, j=j):
                    return nest.at(self.layer.output_layout, self.b, self.h + i, self.w + j, self.c + lane)

                def value(lane, i=i, read=read):
                    return self._blend(lambda place: self._row(i, place, lane), *read, lane)

                if integer:
                    self.f.write(out, value, self.width, index)
                else:
                    self.f.store(self.layer, out, value, self.width, index)

    def columns(self) -> None:
        """Write one channel of each output, in vectors of columns that read alike."""
        for (low, high), found in groupby(enumerate(self.under.outputs), key=lambda numbered: numbered[1][:2]):
            group = [(j, share) for j, (_, _, share) in found]
            self._hold((low, high))
            for i in range(len(self.lines.outputs)):
                for first, count in nest.pieces(len(group), self.f.lanes(self.dtype)):
                    piece = group[first : first + count]
                    self._store(i, piece[0][0], low, high, [share for _, share in piece])

    def _store(self, i: int, j: int, low: int, high: int | None, shares: list) -> None:
        count, out = len(shares), self.f["output"]
        at, lane = (self.w + j, 0) if count == 1 else (nest.Lanes(self.w + j, count), nest.Lanes(0, count))
        share = shares[0] if count == 1 else tirx.Shuffle(shares, list(range(count)))
        x = self._blend(lambda place: values.broadcast(self._row(i, place, 0), count), low, high, share, lane)
        if not dtypes.of(self.layer.dtype).integer:
            x = values.epilogue(self.layer, x, None, out.dtype)
        out[nest.at(self.layer.output_layout, self.b, self.h + i, at, self.c)] = x

    def _hold(self, read) -> None:
        """Blend the columns of data that an output reads, if no earlier one has."""
        for place in read[:2]:
            if not self.blends or place is None or place in self.held:
                continue
            self.held[place] = self.f.tile(len(self.lines.outputs), self.width, self.dtype)
            for i, (low, high, share) in enumerate(self.lines.outputs):
                self.held[place].set_row(
                    i,
                    lambda lane, place=place, low=low, high=high, share=share: self._blend(
                        lambda line: self._source(line, place, lane), low, high, share, lane
                    ),
                )

    def _row(self, i: int, place: int, lane):
        """A column of data, blended for row i of the tile."""
        if self.blends:
            return self.held[place][i, lane]
        return self._source(self.lines.outputs[i][0], place, lane)

    def _source(self, line: int, place: int, lane):
        y, x = self.lines.places[line], self.under.places[place]
        return values.cast(self.f["data"][nest.at(self.layer.input_layout, self.b, y, x, self.c + lane)], self.dtype)

    def _blend(self, value, low: int, high: int | None, share, lane):
        """``value(low)``, moved by a share towards ``value(high)``."""
        if high is None:
            return value(low)
        count = lane.count if isinstance(lane, nest.Lanes) else 1
        apart = value(high) - value(low)
        return values.multiply_add(value(low), apart, values.broadcast(share, count), self.dtype, count)
