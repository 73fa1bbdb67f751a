"""PReLU and leaky ReLU that are written with other operators.

TensorFlow 1 has ``relu(x) - slope * relu(-x)``, others ``relu(x) + slope * (x - |x|) / 2``, or a maximum of x and
``slope * x``. Each value of such a pattern is a line in x above zero and another one below zero. `run` computes the two
slopes of each value, and writes a sum, difference, maximum or minimum of two of them as one PReLU of x if its slope
above zero is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.passes.folded_constants import constant
from tvm_mobilenet.passes.rewrite import Rewriter, array, op_name, scalar, static_shape

_JOINS = ("add", "subtract", "maximum", "minimum")
_ROUNDING = 1e-6  # the relative error of a slope that several roundings to float32 made


def chosen_by_sign(within: Rewriter, positive: relax.Expr, x: relax.Expr, otherwise: relax.Expr) -> relax.Call | None:
    """PReLU, which PyTorch's decompositions write as ``where(x > 0, x, x * slope)``."""
    compared = within.made_by(positive, "greater", "greater_equal")
    scaled = within.made_by(otherwise, "multiply")
    if compared is None or scaled is None or not compared.args[0].same_as(x) or scalar(compared.args[1]) != 0:
        return None
    slope, shape = array(scaled.args[1]), static_shape(x, within.where)
    if slope is None or not scaled.args[0].same_as(x) or slope.ndim > len(shape):
        return None
    if slope.size == 1:
        return relax.op.nn.leakyrelu(x, float(slope.reshape(())))
    slope = slope.reshape((1,) * (len(shape) - slope.ndim) + slope.shape)
    axes = [i for i, size in enumerate(slope.shape) if size > 1]
    if len(axes) > 1 or slope.shape[axes[0]] != shape[axes[0]]:
        return None
    return relax.op.nn.prelu(x, constant(slope.reshape(-1)), axes[0])


@dataclass(frozen=True)
class _Lines:
    """A value that is ``above * x`` where x is positive and ``below * x`` elsewhere; the slopes broadcast to x."""

    x: relax.Expr
    above: np.ndarray
    below: np.ndarray


class Kinks(Rewriter):
    """The pass of this module; it runs after `simplify`."""

    def __init__(self, mod: tvm.IRModule):
        super().__init__(mod)
        self._lines: dict[relax.Expr, _Lines] = {}
        self.found = False

    def rewrite(self, value: relax.Expr) -> relax.Expr:
        lines = self._of_call(value)
        if lines is None:
            return value
        made = self._activation(value, lines) if op_name(value) in _JOINS else None
        if made is not None:
            self.found = True
            return made
        var = self.emit(value)
        self._lines[var] = lines
        return var

    def _of(self, expr: relax.Expr) -> _Lines:
        return self._lines.get(expr) or _Lines(expr, np.ones(()), np.ones(()))

    def _of_call(self, call: relax.Expr) -> _Lines | None:
        """The lines of a call's result; None if it is not made of lines."""
        name = op_name(call)
        if name in _JOINS and array(call.args[0]) is None and array(call.args[1]) is None:
            return self._joined(name, *map(self._of, call.args))
        if name not in ("nn.relu", "negative", "abs", "clip", "multiply", "subtract", "nn.leakyrelu"):
            return None
        x = call.args[name == "subtract"]
        if not isinstance(x, relax.Var) or str(x.ty.dtype) != "float32":
            return None
        if name == "subtract":  # of zero
            zero, one = array(call.args[0]), self._of(x)
            same = static_shape(x) == static_shape(self._bb.normalize(call))
            return _Lines(one.x, -one.above, -one.below) if zero is not None and same and not zero.any() else None
        one = self._of(x)
        if name == "multiply":
            factor = array(call.args[1])
            if factor is None or static_shape(x) != static_shape(self._bb.normalize(call)):
                return None
            factor = factor.astype(np.float64)
            return _Lines(one.x, one.above * factor, one.below * factor)
        if name == "negative":
            return _Lines(one.x, -one.above, -one.below)
        if name == "clip":  # to values below zero
            if [float(bound.value) for bound in call.args[1:]] != [-np.inf, 0.0]:
                return None
            return _Lines(one.x, np.minimum(one.above, 0), np.maximum(one.below, 0))
        slope = {"nn.relu": 0.0, "abs": -1.0}.get(name)
        slope = float(call.attrs.alpha) if slope is None else slope
        return _Lines(
            one.x, np.where(one.above < 0, slope, 1) * one.above, np.where(one.below > 0, slope, 1) * one.below
        )

    def _joined(self, name: str, a: _Lines, b: _Lines) -> _Lines | None:
        if not a.x.same_as(b.x):
            return None
        above, below = {
            "add": (np.add, np.add),
            "subtract": (np.subtract, np.subtract),
            "maximum": (np.maximum, np.minimum),
            "minimum": (np.minimum, np.maximum),
        }[name]
        return _Lines(a.x, above(a.above, b.above), below(a.below, b.below))

    def _activation(self, call: relax.Call, lines: _Lines) -> relax.Expr | None:
        """The lines as one operator; None if no activation has them."""
        x, shape = lines.x, static_shape(lines.x)
        if shape != static_shape(self._bb.normalize(call)) or not np.allclose(lines.above, 1, _ROUNDING, _ROUNDING):
            return None
        below = lines.below.astype(np.float32)
        if not np.isfinite(below).all():
            return None
        if (below == below.flat[0]).all():
            slope = float(below.flat[0])
            return {0.0: relax.op.nn.relu(x), 1.0: x}.get(slope, relax.op.nn.leakyrelu(x, slope))
        axes = [i for i, size in enumerate(below.shape, len(shape) - below.ndim) if size > 1]
        if len(axes) != 1 or below.size != shape[axes[0]]:
            return None
        return relax.op.nn.prelu(x, constant(below.reshape(-1)), axes[0])


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """The module with its PReLUs in one operator each; the same module if it has none that are written otherwise."""
    kinks = Kinks(mod)
    made = kinks.run()
    return made if kinks.found else mod
