"""``main``, rebuilt operator by operator: the base of the passes that work on plain Relax.

`Rewriter` walks forward through the single dataflow block of ``main``. It passes each operator, with its arguments
already rewritten, to `rewrite`, whose result replaces the operator. A pattern looks backward through `made_by` and
rewrites only its last operator. Operators that have lost all their readers are dropped at the end. Every value keeps
its source, its place in the user's model, in a function attribute ``sources`` (variable name to text).
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError


class Rewriter:
    """One pass over ``main``; subclasses override `rewrite`."""

    def __init__(self, mod: tvm.IRModule):
        self.mod = mod
        self.main = mod["main"]
        self.sources: dict[str, str] = dict((self.main.attrs or {}).get("sources", {}))
        self.where = ""  # the source of the operator being rewritten
        self._made: dict[relax.Var, relax.Expr] = {}
        self._new_sources: dict[relax.Var, str] = {}

    def rewrite(self, value: relax.Expr) -> relax.Expr:
        """The replacement of ``value``, a Call, TupleGetItem or Tuple whose arguments are already rewritten."""
        raise NotImplementedError

    # ---- for subclasses

    def emit(self, expr: relax.Expr) -> relax.Expr:
        """Emit an intermediate operator, with the source of the operator being rewritten."""
        var = self._bb.emit(expr)
        self._made[var] = expr
        self._new_sources[var] = self.where
        return var

    def made_by(self, expr: relax.Expr, *ops: str) -> relax.Call | None:
        """The call of one of ``ops`` that made ``expr``, or None."""
        call = self._made.get(expr) if isinstance(expr, relax.Var) else None
        return call if op_name(call) in ops else None

    # ---- the walk

    def run(self) -> tvm.IRModule:
        """The rewritten module."""
        blocks = self.main.body.blocks
        bindings = [b for block in blocks for b in block.bindings]
        rest = {gv: f for gv, f in self.mod.functions.items() if gv.name_hint != "main"}
        self._bb = relax.BlockBuilder(tvm.IRModule(rest))
        new: dict[relax.Var, relax.Expr] = {p: p for p in self.main.params}
        with self._bb.function("main", list(self.main.params)):
            with self._bb.dataflow():
                for b in bindings:
                    self.where = self.sources.get(b.var.name, "")
                    value = _substitute(b.value, new)
                    if isinstance(value, relax.Call | relax.TupleGetItem | relax.Tuple):
                        value = self.rewrite(value)
                    if isinstance(value, relax.Call | relax.TupleGetItem):
                        value = self.emit(value)
                    new[b.var] = value
                result = _substitute(self.main.body.body, new)
                out = self._bb.emit_output(result)
            self._bb.emit_func_output(out)
        mod = relax.transform.DeadCodeElimination()(self._bb.get())
        sources = {v.name: s for v, s in self._new_sources.items() if s}
        names = (self.main.attrs or {}).get("outputs")
        mod["main"] = mod["main"].with_attrs({"sources": sources, **({"outputs": names} if names else {})})
        return mod


def op_name(expr: relax.Expr | None) -> str:
    """``nn.conv2d`` for a call of relax.nn.conv2d, the function's name for a call of a function, else the empty
    string.
    """
    if not isinstance(expr, relax.Call):
        return ""
    if isinstance(expr.op, tvm.ir.GlobalVar):
        return "@" + expr.op.name_hint
    return expr.op.name.removeprefix("relax.") if isinstance(expr.op, tvm.ir.Op) else ""


def array(expr: relax.Expr) -> np.ndarray | None:
    """The value of a constant, or None."""
    value = getattr(expr, "value", None) if isinstance(expr, tvm.ir.Constant) else None
    return value.numpy() if hasattr(value, "numpy") else None


def scalar(expr: relax.Expr) -> float | None:
    """The value of a constant of one element, or None."""
    value = array(expr)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def static_shape(expr: relax.Expr, where: str = "") -> tuple[int, ...]:
    """The shape of a tensor; a TvmMobilenetError if it is not static."""
    shape = getattr(expr.ty, "shape", None)
    try:
        return tuple(int(d) for d in shape)
    except TypeError:
        raise TvmMobilenetError(
            f"{where or expr}: the shape {shape} is not fixed", "export the model with fixed shapes"
        ) from None


def _substitute(value: relax.Expr, new: dict) -> relax.Expr:
    if isinstance(value, relax.Call):
        args = [_substitute(a, new) if isinstance(a, relax.Var | relax.Tuple) else a for a in value.args]
        return relax.Call(value.op, args, value.attrs, value.ty_args)
    if isinstance(value, relax.TupleGetItem):
        return relax.TupleGetItem(_substitute(value.tuple_value, new), value.index)
    if isinstance(value, relax.Tuple):
        return relax.Tuple([_substitute(f, new) for f in value.fields])
    return new.get(value, value) if isinstance(value, relax.Var) else value
