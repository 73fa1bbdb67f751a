"""The tile and block of panels of an untuned convolution: the tile of a product of one row, and a block of weights that
stays in the L2.
"""

from __future__ import annotations

from tvm_mobilenet.schedules.choices import SHARES, Decisions, divisors
from tvm_mobilenet.schedules.defaults.pointwise import tiles
from tvm_mobilenet.schedules.spaces import conv as space
from tvm_mobilenet.schedules.window import written_out

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

BY_ELEMENT = 16  # AArch64's fmla by element reads an element of two bytes from these first registers only
STEPS_AHEAD = 4  # LLVM loads the data of this many products ahead


def choose(layer: Layer, core) -> Decisions:
    """The decisions of an untuned build."""
    n, depth = layer.out_channels // layer.groups, layer.channels // layer.groups
    tiles_n, (tile_w, tile_n) = tiles_of(layer, layer.out_width, core)[1], tile_of(layer, layer.out_width, core)
    panels = max(1, n // tile_n)
    blocks = space.blocks(layer, tiles_n)
    outer = "n" if n * depth > layer.height * layer.width * 4 else "h"
    # Every row reads the block of weights again, so each CPU's block has to stay in its part of the L2, of which it may
    # take a quarter beside rows and outputs. If not even one panel fits, all CPUs read the same weights at the same
    # time.
    panel = tile_n * depth * layer.kernel[0] * layer.kernel[1] * dtypes.of(layer.weight_dtype).bytes
    most = (core.l2.bytes // max(4, core.sharers(core.l2)) // panel if outer == "n" else 0) or panels
    fits = [b for b in divisors(panels) if b in blocks and b <= most]
    enough = [b for b in fits if layer.out_height * layer.groups * (panels // b) >= SHARES * core.cpus]
    block = max(enough, default=1)
    return {"tile_w": tile_w, "tile_n": tile_n, "n_block": block, "outer": outer, "c_unroll": min(2, depth)}


def tiles_of(layer: Layer, width: int, core) -> tuple[list[int], list[int], tuple[int, int]]:
    """As ``pointwise.tiles``, for rows of ``width`` positions, but without the dual-issue loop: k is not contiguous
    here.
    """
    return tiles(width, layer.out_channels // layer.groups, 0, layer, core, looped=not written_out(layer))


def tile_of(layer: Layer, width: int, core) -> tuple[int, int]:
    """The tile of an untuned build.

    In fully unrolled code of a two-byte dtype, each value of the data takes one of the few registers that a
    multiply-add by element can read. MobileNetV3's stem takes 1.57 times the cycles of its multiply-adds in 4x16 tiles,
    1.71 in 8x16, 2.22 in 16x16.
    """
    few = written_out(layer) and dtypes.of(layer.dtype).bytes == 2 and core.architecture == "aarch64"
    return tiles_of(layer, min(width, BY_ELEMENT // STEPS_AHEAD) if few else width, core)[2]
