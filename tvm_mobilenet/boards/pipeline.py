"""How fast one core issues a sequence of instructions: a simulation over its ports, latencies and width.

Out of order: instructions are decoded ``decode`` and their micro-operations dispatched ``dispatch`` a cycle into a window
of ``window``; each micro-operation takes the first free cycle of the least used port that it may use, once its sources
are ready. In order: an instruction issues, at most ``issue_width`` a cycle, when its sources are ready and all the units
it needs are free in that very cycle, never before the one ahead of it.

A multiply-accumulate needs its accumulator later than its other operands (``forward``): a chain of them runs at the
forwarding latency.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet.boards.instructions import CLASSES, Instruction
from tvm_mobilenet.errors import TvmMobilenetError

_STEADY = 24  # iterations simulated of a short loop
_LONGEST = 3000  # instructions simulated of a long one, but four iterations at least


@dataclass(frozen=True)
class _Class:
    """One row of a core's ``[model.classes]``."""

    uops: tuple[tuple[tuple[int, ...], int], ...]  # each: the units it may use, and for how many cycles
    latency: int
    forward: int  # from accumulator to accumulator
    slots: int  # of dispatch


@dataclass(frozen=True)
class _Op:
    reads: tuple[str, ...]
    accumulator: str
    writes: tuple[str, ...]
    base: str
    row: _Class


class Pipeline:
    """The issue rules of one core, from its ``[model]`` table."""

    def __init__(self, core):
        model = core.model
        where = f"core {core.name}: [model]"
        try:
            self.units: list[str] = list(model["units"])
            self.decode = int(model["decode"])
            self.dispatch = int(model.get("dispatch", self.decode))
            self.window = int(model.get("window", 1))
            rows = model["classes"]
        except KeyError as e:
            raise TvmMobilenetError(f"{where}: missing {e.args[0]}", "see targets/cores/cortex-a72.toml") from None
        self.in_order = core.in_order
        self.classes = {kind: self._row(kind, row, where) for kind, row in rows.items()}
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

    # ---- prices

    def cycles(self, instructions: tuple[Instruction, ...], loop: bool) -> float:
        """Cycles of one execution: in steady state for a loop; for a straight line see the module ``core_model``."""
        ops = [_Op(i.reads, i.accumulator, i.writes, i.base, self.classes[i.kind]) for i in instructions]
        if self.in_order and not loop:
            return float(self._issue_in_order(ops, 1)[-1])
        if not loop:
            ops = [_Op((), "", (), "", o.row) for o in ops]
        n = max(4, min(_STEADY, _LONGEST // max(len(ops), 1)))
        n += n % 2
        ends = (self._issue_in_order if self.in_order else self._issue_out_of_order)(ops, n)
        return (ends[-1] - ends[n // 2 - 1]) / (n - n // 2)

    def _issue_in_order(self, ops: list[_Op], iterations: int) -> list[int]:
        """The cycle after the last issue of each iteration."""
        ready: dict[str, int] = {}
        ready_to_accumulate: dict[str, int] = {}
        free = [0] * len(self.units)
        cycle, issued = 0, 0
        ends = []
        for _ in range(iterations):
            for op in ops:
                at = cycle if issued < self.decode else cycle + 1
                for r in op.reads:
                    at = max(at, ready.get(r, 0))
                if op.accumulator:
                    at = max(at, ready_to_accumulate.get(op.accumulator, 0))
                chosen = []
                for units, _busy in op.row.uops:
                    unit = min((u for u in units if u not in chosen), key=lambda u: free[u], default=units[0])
                    chosen.append(unit)
                    at = max(at, free[unit])
                for unit, (_units, busy) in zip(chosen, op.row.uops, strict=True):
                    free[unit] = at + busy
                if at > cycle:
                    cycle, issued = at, 0
                issued += 1
                for w in op.writes:
                    ready[w] = at + op.row.latency
                    ready_to_accumulate[w] = at + (op.row.forward if op.accumulator else op.row.latency)
                if op.base:
                    ready[op.base] = at + 1
            ends.append(cycle + 1)
        return ends

    def _issue_out_of_order(self, ops: list[_Op], iterations: int) -> list[int]:
        """The cycle in which the last instruction of each iteration retires."""
        ready: dict[str, int] = {}
        ready_to_accumulate: dict[str, int] = {}
        taken: list[set[int]] = [set() for _ in self.units]
        used = [0] * len(self.units)
        retired: list[int] = []
        cycle = decoded = dispatched = 0
        last = 0
        ends = []
        window = self.window
        for _ in range(iterations):
            for op in ops:
                if decoded >= self.decode or dispatched >= self.dispatch:
                    cycle, decoded, dispatched = cycle + 1, 0, max(0, dispatched - self.dispatch)
                if len(retired) >= window and retired[-window] > cycle:
                    cycle, decoded, dispatched = retired[-window], 0, 0
                decoded += 1
                dispatched += op.row.slots
                at = cycle
                for r in op.reads:
                    at = max(at, ready.get(r, 0))
                if op.accumulator:
                    at = max(at, ready_to_accumulate.get(op.accumulator, 0))
                start = at
                for units, busy in op.row.uops:
                    best = -1
                    for u in units:
                        slots = taken[u]
                        t = at
                        while any(t + b in slots for b in range(busy)) if busy > 1 else t in slots:
                            t += 1
                        if best < 0 or (t, used[u]) < (best, used[unit]):
                            best, unit = t, u
                    taken[unit].update(range(best, best + busy))
                    used[unit] += busy
                    start = max(start, best)
                for w in op.writes:
                    ready[w] = start + op.row.latency
                    ready_to_accumulate[w] = start + (op.row.forward if op.accumulator else op.row.latency)
                if op.base:
                    ready[op.base] = max(cycle, ready.get(op.base, 0)) + 1
                last = max(last, start + op.row.latency)
                retired.append(last)
            ends.append(last)
        return ends
