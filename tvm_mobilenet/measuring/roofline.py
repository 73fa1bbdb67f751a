"""The least time that a kernel call can take on a target: the bounds of its multiply-adds, of the caches, and of DRAM.

After Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", 2009. Three ceilings:

    compute   multiply-adds over the rate of all vector units (the core's ``fma_per_cycle`` and ``vector_bytes``)
    L2        every operand once, over the rate into and out of L1 (the core's ``l1_fill_bytes_per_cycle``)
    DRAM      bytes that no cache can have kept, over the target's bandwidth: parameters, if all of a network's
              exceed the last cache, and the part of an activation that exceeds that cache

Rates are those of the target's files (`targets.memory.Way`); only the clock may be the board's own. Products with the
zeros of padding count, as in the papers, so a kernel that skips them can be slightly faster than the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm_mobilenet.layer import Layer
from tvm_mobilenet.targets import memory

COMPUTE, CACHE, DRAM = "compute", "L2", "DRAM"


@dataclass(frozen=True)
class Roofline:
    """Seconds of each ceiling; ``cache`` is None if the core's file has no rate."""

    compute: float
    cache: float | None
    dram: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.cache or 0.0, self.dram)

    @property
    def binds(self) -> str:
        """``compute``, ``L2`` or ``DRAM``: the ceiling that is the lowest."""
        return max((self.compute, COMPUTE), (self.cache or 0.0, CACHE), (self.dram, DRAM), key=lambda c: c[0])[1]


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


def rooflines(plan, target, threads: int, clock_hz: float | None = None) -> list[Roofline]:
    """The roofline of each step of a plan, on a number of threads.

    Parameters
    ----------
    plan : plan.Plan
    target : targets.Target
    threads : int
        The number of threads, at most the number of the target's cores.
    clock_hz : float, optional
        The board's clock, if it is known.
    """
    most = ceilings(plan, target, threads, clock_hz)
    last = max(cache.bytes for cache in (target.core.l2, target.core.l3) if cache)
    streamed = plan.parameters_bytes > last
    found = []
    for step in plan.steps:
        layer = Layer.parse(step.layer)
        parameters = sum(t.nbytes for t in step.operands if t.space == "parameters")
        activations = [_moved(layer, t) for t in step.operands if t.space != "parameters"]
        far = (parameters if streamed else 0) + sum(max(0, n - last) for n in activations)
        cache = operand_bytes(step) / most.cache if most.cache else None
        found.append(Roofline(layer.mult_adds / most.macs[layer.dtype], cache, far / most.dram))
    return found


def operand_bytes(step) -> int:
    """The bytes that a step reads and writes, every operand once."""
    layer = Layer.parse(step.layer)
    return sum(t.nbytes if t.space == "parameters" else _moved(layer, t) for t in step.operands)


def _moved(layer: Layer, operand) -> int:
    """Bytes of an operand that a layer reads or writes; for a larger tensor, only its part."""
    parts = [p for p in (layer.input_place, layer.output_place) if p.part and p.buffer == operand.shape]
    return prod(parts[0].shape) * operand.nbytes // prod(operand.shape) if parts else operand.nbytes
