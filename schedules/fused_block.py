"""Fused blocks: convolution, depthwise and pointwise layers in one kernel, rows streamed from each to the next.

The kernel never stores an intermediate tensor whole, only as many rows as the next layer reads. The early activations
of a MobileNet are larger than any cache of these cores (1.6 and 3.2 MB at 224), so streaming keeps them out of DRAM.

The nest, for parts such as conv > depthwise > pointwise > depthwise > pointwise::

    parallel over images x column tiles of the last part's columns x row tiles of its rows
      for each row of the row tile: produce(last part, row)

    produce(part, row):
      pointwise  produce(the part before, row) into one row, then for each m_block of its positions (half an L1), for
                 each panel of tile_n channels, for each tile of tile_m positions: multiply as schedules/pointwise.py
                 does, all of k at once
      depthwise  produce the rows of the part before that are still missing under this row's window, into a line buffer
                 of rows with zeros around it, then filter tiles of tile_w positions, channels innermost
      conv       as schedules/conv.py, from the block's input; only a first part

Register budget: each part's own; no value stays in a register from one part to the next.

A line buffer has zero columns at its sides, and its rows outside the image are filled with zeros, so tiles that read it
need no cases for borders. A depthwise part that reads the block's input needs them. Only two kinds of values are
computed twice: the first rows of a row tile, which the row tile before computes too, and the columns of a neighbouring
column tile that windows at the side reach. A residual that is the output of an earlier part is read from its line
buffer.

For int8 the tiles are those of single layers (`integer_fused_block`), and a line buffer is padded with the zero point
of its data.

Column tiles make line buffers narrower, so that they fit a core's share of the L2. They also make even tasks where rows
do not: 14 rows are four even tasks as two row tiles of two column tiles. Each column tile has its own code, since its
columns are constants.

% of peak of one core, default / tuned, predicted (python -m benchmarks.peak)::

                                                                      Cortex-A53  Cortex-A72  Cortex-A76
    depthwise 56x56x128 3x3 p1,1,1,1 > pointwise m3136 n128 k128      65 / -      88 / -      95 / -
    depthwise 56x56x128 3x3 p1,1,1,1 > pointwise m3136 n128 k128 f16  -           -           95 / -
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm_mobilenet.schedules import conv, depthwise, integer_constants, nest, pointwise, values
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space
from tvm_mobilenet.schedules.defaults import fused_block as defaults
from tvm_mobilenet.schedules.in_order import depthwise as inorder_depthwise
from tvm_mobilenet.schedules.in_order.strips import strip_of
from tvm_mobilenet.schedules.integer_fused_block import IntegerBlock
from tvm_mobilenet.schedules.position import Position
from tvm_mobilenet.schedules.row_tiles import images, window
from tvm_mobilenet.schedules.spaces import fused_block as space
from tvm_mobilenet.schedules.streamed_rows import StreamedRows
from tvm_mobilenet.schedules.sums import Sums
from tvm_mobilenet.schedules.window import runs, source

from tvm_mobilenet import dtypes, schedules
from tvm_mobilenet.kinds import activation
from tvm_mobilenet.kinds.activation import SLOPES
from tvm_mobilenet.kinds.windows import kept
from tvm_mobilenet.layer import Layer

DTYPES = ("float32", "float16", "int8")
READS = ("uint8",)


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    make = IntegerBlock if dtypes.of(layer.dtype).integer else _FusedBlock
    with (
        nest.Kernel(nest.arguments(layer, constants(layer, d)), d) as f,
        nest.parallel(images(layer) * d["column_tiles"] * d["row_tiles"]) as task,
    ):
        make(layer, d, f).run(task)
    return f.prim_func


class _FusedBlock(StreamedRows):
    """Writes the kernel's code, with one method for each kind of part, for float dtypes."""

    def __init__(self, layer: Layer, d: Decisions, f: nest.Kernel):
        super().__init__(layer, d, f)
        self.apart = d["apart"] != "none"

    def store(self, i: int, row, column, value, width: int, c, layer: Layer | None = None) -> None:
        """Write values of part i; ``layer`` says what is done to them, if that is not the part."""
        out, left = self.out[i], self.read(i).start
        image, slot = self.image_of(i), self.slot(i, row)
        second, place = self._residual(i, row, column)
        self.f.store(
            layer or self.stages[i].part,
            out,
            value,
            width,
            lambda lane: (image, slot, column - left, c + lane),
            second,
            lambda lane: (*place, c + lane),
            self.apart,
            self.f.get(f"{SLOPES}{i}"),
        )

    def _residual(self, i: int, row, column) -> tuple:
        """The tensor of the residual of part i, or None, and the indices of a position in it."""
        stage = self.stages[i]
        if stage.part.back:
            n = i - stage.part.back
            return self.out[n], (0, self.slot(n, row), column - self.read(n).start)
        second = self.f.get("second") if i == len(self.stages) - 1 else None
        if second is None:
            return None, ()
        rows, positions = self.images * stage.out_height, stage.out_width
        row = self.image_of(i) * stage.out_height + row
        return second.reshaped((rows * positions, stage.part.second_place.row)), (row * positions + column,)

    def pointwise(self, i: int, row) -> None:
        if i:
            self.produce(i - 1, row)
        self.product_tiles(i, _Product(self, i, row).tile)

    def depthwise(self, i: int, row) -> None:
        self.filter_tiles(i, row, _Filters(self, i, row).channels)

    ghost = depthwise

    def conv(self, i: int, row) -> None:
        part, d = self.stages[i].part, self.d
        read = window(part, self.columns[i])
        read = range(max(0, read.start), min(part.width, read.stop))
        data = conv.converted(part, self.f, self.input, self.image, row, read, self.f.get(f"pixels{i}"))
        taps = conv.Taps(part, data, self.f[f"weight{i}"], min(2, part.channels))

        def panel(first, channels):
            for run in runs(part, 1, d[f"{i}.tile_m"], self.columns[i]):
                with nest.serial(run.count) as t:
                    w = run.start + t * run.tile
                    sums = Sums(self.f, part, run.tile, channels)
                    sums.total.set_rows(self.f[f"bias{i}"], first, self.apart)
                    taps.accumulate(sums, run, Position(self.image, row, w, first))
                    for j in range(run.tile):
                        self.store(i, row, w + j, lambda lane, j=j, sums=sums: sums[j, lane], channels, first)

        self.panels(i, panel)


class _Product:
    """One row of a pointwise part."""

    def __init__(self, fused_block: _FusedBlock, i: int, row):
        self.fused_block, self.i, self.row, self.part = fused_block, i, row, fused_block.stages[i].part
        self.weight, self.bias = fused_block.f[f"weight{i}"], fused_block.f[f"bias{i}"]
        self.dual_issue = fused_block.d.get(f"{i}.loop") == "dual_issue" and (i or self.part.input_layout == "NHWC")

    def tile(self, column, height: int, first, channels: int) -> None:
        fused_block, part, k = self.fused_block, self.part, self.part.channels
        sums = Sums(fused_block.f, part, height, channels)
        sums.total.set_rows(self.bias, first, fused_block.apart)
        pointwise.multiply(
            part,
            sums,
            k,
            min(4, k),
            lambda m, c: self._data(column + m, c),
            lambda c, lane: self.weight[first * k + c * channels + lane],
            part.input_row if self.dual_issue else 0,
        )
        for m in range(height):
            fused_block.store(self.i, self.row, column + m, lambda lane, m=m: sums[m, lane], channels, first)

    def _data(self, position, c):
        fused_block, i = self.fused_block, self.i
        if i:
            at = position - fused_block.columns[i].start
            return fused_block.out[i - 1][0, fused_block.slot(i - 1, self.row), at, c]
        return fused_block.input[nest.at(self.part.input_layout, fused_block.image, self.row, position, c)]


class _Filters:
    """One row of a depthwise part. The rows that it reads of the part before are produced first."""

    def __init__(self, fused_block: _FusedBlock, i: int, row):
        self.fused_block, self.i, self.row, self.part = fused_block, i, row, fused_block.stages[i].part
        self.weight, self.bias = fused_block.f[f"weight{i}"], fused_block.f[f"bias{i}"]
        self.read, self.out = fused_block.out[i - 1] if i else fused_block.input, fused_block.out[i]
        self.top = source(self.part, 0, row, 0)
        self.first = kept(self.part)  # of the channels that it computes
        if i:
            fused_block.fill(i - 1, row)
            self.slots = fused_block.slots_under(i, row)

    def channels(self, taps_h, taps_w, w, c, lanes: int) -> None:
        """Compute a tile of positions from column w on, for ``lanes`` channels from c on."""
        fused_block, part = self.fused_block, self.part
        if part.declared.keeps_data:
            self._keep(len(taps_w), w, c, lanes)
        if fused_block.d.get(f"{self.i}.loop") == "dual_issue":
            self._row_tile(taps_h, taps_w, w, c, lanes)
            return
        sums = Sums(fused_block.f, part, len(taps_w), lanes)
        sums.total.set_rows(self.bias, c, fused_block.d["apart"] == "all" and not sums.chunked)
        depthwise.filter_tile(
            part,
            sums,
            [taps_h],
            taps_w,
            lambda y, x, lane: self._data(y, x, w, c + lane),
            lambda kh, kw, lane: self.weight[kh, kw, c + lane],
        )
        for j in range(len(taps_w)):
            fused_block.store(self.i, self.row, w + j, lambda lane, j=j: sums[j, lane], lanes, self.first + c)

    def _keep(self, positions: int, w, c, lanes: int) -> None:
        """Write the data of a tile, which lies under the middle of its windows, before the channels of its filters. The
        part before may have clamped it already.
        """
        part, maker = self.part, self.fused_block.stages[self.i - 1].part
        clamped = self.i and maker.residual != "after" and not activation.changes(part.activation, maker.activation)
        layer = part.replace(activation="none") if clamped and part.residual == "none" else part
        for j in range(positions):
            self.fused_block.store(
                self.i,
                self.row,
                w + j,
                lambda lane, j=j: values.cast(
                    self._data(part.padding[0], j + part.padding[1], w, c + lane), part.accumulator_dtype
                ),
                lanes,
                c,
                layer,
            )

    def _row_tile(self, taps_h, taps_w, w, c, lanes: int) -> None:
        fused_block, i = self.fused_block, self.i
        inorder_depthwise.filter_strip(
            strip_of(self.part, [taps_h], taps_w),
            lambda y, x: self._data(y, x, w, c + 0),
            lambda kh, kw: self.weight[kh, kw, nest.Lanes(c, lanes)],
            self.bias[nest.Lanes(c, lanes)],
            lambda _: self.out[
                fused_block.image_of(i), fused_block.slot(i, self.row), w - fused_block.read(i).start, self.first + c
            ],
            (self.read.row_bytes, self.out.row_bytes),
        )

    def _data(self, y, x, w, c):
        part = self.part
        if self.i:
            return self.read[0, self.slots[y], (w - self.fused_block.columns[self.i].start) * part.stride[1] + x, c]
        at = nest.at(part.input_layout, self.fused_block.image, self.top + y, source(part, 1, w, 0) + x, c)
        return self.read[at]


# ---- the constants


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The constants of every part, each packed by its own schedule."""
    packed = []
    for i, part in enumerate(layer.parts):
        own, of_part = of_own(layer, d, i), {}
        for name, array in arrays.items():
            number, _, plain = name.partition(".")
            if number == str(i):
                of_part[plain] = array
        names = [name for name, *_ in schedules.of(part).constants(part, own)]
        packed += zip(((i, name) for name in names), schedules.of(part).pack(part, own, of_part), strict=True)
    return [array for _, array in sorted(packed, key=lambda one: _beside(layer, *one[0]))]


def constants(layer: Layer, d: Decisions) -> list[nest.Argument]:
    """The arguments of the kernel whose data `pack` returns. Each name ends in the number of its part."""
    return [(f"{name}{i}", shape, dtype) for i, name, shape, dtype in _ordered(layer, d)]


def part_of(layer: Layer, d: Decisions, n: int) -> Layer:
    """The part to which the n-th constant of `pack` belongs."""
    return layer.parts[_ordered(layer, d)[n][0]]


def _ordered(layer: Layer, d: Decisions) -> list[tuple]:
    """(part, name, shape, dtype) of each constant."""
    found = [
        (i, *argument)
        for i, part in enumerate(layer.parts)
        for argument in schedules.of(part).constants(part, of_own(layer, d, i))
    ]
    return sorted(found, key=lambda one: _beside(layer, *one[:2]))


def _beside(layer: Layer, i: int, name: str) -> bool:
    """Whether a schedule makes this constant in addition to the layer's own. These come last, since plans name only the
    layer's own.
    """
    return f"{i}.{name}" not in layer.constants


def of_own(layer: Layer, d: Decisions, i: int) -> Decisions:
    """The decisions of part i, under the names of its own schedule."""
    own = {name.removeprefix(f"{i}."): value for name, value in d.items() if name.startswith(f"{i}.")}
    part = layer.parts[i]
    lookup = {"lookup": d["lookup"]} if "lookup" in d and "table" in part.constants else {}
    return {**own, **lookup, "tile_n": own.get("tile_n"), "k_block": part.channels}


# ---- the choices


def decisions(layer: Layer, core) -> Space:
    """The search space. Its default is the decisions of a build without a tune log."""
    candidates, default = space.choices(layer, core), defaults.choose(layer, core)
    choices = {name: Choice(those, default.get(name, those[0])) for name, those in candidates.items()}
    choices["apart"] = nest.apart_choice(core)
    choices |= nest.core_choices(layer, core)
    if dtypes.of(layer.dtype).integer:
        choices |= integer_constants.lookup_choice(layer, core)
    return Space(choices, lambda d: space.refuse(layer, d, core))
