"""The constants of integer layers, in the form that their kernels take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm_mobilenet.schedules import integer_products, integers
from tvm_mobilenet.schedules.choices import Choice, Decisions

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer

VALUES = (integers.INT8[0], integers.INT8[1] + 1)  # the bounds of Python's range over int8


def lookup_choice(layer: Layer, core) -> dict[str, Choice]:
    """The way to read a table: with AArch64's instructions for tables of 64 bytes, or byte by byte."""
    way = "tables" if core.architecture == "aarch64" else "bytes"
    found = any(name.rpartition(".")[2] == "table" for name in layer.constants)  # of any part
    return {"lookup": Choice((way,), way)} if found else {}


def arguments(layer: Layer, d: Decisions, weights: int) -> list[tuple]:
    """Names, shapes and dtypes: weights, biases, factors, ends (zero point and bounds), and the factors of an
    addition.
    """
    width = integer_products.padded(layer.out_channels)
    found = [("weight", (weights,), layer.weight_dtype), ("bias", (width,), "int32")]
    return [
        *found,
        *((name, (width,), "float32") for name in _factors(layer)),
        *_more(layer),
        *_lowest(d),
        *_vectors(layer),
    ]


def _factors(layer: Layer) -> list[str]:
    """The constants with a factor for each channel."""
    return [name for name in ("scale", "below") if name in layer.constants]


def _more(layer: Layer) -> list[tuple]:
    """The constants that are packed unchanged."""
    return [(name, *layer.constants[name]) for name in ("ends", "added", "table") if name in layer.constants]


def _lowest(d: Decisions) -> list[tuple]:
    """`integers.lowest` in sixteen lanes, for layers that read a table with instructions for tables."""
    return [("lowest", (16,), "int8")] if d.get("lookup") == "tables" else []


def _table(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """A layer's table with the clamp of its input folded in, so no value is clamped before the lookup."""
    low, high = (int(end) for end in arrays["ends"][2:4])
    return arrays["table"][np.clip(np.arange(*VALUES), low, high) - VALUES[0]]


def _vectors(layer: Layer) -> list[tuple]:
    """`integers.Constants`, for layers whose sums are small and become int8."""
    if not layer.small or layer.output_dtype != "int8":
        return []
    outputs = 1 + ("added" in layer.constants)
    return [("vectors", (16 + outputs * len(integers.NAMES) * integers.WORDS,), "int32")]


def _packed_vectors(ends: np.ndarray, outputs: int) -> np.ndarray:
    """`MAGIC` sixteen times, then for each output its zero point as int16 and its lowest and highest value as int8."""
    pieces = [np.full(16, integers.BITS, np.int32)]
    for first in (1, 5)[:outputs]:
        for value, dtype in zip(ends[first : first + 3], (np.int16, np.int8, np.int8), strict=True):
            lanes = np.full(4 * integers.WORDS // np.dtype(dtype).itemsize, value, dtype)
            pieces.append(np.frombuffer(lanes.tobytes(), np.int32))
    return np.concatenate(pieces)


def pack(layer: Layer, d: Decisions, weight: np.ndarray, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The constants that `arguments` names. Biases of small sums start from the bits of `integers.MAGIC`."""
    rest = integer_products.padded(layer.out_channels) - layer.out_channels
    bias = np.pad(arrays["bias"].astype(np.int64), (0, rest)) + (integers.BITS if layer.small else 0)
    found = [weight, bias.astype(np.int32)]
    found += [np.pad(arrays[name], (0, rest)).astype(np.float32) for name in _factors(layer)]
    more = {**arrays, "table": _table(arrays)} if "table" in layer.constants else arrays
    found += [more[name].astype(dtype) for name, _, dtype in _more(layer)]
    found += [np.full(16, integers.lowest(more["table"]), np.int8) for _ in _lowest(d)]
    outputs = 1 + ("added" in layer.constants)
    return [*found, *(_packed_vectors(arrays["ends"], outputs) for _ in _vectors(layer))]


def of_maps(layer: Layer, d: Decisions) -> list[tuple]:
    """The constants of a layer without weights, as `Layer.constants` names them; none for other dtypes."""
    return [(name, shape, dtype) for name, (shape, dtype) in layer.constants.items()]


LEAST = 2.0**-100  # least scale of a float input: with a smaller one the remainders of its quotients are not exact


def pack_maps(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Pack the constants of a layer without weights, unchanged.

    Raises
    ------
    TvmMobilenetError
        A float input has a scale below `LEAST`.
    """
    if layer.input_dtype == "float32" and layer.dtype == "int8" and float(arrays["scale"][0]) < LEAST:
        raise TvmMobilenetError(
            f"{layer.name}: a scale of {float(arrays['scale'][0]):g} for an input in float32, the least is {LEAST:g}",
            "calibrate on images whose values are not all zero",
        )
    return [np.ascontiguousarray(arrays[name], dtype) for name, (_, dtype) in layer.constants.items()]
