"""Integer layers without weights: conversions from and to float32, additions and products of two scales, pools.

The nests are those of `schedules/elementwise.py` and `schedules/pool.py`; here stands what is computed of a vector.
"""

from __future__ import annotations

from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import integers, nest, values

from tvm_mobilenet.layer import Layer

SHORT_SUMS = (1 << 22) // 256  # values of int8 whose sum is below 2**22


def element(layer: Layer, f: nest.Kernel, x, second, count: int):
    """The output of an element-wise layer for ``count`` values."""
    ends = f["ends"]
    if layer.input_dtype == "float32":
        return quantized(x / values.broadcast(f["scale"][0], count), ends, count)
    if layer.op == "none":
        if layer.output_dtype == "float32":
            return integers.floating(x, ends[0], count) * values.broadcast(f["scale"][0], count)
        return integers.looked_up(f, x, count) if "table" in layer.constants else x
    if layer.op in ("add", "sub"):
        return integers.added(x, second, f["added"], ends, count, own=0, sign=1 if layer.op == "add" else -1)
    left, right = (
        values.cast(value, "int32") - values.broadcast(ends[zero], count) for value, zero in ((x, 0), (second, 4))
    )
    factor = values.broadcast(f["scale"][0], count)
    own = integers.Ends(ends[1], ends[2], ends[3], True)
    return integers.requantize(left * right, factor, own, False, count, short=True)


def quantized(x, ends, count: int):
    """``clamp(rint(x) + zero)`` of float32 values."""
    magic = values.broadcast(values.const(integers.MAGIC, "float32"), count)
    low, high = (values.broadcast(values.cast(v - ends[1], "float32"), count) for v in (ends[2], ends[3]))
    rounded = T.min(T.max(x, low), high) + magic
    whole = integers.reinterpret(rounded, "int32", count)
    return values.cast(whole + values.broadcast(ends[1] - integers.BITS, count), "int8")


def average(layer: Layer, f: nest.Kernel, total, count: int):
    """The mean of a window, of its sum without bias."""
    ends = f["ends"]
    factor, bias = (values.broadcast(f[name][0], count) for name in ("scale", "bias"))
    own, short = integers.Ends(ends[1], ends[2], ends[3], True), layer.kernel[0] * layer.kernel[1] <= SHORT_SUMS
    return integers.requantize(total + bias, factor, own, False, count, short)
