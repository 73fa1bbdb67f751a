"""Depthwise filters of int8: the ways to sum the taps of a tile of positions, sixteen channels at a time.

``taps``  long multiplies make int16 products, of which ``Layer.group`` taps are summed before they are added to int32
``dot``   four neighbouring columns are interleaved, so one instruction sums up to four taps of a row for four channels:
for cores with dot products. `quads` says how many quads of columns are interleaved at a time. Weights are
``[row][output][quad][c][4]``, shifted to the places of an output's taps in the quads
``wide``  tap by tap in int32: any core, any number of channels

The positions of a tile are `window.shared_step` apart, since neighbours under a dilation have no data in common: the
positions of each residue are those of a plain layer. A tap outside the image reads the zero point of the data. Fewer
channels than lanes, at the end of a row, are loaded in pieces, since nothing beyond them may be read; the other lanes
are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm_mobilenet.schedules import integer_outputs, integers, nest, values
from tvm_mobilenet.schedules.choices import EVEN, Choice, Decisions, divisors, imbalance
from tvm_mobilenet.schedules.integer_products import BYTES, QUAD, SUMS, padded
from tvm_mobilenet.schedules.position import Position
from tvm_mobilenet.schedules.window import Run, shared_step, source

from tvm_mobilenet.layer import Layer


def ways(layer: Layer, core) -> tuple[str, ...]:
    """The ways in which a core may sum a layer's taps, the best first."""
    plain = layer.input_layout == layer.output_layout == "NHWC" and layer.channels >= SUMS and not layer.weights
    dot = core.dot_products and layer.kernel[1] <= 2 * QUAD and plain
    return (*(["dot"] * dot), *(["taps"] * bool(plain and layer.group)), "wide")


def quads(layer: Layer) -> int:
    """The number of quads of columns that are interleaved at a time."""
    return -(-layer.kernel[1] // QUAD)


def _stride(layer: Layer) -> int:
    """Columns from one position of a tile to the next, in units of the dilation."""
    return shared_step(layer, 1) * layer.stride[1] // layer.dilation[1]


def outputs(layer: Layer) -> int:
    """The number of neighbouring positions whose taps all lie in these quads."""
    return (quads(layer) * QUAD - layer.kernel[1]) // _stride(layer) + 1


def quads_of(layer: Layer, output: int) -> range:
    """The quads that contain taps of an output."""
    first = output * _stride(layer)
    return range(first // QUAD, (first + layer.kernel[1] - 1) // QUAD + 1)


@dataclass(frozen=True)
class Filters:
    """The code of a kernel's tiles."""

    layer: Layer
    d: Decisions
    f: nest.Kernel

    def tile(self, row: Run, column: Run, at: Position, width: int) -> None:
        """Compute the outputs of one tile, for ``width`` channels."""
        first = 0
        while first < width:
            count = self._together(min(BYTES, width - first))
            self._channels(row, column, Position(at.b, at.h, at.w, at.c + first), count)
            first += count

    def _together(self, left: int) -> int:
        """The number of the next channels that are computed at once."""
        few = self.d["products"] == "taps" and left < SUMS
        return 1 if self.d["products"] == "wide" or few else left

    def _channels(self, row: Run, column: Run, at: Position, count: int) -> None:
        window = _Window(self, row, column, at, count)
        way = self.d["products"] if window.lanes > 1 else "wide"
        sums = getattr(self, "_" + way)(window)

        def row_of(i: int, j: int) -> integer_outputs.Row:
            total = sums(i, j)
            return integer_outputs.Row(
                lambda first, n: _lanes(total, first, n),
                lambda lane: at.output(self.layer, lane, i * row.step, j * column.step),
            )

        rows = [row_of(i, j) for i in range(row.tile) for j in range(column.tile)]
        integer_outputs.store(self.layer, self.f, rows, count, at.c, padded=way != "wide")

    def _bias(self, at: Position, count: int) -> list:
        """The biases of ``count`` channels, as vectors of sums to start from; there are biases for whole vectors."""
        bias, first = self.f["bias"], at.c
        if self.d.get("apart", "none") != "none":
            bias, first = bias.row(at.c), 0
        return [bias[nest.Lanes(first + v, SUMS)] for v in range(0, count, SUMS)]

    # ---- ways of summing: each returns sums(i, j), the vectors of a position

    def _wide(self, window: _Window):
        layer, at = self.layer, window.at

        def sums(i: int, j: int):
            total = self.f["bias"][at.c] if window.count == 1 else self.f["bias"][nest.Lanes(at.c, window.count)]
            for kh in range(layer.kernel[0]):
                for kw in range(layer.kernel[1]):
                    weight = values.cast(self._tap(kh, kw, at.c, window.count), "int32")
                    total = total + values.cast(window.read(i, j, kh, kw), "int32") * weight
            return [total]

        return sums

    def _tap(self, kh: int, kw: int, c, count: int):
        lane = nest.Lanes(c, count) if count > 1 else c
        return self.f["weight"][(kh * self.layer.kernel[1] + kw) * self.layer.channels + lane]

    def _taps(self, window: _Window):
        layer, at, count = self.layer, window.at, window.lanes
        taps = [(kh, kw) for kh in range(layer.kernel[0]) for kw in range(layer.kernel[1])]
        weights = self.f.variables(len(taps), count, "int8")
        for n, (kh, kw) in enumerate(taps):
            weights[n] = self._tap(kh, kw, at.c, count)
        groups = [range(n, min(n + layer.group, len(taps))) for n in range(0, len(taps), layer.group)]

        def sums(i: int, j: int):
            total = self.f.variables(-(-window.count // SUMS), SUMS, "int32")
            for v, bias in enumerate(self._bias(at, window.count)):
                total[v] = bias
            short = self.f.variables(1, 8, "int16")
            for group in groups:
                for half in range(count // 8):
                    products = None
                    for n in group:
                        data, weight = (
                            integers.eighth(x, half, count) for x in (window.read(i, j, *taps[n]), weights[n])
                        )
                        product = data.astype("int16x8") * weight.astype("int16x8")
                        products = product if products is None else products + product
                    short[0] = products
                    for quarter in range(2):
                        four = tirx.Shuffle([short[0]], list(range(SUMS * quarter, SUMS * quarter + SUMS)))
                        v = 2 * half + quarter
                        if v * SUMS < window.count:
                            total[v] = total[v] + four.astype("int32x4")
            return [total[v] for v in range(-(-window.count // SUMS))]

        return sums

    def _dot(self, window: _Window):
        layer, at, count = self.layer, window.at, window.count
        rows, columns, each, fours = window.row.tile, window.column.tile, outputs(layer), -(-count // SUMS)
        total = self.f.variables(rows * columns * fours, SUMS, "int32")
        for n in range(rows * columns):
            for v, bias in enumerate(self._bias(at, count)):
                total[n * fours + v] = bias
        readers_of: dict[int, list[tuple[int, int]]] = {}
        for i in range(rows):
            for kh in range(layer.kernel[0]):
                readers_of.setdefault(window.place(0, i, kh), []).append((i, kh))
        apart = shared_step(layer, 1) // window.column.step  # outputs so far apart read the same columns
        alike = [list(range(first, columns, apart)) for first in range(min(apart, columns))]
        shared = [some[at : at + each] for some in alike for at in range(0, len(some), each)]
        for y, readers in sorted(readers_of.items()):
            for here in shared:
                for quad in range(quads(layer)):
                    users = [output for output in range(len(here)) if quad in quads_of(layer, output)]
                    if not users:
                        continue
                    mixed = self._interleaved(window, y, window.place(1, here[0], quad * QUAD))
                    for i, kh in readers:
                        for output in users:
                            for v in range(fours):
                                row = (kh * each + output) * quads(layer) + quad
                                place = row * padded(layer.channels) + at.c + v * SUMS
                                weights = self.f["weight"][nest.Lanes(place * QUAD, BYTES)]
                                n = (i * columns + here[output]) * fours + v
                                total[n] = tirx.call_llvm_pure_intrin(
                                    "int32x4", "llvm.aarch64.neon.sdot", total[n], mixed[v], weights
                                )
        return lambda i, j: [total[(i * columns + j) * fours + v] for v in range(fours)]

    def _interleaved(self, window: _Window, y: int, x: int) -> nest.Variables:
        """Four columns from x on, a dilation apart, of one row under the tile, interleaved by channels: vectors of four
        channels.
        """
        count = window.lanes
        a, b, c, d = (window.at_window(y, x + n * self.layer.dilation[1]) for n in range(QUAD))
        made = self.f.variables(count // SUMS, BYTES, "int8")
        two = self.f.variables(count // 4, 8, "int16")  # bytes of two columns side by side
        for half in range(count // 8):
            pairs = [n for lane in range(8 * half, 8 * half + 8) for n in (lane, lane + count)]
            for side, (left, right) in enumerate(((a, b), (c, d))):
                two[2 * half + side] = integers.reinterpret(tirx.Shuffle([left, right], pairs), "int16", 8)
        for half in range(count // 8):
            for quarter in range(2):
                fours = [n for lane in range(SUMS * quarter, SUMS * quarter + SUMS) for n in (lane, lane + 8)]
                mixed = tirx.Shuffle([two[2 * half], two[2 * half + 1]], fours)
                made[2 * half + quarter] = integers.reinterpret(mixed, "int8", BYTES)
        return made


class _Window:
    """The data under a tile, each value loaded once. Values outside the image are the zero point.

    ``count`` channels are held in ``lanes``: one, eight or sixteen.
    """

    def __init__(self, filters: Filters, row: Run, column: Run, at: Position, count: int):
        self.filters, self.layer, self.row, self.column, self.at, self.count = (
            filters,
            filters.layer,
            row,
            column,
            at,
            count,
        )
        alone = count == 1 and filters.d["products"] != "dot"  # whose weights are packed for vectors
        self.lanes = 1 if alone else -(-count // (BYTES // 2)) * (BYTES // 2)
        self._loaded: dict[tuple[int, int], nest.Variables] = {}

    def read(self, i: int, j: int, kh: int, kw: int):
        """The value that a tap of position (i, j) reads."""
        inside = kh in self.row.taps[i] and kw in self.column.taps[j]
        return self._value(self.place(0, i, kh), self.place(1, j, kw), inside)

    def place(self, axis: int, position: int, tap: int) -> int:
        """The row or column of the window that a tap of a tile's position reads."""
        run = (self.row, self.column)[axis]
        return position * run.step * self.layer.stride[axis] + tap * self.layer.dilation[axis]

    def at_window(self, y: int, x: int):
        """The value at row y and column x of the window. Columns that no tap reads give the zero point too."""
        rows, columns = (
            {self.place(axis, i, tap) for i, taps in enumerate(run.taps) for tap in taps}
            for axis, run in enumerate((self.row, self.column))
        )
        return self._value(y, x, y in rows and x in columns)

    def _value(self, y: int, x: int, inside: bool):
        f, count = self.filters.f, self.lanes
        key = (y, x) if inside else (-1, -1)
        if count == 1:
            return self._load(y, x) if inside else values.cast(f["ends"][0], "int8")
        if key not in self._loaded:
            self._loaded[key] = f.variables(1, count, "int8")
            zero = values.broadcast(values.cast(f["ends"][0], "int8"), count)
            self._loaded[key][0] = self._load(y, x) if inside else zero
        return self._loaded[key][0]

    def _load(self, y: int, x: int):
        layer, at = self.layer, self.at
        place = at.b, source(layer, 0, at.h, 0) + y, source(layer, 1, at.w, 0) + x

        def piece(first: int, count: int):
            lane = nest.Lanes(at.c + first, count) if count > 1 else at.c + first
            return self.filters.f["data"][nest.at(layer.input_layout, *place, lane)]

        return integers.filled(piece, self.count, self.lanes)


def _lanes(total: list, first: int, count: int):
    """``count`` sums from ``first`` on, out of several vectors."""
    if count < SUMS and values.lanes_of(total[0]) == SUMS:
        return tirx.Shuffle([total[first // SUMS]], [first % SUMS])
    if len(total) == 1:
        return total[0]
    fours = total[first // SUMS : (first + count) // SUMS]
    return fours[0] if len(fours) == 1 else tirx.Shuffle(fours, list(range(count)))


# ---- the choices


def lanes_of(layer: Layer) -> tuple[int, ...]:
    """The numbers of channels that may be computed at once, the best first."""
    return tuple(n for n in (BYTES, BYTES // 2) if n <= layer.channels) or (layer.channels,)


def widths_of(layer: Layer, width: int, core) -> tuple[tuple[int, ...], int]:
    """The widths that a tile may have in a row of ``width`` positions, and the best of them."""
    widths = tuple(t for t in sorted({1, 2, 4, outputs(layer)}) if t <= width)
    # A tile of fewer channels has registers left. On an A72, 112x112x4 then takes 11 % less, on an A53 as much more.
    few = 4 if layer.channels < BYTES and not core.in_order else 2
    # Every output of a block has taps of its own. If a residue has one block a row, their bytes count: 4x4x960 3x3 d2
    # then takes 14 % less on the four CPUs of an A76 and 3 % more on one.
    step = shared_step(layer, 1)
    block = 1 if step > 1 and width <= step * outputs(layer) else outputs(layer)
    best = {"dot": block, "taps": few, "wide": 1}[ways(layer, core)[0]]
    return widths, min(best, widths[-1])


def height_of(layer: Layer, core) -> int:
    """The height of the best tile: two rows share the interleaved data."""
    return min(2 if ways(layer, core)[0] == "dot" and quads(layer) == 1 else 1, layer.out_height)


def choices(layer: Layer, core, blocks: list[int], block_of, shares) -> dict[str, Choice]:
    """The space: tiles whose data and taps lie in registers, sixteen channels at a time.

    Four positions of sixteen channels and two quads of columns exceed the registers: on an A76, 28x28x120 5x5 takes 8 %
    less eight channels at a time.

    ``block_of(tile_h)`` is the block of channels that suits the caches best, ``shares(tile_h, c_block)`` the work of
    each task. If that block leaves CPUs idle, the default is the largest block that does not.
    """
    way = ways(layer, core)[0]
    heights = tuple(t for t in (1, 2) if t <= layer.out_height)
    lanes, (widths, width) = lanes_of(layer), widths_of(layer, layer.out_width, core)
    tile = height_of(layer, core), width
    blocks = sorted({*blocks, *(b for b in divisors(layer.channels) if b % BYTES == 0)})
    enough = [b for b in blocks if b % lanes[0] == 0 or b == layer.channels]
    block = block_of(tile[0])
    block = block if block in enough else min(enough)
    uneven = {b: imbalance(shares(tile[0], b), core.cpus) for b in enough}
    if uneven[block] > EVEN:
        block = max((b for b in enough if uneven[b] <= EVEN), default=block)
    return {
        "tile_h": Choice(heights, tile[0]),
        "tile_w": Choice(widths, width),
        "lanes": Choice(lanes, lanes[-1] if way == "dot" and outputs(layer) * quads(layer) > QUAD else lanes[0]),
        "c_block": Choice(tuple(enough), block),
        "inner": Choice(("columns", "channels"), "channels"),
        "products": Choice((way,), way),
        "apart": nest.apart_choice(core),
        **integer_outputs.choices(layer, core),
    }


# ---- the constants


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Weights (c, 1, kh, kw) as ``[kh, kw, c]``, or for `dot` as ``[kh][output][quad][c][4]``."""
    taps = arrays["weight"].reshape(layer.channels, *layer.kernel).transpose(1, 2, 0)
    if d["products"] != "dot":
        return np.pad(np.ascontiguousarray(taps).ravel(), (0, _beyond(layer, d)))
    each = outputs(layer)
    channels = padded(layer.channels)
    made = np.zeros((layer.kernel[0], each, channels, quads(layer) * QUAD), np.int8)
    for output in range(each):
        at = output * _stride(layer)
        made[:, output, : layer.channels, at : at + layer.kernel[1]] = taps.transpose(0, 2, 1)
    by_quad = made.reshape(layer.kernel[0], each, channels, quads(layer), QUAD)
    return np.ascontiguousarray(by_quad.transpose(0, 1, 3, 2, 4)).ravel()


def _beyond(layer: Layer, d: Decisions) -> int:
    """The number of bytes that the last vector of taps has beyond the last channel."""
    return -layer.channels % (BYTES // 2) if d["products"] == "taps" else 0


def weights(layer: Layer, d: Decisions) -> int:
    """The number of bytes of the packed weights."""
    if d["products"] != "dot":
        return layer.kernel[0] * layer.kernel[1] * layer.channels + _beyond(layer, d)
    return layer.kernel[0] * outputs(layer) * quads(layer) * padded(layer.channels) * QUAD
