"""Integer layers without weights: conversions from and to float32 and uint8, sums and products of two scales, pools.

The nests are those of `schedules/elementwise.py` and `schedules/pool.py`; this module has the computation on one
vector.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import integer_constants, integers, nest, values
from tvm_mobilenet.schedules.choices import Choice, Decisions
from tvm_mobilenet.schedules.integer_products import QUAD

from tvm_mobilenet.kinds.activation import PER_CHANNEL
from tvm_mobilenet.layer import Layer

PIXELS = 16  # for every core: a vector of int8, four of float32


def element(layer: Layer, f: nest.Kernel, x, second, count: int, channel=0, steps: int = 2):
    """The output of an element-wise layer for ``count`` values, of this channel or of as many neighbouring ones;
    ``steps`` as for `quotient`.
    """
    if "uint8" in (layer.input_dtype, layer.output_dtype):
        return other_sign(x, layer, count)
    ends = f["ends"]
    if layer.input_dtype == "float32":
        return quantized(x, f, count, steps)
    if layer.op == "rescale" or layer.activation == PER_CHANNEL:
        total = values.cast(x, "int32") - values.broadcast(ends[0], count)
        return _requantized(layer, f, total, count, 0 if layer.op == "rescale" else channel)
    if layer.op == "none":
        if layer.output_dtype == "float32":
            return integers.floating(x, ends[0], count) * values.broadcast(f["scale"][0], count)
        return integers.looked_up(f, x, count) if "table" in layer.constants else x
    if layer.op in ("add", "sub"):
        return integers.added(x, second, f, layer, count, own=0, sign=1 if layer.op == "add" else -1)
    left, right = (
        values.cast(value, "int16") - values.broadcast(values.cast(ends[zero], "int16"), count)
        for value, zero in ((x, 0), (second, 4))
    )
    total = values.cast(left, "int32") * values.cast(right, "int32")
    return _requantized(layer, f, total, count)


def bounds_choice(layer: Layer, core) -> dict[str, Choice]:
    """The way to bound float32 data: ``numbers`` where one instruction gives the greater of two, else comparisons."""
    numbers = layer.input_dtype == "float32" and core.architecture == "aarch64"
    return {"bounds": Choice(("numbers",), "numbers")} if numbers else {}


def other_sign(x, layer: Layer, count: int):
    """The same values 128 higher or lower: uint8 from int8, or int8 from uint8."""
    top = integers.const(-128 if layer.input_dtype == "int8" else 128, layer.input_dtype, count)
    return values.cast(tirx.bitwise_xor(x, top), layer.output_dtype)


def of_pixels(f: nest.Kernel, x, channel, count: int):
    """The converted bytes of an image: ``count`` values of one channel, or of as many neighbouring channels."""
    table = f["table"]
    if not isinstance(channel, nest.Lanes):
        own = nest.Tensor(table.flat, (integers.BYTES,), channel * integers.BYTES)
        if integers.by_tables(f, count):
            return integers.of_tables(own, values.cast(x, "int8"), count)
        return own[values.cast(x, "int32")]
    places = [(channel.first + lane) * integers.BYTES for lane in range(count)]
    found = [table.flat[place + values.cast(tirx.Shuffle([x], [lane]), "int32")] for lane, place in enumerate(places)]
    return tirx.Shuffle(found, list(range(count)))


def _requantized(layer: Layer, f: nest.Kernel, total, count: int, which=0):
    """int8 from sums without bias; ``which``: the index of the factor, or indices of factors."""
    ends, factor = f["ends"], values.broadcast(f["scale"][which], count)
    below = f["below"][which] if layer.activation == PER_CHANNEL else None
    total = total + integers.const(integers.BITS, "int32", count) if layer.small else total
    own = integers.Ends(ends[1], ends[2], ends[3], layer.activation not in ("none", PER_CHANNEL))
    return integers.requantize(total, factor, own, layer.small, count, below)


def quantized(x, f: nest.Kernel, count: int, steps: int):
    """``clamp(rint(x / scale) + zero)`` of float32 values, the quotient as `quotient` makes it in so many ``steps``."""
    scale, ends = f["scale"][0], f["ends"]
    magic = values.broadcast(values.const(integers.MAGIC, "float32"), count)
    low, high = (values.broadcast(values.cast(v - ends[1], "float32") * scale, count) for v in (ends[2], ends[3]))
    if f.decisions.get("bounds") == "numbers":
        dtype = "float32" if count == 1 else f"float32x{count}"
        inside = tirx.call_llvm_pure_intrin(dtype, "llvm.maxnum", x, low)
        inside = tirx.call_llvm_pure_intrin(dtype, "llvm.minnum", inside, high)
    else:
        inside = T.min(T.max(x, low), high)
    rounded = integers.reinterpret(quotient(inside, scale, count, steps) + magic, "int32", count)
    # The low bytes of the sum with `MAGIC` are those of the whole number.
    return values.cast(rounded, "int8") + values.broadcast(values.cast(ends[1], "int8"), count)


EXACT = 0x3FF  # the bits of a float32 that are zero in numbers of at most 14 significant bits


def few_bits(scale):
    """Whether a scale has at most 14 significant bits, as calibration's have 12: `quotient` then takes one step."""
    return tirx.bitwise_and(integers.reinterpret(scale, "int32", 1), values.const(EXACT, "int32")) == 0


def quotient(x, scale, count: int, steps: int):
    """``x / scale``, rounded once, if neither the quotient nor the remainders leave the normal numbers.

    A division takes 7 to 34 cycles, so the code multiplies by the reciprocal and corrects by the remainder. Given a
    quotient within one unit in the last place and a correctly rounded reciprocal, one correction step gives the
    correctly rounded quotient (Markstein 1990). The first of two ``steps`` brings the product within that unit.

    One step leaves an error of 2**-46 of the quotient before it is rounded. If the scale has at most 14 significant
    bits, its products with the halves between int8 values are float32 numbers. So a quotient either is such a half, or
    is further than that from the bounds between which quotients are rounded to it. Then both round to one integer.
    """
    reciprocal = values.broadcast(values.const(1.0, "float32") / scale, count)
    against = values.broadcast(values.const(0.0, "float32") - scale, count)
    found = x * reciprocal
    for _ in range(steps):
        found = integers.fused(integers.fused(found, against, x, count), reciprocal, found, count)
    return found


def average(layer: Layer, f: nest.Kernel, total, count: int, taps):
    """The average of a window, from its sum without bias; ``taps``: the number of its values inside the data."""
    if layer.op == "mean":
        return _requantized(layer, f, total + values.broadcast(f["bias"][0] * taps, count), count, taps - 1)
    if any(layer.padding):  # it counts, and has the zero point of the data
        outside = layer.kernel[0] * layer.kernel[1] - taps
        total = total + values.broadcast(f["ends"][0] * outside, count)
    return _requantized(layer, f, total + values.broadcast(f["bias"][0], count), count)


# ---- images


def is_image(layer: Layer) -> bool:
    """Whether the layer converts planes of pixels to quads of int8."""
    planes = layer.input_layout == "NCHW" and layer.output_layout == "NHWC" and layer.op in layer.declared.unary
    return planes and layer.dtype == layer.output_dtype == "int8" and layer.output_row == QUAD


def image(layer: Layer, d: Decisions):
    """The nest of such a layer: rows in parallel, `PIXELS` of a row at a time, with interleaved planes."""
    blocks = layer.width // PIXELS
    with (
        nest.Kernel(nest.arguments(layer, integer_constants.of_maps(layer, d)), d) as f,
        nest.parallel(layer.batch * layer.height) as task,
    ):
        b, h = task // layer.height, task % layer.height
        row = f["output"].reshaped((layer.batch * layer.height, layer.width * QUAD))

        def pixels(w, count: int, steps: int) -> None:
            lane = nest.Lanes(w, count) if count > 1 else w
            planes = []
            for c in range(layer.channels):
                x = f["data"][b, c, h, lane]
                planes.append(
                    of_pixels(f, x, c, count)
                    if layer.op == "pixels"
                    else element(layer, f, x, None, count, steps=steps)
                )
            planes += [integers.const(0, "int8", count)] * (QUAD - layer.channels)
            if count == 1:
                for c, plane in enumerate(planes):
                    row[task, w * QUAD + c] = plane
                return
            order = [plane * count + i for i in range(count) for plane in range(QUAD)]
            row[task, nest.Lanes(w * QUAD, count * QUAD)] = tirx.Shuffle(planes, order)

        def line(steps: int) -> None:
            if blocks:
                with nest.serial(blocks) as block:
                    pixels(block * PIXELS, PIXELS, steps)
            for w in range(blocks * PIXELS, layer.width):
                pixels(w, 1, steps)

        nest.either(layer.input_dtype != "float32" or few_bits(f["scale"][0]), lambda: line(1), lambda: line(2))
    return f.prim_func
