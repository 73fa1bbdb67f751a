"""TFLite's operators on complex numbers: the Fourier transform of images, and what makes its values real again.

A complex value is two of floats. A transform is two matrix products with cosines and sines, which suits images of a few
hundred pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend.tflite_values import Call, Value

op = relax.op


def transformed(call: Call) -> Value:
    """RFFT2D: the transform of the last two dimensions, for a half of the frequencies along the last one. Operands:
    data, the sizes to which they are cut, or filled up with zeros.
    """
    height, width = call.numbers(1)
    *batch, rows, columns = call.shape(0)
    if min(height, width) < 1:
        raise ValueError(f"a transform of {height}x{width} values")
    for size in (height * height, width * (width // 2 + 1)):
        limits.check_constant(4 * size, 0, call.where)
    cosines, sines = _waves(min(columns, width), width // 2 + 1, width)
    x = call.own(0)
    for axis, (size, most) in enumerate(((rows, height), (columns, width)), len(batch)):
        if size > most:
            x = call.emit(op.strided_slice(x, [axis], [0], [most]))
    real, imaginary = (call.emit(op.matmul(x, relax.const(wave))) for wave in (cosines, -sines))
    cosines, sines = (relax.const(wave.T.copy()) for wave in _waves(min(rows, height), height, height))

    def of(waves: relax.Expr, part: relax.Expr) -> relax.Var:
        return call.emit(op.matmul(waves, part))

    return Value(
        own=call.emit(op.add(of(cosines, real), of(sines, imaginary))),
        imaginary=call.emit(op.subtract(of(cosines, imaginary), of(sines, real))),
    )


def _waves(size: int, count: int, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (size, count) of all frequencies."""
    angles = 2 * np.pi * (np.outer(np.arange(size), np.arange(count)) % period) / period
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _parts(call: Call) -> tuple[relax.Expr, relax.Expr]:
    imaginary = call.value(0).imaginary
    if imaginary is None:
        raise ValueError("real numbers in place of complex ones")
    return call.own(0), imaginary


def real_part(call: Call) -> Value:
    """The real part."""
    return Value(own=_parts(call)[0])


def imaginary_part(call: Call) -> Value:
    """The other part."""
    return Value(own=_parts(call)[1])


def magnitude(call: Call) -> Value:
    """The distance from zero."""
    squares = [call.emit(op.multiply(part, part)) for part in _parts(call)]
    return Value(own=call.emit(op.sqrt(call.emit(op.add(*squares)))))


def _moved(call: Call, convert: Callable) -> Value:
    """A value whose two parts an operator moves alike."""
    value = call.value(0)
    made = []
    for part in _parts(call):
        call.values[0] = Value(own=part, place=value.place)
        made.append(convert(call))
    call.values[0] = value
    return Value(own=made[0].own, imaginary=made[1].own)


def of_parts(convert: Callable) -> Callable:
    """The converter of an operator that moves values, for complex ones too."""
    return lambda call: convert(call) if call.value(0).imaginary is None else _moved(call, convert)


CONVERTERS: dict[str, Callable] = {
    "RFFT2D": transformed,
    "REAL": real_part,
    "IMAG": imaginary_part,
    "COMPLEX_ABS": magnitude,
}
