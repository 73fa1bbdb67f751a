"""Scales and zero points of files that come quantized, checked against their data."""

from __future__ import annotations

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError

SMALLEST, LARGEST = 2.0**-100, 2.0**100  # limits of a scale: products of three stay in float32's range
_AGAIN = "the file is damaged, or its quantizer failed there: quantize the model again"


def checked(
    where: str,
    shape: tuple[int, ...],
    scale: np.ndarray,
    zero: np.ndarray | None,
    axis: int,
    dtype: str,
    dtypes: tuple[str, ...] = ("int8", "uint8", "int32"),
) -> tuple[np.ndarray, np.ndarray, int]:
    """Scale and zero point, scalars or one for each channel, and the axis of the channels.

    Parameters
    ----------
    where : str
        The operator, for messages.
    shape : tuple of int
        Of the data.
    zero : ndarray or None
        Integers; None for zero.
    axis : int
        The axis of the channels, if there are several scales.
    dtype : str
        The dtype of the quantized data.
    dtypes : tuple of str
        Those that it may have.

    Raises
    ------
    TvmMobilenetError
        A scale is not positive, a zero point is outside the dtype's range, their number differs from the number of
        channels, or the dtype is not supported.
    """
    if dtype not in dtypes:
        raise TvmMobilenetError(f"{where}: data in {dtype}", "quantize to int8 or uint8, biases to int32")
    scale = np.asarray(scale, np.float64)
    zero = np.zeros(scale.shape, np.int64) if zero is None else np.asarray(zero).astype(np.int64)
    if scale.size == 1 == zero.size:
        scale, zero, axis = scale.reshape(()), zero.reshape(()), 0
    else:
        if not -len(shape) <= axis < len(shape):
            raise TvmMobilenetError(f"{where}: axis {axis} of data of the shape {list(shape)}", _AGAIN)
        axis %= len(shape)
        if scale.shape != (shape[axis],) or zero.shape != scale.shape:
            raise TvmMobilenetError(
                f"{where}: {scale.size} scales and {zero.size} zero points for {shape[axis]} channels "
                f"(axis {axis} of {list(shape)})",
                _AGAIN,
            )
    odd = scale[~((scale >= SMALLEST) & (scale <= LARGEST))]
    if odd.size:
        raise TvmMobilenetError(f"{where}: the scale {odd.reshape(-1)[0]:g}", f"scales are positive numbers; {_AGAIN}")
    ends = np.iinfo(dtype)
    odd = zero[(zero < ends.min) | (zero > ends.max)]
    if odd.size:
        raise TvmMobilenetError(f"{where}: the zero point {odd.reshape(-1)[0]} is out of {dtype}'s range", _AGAIN)
    return scale, zero, axis
