"""The record of one run of a kernel: executed instructions by part and task, and their cost."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.boards.cost.memory_time import PartTime, part_time
from tvm_mobilenet.boards.interface import PredictedCycles
from tvm_mobilenet.boards.virtual.imports import RuntimeCall
from tvm_mobilenet.boards.virtual.memory import Traffic
from tvm_mobilenet.errors import BoardError


class KernelFault(BoardError):
    """A kernel made an error of memory or execution, or reported an error.

    Attributes
    ----------
    kernel, reason, instruction : str
    address : int
        The address in the module's file, as in a disassembly.
    symbol : str
        Function and offset, ``conv_compute_+0x40``.
    """

    def __init__(self, kernel: str, reason: str, address: int = 0, symbol: str = "", instruction: str = ""):
        where = f" at {address:#x} ({symbol}: {instruction})" if address else ""
        super().__init__(f"kernel {kernel}: {reason}{where}", "the module stays usable; other kernels can still be run")
        self.kernel, self.reason, self.address = kernel, reason, address
        self.symbol, self.instruction = symbol, instruction


@dataclass(frozen=True)
class Counts:
    """Executions of one task or serial part.

    Parameters
    ----------
    first : int
        Address of the instruction of ``executed[0]`` and ``taken[0]``.
    executed, taken : (n,) int64
        Executions of each instruction; for a branch, how often it was taken.
    calls : tuple of RuntimeCall
        Calls of functions outside of the module.
    workspace_bytes : int
        Peak of scratch memory.
    traffic, private : Traffic, optional
        If memory was followed: traffic on one core that runs all tasks; traffic of the private caches of a core that
        runs this task alone.
    """

    first: int
    executed: np.ndarray
    taken: np.ndarray
    calls: tuple[RuntimeCall, ...] = ()
    workspace_bytes: int = 0
    traffic: Traffic | None = None
    private: Traffic | None = None

    @property
    def instructions(self) -> int:
        return int(self.executed.sum())

    def same(self, other: Counts) -> bool:
        """Whether both executed the same instructions equally often."""
        return (
            self.first == other.first
            and np.array_equal(self.executed, other.executed)
            and np.array_equal(self.taken, other.taken)
        )


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
        The number of tasks, more than ``ran`` if tasks were sampled.
    numbers : tuple of int
        The numbers of the tasks that ran, if sampled; empty: all.
    pair : Counts, optional
        If sampled: tasks 0 and 1 run as one. Its saving over both is the cost of entering a task.
    shared : Traffic, optional
        If memory was followed: traffic of the shared caches with all tasks side by side, each on its own core.
    """

    kind: str
    ran: list[Counts]
    tasks: int
    numbers: tuple[int, ...] = ()
    pair: Counts | None = None
    shared: Traffic | None = None

    def of_tasks(self, values: list[float]) -> np.ndarray:
        """A value for every task, from the tasks that ran by linear interpolation."""
        if not self.numbers:
            return np.asarray(values, float)
        return np.interp(np.arange(self.tasks), self.numbers, values)

    def shares(self, values: list[float], cores: int, pair: float | None = None) -> list[float]:
        """The sums over ``cores`` consecutive shares, divided as TVM divides a parallel loop among threads.

        ``values``: one for every task that ran; ``pair``: the value of ``self.pair``. A share enters a task once.
        """
        every = self.of_tasks(values)
        entering = max(0.0, values[0] + values[1] - pair) if pair is not None else 0.0
        share = -(-self.tasks // cores)
        parts = (every[i : i + share] for i in range(0, self.tasks, share))
        return [float(p.sum()) - entering * (len(p) - 1) for p in parts]


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
        """Instructions executed in the module, in all tasks together."""
        return round(
            sum(p.shares([c.instructions for c in p.ran], 1, p.pair and p.pair.instructions)[0] for p in self.parts)
        )

    @property
    def workspace_bytes(self) -> int:
        """Largest scratch memory of one task."""
        return max((c.workspace_bytes for p in self.parts for c in p.ran), default=0)

    @property
    def traffic(self) -> Traffic | None:
        """Lines moved at each level on one core; None if memory was not followed."""
        if not self.followed:
            return None
        sides = (
            [
                [float(p.of_tasks(v).sum()) for v in zip(*(getattr(c.traffic, side) for c in p.ran), strict=True)]
                for p in self.parts
            ]
            for side in ("fills", "writebacks")
        )
        return Traffic(*(tuple(map(sum, zip(*side, strict=True))) for side in sides))

    @property
    def cycles(self) -> PredictedCycles:
        """On one core."""
        return self.cycles_on(1)

    def cost(self, cores: int | None = None) -> PredictedCycles:
        """As ``cycles_on``; by default on all cores of the target."""
        return self.cycles_on(cores or self.target.cores)

    def cycles_on(self, cores: int, core=None) -> PredictedCycles:
        """Predicted cycles on ``cores`` cores: the slowest share of every parallel region, and the serial parts.

        If memory was followed, memory cycles are included (``memory_time``). The result is exact for one core, and for
        as many cores as there were tasks; between these, neighbouring tasks are added up. ``core``: another
        ``targets.Core`` for which to estimate the compute cycles of the same execution, without memory, since its
        caches differ.
        """
        if cores < 1:
            raise ValueError(f"cores = {cores}: at least one is needed")
        own = core is None or core is self.target.core
        times = self._times(cores, core or self.target.core, own and self.followed)
        return PredictedCycles(sum(p.whole for p in times))

    def compute_on(self, cores: int) -> PredictedCycles:
        """As ``cycles_on``, if every access hit the first-level cache."""
        return PredictedCycles(sum(p.compute for p in self._times(cores, self.target.core, False)))

    def memory_on(self, cores: int) -> PredictedCycles | None:
        """Memory cycles alone, at the level that takes longest; None if memory was not followed."""
        if not self.followed:
            return None
        return PredictedCycles(sum(p.memory for p in self._times(cores, self.target.core, True)))

    @property
    def followed(self) -> bool:
        """Whether loads and stores went through the caches."""
        return all(c.traffic is not None for p in self.parts for c in p.ran)

    def _times(self, cores: int, core, memory: bool) -> list[PartTime]:
        return [
            part_time(p, costs, pair, cores, core, self.target, memory)
            for p, (costs, pair) in zip(self.parts, self._estimated(core), strict=True)
        ]

    def _estimated(self, core) -> list[tuple[list[float], float | None]]:
        """For every part: the cycles of each task that ran, and of the pair."""
        from tvm_mobilenet.boards.cost.core_model import CoreModel

        if id(core) not in self._cycles:
            model = CoreModel.of(core)
            known: dict[tuple, float] = {}  # equal tasks cost the same
            self._cycles[id(core)] = [
                (
                    [_once(known, model, self.image, c) for c in p.ran],
                    p.pair and _once(known, model, self.image, p.pair),
                )
                for p in self.parts
            ]
        return self._cycles[id(core)]

    def executions(self, symbol: str | None = None) -> list[tuple[int, int]]:
        """Executions of each instruction in all tasks that ran: ``(address, times)``, with addresses as in the file.

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
        known[key] = model.estimate(image, counts).cycles
    return known[key]
