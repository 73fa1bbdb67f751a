"""Chains: convolution, depthwise and pointwise layers in one kernel, rows streamed from each to the next.

What lies between two layers is never a whole tensor, only as many rows as the next one reads. The early activations of
a MobileNet are larger than any cache of these cores (1.6 and 3.2 MB at 224), so this is what keeps them out of DRAM.

The nest, for parts such as conv > depthwise > pointwise > depthwise > pointwise::

    parallel over bands of the last part's columns x strips of its rows
      for each row of the strip: produce(last part, row)

    produce(part, row):
      pointwise  produce(the part before, row) into one row, then for each m_block of its positions (half an L1), for
                 each panel of tile_n channels, for each tile of tile_m positions: multiply as schedules/pointwise.py
                 does, all of k at once
      depthwise  produce the rows of the part before that are still missing under this row's window, into a ring of
                 rows with zeros around it, then filter tiles of tile_w positions, channels innermost
      conv       as schedules/conv.py, from the network's input

A ring has zero columns at its sides, and its rows outside of the image are filled with zeros, so that tiles that read
it need no cases for borders; a depthwise part that reads the input itself has them. Only the first rows of a strip are
computed twice, by it and the strip before, and the columns that a window at a band's side reaches into the next.

Bands make rings narrower, so that a core's share of the L2 holds them, and four even tasks of 14 rows. Each is code of
its own, since its columns are constants.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import conv, depthwise, nest, pointwise
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space, line_channels
from tvm_mobilenet.schedules.in_order import depthwise as inorder_depthwise
from tvm_mobilenet.schedules.in_order import pointwise as inorder
from tvm_mobilenet.schedules.registers import sum_lanes
from tvm_mobilenet.schedules.row_tiles import BANDS, between, blocks_of, columns_of, stages, strips_of, tasks, window
from tvm_mobilenet.schedules.window import evicts_itself, runs, source

from tvm_mobilenet import schedules
from tvm_mobilenet.layer import Layer

DTYPES = ("float32",)
WIDTHS = (7, 6, 5, 8, 4, 3, 2)  # of depthwise tiles, where they divide the row; 8 leave fewer lines in the L1


def decisions(layer: Layer, core) -> Space:
    choices: dict[str, Choice] = {}
    last = stages(layer)[-1]
    possible = tuple(b for b in BANDS if b <= last.out_width)
    strips, bands = tasks(layer, core) or (min(core.cpus, last.out_height), 1)
    widths = [max(map(len, columns)) for columns in zip(*columns_of(layer, bands), strict=True)]
    for i, (stage, width) in enumerate(zip(stages(layer), widths, strict=True)):
        part = stage.part
        if part.kind == "depthwise":
            choices[f"{i}.tile_w"], choices[f"{i}.lanes"] = _depthwise_tile(part, width, core, first=not i)
            if depthwise.strips(part, core):
                choices[f"{i}.loop"] = Choice(inorder.LOOPS, "paired")
            continue
        if part.kind == "pointwise":
            blocks = blocks_of(width)
            half = [b for b in blocks if b * part.channels * part.bytes <= core.l1d.bytes // 2]
            width = max(half, default=blocks[0])
            choices |= {f"{i}.{name}": choice for name, choice in pointwise.loop_choice(part, core).items()}
            choices[f"{i}.m_block"] = Choice(blocks, width)
        kind = conv if part.kind == "conv" else pointwise
        tiles_m, tiles_n, (tile_m, tile_n) = kind.tiles_of(part, width, core)
        choices[f"{i}.tile_m"] = Choice(tuple(tiles_m), tile_m)
        choices[f"{i}.tile_n"] = Choice(tuple(tiles_n), tile_n)
    several = {s for s in strips_of(core.cpus) if s <= last.out_height} | {strips}
    choices["strips"] = Choice(tuple(sorted(several)), strips)
    choices["bands"] = Choice(possible, bands)
    choices["apart"] = nest.apart_choice(core)
    choices |= nest.vector_choice(layer, core)
    return Space(choices, lambda d: _refuse(layer, d, core))


def _depthwise_tile(part: Layer, width: int, core, first: bool) -> tuple[Choice, Choice]:
    """Positions of a depthwise part's tile, in rows of ``width``, and lanes; ``first``: it reads the chain's input."""
    tiles = [t for t in (2, 3, 4, 5, 6, 7, 8, 14, 28) if t <= width] or [1]
    vector, line = sum_lanes(part, core), line_channels(part, core)
    if depthwise.strips(part, core):
        wide = [t for t in tiles if t <= depthwise.SHORT or not evicts_itself(part, 1, t, core)]
        return Choice(tuple(tiles), max(wide)), Choice((vector, 2 * vector), vector)

    def fits(tile: int, lanes: int) -> bool:
        return depthwise.registers(1, tile, lanes, vector) <= core.vector_registers

    narrow = [t for t in tiles if fits(t, vector)]
    divides = [t for t in WIDTHS if t in narrow and width % t == 0]
    # In order, loads count.
    tile_w = min(narrow, key=lambda t: _row_loads(part, width, t)) if core.in_order or not divides else divides[0]
    lanes = max(v for v in (vector, depthwise.pair_of(part, core)) if fits(tile_w, v))
    four = min(4, width)
    whole_lines = fits(four, line) and part.channels >= line > vector and four in tiles
    if first and whole_lines and evicts_itself(part, 1, tile_w, core):
        tile_w, lanes = four, line
    several = {vector, 2 * vector, *[line] * whole_lines}
    return Choice(tuple(tiles), tile_w), Choice(tuple(sorted(several)), lanes)


def _row_loads(part: Layer, width: int, tile: int) -> int:
    """Vectors that a depthwise part loads for a row of its positions, in tiles."""
    tiles, rest = divmod(width, tile)
    return tiles * depthwise.tile_loads(part, 1, tile) + (depthwise.tile_loads(part, 1, rest) if rest else 0)


def _refuse(layer: Layer, d: Decisions, core) -> str:
    if d["strips"] * d["bands"] < min(core.cpus, stages(layer)[-1].out_height):
        return f"{d['strips']} strips x {d['bands']} bands leave cores without a task"
    vector = sum_lanes(layer, core)
    for i, part in enumerate(layer.parts):
        if d.get(f"{i}.loop") == "paired" and part.kind == "depthwise":
            if d[f"{i}.lanes"] != vector:
                return f"the paired loop of part {i} takes one vector of channels at a time"
            continue
        if part.kind == "depthwise":
            need = depthwise.registers(1, d[f"{i}.tile_w"], d[f"{i}.lanes"], vector)
        else:
            need = pointwise.registers(d[f"{i}.tile_m"], d[f"{i}.tile_n"], vector)
        if need > core.vector_registers:
            return f"the tile of part {i} needs {need} registers"
    return ""


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
        for name, shape, dtype in schedules.of(part).constants(part)
    ]


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    with nest.Kernel(nest.arguments(layer, constants(layer)), d) as f, nest.parallel(d["bands"] * d["strips"]) as task:
        _Chain(layer, d, f).run(task)
    return f.prim_func


class _Chain:
    """The kernel's code: one method a kind of part."""

    def __init__(self, layer: Layer, d: Decisions, f: nest.Kernel):
        self.d, self.f, self.stages = d, f, stages(layer)
        self.apart = d["apart"] != "none"
        last = self.stages[-1]
        # What each part writes: rings and blocks, and at the end the output, by rows.
        self.out = [f.scratch(s, p.output_dtype) for s, p in zip(between(layer, d["bands"]), layer.parts, strict=False)]
        self.out.append(nest.Tensor(f["output"].flat, (1, last.out_height, last.out_width, last.part.output_row)))
        first = self.stages[0]
        shape = nest.at(first.part.input_layout, 1, first.height, first.width, first.part.input_row)
        self.input = nest.Tensor(f["data"].flat, shape)
        self.bands = columns_of(layer, d["bands"])
        self.columns = self.bands[0]  # of each part, in the band whose code is being written

    def run(self, task) -> None:
        rows, strips = self.stages[-1].out_height, self.d["strips"]
        strip = nest.named(task % strips, "strip")
        start, stop = strip * rows // strips, (strip + 1) * rows // strips
        # The first row of each part that this strip needs.
        self.first: dict[int, object] = {len(self.stages) - 1: start}
        for i in range(len(self.stages) - 1, 0, -1):
            part = self.stages[i].part
            self.first[i - 1] = (
                T.max(0, source(part, 0, self.first[i], 0)) if part.kind == "depthwise" else self.first[i]
            )

        def band(n: int, _) -> None:
            self.columns = self.bands[n]
            for i in range(len(self.stages) - 1):
                self._clear(i)
            with nest.span(start, stop) as row:
                self.produce(len(self.stages) - 1, row)

        nest.switch(task, [strips] * len(self.bands), band)

    def produce(self, i: int, row) -> None:
        """Compute one row of part i, and of the parts before what it still lacks."""
        getattr(self, "_" + self.stages[i].part.kind)(i, nest.named(row, f"row{i}"))

    def _slot(self, i: int, row):
        """Where a row of part i lies in what it writes."""
        if i == len(self.stages) - 1:
            return row
        ring = self.out[i].shape[1]
        return 0 if ring == 1 else tirx.truncmod(row + ring, ring)

    def _read(self, i: int) -> range:
        """The columns of part i that the next part reads, padding among them: what part i writes begins with these."""
        last = i == len(self.stages) - 1
        return range(self.stages[i].out_width) if last else window(self.stages[i + 1].part, self.columns[i + 1])

    def _store(self, i: int, row, column, value, width: int, c) -> None:
        out, left = self.out[i], self._read(i).start
        slot = self._slot(i, row)
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
        """Zero columns on both sides of the image in a ring; they stay zero."""
        _, ring, _, channels = self.out[i].shape
        for at, column in enumerate(self._read(i)):
            if not 0 <= column < self.stages[i].out_width:
                with nest.serial(ring) as slot:
                    self._zeros(i, slot, at, channels)

    def _zeros(self, i: int, slot, column, channels: int) -> None:
        out = self.out[i]
        zero, lanes = nest.const(0.0, out.dtype), self.f.lanes(out.dtype)
        whole, rest = divmod(channels, lanes)
        if whole:
            with nest.serial(whole) as c:
                out[0, slot, column, nest.Lanes(c * lanes, lanes)] = nest.broadcast(zero, lanes)
        for c in range(rest):
            out[0, slot, column, whole * lanes + c] = zero

    def _fill(self, i: int, reader_row) -> None:
        """Produce the rows of part i that a row of its reader needs and no row before it did.

        Rows outside of the image are zeros.
        """
        stage, part = self.stages[i], self.stages[i + 1].part
        window = (part.kernel[0] - 1) * part.dilation[0] + 1
        top = source(part, 0, reader_row, 0)
        begin = T.Select(reader_row == self.first[i + 1], top, top - part.stride[0] + window)
        with nest.span(begin, top + window) as row:

            def zeros():
                with nest.serial(len(self._read(i))) as at:
                    self._zeros(i, self._slot(i, row), at, stage.part.out_channels)

            nest.either(tirx.all(row >= 0, row < stage.out_height), lambda: self.produce(i, row), zeros)

    def _pointwise(self, i: int, row) -> None:
        stage, d, columns = self.stages[i], self.d, self.columns[i]
        k, n = stage.part.channels, stage.part.out_channels
        if i:
            self.produce(i - 1, row)
        weight, bias = self.f[f"weight{i}"], self.f[f"bias{i}"]
        paired = d.get(f"{i}.loop") == "paired" and (i or stage.part.input_layout == "NHWC")

        def data(position, c):
            if i:
                return self.out[i - 1][0, 0, position - columns.start, c]
            return self.input[nest.at(stage.part.input_layout, 0, row, position, c)]

        def tile(column, height, first, channels):
            acc = self.f.tile(height, channels, stage.part.accumulator_dtype)
            acc.set_rows(bias, first, self.apart)
            pointwise.multiply(
                acc,
                k,
                min(4, k),
                lambda m, c: data(column + m, c),
                lambda c, lane: weight[first * k + c * channels + lane],
                stage.part.input_row if paired else 0,
            )
            for m in range(height):
                self._store(i, row, column + m, lambda lane, m=m: acc[m, lane], channels, first)

        def panel(start, positions, first, channels):
            tiles, rest = divmod(positions, d[f"{i}.tile_m"])
            if tiles:
                with nest.serial(tiles) as t:
                    tile(start + t * d[f"{i}.tile_m"], d[f"{i}.tile_m"], first, channels)
            if rest:
                tile(start + tiles * d[f"{i}.tile_m"], rest, first, channels)

        def block(start, positions):
            panels, rest = divmod(n, d[f"{i}.tile_n"])
            with nest.serial(panels) as p:
                panel(start, positions, p * d[f"{i}.tile_n"], d[f"{i}.tile_n"])
            if rest:
                panel(start, positions, panels * d[f"{i}.tile_n"], rest)

        blocks, rest = divmod(len(columns), d[f"{i}.m_block"])
        if blocks:
            with nest.serial(blocks) as piece:
                block(columns.start + piece * d[f"{i}.m_block"], d[f"{i}.m_block"])
        if rest:
            block(columns.start + blocks * d[f"{i}.m_block"], rest)

    def _depthwise(self, i: int, row) -> None:
        d, tile, columns = self.d, self.d[f"{i}.tile_w"], self.columns[i]
        part, c_all = self.stages[i].part, self.stages[i].part.channels
        weight, bias = self.f[f"weight{i}"], self.f[f"bias{i}"]
        read, out = self.out[i - 1] if i else self.input, self.out[i]
        top = source(part, 0, row, 0)
        if i:
            self._fill(i - 1, row)
            taps_at = range(0, (part.kernel[0] - 1) * part.dilation[0] + 1, part.dilation[0])
            slots = {y: nest.named(self._slot(i - 1, top + y), f"slot{i}") for y in taps_at}

        def data(y, x, lane, w, c):
            if i:
                return read[0, slots[y], (w - columns.start) * part.stride[1] + x, c + lane]
            return read[nest.at(part.input_layout, 0, top + y, source(part, 1, w, 0) + x, c + lane)]

        def positions(taps_h, taps_w, w):
            def channels(c, lanes):
                if d.get(f"{i}.loop") == "paired":
                    inorder_depthwise.filter_strip(
                        depthwise.strip_of(part, [taps_h], taps_w),
                        lambda y, x: data(y, x, 0, w, c),
                        lambda kh, kw: weight[kh, kw, nest.Lanes(c, lanes)],
                        bias[nest.Lanes(c, lanes)],
                        lambda _: out[0, self._slot(i, row), w - self._read(i).start, c],
                        (read.row_bytes, out.row_bytes),
                    )
                    return
                acc = self.f.tile(len(taps_w), lanes, part.accumulator_dtype)
                acc.set_rows(bias, c, d["apart"] == "all")
                depthwise.filter_tile(
                    part,
                    acc,
                    [taps_h],
                    taps_w,
                    lambda y, x, lane: data(y, x, lane, w, c),
                    lambda kh, kw, lane: weight[kh, kw, c + lane],
                )
                for j in range(len(taps_w)):
                    self._store(i, row, w + j, lambda lane, j=j: acc[j, lane], lanes, c)

            lanes = d[f"{i}.lanes"]
            whole, rest = divmod(c_all, lanes)
            if whole:
                with nest.serial(whole) as v:
                    channels(v * lanes, lanes)
            if rest:
                channels(whole * lanes, rest)

        if i:
            every_h, every_w = tuple(range(part.kernel[0])), tuple(range(part.kernel[1]))
            tiles, rest = divmod(len(columns), tile)
            if tiles:
                with nest.serial(tiles) as t:
                    positions(every_h, [every_w] * tile, columns.start + t * tile)
            if rest:
                positions(every_h, [every_w] * rest, columns.start + tiles * tile)
            return
        rows = runs(part, 0, 1)

        def line(r: int, _) -> None:
            for run in runs(part, 1, tile, columns):
                with nest.serial(run.count) as t:
                    positions(rows[r].taps[0], run.taps, run.start + t * run.tile)

        nest.switch(row, [r.count for r in rows], line)

    def _conv(self, i: int, row) -> None:
        part, d = self.stages[i].part, self.d
        depth, n = part.kernel[0] * part.kernel[1] * part.channels, part.out_channels

        def panel(first, channels):
            for run in runs(part, 1, d[f"{i}.tile_m"], self.columns[i]):
                with nest.serial(run.count) as t:
                    w = run.start + t * run.tile
                    acc = self.f.tile(run.tile, channels, part.accumulator_dtype)
                    acc.set_rows(self.f[f"bias{i}"], first, self.apart)
                    panel_at, unroll = first * depth, min(2, part.channels)
                    conv.convolve(part, acc, unroll, self.input, self.f[f"weight{i}"], panel_at, 0, row, run, w)
                    for j in range(run.tile):
                        self._store(i, row, w + j, lambda lane, j=j, acc=acc: acc[j, lane], channels, first)

        panels, rest = divmod(n, d[f"{i}.tile_n"])
        with nest.serial(panels) as p:
            panel(p * d[f"{i}.tile_n"], d[f"{i}.tile_n"])
        if rest:
            panel(panels * d[f"{i}.tile_n"], rest)
