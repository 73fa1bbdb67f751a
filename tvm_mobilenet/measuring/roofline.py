"""The least time that a kernel call can take on a target: the bounds of its multiply-adds, of the caches, and of DRAM.

After Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", 2009. Four ceilings:

    compute   multiply-adds over the rate of all vector units (the core's ``fma_per_cycle`` and ``vector_bytes``, or its
              ``[rates]``); with int8 also the instructions that convert values, on the units of the core's
              ``[model.classes]`` (`conversions`)
    L1        every operand through vector registers once, at the rate of the core's loads and stores (``load_q``,
              ``store_q`` and their like in its ``[model.classes]``)
    L2        lines that no L1 can have kept, over the rate into and out of L1 (``l1_fill_bytes_per_cycle``)
    DRAM      lines that no last cache can have kept, over the target's bandwidth

A cache can have kept a line only if the lines that were touched since its last use leave room for it. These are counted
by whole steps of the plan, in passes that follow each other, so a kernel's own order of accesses never counts. The
cache is ideal: the sets of a real one keep a few lines longer, and lose many earlier. A written line leaves the cache
once more: in the step that writes it, if the output exceeds the cache, else in the later step that needs its place. A
store to a line that the cache lacks fills it first, as on the virtual board (`boards.virtual.memory`). Cores stop
filling lines that streams of stores fill whole, so a measured time is compared without these fills. Whole lines move: a
layer that reads or writes every other twelve channels of a concatenation moves all lines of it.

What is not here: instructions other than these, loads and stores; the overlap of ceilings (``exposed`` of the
core's file), so a layer whose compute and memory time are equal has a prediction of twice the bound on a core that
overlaps nothing; and the second load of a value.

Rates are those of the target's files (`targets.memory.Way`); only the clock may be the board's own. Products with the
zeros of padding count, as in the papers, so a kernel that skips them can be slightly faster than the bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from tvm_mobilenet.layer import Layer
from tvm_mobilenet.measuring import conversions
from tvm_mobilenet.targets import memory

COMPUTE, PORTS, CACHE, DRAM = "compute", "L1", "L2", "DRAM"
CEILINGS = (COMPUTE, PORTS, CACHE, DRAM)
# Classes of instructions that load or store whole vectors, with the number of these.
LOADS = {"load_q": 1, "load_pq": 2, "load_m1": 1, "load_m2": 2, "load_m4": 4}
STORES = {"store_q": 1, "store_pq": 2, "store_m1": 1, "store_m2": 2, "store_m4": 4}


@dataclass(frozen=True)
class Roofline:
    """Seconds of each ceiling; ``cache`` and ``ports`` are None if the core's file has no rates."""

    compute: float
    cache: float | None
    dram: float
    ports: float | None = None

    @property
    def seconds(self) -> float:
        return max(self._each)

    @property
    def binds(self) -> str:
        """``compute``, ``L1``, ``L2`` or ``DRAM``: the ceiling that is the lowest."""
        return CEILINGS[self._each.index(self.seconds)]

    @property
    def _each(self) -> tuple[float, ...]:
        return self.compute, self.ports or 0.0, self.cache or 0.0, self.dram


@dataclass(frozen=True)
class Ceilings:
    """The rates of a target on a number of threads.

    Attributes
    ----------
    macs : dict of str to float
        Multiply-adds a second, for each dtype of a plan's layers.
    cache, dram : float or None
        Bytes a second into L1, and from DRAM.
    """

    macs: dict[str, float]
    cache: float | None
    dram: float


def ceilings(plan, target, threads: int, clock_hz: float | None = None) -> Ceilings:
    """The ceilings of a target for the dtypes of a plan; arguments as for `rooflines`."""
    core, cores, hertz = target.core, min(threads, target.cores), clock_hz or target.clock_hz
    way = memory.way_to_l1(core)
    dtypes = dict.fromkeys(Layer.parse(step.layer).dtype for step in plan.steps)
    return Ceilings(
        {dtype: core.macs_per_cycle(dtype) * hertz * cores for dtype in dtypes},
        way and way.of(cores) * hertz,
        memory.way_to_dram(target).of(cores),
    )


def rooflines(plan, target, threads: int, clock_hz: float | None = None, *, fills: bool = True) -> list[Roofline]:
    """The roofline of each step of a plan, on a number of threads.

    Parameters
    ----------
    plan : plan.Plan
    target : targets.Target
    threads : int
        The number of threads, at most the number of the target's cores.
    clock_hz : float, optional
        The board's clock, if it is known.
    fills : bool
        Whether a store to a line that a cache lacks fills this line first: it does on the virtual board.
    """
    most, core, cores = ceilings(plan, target, threads, clock_hz), target.core, min(threads, target.cores)
    near = core.l1d.bytes * (1 if core.l1d.shared else cores)
    last = (core.l3 or core.l2).bytes
    ports, cycles = ports_of(core), (clock_hz or target.clock_hz) * cores
    found, line = [], core.l1d.line
    moved = missing(plan, near, fills, line), missing(plan, last, fills, line)
    for step, to_l1, to_last in zip(plan.steps, *moved, strict=True):
        layer = Layer.parse(step.layer)
        *read, written = (_moved(layer, t) for t in step.operands)
        found.append(
            Roofline(
                conversions.cycles(layer, core) / cycles,
                to_l1 / most.cache if most.cache else None,
                to_last / most.dram,
                ports.cycles(sum(read), written) / cycles if ports else None,
            )
        )
    return found


def operand_bytes(step) -> int:
    """The bytes that a step reads and writes, every operand once."""
    layer = Layer.parse(step.layer)
    return sum(_moved(layer, t) for t in step.operands)


def _moved(layer: Layer, operand) -> int:
    """Bytes of an operand that a layer reads or writes; for a larger tensor, only its part."""
    part = _part(layer, operand)
    return operand.nbytes if part is None else prod(part.shape) * operand.nbytes // prod(operand.shape)


def _part(layer: Layer, operand):
    """The place of a layer's data or output in a larger tensor, if that is the operand; else None."""
    if operand.space == "parameters":
        return None
    places = (layer.input_place, layer.output_place)
    return next((place for place in places if place.part and place.buffer == operand.shape), None)


# ---- the ports of the L1


@dataclass(frozen=True)
class Ports:
    """For each unit of a core, the least cycles for which a loaded byte and a stored one occupy it."""

    loads: dict[str, float]
    stores: dict[str, float]

    def cycles(self, read: int, written: int) -> float:
        """Cycles of the busiest unit."""
        return max(read * self.loads[unit] + written * self.stores[unit] for unit in self.loads)


def ports_of(core) -> Ports | None:
    """The ports of a core by the classes of its model; None without one."""
    if not core.model:
        return None
    units, classes = core.model["units"], core.model["classes"]

    def busy(kinds: dict[str, int]) -> dict[str, float]:
        found = dict.fromkeys(units, float("inf"))
        for kind, vectors in kinds.items():
            row = classes[kind]
            cycles = dict.fromkeys(units, 0.0)
            for uop in row["uops"]:
                either = uop.split("|")  # these share the work
                for unit in either:
                    cycles[unit] += row.get("busy", 1) / len(either) / vectors / core.vector_bytes
            found = {unit: min(found[unit], cycles[unit]) for unit in units}
        return found

    return Ports(busy(LOADS), busy(STORES))


# ---- bytes that a cache cannot have kept


def missing(plan, capacity: int, fills: bool, line: int = 1) -> list[int]:
    """For each step of a plan, the bytes that it moves into and out of a cache of this capacity, in whole lines,
    whatever its kernel does, in passes that follow each other.
    """
    touched = [_ranges(step) for step in plan.steps]
    found = [0.0] * len(plan.steps)
    for i, step in enumerate(plan.steps):
        layer, known = Layer.parse(step.layer), {}  # bytes of the ranges that this step has touched
        for operand, where in zip(step.operands, touched[i], strict=True):
            moved, before = _in_lines(layer, operand, line), known.get(where, 0)
            share = max(0, moved - before) / max(operand.nbytes, 1)
            known[where] = max(moved, before)
            written = operand is step.operands[-1]
            if fills or not written:
                ages = _ages(touched, i, where, capacity)
                found[i] += share * sum(max(0, n - max(0, capacity - since)) for n, since in ages)
            if written:
                found[i] += max(0, moved - capacity)
                for k, left in _leaves(plan, touched, i, min(moved, capacity), capacity):
                    found[k] += left
    return [int(total) for total in found]


def _leaves(plan, touched: Sequence, i: int, kept: int, capacity: int) -> Iterator[tuple[int, int]]:
    """The later steps that need the place of the written bytes that a cache has ``kept`` after step i, with the number
    of these bytes. The next step that writes any of them is taken to write all; one that reads any, to read all.
    """
    space, *own = touched[i][-1]
    since = _Union()
    for k in (n % len(touched) for n in range(i + 1, i + len(touched))):
        used = [
            operand is plan.steps[k].operands[-1]
            for operand, (other, *part) in zip(plan.steps[k].operands, touched[k], strict=True)
            if other == space and part[0] < own[1] and own[0] < part[1]
        ]
        if any(used):
            return
        if used:
            since = _Union()
            continue
        for one in touched[k]:
            since.add(*one)
        left = max(0, min(kept, capacity - since.bytes))
        if left < kept:
            yield k, kept - left
        kept = left
        if not kept:
            return


def _in_lines(layer: Layer, operand, line: int) -> int:
    """The bytes of the lines of an operand that a layer reads or writes: of all lines, or of those with values of its
    part.
    """
    part = _part(layer, operand)
    if part is None:
        return operand.nbytes
    size = operand.nbytes // prod(operand.shape)
    row = part.shape[-1] * size
    starts = operand.offset % line + (part.start + np.arange(prod(part.shape[:-1])) * part.row) * size
    first, last = starts // line, (starts + row - 1) // line
    count = int((last - first + 1).sum() - (first[1:] == last[:-1]).sum())
    return min(operand.nbytes, count * line)


def _ranges(step) -> list[tuple]:
    """Space, first byte and end of each operand."""
    return [((t.space, t.index), t.offset, t.offset + t.nbytes) for t in step.operands]


def _ages(touched: Sequence, i: int, where: tuple, most: int) -> Iterator[tuple[int, int]]:
    """Bytes of an operand of step i, and for each number the distinct bytes that were touched since their last use, or
    ``most``. The caller writes inputs between two passes.
    """
    space, *rest = where
    left, since = [tuple(rest)], _Union()
    if space[0] == "input":
        turns = range(i - 1, -1, -1)
    else:
        turns = (k % len(touched) for k in range(i - 1, i - 1 - len(touched), -1))
    for k in turns:
        for other, *part in touched[k]:
            if other == space:
                left, hit = _without(left, *part)
                if hit:
                    yield hit, since.bytes
        if not left:
            return
        if since.bytes >= most:
            break
        for one in touched[k]:
            since.add(*one)
    yield sum(end - start for start, end in left), since.bytes


def _without(ranges: list[tuple[int, int]], start: int, end: int) -> tuple[list[tuple[int, int]], int]:
    """The ranges without those bytes, and how many these were."""
    kept = [r for a, b in ranges for r in ((a, min(b, start)), (max(a, end), b)) if r[0] < r[1]]
    return kept, sum(b - a for a, b in ranges) - sum(b - a for a, b in kept)


class _Union:
    """Distinct bytes of ranges in several spaces."""

    def __init__(self):
        self.ranges: dict[object, list[tuple[int, int]]] = {}
        self.bytes = 0

    def add(self, space, start: int, end: int) -> None:
        apart = []
        for a, b in self.ranges.get(space, ()):
            if b < start or a > end:
                apart.append((a, b))
            else:  # one range from here on
                self.bytes -= b - a
                start, end = min(a, start), max(b, end)
        self.ranges[space] = [*apart, (start, end)]
        self.bytes += end - start
