"""Estimates executed code: cycles of one core, predicted from the data of that core.

``CoreModel.of(core).estimate(image, counts)`` splits the execution of one task into traces (``flow``), estimates each
distinct trace once (``pipeline``), and adds up. A loop costs its steady state, with ports and dependences. A straight
line costs its throughput on an out-of-order core, which overlaps it with the surrounding code, and its whole issue time
on an in-order core. All loads hit the first-level cache here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.boards.cost.flow import Trace, traces
from tvm_mobilenet.boards.cost.instructions import Instruction, disassemble
from tvm_mobilenet.boards.cost.pipeline import Pipeline


@dataclass(frozen=True)
class EstimatedTrace:
    """A trace and the cycles of one execution."""

    trace: Trace
    cycles: float

    @property
    def total(self) -> float:
        return self.cycles * self.trace.count


@dataclass(frozen=True)
class Estimate:
    """The cost of one task: all ``cycles``, its traces, and the cycles of calls out of the module."""

    cycles: float
    traces: tuple[EstimatedTrace, ...]
    call_cycles: float


class CoreModel:
    """The model of one core. Use ``CoreModel.of(core)``, which keeps one for each core together with its estimates.

    Parameters
    ----------
    core : targets.Core
        With a ``[model]`` table.
    """

    _kept: dict[int, tuple[object, CoreModel]] = {}  # noqa: RUF012

    def __init__(self, core):
        self.core = core
        self.pipeline = Pipeline(core)
        self._estimates: dict[tuple, float] = {}

    @classmethod
    def of(cls, core) -> CoreModel:
        """The kept model of a core."""
        if id(core) not in cls._kept or cls._kept[id(core)][0] is not core:
            cls._kept[id(core)] = (core, cls(core))
        return cls._kept[id(core)][1]

    def estimate(self, image, counts) -> Estimate:
        """Cycles of one task.

        Parameters
        ----------
        image : elf.Image
        counts : kernel_run.Counts
        """
        listing = listing_of(image, counts.first, counts.executed)
        estimated = tuple(
            EstimatedTrace(t, self.trace_cycles(image, t))
            for t in traces(listing, counts.first, counts.executed, counts.taken)
        )
        calls = sum(self.call_cycles(c) for c in counts.calls)
        return Estimate(sum(p.total for p in estimated) + calls, estimated, calls)

    def trace_cycles(self, image, trace: Trace) -> float:
        """Cycles of one execution of a trace, estimated once for equal code."""
        key = (trace.loop, *(_word(image, i) for i in trace.instructions))
        if key not in self._estimates:
            self._estimates[key] = self.pipeline.cycles(trace.instructions, trace.loop)
        return self._estimates[key]

    def call_cycles(self, call) -> float:
        """Cycles of a function outside of the module: a fixed cost, and the bytes that it moves."""
        table = self.core.model.get("calls", {})
        fixed, per_byte = table.get(call.name) or table["default"]
        return call.calls * fixed + call.bytes * per_byte


def listing_of(image, first: int, executed: np.ndarray) -> dict[int, Instruction]:
    """The instructions that executed, by address."""
    where = np.flatnonzero(executed)
    known = image.listing
    missing = np.array([k for k in where if first + 4 * int(k) not in known], np.int64)
    for run in np.split(missing, np.flatnonzero(np.diff(missing) != 1) + 1):
        if len(run):
            start = first + 4 * int(run[0]) - image.base
            code = bytes(image.memory[start : start + 4 * len(run)])
            known.update((i.address, i) for i in disassemble(image.architecture, code, start + image.base))
    return {a: known[a] for a in (first + 4 * where).tolist()}


def _word(image, i: Instruction):
    # a branch's distance does not affect its estimate, and linking changes it
    at = i.address - image.base
    return i.branch if i.branch else bytes(image.memory[at : at + 4])
