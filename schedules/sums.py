"""The sums of a tile of outputs, including those of a layer that adds up chunks of products in its wide dtype.

A tile's accumulators begin with the biases and add products. If the layer's sums have the wide dtype, accumulators of
the layer's own dtype begin at zero with each chunk of products (`kinds.windows.chunks`). Each chunk is then added to a
second tile, which begins with the biases. LLVM keeps this second tile on the stack, not in registers. For each of its
vectors, a chunk takes a load, two conversions with their additions and a store.
"""

from __future__ import annotations

from tvm_mobilenet.schedules import nest, values

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer


class Sums:
    """``rows`` x ``width`` sums of a layer.

    Attributes
    ----------
    products : nest.Tile
        The accumulators of products.
    total : nest.Tile
        The sums that begin with the biases and that the epilogue reads; the same tile unless ``chunked``.
    """

    def __init__(self, kernel: nest.Kernel, layer: Layer, rows: int, width: int):
        self.rows, self.width = rows, width
        self.chunked = bool(layer.sums) and dtypes.of(layer.dtype).chunk > 0
        self.products = kernel.tile(rows, width, layer.dtype if self.chunked else layer.accumulator_dtype)
        self.total = kernel.tile(rows, width, layer.accumulator_dtype) if self.chunked else self.products
        self._open: list = [None] * rows

    def open(self) -> None:
        """Begin a chunk."""
        if self.chunked:
            self.products.set(lambda i, lane: values.const(0.0, self.products.dtype))

    def close(self) -> None:
        """End a chunk."""
        if self.chunked:
            for row in range(self.rows):
                self._add(row)

    def _add(self, row: int) -> None:
        products, total = self.products, self.total
        for first, count in nest.pieces(self.width, products.vector):
            lane = nest.Lanes(first, count)
            total[row, lane] = total[row, lane] + values.cast(products[row, lane], total.dtype)

    def add_product(self, row: int, chunk, left, right) -> None:
        """Add a product of a chunk, in unrolled code, where a new chunk ends the one before. `finish` ends the last."""
        if self.chunked and self._open[row] != chunk:
            if self._open[row] is not None:
                self._add(row)
            self.products.set_row(row, lambda lane: values.const(0.0, self.products.dtype))
            self._open[row] = chunk
        self.products.add_product(row, left, right)

    def finish(self) -> None:
        """End the last chunk of each row."""
        for row in range(self.rows):
            if self._open[row] is not None:
                self._add(row)
        self._open = [None] * self.rows

    def loop(self, depth: int, chunk: int, by: int, step) -> None:
        """Run ``step(k)`` for k below depth, in chunks, with ``by`` steps in each turn of the loop."""
        if not self.chunked:
            nest.unrolled(depth, by, step)
            return

        def one(start, length: int) -> None:
            self.open()
            nest.unrolled(length, min(by, length), lambda k: step(start + k))
            self.close()

        whole, rest = divmod(depth, chunk)
        if whole:
            with nest.serial(whole) as c:
                one(c * chunk, chunk)
        if rest:
            one(whole * chunk, rest)

    def __getitem__(self, index):
        return self.total[index]
