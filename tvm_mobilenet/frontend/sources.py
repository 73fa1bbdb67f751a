"""Where each operator of an imported graph comes from in the user's model.

The importers note the variable that each node of the model ends in. The operators that they emitted on the way to it
belong to the same node: they get the source of the next variable that was noted.
"""

from __future__ import annotations

import tvm


def with_sources(mod: tvm.IRModule, noted: dict[str, str]) -> tvm.IRModule:
    """The module with ``sources`` (variable name to place in the model) on ``main``, for every variable."""
    sources, current = {}, ""
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    for binding in reversed(bindings):
        current = noted.get(binding.var.name, current)
        if current:
            sources[binding.var.name] = current
    mod["main"] = mod["main"].with_attr("sources", sources)
    return mod
