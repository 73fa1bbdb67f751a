"""Average and maximum pools: one window for each channel, no weights.

The nest::

    parallel over blocks of positions x blocks of c_block channels
      for each position of the block, for each tile of up to 8 vectors of channels
        accumulators = 0 or minus infinity
        for each row and column of the window inside the data
          accumulators += or max= data
        output = accumulators (times 1 / window, or 1 / the number of taps inside), through the epilogue

Register budget: one accumulator and one register of data for each vector of the tile. A tile has at most 8 vectors, so
it takes 16 registers.

A global pool has a single position, so the cores share its channels.

Cycles a value on one core, default / tuned, predicted (python -m benchmarks.peak)::

                               Cortex-A53  Cortex-A72  Cortex-A76
    pool 7x7x1024 avg 7x7 f32  54.25 / -   30.02 / -   8.43 / -
    pool 7x7x1024 avg 7x7 f16  -           -           25.95 / -
"""

from __future__ import annotations

from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import integer_constants, integer_maps, nest, values
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space, divisors, line_channels
from tvm_mobilenet.schedules.registers import sum_lanes
from tvm_mobilenet.schedules.window import source

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

DTYPES = ("float32", "float16", "int8")
constants, pack = integer_constants.of_maps, integer_constants.pack_maps


def decisions(layer: Layer, core) -> Space:
    c = layer.channels
    vector = sum_lanes(layer, core)
    blocks = [b for b in divisors(c) if b % min(line_channels(layer, core), c) == 0 or b == c]
    positions = layer.batch * layer.out_height * layer.out_width
    lanes = [v for v in (vector, 2 * vector, 4 * vector, 8 * vector) if v <= c] or [c]
    c_block = max((b for b in blocks if positions * (c // b) >= core.cpus), default=blocks[0])
    # The loops over a small window take time too, so they get more vectors; a 3x3 maximum takes 10 % less on an A72.
    small = layer.out_height * layer.out_width > 1 and _accumulated(layer) == layer.dtype
    few = lanes if small else lanes[:3]
    return Space(
        {
            "lanes": Choice(tuple(lanes), max((v for v in few if v <= c_block), default=lanes[0])),
            "c_block": Choice(tuple(blocks), c_block),
            "unroll": Choice((1, 7), 1),
            **nest.core_choices(layer, core),
        },
        lambda d: "",
    )


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    c_block, lanes = d["c_block"], d["lanes"]
    c_blocks = layer.channels // c_block
    oh, ow = layer.out_height, layer.out_width
    with (
        nest.Kernel(nest.arguments(layer, constants(layer, d)), d) as f,
        nest.parallel(layer.batch * oh * ow * c_blocks) as task,
    ):
        first = task % c_blocks * c_block
        position = task // c_blocks
        b, h, w = position // (oh * ow), position // ow % oh, position % ow
        whole, rest = divmod(c_block, lanes)
        if whole:
            with nest.serial(whole) as i:
                _tile(layer, d, f, b, h, w, first + i * lanes, lanes)
        if rest:
            _tile(layer, d, f, b, h, w, first + whole * lanes, rest)
    return f.prim_func


def _accumulated(layer: Layer) -> str:
    """The dtype of the accumulators."""
    return layer.dtype if dtypes.of(layer.dtype).integer and layer.op == "max" else layer.accumulator_dtype


def _tile(layer: Layer, d: Decisions, f: nest.Kernel, b, h, w, c, width: int) -> None:
    data, dtype = f["data"], _accumulated(layer)
    maximum = layer.op == "max"
    integer = dtypes.of(layer.dtype).integer
    acc = f.tile(1, width, dtype)
    acc.set(lambda i, lane: values.const(dtypes.of(dtype).lowest if maximum else 0.0, dtype))
    (top, rows), (left, columns) = _inside(layer, 0, h), _inside(layer, 1, w)

    def element(kh, kw):
        index = [b, source(layer, 0, h, top + kh), source(layer, 1, w, left + kw)]
        acc.set_row(
            0,
            lambda lane: (T.max if maximum else lambda x, y: x + y)(
                acc[0, lane], values.cast(data[nest.at(layer.input_layout, *index, c + lane)], dtype)
            ),
        )

    with T.serial(0, rows) as kh:
        if isinstance(columns, int):
            nest.unrolled(columns, d["unroll"], lambda kw: element(kh, kw))
        else:
            with T.serial(0, columns) as kw:
                element(kh, kw)
    taps = rows * columns
    taps = values.const(taps, "int32") if isinstance(taps, int) else taps
    if integer:

        def whole(lane):
            if maximum:
                return acc[0, lane]
            return integer_maps.average(layer, f, acc[0, lane], lane.count, taps)

        f.write(f["output"], whole, width, lambda lane: nest.at(layer.output_layout, b, h, w, c + lane))
        return
    if layer.op == "mean":
        share = values.const(1.0, dtype) / values.cast(taps, dtype)
    else:
        share = values.const(1.0 if maximum else 1.0 / (layer.kernel[0] * layer.kernel[1]), dtype)
    f.store(
        layer,
        f["output"],
        lambda lane: values.alone(layer, acc[0, lane] * values.broadcast(share, values.lanes_of(acc[0, lane]))),
        width,
        lambda lane: nest.at(layer.output_layout, b, h, w, c + lane),
        f.get("second"),
    )


def _inside(layer: Layer, axis: int, position):
    """The first tap, and the number of taps, of a window that lie inside the data; constants if nothing is padded."""
    size, taps, step = (layer.height, layer.width)[axis], layer.kernel[axis], layer.dilation[axis]
    if not any(layer.padding):
        return 0, taps
    start = source(layer, axis, position, 0)
    first = T.max(0, (step - 1 - start) // step)
    return first, T.max(0, T.min(taps, (size - 1 - start) // step + 1) - first)
