"""Arithmetic, comparisons and extremes of truth values, for which LLVM has no instructions: as logic, or of bytes."""

from __future__ import annotations

from tvm import relax

_LOGIC = {
    "add": relax.op.logical_or,
    "maximum": relax.op.logical_or,
    "minimum": relax.op.logical_and,
    "multiply": relax.op.logical_and,
}
_COMPARISONS = {
    name: getattr(relax.op, name) for name in ("equal", "greater", "greater_equal", "less", "less_equal", "not_equal")
}


def of(name: str, call: relax.Call, bb: relax.BlockBuilder) -> relax.Expr | None:
    """The same values by other operators; None unless all operands are truth values."""
    if name in ("max", "min") and str(call.args[0].ty.dtype) == "bool":
        data = bb.emit(relax.op.astype(call.args[0], "int8"))
        return relax.op.astype(bb.emit(relax.Call(call.op, [data], call.attrs)), "bool")
    operator = _LOGIC.get(name) or _COMPARISONS.get(name)
    if operator is None or any(str(a.ty.dtype) != "bool" for a in call.args):
        return None
    return operator(*(call.args if name in _LOGIC else (bb.emit(relax.op.astype(a, "int8")) for a in call.args)))
