"""Fused blocks: convolution, depthwise and pointwise layers in one kernel, rows streamed from each to the next.

What lies between two layers is never a whole tensor, only as many rows as the next one reads. The early activations of
a MobileNet are larger than any cache of these cores (1.6 and 3.2 MB at 224), so this is what keeps them out of DRAM.

The nest, for parts such as conv > depthwise > pointwise > depthwise > pointwise::

    parallel over column tiles of the last part's columns x row tiles of its rows
      for each row of the row tile: produce(last part, row)

    produce(part, row):
      pointwise  produce(the part before, row) into one row, then for each m_block of its positions (half an L1), for
                 each panel of tile_n channels, for each tile of tile_m positions: multiply as schedules/pointwise.py
                 does, all of k at once
      depthwise  produce the rows of the part before that are still missing under this row's window, into a line buffer
      of
                 rows with zeros around it, then filter tiles of tile_w positions, channels innermost
      conv       as schedules/conv.py, from the network's input

Register budget: each part's own; no value stays in a register from one part to the next.

A line buffer has zero columns at its sides, and its rows outside of the image are filled with zeros, so that tiles that
read it need no cases for borders; a depthwise part that reads the input itself has them. Only the first rows of a row
tile are computed twice, by it and the row tile before, and the columns that a window at a column tile's side reaches
into the next.

Column tiles make line buffers narrower, so that a core's share of the L2 holds them, and four even tasks of 14 rows.
Each is code of its own, since its columns are constants.

% of peak of one core, default / tuned, predicted (python -m benchmarks.peak)::

                                                                      Cortex-A53  Cortex-A72  Cortex-A76
    depthwise 56x56x128 3x3 p1,1,1,1 > pointwise m3136 n128 k128      65 / -      88 / -      95 / -
    depthwise 56x56x128 3x3 p1,1,1,1 > pointwise m3136 n128 k128 f16  -           -           95 / -
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import conv, depthwise, nest, pointwise, values
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space
from tvm_mobilenet.schedules.defaults import fused_block as defaults
from tvm_mobilenet.schedules.in_order import depthwise as inorder_depthwise
from tvm_mobilenet.schedules.in_order.strips import strip_of
from tvm_mobilenet.schedules.position import Position
from tvm_mobilenet.schedules.row_tiles import between, columns_of, stages, window
from tvm_mobilenet.schedules.spaces import fused_block as space
from tvm_mobilenet.schedules.sums import Sums
from tvm_mobilenet.schedules.window import runs, source

from tvm_mobilenet import schedules
from tvm_mobilenet.layer import Layer

DTYPES = ("float32", "float16")
READS = ("uint8",)


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    with (
        nest.Kernel(nest.arguments(layer, constants(layer)), d) as f,
        nest.parallel(d["column_tiles"] * d["row_tiles"]) as task,
    ):
        _FusedBlock(layer, d, f).run(task)
    return f.prim_func


class _FusedBlock:
    """The kernel's code: one method a kind of part."""

    def __init__(self, layer: Layer, d: Decisions, f: nest.Kernel):
        self.d, self.f, self.stages = d, f, stages(layer)
        self.apart = d["apart"] != "none"
        last = self.stages[-1]
        # What each part writes: line buffers and blocks, and at the end the output, by rows.
        self.out = [
            f.scratch(s, p.output_dtype) for s, p in zip(between(layer, d["column_tiles"]), layer.parts, strict=False)
        ]
        self.out.append(nest.Tensor(f["output"].flat, (1, last.out_height, last.out_width, last.part.output_row)))
        first = self.stages[0]
        shape = nest.at(first.part.input_layout, 1, first.height, first.width, first.part.input_row)
        self.input = nest.Tensor(f["data"].flat, shape)
        self.column_tiles = columns_of(layer, d["column_tiles"])
        self.columns = self.column_tiles[0]  # of each part, in the column tile whose code is being written

    def run(self, task) -> None:
        rows, row_tiles = self.stages[-1].out_height, self.d["row_tiles"]
        row_tile = nest.named(task % row_tiles, "row_tile")
        start, stop = row_tile * rows // row_tiles, (row_tile + 1) * rows // row_tiles
        # The first row of each part that this row tile needs.
        self.first: dict[int, object] = {len(self.stages) - 1: start}
        for i in range(len(self.stages) - 1, 0, -1):
            part = self.stages[i].part
            self.first[i - 1] = T.max(0, source(part, 0, self.first[i], 0)) if part.declared.windowed else self.first[i]

        def column_tile(n: int, _) -> None:
            self.columns = self.column_tiles[n]
            for i in range(len(self.stages) - 1):
                self._clear(i)
            with nest.span(start, stop) as row:
                self.produce(len(self.stages) - 1, row)

        nest.switch(task, [row_tiles] * len(self.column_tiles), column_tile)

    def produce(self, i: int, row) -> None:
        """Compute one row of part i, and of the parts before what it still lacks."""
        getattr(self, "_" + self.stages[i].part.kind)(i, nest.named(row, f"row{i}"))

    def slot(self, i: int, row):
        """Where a row of part i lies in what it writes."""
        if i == len(self.stages) - 1:
            return row
        line_buffer = self.out[i].shape[1]
        return 0 if line_buffer == 1 else tirx.truncmod(row + line_buffer, line_buffer)

    def read(self, i: int) -> range:
        """The columns of part i that the next part reads, padding among them: what part i writes begins with these."""
        last = i == len(self.stages) - 1
        return range(self.stages[i].out_width) if last else window(self.stages[i + 1].part, self.columns[i + 1])

    def store(self, i: int, row, column, value, width: int, c) -> None:
        out, left = self.out[i], self.read(i).start
        slot = self.slot(i, row)
        second, positions = self.f.get("second") if i == len(self.stages) - 1 else None, self.stages[i].out_width
        if second is not None:
            second = nest.Tensor(second.flat, (self.stages[i].out_height * positions, self.stages[i].part.output_row))
        self.f.store(
            self.stages[i].part,
            out,
            value,
            width,
            lambda lane: (0, slot, column - left, c + lane),
            second,
            lambda lane: (row * positions + column, c + lane),
            self.apart,
        )

    def _clear(self, i: int) -> None:
        """Zero columns on both sides of the image in a line buffer; they stay zero."""
        _, line_buffer, _, channels = self.out[i].shape
        for at, column in enumerate(self.read(i)):
            if not 0 <= column < self.stages[i].out_width:
                with nest.serial(line_buffer) as slot:
                    self._zeros(i, slot, at, channels)

    def _zeros(self, i: int, slot, column, channels: int) -> None:
        out = self.out[i]
        zero, lanes = values.const(0.0, out.dtype), self.f.lanes(out.dtype)
        whole, rest = divmod(channels, lanes)
        if whole:
            with nest.serial(whole) as c:
                out[0, slot, column, nest.Lanes(c * lanes, lanes)] = values.broadcast(zero, lanes)
        for c in range(rest):
            out[0, slot, column, whole * lanes + c] = zero

    def fill(self, i: int, reader_row) -> None:
        """Produce the rows of part i that a row of its reader needs and no row before it did.

        Rows outside of the image are zeros.
        """
        stage, part = self.stages[i], self.stages[i + 1].part
        window = (part.kernel[0] - 1) * part.dilation[0] + 1
        top = source(part, 0, reader_row, 0)
        begin = T.Select(reader_row == self.first[i + 1], top, top - part.stride[0] + window)
        with nest.span(begin, top + window) as row:

            def zeros():
                with nest.serial(len(self.read(i))) as at:
                    self._zeros(i, self.slot(i, row), at, stage.part.out_channels)

            nest.either(tirx.all(row >= 0, row < stage.out_height), lambda: self.produce(i, row), zeros)

    def _pointwise(self, i: int, row) -> None:
        columns, step = self.columns[i], self.d[f"{i}.m_block"]
        if i:
            self.produce(i - 1, row)
        product = _Product(self, i, row)
        blocks, rest = divmod(len(columns), step)
        if blocks:
            with nest.serial(blocks) as piece:
                product.block(columns.start + piece * step, step)
        if rest:
            product.block(columns.start + blocks * step, rest)

    def _depthwise(self, i: int, row) -> None:
        part, columns, tile = self.stages[i].part, self.columns[i], self.d[f"{i}.tile_w"]
        filters = _Filters(self, i, row)
        if i:
            every_h, every_w = tuple(range(part.kernel[0])), tuple(range(part.kernel[1]))
            tiles, rest = divmod(len(columns), tile)
            if tiles:
                with nest.serial(tiles) as t:
                    filters.positions(every_h, [every_w] * tile, columns.start + t * tile)
            if rest:
                filters.positions(every_h, [every_w] * rest, columns.start + tiles * tile)
            return
        rows = runs(part, 0, 1)

        def line(r: int, _) -> None:
            for run in runs(part, 1, tile, columns):
                with nest.serial(run.count) as t:
                    filters.positions(rows[r].taps[0], run.taps, run.start + t * run.tile)

        nest.switch(row, [r.count for r in rows], line)

    def _conv(self, i: int, row) -> None:
        part, d = self.stages[i].part, self.d
        read = window(part, self.columns[i])
        read = range(max(0, read.start), min(part.width, read.stop))
        data = conv.converted(part, self.f, self.input, 0, row, read, self.f.get(f"pixels{i}"))
        taps = conv.Taps(part, data, self.f[f"weight{i}"], min(2, part.channels))

        def panel(first, channels):
            for run in runs(part, 1, d[f"{i}.tile_m"], self.columns[i]):
                with nest.serial(run.count) as t:
                    w = run.start + t * run.tile
                    sums = Sums(self.f, part, run.tile, channels)
                    sums.total.set_rows(self.f[f"bias{i}"], first, self.apart)
                    taps.accumulate(sums, run, Position(0, row, w, first))
                    for j in range(run.tile):
                        self.store(i, row, w + j, lambda lane, j=j, sums=sums: sums[j, lane], channels, first)

        panels, rest = divmod(part.out_channels, d[f"{i}.tile_n"])
        with nest.serial(panels) as p:
            panel(p * d[f"{i}.tile_n"], d[f"{i}.tile_n"])
        if rest:
            panel(panels * d[f"{i}.tile_n"], rest)


class _Product:
    """One row of a pointwise part."""

    def __init__(self, fused_block: _FusedBlock, i: int, row):
        self.fused_block, self.i, self.row, self.part = fused_block, i, row, fused_block.stages[i].part
        self.tile_m, self.tile_n = fused_block.d[f"{i}.tile_m"], fused_block.d[f"{i}.tile_n"]
        self.weight, self.bias = fused_block.f[f"weight{i}"], fused_block.f[f"bias{i}"]
        self.dual_issue = fused_block.d.get(f"{i}.loop") == "dual_issue" and (i or self.part.input_layout == "NHWC")

    def block(self, start, positions: int) -> None:
        """So many positions from ``start`` on, all panels."""
        panels, rest = divmod(self.part.out_channels, self.tile_n)
        with nest.serial(panels) as p:
            self._panel(start, positions, p * self.tile_n, self.tile_n)
        if rest:
            self._panel(start, positions, panels * self.tile_n, rest)

    def _panel(self, start, positions: int, first, channels: int) -> None:
        tiles, rest = divmod(positions, self.tile_m)
        if tiles:
            with nest.serial(tiles) as t:
                self._tile(start + t * self.tile_m, self.tile_m, first, channels)
        if rest:
            self._tile(start + tiles * self.tile_m, rest, first, channels)

    def _tile(self, column, height: int, first, channels: int) -> None:
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
            return fused_block.out[i - 1][0, 0, position - fused_block.columns[i].start, c]
        return fused_block.input[nest.at(self.part.input_layout, 0, self.row, position, c)]


class _Filters:
    """One row of a depthwise part; what it reads of the part before is produced first."""

    def __init__(self, fused_block: _FusedBlock, i: int, row):
        self.fused_block, self.i, self.row, self.part = fused_block, i, row, fused_block.stages[i].part
        self.weight, self.bias = fused_block.f[f"weight{i}"], fused_block.f[f"bias{i}"]
        self.read, self.out = fused_block.out[i - 1] if i else fused_block.input, fused_block.out[i]
        self.top = source(self.part, 0, row, 0)
        if i:
            fused_block.fill(i - 1, row)
            reach, step = self.part.kernel[0], self.part.dilation[0]
            taps_at = range(0, (reach - 1) * step + 1, step)
            self.slots = {y: nest.named(fused_block.slot(i - 1, self.top + y), f"slot{i}") for y in taps_at}

    def positions(self, taps_h, taps_w, w) -> None:
        """A tile of positions from column w on, all channels."""
        lanes = self.fused_block.d[f"{self.i}.lanes"]
        whole, rest = divmod(self.part.channels, lanes)
        if whole:
            with nest.serial(whole) as v:
                self._channels(taps_h, taps_w, w, v * lanes, lanes)
        if rest:
            self._channels(taps_h, taps_w, w, whole * lanes, rest)

    def _channels(self, taps_h, taps_w, w, c, lanes: int) -> None:
        fused_block, part = self.fused_block, self.part
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
            fused_block.store(self.i, self.row, w + j, lambda lane, j=j: sums[j, lane], lanes, c)

    def _row_tile(self, taps_h, taps_w, w, c, lanes: int) -> None:
        fused_block, i = self.fused_block, self.i
        inorder_depthwise.filter_strip(
            strip_of(self.part, [taps_h], taps_w),
            lambda y, x: self._data(y, x, w, c + 0),
            lambda kh, kw: self.weight[kh, kw, nest.Lanes(c, lanes)],
            self.bias[nest.Lanes(c, lanes)],
            lambda _: self.out[0, fused_block.slot(i, self.row), w - fused_block.read(i).start, c],
            (self.read.row_bytes, self.out.row_bytes),
        )

    def _data(self, y, x, w, c):
        part = self.part
        if self.i:
            return self.read[0, self.slots[y], (w - self.fused_block.columns[self.i].start) * part.stride[1] + x, c]
        return self.read[nest.at(part.input_layout, 0, self.top + y, source(part, 1, w, 0) + x, c)]


# ---- the constants


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The constants of every part, each as its own schedule packs them."""
    packed: list[np.ndarray] = []
    for i, part in enumerate(layer.parts):
        own = {"tile_n": d.get(f"{i}.tile_n"), "k_block": part.channels}
        of_part = {name.removeprefix(f"{i}."): array for name, array in arrays.items() if name.startswith(f"{i}.")}
        packed += schedules.of(part).pack(part, own, of_part)
    return packed


def constants(layer: Layer) -> list[nest.Argument]:
    """What `pack` gives."""
    return [
        (f"{name}{i}", shape, dtype)
        for i, part in enumerate(layer.parts)
        for name, shape, dtype in schedules.of(part).constants(part, {})
    ]


# ---- the choices


def decisions(layer: Layer, core) -> Space:
    """The search space, and in it the point of an untuned build."""
    candidates, default = space.choices(layer, core), defaults.choose(layer, core)
    choices = {name: Choice(those, default[name]) for name, those in candidates.items()}
    choices["apart"] = nest.apart_choice(core)
    choices |= nest.vector_choice(layer, core)
    return Space(choices, lambda d: space.refuse(layer, d, core))
