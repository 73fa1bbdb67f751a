"""The workers of a Dask cluster, with the calls of `tuning.workers.Workers`.

Dask transports jobs and keeps the list of workers; this module assigns jobs to workers. A job is in exactly one of the
states *waiting*, *at a worker* and *done*, so that none is lost or counted twice:

- if a worker is killed, leaves or hangs, its jobs run elsewhere. A worker that hung takes part again when it answers,
  and a new one may join at any time;
- a job whose process crashes or takes too long has failed, as on this machine; if memory may have been short, it is
  first tried on another worker;
- a worker whose `facts` differ from this machine's is left out, and a message names it;
- without the scheduler, or without any worker, for ``PATIENCE`` seconds the search ends. All completed jobs are in its
  log.

A worker's results are JSON and are checked. Dask itself unpickles its peers' messages, so a cluster is trusted.
"""

from __future__ import annotations

import pickle
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tvm_mobilenet.cluster import facts, task
from tvm_mobilenet.cluster.scheduler import Gone, Scheduler
from tvm_mobilenet.errors import ClusterError
from tvm_mobilenet.files import json_text
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.tuning.pace import Pace
from tvm_mobilenet.tuning.workers import GRACE_SECONDS, START_SECONDS, Done

PATIENCE = 60.0  # seconds without the scheduler or without any worker
LOOK_SECONDS = 1.0  # longest time between checks of the state
LOST_TRIES = 5  # workers that may be lost with a job before it counts as failed
FAILED_TRIES = 2  # workers on which a job may run out of memory
GOES_ON = "all completed trials are kept: the same command continues when it is back"


@dataclass
class _Job:
    """A job that is not done."""

    job: object
    data: bytes
    deadline: float = 0.0
    at: _Worker | None = None
    lost: int = 0
    failed: int = 0
    avoid: set[str] = field(default_factory=set)  # addresses


@dataclass
class _Worker:
    """A worker that takes part, or may do so."""

    address: str
    threads: int
    name: str = ""
    machine: str = ""
    slots: int = 0
    jobs: dict[str, _Job] = field(default_factory=dict)


class DaskWorkers:
    """The workers of a cluster; use it as a context.

    Parameters
    ----------
    address : str
        The scheduler's address in Dask's form: ``tcp://host:8786``.
    evaluate : object
        Called in a process of a worker with one job. ``pack`` converts its result to plain data there, ``unpack``
        converts these back here.
    timeout : float
        Seconds that a job may take.
    debug : bool
        Let processes write to their worker's stderr.
    threads : int
        Threads of a kernel, if a worker runs it on its own machine.
    alone : bool
        A job measures the machine it runs on: one at a time on each.
    cpu : bool
        A job runs code for this machine's CPU, so workers must have the same.
    say : callable
        Called with one line for each event of a worker.
    patience : float
        Seconds without the scheduler or without any worker until the search ends.

    Raises
    ------
    ClusterError
        No scheduler answers at the address, or no worker can take part.
    """

    starting = START_SECONDS  # limit of a process's start, in addition to a job's limit

    def __init__(
        self,
        address: str,
        evaluate,
        *,
        timeout: float = 60.0,
        debug: bool = False,
        threads: int = 1,
        alone: bool = False,
        cpu: bool = False,
        say: Callable[[str], None] = lambda line: None,
        patience: float = PATIENCE,
    ):
        self._how, self._timeout, self._alone = (timeout, debug, threads), timeout, alone
        self._say, self._patience = say, patience
        self._evaluate, self._packed = evaluate, pickle.dumps(evaluate)
        self._search = secrets.token_hex(8)
        self._here = facts.of_process() | (facts.of_cpu() if cpu else {})
        self._compiles = facts.of_compiler() if getattr(evaluate, "compiles", True) else {}
        self._workers: dict[str, _Worker] = {}  # workers that take part
        self._asked: dict[str, _Worker] = {}  # workers that were asked for their facts
        self._refused: dict[str, str] = {}  # reasons by address
        self._jobs: dict[str, _Job] = {}  # by key, those at a worker
        self._waiting: deque[_Job] = deque()
        self._away = False  # whether the scheduler is away
        self._folder = TemporaryFolder()
        self.pace = Pace()
        self._seen = time.monotonic()
        try:
            self._scheduler = Scheduler(address)
        except BaseException:
            self._folder.close()
            raise
        try:
            while not self._workers:
                self._step(LOOK_SECONDS)
        except BaseException:
            self.close()
            raise

    # ---- calls of a search

    @property
    def idle(self) -> int:
        """Number of jobs that may be submitted; 1 if there is no worker now, so that the search waits for one."""
        slots = sum(worker.slots for worker in self._workers.values())
        return max(0, max(1, slots) - self.busy)

    @property
    def busy(self) -> int:
        return len(self._jobs) + len(self._waiting)

    def submit(self, job: object) -> None:
        """Submit a job to any worker."""
        self._waiting.append(_Job(job, pickle.dumps(job)))
        self._send_waiting()

    def wait(self, timeout: float | None = None) -> list[Done]:
        """Wait until a job ends, or for ``timeout`` seconds; return the jobs that ended.

        Raises
        ------
        ClusterError
            The scheduler does not answer, or there has been no worker for too long.
        """
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        done: list[Done] = []
        while not done and self.busy and (left := end - time.monotonic()) > 0:
            done = self._step(min(left, LOOK_SECONDS))
        return done

    def close(self) -> None:
        """End this search's processes on all workers; workers that it cannot reach end them by themselves."""
        self._scheduler.close(lambda run: run(task.end, self._search, list(self._workers)))
        self._folder.close()

    def __enter__(self) -> DaskWorkers:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    # ---- state of the workers

    def _step(self, seconds: float) -> list[Done]:
        """Process the events of a number of seconds; return jobs that ended."""
        done: list[Done] = []
        for key, told in self._scheduler.events(seconds):
            if key == "members":
                done += self._members(told)
            elif key in self._jobs:
                done += self._ended(key, told)
            elif key.startswith(("who-", "begin-")):
                what, _, address = key.partition("@")
                self._answered(what.partition("-")[0], address, told)
        if not self._scheduler.connected:
            self._disconnected()
        now = time.monotonic()
        for key, job in list(self._jobs.items()):
            if now > job.deadline and key in self._jobs:
                done += self._hangs(job.at)
        self._send_waiting()
        self._require(now)
        for one in done:
            self.pace.count(one.seconds)
        return done

    def _disconnected(self) -> None:
        """Note that the scheduler is gone, with its jobs in transit, which wait for its return."""
        self._waiting.extend([self._release(key) for key in list(self._jobs)])
        self._workers, self._asked, self._away = {}, {}, True
        self.pace.has(0)

    def _require(self, now: float) -> None:
        """Raise if there is no scheduler or worker left to wait for."""
        if self._workers:
            self._seen = now
        waited = self._patience + (self.starting if self._asked else 0.0)
        if now - self._seen <= waited:
            return
        where = f"the Dask scheduler at {self._scheduler.address}"
        if self._away:
            raise ClusterError(f"{where} has been gone for {waited:.0f} s", GOES_ON)
        if self._refused:
            why = "; ".join(list(self._refused.values())[:3])
            raise ClusterError(
                f"no worker of {where} can take part: {why}", "install the same versions there: docs/guides/cluster.md"
            )
        raise ClusterError(
            f"{where} has had no worker{' that answers' * bool(self._asked)} for {waited:.0f} s",
            f"start some: dask worker {self._scheduler.address}; all completed trials are kept",
        )

    # ---- workers

    def _members(self, found: dict[str, int]) -> list[Done]:
        """Update the list of workers."""
        self._away = False
        done: list[Done] = []
        for address in [address for address in (*self._workers, *self._asked) if address not in found]:
            self._asked.pop(address, None)
            worker = self._workers.pop(address, None)
            self._scheduler.forget_shared()
            if worker:
                self._say(f"worker {worker.name} left; others run its jobs")
                done += self._lose(worker)
        self._refused = {address: why for address, why in self._refused.items() if address in found}
        for address, threads in found.items():
            if address not in self._workers and address not in self._asked and address not in self._refused:
                self._ask(_Worker(address, threads))
        self._count()
        return done

    def _ask(self, worker: _Worker) -> None:
        self._asked[worker.address] = worker
        self._scheduler.send(f"who-{secrets.token_hex(8)}@{worker.address}", worker.address, task.describe)

    def _answered(self, what: str, address: str, told: dict | Exception) -> None:
        """Process a worker's facts, or those of its processes' compiler."""
        worker = self._asked.get(address)
        if worker is None:
            return
        try:
            different = self._differs(worker, what, _returned(told))
        except Gone:
            del self._asked[address]  # it is asked again if it is still there
            return
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            different = f"it cannot work on this: {e}"
        if different:
            del self._asked[address]
            self._refuse(worker, different)
        elif what == "who":
            worker.slots = 1 if self._alone else worker.threads
            how = (self._search, self._packed, *self._how, worker.slots)
            self._scheduler.send(f"begin-{secrets.token_hex(8)}@{address}", address, task.begin, *how, large=1)
        else:
            self._workers[address] = self._asked.pop(address)
            self._count()

    def _differs(self, worker: _Worker, what: str, told: dict) -> str:
        """The reason why a worker cannot take part; empty if it can."""
        if what == "begin":
            if told["failure"]:
                return f"its processes cannot start: {told['failure']}"
            return facts.differences(self._compiles, json_text.parse(told["value"]))
        worker.name, worker.machine = str(told["name"]), str(told["machine"])
        others = (w for w in (*self._workers.values(), *self._asked.values()) if w is not worker)
        if self._alone and any(other.machine == worker.machine for other in others):
            return f"another worker measures on {worker.machine} already"
        return facts.differences(self._here, told["facts"])

    def _refuse(self, worker: _Worker, why: str) -> None:
        self._refused[worker.address] = f"{worker.name or worker.address}: {why}"
        self._say(f"worker {worker.name or worker.address} is left out: {why}")

    def _count(self) -> None:
        self.pace.has(sum(worker.slots for worker in self._workers.values()))

    def _hangs(self, worker: _Worker) -> list[Done]:
        """Note that a worker did not answer in time: its jobs run elsewhere, and it may come back."""
        self._say(f"worker {worker.name} does not answer; others run its jobs")
        self._workers.pop(worker.address, None)
        done = self._lose(worker)
        self._ask(_Worker(worker.address, worker.threads))
        self._count()
        return done

    def _lose(self, worker: _Worker) -> list[Done]:
        done = []
        for key in list(worker.jobs):
            self._scheduler.forget(key)
            done += self._lost(self._release(key), worker)
        return done

    # ---- jobs

    def _send_waiting(self) -> None:
        """Give waiting jobs to free workers; workers that lost or failed a job get it last."""
        for _ in range(len(self._waiting)):
            job = self._waiting.popleft()
            fit = [worker for worker in self._workers.values() if worker.address not in job.avoid]
            free = [w for w in fit or self._workers.values() if len(w.jobs) < w.slots]
            worker = min(free, key=lambda w: len(w.jobs) / w.slots, default=None)
            if worker is None:
                self._waiting.append(job)
                continue
            key = f"job-{secrets.token_hex(12)}"
            job.at, job.deadline = worker, time.monotonic() + self._timeout + 2 * GRACE_SECONDS + self.starting
            worker.jobs[key] = self._jobs[key] = job
            self._scheduler.send(key, worker.address, task.run, self._search, job.data)

    def _release(self, key: str) -> _Job:
        job = self._jobs.pop(key)
        job.at.jobs.pop(key, None)
        return job

    def _ended(self, key: str, told: dict | Exception) -> list[Done]:
        """Process the end of a job: it is done, or runs again."""
        worker, job = self._jobs[key].at, self._release(key)
        try:
            told = _returned(told)
            if told.get("over"):  # the worker does not know this search, or considers it ended
                self._workers.pop(worker.address, None)
                return [*self._lose(worker), *self._lost(job, worker)]
            seconds, failure, value = float(told["seconds"]), str(told["failure"]), None
            if failure and told["again"]:
                return self._again(job, worker, failure, seconds)
            if not failure:
                value = self._evaluate.unpack(job.job, json_text.parse(told["value"]), self._folder.path)
        except Gone:
            return self._lost(job, worker)
        except (ValueError, KeyError, TypeError) as e:
            self._workers.pop(worker.address, None)
            self._refuse(worker, f"it sent no valid result: {e}")
            return [*self._lose(worker), *self._lost(job, worker)]
        self.pace.bytes += len(job.data) + len(failure or told["value"])
        return [Done(job.job, value, failure, seconds)]

    def _lost(self, job: _Job, worker: _Worker) -> list[Done]:
        """Run a lost worker's job elsewhere, unless too many workers were lost with it."""
        job.lost += 1
        job.avoid.add(worker.address)
        if job.lost >= LOST_TRIES:
            return [Done(job.job, None, f"Lost: the workers went away on {job.lost} tries", 0.0)]
        self._waiting.appendleft(job)
        return []

    def _again(self, job: _Job, worker: _Worker, failure: str, seconds: float) -> list[Done]:
        """Run a job that may have failed for lack of memory once more, elsewhere."""
        job.failed += 1
        job.avoid.add(worker.address)
        if job.failed >= FAILED_TRIES:
            return [Done(job.job, None, failure, seconds)]
        self._waiting.appendleft(job)
        return []


def _returned(told: dict | Exception) -> dict:
    """Return a worker's answer, or raise the reason why there is none."""
    if isinstance(told, Exception):
        raise told
    return told
