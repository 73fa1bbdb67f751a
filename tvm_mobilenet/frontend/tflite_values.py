"""Values of a TFLite graph during its conversion to Relax: feature maps in two orders, constants, integers.

TFLite lays feature maps out NHWC; Relax's convolutions and pools here are NCHW. A value is kept in the order in which
it was made, and permuted for readers of the other order; for the passes, permutes are only bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvm_mobilenet.frontend.positions import along
from tvm_mobilenet.frontend.scales import checked
from tvm_mobilenet.frontend.tflite_graph import Operator
from tvm_mobilenet.frontend.tflite_tensors import Scales

INTEGERS = ("int8", "uint8", "int16", "int32", "int64")  # that represent real values
TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


@dataclass
class Value:
    """A tensor of the graph.

    Attributes
    ----------
    own : relax.Var or None
        The value in TFLite's order of dimensions.
    nchw : relax.Var or None
        The value of a feature map in NCHW.
    known : ndarray or None
        The value of a constant; with scales, its integers.
    scales : Scales or None
        Of integers.
    imaginary : relax.Var or None
        Of a complex value, whose real part is in ``own``.
    resource : str
        The name of a variable for which the value stands.
    place : str
    """

    own: relax.Var | None = None
    nchw: relax.Var | None = None
    known: np.ndarray | None = None
    scales: Scales | None = None
    imaginary: relax.Var | None = None
    resource: str = ""
    place: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in TFLite's order."""
        if self.known is not None:
            return self.known.shape
        if self.own is not None:
            return tuple(int(d) for d in self.own.ty.shape)
        return tuple(int(self.nchw.ty.shape[i]) for i in TO_NHWC)

    @property
    def dtype(self) -> str:
        held = self.own if self.own is not None else self.nchw
        return str(held.ty.dtype) if self.known is None else self.known.dtype.name

    @property
    def real(self) -> np.ndarray:
        """The real values of a constant: float32 if it has a scale or is float16, else itself."""
        if self.scales is None:
            return self.known.astype(np.float32) if self.known.dtype == np.float16 else self.known
        scale, zero, axis = self.step(self.place)
        side = along(axis, self.known.ndim) if scale.ndim else []
        return ((self.known.astype(np.int64) - zero.reshape(side)) * scale.reshape(side)).astype(np.float32)

    def step(self, where: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Scale, zero point and axis, checked."""
        given = self.scales
        return checked(where, self.shape, given.scale, given.zero, given.axis, self.dtype, INTEGERS)


class Call:
    """One operator with its operands in Relax, the argument of ``make`` in `tflite_operators`.

    Parameters
    ----------
    bb : relax.BlockBuilder
    operator : Operator
    values : list of Value or None
        Its operands; None for one that is left out.
    size : tuple of int
        The shape that the file has for its first output.
    dtype : str
        The dtype of that output. Converters leave the one in the options of a CAST unset.
    run : callable
        ``run(graph, values)``: the outputs of another graph, whose operators become part of this one.
    variables : dict of str to Value
        Values of the variables of the file.
    bytes : bool
        Whether it computes in bytes: their scales are kept. Else all values are real ones.
    """

    def __init__(
        self,
        bb: relax.BlockBuilder,
        operator: Operator,
        values: list[Value | None],
        size: tuple[int, ...],
        dtype: str,
        run: Callable,
        variables: dict[str, Value],
        bytes: bool,
    ):
        self.bb, self.operator, self.options, self.values = bb, operator, operator.options, values
        self.size, self.dtype, self.run, self.variables, self.bytes = size, dtype, run, variables, bytes

    def known_dtype(self) -> str:
        """The dtype of the first output; a ValueError if layers do not have it."""
        if self.dtype not in ("float32", "int8", "uint8", "int16", "int32", "int64", "bool"):
            raise ValueError(f"numbers in {self.dtype}")
        return self.dtype

    @property
    def where(self) -> str:
        return f"{self.operator.name} at {self.operator.place}"

    def has(self, i: int) -> bool:
        """Whether an operand is present."""
        return i < len(self.values) and self.values[i] is not None

    def value(self, i: int) -> Value:
        """An operand; a ValueError if it is left out."""
        if not self.has(i):
            raise ValueError(f"it lacks operand {i}")
        return self.values[i]

    def emit(self, expr: relax.Expr) -> relax.Var:
        return self.bb.emit(expr)

    def array(self, i: int) -> np.ndarray:
        """The real values of a constant; a ValueError if the operand is not constant."""
        value = self.value(i)
        if value.known is None:
            raise ValueError(f"its operand {value.place} is computed, not stored")
        return value.real

    def numbers(self, i: int) -> list[int]:
        """A constant of integers, as a flat list."""
        return [int(n) for n in self.array(i).reshape(-1)]

    def shape(self, i: int) -> tuple[int, ...]:
        return self.value(i).shape

    def own(self, i: int) -> relax.Expr:
        """In TFLite's order."""
        value = self.value(i)
        if value.known is not None:
            return self._constant(value, value.shape, range(len(value.shape)))
        if value.own is None:
            value.own = self.emit(relax.op.permute_dims(value.nchw, TO_NHWC))
        return value.own

    def nchw(self, i: int) -> relax.Expr:
        """A feature map in NCHW, or a constant that is broadcast to one."""
        value = self.value(i)
        if value.known is not None:
            shape = value.shape and (1,) * (4 - len(value.shape)) + value.shape
            return self._constant(value, shape, TO_NCHW[: len(shape)])
        if value.nchw is None:
            if len(value.shape) != 4:
                raise ValueError(f"its operand {value.place} of the shape {list(value.shape)} is not a feature map")
            value.nchw = self.emit(relax.op.permute_dims(value.own, TO_NCHW))
        return value.nchw

    def _constant(self, value: Value, shape: tuple[int, ...], order) -> relax.Expr:
        """A constant in another shape and order; for integers with one scale, a ``dequantize`` of them."""
        if not self.bytes or value.scales is None or value.known.dtype.itemsize > 1 or value.scales.scale.size > 1:
            moved = np.asarray(value.real.reshape(shape).transpose(list(order)), order="C")
            return relax.const(moved, str(moved.dtype))
        scale, zero, _ = value.step(f"{self.where}: the constant")
        whole = np.asarray(value.known.reshape(shape).transpose(list(order)), order="C")
        given = relax.const(scale.astype(np.float32)), relax.const(zero.astype(whole.dtype))
        return self.emit(relax.op.dequantize(relax.const(whole, whole.dtype.name), *given))

    def moved(self, i: int, order: tuple[int, ...], shape: tuple[int, ...]) -> relax.Expr:
        """An operand with its dimensions in another order, and then another shape."""
        value = self.value(i)
        if value.known is not None:
            moved = np.ascontiguousarray(value.real.transpose(order).reshape(shape))
            return relax.const(moved, str(moved.dtype))
        x = self.own(i)
        x = x if list(order) == sorted(order) else self.emit(relax.op.permute_dims(x, list(order)))
        return x if tuple(shape) == tuple(value.shape[a] for a in order) else self.emit(relax.op.reshape(x, shape))

    def weight(self, i: int, order: tuple[int, ...]) -> relax.Expr:
        """A weight with its dimensions in another order; for stored integers, a ``dequantize`` of them."""
        value = self.value(i)
        if value.known is None:
            return self.emit(relax.op.permute_dims(self.own(i), order))
        if not self.bytes or value.scales is None or value.known.dtype == np.float16:
            return relax.const(np.ascontiguousarray(value.real.transpose(order)), "float32")
        scale, zero, axis = value.step(f"{self.where}: the weight")
        whole = np.ascontiguousarray(value.known.transpose(order))
        given = relax.const(scale.astype(np.float32)), relax.const(zero.astype(whole.dtype))
        axis = order.index(axis) if scale.ndim else 0
        return self.emit(relax.op.dequantize(relax.const(whole, whole.dtype.name), *given, axis=axis))

    def biases(self, i: int, data: int, weight: int) -> np.ndarray | None:
        """The biases (n,) of a layer in float32; integers are in units of data and weight, as TFLite adds them."""
        if not self.has(i):
            return None
        value = self.value(i)
        if value.known is None:
            raise ValueError(f"its bias {value.place} is computed, not stored")
        if value.dtype not in ("int32", "int64"):
            return value.real.reshape(-1)
        given = self.value(data).scales
        if given is None or self.value(weight).scales is None:
            raise ValueError("a bias of integers beside data in float32")
        steps, _, _ = self.value(weight).step(f"{self.where}: the weight")
        return (value.known.reshape(-1) * (float(given.scale.reshape(-1)[0]) * steps)).astype(np.float32)
