"""Convolutions that are neither depthwise nor pointwise: the stem, 3x3 convolutions of plain networks, grouped and
strided ones.

The nest::

    parallel over rows x blocks of n_block panels            # `outer`, h or n, is the outer loop
      for each panel of tile_n output channels
        for each tile of tile_w columns
          accumulators = bias                                # tile_w * tile_n / lanes registers
          for each tap row, tap column, input channel        # few: unrolled; many: loops, channels unrolled by c_unroll
            accumulators += data(h', w', c) * weight(tap, c, n)
          output = accumulators, through the epilogue

Register budget: that of a matrix product of tile_w rows (`schedules/pointwise.py`). In a fully unrolled tile, LLVM uses
a quarter of the registers for loads that it moves ahead (`registers.compiled_registers`).

There is no im2col: the kernel reads the data in its given layout, so the stem reads the planes of the image. Tiles at
the left and right border are generated without the taps that lie in the padding. Output rows at the top and bottom loop
over fewer tap rows.

% of peak of one core, default / tuned, predicted (python -m benchmarks.peak)::

                                                                 Cortex-A53  Cortex-A72  Cortex-A76
    conv 224x224x3 n32 3x3 s2 p1,1,1,1 nchw f32 relu6            38 / -      81 / 80     82 / 88
    conv 224x224x3 n32 3x3 s2 p1,1,1,1 nchw f16 reads_f32 relu6  -           -           74 / 76
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import (
    channel_vectors,
    depthwise,
    integer_constants,
    integer_conv,
    integer_outputs,
    nest,
    pointwise,
    values,
)
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space
from tvm_mobilenet.schedules.defaults import conv as defaults
from tvm_mobilenet.schedules.position import Position
from tvm_mobilenet.schedules.spaces import conv as space
from tvm_mobilenet.schedules.sums import Sums
from tvm_mobilenet.schedules.window import Run, runs, source, written_out

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.activation import SLOPES
from tvm_mobilenet.kinds.windows import chunks
from tvm_mobilenet.layer import Layer

DTYPES = ("float32", "float16", "int8")
MOST_FILTERS = 8  # for every core: filters a channel that a vector's lanes are shared by
READS = ("uint8",)


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    if _multiplies(d):
        return depthwise.multiplied(layer, d)
    n = layer.out_channels // layer.groups
    tile_n, n_block, rows = d["tile_n"], d["n_block"], layer.out_height
    panels, tail_n = divmod(n, tile_n)
    blocks = layer.groups * (panels // n_block)
    columns = runs(layer, 1, d["tile_w"])
    signature = nest.arguments(layer, constants(layer, d))
    with nest.Kernel(signature, d) as f, nest.parallel(layer.batch * rows * blocks) as task:
        integer = integer_conv.Tiles(layer, d, f) if dtypes.of(layer.dtype).integer else None
        lines = layer.batch * rows
        line, block = (task % lines, task // lines) if d["outer"] == "n" else (task // blocks, task % blocks)
        b, h = line // rows, line % rows
        data = converted(layer, f, f["data"], b, h, range(layer.width), f.get("pixels"))
        group, block = block // (panels // n_block), block % (panels // n_block)

        def panel(index, width):
            for run in columns:
                with nest.serial(run.count) as i:
                    at = Position(b, h, run.start + i * run.tile, group * n + index * tile_n)
                    if integer:
                        integer.tile(run, at, group, width)
                    else:
                        _tile(layer, d, f, data, run, at, group, width)

        with nest.serial(n_block) as p:
            panel(block * n_block + p, tile_n)
        if tail_n:
            with nest.when(block == panels // n_block - 1):
                panel(panels, tail_n)
    return f.prim_func


def _tile(layer: Layer, d: Decisions, f: nest.Kernel, data, run: Run, at: Position, group, width: int) -> None:
    """Compute the outputs of one tile of columns, for ``width`` channels of a group."""
    sums = Sums(f, layer, run.tile, width)
    sums.total.set_rows(f["bias"], at.c)
    Taps(layer, data, f["weight"], d["c_unroll"]).accumulate(sums, run, at, group)
    for i in range(run.tile):
        f.store(
            layer,
            f["output"],
            lambda lane, i=i: sums[i, lane],
            width,
            lambda lane, i=i: at.output(layer, lane, 0, i),
            f.get("second"),
            apart=d["apart"] != "none",
            slopes=f.get(SLOPES),
        )


def converts(layer: Layer) -> bool:
    """Whether the kernel converts its data to the layer's dtype before it multiplies."""
    return layer.input_dtype != layer.dtype


def converted(
    layer: Layer, f: nest.Kernel, data: nest.Tensor, b, h, columns: range, pixels: nest.Tensor | None
) -> nest.Tensor:
    """The rows of data under the windows of an output row, in the layer's dtype; the data itself if it has that dtype.

    Parameters
    ----------
    columns : range
        The columns of the data to convert.
    pixels : nest.Tensor or None
        The value that each byte stands for, from ``layer.constants``, if the data is uint8.

    Returns
    -------
    nest.Tensor
        A tensor in the layout of the data, with one row for each row of the kernel. `Taps` reads it.
    """
    if not converts(layer):
        return data
    rows, lanes, nchw = layer.kernel[0], f.lanes(layer.dtype), layer.input_layout == "NCHW"
    channels, packed = layer.channels, layer.input_row == layer.channels and pixels is None
    narrow = f.scratch(nest.at(layer.input_layout, 1, rows, layer.width, channels), layer.dtype)
    # Contiguous elements: a row of a plane, a row of all channels, or the channels of a position.
    together = len(columns) if nchw else len(columns) * channels if packed else channels
    inner = channels if nchw else 1 if packed else len(columns)

    def piece(kh, y, i, first, count: int) -> None:
        lane = nest.Lanes(first, count) if count > 1 else first
        if nchw:
            to, of = (0, i, kh, columns.start + lane), (b, i, y, columns.start + lane)
        elif packed:
            to, of = (0, kh, columns.start, lane), (b, y, columns.start, lane)
        else:
            to, of = (0, kh, columns.start + i, lane), (b, y, columns.start + i, lane)
        value = data[of]
        if pixels is not None:
            factor, offset = (pixels[row, i if nchw else lane] for row in (0, 1))
            value = values.fused(offset, values.cast(value, "float32"), factor, count)
        narrow[to] = values.cast(value, layer.dtype)

    whole, rest = divmod(together, lanes)
    with nest.serial(rows) as kh:
        y = source(layer, 0, h, kh)
        with nest.when(tirx.all(y >= 0, y < layer.height)), nest.serial(inner) as i:
            if whole:
                with nest.serial(whole) as v:
                    piece(kh, y, i, v * lanes, lanes)
            if rest and whole:
                piece(kh, y, i, together - lanes, lanes)  # overlaps the piece before
            for lane in range(0 if whole else rest):
                piece(kh, y, i, lane, 1)
    return narrow


@dataclass(frozen=True)
class Taps:
    """The loops over a window's taps and their input channels; fused blocks use them too. ``data`` is the result of
    `converted`.
    """

    layer: Layer
    data: nest.Tensor
    weight: nest.Tensor
    c_unroll: int

    def accumulate(self, sums: Sums, run: Run, at: Position, group=0) -> None:
        """Add the products of one tile of columns from ``at`` on. The packed panel begins with the first channel of
        ``at``.
        """
        layer, acc = self.layer, sums.products
        depth, taps = layer.channels // layer.groups, layer.kernel[0] * layer.kernel[1]
        chunk_rows, chunk_taps, chunk = chunks(layer)
        panel_at = at.c * (taps * depth)

        def step(kh, kw, c):
            start = panel_at + ((kh * layer.kernel[1] + kw) * depth + c) * acc.width
            for i in range(run.tile):
                if kw in run.taps[i]:
                    y, x = source(layer, 0, at.h, kh), source(layer, 1, at.w + i, kw)
                    b, y = (0, kh) if converts(layer) else (at.b, y)
                    index = nest.at(layer.input_layout, b, y, x, group * depth + c)
                    acc.add_product(
                        i, lambda lane, index=index: self.data[index], lambda lane: self.weight[start + lane]
                    )

        whole = layer.kernel[0] == chunk_rows > 1  # the whole window is one chunk of sums

        def tap_row(kh, by):
            columns = sorted({k for taps in run.taps for k in taps})
            if not sums.chunked or whole:
                for kw in columns:
                    nest.unrolled(depth, by, lambda c, kw=kw: step(kh, kw, c))
            elif chunk < depth:
                for kw in columns:
                    sums.loop(depth, chunk, by, lambda c, kw=kw: step(kh, kw, c))
            else:
                for _, together in groupby(columns, lambda kw: kw // chunk_taps):
                    sums.open()
                    for kw in together:
                        nest.unrolled(depth, by, lambda c, kw=kw: step(kh, kw, c))
                    sums.close()

        if whole:
            sums.open()
        if written_out(layer) and not values.fixed(layer):
            rows = runs(layer, 0, 1)
            nest.switch(at.h, [r.count for r in rows], lambda r, _: [tap_row(kh, depth) for kh in rows[r].taps[0]])
        else:
            top = source(layer, 0, at.h, 0)
            first = T.max(0, (layer.dilation[0] - 1 - top) // layer.dilation[0])
            last = T.min(layer.kernel[0], (layer.height - 1 - top) // layer.dilation[0] + 1)
            with T.serial(0, T.max(0, last - first)) as kh:
                tap_row(first + kh, depth if written_out(layer) else self.c_unroll)
        if whole:
            sums.close()


# ---- the constants


def constants(layer: Layer, d: Decisions) -> list[nest.Argument]:
    """The arguments of the kernel whose data `pack` returns."""
    if _multiplies(d):
        return depthwise.constants(depthwise.of_outputs(layer), d)
    if dtypes.of(layer.dtype).integer:
        own = integer_constants.arguments(layer, d, integer_conv.weights(layer, d))
        return [*own, *integer_conv.arguments(layer)]
    more = [("pixels", *layer.constants["pixels"])] if layer.reads_pixels else []
    return [*pointwise.constants(layer, d), *more]


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Weights (n, c / groups, kh, kw) as ``[groups][panels][kh, kw, c, tile_n]`` in one dimension, then the vectors."""
    if _multiplies(d):
        return depthwise.pack(depthwise.of_outputs(layer), d, arrays)
    if dtypes.of(layer.dtype).integer:
        own = integer_constants.pack(layer, d, integer_conv.pack(layer, d, arrays), arrays)
        return [*own, *integer_conv.pack_more(layer, arrays)]
    pieces, weight = [], arrays["weight"]
    n = layer.out_channels // layer.groups
    for group in weight.reshape(layer.groups, n, *weight.shape[1:]):
        for n0 in range(0, n, d["tile_n"]):
            pieces.append(np.ascontiguousarray(group[n0 : n0 + d["tile_n"]].transpose(2, 3, 1, 0)).ravel())
    more = [arrays["pixels"].astype("float32")] if layer.reads_pixels else []
    return [np.concatenate(pieces).astype(layer.weight_dtype), *channel_vectors.packed(layer, arrays), *more]


# ---- the choices


def _multiplies(d: Decisions) -> bool:
    """Whether these are decisions of `depthwise`, for a convolution with several filters a channel."""
    return "tile_h" in d


def _of_channels(layer: Layer, core) -> Space | None:
    """The search space of a convolution with several filters a channel, if depthwise kernels compute it: they repeat
    each value of the data in a vector. It is no gain for cores whose depthwise loops are dual-issue ones.
    """
    times = layer.out_channels // layer.channels
    many = layer.groups == layer.channels > 1 < times <= MOST_FILTERS and times & (times - 1) == 0
    plain = layer.input_layout == layer.output_layout == "NHWC" and not converts(layer)
    if not (many and plain) or core.in_order:
        return None
    found = depthwise.decisions(depthwise.of_outputs(layer), core)
    blocks = found.choices["c_block"]
    whole = tuple(block for block in blocks.candidates if block % times == 0)
    block = blocks.default if blocks.default in whole else max(whole)
    return Space({**found.choices, "c_block": Choice(whole, block)}, found.refuse)


def products_of(layer: Layer, core) -> tuple[str, ...]:
    """The ways in which this core may sum products of integers: only the best one."""
    return integer_conv.ways(layer, core)[:1] if dtypes.of(layer.dtype).integer else ()


def decisions(layer: Layer, core) -> Space:
    """The search space. Its default is the decisions of a build without a tune log."""
    if (found := _of_channels(layer, core)) is not None:
        return found
    tiles_w, tiles_n, _ = defaults.tiles_of(layer, layer.out_width, core)
    default = defaults.choose(layer, core)
    return Space(
        {
            "tile_w": Choice(tuple(tiles_w), default["tile_w"]),
            "tile_n": Choice(tuple(tiles_n), default["tile_n"]),
            "n_block": Choice(tuple(space.blocks(layer, tiles_n)), default["n_block"]),
            "outer": Choice(("n", "h"), default["outer"]),
            "apart": nest.apart_choice(core, inner=False),
            "c_unroll": Choice(space.unrolls(layer), default["c_unroll"]),
            **(integer_outputs.choices(layer, core) if dtypes.of(layer.dtype).integer else {}),
            **({"products": Choice(ways, ways[0])} if (ways := products_of(layer, core)) else {}),
            **nest.core_choices(layer, core),
        },
        lambda d: space.refuse(layer, d, core),
    )
