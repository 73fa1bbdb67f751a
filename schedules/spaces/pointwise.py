"""The search space of a matrix product: tiles that fit the registers, blocks of tiles, blocks of k, and who writes the
loop.
"""

from __future__ import annotations

from tvm_mobilenet.schedules import integer_products
from tvm_mobilenet.schedules.choices import Choice, Decisions, divisors
from tvm_mobilenet.schedules.in_order import integer_products as inorder_integers
from tvm_mobilenet.schedules.in_order import pointwise as inorder
from tvm_mobilenet.schedules.registers import (
    compiled_registers,
    grouped_registers,
    least_columns,
    registers,
    sum_lanes,
    way,
)

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

# These hold for every core: the limits of the candidates. `refuse` excludes tiles that need too many registers.
VECTORS = (1, 2, 3, 4, 6, 8)  # in a tile's row
HEIGHTS, HEIGHTS_IN_ORDER = range(1, 9), range(1, 13)  # rows of a tile; the dual-issue loop gains from more rows
K_BLOCKS = (64, 128, 256, 512)
MOST_TILES = 512  # in a block
UNROLL = (1, 2, 4, 8)


def tiles(m: int, n: int, layer: Layer, core) -> tuple[list[int], list[int]]:
    """The heights and widths that a tile of an m x n product may have; ``layer`` gives the dtype."""
    vector = sum_lanes(layer, core)
    least = least_columns(layer, core)
    widths = [t * vector for t in VECTORS if t * vector <= n and t * vector % least == 0] or [n]
    heights = HEIGHTS_IN_ORDER if inorder.pairs(core, layer) else HEIGHTS
    return [t for t in heights if t <= m], widths


def fitting(heights, widths, k: int, layer: Layer, core, looped: bool = True) -> list[tuple[int, int]]:
    """The tiles of these heights and widths that stay in registers, in LLVM's code or in a dual-issue loop."""

    vector = sum_lanes(layer, core)
    if way(layer, core) == "long" and not layer.declared.pixels:
        limit = core.vector_registers * (11 if core.in_order else 13) // 16
        need = {
            (a, b): grouped_registers(a, b, layer.group, vector, core.vector_bytes) for a in heights for b in widths
        }
        return [tile for tile, count in need.items() if count <= limit] or [min(need, key=need.get)]

    def most(a: int, b: int) -> int:
        if dtypes.of(layer.dtype).integer:  # a loop of sdot spills at 30 registers, one of long multiplies at 26
            # A deep one, whose steps have 32 multiplies, spills at 22; pixels of `lanes` take registers, too.
            sixteenths = {"dot": 14 if looped else 12, "deep": 10, "lanes": 8}
            return core.vector_registers * sixteenths.get(way(layer, core), 12) // 16
        own = inorder.pairs(core, layer) and inorder.fits(a, b, k, k)
        return core.vector_registers if own else compiled_registers(core, looped)

    return [(a, b) for a in heights for b in widths if registers(a, b, vector) <= most(a, b)]


def k_blocks(layer: Layer) -> list[int]:
    """The lengths that a block of k may have. Partial sums are kept in the output between blocks, so it must be
    channels-last and as wide as the sums. A chunk of sums is not divided.
    """
    lower = K_BLOCKS if keeps_sums(layer) else ()
    whole = dtypes.of(layer.dtype).chunk if layer.sums else 1
    return sorted({b for b in lower if b < layer.channels and b % whole == 0} | {layer.channels})


def keeps_sums(layer: Layer) -> bool:
    """Whether a layer's output can hold partial sums."""
    held, kept = dtypes.of(layer.accumulator_dtype), dtypes.of(layer.output_dtype)
    return layer.output_layout == "NHWC" and kept.rounding <= held.rounding and kept.bytes >= held.bytes


def choices(layer: Layer, core) -> dict[str, tuple]:
    """The candidates of each choice, except for who writes the loop."""
    tiles_m, tiles_n = tiles(layer.height, layer.out_channels, layer, core)
    return {
        "tile_m": tuple(tiles_m),
        "tile_n": tuple(tiles_n),
        "k_block": tuple(k_blocks(layer)),
        "n_block": _blocks(layer.out_channels, tiles_n),
        "m_block": _blocks(layer.height, tiles_m),
        "outer": ("n", "m"),
        "k_unroll": tuple(u for u in UNROLL if u <= layer.channels),
        **products(layer, core, integer_products),
    }


def products(layer: Layer, core, module) -> dict[str, tuple]:
    """The ways in which this core may sum products of integers: only the best one."""
    return {"products": module.ways(layer, core)[:1]} if dtypes.of(layer.dtype).integer else {}


def loop_choice(layer: Layer, core) -> dict[str, Choice]:
    """The choice of who writes the loop over k: LLVM, from TIR, or on in-order cores
    ``schedules/in_order/pointwise.py``, for int8 ``schedules/in_order/integer_products.py``.
    """
    integers = inorder_integers.pairs(core, layer) and integer_products.ways(layer, core)[0] == "long"
    return {"loop": Choice(inorder.LOOPS, "dual_issue")} if inorder.pairs(core, layer) or integers else {}


def _blocks(extent: int, tiles: list[int]) -> tuple[int, ...]:
    """The numbers of tiles that a block may have: the divisors of the number of tiles, for every size of tile."""
    return tuple(sorted({d for t in tiles for d in divisors(max(1, extent // t)) if d <= MOST_TILES}))


def refuse(layer: Layer, d: Decisions, core) -> str:
    """The reason why these decisions are invalid, or the empty string."""
    m, n, k = layer.height, layer.out_channels, layer.channels
    if (need := registers(d["tile_m"], d["tile_n"], sum_lanes(layer, core))) > core.vector_registers:
        return f"a {d['tile_m']}x{d['tile_n']} tile needs {need} registers"
    if (n // d["tile_n"]) % d["n_block"]:
        return f"n_block = {d['n_block']} does not divide {n // d['tile_n']} panels"
    if (m // d["tile_m"]) % d["m_block"]:
        return f"m_block = {d['m_block']} does not divide {m // d['tile_m']} tiles"
    if too_short(layer, d["k_block"], d["tile_n"], core):
        return f"blocks of {d['k_block']} of k move more partial sums of wide tiles than they save in the L1"
    if d["k_block"] < k and not keeps_sums(layer):
        return "partial sums need an output that is channels-last and has the dtype of the sums"
    return ""


def too_short(layer: Layer, k_block: int, tile_n: int, core) -> bool:
    """Whether a wide tile's partial sums, between blocks of k, cost more than short blocks save in the L1."""
    wide = tile_n >= core.limits.partial_sum_vectors * sum_lanes(layer, core)
    return not core.in_order and k_block < min(layer.channels, core.limits.partial_sum_depth) and wide
