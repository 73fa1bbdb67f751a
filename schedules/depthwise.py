"""Depthwise convolutions: one filter a channel, output(h, w, c) = sum over taps of data(h', w', c) * weight(tap, c).

The nest::

    parallel over blocks of c_block channels x tiles of tile_h rows
      `inner` columns:  for each vector of channels, for each tile of tile_w columns    # taps stay in registers
      `inner` channels: for each tile of tile_w columns, for each vector of channels    # data is read in order
        accumulators = bias                                  # tile_h * tile_w vectors
        for each row and column of the input under the tile, unrolled
          one load, then a multiply-add into every position whose window covers it
        output = accumulators, through the epilogue

A 3x3 tile of 2x7 positions at stride 1 does 126 multiply-adds on 36 loads of data and 9 of weights. Every input value
is loaded once a tile; borders are tiles of their own, with the taps that lie outside left out, so padding costs
nothing. On cores that issue in order `loop` = paired leaves a tile to `schedules/in_order/depthwise.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from tvm_mobilenet.schedules import nest
from tvm_mobilenet.schedules.choices import (
    ALIKE,
    EVEN,
    Choice,
    Decisions,
    Space,
    divisors,
    imbalance,
    line_channels,
    line_cycles,
)
from tvm_mobilenet.schedules.in_order import depthwise as inorder_depthwise
from tvm_mobilenet.schedules.in_order import pointwise as inorder
from tvm_mobilenet.schedules.pointwise import DRAM
from tvm_mobilenet.schedules.registers import compiled_registers, sum_lanes
from tvm_mobilenet.schedules.window import Run, lines_held, lines_under, runs, source

from tvm_mobilenet.layer import Layer

DTYPES = ("float32",)


def decisions(layer: Layer, core) -> Space:
    oh, ow, c = layer.out_height, layer.out_width, layer.channels
    vector = sum_lanes(layer, core)
    tiles_h = [t for t in (1, 2, 3, 4) if t <= oh]
    looped = strips(layer, core)
    tiles_w = sorted({t for t in (1, 2, 3, 4, 5, 6, 7, 8, 14) if t <= ow} | ({ow} if looped else set()))
    widths = lanes_of(layer, core)
    tiles = [(a, b) for a in tiles_h for b in tiles_w]

    def tile_of(tiles) -> tuple[int, int, int, str]:
        return (_in_order if core.in_order else _out_of_order)(layer, core, tiles, widths)

    if looped:
        tile_h, tile_w, lanes, inner = *_strip_tile(layer, core, tiles_h, tiles_w), vector, "channels"
    else:
        tile_h, tile_w, lanes, inner = tile_of(tiles)
        uneven = all(b % line_channels(layer, core) and b != c for b in _even_blocks(layer, tile_h, core))
        tasks = len(_work(layer, tile_h, _blocks(layer, core)[0]))
        few = tasks < core.cpus and _cycles(layer, core) / tasks > HANDED
        if uneven and (not core.in_order or layer.stride[0] > 1 or few):
            # All CPUs share single rows: 28x28x120 5x5 takes an A72 9 % less; in order, at stride 1, loads weigh more.
            # Seven positions leave the taps of 5x5 their registers: 14x14x120 takes an A72 8 % less, with 14 8 % more.
            tile_h, tile_w, lanes, inner = tile_of([t for t in tiles if t[0] == 1 and t[1] <= 7])
    c_block = _block(layer, tile_h, core)
    lanes = max((v for v in widths if v <= min(lanes, c_block)), default=widths[0])
    return Space(
        {
            "tile_h": Choice(tuple(tiles_h), tile_h),
            "tile_w": Choice(tuple(tiles_w), tile_w),
            "lanes": Choice(widths, lanes),
            "c_block": Choice(tuple(_blocks(layer, core)), c_block),
            "inner": Choice(("columns", "channels"), inner),
            "apart": nest.apart_choice(core, ends=False),
            **({"loop": Choice(inorder.LOOPS, "paired")} if looped else {}),
            **nest.vector_choice(layer, core),
        },
        lambda d: _refuse(layer, d, core),
    )


def lanes_of(layer: Layer, core) -> tuple[int, ...]:
    """Channels that a tile may take at a time: a vector, two, four or those of a cache line, as registers allow."""
    vector = sum_lanes(layer, core)
    return tuple(
        v
        for v in sorted({vector, 2 * vector, 4 * vector, line_channels(layer, core)})
        if v <= max(layer.channels, vector) and registers(1, 1, v, vector) <= core.vector_registers
    )


FILL_CYCLES = 2  # that a line from the L2 counts for strips
SHORT = 7  # columns: in strips of fewer, what fills and drains them takes stride 2 beyond 2.2 cycles an fmla
AHEAD = 20  # registers of a tile: 2x7, 3x4; with 3x7 the A72 and A76 take 10 to 20 % more, with 4x4 in 5x5 the A53 13 %
HANDED = 30_000  # cycles that a task should take to be worth another CPU: handing it over takes some microseconds
FEW, FEW_PAIRS = 6, 4  # positions: a tile of fewer loads so often that whole lines of channels are better


def _blocks(layer: Layer, core) -> list[int]:
    """How many channels a task may take: half a line of cache at least, or a vector."""
    channels, least = layer.channels, max(line_channels(layer, core) // 2, sum_lanes(layer, core))
    return [b for b in divisors(channels) if b % min(least, channels) == 0 or b == channels]


def _even_blocks(layer: Layer, tile_h: int, core) -> list[int]:
    """Blocks of channels that all CPUs share evenly, the best first.

    Of whole cache lines the most even ones, within ``ALIKE``, and of them the largest; where no such are even, of half
    lines the largest; half a line only in place of shares over 1.1: in 80x80x32 it takes an A53 56 % more.
    """
    line, blocks = line_channels(layer, core), _blocks(layer, core)
    uneven = {b: imbalance(_work(layer, tile_h, b), core.cpus) for b in blocks}
    even = sorted((b for b in uneven if uneven[b] <= EVEN), reverse=True)
    whole = [b for b in even if b % line == 0 or b == layer.channels]
    halves = even if max(even, default=0) > line or uneven[layer.channels] > 1.1 else []
    return sorted(whole, key=lambda b: max(ALIKE, uneven[b])) or halves


def _block(layer: Layer, tile_h: int, core) -> int:
    """Channels of a task: even blocks in a number that all CPUs deal out without rows, if there are such.

    Of those the largest whose rows under a tile lie in a quarter of the L1, where the next row of tiles finds them
    again, or else the smallest. 14x14x512 takes an A72 13.8 k misses in blocks of 32, of 128 19.8 k, as many cycles.
    Where none are even, and tasks are long but fewer than CPUs, those with the shortest longest share.
    """
    even = _even_blocks(layer, tile_h, core)
    dealt = [b for b in even if (layer.channels // b) % core.cpus == 0] or even[:1]
    tasks = len(_work(layer, tile_h, layer.channels))
    if not dealt and tasks < core.cpus and _cycles(layer, core) / tasks > HANDED and not strips(layer, core):
        blocks = sorted(_blocks(layer, core), reverse=True)
        dealt = [min(blocks, key=lambda b: imbalance(_work(layer, tile_h, b), core.cpus))]
    dealt = dealt or [layer.channels]
    lines = lines_under(layer, tile_h, layer.out_width)
    return max((b for b in dealt if lines * b * layer.bytes <= core.l1d.bytes // 4), default=min(dealt))


def _cycles(layer: Layer, core) -> float:
    """About what a layer takes on one CPU: multiply-adds, and lines from and to DRAM."""
    lines = (math.prod(layer.input_shape) + math.prod(layer.output_shape)) * layer.bytes / core.l1d.line
    return layer.mult_adds / core.macs_per_cycle(layer.dtype) + lines * line_cycles(core, core.l2_line_cycles) * DRAM


def _work(layer: Layer, tile_h: int, c_block: int) -> list[int]:
    """Tap rows inside of the image, of each task in order: what rows cost; blocks of channels all cost the same."""
    return [sum(map(len, r.taps)) for r in runs(layer, 0, tile_h) for _ in range(r.count)] * (layer.channels // c_block)


def _in_order(layer: Layer, core, tiles, widths: tuple[int, ...]) -> tuple[int, int, int, str]:
    """Tile, lanes and inner loop: loads take the place of fmla here, and narrow tiles have the fewest. 14x14x512 on a
    Cortex-A53 takes 2.2 cycles a multiply-add and 0.7 for lines that are read again, in tiles of whole lines 3.1."""
    vector, most = widths[0], min(AHEAD, compiled_registers(core))
    fits = [t for t in tiles if registers(*t, vector, vector) <= most]
    return *min(fits, key=lambda t: _loads(layer, *t)), vector, "channels"


def _strip_tile(layer: Layer, core, tiles_h, tiles_w) -> tuple[int, int]:
    """The strip with the fewest cycles and fills of lines. A line is filled again for each of its vectors of channels
    as far as the L1 does not hold all that lie under a strip, and rows that two strips read come from DRAM twice where
    the strips of all cores leave the L2. The stride 2 layer of 112x112x64 takes 1.86 cycles an fmla and 276 k misses in
    whole rows of 4, in 3x7 2.15 and 71 k."""
    held, size, line = lines_held(layer, core), layer.channels * layer.bytes, core.l1d.line
    vectors = -(-layer.channels // sum_lanes(layer, core))
    again = min(line // core.vector_bytes, vectors) - 1
    fill = line_cycles(core, FILL_CYCLES)
    slowly = line_cycles(core, core.l2_line_cycles) * DRAM

    def cost(tile: tuple[int, int]) -> float:
        cycles = fills = slow = 0.0
        block = _block(layer, tile[0], core)
        for row in runs(layer, 0, tile[0]):
            whole = lines_under(layer, row.tile, layer.out_width)
            at_once = core.sharers(core.l2) * (whole + row.tile * layer.out_width) * block
            if at_once * layer.bytes > core.l2.bytes:
                slow += row.count * whole
            for column in runs(layer, 1, tile[1]):
                many, lines = row.count * column.count, lines_under(layer, row.tile, column.tile)
                lines += row.tile * column.tile
                cycles += many * inorder_depthwise.cycles(strip_of(layer, row.taps, column.taps)) * vectors
                fills += many * lines * (1 + again * max(0, 1 - held / lines))
        cycles += (fills * fill + slow * slowly) * size / line
        return cycles * max(ALIKE, imbalance(_work(layer, tile[0], block), core.cpus))

    widths = [t for t in tiles_w if t >= min(SHORT, layer.out_width)]
    return min(((a, b) for a in tiles_h for b in widths if not _refuse_strip(layer, a)), key=cost)


def _out_of_order(layer: Layer, core, tiles, widths: tuple[int, ...]) -> tuple[int, int, int, str]:
    """Tile, lanes and inner loop: the fewest loads of the tiles whose lines stay in the L1 for the vectors of channels
    that follow. Where such tiles are small, 1x2 positions of whole lines, along the row unless the next tile still
    finds the columns that it shares with this one."""
    held, vector, line = lines_held(layer, core), widths[0], line_channels(layer, core)
    lanes, most = pair_of(layer, core), min(AHEAD, core.vector_registers)
    fits = [t for t in tiles if registers(*t, lanes, vector) <= most]
    stay = [t for t in fits if lines_under(layer, *t) + t[0] * t[1] <= held]
    best = min(stay or fits, key=lambda t: _loads(layer, *t))
    enough = best[0] * best[1] >= (FEW_PAIRS if lanes > vector else FEW)
    two = min(2, layer.out_width)
    wide = line in widths and line > vector and registers(1, two, line, vector) <= core.vector_registers
    if not wide or (stay and enough) or best == (layer.out_height, layer.out_width):
        return *best, lanes, "channels"
    return 1, two, line, "channels" if lines_under(layer, 1, 2 * two) <= held else "columns"


def pair_of(layer: Layer, core) -> int:
    """Lanes of a tile: of a pair of NEON's vectors, which one instruction stores, where two fmla a cycle leave stores
    no pipe; else of one vector. Pairs of AVX2's, which are stored one by one, take 10 to 20 % more."""
    vector = sum_lanes(layer, core)
    stored = core.architecture == "aarch64" and core.vector_bytes == nest.VECTOR_BYTES
    return 2 * vector if stored and core.fma_per_cycle > 1 and 2 * vector in lanes_of(layer, core) else vector


def registers(tile_h: int, tile_w: int, lanes: int, vector: int) -> int:
    """Vector registers of a tile: its accumulators and a few for data; taps may be loaded again when they do not
    fit."""
    return (tile_h * tile_w + 3) * (lanes // vector) + 3


def _loads(layer: Layer, tile_h: int, tile_w: int) -> float:
    """Loads a multiply-add, over the whole output with its tails."""
    loads = products = 0
    for row in runs(layer, 0, tile_h):
        for column in runs(layer, 1, tile_w):
            many = row.count * column.count
            loads += many * tile_loads(layer, row.tile, column.tile)
            products += many * row.tile * column.tile * layer.kernel[0] * layer.kernel[1]
    return loads / products


def tile_loads(layer: Layer, tile_h: int, tile_w: int) -> int:
    """Vectors that a tile loads: data under its window, taps, and biases."""
    height, width = ((t - 1) * s + k for t, s, k in zip((tile_h, tile_w), layer.stride, layer.kernel, strict=True))
    return height * width + layer.kernel[0] * layer.kernel[1] + tile_h * tile_w


def strips(layer: Layer, core) -> bool:
    """Whether a layer can be computed in strips by ``schedules/in_order/depthwise.py``: whole vectors of channels, no
    window apart or in padding alone, no epilogue but clamps, one row at least in registers."""
    return (
        inorder.pairs(core, layer)
        and layer.channels % sum_lanes(layer, core) == 0
        and layer.input_layout == layer.output_layout == "NHWC"
        and layer.dilation == (1, 1)
        and (layer.activation in inorder_depthwise.CLAMPS and layer.residual == "none")
        and all(taps for axis in (0, 1) for run in runs(layer, axis, 1) for taps in run.taps)
        and not _refuse_strip(layer, 1)
    )


def _refuse_strip(layer: Layer, rows: int) -> str:
    inner = (tuple(range(k)) for k in layer.kernel)
    return inorder_depthwise.refuse(strip_of(layer, (next(inner),) * rows, (next(inner),)))


def strip_of(layer: Layer, taps_h, taps_w) -> inorder_depthwise.Strip:
    """The strip of outputs whose rows and columns read these taps."""
    clamps = inorder_depthwise.CLAMPS[layer.activation]
    return inorder_depthwise.Strip(tuple(taps_h), tuple(taps_w), layer.stride, clamps)


def _refuse(layer: Layer, d: Decisions, core) -> str:
    vector = sum_lanes(layer, core)
    if d.get("loop") == "paired":
        if d["lanes"] != vector or d["c_block"] % vector:
            return "the paired loop takes one vector of channels at a time"
        return _refuse_strip(layer, d["tile_h"])
    need = registers(d["tile_h"], d["tile_w"], d["lanes"], vector)
    if need > core.vector_registers:
        return f"a {d['tile_h']}x{d['tile_w']} tile of {d['lanes']} lanes needs {need} registers"
    if d["c_block"] < d["lanes"] and d["lanes"] > vector:
        return "a block of channels is shorter than a vector"
    return ""


def constants(layer: Layer) -> list[nest.Argument]:
    """What `pack` gives: taps ``[kh, kw, c]``, and the bias (c,)."""
    taps = ("weight", (*layer.kernel, layer.channels), layer.weight_dtype)
    return [taps, ("bias", (layer.channels,), layer.bias_dtype)]


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Weights (c, 1, kh, kw) as ``[kh, kw, c]``, and the bias (c,)."""
    taps = np.ascontiguousarray(arrays["weight"].reshape(layer.channels, *layer.kernel).transpose(1, 2, 0))
    return [taps.astype(layer.weight_dtype), arrays["bias"].astype(layer.bias_dtype)]


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    c_block, lanes = d["c_block"], d["lanes"]
    c_blocks = layer.channels // c_block
    rows, columns = runs(layer, 0, d["tile_h"]), runs(layer, 1, d["tile_w"])
    row_tiles = sum(r.count for r in rows)
    signature = nest.arguments(layer, constants(layer))
    with nest.Kernel(signature, d) as f, nest.parallel(layer.batch * row_tiles * c_blocks) as task:
        b, first, tile_row = task // (row_tiles * c_blocks), task // row_tiles % c_blocks * c_block, task % row_tiles

        def channels(body):
            whole, rest = divmod(c_block, lanes)
            if whole:
                with nest.serial(whole) as i:
                    body(first + i * lanes, lanes)
            if rest:
                body(first + whole * lanes, rest)

        def across(run: Run, body):
            with nest.serial(run.count) as i:
                body(run.start + i * run.tile, run)

        def strip(row, h):
            if d["inner"] == "columns":
                channels(
                    lambda c, width: [
                        across(run, lambda w, run: _tile(layer, d, f, row, run, b, h, w, c, width)) for run in columns
                    ]
                )
            else:
                for run in columns:
                    across(
                        run, lambda w, run: channels(lambda c, width: _tile(layer, d, f, row, run, b, h, w, c, width))
                    )

        nest.switch(tile_row, [r.count for r in rows], lambda n, i: strip(rows[n], rows[n].start + i * rows[n].tile))
    return f.prim_func


def _tile(layer: Layer, d: Decisions, f: nest.Kernel, row: Run, column: Run, b, h, w, c, width: int) -> None:
    """The outputs of one tile at (h, w), ``width`` channels from c on."""
    data, weight, bias = f["data"], f["weight"], f["bias"]
    if d.get("loop") == "paired":
        inorder_depthwise.filter_strip(
            strip_of(layer, row.taps, column.taps),
            lambda y, x: data[b, source(layer, 0, h, 0) + y, source(layer, 1, w, 0) + x, c],
            lambda kh, kw: weight[kh, kw, nest.Lanes(c, width)],
            bias[nest.Lanes(c, width)],
            lambda i: f["output"][b, h + i, w, c],
            (data.row_bytes, f["output"].row_bytes),
        )
        return
    acc = f.tile(row.tile * column.tile, width, layer.accumulator_dtype)
    apart = d["apart"] == "all"
    acc.set_rows(bias, c, apart)
    filter_tile(
        layer,
        acc,
        row.taps,
        column.taps,
        lambda y, x, lane: data[
            nest.at(layer.input_layout, b, source(layer, 0, h, 0) + y, source(layer, 1, w, 0) + x, c + lane)
        ],
        lambda kh, kw, lane: weight[kh, kw, c + lane],
    )
    for i in range(row.tile):
        for j in range(column.tile):
            f.store(
                layer,
                f["output"],
                lambda lane, n=i * column.tile + j: acc[n, lane],
                width,
                lambda lane, i=i, j=j: nest.at(layer.output_layout, b, h + i, w + j, c + lane),
                f.get("second"),
                apart=apart,
            )


def filter_tile(layer: Layer, acc: nest.Tile, taps_h, taps_w, data, weight) -> None:
    """Filter a tile of ``len(taps_h) x len(taps_w)`` positions into its accumulators.

    ``data(y, x, lane)`` is the input y rows and x columns from where the first position's window begins,
    ``weight(kh, kw, lane)`` a tap; ``taps_h[i]`` are the tap rows that position row i reads. Every input value is read
    once, by all positions whose windows cover it.
    """
    readers: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for i, rows in enumerate(taps_h):
        for j, columns in enumerate(taps_w):
            for kh in rows:
                for kw in columns:
                    y = i * layer.stride[0] + kh * layer.dilation[0]
                    x = j * layer.stride[1] + kw * layer.dilation[1]
                    readers.setdefault((y, x), []).append((i * len(taps_w) + j, kh, kw))
    for (y, x), uses in sorted(readers.items()):
        for n, kh, kw in uses:
            acc.add_product(n, lambda lane, y=y, x=x: data(y, x, lane), lambda lane, kh=kh, kw=kw: weight(kh, kw, lane))
