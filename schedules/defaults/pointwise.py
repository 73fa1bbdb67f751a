"""The tile and blocks of an untuned matrix product: those with the fewest estimated cycles, summed over all CPUs.

``tile_cycles`` estimates a tile's loop by the instructions that it issues, ``memory_cycles`` the cache lines that its
blocks move. `imbalance` gives the time of the slowest CPU over the mean.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from tvm_mobilenet.schedules import integer_outputs
from tvm_mobilenet.schedules.choices import ALIKE, Decisions, divisors, imbalance
from tvm_mobilenet.schedules.in_order import pointwise as inorder
from tvm_mobilenet.schedules.registers import sum_lanes, way
from tvm_mobilenet.schedules.spaces import pointwise as space
from tvm_mobilenet.targets import memory

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

# These hold for every core: the precision of the estimates.
NEARLY = 1.015  # tiles within this factor of the fewest cycles count too: they may save memory or balance better
OUTPUTS = 18  # vector instructions that requantize sixteen sums to int8
MOVE = 0.03  # of an instruction: it chooses between tiles that requantize as many vectors
FAR = 1.05  # tiles within this factor are considered if they save as much on all CPUs


class Blocks(NamedTuple):
    """A tile and the number of tiles in a block, of rows and of panels; ``outer`` names the slower loop."""

    tile_m: int
    tile_n: int
    n_block: int
    k_block: int
    m_block: int
    outer: str


def choose(layer: Layer, core) -> Decisions:
    """The decisions of an untuned build, except for the choice of who writes the loop."""
    m, n, k = layer.height, layer.out_channels, layer.channels
    found = _Search(layer, core)
    cost, chosen = found.cheapest(found.near())
    tasks = (m // chosen.tile_m // chosen.m_block) * (n // chosen.tile_n // chosen.n_block)
    if tasks < core.cpus and cost > core.limits.share_cycles * core.cpus:  # smaller tiles give all CPUs a task
        chosen = found.cheapest(found.cycles)[1]
    return {**chosen._asdict(), "k_unroll": min(4, k) if k != 3 else 2}


class _Search:
    """All tiles of a layer that fit the registers, and the blocks of them with the fewest cycles."""

    def __init__(self, layer: Layer, core):
        m, n, k = layer.height, layer.out_channels, layer.channels
        self.layer, self.core = layer, core
        heights, widths, self.best = tiles(m, n, k, layer, core)
        fits = space.fitting(heights, widths, k, layer, core)
        self.cycles = {t: tile_cycles(m, n, k, *t, layer, core) for t in fits}
        self.slower = {t: cycles / self.cycles[self.best] for t, cycles in self.cycles.items()}
        self._uneven = functools.cache(self._load_balance)

    def near(self) -> list[tuple[int, int]]:
        """Tiles that are about as fast as the best. An A72 takes 5 % more with fewer than half of its accumulators, in
        8x4 or 1x32 tiles.
        """
        half = self.best[0] * self.best[1] / 2
        return [t for t in self.cycles if self.slower[t] <= FAR and t[0] * t[1] >= half]

    def cheapest(self, tiles) -> tuple[float, Blocks | None]:
        """The cycles of all CPUs, summed up, and the choice for which they are the fewest."""
        depth, best, chosen = self.layer.channels, (float("inf"), 0), None
        for blocks in self._blocks_of(tiles):
            tile = blocks[:2]
            one = self.cycles[tile] * depth + memory_cycles(self.layer, self.core, blocks)
            far = 1 if self.slower[tile] <= NEARLY else FAR
            if chosen and one * ALIKE * far > best[0]:
                continue  # too slow, even with perfect load balance
            cost = one * self._uneven(tile, blocks.n_block, blocks.m_block, blocks.outer) * far, -blocks.m_block
            if not chosen or cost < best:
                best, chosen = cost, blocks
        return best[0], chosen

    def _blocks_of(self, tiles) -> Iterator[Blocks]:
        m, n = self.layer.height, self.layer.out_channels
        k_blocks = space.k_blocks(self.layer)
        return (
            Blocks(*tile, n_block, k_block, m_block, outer)
            for tile in tiles
            for n_block in divisors(max(1, n // tile[1]), high=64)
            for m_block in divisors(max(1, m // tile[0]), high=space.MOST_TILES)
            for k_block in k_blocks
            if not space.too_short(self.layer, k_block, tile[1], self.core)
            for outer in (("n", "m") if n > m else ("m", "n"))
        )

    def _load_balance(self, tile: tuple[int, int], n_block: int, m_block: int, outer: str) -> float:
        shares = work(self.layer, self.core, Blocks(*tile, n_block, 0, m_block, outer))
        return max(ALIKE, imbalance(shares, self.core.cpus))


def tiles_of(layer: Layer, width: int, core) -> tuple[list[int], list[int], tuple[int, int]]:
    """As ``tiles``, for rows of ``width`` positions. Among pairs that are nearly as fast it prefers one that writes
    whole cache lines.

    If a row of output and its panels do not fit the L1, two panels that share a line of the output both fetch it.
    """
    m, n, k = width, layer.out_channels, layer.channels
    tiles_m, tiles_n, best = tiles(m, n, k, layer, core)
    cycles = {t: tile_cycles(m, n, k, *t, layer, core) for t in space.fitting(tiles_m, tiles_n, k, layer, core)}
    whole = [t for t in cycles if t[1] * layer.bytes % core.l1d.line == 0 and cycles[t] <= NEARLY * cycles[best]]
    return tiles_m, tiles_n, min(whole, key=cycles.get, default=best)


def tiles(
    m: int, n: int, k: int, layer: Layer, core, looped: bool = True
) -> tuple[list[int], list[int], tuple[int, int]]:
    """Heights and widths that a tile of an m x n product may have, and the pair of them with the fewest cycles.

    ``layer`` gives the dtype. ``looped``: k is a loop; otherwise it is fully unrolled.
    """
    heights, widths = space.tiles(m, n, layer, core)
    fits = space.fitting(heights, widths, k, layer, core, looped)
    return heights, widths, min(fits, key=lambda t: tile_cycles(m, n, k, *t, layer, core, looped))


def tile_cycles(m: int, n: int, k: int, tile_m: int, tile_n: int, layer: Layer, core, looped: bool = True) -> float:
    """Cycles of one k over all tiles, by issue width and multiply-adds alone; this ranks tiles."""
    scalar = 1 if looped else 1.5  # on an in-order core; in unrolled code each load of data has an address of its own
    integer, depth = dtypes.of(layer.dtype).integer, layer.channels // layer.groups * layer.kernel[0] * layer.kernel[1]
    lanes, grouped = sum_lanes(layer, core), way(layer, core) == "long" and not layer.declared.pixels

    def one(rows: int, columns: int) -> float:
        return sums(rows, columns) + outputs(rows, columns)

    def outputs(rows: int, columns: int) -> float:
        if not integer:
            return 0.0
        # Pieces of vectors are moved and stored by the pipes that multiply, if these are two.
        moves = MOVE * integer_outputs.moves(rows, columns) if core.fma_per_cycle > 1 else 0
        return (OUTPUTS * integer_outputs.vectors(rows, columns) + moves) / core.fma_per_cycle / depth

    def sums(rows: int, columns: int) -> float:
        vectors = -(-columns // lanes)
        products = rows * vectors
        if grouped:  # half of a multiply's lanes per sum, one addition per group; values are broadcast
            data, weights = (1.0, 0.5) if core.in_order else (1.5, 0.125)  # in multiplies
            return products * (0.5 + 1 / layer.group) + data * rows + weights * vectors
        if inorder.pairs(core, layer):
            if inorder.fits(rows, columns, k, k):
                return inorder.cycles(rows, columns)
            return products + core.vector_bytes // core.vector_load_bytes * vectors + scalar * rows
        chains = core.fma_accumulate_latency / max(1, products)  # too few accumulators stall the pipe
        loads = rows + (vectors + 1) // 2
        return max(products / core.fma_per_cycle, (products + loads + 1) / core.issue_width, products * chains) + 0.02

    rows, tail_m = divmod(m, tile_m)
    columns, tail_n = divmod(n, tile_n)
    cycles = rows * columns * one(tile_m, tile_n)
    cycles += columns * one(tail_m, tile_n) if tail_m else 0
    cycles += rows * one(tile_m, tail_n) if tail_n else 0
    return cycles + (one(tail_m, tail_n) if tail_m and tail_n else 0)


def memory_cycles(layer: Layer, core, blocks: Blocks) -> float:
    """Cycles that memory takes in a nest with these blocks.

    The data comes from the L2 once for each block of panels that lies in the L1, the panels once for each block of
    rows. Every block of k but the first reads the output and writes it again. If more than the last cache holds is read
    before data is read again, it comes from DRAM. Cycles are those of `targets.memory.Lines`, plus a load and a store
    for each vector of partial sums.
    """
    tile_m, tile_n, n_block, k_block, m_block, outer = blocks
    m, n, k = layer.height, layer.out_channels, layer.channels
    columns, passes = min(n, n_block * tile_n), -(-k // k_block)
    l1, size, vector = core.l1d, layer.bytes, sum_lanes(layer, core)
    panels, rows = columns * min(k, k_block) * size, tile_m * min(k, k_block) * size
    # One way of the L1 is left to rows and outputs that stream past the panels. If they need more, they evict some
    # panels each time.
    if panels > l1.bytes * (l1.ways - 1) // l1.ways and (n_block > 1 or k_block > space.K_BLOCKS[0]):
        return float("inf")
    evicted = min(1.0, max(0, panels + 2 * rows - l1.bytes) / panels)  # by the rows of this tile and of the next
    row_blocks, column_blocks = max(1, m // tile_m // m_block), -(-n // columns)
    again = max(row_blocks, evicted * m / tile_m)
    lines = (m * k * column_blocks + n * k * again + passes * m * n) * size / l1.line
    # For each block of one operand, which each core has to itself, the inner loop passes over all of the other operand,
    # which the cores read at the same time. A block that no loop passes over twice streams by, one block of k at a
    # time.
    axes = (m, min(m, m_block * tile_m), row_blocks), (n, columns, column_blocks)  # extent, block, blocks
    (stepped, block, steps), (passed, inner, inner_steps) = axes if outer == "m" else axes[::-1]
    own = block * (k + inner if inner_steps > 1 else min(k, k_block))
    cache = core.l3 or core.l2
    last = cache.bytes / size * (cache.ways - 1) / cache.ways  # outputs stream through one way
    own = own * core.sharers(cache)
    slow = stepped * k * (1 if own <= last else inner_steps)
    # Passes run in serpentine order, so each finds in the cache, as far as it fits, the data that the pass before read
    # last.
    held = passed * (k if outer == "m" else layer.input_row)
    slow += passed * k * (1 + (steps - 1) * min(1.0, max(0.0, held + own - last) / held))
    line, partial = memory.lines(core), core.limits.partial_sum_cycles
    return lines * line.l2 + slow * size / l1.line * line.again + (passes - 1) * m * n / vector * partial


def work(layer: Layer, core, blocks: Blocks) -> list[float]:
    """The ``tile_cycles`` of each task, in the order of the tasks' numbers; the last block of an axis has the
    remainder.

    Remainder tiles count by their own cycles: on an in-order core four columns of weights cost more than a third of
    twelve.
    """

    def axis(extent: int, tile: int, block: int) -> list[int]:
        blocks = [tile * block] * max(1, extent // tile // block)
        return [*blocks[:-1], extent - sum(blocks[:-1])]

    tile_m, tile_n = blocks.tile_m, blocks.tile_n
    rows, columns = axis(layer.height, tile_m, blocks.m_block), axis(layer.out_channels, tile_n, blocks.n_block)
    block = functools.cache(lambda r, c: tile_cycles(r, c, layer.channels, tile_m, tile_n, layer, core))
    cycles = [[block(r, c) for r in rows] for c in columns]
    cycles = cycles if blocks.outer == "n" else list(zip(*cycles, strict=True))
    return [one for i, line in enumerate(cycles) for one in (line[::-1] if i % 2 else line)]
