"""Windows that slide: the taps that an output position reads, and runs of tiles whose positions read alike.

Padding is zeros, and zeros need no multiply-add, so a tile at the border is generated without the taps that lie
outside. A run of tiles whose positions read alike becomes one loop. So an axis needs at most four pieces of code: the
first tile, the inner ones, the last whole one, and the remainder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import groupby

from tvm_mobilenet.kinds.windows import inside
from tvm_mobilenet.layer import Layer

# This holds for every core: the length of unrolled code that LLVM compiles well.
UNROLLED_TAPS = 160  # most products of a position in unrolled code: 3x3x3 and 7x7x3 are unrolled, 3x3x32 is not


@dataclass(frozen=True)
class Run:
    """``count`` tiles of ``tile`` positions each, from position ``start`` on; position i of each tile reads
    ``taps[i]``.

    The positions of a tile are ``step`` apart. ``alike``: so many neighbouring positions begin such tiles.
    """

    start: int
    tile: int
    count: int
    taps: tuple[tuple[int, ...], ...]
    step: int = 1
    alike: int = 1

    @property
    def tiles(self) -> int:
        """The number of all tiles."""
        return self.count * self.alike

    def first(self, i):
        """The first position of the i-th tile."""
        whole, rest = (i, 0) if self.alike == 1 else (i // self.alike, i % self.alike)
        return self.start + whole * (self.tile * self.step) + rest


def runs(layer: Layer, axis: int, tile: int, positions: range | None = None, step: int = 1) -> list[Run]:
    """The runs of the output's rows (axis 0) or columns (axis 1) in tiles of ``tile`` positions that are ``step``
    apart, or of a range of positions.
    """
    every = inside(layer, axis)
    positions = range(len(every)) if positions is None else positions
    each = [_runs(every, tile, positions[first::step]) for first in range(min(step, len(positions)))]
    found: list[Run] = []
    for _, alike in groupby(each, lambda some: [(run.tile, run.count, run.taps) for run in some]):
        first, *others = alike
        found += [replace(run, alike=1 + len(others)) for run in first]
    return found


def _runs(every, tile: int, positions: range) -> list[Run]:
    """The runs of these positions, whose taps are ``every``."""
    found: list[Run] = []
    for at in range(0, len(positions), tile):
        own = positions[at : at + tile]
        taps = tuple(tuple(every[position]) for position in own)
        last = found[-1] if found else None
        if last and last.taps == taps:
            found[-1] = replace(last, count=last.count + 1)
        else:
            found.append(Run(own.start, len(own), 1, taps, positions.step))
    return found


def shared_step(layer: Layer, axis: int) -> int:
    """The distance of the nearest output positions whose windows read rows or columns of one residue modulo the
    dilation.
    """
    return layer.dilation[axis] // math.gcd(layer.dilation[axis], layer.stride[axis])


def source(layer: Layer, axis: int, position, tap):
    """The index in the input that a tap of an output position reads."""
    return position * layer.stride[axis] - layer.padding[axis] + tap * layer.dilation[axis]


def lines_under(layer: Layer, tile_h: int, tile_w: int) -> int:
    """Positions of the input under one tile's window. Each is one cache line, if its channels fill one."""
    height, width = under(layer, tile_h, tile_w)
    return height * width


def under(layer: Layer, tile_h: int, tile_w: int) -> tuple[int, int]:
    """Rows and columns of the input under one tile's window, without those that a dilation skips."""
    each = zip((tile_h, tile_w), layer.stride, layer.kernel, layer.dilation, strict=True)
    height, width = (
        (t - 1) * s + k if d == 1 else len({i * s + tap * d for i in range(t) for tap in range(k)})
        for t, s, k, d in each
    )
    return height, width


def lines_held(layer: Layer, core) -> int:
    """The number of cache lines of one vector of channels, at different positions, that the sets of the L1 hold at
    once.

    If positions are a power of two of channels apart, these lines share a few sets.
    """
    stride = layer.input_row * layer.bytes
    way = core.l1d.bytes // core.l1d.ways
    sets = way // math.gcd(stride, way) if stride >= core.l1d.line else way // core.l1d.line
    return sets * core.l1d.ways


def evicts_itself(layer: Layer, tile_h: int, tile_w: int, core) -> bool:
    """Whether the lines under one tile's window do not fit the sets of the L1 that they fall into.

    The next vector of channels shares a line with the vector before, and then finds it evicted. It is better to read
    the whole line at once.
    """
    return lines_under(layer, tile_h, tile_w) > lines_held(layer, core)


def written_out(layer: Layer) -> bool:
    """Whether a tile's products are all in unrolled code."""
    return layer.kernel[0] * layer.kernel[1] * (layer.channels // layer.groups) <= UNROLLED_TAPS
