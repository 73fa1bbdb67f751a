"""The tile and block of channels of an untuned depthwise layer.

A core that issues in order gets the tile with the fewest loads, or the strips with the fewest cycles. A core that
issues out of order gets the tile with the fewest loads among those whose lines stay in the L1. The block of channels
then gives all CPUs even shares.
"""

from __future__ import annotations

import math

from tvm_mobilenet.schedules import nest
from tvm_mobilenet.schedules.choices import ALIKE, EVEN, Decisions, imbalance, line_channels
from tvm_mobilenet.schedules.in_order import depthwise as inorder_depthwise
from tvm_mobilenet.schedules.in_order import strips
from tvm_mobilenet.schedules.registers import compiled_registers, depthwise_registers, sum_lanes
from tvm_mobilenet.schedules.spaces import depthwise as space
from tvm_mobilenet.schedules.window import lines_held, lines_under, runs, under
from tvm_mobilenet.targets import memory

from tvm_mobilenet.layer import Layer


def choose(layer: Layer, core) -> Decisions:
    """The decisions of an untuned build, except for the choice of who writes the loop."""
    widths = space.lanes_of(layer, core)
    tile_h, tile_w, lanes, inner = _tile(layer, core, widths)
    c_block = block(layer, tile_h, core)
    lanes = max((v for v in widths if v <= min(lanes, c_block)), default=widths[0])
    return {"tile_h": tile_h, "tile_w": tile_w, "lanes": lanes, "c_block": c_block, "inner": inner}


def _tile(layer: Layer, core, widths: tuple[int, ...]) -> tuple[int, int, int, str]:
    """Rows and columns of a tile, lanes and inner loop."""
    tiles_h, tiles_w = space.tiles(layer, core)
    if strips.possible(layer, core):
        return *_strip_tile(layer, core, tiles_h, tiles_w), sum_lanes(layer, core), "channels"
    tiles = [(a, b) for a in tiles_h for b in tiles_w]
    best = _in_order if core.in_order else _out_of_order
    found = best(layer, core, tiles, widths)
    uneven = all(b % line_channels(layer, core) and b != layer.channels for b in _even_blocks(layer, found[0], core))
    tasks = len(work(layer, found[0], space.blocks(layer, core)[0]))
    few = tasks < core.cpus and _cycles(layer, core) / tasks > core.limits.task_cycles
    if uneven and (not core.in_order or layer.stride[0] > 1 or few):
        # Single rows give all CPUs a share: 28x28x120 5x5 then takes 9 % less on an A72. On in-order cores at stride 1,
        # more loads cost more than that.
        return best(layer, core, [t for t in tiles if t[0] == 1 and t[1] <= core.limits.row_positions], widths)
    return found


def _even_blocks(layer: Layer, tile_h: int, core) -> list[int]:
    """Blocks of channels that give all CPUs even shares, the best first.

    First come blocks of whole cache lines: the most even ones, within ``ALIKE``, and the largest of those. If none is
    even, the largest of half lines follows. Half a line is used only instead of a load balance over 1.1, because
    80x80x32 takes 56 % more on an A53 with it.
    """
    line, blocks = line_channels(layer, core), space.blocks(layer, core)
    uneven = {b: imbalance(work(layer, tile_h, b), core.cpus) for b in blocks}
    even = sorted((b for b in uneven if uneven[b] <= EVEN), reverse=True)
    whole = [b for b in even if b % line == 0 or b == layer.channels]
    halves = even if max(even, default=0) > line or uneven[layer.channels] > 1.1 else []
    return sorted(whole, key=lambda b: max(ALIKE, uneven[b])) or halves


def block(layer: Layer, tile_h: int, core) -> int:
    """Channels of a task. Preferred are even blocks that alone give every CPU its tasks, without a cut of the rows.

    Among them it is the largest whose rows under a tile fit a quarter of the L1, where the next row of tiles finds them
    again; if none fits, the smallest. On an A72, 14x14x512 has 13.8 k misses in blocks of 32 and 19.8 k in blocks of
    128, in as many cycles. The rows of a dilation lie far apart: on an A72, 14x14x672 5x5 d2 takes 28 % less in blocks
    of 16 than in halves. If no block is even, and tasks are long but fewer than the CPUs, it is the block with the
    shortest longest share.
    """
    even = _even_blocks(layer, tile_h, core)
    dealt = [b for b in even if (layer.channels // b) % core.cpus == 0] or (even if layer.dilation[0] > 1 else even[:1])
    tasks = len(work(layer, tile_h, layer.channels))
    if (
        not dealt
        and tasks < core.cpus
        and _cycles(layer, core) / tasks > core.limits.task_cycles
        and not strips.possible(layer, core)
    ):
        blocks = sorted(space.blocks(layer, core), reverse=True)
        dealt = [min(blocks, key=lambda b: imbalance(work(layer, tile_h, b), core.cpus))]
    dealt = dealt or [layer.channels]
    lines = lines_under(layer, tile_h, layer.out_width)
    return max((b for b in dealt if lines * b * layer.bytes <= core.l1d.bytes // 4), default=min(dealt))


def _cycles(layer: Layer, core) -> float:
    """Approximate cycles of a layer on one CPU: multiply-adds, and cache lines from and to DRAM."""
    lines = (math.prod(layer.input_shape) + math.prod(layer.output_shape)) * layer.bytes / core.l1d.line
    return layer.mult_adds / core.macs_per_cycle(layer.dtype) + lines * memory.lines(core).again


def work(layer: Layer, tile_h: int, c_block: int, step: int = 1) -> list[int]:
    """The work of each task in order: its tap rows inside the image, since only rows differ in cost. The rows of a task
    are ``step`` apart.
    """
    tiles = [sum(map(len, r.taps)) for r in runs(layer, 0, tile_h, step=step) for _ in range(r.tiles)]
    return tiles * (layer.channels // c_block)


def _in_order(layer: Layer, core, tiles, widths: tuple[int, ...]) -> tuple[int, int, int, str]:
    """Tile, lanes and inner loop for a core that issues in order: loads take the place of fmla there, and narrow tiles
    have the fewest. On a Cortex-A53, 14x14x512 takes 2.2 cycles a multiply-add and 0.7 for lines that are read again;
    in tiles of whole cache lines it takes 3.1.
    """
    vector, most = widths[0], min(core.limits.depthwise_registers, compiled_registers(core))
    fits = [t for t in tiles if depthwise_registers(*t, vector, vector) <= most]
    return *min(fits, key=lambda t: _loads(layer, *t)), vector, "channels"


def _strip_tile(layer: Layer, core, tiles_h, tiles_w) -> tuple[int, int]:
    """The strip with the fewest cycles, line fills included. If the L1 does not hold all lines under a strip, a line is
    filled again for each of its vectors of channels. If the strips of all cores exceed the L2, rows that two strips
    read come from DRAM twice. The stride 2 layer of 112x112x64 takes 1.86 cycles an fmla and 276 k misses in whole rows
    of 4, in 3x7 strips 2.15 and 71 k.
    """
    held, size, line = lines_held(layer, core), layer.channels * layer.bytes, core.l1d.line
    vectors = -(-layer.channels // sum_lanes(layer, core))
    again = min(line // core.vector_bytes, vectors) - 1
    costs = memory.lines(core)

    def cost(tile: tuple[int, int]) -> float:
        cycles = fills = slow = 0.0
        own = block(layer, tile[0], core)
        for row in runs(layer, 0, tile[0]):
            whole = lines_under(layer, row.tile, layer.out_width)
            at_once = core.sharers(core.l2) * (whole + row.tile * layer.out_width) * own
            if at_once * layer.bytes > core.l2.bytes:
                slow += row.count * whole
            for column in runs(layer, 1, tile[1]):
                many, lines = row.count * column.count, lines_under(layer, row.tile, column.tile)
                lines += row.tile * column.tile
                cycles += many * inorder_depthwise.cycles(strips.strip_of(layer, row.taps, column.taps)) * vectors
                fills += many * lines * (1 + again * max(0, 1 - held / lines))
        cycles += (fills * costs.strip + slow * costs.again) * size / line
        return cycles * max(ALIKE, imbalance(work(layer, tile[0], own), core.cpus))

    widths = [t for t in tiles_w if t >= min(core.limits.strip_columns, layer.out_width)]
    return min(((a, b) for a in tiles_h for b in widths if not strips.refuse(layer, a)), key=cost)


def _out_of_order(layer: Layer, core, tiles, widths: tuple[int, ...]) -> tuple[int, int, int, str]:
    """Tile, lanes and inner loop for a core that issues out of order: the tile with the fewest loads among those whose
    lines stay in the L1 for the next vectors of channels. If such tiles are small, the choice is 1x2 positions of whole
    cache lines, along the row unless the next tile still finds the columns that it shares with this one.
    """
    held, vector, line = lines_held(layer, core), widths[0], line_channels(layer, core)
    lanes, most = pair_of(layer, core), min(core.limits.depthwise_registers, core.vector_registers)
    fits = [t for t in tiles if depthwise_registers(*t, lanes, vector) <= most]
    stay = [t for t in fits if lines_under(layer, *t) + t[0] * t[1] <= held]
    best = min(stay or fits, key=lambda t: _loads(layer, *t))
    enough = best[0] * best[1] >= (core.limits.depthwise_pairs if lanes > vector else core.limits.depthwise_positions)
    two = min(2, layer.out_width)
    wide = line in widths and line > vector and depthwise_registers(1, two, line, vector) <= core.vector_registers
    if not wide or (stay and enough) or best == (layer.out_height, layer.out_width):
        return *best, lanes, "channels"
    return 1, two, line, "channels" if lines_under(layer, 1, 2 * two) <= held else "columns"


def pair_of(layer: Layer, core) -> int:
    """Lanes of a tile: two NEON vectors, which one instruction stores, on cores whose two fmla a cycle leave stores no
    pipe; else one vector. AVX2 stores a pair one by one, which takes 10 to 20 % more.
    """
    vector = sum_lanes(layer, core)
    stored = core.architecture == "aarch64" and core.vector_bytes == nest.VECTOR_BYTES
    return 2 * vector if stored and core.fma_per_cycle > 1 and 2 * vector in space.lanes_of(layer, core) else vector


def _loads(layer: Layer, tile_h: int, tile_w: int) -> float:
    """Loads a multiply-add, over the whole output with its remainder tiles."""
    loads = products = 0
    for row in runs(layer, 0, tile_h):
        for column in runs(layer, 1, tile_w):
            many = row.count * column.count
            loads += many * tile_loads(layer, row.tile, column.tile)
            products += many * row.tile * column.tile * layer.kernel[0] * layer.kernel[1]
    return loads / products


def tile_loads(layer: Layer, tile_h: int, tile_w: int) -> int:
    """The number of vectors that a tile loads: data under its window, taps, and biases."""
    height, width = under(layer, tile_h, tile_w)
    return height * width + layer.kernel[0] * layer.kernel[1] + tile_h * tile_w
