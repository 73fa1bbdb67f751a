"""Vector registers: the sums that one holds, the number that a tile needs, and the number that it may use."""

from __future__ import annotations

from tvm_mobilenet.schedules import integer_conv, integer_products

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer


def sum_lanes(layer: Layer, core) -> int:
    """The number of a layer's sums in a vector register."""
    if way(layer, core) == ("long" if layer.declared.pixels else "deep"):
        return 1  # each sum has a vector
    return core.lanes(layer.accumulator_dtype)


def way(layer: Layer, core) -> str:
    """The default way to sum products of integers; the empty string for other dtypes, which have one way only."""
    if not dtypes.of(layer.dtype).integer:
        return ""
    return (integer_products if layer.declared.pixels else integer_conv).ways(layer, core)[0]


def least_columns(layer: Layer, core) -> int:
    """The number of columns that a tile's width is a multiple of, if there are as many."""
    if not dtypes.of(layer.dtype).integer:
        return 1
    return integer_products.SUMS if layer.declared.pixels else integer_conv.columns(layer, core)


def compiled_registers(core, looped: bool = True) -> int:
    """The number of registers that LLVM's code for a tile can use without spills. It depends on LLVM, not on the core.

    LLVM moves loads far ahead: on in-order cores everywhere, on other cores in code without a loop. There it also keeps
    biases and bounds of the surrounding loop in registers.

    v1's stem takes 5.24 M cycles on a Cortex-A53 in 4x16 tiles, 22 registers by count, 5.60 M in 6x12 with 23, 6.81 M
    in 10x8 with 24 and 6.93 M in 6x16 with 30, which spill; the first fused block of v1 takes 10.33 M cycles on a
    Cortex-A76 with 6x16, with 4x16 9.95 M.
    """
    if core.in_order:
        return core.vector_registers * (12 if looped else 11) // 16
    return core.vector_registers if looped else core.vector_registers * 3 // 4


def registers(tile_m: int, tile_n: int, vector: int) -> int:
    """Vector registers of a tile: accumulators, a row of weights, two for data. ``vector`` is the number of lanes."""
    vectors = -(-tile_n // vector)
    return tile_m * vectors + vectors + 2


def grouped_registers(tile_m: int, tile_n: int, group: int, lanes: int, vector: int) -> int:
    """Vector registers of a tile that sums products of ``group`` values in an int16: accumulators of ``lanes`` each,
    the broadcast values of the data, weights in vectors of ``vector``, and two sums.
    """
    return tile_m * -(-tile_n // lanes) + group * (tile_m + -(-tile_n // vector)) + 2


def depthwise_registers(tile_h: int, tile_w: int, lanes: int, vector: int) -> int:
    """Vector registers of a depthwise tile: its accumulators and a few for data. Taps that do not fit are loaded
    again.
    """
    return (tile_h * tile_w + 3) * (lanes // vector) + 3
