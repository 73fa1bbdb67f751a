"""The layers of a network as the steps of a built module compute them: the plan, matched with the network."""

from __future__ import annotations

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer


def calls_of(network, module) -> list:
    """The network's layers as the plan's steps compute them: in fused blocks, at pitches, in parts of larger tensors.

    Raises
    ------
    TvmMobilenetError
        The module was built from another network, or by a version whose plans do not say what their steps compute.
    """
    from tvm_mobilenet.compiler import views
    from tvm_mobilenet.compiler.fuse_blocks import join, parts_of

    steps = module.plan.steps
    if not all(step.parts for step in steps):
        raise TvmMobilenetError(
            f"{module.folder} was built by an earlier version: its plan does not say which layers of the model its "
            "steps compute",
            "build it again",
        )
    known, calls = {call.name: call for call in network.layers}, []
    named = list(dict.fromkeys(part.name for step in steps for part in step.parts))
    without = [call for call in known.values() if call.name not in named]  # calls that no kernel computes
    same = named == [name for name, call in known.items() if call not in without] and all(map(views.moves, without))
    memory = views.memory(without, steps)
    for step in steps if same else ():
        taken, layer = parts_of([known[part.name] for part in step.parts]), Layer.parse(step.layer)
        dense = layer.dense
        if same and views.moves(taken[0]) and not layer.body:  # a copy of the moved values
            same = layer.copies
            calls.append(views.copy_of(step.name, layer, tuple(taken), step.reads, step.writes, step.into))
        elif same := same and [call.layer.dense for call in taken] == list(dense.parts or [dense]):
            call = join(taken) if dense.parts else taken[0]
            same = (tuple(memory.get(v, v) for v in call.inputs), call.output) == (step.reads, step.writes)
            # a loop nest is in the model, not in the name
            calls.append(call.replace(into=step.into, **({} if layer.body else {"layer": layer})))
    if not same:
        raise TvmMobilenetError(
            f"{module.folder} was built from another network than {network.options.title}",
            "verify it without naming a model, or build it again",
        )
    return calls
