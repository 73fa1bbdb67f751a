"""Windows that slide: which taps an output position reads, and how tiles of positions fall into runs of equal ones.

Padding is zeros, and zeros need no multiply-add: a tile at the border is generated without the taps that lie outside.
A run of tiles whose positions read alike becomes one loop, so an axis costs at most three pieces of code or four: the
first tile, the inner ones, the last whole one, the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm_mobilenet.layer import Layer

# Of no core: how much straight code LLVM gets through.
UNROLLED_TAPS = 160  # products a position that are still written out: 3x3x3 and 7x7x3 are, 3x3x32 is not


@dataclass(frozen=True)
class Run:
    """``count`` tiles of ``tile`` positions from position ``start`` on; ``taps[i]``: what position i of each reads."""

    start: int
    tile: int
    count: int
    taps: tuple[tuple[int, ...], ...]


def runs(layer: Layer, axis: int, tile: int, positions: range | None = None) -> list[Run]:
    """The runs of the output's rows (axis 0) or columns (axis 1) under tiles of ``tile`` positions; of some of them."""
    size = (layer.height, layer.width)[axis]
    out = (layer.out_height, layer.out_width)[axis]
    stride, dilation, kernel, before = (p[axis] for p in (layer.stride, layer.dilation, layer.kernel, layer.padding))
    found: list[Run] = []
    positions = range(out) if positions is None else positions
    for start in range(positions.start, positions.stop, tile):
        length = min(tile, positions.stop - start)
        taps = tuple(
            tuple(k for k in range(kernel) if 0 <= (start + i) * stride - before + k * dilation < size)
            for i in range(length)
        )
        last = found[-1] if found else None
        if last and last.tile == length and last.taps == taps:
            found[-1] = Run(last.start, length, last.count + 1, taps)
        else:
            found.append(Run(start, length, 1, taps))
    return found


def source(layer: Layer, axis: int, position, tap):
    """The input's index that a tap of an output position reads."""
    return position * layer.stride[axis] - layer.padding[axis] + tap * layer.dilation[axis]


def lines_under(layer: Layer, tile_h: int, tile_w: int) -> int:
    """Positions of the input under one tile's window; a line of cache each, where channels fill one."""
    height, width = (
        (t - 1) * s + (k - 1) * d + 1
        for t, s, k, d in zip((tile_h, tile_w), layer.stride, layer.kernel, layer.dilation, strict=True)
    )
    return height * width


def lines_held(layer: Layer, core) -> int:
    """Lines of one vector of channels, at different positions, that the sets of the L1 they fall into hold at once.

    With a power of two of channels from one position to the next they share a few sets.
    """
    stride = layer.input_row * layer.bytes
    way = core.l1d.bytes // core.l1d.ways
    sets = way // math.gcd(stride, way) if stride >= core.l1d.line else way // core.l1d.line
    return sets * core.l1d.ways


def evicts_itself(layer: Layer, tile_h: int, tile_w: int, core) -> bool:
    """Whether the lines under one tile's window do not fit the sets of the L1 that they fall into.

    The next vector of channels then finds the line gone, which it shares with the vector before: better to take the
    line whole at once.
    """
    return lines_under(layer, tile_h, tile_w) > lines_held(layer, core)


def written_out(layer: Layer) -> bool:
    """Whether a tile's products are all written out, without a loop."""
    return layer.kernel[0] * layer.kernel[1] * (layer.channels // layer.groups) <= UNROLLED_TAPS
