"""Windows that slide: the taps that an output position reads, and runs of tiles whose positions read alike.

Padding is zeros, and zeros need no multiply-add, so a tile at the border is generated without the taps that lie
outside. A run of tiles whose positions read alike becomes one loop. So an axis needs at most four pieces of code: the
first tile, the inner ones, the last whole one, and the remainder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm_mobilenet.kinds.windows import inside
from tvm_mobilenet.layer import Layer

# This holds for every core: the length of unrolled code that LLVM compiles well.
UNROLLED_TAPS = 160  # most products of a position in unrolled code: 3x3x3 and 7x7x3 are unrolled, 3x3x32 is not


@dataclass(frozen=True)
class Run:
    """``count`` tiles of ``tile`` positions each, from position ``start`` on; position i of each tile reads
    ``taps[i]``.
    """

    start: int
    tile: int
    count: int
    taps: tuple[tuple[int, ...], ...]


def runs(layer: Layer, axis: int, tile: int, positions: range | None = None) -> list[Run]:
    """The runs of the output's rows (axis 0) or columns (axis 1) in tiles of ``tile`` positions, or of a range of
    positions.
    """
    every = inside(layer, axis)
    found: list[Run] = []
    positions = range(len(every)) if positions is None else positions
    for start in range(positions.start, positions.stop, tile):
        length = min(tile, positions.stop - start)
        taps = tuple(tuple(each) for each in every[start : start + length])
        last = found[-1] if found else None
        if last and last.tile == length and last.taps == taps:
            found[-1] = Run(last.start, length, last.count + 1, taps)
        else:
            found.append(Run(start, length, 1, taps))
    return found


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
