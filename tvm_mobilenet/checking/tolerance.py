"""The permitted difference of a value: a share of the scale of the sum that made it, carried through its activation.

The probabilities of a confident classifier, a saturated sigmoid and a ReLU at zero hardly vary. So a difference in
units of their standard deviation is meaningless: rounding looks like a mistake, or a mistake like rounding. The sum
before the activation does vary, so the tolerance is a share of the scale of that sum. If the sum ``z`` may be off by
``t``, the output ``f(z)`` of the activation may be off by ``|f(z + t) - f(z)|``. So a sigmoid of 0.99999 may be off by
far less than a sigmoid of 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.checking import reference as definition
from tvm_mobilenet.checking import stepped
from tvm_mobilenet.kinds.activation import bounds
from tvm_mobilenet.kinds.exponential import LOWEST
from tvm_mobilenet.layer import Layer

FRAMEWORK = "float32"  # the dtype of the models' own frameworks
ROUNDING = dtypes.of(FRAMEWORK).rounding
WITHIN = 4.0  # the largest factor between the unit of differences and the scale of the sums (`unit`)
SUMS = ("sum", "mean")  # generic layers whose result is the sum of their data, or its share
BLIND = 1 / 8  # a check shows nothing if a mistake would show in a smaller share of the outputs
COLLAPSED = 0.95  # a layer or output is reported if its cosine to that of the float network is below


@dataclass(frozen=True)
class Sum:
    """The sums of a layer, before its activation.

    Attributes
    ----------
    values : ndarray
        float64, in the layout of the layer's output.
    scale : ndarray
        For each channel, the typical magnitude of a sum if the signs of its terms were random, without bias. It has
        the axes of ``values``, of length 1 but for the channels.
    term : ndarray
        For each channel, the typical magnitude of one term of its sums, without bias and residual.
    terms : int
        The number of terms of each sum.
    bias : float
        The largest of the layer's biases.
    dtype : str
        The dtype of the sums.
    """

    values: np.ndarray
    scale: np.ndarray
    term: np.ndarray
    terms: int
    bias: float
    dtype: str

    @property
    def rounding(self) -> np.ndarray:
        """The possible rounding error of each sum in its dtype."""
        return (4 + math.sqrt(self.terms)) * dtypes.of(self.dtype).rounding * (np.abs(self.values) + self.bias)


def sum_of(layer: Layer, data, weight=None, bias=None, second=None, constants=None) -> Sum:
    """The sums of a layer, or of the last layer of a fused block, for operands as `checking.reference.reference` takes
    them.

    Of most generic layers only the output is known, and it is used in place of the sums. The few values of a sum over
    a whole tensor may all be much smaller than their terms suggest.
    """
    if layer.body is not None:
        values = definition.reference(layer, data, second=second, constants=constants)
        size, terms = np.mean(_finite(values) ** 2).reshape([1] * values.ndim), 1
        if layer.op in SUMS and values.size:
            terms = data.size // values.size
            squares = np.mean(np.asarray(data, np.float64) ** 2) * (terms if layer.op == "sum" else 1 / terms)
            size = np.maximum(size, squares)
        size = np.sqrt(size)
        return Sum(values, size, size / math.sqrt(terms), terms, 0.0, layer.accumulator_dtype)
    data = definition.real(layer, data, constants)
    if layer.parts:
        data = layer.input_place.view(data)
        layer, data, weight, bias, second, _ = definition.last_part(layer, data, weight, bias, second, constants)
    values = definition.reference(layer, data, weight, bias, second, activated=False)
    positions = tuple(a for a in range(4) if a != channel_axis(layer))
    squares = layer.replace(op="add" if layer.op == "sub" else layer.op, residual="none", back=0)
    none = None if bias is None else np.zeros_like(bias)
    operands = [None if a is None else np.asarray(a, np.float64) ** 2 for a in (data, weight, second)]
    paired = operands[2] if layer.residual == "none" else None
    own = definition.reference(squares, operands[0], operands[1], none, paired, activated=False)
    own = own.mean(positions, keepdims=True)
    scale = own
    if layer.residual == "before":
        scale = own + layer.second_place.view(operands[2]).reshape(values.shape).mean(positions, keepdims=True)
    taps = layer.kernel[0] * layer.kernel[1]
    terms = taps * (layer.channels // layer.groups) if layer.weight_shape else taps
    most = float(np.abs(bias).max()) if bias is not None else 0.0
    return Sum(values, np.sqrt(scale), np.sqrt(own / terms), terms, most, layer.accumulator_dtype)


def _finite(values: np.ndarray) -> np.ndarray:
    """Values without infinities, which a mask of scores has; all of them if there are no others."""
    finite = np.isfinite(values)
    return values[finite] if finite.any() and not finite.all() else values


def channel_axis(layer: Layer) -> int:
    """The axis of a layer's output that is its channels."""
    if layer.body is not None:
        return -1
    return 3 if layer.output_layout == "NHWC" else 1


def unit(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """The unit of differences of ``values``: their standard deviation, but at most ``WITHIN`` times ``scale`` and at
    least ``scale`` over ``WITHIN``.

    These limits matter for a few values, and where values differ by their biases alone: there the standard deviation
    says little about the scale of the sums.
    """
    values = _finite(values)
    deviation = float(values.std())
    found = np.clip(deviation, np.asarray(scale, np.float64) / WITHIN, WITHIN * np.asarray(scale, np.float64))
    floor = deviation / 256 or float(np.abs(values).max(initial=0.0)) or 1.0
    return np.maximum(found, floor if deviation else np.where(found > 0, 0.0, floor))


def carried(
    function: str,
    values: np.ndarray,
    allowed: np.ndarray,
    axis: int = -1,
    framework: bool = False,
    dtype: str = FRAMEWORK,
    slopes: np.ndarray | None = None,
) -> np.ndarray:
    """The permitted error of an activation's output in ``dtype``, with its rounding, if its input may be off by
    ``allowed``.

    ``framework``: the output comes from a framework. Such a sigmoid has the absolute error of values near 1.0 even
    where it is near zero (ONNX Runtime gives 1.5e-8 for every input below -18). ``slopes``: those of a PReLU.
    """
    output = definition.apply(function, values, axis, slopes)
    rounding = dtypes.of(dtype).rounding
    smallest = dtypes.of(dtype).smallest
    if function in ("sigmoid", "silu"):  # kernels compute no reciprocal below 2**-125, which is twice it
        smallest = 3 * smallest
    if function == "silu":  # x times a sigmoid, which may become zero: its exponential overflows below -88
        smallest = smallest * np.maximum(1.0, np.abs(values))
    if function == "softmax":  # kernels compute no exponential below that of LOWEST
        smallest = max(smallest, 2 * math.exp(LOWEST))
    own = 4 * rounding * np.abs(output) + smallest
    if framework and function != "none":
        own = 4 * rounding * np.maximum(1.0, np.abs(values if function.startswith(("silu", "hardswish")) else output))
    if function == "none":
        return allowed + own
    if function == "softmax":  # a probability is off by a factor
        top = values.max(axis, keepdims=True)
        factor = 2 * np.max(np.broadcast_to(allowed, values.shape), axis, keepdims=True)
        return output * np.expm1(np.minimum(factor + 4 * rounding * (top - values), 50.0)) + own
    return _beside(function, values, allowed, np.maximum, axis, slopes) + own


def _beside(function: str, values: np.ndarray, step: np.ndarray, which, axis: int = -1, slopes=None) -> np.ndarray:
    """The change of an activation's output for a step of its input up or down. ``which``, a maximum or a minimum,
    chooses between the two changes.
    """
    output = definition.apply(function, values, axis, slopes)
    with np.errstate(invalid="ignore"):  # infinities have no neighbours
        return which(*(np.abs(definition.apply(function, values + s * step, axis, slopes) - output) for s in (-1, 1)))


@dataclass(frozen=True)
class Expected:
    """The expected result of a layer for its operands.

    Attributes
    ----------
    output : ndarray
        float64, of ``layer.output_shape``.
    allowed : ndarray
        The permitted error of each value.
    answers : float
        The share of the outputs in which a mistake in one term of the sum would show.
    """

    output: np.ndarray
    allowed: np.ndarray
    answers: float


def expected(layer: Layer, tolerance: float, data, weight=None, bias=None, second=None, constants=None) -> Expected:
    """The output of a layer and the permitted errors; ``tolerance`` is a share of the scale of its sums."""
    z = sum_of(layer, data, weight, bias, second, constants)
    function, axis = definition.final_function(layer), channel_axis(layer)
    last = layer.parts[-1] if layer.parts else layer
    slopes = definition.slopes_of(
        last, definition.of_part(constants, len(layer.parts) - 1) if layer.parts else constants
    )
    rounding = dtypes.of(last.output_dtype).rounding
    output = definition.apply(function, z.values, axis, slopes)
    if function == "softmax":
        off = np.full_like(z.values, tolerance) + z.rounding
        allowed = carried(function, z.values, off, axis, dtype=last.output_dtype)
        answers = (output > 2.0**-96) & (output < 1 - rounding)
    else:
        off = tolerance * unit(z.values, z.scale) + z.rounding
        allowed = carried(function, z.values, off, axis, dtype=last.output_dtype, slopes=slopes)
        step = np.broadcast_to(z.term, z.values.shape)
        answers = _beside(function, z.values, step, np.minimum, axis, slopes) > allowed
    if last.residual == "after":
        output = output + last.second_place.view(np.asarray(second, np.float64)).reshape(output.shape)
        allowed = allowed + 4 * rounding * np.abs(output)
    return Expected(output, allowed, float(answers.mean()))


def _middle(function: str) -> float | None:
    """An input where an activation is steep on both sides, if it is so only in a range."""
    limits = bounds(function) or (-math.inf, math.inf)
    return {"sigmoid": 0.0, "hardsigmoid": 0.0}.get(
        function, sum(limits) / 2 if all(map(math.isfinite, limits)) else None
    )


def revealing(layer: Layer, weight=None, bias=None, constants=None, seed: int = 0) -> dict | None:
    """Operands for which most of a layer's outputs depend on its sums; None if none were found.

    It tries random operands of growing magnitude, then operands that put one of the sums where the activation is steep.

    Returns
    -------
    dict
        ``data`` and, if the layer has one, ``second``, of shapes ``layer.input_shape`` and ``second_shape``.
    """
    draw = np.random.default_rng(seed)
    if layer.reads_pixels:
        return {"data": draw.integers(0, 256, layer.input_shape).astype(np.uint8)}
    operands = {"data": draw.standard_normal(layer.input_shape)}
    if layer.second_shape is not None:
        operands["second"] = draw.standard_normal(layer.second_shape)
    factors = [sign * 4.0**power for power in range(12) for sign in (1, -1)]
    if layer.weight_shape and not layer.parts and len(operands) == 1:
        own = definition.reference(layer, operands["data"], weight, np.zeros_like(bias), activated=False)
        shift = definition.reference(layer, operands["data"], weight, bias, activated=False) - own
        middle = _middle(definition.final_function(layer))
        middle = 1.0 + np.abs(shift) if middle is None else middle
        with np.errstate(divide="ignore", invalid="ignore"):
            exact = np.sort(((middle - shift) / own).ravel())
        exact = exact[np.isfinite(exact)]
        factors += list(exact[:: max(1, len(exact) // 8)])
    dtype = {"data": layer.input_dtype, "second": layer.second_dtype}
    best, most = None, 0.0
    for factor in factors:
        with np.errstate(over="ignore"):
            scaled = {name: (array * factor).astype(dtype[name]) for name, array in operands.items()}
        own = {"weight": weight, "bias": bias, "constants": constants}
        if stepped.allowed(layer) and not stepped.run(layer, **own, **scaled)[1] < math.inf:
            continue  # a sum left the range of its dtype
        share = expected(layer, 0.0, **own, **scaled).answers
        if share > most:
            best, most = scaled, share
        if most > 1 / 2:
            break
    return best


def collapse_remedy(seeded: bool) -> str:
    """The remedy if quantization destroys a layer or an output (`COLLAPSED`); for seeded weights, the reason."""
    if seeded:
        return "the weights are seeded, whose layers amplify what is rounded as trained ones do not"
    return "calibrate on images like those that it will see, or build in float32 or float16"
