"""The last step of every importer: sources, and placeholders for operators that TVM does not know.

An operator that cannot be imported becomes an opaque call of the right shape. So the import always completes, and the
passes report all unsupported operators at once.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_mobilenet.files import limits


def finished(mod: tvm.IRModule, noted: dict[str, str], outputs: tuple[str, ...] = (), **attrs: str) -> tvm.IRModule:
    """The module with the attributes ``sources`` and ``outputs`` (names, if there are any) on ``main``, and other
    attributes.

    Parameters
    ----------
    mod : IRModule
        The result of TVM's importer.
    noted : dict of str to str
        The variable of each node's result, and the node's place in the model. Operators that were emitted before it for
        the same node get the source of the next noted variable.
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
    """Refuse values that exceed any board's memory, and computed constants that are larger than stored ones."""
    stored: dict[relax.Var, int] = {}  # for values computed from constants: bytes of the largest constant
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
    """Bytes of a value; 0 if its shape is unknown."""
    shape = getattr(ty, "shape", None)  # a number among an operator's arguments has no shape
    if not isinstance(shape, relax.ShapeExpr) or not all(hasattr(d, "value") for d in shape):
        return 0
    elements, item = math.prod(int(d.value) for d in shape), max(1, getattr(ty.dtype, "bits", 32) // 8)
    limits.check_tensor(elements, item, name)
    return elements * item


def opaque(name: str, inputs: list, types: list[relax.TensorType], why: str = "") -> relax.Call:
    """A placeholder for an operator that could not be imported; its symbol is the name, and on a second line the
    reason.
    """
    tensors = [i for i in inputs if isinstance(i, relax.Expr) and isinstance(i.ty, relax.TensorType)]
    symbol = f"{name}\n{why}" if why else name
    return relax.op.call_dps_packed(symbol, relax.Tuple(tensors), types[0] if len(types) == 1 else types)
