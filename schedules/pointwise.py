"""Pointwise (1x1) convolutions: a matrix product, output(m, n) = sum over k of data(m, k) * weight(n, k).

The nest::

    parallel over blocks (m_block tiles x n_block panels), `outer` says which runs slowest
      for each block of k                                    # the block's panels stay in L1
        for each tile of tile_m rows
          for each panel of tile_n columns
            accumulators = zeros, or the output so far       # tile_m * tile_n / lanes registers
            for k in the block, unrolled by k_unroll         # tile_n / lanes loads of weights, tile_m of data
              accumulators += data(m, k) * weight(k, n)
            output = accumulators, through the epilogue after the last block of k

Every other pass of the faster of the two blocks, and of k, runs backwards: what does not fit the last cache whole is
found there as far as it does, for the next pass begins with what this one read last. 196 x 512 rows on the Cortex-A53,
whose L2 they nearly fill: 2.7 MB from DRAM in place of 3.9.

Register budget: the accumulators, one vector of weights a column of the tile, and two for data; what does not fit is no
candidate. Weights are packed ``[k blocks][panels][k_block][tile_n]``: what a block of k uses lies together, since
panels a power of two apart fall into one way of the L1 and evict each other. Rows and columns that a tile does not
divide get a smaller tile of their own, so nothing is padded and no test stands in an inner loop.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
from tvm_mobilenet.schedules import nest
from tvm_mobilenet.schedules.choices import ALIKE, Choice, Decisions, Space, divisors, imbalance, line_cycles
from tvm_mobilenet.schedules.in_order import pointwise as inorder
from tvm_mobilenet.schedules.registers import compiled_registers, registers, sum_lanes

from tvm_mobilenet.layer import Layer

DTYPES = ("float32",)


def decisions(layer: Layer, core) -> Space:
    m, n, k = layer.height, layer.out_channels, layer.channels
    tiles_m, tiles_n, best = tiles(m, n, k, layer, core)
    lower = (64, 128, 256, 512) if layer.output_layout == "NHWC" else ()  # partial sums are kept in the output
    k_blocks = sorted({b for b in lower if b < k} | {k})
    cycles = {t: tile_cycles(m, n, k, *t, layer, core) for t in _fitting(tiles_m, tiles_n, k, layer, core)}
    half = best[0] * best[1] / 2  # of the best tile's accumulators; with fewer, 8x4 or 1x32, an A72 takes 5 % more
    slower = {t: c / cycles[best] for t, c in cycles.items()}
    near = [t for t in cycles if slower[t] <= FAR and t[0] * t[1] >= half]
    uneven = functools.cache(
        lambda tile, n_block, m_block, outer: max(
            ALIKE, imbalance(_work(layer, core, *tile, m_block, n_block, outer), core.cpus)
        )
    )

    def blocks_of(tiles):
        return (
            (tile, n_block, k_block, m_block, outer)
            for tile in tiles
            for n_block in divisors(max(1, n // tile[1]), high=64)
            for m_block in divisors(max(1, m // tile[0]), high=512)
            for k_block in k_blocks
            if not _too_short(layer, k_block, tile[1], core)
            for outer in (("n", "m") if n > m else ("m", "n"))
        )

    def choice_of(tiles) -> tuple[float, tuple]:
        """The choice that takes all CPUs the fewest cycles, summed up, and how many."""
        best = float("inf"), 0, ()
        for choice in blocks_of(tiles):
            tile, n_block, k_block, m_block, outer = choice
            one = cycles[tile] * k + _memory_cycles(layer, core, *tile, n_block, k_block, m_block, outer)
            far = 1 if slower[tile] <= NEARLY else FAR
            if best[2] and one * ALIKE * far > best[0]:
                continue  # however even it is
            cost = one * uneven(tile, n_block, m_block, outer) * far, -m_block
            if not best[2] or cost < best[:2]:
                best = *cost, choice
        return best[0], best[2]

    cost, chosen = choice_of(near)
    tasks = (m // chosen[0][0] // chosen[3]) * (n // chosen[0][1] // chosen[1])
    if tasks < core.cpus and cost > LONG * core.cpus:  # smaller tiles give all CPUs something to do
        cost, chosen = choice_of(cycles)
    (tile_m, tile_n), n_block, k_block, m_block, outer = chosen
    return Space(
        {
            "tile_m": Choice(tuple(tiles_m), tile_m),
            "tile_n": Choice(tuple(tiles_n), tile_n),
            "k_block": Choice(tuple(k_blocks), k_block),
            "n_block": Choice(_blocks(n, tiles_n), n_block),
            "m_block": Choice(_blocks(m, tiles_m), m_block),
            "outer": Choice(("n", "m"), outer),
            "k_unroll": Choice(tuple(u for u in (1, 2, 4, 8) if u <= k), min(4, k) if k != 3 else 2),
            "apart": nest.apart_choice(core),
            **loop_choice(layer, core),
            **nest.vector_choice(layer, core),
        },
        lambda d: _refuse(layer, d, core),
    )


def loop_choice(layer: Layer, core) -> dict[str, Choice]:
    """Who writes the loop over k: LLVM, from TIR, or on in-order cores ``schedules/in_order/pointwise.py``."""
    return {"loop": Choice(inorder.LOOPS, "paired")} if inorder.pairs(core, layer) else {}


def tiles_of(layer: Layer, width: int, core) -> tuple[list[int], list[int], tuple[int, int]]:
    """As ``tiles``, of rows of ``width`` positions; of pairs that are nearly as fast one that writes whole lines.

    Two panels that share a line of the output both fetch it, where a row of output and its panels do not fit the L1.
    """
    m, n, k = width, layer.out_channels, layer.channels
    tiles_m, tiles_n, best = tiles(m, n, k, layer, core)
    cycles = {t: tile_cycles(m, n, k, *t, layer, core) for t in _fitting(tiles_m, tiles_n, k, layer, core)}
    whole = [t for t in cycles if t[1] * layer.bytes % core.l1d.line == 0 and cycles[t] <= NEARLY * cycles[best]]
    return tiles_m, tiles_n, min(whole, key=cycles.get, default=best)


def tiles(
    m: int, n: int, k: int, layer: Layer, core, looped: bool = True
) -> tuple[list[int], list[int], tuple[int, int]]:
    """Heights and widths that a tile of an m x n product may have, and the pair of them with the fewest cycles.

    ``layer`` says of which dtype; ``looped``: k is a loop; else all of it is written out.
    """
    vector = sum_lanes(layer, core)
    widths = [t * vector for t in VECTORS if t * vector <= n] or [n]
    heights = [t for t in range(1, 13 if inorder.pairs(core, layer) else 9) if t <= m]
    fits = _fitting(heights, widths, k, layer, core, looped)
    return heights, widths, min(fits, key=lambda t: tile_cycles(m, n, k, *t, layer, core, looped))


def _fitting(
    heights: list[int], widths: list[int], k: int, layer: Layer, core, looped: bool = True
) -> list[tuple[int, int]]:
    """The tiles whose accumulators, weights and data the registers hold."""

    def most(a: int, b: int) -> int:
        own = inorder.pairs(core, layer) and inorder.fits(a, b, k, k)
        return core.vector_registers if own else compiled_registers(core, looped)

    return [(a, b) for a in heights for b in widths if registers(a, b, sum_lanes(layer, core)) <= most(a, b)]


def tile_cycles(m: int, n: int, k: int, tile_m: int, tile_n: int, layer: Layer, core, looped: bool = True) -> float:
    """Cycles one k takes over all tiles, by issue width and multiply-adds alone; ranks tiles for the default."""
    scalar = 1 if looped else 1.5  # of an in-order core; written out, data is read with an address of its own each
    lanes = sum_lanes(layer, core)

    def one(rows: int, columns: int) -> float:
        vectors = -(-columns // lanes)
        products = rows * vectors
        if inorder.pairs(core, layer):
            paired = inorder.fits(rows, columns, k, k)
            return inorder.cycles(rows, columns) if paired else products + 2 * vectors + scalar * rows
        chains = core.fma_accumulate_latency / max(1, products)  # too few accumulators leave the pipe waiting
        loads = rows + (vectors + 1) // 2
        return max(products / core.fma_per_cycle, (products + loads + 1) / core.issue_width, products * chains) + 0.02

    rows, tail_m = divmod(m, tile_m)
    columns, tail_n = divmod(n, tile_n)
    cycles = rows * columns * one(tile_m, tile_n)
    cycles += columns * one(tail_m, tile_n) if tail_m else 0
    cycles += rows * one(tile_m, tail_n) if tail_n else 0
    return cycles + (one(tail_m, tail_n) if tail_m and tail_n else 0)


def _memory_cycles(
    layer: Layer, core, tile_m: int, tile_n: int, n_block: int, k_block: int, m_block: int, outer: str
) -> float:
    """What memory costs a nest with these blocks, to rank them for the default.

    While a block of panels lies in the L1, the data comes from the L2 once for each of them, the panels once for each
    block of rows; every block of k but the first reads the output and writes it again. What is read again after more
    than the last cache holds comes from DRAM.
    Cycles: `Core.l2_line_cycles` a line from the L2, ``DRAM`` times as many one from DRAM, a load and a store a vector.
    """
    m, n, k = layer.height, layer.out_channels, layer.channels
    columns, passes = min(n, n_block * tile_n), -(-k // k_block)
    l1, size, vector = core.l1d, layer.bytes, sum_lanes(layer, core)
    panels, rows = columns * min(k, k_block) * size, tile_m * min(k, k_block) * size
    # One way is left to what streams past the panels; where that is more, it takes some of them with it each time.
    if panels > l1.bytes * (l1.ways - 1) // l1.ways and (n_block > 1 or k_block > 64):
        return float("inf")
    evicted = min(1.0, max(0, panels + 2 * rows - l1.bytes) / panels)  # by a tile's rows and the next's
    row_blocks, column_blocks = max(1, m // tile_m // m_block), -(-n // columns)
    again = max(row_blocks, evicted * m / tile_m)
    lines = (m * k * column_blocks + n * k * again + passes * m * n) * size / l1.line
    # The inner loop passes over all of one operand, which the cores read at the same time, for each block of the other,
    # of which each core has its own; a block that nothing passes over twice streams by, a block of k at a time.
    axes = (m, min(m, m_block * tile_m), row_blocks), (n, columns, column_blocks)  # extent, block, blocks
    (stepped, block, steps), (passed, inner, inner_steps) = axes if outer == "m" else axes[::-1]
    own = block * (k + inner if inner_steps > 1 else min(k, k_block))
    cache = core.l3 or core.l2
    last, own = (
        cache.bytes / size * (cache.ways - 1) / cache.ways,
        own * core.sharers(cache),
    )  # outputs stream by in a way
    slow = stepped * k * (1 if own <= last else inner_steps)
    # Passes run to and fro, so that each finds in the cache what the one before read last, as much as fits.
    held = passed * (k if outer == "m" else layer.input_row)
    slow += passed * k * (1 + (steps - 1) * min(1.0, max(0.0, held + own - last) / held))
    line = line_cycles(core, core.l2_line_cycles)
    return lines * line + slow * size / l1.line * line * DRAM + (passes - 1) * m * n / vector * PARTIAL_CYCLES


NEARLY = 1.015  # tiles with so many times the fewest cycles are considered too, for the sake of memory and even tasks
LONG = 70_000  # cycles of a CPU's share, from which on smaller and slower tiles pay if they leave no CPU idle
FAR = 1.05  # and up to so many times where they save as much, on all CPUs: this estimate is no finer
DRAM = 4  # lines from the L2 that one from DRAM counts as: 2.6 to 7 on the boards, which differ where cores do not
VECTORS = (1, 2, 3, 4, 6, 8)  # of a tile's row
WIDE = 4  # vectors; a tile of so many moves more partial sums than short blocks of k spare
PARTIAL_CYCLES = 3  # to load and to store one vector of partial sums: CORES.md, ldr q and str q of the Cortex-A72


def _blocks(extent: int, tiles: list[int]) -> tuple[int, ...]:
    """How many tiles may make a block: the divisors of the number of tiles, whatever the tile's size."""
    return tuple(sorted({d for t in tiles for d in divisors(max(1, extent // t)) if d <= 512}))


def _work(layer: Layer, core, tile_m: int, tile_n: int, m_block: int, n_block: int, outer: str) -> list[float]:
    """``tile_cycles`` of each task, in the order in which tasks are numbered; the last block of an axis has its rest.

    Tails count by what they take: on an in-order core four columns of weights cost more than a third of twelve.
    """

    def axis(extent: int, tile: int, block: int) -> list[int]:
        blocks = [tile * block] * max(1, extent // tile // block)
        return [*blocks[:-1], extent - sum(blocks[:-1])]

    rows, columns = axis(layer.height, tile_m, m_block), axis(layer.out_channels, tile_n, n_block)
    block = functools.cache(lambda r, c: tile_cycles(r, c, layer.channels, tile_m, tile_n, layer, core))
    work = [[block(r, c) for r in rows] for c in columns]
    work = work if outer == "n" else list(zip(*work, strict=True))
    return [cycles for i, line in enumerate(work) for cycles in (line[::-1] if i % 2 else line)]


def _refuse(layer: Layer, d: Decisions, core) -> str:
    m, n, k = layer.height, layer.out_channels, layer.channels
    if (need := registers(d["tile_m"], d["tile_n"], sum_lanes(layer, core))) > core.vector_registers:
        return f"a {d['tile_m']}x{d['tile_n']} tile needs {need} registers"
    if (n // d["tile_n"]) % d["n_block"]:
        return f"n_block = {d['n_block']} does not divide {n // d['tile_n']} panels"
    if (m // d["tile_m"]) % d["m_block"]:
        return f"m_block = {d['m_block']} does not divide {m // d['tile_m']} tiles"
    if _too_short(layer, d["k_block"], d["tile_n"], core):
        return f"blocks of {d['k_block']} of k move more partial sums of wide tiles than they spare in the L1"
    if d["k_block"] < k and layer.output_layout == "NCHW":
        return "partial sums are kept in an output that is channels-last"
    return ""


def _too_short(layer: Layer, k_block: int, tile_n: int, core) -> bool:
    """Whether a wide tile's partial sums, between blocks of k, cost more than short blocks spare in the L1: in blocks
    of 64, v1 takes 2 % more cycles on the Cortex-A72 by llvm-mca."""
    return not core.in_order and k_block < min(layer.channels, 128) and tile_n >= WIDE * sum_lanes(layer, core)


def constants(layer: Layer) -> list[nest.Argument]:
    """What `pack` gives."""
    weight = ("weight", (math.prod(layer.weight_shape),), layer.weight_dtype)
    return [weight, ("bias", (layer.out_channels,), layer.bias_dtype)]


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Weights (n, k) as ``[k blocks][panels][k_block][tile_n]`` in one dimension, and the bias (n,)."""
    pieces, weight = [], arrays["weight"]
    for k0, k1 in _steps(layer.channels, d["k_block"]):
        for n0, n1 in _steps(layer.out_channels, d["tile_n"]):
            pieces.append(np.ascontiguousarray(weight[n0:n1, k0:k1].T).ravel())
    return [np.concatenate(pieces).astype(layer.weight_dtype), arrays["bias"].astype(layer.bias_dtype)]


def _steps(extent: int, step: int) -> list[tuple[int, int]]:
    return [(i, min(i + step, extent)) for i in range(0, extent, step)]


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    m, n, k = layer.height, layer.out_channels, layer.channels
    tile_m, tile_n, k_block = d["tile_m"], d["tile_n"], d["k_block"]
    rows, tail_m = divmod(m, tile_m)
    panels, tail_n = divmod(n, tile_n)
    m_blocks, n_blocks = rows // d["m_block"], panels // d["n_block"]
    with nest.Kernel(nest.arguments(layer, constants(layer)), d) as f, nest.parallel(m_blocks * n_blocks) as task:
        inner = m_blocks if d["outer"] == "n" else n_blocks
        back = nest.named(task // inner % 2, "back")  # every other pass over the inner blocks and k runs backwards
        ahead, step = task // inner, _turned(task % inner, inner, back)
        mb, nb = (step, ahead) if d["outer"] == "n" else (ahead, step)

        def block_of_k(b, kb, depth, order):
            """All tiles and panels of one block of k; kb is its index, ``depth`` its length, ``order`` its turn."""

            def tile(row, height, panel, width):
                columns = panel * tile_n
                panel_at = kb * (k_block * n) + columns * depth
                _tile(layer, d, f, b, row, height, columns, width, kb, depth, panel_at, order)

            def panels_of(row, height):
                with nest.serial(d["n_block"]) as p:
                    tile(row, height, nb * d["n_block"] + p, tile_n)
                if tail_n:
                    with nest.when(nb == n_blocks - 1):
                        tile(row, height, panels, tail_n)

            with nest.serial(d["m_block"]) as i:
                panels_of((mb * d["m_block"] + i) * tile_m, tile_m)
            if tail_m:
                with nest.when(mb == m_blocks - 1):
                    panels_of(rows * tile_m, tail_m)

        with nest.serial(layer.batch) as b:
            whole, tail_k = divmod(k, k_block)
            with nest.serial(whole) as order:
                block_of_k(b, order if tail_k else _turned(order, whole, back), k_block, order)
            if tail_k:
                block_of_k(b, whole, tail_k, whole)
    return f.prim_func


def _turned(index, extent: int, back):
    """An index below ``extent``, counted from the other end where ``back`` is 1."""
    return index if extent == 1 else nest.named(index + back * (extent - 1 - 2 * index), "turned")


def _tile(
    layer: Layer, d: Decisions, f: nest.Kernel, b, row, height, column, width, kb, depth, panel_at, order
) -> None:
    """One tile of ``height`` x ``width`` over one block of k, of whose blocks it is the one that comes ``order``-th."""
    data, weight, bias, out = f["data"], f["weight"], f["bias"], f["output"]
    blocks = -(-layer.channels // d["k_block"])
    acc = f.tile(height, width, layer.accumulator_dtype)
    apart = d["apart"] != "none"

    def start():
        acc.set_rows(bias, column, apart)

    def finish():
        for i in range(height):
            f.store(
                layer,
                out,
                lambda lane, i=i: acc[i, lane],
                width,
                lambda lane, i=i: nest.at(layer.output_layout, b, row + i, 0, column + lane),
                f.get("second"),
                apart=apart,
            )

    def keep():
        for i in range(height):
            if d["apart"] == "all":
                f.write(out.row((b, row + i, 0, column)), lambda lane, i=i: acc[i, lane], width, lambda lane: lane)
            else:
                f.write(out, lambda lane, i=i: acc[i, lane], width, lambda lane, i=i: (b, row + i, 0, column + lane))

    if blocks == 1:
        start()
    else:
        nest.either(order == 0, start, lambda: acc.set(lambda i, lane: out[b, row + i, 0, column + lane]))
    multiply(
        acc,
        depth,
        d["k_unroll"],
        lambda i, k: data[nest.at(layer.input_layout, b, row + i, 0, kb * d["k_block"] + k)],
        lambda k, lane: weight[panel_at + k * width + lane],
        layer.input_row if d.get("loop") == "paired" and layer.input_layout == "NHWC" else 0,
    )
    if blocks == 1:
        finish()
    else:
        nest.either(order == blocks - 1, finish, keep)


def multiply(acc: nest.Tile, depth: int, unroll: int, data, weight, row_pitch: int = 0) -> None:
    """acc(i, lane) += the sum over k below depth of data(i, k) * weight(k, lane).

    ``row_pitch`` is the distance between rows of data where the loop of ``inorder`` may be taken, which needs it.
    """
    if row_pitch and inorder.fits(acc.rows, acc.width, depth, row_pitch):
        inorder.multiply(acc, depth, data, weight, row_pitch)
        return

    def step(k):
        for i in range(acc.rows):
            acc.add_product(i, lambda lane, i=i: data(i, k), lambda lane: weight(k, lane))

    nest.unrolled(depth, unroll, step)
