"""Softmax over the channels of each position: three passes (maximum, sum of exponentials, division), one core a block.

It is a thousandth of a network's time; there is nothing to choose but nothing to lose either.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import nest
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

DTYPES = ("float32",)


def decisions(layer: Layer, core) -> Space:
    return Space({"unroll": Choice((1, 4), 4)}, lambda d: "")


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    positions, dtype = layer.height * layer.width, layer.accumulator_dtype
    with nest.Kernel(nest.arguments(layer, []), d) as f, nest.parallel(layer.batch * positions) as task:
        b, h, w = task // positions, task % positions // layer.width, task % layer.width
        data, out = f["data"], f["output"]
        top, total = f.tile(1, 1, dtype), f.tile(1, 1, dtype)

        def x(c):
            return data[nest.at(layer.input_layout, b, h, w, c)]

        def y(c):
            return nest.at(layer.output_layout, b, h, w, c)

        top.set(lambda i, lane: nest.const(dtypes.of(dtype).lowest, dtype))
        total.set(lambda i, lane: nest.const(0.0, dtype))
        nest.unrolled(layer.channels, d["unroll"], lambda c: top.set_row(0, lambda lane: T.max(top[0, lane], x(c))))

        def exponential(c):
            out[y(c)] = tirx.exp(x(c) - top[0, 0])
            total.set_row(0, lambda lane: total[0, lane] + out[y(c)])

        def share(c):
            out[y(c)] = nest.activate(layer.activation, out[y(c)] / total[0, 0], dtype)

        nest.unrolled(layer.channels, d["unroll"], exponential)
        nest.unrolled(layer.channels, d["unroll"], share)
    return f.prim_func
