"""Caches of the emulated board: the traffic of each task of a kernel between L1, L2, L3 and DRAM.

Every load and store of the executed code, at its real address, goes through the caches of the target's core (sizes,
ways and sharing from its data): set-associative, least recently used out first, allocated by reads and writes alike,
written back when evicted. The state persists from one kernel to the next, so the next layer finds the data that a layer
left in L2. Two machines are followed at once: one core that runs all tasks in turn, and as many cores as there are
tasks, each with private caches. The requests of these cores to the shared levels are interleaved as if the tasks ran
side by side. Prefetching is not modelled, because it changes the time of a fill but hardly the number of fills.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.boards.cost import native

LINE = 64  # bytes
_LOG = 1 << 23  # most requests of private caches that one region may log; memory is used as they come


@dataclass(frozen=True)
class Traffic:
    """Lines moved below each level; the level nearest to the core is first.

    Parameters
    ----------
    fills, writebacks : tuple of float
        Lines read into a level from the next, and lines written from it to the next.
    """

    fills: tuple[float, ...]
    writebacks: tuple[float, ...]

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            *(
                tuple(a + b for a, b in zip(x, y, strict=True))
                for x, y in ((self.fills, other.fills), (self.writebacks, other.writebacks))
            )
        )

    @property
    def bytes(self) -> tuple[float, ...]:
        """Bytes moved below each level; the last is DRAM's."""
        return tuple(LINE * (f + w) for f, w in zip(self.fills, self.writebacks, strict=True))

    @property
    def l1_misses(self) -> float:
        return self.fills[0]

    @property
    def dram_fill_bytes(self) -> float:
        return LINE * self.fills[-1]

    @property
    def dram_writeback_bytes(self) -> float:
        return LINE * self.writebacks[-1]


class Caches:
    """The caches of one core, and of several such cores, with their state between kernels.

    Parameters
    ----------
    core : targets.Core
    cores : int
    scratch : (int, int, int)
        Address, bytes and number of the threads' scratch memories; for one core they count as one.
    """

    def __init__(self, core, cores: int, scratch: tuple[int, int, int]):
        levels = [c for c in (core.l1d, core.l2, core.l3) if c]
        shared = next((k for k, c in enumerate(levels) if c.shared), len(levels))
        self.cores, self.levels, self.shared = cores, len(levels), shared
        self._one = [_lines(c) for c in levels]
        self._private = [[_lines(c) for c in levels[:shared]] for _ in range(cores)]
        self._shared = [_lines(c) for c in levels[shared:]]
        self._log = np.empty(_LOG, np.uint64)
        s = self.struct = native.MemoryStruct()
        s.levels, s.shared, s.room, s.log = self.levels, shared, _LOG, self._log.ctypes.data
        s.scratch, s.stride, s.slots = scratch
        for k, c in enumerate(levels):
            for level in (s.one[k], s.many[k]):
                level.sets, level.ways = c.bytes // (c.ways * c.line), c.ways
            s.one[k].lines = self._one[k].ctypes.data
            if k >= shared:
                s.many[k].lines = self._shared[k - shared].ctypes.data
        self.on(0)

    def forget(self):
        """Empties all caches."""
        for lines in (*self._one, *self._shared, *(x for p in self._private for x in p)):
            lines.fill(~np.uint64(0))
        self.struct.logged = 0
        self._tally()

    def on(self, thread: int):
        """The following accesses run on this thread and use its private caches."""
        for k, lines in enumerate(self._private[thread % self.cores]):
            self.struct.many[k].lines = lines.ctypes.data

    def touch(self, address: int, nbytes: int, written: bool):
        """Record that code which is not emulated reads or writes a range of memory."""
        if nbytes:
            native.library().touch(
                ctypes.byref(self.struct), ctypes.c_uint64(address), ctypes.c_uint64(nbytes), ctypes.c_uint64(written)
            )

    def take(self) -> tuple[Traffic, Traffic, np.ndarray]:
        """Since the last take: traffic of one core, traffic of this thread's private caches, its requests to shared
        ones."""
        log = self._log[: self.struct.logged].copy()
        self.struct.logged = 0
        one, many = self._tally()
        return one, many, log

    def share(self, logs: list[np.ndarray]) -> Traffic:
        """Put the requests of tasks that run side by side through the shared levels; return their traffic there."""
        log = np.concatenate(logs) if logs else np.empty(0, np.uint64)
        starts = np.cumsum([0, *map(len, logs)]).astype(np.uint64)
        at = np.empty(len(logs) + 1, np.uint64)
        self._tally()
        native.library().share(
            ctypes.byref(self.struct),
            ctypes.c_void_p(log.ctypes.data),
            ctypes.c_void_p(starts.ctypes.data),
            ctypes.c_void_p(at.ctypes.data),
            ctypes.c_uint64(len(logs)),
        )
        return self._tally()[1]

    def _tally(self) -> tuple[Traffic, Traffic]:
        found = []
        for levels in (self.struct.one, self.struct.many):
            found.append(
                Traffic(
                    tuple(levels[k].fills for k in range(self.levels)),
                    tuple(levels[k].writebacks for k in range(self.levels)),
                )
            )
            for k in range(self.levels):
                levels[k].fills = levels[k].writebacks = 0
        return found[0], found[1]


def _lines(cache) -> np.ndarray:
    return np.full(cache.bytes // cache.line, ~np.uint64(0), np.uint64)
