"""Which decisions each layer is built with."""

from __future__ import annotations

from pathlib import Path

from tvm_mobilenet import schedules
from tvm_mobilenet.compiler import module
from tvm_mobilenet.tune_logs.log import TuneLogs, consulted


def decide(layers, target, log: Path | None = None) -> list:
    """The decisions of each layer: the user's log's, else the shipped one's, else the schedule's default.

    Returns
    -------
    list of module.BuiltLayer
        In the order of ``layers``.
    """
    logs = TuneLogs(consulted(log, target.core.name), target)
    found = []
    for layer in layers:
        known = logs.find(layer)
        decisions = known.record.decisions if known else schedules.space(layer, target.core).default
        found.append(module.BuiltLayer(layer.name, decisions, str(known.source.name) if known else "default"))
    return found
