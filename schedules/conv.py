"""Convolutions that are neither depthwise nor pointwise: the stem, the plain twin's 3x3, grouped and strided ones.

The nest::

    parallel over rows x blocks of n_block panels, `outer` says which runs slowest
      for each panel of tile_n output channels
        for each tile of tile_w columns
          accumulators = bias                                # tile_w * tile_n / lanes registers
          for each tap row, tap column, input channel        # few: unrolled; many: loops, channels unrolled by c_unroll
            accumulators += data(h', w', c) * weight(tap, c, n)
          output = accumulators, through the epilogue

No im2col: data is read where it lies, in the layout it came in, so the stem reads the image as planes. Tiles at the
left and right border are generated without the taps outside; rows at the top and bottom run fewer tap rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import nest
from tvm_mobilenet.schedules.choices import SHARES, Choice, Decisions, Space, divisors
from tvm_mobilenet.schedules.pointwise import constants, tiles
from tvm_mobilenet.schedules.registers import registers, sum_lanes
from tvm_mobilenet.schedules.window import Run, runs, source

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

DTYPES = ("float32",)
UNROLLED_TAPS = 160  # products a position that are still written out: 3x3x3 and 7x7x3 are, 3x3x32 is not


def decisions(layer: Layer, core) -> Space:
    n, ow, depth = layer.out_channels // layer.groups, layer.out_width, layer.channels // layer.groups
    tiles_w, tiles_n, (tile_w, tile_n) = tiles_of(layer, ow, core)
    panels = max(1, n // tile_n)
    blocks = sorted({b for t in tiles_n for b in divisors(max(1, n // t)) if b <= 64})
    outer = "n" if n * depth > layer.height * layer.width * 4 else "h"
    # Rows pass over a block of weights again and again: each CPU's stays in its part of the L2, a quarter of its own
    # beside rows and outputs. Where not even a panel does, all CPUs read the same weights at the same time.
    panel = tile_n * depth * layer.kernel[0] * layer.kernel[1] * dtypes.of(layer.weight_dtype).bytes
    most = (core.l2.bytes // max(4, core.sharers(core.l2)) // panel if outer == "n" else 0) or panels
    fits = [b for b in divisors(panels) if b in blocks and b <= most]
    enough = [b for b in fits if layer.out_height * layer.groups * (panels // b) >= SHARES * core.cpus]
    return Space(
        {
            "tile_w": Choice(tuple(tiles_w), tile_w),
            "tile_n": Choice(tuple(tiles_n), tile_n),
            "n_block": Choice(tuple(blocks), max(enough, default=1)),
            "outer": Choice(("n", "h"), outer),
            "apart": nest.apart_choice(core, inner=False),
            "c_unroll": Choice(tuple(u for u in (1, 2, 4) if u <= depth), min(2, depth)),
            **nest.vector_choice(layer, core),
        },
        lambda d: _refuse(layer, d, core),
    )


def tiles_of(layer: Layer, width: int, core) -> tuple[list[int], list[int], tuple[int, int]]:
    """As ``pointwise.tiles``, of rows of ``width`` positions; no loop of pairs: their k is not contiguous."""
    return tiles(width, layer.out_channels // layer.groups, 0, layer, core, looped=not written_out(layer))


def written_out(layer: Layer) -> bool:
    """Whether a tile's products are all written out, without a loop."""
    return layer.kernel[0] * layer.kernel[1] * (layer.channels // layer.groups) <= UNROLLED_TAPS


def _refuse(layer: Layer, d: Decisions, core) -> str:
    if (need := registers(d["tile_w"], d["tile_n"], sum_lanes(layer, core))) > core.vector_registers:
        return f"a {d['tile_w']}x{d['tile_n']} tile needs {need} registers"
    panels = layer.out_channels // layer.groups // d["tile_n"]
    if panels % d["n_block"]:
        return f"n_block = {d['n_block']} does not divide {panels} panels"
    return ""


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Weights (n, c / groups, kh, kw) as ``[groups][panels][kh, kw, c, tile_n]`` in one dimension, and the bias
    (n,)."""
    pieces, weight = [], arrays["weight"]
    n = layer.out_channels // layer.groups
    for group in weight.reshape(layer.groups, n, *weight.shape[1:]):
        for n0 in range(0, n, d["tile_n"]):
            pieces.append(np.ascontiguousarray(group[n0 : n0 + d["tile_n"]].transpose(2, 3, 1, 0)).ravel())
    return [np.concatenate(pieces).astype(layer.weight_dtype), arrays["bias"].astype(layer.bias_dtype)]


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    n = layer.out_channels // layer.groups
    tile_n, n_block, rows = d["tile_n"], d["n_block"], layer.out_height
    panels, tail_n = divmod(n, tile_n)
    blocks = layer.groups * (panels // n_block)
    columns = runs(layer, 1, d["tile_w"])
    signature = nest.arguments(layer, constants(layer))
    with nest.Kernel(signature, d) as f, nest.parallel(layer.batch * rows * blocks) as task:
        lines = layer.batch * rows
        line, block = (task % lines, task // lines) if d["outer"] == "n" else (task // blocks, task % blocks)
        b, h = line // rows, line % rows
        group, block = block // (panels // n_block), block % (panels // n_block)

        def panel(index, width):
            for run in columns:
                with nest.serial(run.count) as i:
                    _tile(layer, d, f, b, h, run, run.start + i * run.tile, group, index * tile_n, width)

        with nest.serial(n_block) as p:
            panel(block * n_block + p, tile_n)
        if tail_n:
            with nest.when(block == panels // n_block - 1):
                panel(panels, tail_n)
    return f.prim_func


def _tile(layer: Layer, d: Decisions, f: nest.Kernel, b, h, run: Run, w, group, column, width: int) -> None:
    """The outputs of one tile of columns at (h, w), ``width`` channels of a group from ``column`` on."""
    n, depth = layer.out_channels // layer.groups, layer.channels // layer.groups
    first_n = group * n + column
    acc = f.tile(run.tile, width, layer.accumulator_dtype)
    acc.set_rows(f["bias"], first_n)
    panel_at = first_n * (layer.kernel[0] * layer.kernel[1] * depth)
    convolve(layer, acc, d["c_unroll"], f["data"], f["weight"], panel_at, b, h, run, w, group)
    for i in range(run.tile):
        f.store(
            layer,
            f["output"],
            lambda lane, i=i: acc[i, lane],
            width,
            lambda lane, i=i: nest.at(layer.output_layout, b, h, w + i, first_n + lane),
            f.get("second"),
            apart=d["apart"] != "none",
        )


def convolve(
    layer: Layer,
    acc: nest.Tile,
    c_unroll: int,
    data: nest.Tensor,
    weight: nest.Tensor,
    panel_at,
    b,
    h,
    run: Run,
    w,
    group=0,
) -> None:
    """Accumulate the convolution of one tile of columns of row h, from w on; its packed panel begins at
    ``panel_at``."""
    depth = layer.channels // layer.groups
    taps_h, taps_w = layer.kernel

    def step(kh, kw, c):
        at = panel_at + ((kh * taps_w + kw) * depth + c) * acc.width
        for i in range(run.tile):
            if kw in run.taps[i]:
                index = nest.at(
                    layer.input_layout, b, source(layer, 0, h, kh), source(layer, 1, w + i, kw), group * depth + c
                )
                acc.add_product(i, lambda lane, index=index: data[index], lambda lane: weight[at + lane])

    def tap_row(kh, by):
        for kw in sorted({k for taps in run.taps for k in taps}):
            nest.unrolled(depth, by, lambda c, kw=kw: step(kh, kw, c))

    if written_out(layer):
        rows = runs(layer, 0, 1)
        nest.switch(h, [r.count for r in rows], lambda r, _: [tap_row(kh, depth) for kh in rows[r].taps[0]])
    else:
        top = source(layer, 0, h, 0)
        first = T.max(0, (layer.dilation[0] - 1 - top) // layer.dilation[0])
        last = T.min(taps_h, (layer.height - 1 - top) // layer.dilation[0] + 1)
        with T.serial(0, T.max(0, last - first)) as kh:
            tap_row(first + kh, c_unroll)
