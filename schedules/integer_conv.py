"""Convolutions of int8: the ways to sum the products of a tile of columns.

``dot``   four channels of a tap with one instruction: for cores with dot products and channels-last data whose rows are
whole quads of bytes. Weights ``[panels][kh, kw][c / 4][n][4]``, channels padded with zeros
``deep``  sixteen channels of a tap at a time, as ``long`` of `integer_products`: for taps with many channels, on cores
          that issue out of order. Weights ``[panels][kh, kw][c / 16][n][16]``
``long``  eight output channels at a time: long multiplies by a value of the data make int16 products, of which
          ``Layer.group`` neighbours of ``[kh, kw, c]`` are summed before they are added to int32
``lanes`` four output channels times one value, held in a lane of int16: for stems with eight output channels, on cores
          that issue out of order. It needs no values in all lanes and no additions, for twice as many multiplies
``wide``  channel by channel in int32

The weights of the last three ways are ``[groups][panels][kh, kw][c][n]``. A tap outside the image reads the zero point
of the data. If a tap has many channels, the zero point is multiplied by the sum of its weights, ``outside``, instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm_mobilenet.schedules import integer_outputs, integers, nest, values
from tvm_mobilenet.schedules.choices import Decisions
from tvm_mobilenet.schedules.integer_products import BYTES, QUAD, SUMS, across, add_pairs, padded
from tvm_mobilenet.schedules.position import Position
from tvm_mobilenet.schedules.window import Run, runs, source, written_out

from tvm_mobilenet.layer import Layer

LANES = 8  # int16 products in one instruction
# This holds for every core: with fewer channels, adding up the sums in a vector costs more than `deep` saves.
DEEP = 32


def columns(layer: Layer, core) -> int:
    """The number of columns that a tile's width is a multiple of."""
    return LANES if ways(layer, core)[0] == "long" else SUMS


def ways(layer: Layer, core) -> tuple[str, ...]:
    """The ways in which a core may sum a layer's products, the best first."""
    direct = layer.groups == 1 and not layer.weights
    quads = layer.input_layout == "NHWC" and layer.input_row % QUAD == 0
    found = ["dot"] if core.dot_products and quads and direct else []
    whole = written_out(layer) or (layer.group and layer.channels % layer.group == 0)
    long = layer.group and whole and direct and layer.out_channels % LANES == 0
    deep = layer.group and direct and layer.input_layout == "NHWC" and not core.in_order
    deep = deep and layer.channels >= DEEP and layer.channels % BYTES == 0
    # With more output channels, `long` multiplies eight of them by each value that it broadcasts, in as little time.
    few = layer.out_channels == LANES and layer.channels <= QUAD and written_out(layer)
    lanes = long and quads and few and not core.in_order
    if core.architecture == "aarch64":
        found += [*(["deep"] * bool(deep)), *(["lanes"] * bool(lanes)), *(["long"] * bool(long))]
    return (*found, "wide")


@dataclass(frozen=True)
class Tiles:
    """The code of a kernel's tiles."""

    layer: Layer
    d: Decisions
    f: nest.Kernel

    def tile(self, run: Run, at: Position, group, width: int) -> None:
        """Compute the outputs of one tile of columns, for ``width`` channels of a group."""
        layer = self.layer
        columns = padded(width) if layer.groups == 1 else width
        deep = self.d["products"] == "deep"
        acc = self.f.tile(run.tile, columns * (SUMS if deep else 1), "int32")
        whole = self.f.tile(1, columns, "int32") if deep else acc  # what all positions have alike, if apart
        whole.set_rows(self.f["bias"], at.c, self.d["apart"] != "none")
        if deep:
            acc.set(lambda i, lane: values.const(0, "int32"))
        add = getattr(self, "_" + self.d["products"])

        def tap_row(kh, inside: bool, by: int) -> None:
            for kw in range(layer.kernel[1]):
                reads = [i if inside and kw in taps else None for i, taps in enumerate(run.taps)]
                if leaves_out(layer) and set(reads) == {None}:
                    self._outside(whole, at, kh * layer.kernel[1] + kw)
                    continue
                add(acc, run, at, group, kh, kw, reads, by)

        if written_out(layer):
            rows = runs(layer, 0, 1)
            depth = layer.channels // layer.groups

            def window(r: int, _) -> None:
                inside = rows[r].taps[0]
                if self.d["products"] == "lanes":
                    self._lanes(acc, run, at, inside)
                    return
                if self.d["products"] == "long":
                    self._grouped(
                        acc, at, [s for kh in range(layer.kernel[0]) for s in self._steps(run, kh, kh in inside)]
                    )
                    return
                for kh in range(layer.kernel[0]):
                    tap_row(kh, kh in inside, depth)

            nest.switch(at.h, [r.count for r in rows], window)
        else:
            with nest.serial(layer.kernel[0]) as kh:
                y = source(layer, 0, at.h, kh)
                inside = tirx.all(y >= 0, y < layer.height)
                by = self.d["c_unroll"]
                nest.either(inside, lambda: tap_row(kh, True, by), lambda: tap_row(kh, False, by))

        def sums(i: int, first: int, count: int):
            if deep:
                return across(acc, i, first, count, lambda lane: whole[0, lane])
            return acc[i, nest.Lanes(first, count) if count > 1 else first]

        rows = [
            integer_outputs.Row(
                lambda first, count, i=i: sums(i, first, count), lambda lane, i=i: at.output(layer, lane, 0, i)
            )
            for i in range(run.tile)
        ]
        integer_outputs.store(layer, self.f, rows, width, at.c, padded=layer.groups == 1)

    def _outside(self, acc: nest.Tile, at: Position, tap) -> None:
        """Add the products of a tap that lies outside the image for all columns of a tile."""
        zero, first = self.f["ends"][0], tap * padded(self.layer.out_channels) + at.c
        for i in range(acc.rows):
            acc.add_product(i, lambda lane: zero, lambda lane: self.f["outside"][first + lane])

    def _index(self, at: Position, i: int, kh, kw: int, channel):
        layer = self.layer
        y, x = source(layer, 0, at.h, kh), source(layer, 1, at.w + i, kw)
        return nest.at(layer.input_layout, at.b, y, x, channel)

    def _wide(self, acc: nest.Tile, run: Run, at: Position, group, kh, kw: int, reads: list, by: int) -> None:
        layer = self.layer
        depth, taps = layer.channels // layer.groups, layer.kernel[0] * layer.kernel[1]
        zero = values.cast(self.f["ends"][0], "int8")

        def step(c):
            start = at.c * (taps * depth) + ((kh * layer.kernel[1] + kw) * depth + c) * acc.width
            for i, read in enumerate(reads):
                value = zero if read is None else self.f["data"][self._index(at, i, kh, kw, group * depth + c)]
                acc.add_product(i, lambda lane, value=value: value, lambda lane: self.f["weight"][start + lane])

        nest.unrolled(depth, by, step)

    def _steps(self, run: Run, kh: int, inside: bool) -> list[tuple]:
        """All products of a row of taps: the start of their weights, tap, channel and the outputs that read them."""
        depth = self.layer.channels
        return [
            (kh, kw, c, [i if inside and kw in taps else None for i, taps in enumerate(run.taps)])
            for kw in range(self.layer.kernel[1])
            for c in range(depth)
        ]

    def _long(self, acc: nest.Tile, run: Run, at: Position, group, kh, kw: int, reads: list, by: int) -> None:
        together = self.layer.group

        def step(c):
            self._grouped(acc, at, [(kh, kw, c * together + u, reads) for u in range(together)])

        nest.unrolled(self.layer.channels // together, by, step)

    def _deep(self, acc: nest.Tile, run: Run, at: Position, group, kh, kw: int, reads: list, by: int) -> None:
        layer, f, width = self.layer, self.f, acc.width // SUMS
        zero = tirx.Broadcast(values.cast(f["ends"][0], "int8"), BYTES)
        first = at.c * (layer.kernel[0] * layer.kernel[1] * layer.channels)

        def step(turn):
            data = f.variables(acc.rows, BYTES, "int8")
            for i, read in enumerate(reads):
                lane = nest.Lanes(turn * BYTES, BYTES)
                data[i] = zero if read is None else f["data"][self._index(at, i, kh, kw, lane)]
            start = first + ((kh * layer.kernel[1] + kw) * layer.channels + turn * BYTES) * width
            for j in range(width):
                weights = f.variables(1, BYTES, "int8")
                weights[0] = f["weight"][nest.Lanes(start + j * BYTES, BYTES)]
                for i in range(acc.rows):
                    add_pairs(acc, i, j, [data[i]], [weights[0]], layer.group)

        nest.unrolled(layer.channels // BYTES, 1, step)

    def _grouped(self, acc: nest.Tile, at: Position, steps: list[tuple]) -> None:
        """Add the products of several steps, as many at a time as an int16 can sum."""
        layer, f = self.layer, self.f
        taps, together = layer.kernel[0] * layer.kernel[1] * layer.channels, layer.group
        zero = values.cast(f["ends"][0], "int8")
        for first in range(0, len(steps), together):
            members = steps[first : first + together]
            data = [f.variables(len(members), BYTES, "int8") for _ in range(acc.rows)]
            for u, (kh, kw, c, reads) in enumerate(members):
                for i, read in enumerate(reads):
                    value = zero if read is None else f["data"][self._index(at, i, kh, kw, c)]
                    data[i][u] = tirx.Broadcast(value, BYTES)
            for v in range(0, acc.width, BYTES):
                count = min(BYTES, acc.width - v)
                weights = f.variables(len(members), count, "int8")
                for u, (kh, kw, c, _) in enumerate(members):
                    start = at.c * taps + ((kh * layer.kernel[1] + kw) * layer.channels + c) * acc.width + v
                    weights[u] = f["weight"][nest.Lanes(start, count)]
                for i in range(acc.rows):
                    self._add_grouped(acc, i, v, data[i], weights, len(members), count)

    def _lanes(self, acc: nest.Tile, run: Run, at: Position, inside) -> None:
        """Add all products of a window, of int16: four output channels times one value of a pixel at a time."""
        layer, f, taps = self.layer, self.f, self.layer.kernel[0] * self.layer.kernel[1] * self.layer.channels
        zero = tirx.Broadcast(values.cast(f["ends"][0], "int16"), QUAD)
        for kh in range(layer.kernel[0]):
            pixels: dict[int, nest.Variables] = {}

            def pixel(i: int, kw: int, kh=kh, pixels=pixels):
                if kh not in inside or kw not in run.taps[i]:
                    return zero
                x = i * layer.stride[1] + kw * layer.dilation[1]
                if x not in pixels:
                    pixels[x] = f.variables(1, QUAD, "int16")
                    data = f["data"][self._index(at, i, kh, kw, nest.Lanes(0, QUAD))]
                    pixels[x][0] = data.astype("int16x4")
                return pixels[x][0]

            for kw in range(layer.kernel[1]):
                for c in range(layer.channels):
                    start = at.c * taps + ((kh * layer.kernel[1] + kw) * layer.channels + c) * acc.width
                    weights = f.variables(1, acc.width, "int16")
                    weights[0] = f["weight"][nest.Lanes(start, acc.width)].astype(f"int16x{acc.width}")
                    for i in range(acc.rows):
                        value = tirx.Shuffle([pixel(i, kw)], [c] * SUMS)
                        for v in range(0, acc.width, SUMS):
                            place = i, nest.Lanes(v, SUMS)
                            four = tirx.Shuffle([weights[0]], list(range(v, v + SUMS)))
                            product = tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.smull", four, value)
                            acc[place] = acc[place] + product

    def _add_grouped(self, acc: nest.Tile, i: int, v: int, data, weights, members: int, count: int) -> None:
        for half in range(count // LANES):
            total = None
            for u in range(members):
                left = integers.eighth(data[u], half, BYTES).astype("int16x8")
                product = left * integers.eighth(weights[u], half, count).astype("int16x8")
                total = product if total is None else total + product
            short = self.f.variables(1, LANES, "int16")
            short[0] = total
            for quarter in range(2):
                place = i, nest.Lanes(v + LANES * half + SUMS * quarter, SUMS)
                four = tirx.Shuffle([short[0]], list(range(SUMS * quarter, SUMS * quarter + SUMS)))
                acc[place] = acc[place] + four.astype("int32x4")

    def _dot(self, acc: nest.Tile, run: Run, at: Position, group, kh, kw: int, reads: list, by: int) -> None:
        layer = self.layer
        quads, taps = -(-layer.channels // QUAD), layer.kernel[0] * layer.kernel[1]
        zero = tirx.Broadcast(values.cast(self.f["ends"][0], "int8"), BYTES)

        def step(quad):
            start = at.c * (taps * quads * QUAD) + ((kh * layer.kernel[1] + kw) * quads + quad) * acc.width * QUAD
            for i, read in enumerate(reads):
                lane = zero
                if read is not None:
                    data = self.f["data"][self._index(at, i, kh, kw, nest.Lanes(quad * QUAD, QUAD))]
                    lane = tirx.Broadcast(integers.reinterpret(data, "int32", 1), SUMS)
                    lane = integers.reinterpret(lane, "int8", BYTES)
                for v in range(0, acc.width, SUMS):
                    place, weights = (i, nest.Lanes(v, SUMS)), self.f["weight"][nest.Lanes(start + v * QUAD, BYTES)]
                    acc[place] = tirx.call_llvm_pure_intrin(
                        "int32x4", "llvm.aarch64.neon.sdot", acc[place], weights, lane
                    )

        nest.unrolled(quads, min(by, quads), step)


# ---- the constants


def leaves_out(layer: Layer) -> bool:
    """Whether the kernel has no products with the padding; short windows are written out, with few of them."""
    return not written_out(layer) and any(layer.padding) and layer.groups == 1


def arguments(layer: Layer) -> list[nest.Argument]:
    """The constants besides those of every integer layer."""
    taps = layer.kernel[0] * layer.kernel[1]
    return [("outside", (taps * padded(layer.out_channels),), "int32")] if leaves_out(layer) else []


def pack_more(layer: Layer, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The constants that `arguments` names."""
    if not leaves_out(layer):
        return []
    sums = arrays["weight"].astype(np.int64).sum(1).transpose(1, 2, 0)
    rest = padded(layer.out_channels) - layer.out_channels
    return [np.pad(sums, ((0, 0), (0, 0), (0, rest))).ravel().astype(np.int32)]


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Weights (n, c / groups, kh, kw) in the layout that this way of summing reads."""
    n, pieces = layer.out_channels // layer.groups, []
    for group in arrays["weight"].reshape(layer.groups, n, *arrays["weight"].shape[1:]):
        for n0 in range(0, n, d["tile_n"]):
            panel = group[n0 : n0 + d["tile_n"]]
            if layer.groups == 1:
                panel = np.pad(panel, ((0, padded(len(panel)) - len(panel)), (0, 0), (0, 0), (0, 0)))
            if d["products"] == "deep":
                vectors = panel.reshape(len(panel), -1, BYTES, *layer.kernel)
                pieces.append(vectors.transpose(3, 4, 1, 0, 2).ravel())
            elif d["products"] == "dot":
                panel = np.pad(panel, ((0, 0), (0, -panel.shape[1] % QUAD), (0, 0), (0, 0)))
                quads = panel.reshape(len(panel), -1, QUAD, *layer.kernel)
                pieces.append(quads.transpose(3, 4, 1, 0, 2).ravel())
            else:
                pieces.append(panel.transpose(2, 3, 1, 0).ravel())
    return np.concatenate(pieces).astype(layer.weight_dtype)


def weights(layer: Layer, d: Decisions) -> int:
    """The number of bytes of the packed weights."""
    taps, depth = layer.kernel[0] * layer.kernel[1], layer.channels // layer.groups
    columns = padded(layer.out_channels) if layer.groups == 1 else layer.out_channels
    return columns * taps * (-(-depth // QUAD) * QUAD if d["products"] == "dot" else depth)
