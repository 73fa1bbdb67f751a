"""The sums of a tile of outputs, and of a layer that sums in its wide dtype the chunks that go into them.

A tile's accumulators begin with the biases and take products. Where the layer's sums are of the wide dtype,
accumulators of its own dtype begin at zero with each chunk of products (`kinds.windows.chunks`), and are added to a
second tile, which begins with the biases. That one has no registers to itself: LLVM keeps it on the stack, and a chunk
takes a load, two conversions' worth of additions and a store a vector of it.
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
        Takes products.
    total : nest.Tile
        Begins with the biases and is what the epilogue gets; the same tile unless ``chunked``.
    """

    def __init__(self, kernel: nest.Kernel, layer: Layer, rows: int, width: int):
        self.rows, self.width = rows, width
        self.chunked = bool(layer.sums) and dtypes.of(layer.dtype).chunk > 0
        self.products = kernel.tile(rows, width, layer.dtype if self.chunked else layer.accumulator_dtype)
        self.total = kernel.tile(rows, width, layer.accumulator_dtype) if self.chunked else self.products
        self._open: list = [None] * rows

    def open(self) -> None:
        """A chunk begins."""
        if self.chunked:
            self.products.set(lambda i, lane: values.const(0.0, self.products.dtype))

    def close(self) -> None:
        """A chunk ends."""
        if self.chunked:
            for row in range(self.rows):
                self._add(row)

    def _add(self, row: int) -> None:
        products, total = self.products, self.total
        for first, count in nest.pieces(self.width, products.vector):
            lane = nest.Lanes(first, count)
            total[row, lane] = total[row, lane] + values.cast(products[row, lane], total.dtype)

    def add_product(self, row: int, chunk, left, right) -> None:
        """A product of a chunk; in straight code, where chunks open and close by themselves. `finish` ends the last."""
        if self.chunked and self._open[row] != chunk:
            if self._open[row] is not None:
                self._add(row)
            self.products.set_row(row, lambda lane: values.const(0.0, self.products.dtype))
            self._open[row] = chunk
        self.products.add_product(row, left, right)

    def finish(self) -> None:
        """The last chunk of each row ends."""
        for row in range(self.rows):
            if self._open[row] is not None:
                self._add(row)
        self._open = [None] * self.rows

    def loop(self, depth: int, chunk: int, by: int, step) -> None:
        """``step(k)`` for k below depth, ``by`` of them written out a turn, in chunks."""
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
