"""The decisions that each layer is built with."""

from __future__ import annotations

from pathlib import Path

from tvm_mobilenet import schedules
from tvm_mobilenet.compiler import module
from tvm_mobilenet.tune_logs.log import TuneLogs, consulted


def decide(layers, target, log: Path | None = None) -> list:
    """The decisions of each layer: from the user's log, else from the one that ships, else the schedule's default.

    For a layer that reads or writes parts of larger tensors, the logs' decisions for the same layer without parts are
    used too.

    Returns
    -------
    list of module.BuiltLayer
        In the order of ``layers``.
    """
    logs = TuneLogs(consulted(log, target.core.name), target)
    found = []
    for layer in layers:
        known, space = logs.find(layer), schedules.space(layer, target.core)
        if known is None and (layer.input_part or layer.output_part):  # it computes the same without parts
            known = logs.find(layer.dense)
            known = None if known and space.valid(known.record.decisions) else known
        decisions = known.record.decisions if known else space.default
        found.append(module.BuiltLayer(layer.name, decisions, str(known.source.name) if known else "default"))
    return found
