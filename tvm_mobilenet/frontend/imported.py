"""What every importer ends with: sources, and a place for operators that TVM does not know.

An operator that cannot be imported becomes an opaque call of the right shape. So the import always comes to its end,
and the passes report everything that is unsupported at once, whatever the reason.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_mobilenet.files import limits


def finished(mod: tvm.IRModule, noted: dict[str, str], outputs: tuple[str, ...] = (), **attrs: str) -> tvm.IRModule:
    """The module with ``sources`` on ``main``, and ``outputs``, their names, where they have any, and other attributes.

    Parameters
    ----------
    mod : IRModule
        As TVM's importer left it.
    noted : dict of str to str
        The variable that each node of the model ended in, and the node's place. Operators that were emitted on the way
        to it belong to the same node: they get the source of the next variable that was noted.
    """
    main = mod["main"]
    _check_sizes(main)
    sources, current = {}, ""
    for binding in reversed([b for block in main.body.blocks for b in block.bindings]):
        current = noted.get(binding.var.name, current)
        if current:
            sources[binding.var.name] = current
    attrs |= {"sources": sources, **({"outputs": list(outputs)} if outputs else {})}
    return tvm.IRModule({**dict(mod.functions.items()), mod.get_global_var("main"): main.with_attrs(attrs)})


def _check_sizes(main: relax.Function) -> None:
    """Refuse values that no board has memory for, and constants that would be computed and are larger than stored."""
    stored: dict[relax.Var, int] = {}  # of what follows from constants: bytes of the largest of them
    for binding in (b for block in main.body.blocks for b in block.bindings):
        var, value = binding.var, binding.value
        size = sum(_bytes(ty, var.name) for ty in _tensor_types(var.ty))
        if isinstance(value, tvm.ir.Constant):
            stored[var] = size
            continue
        inputs = _leaves(value)
        if all(isinstance(i, tvm.ir.Constant) or i in stored for i in inputs):
            stored[var] = max((stored[i] if i in stored else _bytes(i.ty, "") for i in inputs), default=0)
            limits.check_constant(size, stored[var], var.name)


def _leaves(value: relax.Expr) -> list[relax.Expr]:
    """The variables and constants that a call or a tuple reads."""
    if isinstance(value, relax.Var | tvm.ir.Constant):
        return [value]
    parts = value.args if isinstance(value, relax.Call) else value.fields if isinstance(value, relax.Tuple) else ()
    inner = (value.tuple_value,) if isinstance(value, relax.TupleGetItem) else parts
    return [leaf for part in inner for leaf in _leaves(part)]


def _tensor_types(ty) -> list[relax.TensorType]:
    if isinstance(ty, relax.TensorType):
        return [ty]
    return [t for field in getattr(ty, "fields", ()) for t in _tensor_types(field)]


def _bytes(ty: relax.TensorType, name: str) -> int:
    """Bytes of a value; 0 where its shape is not known."""
    shape = getattr(ty, "shape", None)  # a number in an operator's arguments has none
    if not isinstance(shape, relax.ShapeExpr) or not all(hasattr(d, "value") for d in shape):
        return 0
    elements, item = math.prod(int(d.value) for d in shape), max(1, getattr(ty.dtype, "bits", 32) // 8)
    limits.check_tensor(elements, item, name)
    return elements * item


def opaque(name: str, inputs: list, types: list[relax.TensorType], why: str = "") -> relax.Call:
    """A call that stands for an operator that could not be imported; its symbol is the name, on a second line why."""
    tensors = [i for i in inputs if isinstance(i, relax.Expr) and isinstance(i.ty, relax.TensorType)]
    symbol = f"{name}\n{why}" if why else name
    return relax.op.call_dps_packed(symbol, relax.Tuple(tensors), types[0] if len(types) == 1 else types)
