"""Softmax over the channels of each position.

The nest::

    parallel over positions
      for each channel: top = max(top, data)
      for each channel: output = exp(data - top), total += output      # unrolled
      for each channel: output = activation(output / total)

Register budget: two accumulators, top and total; expf is a call, so no vector is kept.

It is a thousandth of a network's time: too cheap to tune.

Cycles a value on one core, default / tuned, predicted (python -m benchmarks.peak)::

                          Cortex-A53  Cortex-A72  Cortex-A76
    softmax 1x1x1000 f32  85.27 / -   54.80 / -   36.25 / -
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import nest, values
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

DTYPES = ("float32", "float16")


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
            return values.cast(data[nest.at(layer.input_layout, b, h, w, c)], dtype)

        def y(c):
            return nest.at(layer.output_layout, b, h, w, c)

        top.set(lambda i, lane: values.const(dtypes.of(dtype).lowest, dtype))
        total.set(lambda i, lane: values.const(0.0, dtype))
        nest.unrolled(layer.channels, d["unroll"], lambda c: top.set_row(0, lambda lane: T.max(top[0, lane], x(c))))

        def exponential(c):
            out[y(c)] = values.cast(tirx.exp(x(c) - top[0, 0]), out.dtype)
            total.set_row(0, lambda lane: total[0, lane] + values.cast(out[y(c)], dtype))

        def share(c):
            value = values.activate(layer, values.cast(out[y(c)], dtype) / total[0, 0], dtype)
            out[y(c)] = values.cast(value, out.dtype)

        nest.unrolled(layer.channels, d["unroll"], exponential)
        nest.unrolled(layer.channels, d["unroll"], share)
    return f.prim_func
