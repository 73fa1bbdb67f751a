"""The last sums of a network, before a softmax or an activation that would hide differences, from the machine code's
own run.

Probabilities of 0.99999 and of 1.0 are nearly equal, but their logits are not. While a plan runs, `Ends` reads the
operands of each output's last layers from memory. These give the value before the last function, and the scale of its
sum (`checking.tolerance`). `check_output` compares both with the model's own framework.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.boards.comparison import deviation_of, relative
from tvm_mobilenet.checking import integers, reference, tolerance
from tvm_mobilenet.kinds.activation import PER_CHANNEL
from tvm_mobilenet.layer import Layer

OUTPUT_TOLERANCE = 1e-4  # times the square root of the number of layers: rounding adds up like a random walk
# The tolerance for a dtype that rounds at every addition, in roundings of a value. Measured for float16
# (benchmarks/half_precision.py): at most 298, in v1 with seeded weights; 20 to 72 in others and with trained weights.
# Unrelated outputs differ by 4 standard deviations and more; this tolerance is 1.3 to 2.1 of them for the layers of v1
# to v3.
FUSED_ROUNDINGS = 512


def output_tolerance(dtype: str, layers: int) -> float:
    """The tolerance of a network's outputs against a float32 framework, over the scale of their last sums. The network
    has so many layers, most of them in this dtype.
    """
    own = dtypes.of(dtype)
    if own.integer:
        own = dtypes.of(tolerance.FRAMEWORK)
    return (FUSED_ROUNDINGS * own.rounding if own.fused else OUTPUT_TOLERANCE) * math.sqrt(max(1, layers))


@dataclass(frozen=True)
class End:
    """One output of one run.

    Attributes
    ----------
    before : ndarray
        float64, of the output's shape: the value before ``function``.
    scale : ndarray or float
        The scale of the last sum.
    function : str
        The function applied to it: an activation, ``softmax`` or ``none``.
    axis : int
        The axis of a softmax, in the output's shape.
    """

    before: np.ndarray
    scale: float
    function: str
    axis: int = -1


class Ends:
    """Collects the ends of a network's outputs, one input at a time.

    Parameters
    ----------
    network : Network
    calls : list of LayerCall
        The calls, as the plan runs them.
    """

    def __init__(self, calls: list, signature):
        self._calls, self._ports = calls, signature.outputs
        self._makers = {call.output: i for i, call in enumerate(calls)}
        self._tails = [self._tail(port.value) for port in self._ports]
        self._kept: dict[int, tuple] = {}

    def _tail(self, value: str) -> list[int]:
        """The numbers of the calls from the last sum to an output. A copy or a softmax is not a sum. Neither is a layer
        that only moves values, such as a transposed convolution's pixels, unless a softmax stands before it.
        """
        tail, moved = [], False
        while value in self._makers:
            call = self._calls[self._makers[value]]
            layer = call.layer
            if moved and layer.declared.function == "softmax":  # its axis has changed
                break
            tail.insert(0, self._makers[value])
            moved = moved or _moves(layer)
            if not (layer.declared.function == "softmax" or layer.copies or _moves(layer)):
                break
            if layer.activation != "none":
                break
            value = call.inputs[0]
        return tail

    def watch(self, number: int, step, runner) -> None:
        """Keep the operands of a call, if it is one of the last."""
        if any(number in tail for tail in self._tails):
            self._kept[number] = tuple(runner.read(t) for t in step.operands[:-1] if t.space != "parameters")

    def take(self) -> list[End | None]:
        """The end of each output in the run that was watched; None for an output that no layer makes."""
        ends = [self._end(tail, port) for tail, port in zip(self._tails, self._ports, strict=True)]
        self._kept.clear()
        return ends

    def _end(self, tail: list[int], port) -> End | None:
        if not tail:
            return None
        first = self._calls[tail[0]]
        data, *others = self._kept[tail[0]]
        operands = reference.operands_of(first, others)
        if reference.whole(first.layer):
            return self._integer_end(tail, port, data, operands)
        z = tolerance.sum_of(first.layer, data, **operands)
        last = first.layer.parts[-1] if first.layer.parts else first.layer
        whole = last.residual == "after" or last.activation == PER_CHANNEL  # a PReLU hides no difference
        function = "none" if whole else reference.final_function(first.layer)
        values = z.values
        if whole:
            values = reference.reference(first.layer, data, **operands)
        layout, axis = first.layer.output_layout, -1
        for number in tail[1:]:
            layer = self._calls[number].layer
            if layer.declared.function == "softmax":
                function, values = "softmax", layer.input_place.view(self._kept[number][0]).astype(np.float64)
            else:
                values = reference.reference(layer, _data(layer, values))
            layout = layer.output_layout
        if function == "softmax":
            axis = _axis(values.shape, 3 if layout == "NHWC" else 1, port.shape)
        return End(values.reshape(port.shape), float(np.sqrt(np.mean(z.scale**2))), function, axis)

    def _integer_end(self, tail: list[int], port, data: np.ndarray, operands: dict) -> End:
        """The end of an integer network: the result of its last layers, in floats, before a last softmax."""
        first, function, axis = self._calls[tail[0]].layer, "none", -1
        if first.body is None:
            values = integers.run(first, data, **operands)
        else:
            values = reference.reference(first, data, **operands).astype(first.output_dtype)
        for number in tail[1:]:
            call = self._calls[number]
            values = _data(call.layer, values)
            if call.layer.declared.function == "softmax":
                function, axis = "softmax", _axis(values.shape, 3, port.shape)
            elif function == "softmax":  # later layers copy probabilities; the logits come before these
                break
            elif reference.integral(call.layer):
                values = integers.run(call.layer, values, dict(call.constants))
            else:
                values = reference.reference(call.layer, values)
        values = (port.real(values) if values.dtype == port.dtype else values).astype(np.float64)
        return End(values.reshape(port.shape), deviation_of(values), function, axis)


def _data(layer: Layer, values: np.ndarray) -> np.ndarray:
    """The part of the previous layer's output that a layer reads: all of it, or a slice."""
    if layer.body is not None:
        return values.reshape(layer.body.operands[0])
    if values.size == math.prod(layer.input_shape):
        return values.reshape(layer.input_shape)
    return layer.input_place.view(np.ascontiguousarray(values).reshape(layer.input_buffer))


def _moves(layer: Layer) -> bool:
    """Whether a resize, or a layer without a schedule, only moves values of one tensor."""
    body = layer.body
    if body is None:
        return bool(layer.size) and layer.declared.moves(layer)
    return body.narrow is not None and len(body.operands) == 1 and not reference.whole(layer)


def _axis(shape: tuple[int, ...], axis: int, to: tuple[int, ...]) -> int:
    """The place of an axis after a reshape that only adds or drops axes of size one; the last axis if that is
    unclear.
    """
    kept = [i for i, size in enumerate(shape) if size > 1 or i == axis]
    order = [i for i, size in enumerate(to) if size > 1]
    sizes = [shape[i] for i in kept if shape[i] > 1]
    if shape[axis] > 1 and [to[i] for i in order] == sizes:
        return order[[i for i in kept if shape[i] > 1].index(axis)]
    return len(to) - 1


@dataclass(frozen=True)
class OutputCheck:
    """One output over all inputs, against the model's framework.

    Attributes
    ----------
    relative : float
        The largest difference over the scale of the last sum, before a last softmax or activation if there is one.
    tolerance : float
        The tolerance of ``relative``.
    constant : bool
        Whether the framework gives the same output for every input, so that the comparison shows little.
    unit : float
        The unit of the output itself: a difference of up to ``tolerance * unit`` in one of its values may be right.
    decides : bool
        False for an integer network, where the comparison with a float32 framework only measures the effect of
        quantization. There the machine code must equal the definition of its layers (`machine_check`).
    amplified : float
        The framework's own difference to float64, as ``relative``, if that explains a difference beyond the usual
        tolerance (`checking.amplified`); else 0.
    """

    name: str
    max_difference: float
    mean_difference: float
    relative: float
    cosine: float
    top1: float
    top5: float
    tolerance: float
    constant: bool = False
    unit: float = 1.0
    decides: bool = True
    amplified: float = 0.0

    @property
    def ok(self) -> bool:
        return self.relative <= self.tolerance or not self.decides

    @property
    def collapsed(self) -> bool:
        """Whether quantization destroyed the output: the code is right, but the network no longer computes a similar
        result.
        """
        return not self.decides and self.cosine < tolerance.COLLAPSED


def movement(values: list[np.ndarray]) -> float:
    """The largest difference of any element between inputs; values that are not finite count as changed."""
    with np.errstate(invalid="ignore"):
        most = float(np.ptp(np.stack(values).astype(np.float64), axis=0).max(initial=0.0))
    return most if math.isfinite(most) else math.inf


def check_output(
    name: str,
    found: list[np.ndarray],
    expected: list[np.ndarray],
    layers: int,
    ends: list[End | None],
    before: list[np.ndarray | None],
    dtype: str = tolerance.FRAMEWORK,
    steps: tuple[float, float] = (0.0, 0.0),
) -> OutputCheck:
    """Compare one output over all inputs.

    Parameters
    ----------
    found : list of ndarray
        The machine code's output for each input.
    expected : list of ndarray
        The framework's output for the same inputs and for more, which show whether the output depends on its input.
    layers : int
        The number of the network's layers, whose rounding adds up.
    ends : list of network_ends.End or None
        The machine code's values before a last softmax or activation.
    before : list of ndarray or None
        The framework's values there, for each of ``expected``.
    dtype : str
        The dtype of the layers.
    steps : (float, float)
        The step to which a file rounds the output, and that of the values before: two of them are tolerated.
    """
    limit = output_tolerance(dtype, layers)
    count = len(found)
    f, every = np.stack(found).astype(np.float64), np.stack(expected).astype(np.float64)
    e, z = every[:count], None
    known = all(end and np.isfinite(end.before).all() for end in ends)  # a mask puts infinities before a softmax
    if known and all(b is not None for b in before):
        z = _before(ends[0], np.stack(before).astype(np.float64), every, limit)
    own = np.stack([end.before for end in ends]) if known else f
    telling = every if z is None else z
    values = own if z is None else z[:count]
    scale = float(np.sqrt(np.mean([end.scale**2 for end in ends]))) if known else float(values.std())
    unit = tolerance.unit(values, scale)
    if values.std() > unit:  # biases are far apart, and inputs do not change them
        unit = np.maximum(unit, min(float(values.std()), movement(list(values))))
    allowed = limit * unit + 4 * tolerance.ROUNDING * np.abs(values) + 2 * steps[z is not None]
    difference = 0.0 if z is None else relative(own, z[:count], allowed)
    if known and ends[0].function != "none":
        axis = ends[0].axis + (ends[0].axis >= 0)
        due = tolerance.carried(ends[0].function, values, allowed, axis, framework=True)
    else:
        due = limit * unit + 4 * tolerance.ROUNDING * np.abs(e)
    due = due + 2 * steps[0]
    difference = max(difference, relative(f, e, due))
    changes = np.ptp(telling, axis=0)
    rounds = output_tolerance(tolerance.FRAMEWORK, layers) / limit  # the framework's outputs move, in whichever dtype
    constant = bool(np.all(changes <= 4 * rounds * (due if z is None else allowed).max(0)))
    off = np.abs(f - e)
    flat_f, flat_e = f.reshape(len(f), -1), e.reshape(len(e), -1)
    norm = np.linalg.norm(flat_f) * np.linalg.norm(flat_e)
    best_f, best_e = np.argsort(-flat_f, 1), np.argsort(-flat_e, 1)
    top5 = np.mean([len(set(a[:5]) & set(b[:5])) / min(5, len(a)) for a, b in zip(best_f, best_e, strict=True)])
    return OutputCheck(
        name,
        float(off.max()),
        float(off.mean()),
        limit * difference,
        float((flat_f * flat_e).sum() / norm) if norm else 1.0,
        float(np.mean(best_f[:, 0] == best_e[:, 0])),
        float(top5),
        limit,
        constant,
        float(due.max()) / limit,
        not dtypes.of(dtype).integer,
    )


def _before(end: End, z: np.ndarray, e: np.ndarray, limit: float) -> np.ndarray | None:
    """The framework's values before the last function, if that function is the one of the machine code."""
    function, axis = end.function, end.axis + (end.axis >= 0)
    if function == "none" or z.shape != e.shape:
        return None
    for candidate in (z, 6 * z - 3) if function == "hardsigmoid" else (z,):  # or written as clip(x / 6 + 1/2, 0, 1)
        near = np.full(z.shape, limit * (float(candidate.std()) or 1.0))
        close = tolerance.carried(function, candidate, near, axis, framework=True)
        if relative(e, reference.apply(function, candidate, axis), close) <= 1:
            return candidate
    return None
