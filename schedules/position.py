"""Where a tile stands: what all loop nests hand to the code of one tile in place of four loop variables."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet.schedules import nest

from tvm_mobilenet.layer import Layer


@dataclass(frozen=True)
class Position:
    """Where a tile of outputs begins: image, row, column and channel, numbers or expressions of loop variables."""

    b: object
    h: object
    w: object
    c: object

    def output(self, layer: Layer, lane, row: int = 0, column: int = 0) -> tuple:
        """Indices into the output, so many rows and columns from here."""
        return nest.at(layer.output_layout, self.b, self.h + row, self.w + column, self.c + lane)
