"""Element-wise layers: operators that could not join the epilogue of a convolution.

The nest::

    parallel over blocks of p_block positions
      for each position, for each vector of channels
        output = activation(data, or data and the second operand)

Register budget: up to 4 vectors each of the data and the second operand, and the bounds of the activation.

``scale`` multiplies every position by one value a channel: the gate of squeeze-and-excite. ``pixels`` and copies
between int8 and uint8 convert a network's inputs and outputs. ``rescale`` takes int8 from one scale to another.

Cycles a value on one core, default / tuned, predicted (python -m benchmarks.peak)::

                                  Cortex-A53  Cortex-A72  Cortex-A76
    elementwise 28x28x64 add f32  5.75 / -    2.69 / -    1.60 / -
    elementwise 28x28x64 add f16  -           -           0.80 / -
"""

from __future__ import annotations

from tvm_mobilenet.schedules import integer_constants, integer_maps, nest, values
from tvm_mobilenet.schedules.choices import SHARES, Choice, Decisions, Space, divisors
from tvm_mobilenet.schedules.registers import sum_lanes

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.activation import SLOPES
from tvm_mobilenet.layer import Layer

DTYPES = ("float32", "float16", "int8")
READS = WRITES = ("uint8",)
constants, pack = integer_constants.of_maps, integer_constants.pack_maps


def decisions(layer: Layer, core) -> Space:
    vector = sum_lanes(layer, core)
    lanes = [v for v in (vector, 2 * vector, 4 * vector) if v <= layer.channels] or [min(vector, layer.channels)]
    blocks = [b for b in divisors(layer.height * layer.width) if b <= 4096]
    enough = [b for b in blocks if layer.height * layer.width // b >= SHARES * core.cpus]
    integer = dtypes.of(layer.dtype).integer
    own = integer_constants.lookup_choice(layer, core) | integer_maps.bounds_choice(layer, core) if integer else {}
    return Space(
        {
            "lanes": Choice(tuple(lanes), lanes[-1]),
            "p_block": Choice(tuple(blocks), max(enough, default=1)),
            **own,
            **nest.core_choices(layer, core),
        },
        lambda d: "",
    )


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of these decisions."""
    if integer_maps.is_image(layer):
        return integer_maps.image(layer, d)
    positions, lanes, c = layer.height * layer.width, d["lanes"], layer.channels
    blocks = positions // d["p_block"]
    with nest.Kernel(nest.arguments(layer, constants(layer, d)), d) as f, nest.parallel(layer.batch * blocks) as task:
        b = task // blocks
        with nest.serial(d["p_block"]) as p:
            position = task % blocks * d["p_block"] + p
            h, w = position // layer.width, position % layer.width
            whole, rest = divmod(c, lanes)
            if whole:
                with nest.serial(whole) as i:
                    _vector(layer, f, b, h, w, i * lanes, lanes)
            if rest:
                _vector(layer, f, b, h, w, whole * lanes, rest)
    return f.prim_func


def _vector(layer: Layer, f: nest.Kernel, b, h, w, c, width: int) -> None:
    data, second, dtype = f["data"], f.get("second"), layer.accumulator_dtype
    gate = layer.op == "scale"

    def integer(lane):
        at = nest.at(layer.input_layout, b, h, w, c + lane)
        operand = None if second is None else second[(b, 0, 0, c + lane) if gate else at]
        count = lane.count if isinstance(lane, nest.Lanes) else 1
        if layer.op == "pixels":
            return integer_maps.of_pixels(f, data[at], c + lane, count)
        return integer_maps.element(layer, f, data[at], operand, count, c + lane)

    def value(lane):
        if dtypes.of(layer.dtype).integer:
            return integer(lane)
        x = values.cast(data[nest.at(layer.input_layout, b, h, w, c + lane)], dtype)
        if layer.op == "scale":
            x = values.alone(layer, x * values.cast(second[b, 0, 0, c + lane], dtype))
        elif layer.op != "none":
            y = values.cast(second[nest.at(layer.input_layout, b, h, w, c + lane)], dtype)
            x = x + y if layer.op == "add" else x - y if layer.op == "sub" else values.alone(layer, x * y)
        quotient = f.decisions.get("quotient", "")
        return values.activate(layer, x, dtype, slopes=lambda: f[SLOPES][c + lane], quotient=quotient)

    out = f["output"]
    if layer.input_layout == layer.output_layout == "NHWC":
        f.write(out, value, width, lambda lane: (b, h, w, c + lane))
    else:
        for lane in range(width):
            out[nest.at(layer.output_layout, b, h, w, c + lane)] = values.cast(value(lane), out.dtype)
