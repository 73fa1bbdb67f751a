"""What each tile of a resize reads along one axis: the positions of its data, by their distance, and the shares.

Rows or columns repeat with the period of their positions: of a map of twice the size every second output reads alike.
A tile of some periods is code with constant distances and shares, and a loop over such tiles moves along the data.
Tiles at the ends, where indices are clamped, become pieces of their own. If a period is too long for unrolled code, a
tile is one position, whose index and share the kernel computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import nest, values

from tvm_mobilenet.kinds.resizes import Positions, positions
from tvm_mobilenet.layer import Layer

# For every core, the length of unrolled code: positions of a tile, and of one that is a whole row.
MOST, MOST_OF_A_ROW = 16, 256


@dataclass(frozen=True)
class Reads:
    """What one tile reads along an axis.

    Attributes
    ----------
    places : list
        The distinct indices of its data, as numbers or expressions.
    outputs : list of (int, int or None, share)
        For each output the place that it reads, the place that it is blended with, and the share of that one; the place
        is None for a copy.
    """

    places: Sequence
    outputs: Sequence[tuple]


@dataclass(frozen=True)
class Run:
    """``count`` tiles of ``tile`` outputs each, from output ``start`` on. ``outputs`` is as in `Reads`. The places of
    tile k are ``places`` plus ``k * advance``; without ``outputs`` they are computed.
    """

    start: int
    tile: int
    count: int
    places: tuple[int, ...] = ()
    outputs: tuple[tuple, ...] = ()
    advance: int = 0

    def reads(self, k, where: Positions, dtype: str) -> Reads:
        """What tile k reads, as constants and expressions in this dtype."""
        if not self.outputs:
            return _computed(self.start + k, where, dtype)
        outputs = [(low, high, values.const(share, dtype)) for low, high, share in self.outputs]
        return Reads([place + k * self.advance for place in self.places], outputs)


def _computed(i, where: Positions, dtype: str) -> Reads:
    """What output i reads; the position is raised by one index, so that no quotient is negative."""
    raised = -(where.offset // where.unit) if where.offset < 0 else 0
    number = nest.named(i * where.step + (where.offset + raised * where.unit), "number")
    before = nest.named(tirx.truncdiv(number, where.unit) if where.unit > 1 else number, "before")

    def inside(index):
        return nest.named(T.max(T.min(index, where.last), 0), "place")

    low = inside(before - raised)
    if not where.blends:
        return Reads([low], [(0, None, None)])
    rest = values.cast(number - before * where.unit, "float32") / values.const(float(where.unit), "float32")
    share = T.Bind(values.cast(rest, dtype), var=tirx.Var("share", dtype))
    return Reads([low, inside(before + (1 - raised))], [(0, 1, share)])


def tiles(layer: Layer, axis: int) -> tuple[int, ...]:
    """The numbers of outputs that a tile of this axis may have; 1 is a tile whose reads are computed."""
    period, size = positions(layer, axis).period, layer.size[axis]
    found = [tile for tile in range(2, min(MOST, size) + 1) if tile % period == 0]
    whole = [size] if not found and axis == 1 and 1 < size <= MOST_OF_A_ROW else []
    return (1, *found, *whole)


def runs(layer: Layer, axis: int, tile: int) -> list[Run]:
    """The outputs of an axis in runs of tiles."""
    where, size = positions(layer, axis), layer.size[axis]
    if tile == 1:
        return [Run(0, 1, size)]
    # A tile may begin anywhere in a period: best where its outputs lie between the fewest values.
    starts = range(min(where.period, size - tile + 1))
    first = min(starts, key=lambda start: len(_places(where, range(start, start + tile))))
    found: list[Run] = []
    begins = [0] * (first > 0) + list(range(first, size, tile))
    for start, end in zip(begins, [*begins[1:], size], strict=True):
        reads = [where.read(i) for i in range(start, end)]
        places = sorted({place for low, high, _ in reads for place in (low, high) if place is not None})
        outputs = tuple((places.index(a), None if b is None else places.index(b), share) for a, b, share in reads)
        advance = where.step * tile // where.unit
        last = found[-1] if found else None
        moved = last and tuple(p + last.count * advance for p in last.places)
        if last and (moved, outputs, end - start) == (tuple(places), last.outputs, last.tile):
            found[-1] = Run(last.start, last.tile, last.count + 1, last.places, outputs, advance)
        else:
            found.append(Run(start, end - start, 1, tuple(places), outputs, advance))
    return found


def _places(where: Positions, outputs: range) -> set[int]:
    """The indices that outputs far from the ends read."""
    found = {where.before(i) for i in outputs}
    blended = {where.before(i) + 1 for i in outputs if where.blends and (where.step * i + where.offset) % where.unit}
    return found | blended
