"""What every importer ends with: sources, and a place for operators that TVM does not know.

An operator that cannot be imported becomes an opaque call of the right shape. So the import always comes to its end,
and the passes report everything that is unsupported at once, whatever the reason.
"""

from __future__ import annotations

import tvm
from tvm import relax


def finished(mod: tvm.IRModule, noted: dict[str, str], outputs: tuple[str, ...] = ()) -> tvm.IRModule:
    """The module with ``sources`` on ``main``, and ``outputs``, their names, where they have any.

    Parameters
    ----------
    mod : IRModule
        As TVM's importer left it.
    noted : dict of str to str
        The variable that each node of the model ended in, and the node's place. Operators that were emitted on the way
        to it belong to the same node: they get the source of the next variable that was noted.
    """
    main = mod["main"]
    sources, current = {}, ""
    for binding in reversed([b for block in main.body.blocks for b in block.bindings]):
        current = noted.get(binding.var.name, current)
        if current:
            sources[binding.var.name] = current
    attrs = {"sources": sources, **({"outputs": list(outputs)} if outputs else {})}
    return tvm.IRModule({**dict(mod.functions.items()), mod.get_global_var("main"): main.with_attrs(attrs)})


def opaque(name: str, inputs: list, types: list[relax.TensorType]) -> relax.Call:
    """A call that stands for an operator that could not be imported."""
    tensors = [i for i in inputs if isinstance(i, relax.Expr) and isinstance(i.ty, relax.TensorType)]
    return relax.op.call_dps_packed(name, relax.Tuple(tensors), types[0] if len(types) == 1 else types)
