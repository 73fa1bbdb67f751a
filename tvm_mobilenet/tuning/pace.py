"""The rate of finished jobs and the use of workers, in a few words for the user."""

from __future__ import annotations

import time
from collections.abc import Callable

SHOWN_AFTER = 2  # with fewer jobs there is no rate


class Pace:
    """Counts jobs, their time and bytes sent, and the time of the workers.

    Parameters
    ----------
    clock : callable
        Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self.workers, self.jobs, self.seconds, self.bytes, self.there = 0, 0, 0.0, 0, 0.0
        self._began: float | None = None
        self._looked = 0.0

    def has(self, workers: int) -> None:
        """Record the number of workers from now on."""
        now = self._clock()
        if self._began is None and workers:
            self._began = now
        self.there += self.workers * (now - self._looked)
        self.workers, self._looked = workers, now

    def count(self, seconds: float, sent: int = 0) -> None:
        """Record a job: its running time in seconds, and the bytes sent to and from it."""
        self.jobs, self.seconds, self.bytes = self.jobs + 1, self.seconds + seconds, self.bytes + sent

    @property
    def share(self) -> float:
        """The share of the workers' time in finished jobs; 0..1."""
        self.has(self.workers)
        return min(1.0, self.seconds / self.there) if self.there else 0.0

    @property
    def rate(self) -> float:
        """Jobs per second since the first worker started."""
        return self.jobs / max(1e-9, self._clock() - self._began) if self._began is not None else 0.0

    def __str__(self) -> str:
        words = [f"{self.workers} worker{'s' * (self.workers != 1)}"]
        if self.jobs >= SHOWN_AFTER:
            rate = self.rate  # the clock goes on
            often = f"a job every {1 / rate:,.0f} s" if 0 < rate < 1 else f"{rate:.2g} jobs a second"
            words += [often, f"{self.share:.0%} of their time in jobs"]
            words += [f"{self.bytes / self.jobs:,.0f} bytes a job"] * bool(self.bytes)
        return ", ".join(words)
