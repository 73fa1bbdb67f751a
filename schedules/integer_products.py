"""Matrix products of int8: the ways to sum products to int32, and the step from a tile's sums to outputs.

``dot``   four k with one instruction, one output for each lane of four bytes: for cores with dot products. Weights ``[k
          / 4][n][4]``
``long``  sixteen k at a time: long multiplies make int16 products, of which ``Layer.group`` are summed before pairs of
          lanes are added to int32. Each output has a vector of sums, which are added up at the end. Weights ``[n][16]``
          by steps of k
``wide``  k by k in int32, vectorised by LLVM: any core, any shape

Zeros pad the columns to whole vectors of sums, and k to whole quads or eights: the last data of a row is then loaded
in pieces, since nothing beyond it may be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm_mobilenet.schedules import integer_outputs, integers, nest, values
from tvm_mobilenet.schedules.choices import Decisions
from tvm_mobilenet.schedules.in_order import integer_products as inorder
from tvm_mobilenet.schedules.position import Position

from tvm_mobilenet.layer import Layer

SUMS = 4  # int32 in a vector of sixteen bytes, as sdot and pairwise additions write them
BYTES = 16
QUAD = 4  # bytes that sdot sums to one int32
EIGHT = 8  # bytes of the operands of a long multiply
OF_STEP = {"dot": QUAD, "long": EIGHT, "wide": 1}  # k is padded to a multiple of it


def padded(width: int) -> int:
    """The number of columns, rounded up to whole vectors of sums."""
    return -(-width // SUMS) * SUMS


def ways(layer: Layer, core) -> tuple[str, ...]:
    """The ways in which a core may sum a layer's products, the best first."""
    k, direct = layer.channels, layer.input_layout == "NHWC" and not layer.weights
    found = ["dot"] if core.dot_products and k >= QUAD and direct else []
    found += ["long"] if core.architecture == "aarch64" and k >= EIGHT and direct and layer.group else []
    return (*found, "wide")


def depth(layer: Layer, d: Decisions) -> int:
    """k with its padding."""
    of = OF_STEP[d["products"]]
    return -(-layer.channels // of) * of


def steps(k: int, group: int) -> list[tuple[int, int]]:
    """The steps over k of `long`, as (first, length): 8 for each of the products that an int16 holds, then the
    remainder.
    """
    found, at = [], 0
    for length in (8 * group, BYTES, BYTES // 2):
        while k - at >= length:
            found.append((at, length))
            at += length
    return found


@dataclass(frozen=True)
class Product:
    """The tiles of a product. `pointwise.kernel` writes the loops around them."""

    layer: Layer
    d: Decisions
    f: nest.Kernel

    def tile(self, at: Position, height: int, width: int, block) -> None:
        """Compute ``height`` x ``width`` outputs over all of k."""
        layer, f = self.layer, self.f
        made = _WAYS[self.d["products"]](self, at, height, padded(width), width)
        made.begin()
        made.multiply()
        rows = [
            integer_outputs.Row(
                lambda first, count, i=i: made.sums(i, first, count), lambda lane, i=i: at.output(layer, lane, i)
            )
            for i in range(height)
        ]
        integer_outputs.store(layer, f, rows, width, at.c, padded=True)

    def data(self, at: Position, i: int, k, count: int):
        """``count`` values of k from row i of a tile; those beyond the row are zero."""
        have = min(count, self.layer.channels - k) if isinstance(k, int) else count

        def piece(first: int, size: int):
            index = nest.Lanes(k + first, size) if size > 1 else k + first
            return self.f["data"][nest.at(self.layer.input_layout, at.b, at.h + i, 0, index)]

        return integers.filled(piece, have, count)


@dataclass
class _Way:
    product: Product
    at: Position
    height: int
    width: int  # padded
    columns: int  # without padding

    def __post_init__(self):
        self.f, self.layer = self.product.f, self.product.layer
        self.panel = self.at.c * depth(self.layer, self.product.d)
        self.acc = self.f.tile(self.height, self.width * self.each, "int32")

    each = 1  # sums of an output

    def begin(self) -> None:
        self.acc.set_rows(self.f["bias"], self.at.c, self.product.d["apart"] != "none")

    def sums(self, i: int, first: int, count: int):
        return self.acc[i, nest.Lanes(first, count)]

    def weight(self, offset, count: int):
        return self.f["weight"][nest.Lanes(self.panel + offset, count)]


class _Wide(_Way):
    def multiply(self) -> None:
        def step(k):
            for i in range(self.height):
                self.acc.add_product(
                    i,
                    lambda lane, i=i: self.product.data(self.at, i, k, 1),
                    lambda lane: self.weight(k * self.width + lane.first, lane.count),
                )

        nest.unrolled(self.layer.channels, self.product.d["k_unroll"], step)


class _Dot(_Way):
    def multiply(self) -> None:
        k, row = depth(self.layer, self.product.d), self.width * QUAD

        def add(quad, i, lane):
            for v in range(0, self.width, SUMS):
                weights = self.weight(quad * row + v * QUAD, BYTES)
                place = i, nest.Lanes(v, SUMS)
                self.acc[place] = tirx.call_llvm_pure_intrin(
                    "int32x4", "llvm.aarch64.neon.sdot", self.acc[place], weights, lane
                )

        def vector(first, size: int):
            for u in range(size // QUAD):
                for i in range(self.height):
                    data = self.product.data(self.at, i, first, size)
                    quads = integers.reinterpret(data, "int32", size // QUAD)
                    lane = tirx.Shuffle([quads], [u]) if size > QUAD else quads
                    add(
                        tirx.floordiv(first, QUAD) + u,
                        i,
                        integers.reinterpret(tirx.Broadcast(lane, SUMS), "int8", BYTES),
                    )

        whole = self.layer.channels // BYTES
        nest.unrolled(whole, 1, lambda step: vector(step * BYTES, BYTES))
        at = whole * BYTES
        if k - at == BYTES:
            vector(at, BYTES)
            return
        for size in (BYTES // 2, QUAD):
            if k - at >= size:
                vector(at, size)
                at += size


class _Long(_Way):
    each = SUMS

    def begin(self) -> None:
        """Do nothing: the first products initialise the sums, and biases are added last."""

    def multiply(self) -> None:
        k, group, row = self.layer.channels, self.layer.group, self.layer.input_row
        whole = k // (8 * group)
        written = self.product.d.get("loop") == "dual_issue"
        written = written and inorder.fits(self.height, self.width, k, group, row)
        if written:
            data, weight = self.product.data(self.at, 0, 0, 1), self.f["weight"][self.panel]
            inorder.multiply(self.acc, self.height, self.width, whole, group, data, weight, row)
        for n, (first, length) in enumerate(steps(depth(self.layer, self.product.d), group)):
            if n >= whole or (n == 0 and not written):
                self._step(first, length, begins=n == 0)
            elif n == 1 and not written:
                with nest.serial(whole - 1) as s:
                    self._step((s + 1) * (8 * group), length)

    def _step(self, first, length: int, begins: bool = False) -> None:
        """Add the products of ``length`` k; each int16 lane sums one of every eight."""
        size = min(BYTES, length)
        vectors = length // size
        data = [self.f.variables(vectors, size, "int8") for _ in range(self.height)]
        for i in range(self.height):
            for u in range(vectors):
                data[i][u] = self.product.data(self.at, i, first + u * size, size)
        if begins and self.columns < self.width:
            for i in range(self.height):
                for j in range(self.columns, self.width):
                    self.acc[i, nest.Lanes(j * SUMS, SUMS)] = integers.const(0, "int32", SUMS)
        for j in range(self.columns):
            weights = self.f.variables(vectors, size, "int8")
            for u in range(vectors):
                weights[u] = self.weight(first * self.width + u * (self.width * size) + j * size, size)
            for i in range(self.height):
                rows, columns = ([v[u] for u in range(vectors)] for v in (data[i], weights))
                add_pairs(self.acc, i, j, rows, columns, 2 * vectors, begins)

    def sums(self, i: int, first: int, count: int):
        biases = self.f["bias"]
        return across(self.acc, i, first, count, lambda lane: biases[nest.Lanes(self.at.c + lane.first, lane.count)])


def add_pairs(acc: nest.Tile, i: int, j: int, data: list, weights: list, group: int, begins: bool = False) -> None:
    """Add the products of vectors of data and weights to the four sums of column j in row i of a tile. An int16 sums
    ``group`` of them. ``begins``: these are the first ones.
    """
    size, total, place = values.lanes_of(data[0]), None, (i, nest.Lanes(j * SUMS, SUMS))
    halves = [(u, half) for u in range(len(data)) for half in range(size // EIGHT)]
    for n, (u, half) in enumerate(halves, 1):
        left, right = (integers.eighth(v[u], half, size) for v in (data, weights))
        product = left.astype("int16x8") * right.astype("int16x8")
        total = product if total is None else total + product
        if n % group == 0 or n == len(halves):
            pairs = tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.saddlp", total)
            acc[place] = pairs if begins else acc[place] + pairs
            total, begins = None, False


def across(acc: nest.Tile, i: int, first: int, count: int, whole):
    """``count`` outputs of row i, from the four sums of each and ``whole(lane)``, such as biases."""
    if count < SUMS:  # a padded column has all four
        four = across(acc, i, first // SUMS * SUMS, SUMS, whole)
        return tirx.Shuffle([four], [first % SUMS])
    fours = []
    for at in range(first, first + count, SUMS):
        x = [acc[i, nest.Lanes((at + q) * SUMS, SUMS)] for q in range(SUMS)]
        four = integers.addp(integers.addp(x[0], x[1]), integers.addp(x[2], x[3]))
        fours.append(four + whole(nest.Lanes(at, SUMS)))
    return fours[0] if len(fours) == 1 else tirx.Shuffle(fours, list(range(count)))


_WAYS = {"wide": _Wide, "dot": _Dot, "long": _Long}


# ---- the constants


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Weights (n, k) by panels of ``tile_n`` columns, each padded, in the layout that this way of summing reads."""
    weight, tile_n, pieces = arrays["weight"], d["tile_n"], []
    for n0 in range(0, layer.out_channels, tile_n):
        panel = weight[n0 : n0 + tile_n]
        panel = np.pad(panel, ((0, padded(len(panel)) - len(panel)), (0, depth(layer, d) - layer.channels)))
        pieces.append(_PACKS[d["products"]](panel, layer).ravel())
    return np.concatenate(pieces).astype(layer.weight_dtype)


def _dot_panel(panel: np.ndarray, layer: Layer) -> np.ndarray:
    return panel.reshape(len(panel), -1, QUAD).transpose(1, 0, 2)


def _long_panel(panel: np.ndarray, layer: Layer) -> np.ndarray:
    pieces = []
    for first, length in steps(panel.shape[1], layer.group):
        size = min(BYTES, length)
        block = panel[:, first : first + length].reshape(len(panel), length // size, size)
        pieces.append(block.transpose(1, 0, 2).ravel())
    return np.concatenate(pieces)


_PACKS = {"wide": lambda panel, layer: panel.T, "dot": _dot_panel, "long": _long_panel}
