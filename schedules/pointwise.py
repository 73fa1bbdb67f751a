"""Pointwise (1x1) convolutions: a matrix product, output(m, n) = sum over k of data(m, k) * weight(n, k).

The nest::

    parallel over blocks (m_block tiles x n_block panels)    # `outer`, m or n, is the outer loop over the blocks
      for each block of k                                    # the block's panels stay in L1
        for each tile of tile_m rows
          for each panel of tile_n columns
            accumulators = biases, or the output so far      # tile_m * tile_n / lanes registers
            for k in the block, unrolled by k_unroll         # tile_n / lanes loads of weights, tile_m of data
              accumulators += data(m, k) * weight(k, n)
            output = accumulators, through the epilogue after the last block of k

Passes run in serpentine order: every other pass over the inner blocks runs backwards. Its loop over k runs backwards
too, unless the order of the layer's sums is fixed. So each pass begins with the data that the pass before read last. If
the data is larger than the last cache, a pass still finds there as much as the cache holds. With 196 rows of 512
values, which nearly fill the L2 of a Cortex-A53, 2.7 MB come from DRAM instead of 3.9 MB.

Register budget: the accumulators, a row of weights in vectors, and two registers for data. A tile that does not fit is
not a candidate. Weights are packed ``[k blocks][panels][k_block][tile_n]``, so the weights of a block of k are
contiguous. If its panels were a power of two apart, they would fall into the same sets of the L1 and evict each other.
The last rows and columns, too few for a whole tile, get a smaller one. So nothing is padded, and no inner loop has a
condition.

% of peak of one core, default / tuned, predicted (python -m benchmarks.peak)::

                                                      Cortex-A53  Cortex-A72  Cortex-A76
    pointwise m196 n512 k512 in544 out544 f32 relu6   68 / 67     94 / 94     98 / 98
    pointwise m49 n1024 k512 in544 out1088 f32 relu6  67 / -      90 / -      97 / -
    pointwise m196 n512 k512 in544 out544 f16 relu6   -           -           98 / 99
    dense m1 n1000 k1024 f32                          8 / -       18 / 18     16 / -
    dense m1 n1000 k1024 f16 writes_f32 sums_f32      -           -           16 / -
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm_mobilenet.schedules import channel_vectors, integer_constants, integer_outputs, integer_products, nest, values
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space
from tvm_mobilenet.schedules.defaults import pointwise as defaults
from tvm_mobilenet.schedules.in_order import pointwise as inorder
from tvm_mobilenet.schedules.position import Position
from tvm_mobilenet.schedules.spaces import pointwise as space
from tvm_mobilenet.schedules.sums import Sums

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.activation import SLOPES
from tvm_mobilenet.kinds.windows import chunks
from tvm_mobilenet.layer import Layer

DTYPES = ("float32", "float16", "int8")


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    m, n, k = layer.height, layer.out_channels, layer.channels
    tile_m, tile_n = d["tile_m"], d["tile_n"]
    rows, tail_m = divmod(m, tile_m)
    panels, tail_n = divmod(n, tile_n)
    m_blocks, n_blocks = rows // d["m_block"], panels // d["n_block"]
    with nest.Kernel(nest.arguments(layer, constants(layer, d)), d) as f, nest.parallel(m_blocks * n_blocks) as task:
        product = (integer_products.Product if dtypes.of(layer.dtype).integer else _Product)(layer, d, f)
        inner = m_blocks if d["outer"] == "n" else n_blocks
        back = nest.named(task // inner % 2, "back")  # 1 in every other pass, which runs backwards
        ahead, step = task // inner, _turned(task % inner, inner, back)
        mb, nb = (step, ahead) if d["outer"] == "n" else (ahead, step)

        def block_of_k(b, block: _Block):
            """All tiles and panels of one block of k."""

            def panels_of(row, height):
                with nest.serial(d["n_block"]) as p:
                    product.tile(Position(b, row, 0, (nb * d["n_block"] + p) * tile_n), height, tile_n, block)
                if tail_n:
                    with nest.when(nb == n_blocks - 1):
                        product.tile(Position(b, row, 0, panels * tile_n), height, tail_n, block)

            with nest.serial(d["m_block"]) as i:
                panels_of((mb * d["m_block"] + i) * tile_m, tile_m)
            if tail_m:
                with nest.when(mb == m_blocks - 1):
                    panels_of(rows * tile_m, tail_m)

        with nest.serial(layer.batch) as b:
            whole, tail_k = divmod(k, d["k_block"])
            with nest.serial(whole) as order:
                ascending = tail_k or values.fixed(layer)
                block_of_k(b, _Block(order if ascending else _turned(order, whole, back), d["k_block"], order))
            if tail_k:
                block_of_k(b, _Block(whole, tail_k, whole))
    return f.prim_func


def _turned(index, extent: int, back):
    """An index below ``extent``, counted from the other end if ``back`` is 1."""
    return index if extent == 1 else nest.named(index + back * (extent - 1 - 2 * index), "turned")


@dataclass(frozen=True)
class _Block:
    """A block of k: its index in k, its length, and its order, the number of blocks that are computed before it."""

    index: object
    depth: int
    order: object


@dataclass(frozen=True)
class _Product:
    """Writes the code of the product's tiles, for float dtypes."""

    layer: Layer
    d: Decisions
    f: nest.Kernel

    def tile(self, at: Position, height: int, width: int, block: _Block) -> None:
        """Compute ``height`` x ``width`` outputs over one block of k."""
        layer, d, data, weight = self.layer, self.d, self.f["data"], self.f["weight"]
        sums = Sums(self.f, layer, height, width)
        self._begin(sums.total, at, block)
        panel_at = block.index * (d["k_block"] * layer.out_channels) + at.c * block.depth
        multiply(
            layer,
            sums,
            block.depth,
            d["k_unroll"],
            lambda i, k: data[nest.at(layer.input_layout, at.b, at.h + i, 0, block.index * d["k_block"] + k)],
            lambda k, lane: weight[panel_at + k * width + lane],
            layer.input_row if d.get("loop") == "dual_issue" and layer.input_layout == "NHWC" else 0,
        )
        self._end(sums.total, at, block)

    def _blocks(self) -> int:
        return -(-self.layer.channels // self.d["k_block"])

    def _begin(self, acc: nest.Tile, at: Position, block: _Block) -> None:
        """Set the accumulators to biases, or to the partial sums of the blocks before."""

        def biases():
            acc.set_rows(self.f["bias"], at.c, self.d["apart"] != "none")

        if self._blocks() == 1:
            biases()
        else:
            out = self.f["output"]
            nest.either(block.order == 0, biases, lambda: acc.set(lambda i, lane: out[at.b, at.h + i, 0, at.c + lane]))

    def _end(self, acc: nest.Tile, at: Position, block: _Block) -> None:
        """Write outputs through the epilogue after the last block, and partial sums after the others."""

        def finish():
            for i in range(acc.rows):
                self.f.store(
                    self.layer,
                    self.f["output"],
                    lambda lane, i=i: acc[i, lane],
                    acc.width,
                    lambda lane, i=i: at.output(self.layer, lane, i),
                    self.f.get("second"),
                    apart=self.d["apart"] != "none",
                    slopes=self.f.get(SLOPES),
                )

        if self._blocks() == 1:
            finish()
        else:
            nest.either(block.order == self._blocks() - 1, finish, lambda: self._keep(acc, at))

    def _keep(self, acc: nest.Tile, at: Position) -> None:
        out = self.f["output"]
        for i in range(acc.rows):
            if self.d["apart"] == "all":
                row = out.row((at.b, at.h + i, 0, at.c))
                self.f.write(row, lambda lane, i=i: acc[i, lane], acc.width, lambda lane: lane)
            else:
                at_row = at.b, at.h + i, 0
                self.f.write(
                    out, lambda lane, i=i: acc[i, lane], acc.width, lambda lane, at_row=at_row: (*at_row, at.c + lane)
                )


def multiply(layer: Layer, sums: Sums, depth: int, unroll: int, data, weight, row_pitch: int = 0) -> None:
    """Add data(i, k) * weight(k, lane), for all k below ``depth``, to sums(i, lane).

    ``row_pitch`` is the distance between rows of data if the dual-issue loop is wanted, else 0.
    """
    acc = sums.products
    if row_pitch and inorder.fits(acc.rows, acc.width, depth, row_pitch):
        inorder.multiply(acc, depth, data, weight, row_pitch)
        return

    def step(k, value=data):
        for i in range(acc.rows):
            acc.add_product(i, lambda lane, i=i: value(i, k), lambda lane: weight(k, lane))

    together, chunk = acc.vector, chunks(layer)[2]
    whole, rest = divmod(depth, together)
    if layer.input_dtype == acc.dtype or layer.input_layout != "NHWC" or not whole or (sums.chunked and rest):
        sums.loop(depth, chunk, unroll, step)
        return
    # Data of another dtype is converted, one vector of k at a time.
    converted = nest.Tile(acc.rows, together, together, acc.dtype)

    def vector(turn):
        first = turn * together
        converted.set(lambda i, lane: data(i, first + lane))
        for u in range(together):
            step(first + u, lambda i, k, u=u: converted[i, u])

    sums.loop(whole, max(1, chunk // together), 1, vector)
    for k in range(whole * together, depth):
        step(k)


# ---- the constants


def constants(layer: Layer, d: Decisions) -> list[nest.Argument]:
    """The kernel's arguments for its constants, whose data `pack` returns."""
    weight = ("weight", (math.prod(layer.weight_shape),), layer.weight_dtype)
    if dtypes.of(layer.dtype).integer:
        size = integer_products.depth(layer, d) * integer_products.padded(layer.out_channels)
        return integer_constants.arguments(layer, d, size)
    return [weight, *channel_vectors.arguments(layer)]


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Weights of shape (n, k), packed as ``[k blocks][panels][k_block][tile_n]`` in one dimension; then the vectors."""
    if dtypes.of(layer.dtype).integer:
        return integer_constants.pack(layer, d, integer_products.pack(layer, d, arrays), arrays)
    pieces, weight = [], arrays["weight"]
    for k0, k1 in _steps(layer.channels, d["k_block"]):
        for n0, n1 in _steps(layer.out_channels, d["tile_n"]):
            pieces.append(np.ascontiguousarray(weight[n0:n1, k0:k1].T).ravel())
    return [np.concatenate(pieces).astype(layer.weight_dtype), *channel_vectors.packed(layer, arrays)]


def _steps(extent: int, step: int) -> list[tuple[int, int]]:
    return [(i, min(i + step, extent)) for i in range(0, extent, step)]


# ---- the choices


def decisions(layer: Layer, core) -> Space:
    """The search space. Its default is the decisions of a build without a tune log."""
    candidates, default = space.choices(layer, core), defaults.choose(layer, core)
    choices = {name: Choice(those, default.get(name, those[0])) for name, those in candidates.items()}
    choices["apart"] = nest.apart_choice(core)
    choices |= space.loop_choice(layer, core) | nest.core_choices(layer, core)
    choices |= integer_outputs.choices(layer, core) if dtypes.of(layer.dtype).integer else {}
    return Space(choices, lambda d: space.refuse(layer, d, core))
