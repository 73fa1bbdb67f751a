"""Softmax over the channels of each position.

The nest, with the exponential of `kinds.exponential` and powers in float32 scratch memory::

    parallel over positions
      for each 8 channels: tops = max(tops, data)
      for each 8 channels: powers = exp(data - the largest top), totals += powers
      for each 8 channels: output = powers * (1 / the sum of totals)      # through the activation

Register budget: two vectors for tops or totals, eight for the exponential. A library's expf, called for each value,
took 56 cycles a value on a Cortex-A72.

Softmax takes a thousandth of a network's time: too cheap to tune.

Cycles a value on one core, default / tuned, predicted (python -m benchmarks.peak)::

                                               Cortex-A53  Cortex-A72  Cortex-A76
    softmax 1x1x1000 f32                       15.46 / -   9.50 / -    4.95 / -
    softmax 1x1x1000 f16 reads_f32 writes_f32  -           -           4.78 / -
"""

from __future__ import annotations

from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import nest, values
from tvm_mobilenet.schedules.choices import Choice, Decisions, Space

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.softmax import SUMS
from tvm_mobilenet.layer import Layer

DTYPES = ("float32", "float16")


def decisions(layer: Layer, core) -> Space:
    return Space({"unroll": Choice((1, 4), 4)}, lambda d: "")


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    positions = layer.height * layer.width
    with nest.Kernel(nest.arguments(layer, []), d) as f, nest.parallel(layer.batch * positions) as task:
        b, h, w = task // positions, task % positions // layer.width, task % layer.width
        _position(layer, d, f, b, h, w)
    return f.prim_func


def _position(layer: Layer, d: Decisions, f: nest.Kernel, b, h, w) -> None:
    """The softmax of one position, ``SUMS`` channels at a time."""
    data, out, dtype = f["data"], f["output"], layer.accumulator_dtype
    powers = f.scratch((layer.channels,), dtype)
    whole, rest = divmod(layer.channels, SUMS)

    def each(step) -> None:
        """Call ``step(first channel, first sum, count)``; the remaining channels go one by one, each to its own sum."""
        nest.unrolled(whole, d["unroll"], lambda i: step(i * SUMS, 0, SUMS))
        for i in range(rest):
            step(whole * SUMS + i, i, 1)

    def lanes(first, count: int):
        return nest.Lanes(first, count) if count > 1 else first

    def folded(start: float, add, combine):
        """Reduce all channels to one value: ``add(sums so far, first channel, count)``, then combine the sums in
        order.
        """
        sums, one = f.tile(1, SUMS, dtype), f.tile(1, 1, dtype)
        sums.set(lambda i, lane: values.const(start, dtype))

        def step(c, first, count):
            at = lanes(first, count)
            sums[0, at] = add(sums[0, at], c, count)

        each(step)
        one[0, 0] = sums[0, 0]
        for i in range(1, SUMS):
            one[0, 0] = combine(one[0, 0], sums[0, i])
        return one

    def x(c, count):
        return values.cast(data[nest.at(layer.input_layout, b, h, w, lanes(c, count))], dtype)

    def power(total, c, count):
        made = values.exponential(layer, x(c, count) - values.broadcast(top[0, 0], count))
        powers[lanes(c, count)] = made
        return total + powers[lanes(c, count)]

    top = folded(dtypes.of(dtype).lowest, lambda sums, c, count: T.max(sums, x(c, count)), T.max)
    total = folded(0.0, power, lambda a, b: a + b)
    total[0, 0] = values.const(1.0, dtype) / total[0, 0]

    def share(c, _, count):
        value = values.alone(layer, powers[lanes(c, count)] * values.broadcast(total[0, 0], count))
        to = nest.at(layer.output_layout, b, h, w, lanes(c, count))
        out[to] = values.cast(values.activate(layer, value, dtype), out.dtype)

    each(share)
