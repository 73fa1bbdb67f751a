"""Simulate how fast one core issues a sequence of instructions, with its ports, latencies and width.

Out of order: a cycle decodes ``decode`` instructions and dispatches ``dispatch`` micro-operations into a window of
``window``. Once its sources are ready, a micro-operation takes the first free cycle of the least used port among those
that it may use. In order: at most ``issue_width`` instructions issue in a cycle. An instruction issues when its sources
are ready and all units that it needs are free in that cycle, never before its predecessor.

A multiply-accumulate needs its accumulator later than its other operands (``forward``): a chain of them runs at the
forwarding latency.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.boards.cost import native
from tvm_mobilenet.boards.cost.instructions import CLASSES, IN_PLACE, Instruction
from tvm_mobilenet.errors import TvmMobilenetError

_STEADY = 24  # simulated iterations of a short loop
_HORIZON = 8192  # cycles ahead of the present for which ports can be booked
_LONGEST = 3000  # simulated instructions of a long loop, at least four iterations

_EXAMPLE = "see targets/cores/cortex-a72.toml"


@dataclass(frozen=True)
class _Class:
    """One row of a core's ``[model.classes]``."""

    uops: tuple[tuple[tuple[int, ...], int], ...]  # for each: the units that it may use, and for how many cycles
    latency: int
    forward: int  # from accumulator to accumulator
    slots: int  # dispatch slots


def _names(value: object, where: str) -> list[str]:
    """A list of 1 to 32 different strings, so that a 32-bit word has a bit for each."""
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value) or not 0 < len(set(value)) <= 32:
        raise TvmMobilenetError(f"{where} = {value!r} is not a list of 1 to 32 names", _EXAMPLE)
    return list(value)


def _count(value: object, most: int, where: str) -> int:
    """A whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise TvmMobilenetError(f"{where} = {value!r} is not a whole number from 1 to {most}", _EXAMPLE)
    return value


class Pipeline:
    """The issue rules of one core, from its ``[model]`` table."""

    def __init__(self, core):
        model = core.model
        where = f"core {core.name}: [model]"
        try:
            self.units: list[str] = _names(model["units"], f"{where}.units")
            self.decode = _count(model["decode"], 64, f"{where}.decode")
            self.dispatch = _count(model.get("dispatch", self.decode), 64, f"{where}.dispatch")
            self.window = _count(model.get("window", 1), 4096, f"{where}.window")
            rows = model["classes"]
        except KeyError as e:
            raise TvmMobilenetError(f"{where}: missing {e.args[0]}", _EXAMPLE) from None
        self.in_order = core.in_order
        self.classes = {kind: self._row(kind, row, where) for kind, row in rows.items()}
        self.classes |= {k: self.classes[v] for k, v in IN_PLACE.items() if k not in rows and v in rows}
        self._machine = np.array([self.in_order, self.decode, self.dispatch, self.window, len(self.units)], np.int32)
        uops: list[tuple[int, int]] = []
        self._rows: dict[str, tuple[int, ...]] = {}
        for kind, c in self.classes.items():
            self._rows[kind] = c.latency, c.forward, c.slots, len(uops), len(c.uops)
            uops += [(sum(1 << u for u in units), busy) for units, busy in c.uops]
        self._uops = np.array(uops, np.uint32)
        if missing := [c for c in CLASSES if c not in self.classes]:
            raise TvmMobilenetError(f"{where}.classes: missing " + ", ".join(missing))

    def _row(self, kind: str, row: dict, where: str) -> _Class:
        if kind not in CLASSES:
            raise TvmMobilenetError(f"{where}.classes: unknown class {kind!r}")
        if extra := set(row) - {"uops", "busy", "latency", "forward", "slots"}:
            raise TvmMobilenetError(f"{where}.classes.{kind}: unknown key {sorted(extra)[0]!r}")
        busy = row.get("busy", 1)
        uops = []
        for alternatives in row.get("uops", ()):
            for unit in alternatives.split("|"):
                if unit not in self.units:
                    raise TvmMobilenetError(f"{where}.classes.{kind}: uops: unit {unit!r} is none of {self.units}")
            uops.append((tuple(self.units.index(u) for u in alternatives.split("|")), busy))
        latency = row.get("latency", 1)
        return _Class(tuple(uops), latency, row.get("forward", latency), row.get("slots", max(len(uops), 1)))

    # ---- estimates

    def cycles(self, instructions: tuple[Instruction, ...], loop: bool) -> float:
        """Cycles of one execution: in steady state for a loop; for a straight line see the module ``core_model``."""
        n = max(4, min(_STEADY, _LONGEST // max(len(instructions), 1)))
        if self.in_order and not loop:
            return float(self._ends(instructions, 1, True)[0])
        ends = self._ends(instructions, n, loop)
        return float(ends[-1] - ends[n // 2 - 1]) / (n - n // 2)

    def bounds(self, instructions: tuple[Instruction, ...]) -> dict[str, float]:
        """Lower bounds of one iteration in cycles, by each limit alone.

        Work is spread over the units as evenly as the alternatives allow. ``dependences`` is the loop with unlimited
        ports and width.
        """
        load = dict.fromkeys(self.units, 0.0)
        rows = [self.classes[i.kind] for i in instructions]
        for units, busy in sorted((u for r in rows for u in r.uops), key=lambda u: len(u[0])):
            least = min(units, key=lambda u: load[self.units[u]])
            load[self.units[least]] += busy
        if self.in_order:
            width = len(instructions) / self.decode
        else:
            width = max(len(instructions) / self.decode, sum(r.slots for r in rows) / self.dispatch)
        wide = Pipeline.__new__(Pipeline)
        wide.__dict__.update(self.__dict__, in_order=False, units=["any"], window=1 << 20, _uops=self._uops * 0)
        wide._machine = np.array([0, 1 << 20, 1 << 20, 1 << 20, 1], np.int32)
        n = 16
        ends = wide._ends(instructions, n, True)
        chains = float(ends[-1] - ends[n // 2 - 1]) / (n - n // 2)
        return {"width": width, **{f"unit {u}": v for u, v in load.items() if v}, "dependences": chains}

    def _ends(self, instructions, iterations: int, dependent: bool) -> np.ndarray:
        """The cycle in which each iteration ends; dependences count only with ``dependent``."""
        numbers: dict[str, int] = {}
        registers: list[int] = []
        ops = np.zeros((len(instructions), 11), np.int32)
        number = numbers.setdefault
        for k, i in enumerate(instructions):
            row = self._rows[i.kind]
            if dependent:
                reads = [number(r, len(numbers)) for r in i.reads]
                writes = [number(r, len(numbers)) for r in i.writes]
                accumulator = number(i.accumulator, len(numbers)) if i.accumulator else -1
                base = number(i.base, len(numbers)) if i.base else -1
                at = len(registers)
                registers += reads + writes
                ops[k] = (*row[:3], accumulator, base, at, len(reads), at + len(reads), len(writes), *row[3:])
            else:
                ops[k] = (*row[:3], -1, -1, 0, 0, 0, 0, *row[3:])
        state = np.zeros((2, len(numbers) + 1), np.int64)
        ends = np.zeros(iterations, np.int64)
        taken = np.zeros((len(self.units), _HORIZON), np.uint8)
        retired = np.zeros(max(self.window, 1), np.int64)
        regs = np.array(registers or [0], np.int32)
        native.library().simulate(
            self._machine.ctypes,
            len(instructions),
            ops.ctypes,
            self._uops.ctypes,
            regs.ctypes,
            iterations,
            state[0].ctypes,
            state[1].ctypes,
            ends.ctypes,
            taken.ctypes,
            ctypes.c_int64(_HORIZON),
            retired.ctypes,
        )
        return ends
