"""What a network sums last, before a softmax or an activation that hides differences, in the machine code's own run.

Probabilities of 0.99999 and of 1.0 are nearly the same number; the logits behind them are not. While a plan runs,
`Ends` takes from memory what each output's last layers get: so the value before the last function, and the scale of its
sum (`checking.tolerance`). `check_output` compares both with the model's own framework.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.boards.comparison import deviation_of, relative
from tvm_mobilenet.checking import integers, reference, tolerance
from tvm_mobilenet.layer import Layer

OUTPUT_TOLERANCE = 1e-4  # times the square root of the number of layers: rounding adds up like a random walk
# The same of a dtype whose sums round as they go, in roundings of a value. Measured (benchmarks/half_precision.py): of
# float16 at most 298, in v1 with seeded weights, 20 to 72 in others and in trained ones. Unrelated outputs differ by 4
# standard deviations and more; this is 1.3 to 2.1 of them for the layers of v1 to v3.
FUSED_ROUNDINGS = 512


def output_tolerance(dtype: str, layers: int) -> float:
    """What outputs of a network of so many layers, most of them of a dtype, may differ from a framework's in float32,
    of the scale of their last sums."""
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
        Of the last sum.
    function : str
        What is applied to it: an activation, ``softmax`` or ``none``.
    axis : int
        Of a softmax, in the output's shape.
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
        As the plan runs them.
    """

    def __init__(self, calls: list, signature):
        self._calls, self._ports = calls, signature.outputs
        self._makers = {call.output: i for i, call in enumerate(calls)}
        self._tails = [self._tail(port.value) for port in self._ports]
        self._kept: dict[int, tuple] = {}

    def _tail(self, value: str) -> list[int]:
        """The calls from the last sum to an output, by number: a copy or a softmax is none, nor is what moves values
        to other places (a transposed convolution's pixels), unless a softmax stands before it."""
        tail, moved = [], False
        while value in self._makers:
            call = self._calls[self._makers[value]]
            layer = call.layer
            if moved and layer.declared.function == "softmax":  # whose axis is another one now
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
        """Keep what a call got, if it is one of the last."""
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
        function = "none" if last.residual == "after" else reference.final_function(first.layer)
        values = z.values
        if last.residual == "after":
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
        """Of integers: what the last layers make of it, in floats, before a last softmax."""
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
            elif function == "softmax":  # what follows copies probabilities; these stand before them
                break
            elif reference.integral(call.layer):
                values = integers.run(call.layer, values, dict(call.constants))
            else:
                values = reference.reference(call.layer, values)
        values = (port.real(values) if values.dtype == port.dtype else values).astype(np.float64)
        return End(values.reshape(port.shape), deviation_of(values), function, axis)


def _data(layer: Layer, values: np.ndarray) -> np.ndarray:
    """What a layer reads of the values that the layer before it made: all of them, or the slice that lies there."""
    if layer.body is not None:
        return values.reshape(layer.body.operands[0])
    if values.size == math.prod(layer.input_shape):
        return values.reshape(layer.input_shape)
    return layer.input_place.view(np.ascontiguousarray(values).reshape(layer.input_buffer))


def _moves(layer: Layer) -> bool:
    """Whether a layer without a schedule gives the floats of one tensor at other places."""
    body = layer.body
    return body is not None and body.narrow is not None and len(body.operands) == 1 and not reference.whole(layer)


def _axis(shape: tuple[int, ...], axis: int, to: tuple[int, ...]) -> int:
    """Where an axis is after a reshape that only adds or drops axes of size one; the last when that is unclear."""
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
        The largest difference, of the scale of the last sum, before a last softmax or activation where there is one.
    tolerance : float
        What ``relative`` may be.
    constant : bool
        The framework says the same to every input, so the output shows little.
    unit : float
        Of the output itself: a difference of ``tolerance * unit`` in one of its values may be right, a larger one is
        not.
    decides : bool
        False of a network in integers: the framework in float32 says how much quantizing changes. Whether the machine
        code is right, equality with what its layers compute says (`machine_check`).
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

    @property
    def ok(self) -> bool:
        return self.relative <= self.tolerance or not self.decides

    @property
    def collapsed(self) -> bool:
        """Whether integers leave little of it: the code is right, the network is not what it was."""
        return not self.decides and self.cosine < tolerance.COLLAPSED


def movement(values: list[np.ndarray]) -> float:
    """The most that any element differs between inputs; values that are not finite move."""
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
) -> OutputCheck:
    """Compare one output over all inputs.

    Parameters
    ----------
    found : list of ndarray
        Of the machine code, for each input.
    expected : list of ndarray
        Of the framework, for the same inputs and for more, which tell whether the output depends on its input.
    layers : int
        Of the network, whose rounding adds up.
    ends : list of network_ends.End or None
        What the machine code had before a last softmax or activation.
    before : list of ndarray or None
        What the framework had there, for each of ``expected``.
    dtype : str
        In which the layers compute.
    """
    limit = output_tolerance(dtype, layers)
    count = len(found)
    f, every = np.stack(found).astype(np.float64), np.stack(expected).astype(np.float64)
    e, z = every[:count], None
    known = all(ends)
    if known and all(b is not None for b in before):
        z = _before(ends[0], np.stack(before).astype(np.float64), every, limit)
    own = np.stack([end.before for end in ends]) if known else f
    telling = every if z is None else z
    values = own if z is None else z[:count]
    scale = float(np.sqrt(np.mean([end.scale**2 for end in ends]))) if known else float(values.std())
    unit = tolerance.unit(values, scale)
    if values.std() > unit:  # biases far apart: neither they nor the sum alone are what inputs change
        unit = np.maximum(unit, min(float(values.std()), movement(list(values))))
    allowed = limit * unit + 4 * tolerance.ROUNDING * np.abs(values)
    difference = 0.0 if z is None else relative(own, z[:count], allowed)
    if known and ends[0].function != "none":
        axis = ends[0].axis + (ends[0].axis >= 0)
        due = tolerance.carried(ends[0].function, values, allowed, axis, framework=True)
    else:
        due = limit * unit + 4 * tolerance.ROUNDING * np.abs(e)
    difference = max(difference, relative(f, e, due))
    changes = np.ptp(telling, axis=0)
    rounds = output_tolerance(tolerance.FRAMEWORK, layers) / limit  # whatever the dtype, the framework's outputs move
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
    for candidate in (z, 6 * z - 3) if function == "hardsigmoid" else (z,):  # or spelled clip(x / 6 + 1/2, 0, 1)
        near = np.full(z.shape, limit * (float(candidate.std()) or 1.0))
        close = tolerance.carried(function, candidate, near, axis, framework=True)
        if relative(e, reference.apply(function, candidate, axis), close) <= 1:
            return candidate
    return None
