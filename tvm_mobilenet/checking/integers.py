"""The exact result of an integer layer: the definition that every kernel must equal.

A sum is exact in int32. Its terms are a bias and the products of the weights with the data minus its zero point. It
becomes an output by ``clamp(rint(float32(sum) * factor) + zero)``, with the product exact and rounded once, ties to
even. So does data minus its zero point where a layer only changes its scale. A PReLU has other factors for sums below
zero. Another activation that is not a clamp is a table of 256 entries.
A residual is added to the finished output, as a layer of its own would add it:
``clamp(rint(fl32((left - zero) * factor + fl32((right - zero) * factor))) + zero)``, with the inner product rounded to
float32 and the rest rounded once. So a layer gives the same result with and without a fused addition.

This module computes in float64, which represents all of these sums and products exactly, and in float32 if that does
too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tvm_mobilenet import kinds
from tvm_mobilenet.kinds.activation import PER_CHANNEL, bounds, of_sums
from tvm_mobilenet.kinds.windows import padded
from tvm_mobilenet.layer import Layer

SPREAD = 50.0  # standard deviation, in units, of an output on random operands
EXACT = 1 << 24  # float32 represents every integer below this
LIMIT = 255  # largest sum of magnitudes of weights whose products with int8 are summed in an int16


def requantized(total: np.ndarray, factor: np.ndarray, zero: int, low: int, high: int, below=None) -> np.ndarray:
    """int8 of sums (…, n) by factors (n,) or (1,); ``below``: those of sums below zero, if they differ."""
    exact = total.astype(np.float32, copy=False).astype(np.float64)  # copies of large arrays are slow
    if below is not None:
        factor = np.where(exact < 0, below, factor)
    exact *= factor.astype(np.float32).astype(np.float64)
    np.rint(exact, out=exact)
    exact += zero
    return np.clip(exact, low, high, out=exact).astype(np.int8)


def added(left: np.ndarray, right: np.ndarray, factors: np.ndarray, ends: np.ndarray, sign: int = 1) -> np.ndarray:
    """The sum of two int8 tensors of different scales, in a third; ``ends`` as a layer has them."""
    a = (left.astype(np.int64) - ends[_OWN]).astype(np.float64)
    b = (right.astype(np.float32) - np.float32(ends[4])) * np.float32(factors[1])
    total = (a * np.float64(np.float32(factors[0])) + sign * b.astype(np.float64)).astype(np.float32)
    return np.clip(np.rint(total) + ends[5], ends[6], ends[7]).astype(np.int8)


_OWN = 1  # index in the ends of the zero point of a layer's own output, before the residual


def run(layer: Layer, data: np.ndarray, constants: Mapping[str, np.ndarray], second: np.ndarray | None = None):
    """The layer's output.

    Parameters
    ----------
    data : ``layer.input_shape``, or as it lies in memory
    constants : mapping of str to ndarray
        As ``layer.constants`` names them; for a fused block, those of its parts.
    second : the residual or second operand, if the layer has one

    Returns
    -------
    ndarray
        ``layer.output_shape`` of ``layer.output_dtype``
    """
    if layer.parts:
        for i, part in enumerate(layer.parts):
            own = {name.removeprefix(f"{i}."): a for name, a in constants.items() if name.startswith(f"{i}.")}
            data = data.reshape(part.input_shape) if i else data  # the first part reads a place in memory
            data = run(part, data, own, second if part is layer.parts[-1] else None)
        return data
    data = layer.input_place.view(data)
    second = None if second is None else layer.second_place.view(second)
    if layer.kind == "elementwise":
        return _in_layout(layer, _element(layer, _channels_last(layer, data), constants, second))
    if layer.op in layer.declared.selects:
        return _in_layout(layer, _moved(layer, data).astype(np.int8))
    ends = constants.get("ends", np.array([0, 0, -128, 127]))
    total = _sums(layer, data, constants, int(ends[0]))
    if layer.output_dtype == "float32":
        return _in_layout(layer, total.astype(np.float32) * constants["scale"].astype(np.float32))
    factor = constants["scale"]
    if layer.op == "mean":
        factor = factor[_counts(layer) - 1]
    made = requantized(total, factor, *map(int, ends[1:4]), constants.get("below"))
    if not of_sums(layer.activation):
        made = looked_up(constants["table"], made)
    if layer.residual != "none":
        made = added(made, second.reshape(made.shape), constants["added"], ends)
    return _in_layout(layer, made)


def _counts(layer: Layer) -> np.ndarray:
    """The number of values of the data in each window of a mean: (output rows, output columns, 1)."""
    ones = np.ones((1, layer.height, layer.width, 1))
    taps = layer.kernel[0] * layer.kernel[1]
    one = layer.replace(op="avg", channels=1, out_channels=1, batch=1, input_layout="NHWC").dense
    return np.rint(_moved(one, ones)[0] * taps).astype(int)


def looked_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The entries of a table of 256 for int8 values; the first entry belongs to the lowest value."""
    return table[values.astype(np.int64) + 128]


def _element(layer: Layer, x: np.ndarray, constants: Mapping[str, np.ndarray], second) -> np.ndarray:
    if layer.op == "pixels":
        return constants["table"][np.arange(layer.channels), x]
    if layer.input_dtype == "uint8" or layer.output_dtype == "uint8":
        return (x.astype(np.int64) - (128 if layer.input_dtype == "uint8" else -128)).astype(layer.output_dtype)
    ends = constants["ends"]
    if layer.input_dtype == "float32":
        scaled = x.astype(np.float32) / np.float32(constants["scale"][0])
        whole = np.rint(np.clip(scaled, ends[2] - ends[1], ends[3] - ends[1]).astype(np.float64))
        return (whole + ends[1]).astype(np.int8)
    if layer.op == "rescale" or layer.activation == PER_CHANNEL:
        total = x.astype(np.int64) - ends[0]
        return requantized(total, constants["scale"], *map(int, ends[1:4]), constants.get("below"))
    if layer.op == "none":
        if layer.output_dtype == "float32":
            return (x.astype(np.float32) - np.float32(ends[0])) * np.float32(constants["scale"][0])
        return looked_up(constants["table"], x) if "table" in constants else x
    if layer.op in ("add", "sub"):
        shifted = ends.copy()
        shifted[_OWN] = ends[0]
        return added(x, second, constants["added"], shifted, 1 if layer.op == "add" else -1)
    product = (x.astype(np.int64) - ends[0]) * (second.astype(np.int64) - ends[4])
    return requantized(product, constants["scale"], int(ends[1]), int(ends[2]), int(ends[3]))


def _moved(layer: Layer, data: np.ndarray) -> np.ndarray:
    """The definition of a layer without weights, in float64, channels last."""
    import torch

    x = torch.from_numpy(data.astype(np.float64))
    x = x if layer.input_layout == "NCHW" else x.permute(0, 3, 1, 2)
    return layer.declared.reference(layer, x, None, None, None).permute(0, 2, 3, 1).numpy()


def _sums(layer: Layer, data: np.ndarray, constants: Mapping[str, np.ndarray], zero: int) -> np.ndarray:
    """The exact sums, channels last: float64, or float32 if that represents every partial sum in any order."""
    import torch

    if layer.kind == "pool":
        taps = layer.kernel[0] * layer.kernel[1]
        return np.rint(_moved(layer.replace(op="avg"), data.astype(np.float64) - zero) * taps)
    weight = constants["weight"].reshape(layer.out_channels, -1).astype(np.float64)
    bias = constants["bias"] + zero * weight.sum(1)
    farthest = max(int(data.max(initial=zero)) - zero, zero - int(data.min(initial=zero)))
    most = float((np.abs(weight).sum(1) * farthest + np.abs(bias)).max())
    by_taps = layer.declared.groups == "channels" and layer.out_channels == layer.channels
    narrow = most < EXACT and (by_taps or layer.groups == 1)
    dtype = np.float32 if narrow else np.float64
    x = torch.from_numpy(data.astype(dtype) - dtype(zero))
    x = x if layer.input_layout == "NCHW" else x.permute(0, 3, 1, 2)
    weight, bias = (torch.from_numpy(np.ascontiguousarray(a, dtype)) for a in (weight, bias))
    if not narrow:
        y = kinds.of(layer.kind).reference(layer, x, weight.reshape(layer.weight_shape), bias, None)
    else:
        y = (_by_taps if by_taps else _by_products)(layer, x, weight, bias)
    return np.rint(y.permute(0, 2, 3, 1).numpy())


def _by_products(layer: Layer, x, weight, bias):
    """A layer's sums as a matrix product, since PyTorch computes some convolutions by transforms, which round."""
    import torch.nn.functional as F

    if layer.kernel == (1, 1) and layer.stride == (1, 1) and not any(layer.padding):
        return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    taps = F.unfold(padded(layer, x, 0.0), layer.kernel, layer.dilation, 0, layer.stride)
    y = weight @ taps + bias[:, None]
    return y.reshape(len(x), -1, layer.out_height, layer.out_width)


def _by_taps(layer: Layer, x, weight, bias):
    """A depthwise layer's sums, tap after tap, since PyTorch's transforms would round them."""
    x = padded(layer, x, 0.0)
    y = bias.reshape(1, -1, 1, 1).repeat(len(x), 1, layer.out_height, layer.out_width)
    y = y.contiguous(memory_format=_memory_format(x))
    for row in range(layer.kernel[0]):
        for column in range(layer.kernel[1]):
            top, left = row * layer.dilation[0], column * layer.dilation[1]
            window = x[
                :,
                :,
                top : top + layer.stride[0] * (layer.out_height - 1) + 1 : layer.stride[0],
                left : left + layer.stride[1] * (layer.out_width - 1) + 1 : layer.stride[1],
            ]
            y.addcmul_(window, weight[:, row * layer.kernel[1] + column].reshape(1, -1, 1, 1))
    return y


def _memory_format(x):
    import torch

    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def _channels_last(layer: Layer, x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if layer.input_layout == "NCHW" else x


def _in_layout(layer: Layer, y: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(y if layer.output_layout == "NHWC" else y.transpose(0, 3, 1, 2))


def random_operands(layer: Layer, rng) -> dict:
    """Random operands of a layer, as `run` takes them."""

    def draw(shape) -> np.ndarray:
        return rng.integers(-128, 128, shape).astype(np.int8)

    if layer.input_dtype == "float32":
        data = (2 * rng.standard_normal(layer.input_shape)).astype(np.float32)
    else:
        data = draw(layer.input_shape).view(layer.input_dtype)
    found = {"data": data, "constants": random_constants(layer, data, rng)}
    return found | ({"second": draw(layer.second_shape)} if layer.second_shape else {})


ZERO = 80  # zero entries of a hard-swish table: 57 to 144 in a calibrated v3-large
FEW = 8  # with fewer positions, a channel's sums give no standard deviation
FURTHEST = 2.0**14  # limit of a requantized small sum: half of the possible range


def _spreading(sums: np.ndarray) -> np.ndarray:
    """The scales, one for each channel, that spread sums (b, h, w, c) over int8, within the limit of small sums."""
    deviation = sums.std((0, 1, 2)) if sums[..., 0].size >= FEW else np.full(sums.shape[-1], sums.std())
    furthest = np.maximum(np.abs(sums).max((0, 1, 2)), 1.0)
    return np.minimum(SPREAD / np.maximum(deviation, 1.0), FURTHEST / furthest).astype(np.float32)


def random_constants(layer: Layer, data: np.ndarray, rng) -> dict[str, np.ndarray]:
    """Constants of a layer that spread its output over int8, for random int8 data."""
    if layer.parts:
        found = {}
        for i, part in enumerate(layer.parts):
            own = random_constants(part, data := data.reshape(part.input_shape), rng)
            found |= {f"{i}.{name}": array for name, array in own.items()}
            data = data if part is layer.parts[-1] else run(part, data, own)
        return found
    found: dict[str, np.ndarray] = {}
    ends = np.array([rng.integers(-20, 20), rng.integers(-20, 20), -128, 127, rng.integers(-20, 20), 3, -128, 127])
    if layer.activation != "none" and bounds(layer.activation):
        at = 6 if layer.residual == "before" else 2
        ends[at], ends[at + 1] = ends[at - 1], ends[at - 1] + 100
    if layer.weight_shape is not None:
        most = LIMIT if layer.weights else LIMIT // max(2, layer.group or 1)
        found["weight"] = rng.integers(-most, most + 1, layer.weight_shape).astype(layer.weight_dtype)
        sums = found["weight"].reshape(layer.out_channels, -1).astype(np.int64).sum(1)
        found["bias"] = (rng.integers(-2000, 2000, layer.out_channels) - ends[0] * sums).astype(np.int32)
    if layer.kind == "pool" and layer.op not in layer.declared.selects:
        taps = layer.kernel[0] * layer.kernel[1]
        counts = np.arange(1, taps + 1) if layer.op == "mean" else np.array([taps])
        found["bias"] = (-ends[0] * counts[:1]).astype(np.int32)
        found["scale"] = (0.8 / counts).astype(np.float32)
    elif layer.weight_shape is not None:
        found["scale"] = _spreading(_sums(layer, data, found, int(ends[0])))
        found["below"] = (found["scale"] * rng.uniform(-1, 1, layer.out_channels)).astype(np.float32)
    elif layer.activation == PER_CHANNEL:
        found["scale"] = rng.uniform(0.5, 1.5, layer.channels).astype(np.float32)
        found["below"] = (found["scale"] * rng.uniform(-1, 1, layer.channels)).astype(np.float32)
    elif layer.op == "rescale":
        found["scale"] = np.array([0.71], np.float32)
    elif "scale" in layer.constants:
        value = 127 / 4096 if "float32" in (layer.input_dtype, layer.output_dtype) else 0.01
        found["scale"] = np.array([value], np.float32)
    found["ends"] = ends[: layer.constants["ends"][0][0]].astype(np.int32) if "ends" in layer.constants else None
    found["added"] = np.array([0.71, 0.43], np.float32)
    if layer.op == "pixels":
        found["table"] = np.stack([rng.permutation(np.arange(-128, 128)) for _ in range(layer.channels)]).astype(
            np.int8
        )
    else:
        found["table"] = rng.permutation(np.arange(-128, 128)).astype(np.int8)
        if layer.activation == "hardswish":  # as in a calibrated network, all values below -3 give zero
            found["table"][:ZERO] = found["table"][ZERO]
    return {name: found[name] for name in layer.constants}
