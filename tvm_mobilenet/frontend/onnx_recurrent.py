"""ONNX's recurrent layers, written out step by step: LSTM, GRU and RNN, as heads that read text have them.

The products of all steps with the data are one matrix product. Each step then has one product with its state, and
arithmetic on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend.onnx_arguments import array_of, is_empty, text

op = relax.op
_OPERATORS_OF_A_STEP = 20
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_FUNCTIONS = {"sigmoid": op.sigmoid, "tanh": op.tanh, "relu": op.nn.relu}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}


def recurrent(kind: str) -> Callable:
    """The converter of a kind of layer."""

    def convert(bb, inputs, attrs, otherwise):
        x, weight, state_weight, bias, lengths, *state, peep = (*inputs, *[None] * (8 - len(inputs)))[:8]
        batch_first = bool(attrs.get("layout", 0))
        if batch_first:
            x, *state = (one if _left_out(one) else bb.emit(op.permute_dims(one, (1, 0, 2))) for one in (x, *state))
        ways = {"forward": [1], "reverse": [-1], "bidirectional": [1, -1]}[text(attrs.get("direction", "forward"))]
        steps, batch, _ = (int(d) for d in x.ty.shape)
        _check(kind, attrs, lengths, steps, len(ways))
        count, hidden = _GATES[kind], int(state_weight.ty.shape[2])
        w, r = array_of(weight), array_of(state_weight)
        b = np.zeros((len(ways), 2 * count * hidden), w.dtype) if _left_out(bias) else array_of(bias)
        flat = bb.emit(op.reshape(x, (steps * batch, int(x.ty.shape[2]))))
        sides = []
        for way, step in enumerate(ways):
            of_data, of_state = b[way][: count * hidden], b[way][count * hidden :]
            product = bb.emit(op.matmul(flat, relax.const(w[way].T.copy())))
            data = bb.emit(op.reshape(bb.emit(op.add(product, relax.const(of_data))), (steps, batch, count * hidden)))
            states = [_first(bb, given, way, (batch, hidden), str(w.dtype)) for given in state]
            cell = _Cell(
                bb,
                hidden,
                relax.const(r[way].T.copy()),
                relax.const(of_state),
                bool(attrs.get("linear_before_reset", 0)),
                bool(attrs.get("input_forget", 0)),
                float(attrs.get("clip", 0.0)),
                None if _left_out(peep) else array_of(peep)[way],
                _activations(kind, attrs, way),
            )
            found: dict[int, relax.Expr] = {}
            for t in range(steps)[::step]:
                row = bb.emit(op.reshape(bb.emit(op.strided_slice(data, [0], [t], [t + 1])), (batch, count * hidden)))
                states = getattr(cell, kind)(row, *states)
                found[t] = states[0]
            sides.append(([found[t] for t in range(steps)], states))
        shape = (1, 1, batch, hidden)
        rows = [_joined(bb, [h[t] for h, _ in sides], shape, 1) for t in range(steps)]
        last = [_joined(bb, [states[i] for _, states in sides], shape[1:], 0) for i in range(_STATES[kind])]
        made = [_concat(bb, rows, 0), *last]
        if batch_first:
            orders = ((2, 0, 1, 3), *[(1, 0, 2)] * len(last))
            made = [bb.emit(op.permute_dims(one, order)) for one, order in zip(made, orders, strict=True)]
        return relax.Tuple(made)

    return convert


class _Cell:
    """One step of each kind: its method takes the product of the data, and the states before, and gives those after."""

    def __init__(self, bb, hidden, weight, bias, linear_before_reset, coupled, clip, peepholes, activations):
        self.bb, self.hidden, self.weight, self.bias = bb, hidden, weight, bias
        self.linear, self.coupled, self.clip, self.peepholes = linear_before_reset, coupled, clip, peepholes
        self.of_gates, self.of_new, self.of_cell = (*activations, *activations[-1:] * 2)[:3]

    def LSTM(self, data, h, c):
        i, o, f, new = self._gates(self._e(op.add(data, self._of_state(h))), 4)
        i, new = self._gate(self._seen(i, c, 0)), self._new(new)
        kept = op.subtract(relax.const(1.0, str(i.ty.dtype)), i) if self.coupled else None
        f = self._gate(self._seen(f, c, 2)) if kept is None else self._e(kept)
        c = self._e(op.add(self._e(op.multiply(f, c)), self._e(op.multiply(i, new))))
        return self._e(op.multiply(self._gate(self._seen(o, c, 1)), self._e(self.of_cell(c)))), c

    def GRU(self, data, h, unused):
        z_data, r_data, h_data = self._gates(data, 3)
        z, r, new = self._gates(self._of_state(h), 3)
        z, r = (self._gate(self._e(op.add(a, b))) for a, b in ((z_data, z), (r_data, r)))
        if self.linear:
            new = self._e(op.multiply(r, new))
        else:
            size = self.hidden
            weight, bias = (
                relax.const(np.ascontiguousarray(a.value.numpy()[..., 2 * size :])) for a in (self.weight, self.bias)
            )
            new = self._e(op.add(self._e(op.matmul(self._e(op.multiply(r, h)), weight)), bias))
        new = self._new(self._e(op.add(h_data, new)))
        apart = self._e(op.multiply(z, self._e(op.subtract(h, new))))  # z * h + (1 - z) * new
        return self._e(op.add(new, apart)), unused

    def RNN(self, data, h, unused):
        return self._new(self._e(op.add(data, self._of_state(h)))), unused

    def _e(self, expr: relax.Expr) -> relax.Expr:
        return self.bb.emit(expr)

    def _gate(self, x: relax.Expr) -> relax.Expr:
        return self._e(self.of_gates(self._clipped(x)))

    def _new(self, x: relax.Expr) -> relax.Expr:
        return self._e(self.of_new(self._clipped(x)))

    def _clipped(self, x: relax.Expr) -> relax.Expr:
        return self._e(op.clip(x, -self.clip, self.clip)) if self.clip else x

    def _seen(self, gate: relax.Expr, c: relax.Expr, place: int) -> relax.Expr:
        """A gate that also sees the cell, if the layer has peepholes."""
        if self.peepholes is None:
            return gate
        share = relax.const(self.peepholes[place * self.hidden : (place + 1) * self.hidden].copy())
        return self._e(op.add(gate, self._e(op.multiply(c, share))))

    def _of_state(self, h: relax.Expr) -> relax.Expr:
        return self._e(op.add(self._e(op.matmul(h, self.weight)), self.bias))

    def _gates(self, x: relax.Expr, count: int) -> list[relax.Expr]:
        size = self.hidden
        return [self._e(op.strided_slice(x, [1], [i * size], [(i + 1) * size])) for i in range(count)]


def _check(kind: str, attrs, lengths, steps: int, ways: int) -> None:
    """Refuse forms that are not written out; the ValueError gives the reason."""
    if not _left_out(lengths) and not (isinstance(lengths, tvm.ir.Constant) and (array_of(lengths) == steps).all()):
        raise ValueError("the lengths of its sequences depend on data; export it for sequences of one length")
    if steps * ways * _OPERATORS_OF_A_STEP > limits.MOST_NODES:
        raise ValueError(f"its {steps} steps, written out, are more operators than a network has")


def _activations(kind: str, attrs, way: int) -> list[Callable]:
    """The functions of a direction: of gates, of new values and, of an LSTM, of its cell."""
    count = len(_ACTIVATIONS[kind])
    names = [text(a) for a in attrs.get("activations", ())][way * count : (way + 1) * count] or _ACTIVATIONS[kind]
    if odd := [name for name in names if name.lower() not in _FUNCTIONS]:
        raise ValueError(f"its activations are {', '.join(odd)}")
    return [_FUNCTIONS[name.lower()] for name in names]


def _left_out(expr) -> bool:
    return expr is None or is_empty(expr)


def _first(bb, given, way: int, shape: tuple[int, int], dtype: str) -> relax.Expr:
    """The state before the first step."""
    if _left_out(given):
        return relax.const(np.zeros(shape, dtype))
    return bb.emit(op.reshape(bb.emit(op.strided_slice(given, [0], [way], [way + 1])), shape))


def _joined(bb, parts: list[relax.Expr], shape: tuple[int, ...], axis: int) -> relax.Expr:
    return _concat(bb, [bb.emit(op.reshape(part, shape)) for part in parts], axis)


def _concat(bb, parts: list[relax.Expr], axis: int) -> relax.Expr:
    return bb.emit(op.concat(parts, axis)) if len(parts) > 1 else parts[0]


CONVERTERS = {kind: recurrent(kind) for kind in _GATES}
