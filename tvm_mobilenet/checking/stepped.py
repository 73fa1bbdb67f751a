"""The expected result of a layer in a dtype with visible rounding: computed as its kernel does, rounded once at each
step.

A kernel of float16 sums in an order that belongs to its layer, whatever its decisions: bias first, then products one by
one, k ascending (taps row by row, the channels of a tap ascending, padding left out), each by a fused multiply-add, so
``float16(a * b + total)`` with the inner expression exact. Residual and activation follow, rounded step by step. This
module follows the same order in float64, which represents each such product and sum exactly. So a correct kernel gives
equal values, apart from signs of zero. Exponentials and divisions may be one unit in the last place off.

A layer that sums in float32 (``sums_f32``) adds up ``DType.chunk`` products in float16, beginning at zero, and adds
that to a float32 sum, which begins with the bias; `kinds.windows.chunks` says which products make a chunk.

Each kind defines its order of products (`kinds.Kind.stepped`), like its definition. This module does not know tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.checking import integers, reference
from tvm_mobilenet.kinds import activation, exponential
from tvm_mobilenet.layer import Layer

BLOCK_VALUES = 1 << 15  # sums at a time, so that they stay in a cache: 256 KiB
_INEXACT = ("sigmoid", "silu")  # activations with an exponential and a division


def run(
    layer: Layer,
    data: np.ndarray,
    weight=None,
    bias=None,
    second: np.ndarray | None = None,
    constants=None,
    *,
    largest: bool = True,
) -> tuple[np.ndarray, float]:
    """The layer's output, and the largest magnitude of any intermediate value.

    Parameters
    ----------
    data, weight, bias, second, constants
        As `reference.reference` takes them.
    largest : bool
        If false, do not find the magnitude, which saves a tenth of the time; it is then 0.0.

    Returns
    -------
    (ndarray, float)
        ``layer.output_shape`` of ``layer.output_dtype``, and the largest magnitude of a sum, a product or an output
        that is held in the layer's own dtype; wide sums do not count. For a fused block, the largest of all parts.

    Raises
    ------
    ValueError
        The layer's kind does not define an order of steps, as the generic kind.
    """
    data = reference.real(layer, data, constants)
    if layer.parts:
        reached, last, made = 0.0, layer.parts[-1], []
        for i, part in enumerate(layer.parts):
            data = data if i == 0 else data.reshape(part.input_shape)
            residual = made[-part.back].reshape(part.output_shape) if part.back else second if part is last else None
            own = reference.of_part(constants, i)
            data, one = run(part, data, weight[i], bias[i], residual, own, largest=largest)
            reached = max(reached, one)
            made.append(data)
        return data, reached
    if layer.declared.stepped is None:
        raise ValueError(f"{layer.name}: its kind has no order of steps")
    steps = Steps(layer, largest)
    x = steps.read(_channels_last(layer.input_place.view(data), layer.input_layout))
    operand = None
    if second is not None:
        gate = layer.op == "scale"
        lies = layer.output_layout if layer.residual != "none" else "NHWC" if gate else layer.input_layout
        operand = steps.round(_channels_last(layer.second_place.view(second), lies))
    own = [None if array is None else array.astype(np.float64) for array in (weight, bias)]
    with np.errstate(over="ignore", invalid="ignore"):
        y = layer.declared.stepped(layer, x, *own, operand, steps)
        y = steps.epilogue(y, operand if layer.residual != "none" else None, reference.slopes_of(layer, constants))
        if layer.output_dtype == layer.dtype:
            steps.watch(y)
        y = y if layer.output_layout == "NHWC" else y.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(y).astype(layer.output_dtype), steps.largest


def expected(layer: Layer, **operands) -> np.ndarray:
    """The value to compare a layer's kernel with: `run`'s output if its dtype has a fixed order of steps,
    `integers.run`'s for integers, else the definition, `reference.reference`.
    """
    if reference.integral(layer):
        return integers.run(layer, **operands)
    if allowed(layer):
        return run(layer, **operands, largest=False)[0]
    return reference.reference(layer, **operands)


def allowed(layer: Layer) -> dict:
    """The permitted difference of a kernel's output from `expected`, as `boards.comparison.require_right` takes it."""
    parts = layer.parts or (layer,)
    if reference.integral(layer):
        return {"units": 0, "dtype": layer.output_dtype}
    if not all(dtypes.of(part.dtype).fused and part.declared.stepped for part in parts):
        return {}
    inexact = any(part.declared.function or part.activation in _INEXACT for part in parts)
    return {"units": int(inexact), "dtype": layer.dtype}


class Steps:
    """The roundings of one layer, with which `kinds` compute.

    Attributes
    ----------
    dtype, sums : str
        The dtypes of products and of sums; residual and activation have that of the sums.
    largest : float
        The largest magnitude so far of a value in the layer's own dtype.
    """

    def __init__(self, layer: Layer, watched: bool = True):
        self.layer, self.sums = layer, layer.accumulator_dtype
        self.dtype = layer.dtype if layer.sums else self.sums
        self.largest, self._watched = 0.0, watched

    def read(self, data: np.ndarray) -> np.ndarray:
        """Data as operands of products: values of their dtype, as float64."""
        return self.round(data, self.dtype)

    def round(self, values: np.ndarray, dtype: str | None = None) -> np.ndarray:
        """Values rounded to a dtype, by default that of the sums, as float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = values.astype(dtype or self.sums).astype(np.float64)
        if dtype is None and self.sums == self.layer.dtype:
            self.watch(rounded)
        return rounded

    def const(self, value: float) -> float:
        """A constant, rounded as in the kernel."""
        return float(np.dtype(self.sums).type(value))

    def blocks(self, shape: tuple[int, ...], axis: int = 1) -> Iterator[slice]:
        """An axis in pieces of about ``BLOCK_VALUES`` values each."""
        others = max(1, int(np.prod(shape)) // shape[axis])
        rows = max(1, BLOCK_VALUES // others)
        for start in range(0, shape[axis], rows):
            yield slice(start, min(start + rows, shape[axis]))

    def sum_products(self, start: np.ndarray, terms: Iterable[tuple]) -> np.ndarray:
        """``start`` plus products, one after the other.

        Parameters
        ----------
        start : float64
        terms : iterable of (chunk, where, left, right)
            ``where`` is an index of the sums that have this product, ``left * right`` broadcasts to it. ``chunk`` is
            the same for all products of a chunk, which come together.
        """
        total = np.array(start, np.float64, order="C")
        if self.layer.sums:
            return self._sum_chunks(total, terms)
        room, narrow = np.empty(total.size), np.empty(total.size, self.dtype)
        for _, where, left, right in terms:
            self._multiply_add(total[where], left, right, room, narrow)
        return total

    def _sum_chunks(self, total: np.ndarray, terms) -> np.ndarray:
        room, narrow = np.empty(total.size), np.empty(total.size, self.dtype)
        part, wide, open_chunk = np.zeros_like(total), np.empty(total.shape, self.sums), None

        def close():
            np.copyto(wide, total + part, casting="same_kind")
            np.copyto(total, wide)
            part.fill(0.0)

        for chunk, where, left, right in terms:
            if chunk != open_chunk and open_chunk is not None:
                close()
            open_chunk = chunk
            self._multiply_add(part[where], left, right, room, narrow)
        close()
        return total

    def _multiply_add(self, sums: np.ndarray, left, right, room: np.ndarray, narrow: np.ndarray) -> None:
        exact, rounded = room[: sums.size].reshape(sums.shape), narrow[: sums.size].reshape(sums.shape)
        np.multiply(left, right, out=exact)
        np.add(exact, sums, out=exact)
        np.copyto(rounded, exact, casting="same_kind")
        np.copyto(sums, rounded)
        if self.dtype == self.layer.dtype:
            self.watch(sums)

    def watch(self, values: np.ndarray) -> None:
        """Update the largest magnitude with these values."""
        if self._watched and values.size:
            most = max(float(values.max()), -float(values.min()))
            self.largest = max(self.largest, np.inf if np.isnan(most) else most)

    def epilogue(self, x: np.ndarray, residual: np.ndarray | None, slopes: np.ndarray | None = None) -> np.ndarray:
        """Residual and activation as `schedules.values.epilogue` writes them. An addition after a product is rounded
        with it, in one step.
        """
        layer = self.layer
        if layer.residual == "before":
            x = self.round(x + residual)
        after = residual if layer.residual == "after" else None
        return self.activate(layer.activation, x, after, slopes)

    def activate(self, name: str, x: np.ndarray, then: np.ndarray | None = None, slopes=None) -> np.ndarray:
        """An activation, and the value that is added after it."""
        name, numbers = activation.parsed(name)
        if name == "hardswish" and numbers:
            gate = np.clip(self.round(x * self.const(numbers[0]) + self.const(numbers[1])), 0.0, 1.0)
            return self.round(x * gate + (0.0 if then is None else then))
        if name in ("hardswish", "hardsigmoid"):
            gate = np.clip(self.round(x + 3.0), 0.0, 6.0)
            sixth = self.const(1 / 6)
            left, right = (x, self.round(gate * sixth)) if name == "hardswish" else (gate, sixth)
            return self.round(left * right + (0.0 if then is None else then))
        if name in ("sigmoid", "silu"):
            below = _wide(1.0 + self.exponential(-x))
            x = self.round(_wide((1.0 if name == "sigmoid" else x) / below))
        elif name in ("leaky", activation.PER_CHANNEL):
            slope = slopes.astype(np.float64) if name == activation.PER_CHANNEL else self.const(numbers[0])
            x = np.where(x > 0, x, self.round(np.minimum(x, 0.0) * slope))
        else:
            x = np.clip(x, *map(self.const, numbers or activation.bounds(name)))
        return x if then is None else self.round(x + then)

    @staticmethod
    def exponential(x: np.ndarray) -> np.ndarray:
        """exp(x) of float32 numbers by the steps of `kinds.exponential`; NaN stays NaN."""
        x = np.clip(x, exponential.LOWEST, exponential.HIGHEST)
        n = np.rint(_wide(x * np.float64(np.float32(exponential.PER_LN2))))
        r = x
        for part in exponential.LN2:
            r = _wide(r - n * np.float64(np.float32(part)))
        p, *coefficients = (np.float64(np.float32(c)) for c in exponential.COEFFICIENTS)
        for coefficient in coefficients:
            p = _wide(p * r + coefficient)
        y = _wide(r + p * _wide(r * r))
        return _wide(_wide(y + 1.0) * np.exp2(n))


def _wide(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).astype(np.float32).astype(np.float64)


def _channels_last(array: np.ndarray, layout: str) -> np.ndarray:
    return array if layout == "NHWC" else array.transpose(0, 2, 3, 1)
