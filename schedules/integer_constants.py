"""The constants of integer layers, as their kernels take them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm_mobilenet.schedules import integer_products, integers
from tvm_mobilenet.schedules.choices import Choice, Decisions

from tvm_mobilenet.layer import Layer


def lookup_choice(layer: Layer, core) -> dict[str, Choice]:
    """How a table is read: by AArch64's instructions for tables of 64 bytes, or byte by byte."""
    way = "tables" if core.architecture == "aarch64" else "bytes"
    return {"lookup": Choice((way,), way)} if "table" in layer.constants else {}


def arguments(layer: Layer, d: Decisions, weights: int) -> list[tuple]:
    """Names, shapes and dtypes: weights, biases, factors, ends, and the factors of an addition."""
    width = integer_products.padded(layer.out_channels)
    each = integer_products.SUMS if d.get("products") == "long" else 1
    found = [("weight", (weights,), "int8"), ("bias", (width * each,), "int32"), ("scale", (width,), "float32")]
    return [*found, *_more(layer)]


def _more(layer: Layer) -> list[tuple]:
    """Those that are packed as they are."""
    return [(name, *layer.constants[name]) for name in ("ends", "added", "table") if name in layer.constants]


def pack(layer: Layer, d: Decisions, weight: np.ndarray, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """As `arguments` names them; biases of small sums begin at the bits of `integers.MAGIC`."""
    more = integer_products.padded(layer.out_channels) - layer.out_channels
    bias = np.pad(arrays["bias"].astype(np.int64), (0, more)) + (integers.BITS if layer.small else 0)
    bias = bias.astype(np.int32)
    if d.get("products") == "long":
        bias = np.stack([bias, *[np.zeros_like(bias)] * (integer_products.SUMS - 1)], 1).ravel()
    found = [weight, bias, np.pad(arrays["scale"], (0, more)).astype(np.float32)]
    return [*found, *(arrays[name].astype(dtype) for name, _, dtype in _more(layer))]


def of_maps(layer: Layer, d: Decisions) -> list[tuple]:
    """Those of a layer without weights, as `Layer.constants` names them; of another dtype there are none."""
    return [(name, shape, dtype) for name, (shape, dtype) in layer.constants.items()]


def pack_maps(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """As they are."""
    return [np.ascontiguousarray(arrays[name], dtype) for name, (_, dtype) in layer.constants.items()]
