"""What one run of a kernel left behind: executed instructions by part and task, and what they cost."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.boards import PredictedCycles
from tvm_mobilenet.boards.imports import RuntimeCall


@dataclass(frozen=True)
class Counts:
    """Executions of one task or serial part.

    Parameters
    ----------
    first : int
        Address of the instruction that ``executed[0]`` and ``taken[0]`` belong to.
    executed, taken : (n,) int64
        Executions of each instruction; how often it, a branch, was taken.
    calls : tuple of RuntimeCall
        Functions outside the module.
    workspace_bytes : int
        Scratch memory at its peak.
    """

    first: int
    executed: np.ndarray
    taken: np.ndarray
    calls: tuple[RuntimeCall, ...] = ()
    workspace_bytes: int = 0

    @property
    def instructions(self) -> int:
        return int(self.executed.sum())

    def same(self, other: Counts) -> bool:
        """Whether both executed the same instructions equally often."""
        return (self.first == other.first and np.array_equal(self.executed, other.executed)
                and np.array_equal(self.taken, other.taken))


@dataclass(frozen=True)
class Part:
    """A serial part of a kernel, or a parallel region.

    Parameters
    ----------
    kind : str
        ``serial`` or ``parallel``.
    ran : list of Counts
        The tasks that ran, by number.
    tasks : int
        How many there are. More than ``ran`` where tasks were sampled.
    numbers : tuple of int
        Which tasks ran, where sampled; empty: all.
    pair : Counts, optional
        Where sampled: tasks 0 and 1 run as one. What it saves against both is what entering a task costs.
    """

    kind: str
    ran: list[Counts]
    tasks: int
    numbers: tuple[int, ...] = ()
    pair: Counts | None = None

    def of_tasks(self, values: list[float]) -> np.ndarray:
        """A value of every task from those of the tasks that ran: between two of them, their straight line."""
        if not self.numbers:
            return np.asarray(values, float)
        return np.interp(np.arange(self.tasks), self.numbers, values)

    def on_cores(self, values: list[float], cores: int, pair: float | None = None) -> float:
        """The largest sum over ``cores`` consecutive shares, as TVM divides a parallel loop among threads.

        ``values``: one of every task that ran; ``pair``: that of ``self.pair``. A share enters a task once.
        """
        every = self.of_tasks(values)
        entering = max(0.0, values[0] + values[1] - pair) if pair is not None else 0.0
        share = -(-self.tasks // cores)
        parts = (every[i:i + share] for i in range(0, self.tasks, share))
        return max(float(p.sum()) - entering * (len(p) - 1) for p in parts)


class KernelRun:
    """One call of a kernel on the virtual board.

    Attributes
    ----------
    symbol : str
    parts : list of Part
        Serial parts and parallel regions in the order of execution.
    outputs : list of ndarray
        Set by ``call``.
    sampled : bool
        Only some tasks of the parallel regions were run.
    """

    def __init__(self, symbol, parts, image, target, sampled=False):
        self.symbol, self.parts, self.sampled = symbol, parts, sampled
        self.image, self.target = image, target
        self.outputs: list[np.ndarray] = []
        self._cycles: dict[int, list] = {}

    @property
    def instructions(self) -> int:
        """Executed in the module, all tasks together."""
        return round(sum(p.on_cores([c.instructions for c in p.ran], 1, p.pair and p.pair.instructions)
                         for p in self.parts))

    @property
    def workspace_bytes(self) -> int:
        """Largest scratch memory of one task."""
        return max((c.workspace_bytes for p in self.parts for c in p.ran), default=0)

    @property
    def cycles(self) -> PredictedCycles:
        """On one core."""
        return self.cycles_on(1)

    def cost(self, cores: int | None = None) -> PredictedCycles:
        """As ``cycles_on``; on all cores of the target unless told."""
        return self.cycles_on(cores or self.target.cores)

    def cycles_on(self, cores: int, core=None) -> PredictedCycles:
        """Predicted cycles on ``cores`` cores: every parallel region's slowest share, and the serial parts.

        With as many cores as tasks were run, or one, this is exact; between, tasks are taken together in order.
        ``core``: another ``targets.Core`` to price the same execution for.
        """
        if cores < 1:
            raise ValueError(f"cores = {cores}: one at least")
        total = 0.0
        for part, (costs, pair) in zip(self.parts, self._priced(core or self.target.core), strict=True):
            total += sum(costs) if part.kind == "serial" else part.on_cores(costs, cores, pair)
        return PredictedCycles(total)

    def _priced(self, core) -> list[tuple[list[float], float | None]]:
        """Of every part: the cycles of each task that ran, and of the pair."""
        from tvm_mobilenet.boards.core_model import CoreModel

        if id(core) not in self._cycles:
            model = CoreModel.of(core)
            known: dict[tuple, float] = {}  # equal tasks cost the same
            self._cycles[id(core)] = [
                ([_once(known, model, self.image, c) for c in p.ran],
                 p.pair and _once(known, model, self.image, p.pair)) for p in self.parts]
        return self._cycles[id(core)]

    def executions(self, symbol: str | None = None) -> list[tuple[int, int]]:
        """Executions of each instruction, all tasks that ran together: ``(address, times)``, addresses as in the file.

        ``symbol`` restricts it to one function.
        """
        total: dict[int, int] = {}
        functions = [f for f in self.image.functions() if symbol in (None, f[2])]
        starts = [f[0] for f in functions]
        for part in self.parts:
            for c in part.ran:
                for i in np.flatnonzero(c.executed):
                    address = c.first + 4 * int(i)
                    f = bisect.bisect_right(starts, address) - 1
                    if symbol is None or (f >= 0 and address < starts[f] + functions[f][1]):
                        total[address] = total.get(address, 0) + int(c.executed[i])
        return sorted((a - self.image.base, n) for a, n in total.items())


def _once(known: dict, model, image, counts: Counts) -> float:
    key = counts.first, counts.executed.tobytes(), counts.taken.tobytes(), counts.calls
    if key not in known:
        known[key] = model.price(image, counts).cycles
    return known[key]
