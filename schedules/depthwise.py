"""Depthwise convolutions: one filter a channel, output(h, w, c) = sum over taps of data(h', w', c) * weight(tap, c).

The nest::

    parallel over blocks of c_block channels x tiles of tile_h rows
      `inner` columns:  for each vector of channels, for each tile of tile_w columns    # taps stay in registers
      `inner` channels: for each tile of tile_w columns, for each vector of channels    # data is read in order
        accumulators = bias                                  # tile_h * tile_w vectors
        for each row and column of the input under the tile, unrolled
          one load, then a multiply-add into every position whose window covers it
        output = accumulators, through the epilogue

Register budget, for each vector of the tile's lanes: tile_h * tile_w accumulators, three registers for data and three
for taps. Taps that do not fit are loaded again. With a 3x3 filter, a tile of 2x7 positions of one vector takes 20 of 32
registers. At stride 1 it does 126 multiply-adds on 36 loads of data and 9 of weights.

Each tile loads every input value once. Border tiles are generated without the taps that lie in the padding, so padding
costs nothing. With `loop` = dual_issue, for cores that issue in order, `schedules/in_order/depthwise.py` writes the
code of a tile.

% of peak of one core, default / tuned, predicted (python -m benchmarks.peak)::

                                                                Cortex-A53  Cortex-A72  Cortex-A76
    depthwise 28x28x256 3x3 p1,1,1,1 in272 out272 f32 relu6     29 / -      62 / -      77 / -
    depthwise 14x14x512 3x3 s2 p1,1,1,1 in544 out544 f32 relu6  33 / -      65 / -      74 / -
    depthwise 28x28x256 3x3 p1,1,1,1 f16 relu6                  -           -           77 / -
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm_mobilenet.schedules import channel_vectors, integer_constants, integer_depthwise, nest, values
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space
from tvm_mobilenet.schedules.defaults import depthwise as defaults
from tvm_mobilenet.schedules.in_order import depthwise as inorder_depthwise
from tvm_mobilenet.schedules.in_order.strips import strip_of
from tvm_mobilenet.schedules.position import Position
from tvm_mobilenet.schedules.spaces import depthwise as space
from tvm_mobilenet.schedules.sums import Sums
from tvm_mobilenet.schedules.window import Run, runs, shared_step, source

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.activation import SLOPES
from tvm_mobilenet.kinds.windows import chunks, kept
from tvm_mobilenet.layer import Layer

DTYPES = ("float32", "float16", "int8")


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    return _kernel(layer, d, nest.arguments(layer, constants(layer, d)), 1)


def multiplied(layer: Layer, d: Decisions):
    """The PrimFunc of a convolution with several filters a channel: the depthwise layer of its output channels, whose
    data has each of its channels several times.
    """
    filters = of_outputs(layer)
    signature = nest.arguments(layer, constants(filters, d))
    return _kernel(filters, d, signature, layer.out_channels // layer.channels)


def of_outputs(layer: Layer) -> Layer:
    """The depthwise layer with a channel for each of a convolution's output channels."""
    n = layer.out_channels
    dense = layer.reading(0, ())
    return dense.replace(kind="depthwise", channels=n, groups=n)


def _kernel(layer: Layer, d: Decisions, signature: list, filters_each: int):
    c_block, lanes = d["c_block"], d["lanes"]
    c_blocks = layer.channels // c_block
    integer = dtypes.of(layer.dtype).integer
    rows, columns = (
        runs(layer, axis, d[name], step=shared_step(layer, axis) if integer else 1)
        for axis, name in enumerate(("tile_h", "tile_w"))
    )
    row_tiles = sum(r.tiles for r in rows)
    make = integer_depthwise.Filters if integer else _Filters
    with nest.Kernel(signature, d) as f, nest.parallel(layer.batch * row_tiles * c_blocks) as task:
        filters = make(layer, d, f if filters_each == 1 else _Repeated(f, filters_each))
        b, first, tile_row = task // (row_tiles * c_blocks), task // row_tiles % c_blocks * c_block, task % row_tiles

        def channels(body):
            whole, rest = divmod(c_block, lanes)
            if whole:
                with nest.serial(whole) as i:
                    body(first + i * lanes, lanes)
            if rest:
                body(first + whole * lanes, rest)

        def across(run: Run, body):
            with nest.serial(run.tiles) as i:
                body(run.first(i), run)

        def strip(row, h):
            if d["inner"] == "columns":
                channels(
                    lambda c, width: [
                        across(run, lambda w, run: filters.tile(row, run, Position(b, h, w, c), width))
                        for run in columns
                    ]
                )
            else:
                for run in columns:
                    across(
                        run,
                        lambda w, run: channels(lambda c, width: filters.tile(row, run, Position(b, h, w, c), width)),
                    )

        nest.switch(tile_row, [r.tiles for r in rows], lambda n, i: strip(rows[n], rows[n].first(i)))
    return f.prim_func


@dataclass(frozen=True)
class _Repeated:
    """A kernel whose data has each channel ``times`` times, one beside the other."""

    kernel: nest.Kernel
    times: int

    def __getitem__(self, name: str):
        return _Channels(self.kernel["data"], self.times) if name == "data" else self.kernel[name]

    def __getattr__(self, name: str):
        return getattr(self.kernel, name)


@dataclass(frozen=True)
class _Channels:
    """The data of `_Repeated`. Vectors begin at multiples of their own lengths, or of ``times``."""

    data: nest.Tensor
    times: int

    def __getitem__(self, index: tuple):
        *place, c = index
        count = c.count if isinstance(c, nest.Lanes) else 1
        first = tirx.floordiv(c.first if isinstance(c, nest.Lanes) else c, self.times)
        if self.times % count == 0:
            return values.broadcast(self.data[(*place, first)], count)
        few = self.data[(*place, nest.Lanes(first, count // self.times))]
        return tirx.Shuffle([few] * self.times, [lane // self.times for lane in range(count)])


@dataclass(frozen=True)
class _Filters:
    """Writes the code that filters one tile after another, for float dtypes."""

    layer: Layer
    d: Decisions
    f: nest.Kernel

    def tile(self, row: Run, column: Run, at: Position, width: int) -> None:
        """Compute the outputs of one tile, for ``width`` channels."""
        if self.layer.declared.keeps_data:
            self._kept(row, column, at, width)
        if self.d.get("loop") == "dual_issue":
            self._strip(row, column, at, width)
        else:
            self._accumulated(row, column, at, width)

    def _kept(self, row: Run, column: Run, at: Position, width: int) -> None:
        data = self.f["data"]
        for i in range(row.tile):
            for j in range(column.tile):
                place = at.b, at.h + i, at.w + j
                self._store(
                    lambda lane, place=place: values.cast(
                        data[nest.at(self.layer.input_layout, *place, at.c + lane)], self.layer.accumulator_dtype
                    ),
                    width,
                    lambda lane, i=i, j=j: at.output(self.layer, lane, i, j),
                )

    def _strip(self, row: Run, column: Run, at: Position, width: int) -> None:
        layer, data, weight, out = self.layer, self.f["data"], self.f["weight"], self.f["output"]
        inorder_depthwise.filter_strip(
            strip_of(layer, row.taps, column.taps),
            lambda y, x: data[at.b, source(layer, 0, at.h, 0) + y, source(layer, 1, at.w, 0) + x, at.c],
            lambda kh, kw: weight[kh, kw, nest.Lanes(at.c, width)],
            self.f["bias"][nest.Lanes(at.c, width)],
            lambda i: out[at.b, at.h + i, at.w, at.c + kept(layer)],
            (data.row_bytes, out.row_bytes),
        )

    def _accumulated(self, row: Run, column: Run, at: Position, width: int) -> None:
        layer, data, weight = self.layer, self.f["data"], self.f["weight"]
        sums = Sums(self.f, layer, row.tile * column.tile, width)
        apart = self.d["apart"] == "all"
        sums.total.set_rows(self.f["bias"], at.c, apart and not sums.chunked)
        filter_tile(
            layer,
            sums,
            row.taps,
            column.taps,
            lambda y, x, lane: data[
                nest.at(
                    layer.input_layout,
                    at.b,
                    source(layer, 0, at.h, 0) + y,
                    source(layer, 1, at.w, 0) + x,
                    at.c + lane,
                )
            ],
            lambda kh, kw, lane: weight[kh, kw, at.c + lane],
        )
        for i in range(row.tile):
            for j in range(column.tile):
                self._store(
                    lambda lane, n=i * column.tile + j: sums[n, lane],
                    width,
                    lambda lane, i=i, j=j: at.output(layer, kept(layer) + lane, i, j),
                    apart,
                )

    def _store(self, value, width: int, index, apart: bool = False) -> None:
        second, slopes = self.f.get("second"), self.f.get(SLOPES)
        self.f.store(self.layer, self.f["output"], value, width, index, second, apart=apart, slopes=slopes)


def filter_tile(layer: Layer, sums: Sums, taps_h, taps_w, data, weight) -> None:
    """Filter a tile of ``len(taps_h) x len(taps_w)`` positions into its sums.

    ``data(y, x, lane)`` is the input y rows and x columns from the start of the first position's window. ``weight(kh,
    kw, lane)`` is a tap. ``taps_h[i]`` are the tap rows that position row i reads. Every input value is read once, for
    all positions whose windows cover it.
    """
    readers: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for i, rows in enumerate(taps_h):
        for j, columns in enumerate(taps_w):
            for kh in rows:
                for kw in columns:
                    y = i * layer.stride[0] + kh * layer.dilation[0]
                    x = j * layer.stride[1] + kw * layer.dilation[1]
                    readers.setdefault((y, x), []).append((i * len(taps_w) + j, kh, kw))
    rows, taps, _ = chunks(layer)
    for (y, x), uses in sorted(readers.items()):
        for n, kh, kw in uses:
            sums.add_product(
                n,
                (kh // rows, kw // taps),
                lambda lane, y=y, x=x: data(y, x, lane),
                lambda lane, kh=kh, kw=kw: weight(kh, kw, lane),
            )
    sums.finish()


# ---- the constants


def constants(layer: Layer, d: Decisions) -> list[nest.Argument]:
    """The arguments of the kernel whose data `pack` returns: taps ``[kh, kw, c]``, then the vectors."""
    if dtypes.of(layer.dtype).integer:
        return integer_constants.arguments(layer, d, integer_depthwise.weights(layer, d))
    taps = ("weight", (*layer.kernel, layer.channels), layer.weight_dtype)
    return [taps, *channel_vectors.arguments(layer)]


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Weights (c, 1, kh, kw) as ``[kh, kw, c]``, then the vectors."""
    if dtypes.of(layer.dtype).integer:
        return integer_constants.pack(layer, d, integer_depthwise.pack(layer, d, arrays), arrays)
    taps = np.ascontiguousarray(arrays["weight"].reshape(layer.channels, *layer.kernel).transpose(1, 2, 0))
    return [taps.astype(layer.weight_dtype), *channel_vectors.packed(layer, arrays)]


# ---- the choices


def decisions(layer: Layer, core) -> Space:
    """The search space. Its default is the decisions of a build without a tune log."""
    if dtypes.of(layer.dtype).integer:
        found = integer_depthwise.choices(
            layer,
            core,
            space.blocks(layer, core),
            lambda tile_h: defaults.block(layer, tile_h, core),
            lambda tile_h, block: defaults.work(layer, tile_h, block, shared_step(layer, 0)),
        ) | nest.core_choices(layer, core)
        return Space(found, lambda d: "")
    candidates, default = space.choices(layer, core), defaults.choose(layer, core)
    choices = {name: Choice(those, default[name]) for name, those in candidates.items()}
    choices["apart"] = nest.apart_choice(core, ends=False)
    choices |= space.loop_choice(layer, core) | nest.core_choices(layer, core)
    return Space(choices, lambda d: space.refuse(layer, d, core))
