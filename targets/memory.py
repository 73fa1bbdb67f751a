"""The cost of moving data between the levels of memory: one model for all users.

Two views of the figures of a core and its board:

``Way``    the most bytes per cycle, or per second, that a path between two levels moves, for one CPU and for all that
           share it. Rooflines and predictions read it.
``Lines``  cycles of a cache line that overlap and prefetching do not hide behind compute. Defaults of schedules and
           fused blocks read it, to rank choices.

`targets.Core.sharers` is the number of CPUs that have their data in one cache at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet.errors import TvmMobilenetError

COUNTED = 64  # bytes for which files give a line's cycles, whatever the core's line size


@dataclass(frozen=True)
class Way:
    """The rate of one CPU, per cycle or per second, and that of all CPUs that share the path."""

    one: float
    every: float

    def of(self, cpus: int) -> float:
        """The joint rate of so many CPUs."""
        return min(self.one * cpus, self.every) if cpus > 1 else self.one


def way_to_l1(core) -> Way | None:
    """Bytes a cycle into and out of the L1; None where the core's ``[model.memory]`` has no rate."""
    table = core.model.get("memory", {})
    fill = table.get("l1_fill_bytes_per_cycle")
    return Way(fill, table.get("l1_fill_bytes_per_cycle_all", fill)) if fill else None


def way_to_dram(target) -> Way:
    """Bytes a second from and to a board's DRAM."""
    return Way(target.dram_bytes_per_second, target.dram_bytes_per_second_all)


@dataclass(frozen=True)
class Rates:
    """Bytes a cycle below each level, for one core and for all cores together; and the share of traffic that no core
    overlaps.
    """

    one: tuple[float, ...]
    every: tuple[float, ...]
    exposed: float
    wake_cycles: float


def rates(core, target) -> Rates:
    """The ways below each level of a core on a target, DRAM's the last.

    Raises
    ------
    TvmMobilenetError
        The core's ``[model.memory]`` lacks a figure.
    """
    table = core.model.get("memory", {})
    try:
        levels = ("l1", "l2") if core.l3 else ("l1",)
        ways = [
            Way(table[f"{level}_fill_bytes_per_cycle"], table[f"{level}_fill_bytes_per_cycle_all"]) for level in levels
        ]
        dram = way_to_dram(target)
        ways.append(Way(dram.one / target.clock_hz, dram.every / target.clock_hz))
        one, every = zip(*((way.one, way.every) for way in ways), strict=True)
        return Rates(one, every, table["exposed"], table["wake_cycles"])
    except KeyError as e:
        raise TvmMobilenetError(
            f"core {core.name}: [model.memory]: missing {e.args[0]}", "see targets/cores/cortex-a72.toml"
        ) from None


@dataclass(frozen=True)
class Lines:
    """Cycles that a line of the core's L1 costs a kernel.

    Parameters
    ----------
    l2, dram : float
        From the L2; from or to DRAM, as one core streams.
    again : float
        From DRAM, for data that a nest reads a second time beside its arithmetic.
    strip : float
        From the L2 under a strip of the dual-issue loop.
    """

    l2: float
    dram: float
    again: float
    strip: float


def lines(core) -> Lines:
    """The cost of cache lines on a core of a target."""
    again = core.limits.again_line_cycles or 4 * core.l2_line_cycles
    counted = core.l2_line_cycles, core.dram_line_cycles, again, core.limits.strip_line_cycles
    return Lines(*(cycles * core.l1d.line / COUNTED for cycles in counted))


def exposed(core) -> float:
    """The share of the smaller of compute and memory that a core cannot overlap; all of it if its file does not say."""
    return core.model.get("memory", {}).get("exposed", 1.0)


def streamed_line_cycles(target) -> float:
    """Cycles for ``COUNTED`` bytes from DRAM, as one core of a target streams."""
    return COUNTED * target.clock_hz / way_to_dram(target).one
