"""TFLite's recurrent layers over whole sequences, written out step by step.

Each run begins with states of zeros, as Keras defines its layers; LiteRT keeps them from one run to the next unless a
program resets them. The products of all steps with the data are one matrix product. Definitions: TFLite's
``lstm_eval.cc`` and ``unidirectional_sequence_rnn.cc``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend.tflite_elementwise import ACTIVATIONS
from tvm_mobilenet.frontend.tflite_values import Call, Value

op = relax.op
_OPERATORS_OF_A_STEP = 30
_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class _Places:
    """The numbers of an LSTM's operands; of four, those of the gates in order."""

    of_data: tuple[int, ...]
    of_state: tuple[int, ...]
    of_cell: tuple[int, ...]
    bias: tuple[int, ...]
    projection: tuple[int, int]
    states: tuple[int, int]
    norms: tuple[int, ...] = ()


def _places(first: int, states: int, norms: int = 0) -> _Places:
    four = [tuple(range(first + i, first + i + 4)) for i in (0, 4)]
    cell = (first + 8, first + 9, -1, first + 10)  # the new values do not see the cell
    bias = tuple(range(first + 11, first + 15))
    return _Places(
        *four,
        cell,
        bias,
        (first + 15, first + 16),
        (states, states + 1),
        tuple(range(norms, norms + 4)) if norms else (),
    )


def lstm(call: Call) -> Value:
    """UNIDIRECTIONAL_SEQUENCE_LSTM."""
    if call.options["diagonal"]:
        raise ValueError("weights of its state that are diagonals")
    rows, steps = _steps(call)
    found = _Lstm(call, _places(1, 18, 20)).run(rows, steps, 1)
    return Value(own=_stacked(call, found))


def two_lstms(call: Call) -> list[Value]:
    """BIDIRECTIONAL_SEQUENCE_LSTM."""
    if any(call.has(i) for i in range(39, len(call.values))):
        raise ValueError("a second input")
    rows, steps = _steps(call)
    sides = [_Lstm(call, place).run(rows, steps, way) for place, way in ((_places(1, 35), 1), (_places(18, 37), -1))]
    return _both(call, sides)


def rnn(call: Call) -> Value:
    """UNIDIRECTIONAL_SEQUENCE_RNN. Operands: data, weights of them and of the state, bias, state."""
    rows, steps = _steps(call)
    return Value(own=_stacked(call, _rnn(call, 1, rows, steps, 1)))


def two_rnns(call: Call) -> list[Value]:
    """BIDIRECTIONAL_SEQUENCE_RNN: the operands of two, behind the data."""
    if any(call.has(i) for i in range(9, len(call.values))):
        raise ValueError("a second input")
    rows, steps = _steps(call)
    return _both(call, [_rnn(call, first, rows, steps, way) for first, way in ((1, 1), (5, -1))])


def _steps(call: Call) -> tuple[relax.Var, int]:
    """The data, one step behind the other (steps * batch, size), and the number of steps."""
    shape = call.shape(0)
    if len(shape) != 3:
        raise ValueError(f"sequences of the shape {list(shape)}")
    x = call.own(0)
    steps, batch = shape[:2] if call.options["time_major"] else shape[1::-1]
    if steps * _OPERATORS_OF_A_STEP > limits.MOST_NODES:
        raise ValueError(f"its {steps} steps, written out, are more operators than a network has")
    if not call.options["time_major"]:
        x = call.emit(op.permute_dims(x, (1, 0, 2)))
    return call.emit(op.reshape(x, (steps * batch, shape[2]))), steps


def _product(call: Call, x: relax.Expr, weight: int) -> relax.Var:
    """A product with a weight (n, k)."""
    return call.emit(op.matmul(x, relax.const(_floats(call, weight).T.copy())))


def _floats(call: Call, i: int) -> np.ndarray:
    value = call.value(i)
    if value.known is None or value.scales is not None:
        raise ValueError(f"its weight {value.place} is no constant of floats")
    return value.real.astype(np.float32)


def _step(call: Call, x: relax.Expr, t: int, steps: int) -> relax.Var:
    rows = int(x.ty.shape[0]) // steps
    return call.emit(op.strided_slice(x, [0], [t * rows], [(t + 1) * rows]))


def _rnn(call: Call, first: int, rows: relax.Expr, steps: int, way: int) -> list[relax.Var]:
    data = _product(call, rows, first)
    if call.has(first + 2):
        data = call.emit(op.add(data, relax.const(_floats(call, first + 2).reshape(1, -1))))
    state, found = call.own(first + 3), {}
    for t in range(steps)[::way]:
        made = call.emit(op.add(_step(call, data, t, steps), _product(call, state, first + 1)))
        found[t] = state = _activated(call, made)
    return [found[t] for t in range(steps)]


def _activated(call: Call, x: relax.Expr) -> relax.Var:
    name = call.options["activation"]
    if name != "NONE" and name not in ACTIVATIONS:
        raise ValueError(f"the activation {name}")
    return x if name == "NONE" else call.emit(ACTIVATIONS[name](call, x))


class _Lstm:
    """One direction of an LSTM."""

    def __init__(self, call: Call, places: _Places):
        self.call, self.at = call, places
        coupled = not call.has(places.of_data[0])
        self.gates = [i for i in range(4) if i or not coupled]

    def run(self, rows: relax.Expr, steps: int, way: int) -> list[relax.Var]:
        """The outputs of all steps."""
        call, at = self.call, self.at
        data = {gate: _product(call, rows, at.of_data[gate]) for gate in self.gates}
        h, c = (call.own(i) for i in at.states)
        found = {}
        for t in range(steps)[::way]:
            here = {gate: _step(call, x, t, steps) for gate, x in data.items()}
            found[t] = h = self._output(here, h, c := self._cell(here, h, c))
        return [found[t] for t in range(steps)]

    def _cell(self, data: dict, h: relax.Expr, c: relax.Expr) -> relax.Var:
        call = self.call
        forget = self._gate(data, 1, h, c)
        rest = relax.const(1.0, "float32")
        share = self._gate(data, 0, h, c) if 0 in data else call.emit(op.subtract(rest, forget))
        new = _activated(call, self._sum(data, 2, h, None))
        c = call.emit(op.add(call.emit(op.multiply(forget, c)), call.emit(op.multiply(share, new))))
        return self._clipped(c, "cell_clip")

    def _output(self, data: dict, h: relax.Expr, c: relax.Expr) -> relax.Var:
        call, (weight, bias) = self.call, self.at.projection
        made = call.emit(op.multiply(self._gate(data, 3, h, c), _activated(call, c)))
        if not call.has(weight):
            return made
        made = _product(call, made, weight)
        if call.has(bias):
            made = call.emit(op.add(made, relax.const(_floats(call, bias).reshape(1, -1))))
        return self._clipped(made, "proj_clip")

    def _gate(self, data: dict, gate: int, h: relax.Expr, c: relax.Expr) -> relax.Var:
        return self.call.emit(op.sigmoid(self._sum(data, gate, h, c)))

    def _sum(self, data: dict, gate: int, h: relax.Expr, c: relax.Expr | None) -> relax.Var:
        """What a gate makes of the data, the state and the cell, before its function."""
        call, at = self.call, self.at
        made = call.emit(op.add(data[gate], _product(call, h, at.of_state[gate])))
        if c is not None and call.has(at.of_cell[gate]):
            share = relax.const(_floats(call, at.of_cell[gate]).reshape(1, -1))
            made = call.emit(op.add(made, call.emit(op.multiply(c, share))))
        if at.norms and call.has(at.norms[gate]):
            made = self._normalized(made, at.norms[gate])
        return call.emit(op.add(made, relax.const(_floats(call, at.bias[gate]).reshape(1, -1))))

    def _normalized(self, x: relax.Expr, scale: int) -> relax.Var:
        call = self.call
        apart = call.emit(op.subtract(x, call.emit(op.mean(x, [-1], keepdims=True))))
        variance = call.emit(op.mean(call.emit(op.multiply(apart, apart)), [-1], keepdims=True))
        root = call.emit(op.sqrt(call.emit(op.add(variance, relax.const(_LEAST_VARIANCE, "float32")))))
        scaled = call.emit(op.divide(apart, root))
        return call.emit(op.multiply(scaled, relax.const(_floats(call, scale).reshape(1, -1))))

    def _clipped(self, x: relax.Expr, name: str) -> relax.Var:
        most = float(self.call.options[name])
        return self.call.emit(op.clip(x, -most, most)) if most > 0 else x


def _stacked(call: Call, found: list[relax.Var]) -> relax.Var:
    """Outputs of steps as one value, in the order of the data."""
    batch, size = (int(d) for d in found[0].ty.shape)
    major = bool(call.options["time_major"])
    shape = (1, batch, size) if major else (batch, 1, size)
    parts = [call.emit(op.reshape(one, shape)) for one in found]
    return call.emit(op.concat(parts, 1 - major)) if len(parts) > 1 else parts[0]


def _both(call: Call, sides: list[list[relax.Var]]) -> list[Value]:
    made = [_stacked(call, side) for side in sides]
    if call.options["merge_outputs"]:
        return [Value(own=call.emit(op.concat(made, 2)))]
    return [Value(own=one) for one in made]


CONVERTERS: dict[str, Callable] = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": lstm,
    "BIDIRECTIONAL_SEQUENCE_LSTM": two_lstms,
    "UNIDIRECTIONAL_SEQUENCE_RNN": rnn,
    "BIDIRECTIONAL_SEQUENCE_RNN": two_rnns,
}
