"""Approximate compute cycles of int8 layers, alone and in the rows of a fused block.

`compiler.fuse_blocks` compares the two. Both count vector instructions: multiply-adds at the core's rate, the
rearrangement of a depthwise filter's data, and the requantization of sums to int8. A row of a fused block has remainder
tiles that a layer alone does not have, and its depthwise filters are one row high.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mobilenet.schedules import integer_depthwise, integer_outputs
from tvm_mobilenet.schedules.defaults import pointwise
from tvm_mobilenet.schedules.integer_products import BYTES, SUMS
from tvm_mobilenet.schedules.registers import sum_lanes
from tvm_mobilenet.schedules.spaces import fused_block as space

from tvm_mobilenet.layer import Layer

INTERLEAVE = 8  # instructions that interleave sixteen channels of four columns for a dot product


def alone(layer: Layer, core) -> float:
    """Cycles of a layer that is a kernel of its own."""
    if layer.declared.pixels:
        return _product(layer, layer.height, pointwise.tiles_of(layer, layer.height, core)[2], core)
    if layer.declared.streams == "anywhere":
        high = integer_depthwise.height_of(layer, core)
        return _filters(layer, layer.out_height, high, [layer.out_width], core)
    return layer.mult_adds / core.macs_per_cycle(layer.dtype)


def in_rows(part: Layer, rows: int, widths: Sequence[int], core) -> float:
    """Cycles of ``rows`` rows of a part of a fused block, in column tiles of these widths."""
    if part.declared.pixels:
        return rows * sum(_row(part, width, core) for width in widths)
    if part.declared.streams == "anywhere":
        return _filters(part, rows, 1, widths, core)
    return part.mult_adds / core.macs_per_cycle(part.dtype)


def _row(part: Layer, width: int, core) -> float:
    block = space.width_of_block(part, width, core)
    tile = pointwise.tiles_of(part, block, core)[2]
    blocks, rest = divmod(width, block)
    return blocks * _product(part, block, tile, core) + (_product(part, rest, tile, core) if rest else 0)


def _product(layer: Layer, positions: int, tile: tuple[int, int], core) -> float:
    """Cycles of a product of ``positions`` rows: the tiles' loops at the core's rate of multiply-adds, and the
    outputs.
    """
    n, k = layer.out_channels, layer.channels
    at_once = core.fma_per_cycle * sum_lanes(layer, core) / core.macs_per_cycle(layer.dtype)
    loops = pointwise.tile_cycles(positions, n, k, *tile, layer, core) * k * at_once
    vectors = sum(
        several * each * integer_outputs.vectors(rows, columns)
        for rows, several in _tiles(positions, tile[0])
        for columns, each in _tiles(n, tile[1])
    )
    return loops + vectors * pointwise.OUTPUTS / core.fma_per_cycle


def _filters(layer: Layer, rows: int, high: int, widths: Sequence[int], core) -> float:
    """Cycles of a depthwise layer's rows, in tiles that are ``high`` rows high."""
    kernel, stride = layer.kernel, layer.stride
    way, quads = integer_depthwise.ways(layer, core)[0], integer_depthwise.quads(layer)
    vectors, taps = -(-layer.channels // BYTES), kernel[0] * kernel[1]

    def tile(height: int, width: int) -> float:
        outputs = height * width
        if way == "dot":
            under = (height - 1) * stride[0] + kernel[0]
            several = -(-width // integer_depthwise.outputs(layer)) * quads
            sums = under * several * INTERLEAVE + outputs * kernel[0] * quads * (BYTES // SUMS)
        else:  # long multiplies of eight, and additions of four
            groups = -(-taps // max(1, layer.group))
            sums = outputs * (2 * taps + (BYTES // SUMS) * groups)
        return sums + outputs * pointwise.OUTPUTS

    total = sum(
        several * each * tile(height, columns)
        for height, several in _tiles(rows, high)
        for width in widths
        for columns, each in _tiles(width, integer_depthwise.widths_of(layer, width, core)[1])
    )
    return total * vectors / core.fma_per_cycle


def _tiles(extent: int, tile: int) -> list[tuple[int, int]]:
    """The tiles along an axis, as pairs of length and number."""
    whole, rest = divmod(extent, tile)
    return [(tile, whole)] * (whole > 0) + [(rest, 1)] * (rest > 0)
