"""The position of a tile: one object that all loop nests pass to the code of a tile, instead of four loop variables."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet.schedules import nest

from tvm_mobilenet.layer import Layer


@dataclass(frozen=True)
class Position:
    """The first output of a tile: its image, row, column and channel, as numbers or expressions of loop variables."""

    b: object
    h: object
    w: object
    c: object

    def output(self, layer: Layer, lane, row: int = 0, column: int = 0) -> tuple:
        """The indices of the output that is ``row`` rows and ``column`` columns from here."""
        return nest.at(layer.output_layout, self.b, self.h + row, self.w + column, self.c + lane)
