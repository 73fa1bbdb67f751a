"""Activations by name.

Each exporter writes hard-swish as three to five operators, in its own pattern. `run` finds these patterns and replaces
the last operator by a call of a private function with the attribute ``activation``. It does the same for relu, relu6,
sigmoid and silu, so later passes know a single form of all of them.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.activation import named, parsed
from tvm_mobilenet.passes.rewrite import Rewriter, array, op_name, scalar, static_shape


class Activations(Rewriter):
    """The pass of this module; it runs after `simplify`."""

    def __init__(self, mod: tvm.IRModule):
        super().__init__(mod)
        self._functions: dict[tuple, tvm.ir.GlobalVar] = {}
        self._named: dict[tvm.ir.GlobalVar, str] = {}

    def rewrite(self, value: relax.Expr) -> relax.Expr:
        name = op_name(value)
        if name in ("nn.relu", "clip") and str(value.args[0].ty.dtype) not in dtypes.OF_DATA:  # not of a convolution
            return value
        if name == "nn.relu":
            return self._call("relu", value.args[0])
        if name == "clip":
            return self._clip(value)
        if name in ("sigmoid", "nn.silu"):
            return self._call(name.removeprefix("nn."), value.args[0])
        if name == "multiply":
            return self._multiply(value)
        return value

    def _clip(self, clip: relax.Call) -> relax.Expr:
        x, low, high = clip.args[0], float(clip.args[1].value), float(clip.args[2].value)
        if (low, high) == (0, 6):
            return self._call("relu6", x)
        if (low, high) == (0, np.inf):
            return self._call("relu", x)
        if (low, high) == (0, 1):  # clip(x / 6 + 1/2, 0, 1)
            add = self.made_by(x, "add")
            multiply = None if add is None else self.made_by(add.args[0], "multiply")
            if multiply is not None and _is(add.args[1], 0.5) and _is(multiply.args[1], 1 / 6):
                return self._call("hardsigmoid", multiply.args[0])
        return clip

    def _multiply(self, call: relax.Call) -> relax.Expr:
        a, b = call.args
        if _is(b, 1 / 6):
            gated = self._relu6_of_3_plus(a)  # relu6(x + 3) / 6
            if gated is not None:
                return self._call("hardsigmoid", gated)
            product = self.made_by(a, "multiply")  # x * relu6(x + 3) / 6
            if product is not None:
                for x, gate in (product.args, product.args[::-1]):
                    if _same(self._relu6_of_3_plus(gate), x):
                        return self._call("hardswish", x)
            biased = self._biased(a)
            if biased is not None:
                return self._call("hardsigmoid", biased)
        for x, gate in ((a, b), (b, a)):
            line = self._clamped_line(gate)
            if line is not None and _same(line[0], x):
                return self._call(named("hardswish", *line[1:]), x)
            kind, inner = self._activation(gate)
            if kind in ("hardsigmoid", "sigmoid") and _same(inner, x):
                return self._call({"hardsigmoid": "hardswish", "sigmoid": "silu"}[kind], x)
            # (x / 6) * relu6(x + 3)
            scaled = self.made_by(x, "multiply")
            if scaled is not None and _is(scaled.args[1], 1 / 6) and _same(self._relu6_of_3_plus(gate), scaled.args[0]):
                return self._call("hardswish", scaled.args[0])
        return call

    def _clamped_line(self, gate: relax.Expr) -> tuple[relax.Expr, float, float] | None:
        """x, slope and offset of ``clip(slope * x + offset, 0, 1)``, if both are finite numbers."""
        clip = self.made_by(gate, "clip")
        add = None if clip is None else self.made_by(clip.args[0], "add")
        multiply = None if add is None else self.made_by(add.args[0], "multiply")
        if multiply is None or [float(bound.value) for bound in clip.args[1:3]] != [0.0, 1.0]:
            return None
        slope, offset = scalar(multiply.args[1]), scalar(add.args[1])
        finite = slope is not None and offset is not None and np.isfinite([slope, offset]).all()
        return (multiply.args[0], slope, offset) if finite else None

    def _relu6_of_3_plus(self, expr: relax.Expr) -> relax.Expr | None:
        add = self._relu6_of_sum(expr)
        return add.args[0] if add is not None and _is(add.args[1], 3.0) else None

    def _biased(self, expr: relax.Expr) -> relax.Expr | None:
        """x of ``relu6(x + 3)``, if a bias has taken the 3, as TFLite's converter writes hard-sigmoid."""
        add = self._relu6_of_sum(expr)
        bias = None if add is None else array(add.args[1])
        if bias is None:
            return None
        return self.emit(relax.op.add(add.args[0], relax.const(bias - bias.dtype.type(3), str(bias.dtype))))

    def _relu6_of_sum(self, expr: relax.Expr) -> relax.Call | None:
        kind, inner = self._activation(expr)
        return self.made_by(inner, "add") if kind == "relu6" else None

    def _activation(self, expr: relax.Expr) -> tuple[str, relax.Expr | None]:
        call = self._made.get(expr) if isinstance(expr, relax.Var) else None
        if isinstance(call, relax.Call) and call.op in self._named:
            return self._named[call.op], call.args[0]
        return "", None

    def _call(self, kind: str, x: relax.Expr) -> relax.Expr:
        shape = static_shape(x, self.where)
        dtype = str(x.ty.dtype)
        function = self._functions.get((kind, shape, dtype))
        if function is None:
            bb = relax.BlockBuilder()
            param = relax.Var("x", relax.TensorType(shape, dtype))
            symbol = parsed(kind)[0]
            with bb.function(symbol, [param], private=True):
                with bb.dataflow():
                    out = bb.emit_output(definition(kind, param, dtype))
                bb.emit_func_output(out)
            function = self._bb.add_func(bb.get()[symbol].with_attr("activation", kind), symbol)
            self._functions[kind, shape, dtype] = function
            self._named[function] = kind
        return relax.Call(function, [x])


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """The module with its activations named."""
    return Activations(mod).run()


def definition(name: str, x: relax.Expr, dtype: str) -> relax.Expr:
    """One of the activations that this pass names, as PyTorch defines it, applied to a tensor of this dtype."""
    op = relax.op
    name, numbers = parsed(name)
    if numbers:
        slope, offset = (relax.const(number, dtype) for number in numbers)
        return op.multiply(x, op.clip(op.add(op.multiply(x, slope), offset), 0, 1))
    if name in ("hardswish", "hardsigmoid"):
        gate = op.multiply(op.clip(op.add(x, relax.const(3.0, dtype)), 0, 6), relax.const(1 / 6, dtype))
        return op.multiply(x, gate) if name == "hardswish" else gate
    return {
        "relu": lambda: op.nn.relu(x),
        "relu6": lambda: op.clip(x, 0, 6),
        "sigmoid": lambda: op.sigmoid(x),
        "silu": lambda: op.multiply(x, op.sigmoid(x)),
    }[name]()


def _is(expr: relax.Expr, value: float) -> bool:
    found = scalar(expr)
    return found is not None and abs(found - value) <= 1e-6 * abs(value)


def _same(a: relax.Expr | None, b: relax.Expr) -> bool:
    return a is not None and a.same_as(b)
