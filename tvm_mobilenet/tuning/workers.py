"""Long-lived worker processes: each imports TVM once and then evaluates one job after another.

A job may compile and execute new machine code, so a worker may crash or hang. It is then killed and replaced, and the
job is reported as failed. No process or file of a worker may outlive the search, however that ends:

- The pool is closed (also by an exception such as Ctrl-C): the process group of every worker is killed, including
  linkers.
- The parent is killed: every worker holds the read end of a pipe that only the parent writes to; a thread notices that
  it closes and kills its own group. A shell outside of the group waits for that, and then removes the temporary folder:
  a job that still ran could make it again.
- A worker hangs in native code and its parent is gone: an alarm, set for each job, ends it.

Only the connection comes from `multiprocessing`, not the process: its start methods import the user's ``__main__``
again, and its pools neither kill a single hanging worker nor report its job.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.temporary import TemporaryFolder, remove_after_group
from tvm_mobilenet.tuning.pace import Pace

GRACE_SECONDS = 5  # from the parent's time limit of a job to the worker's own alarm
START_SECONDS = 120


@dataclass(frozen=True)
class Done:
    """A finished job, with a value or the reason of its failure; ``seconds`` is its time."""

    job: object
    value: object
    failure: str
    seconds: float


class _Worker:
    """One process, its connection, and its job."""

    def __init__(self, evaluate: Callable, folder: str, debug: bool, threads: int):
        ours, theirs = connection.Pipe()
        quiet = None if debug else subprocess.DEVNULL
        environment = {**os.environ, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "TVM_NUM_THREADS": str(threads)}
        # Popen passes no other descriptor, so only this process has the write end of its stdin.
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; sys.path[:] = eval(sys.argv[1]); "
                "from tvm_mobilenet.tuning.workers import _serve; _serve(int(sys.argv[2]))",
                repr(sys.path),
                str(theirs.fileno()),
            ],
            stdin=subprocess.PIPE,
            stdout=quiet,
            stderr=quiet,
            pass_fds=[theirs.fileno()],
            env=environment,
            process_group=0,
        )
        theirs.close()
        self.connection = ours
        self.job = None
        self.ready = False
        self.deadline = time.monotonic() + START_SECONDS
        self.started = time.monotonic()
        with contextlib.suppress(OSError):  # if it has already died, `wait` notices the closed connection
            ours.send_bytes(pickle.dumps(evaluate))

    def start(self, job: object, timeout: float) -> None:
        self.job = job
        self.started = time.monotonic()
        self.deadline = self.started + timeout
        with contextlib.suppress(OSError):
            self.connection.send((job, timeout + GRACE_SECONDS))

    def kill(self) -> int:
        """Kill the process and its children; returns its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()
        self.process.stdin.close()
        return self.process.wait()


class Workers:
    """A pool of worker processes; use it as a context.

    Parameters
    ----------
    evaluate : callable
        Called in a worker with one job; it must pickle by reference. Its ``prepare()``, if any, is called once at the
        start and does not count in any job's time.
    count : int
        Processes.
    timeout : float
        Time limit of a job in seconds.
    debug : bool
        Let the workers write to this process's stderr.
    threads : int
        The threads on which a worker may run a kernel on this machine.
    """

    def __init__(
        self, evaluate: Callable, count: int = 2, timeout: float = 60.0, debug: bool = False, threads: int = 1
    ):
        self._evaluate, self._timeout, self._debug, self._threads = evaluate, timeout, debug, threads
        self._folder = TemporaryFolder()
        self._workers: list[_Worker] = []
        self.pace = Pace()
        try:
            for _ in range(count):
                self._workers.append(self._new())
            self.pace.has(count)
        except BaseException:
            self.close()
            raise

    def _new(self) -> _Worker:
        return _Worker(self._evaluate, str(self._folder.path), self._debug, self._threads)

    @property
    def idle(self) -> int:
        """The number of workers without a job; a worker that is still starting can already take one."""
        return sum(worker.job is None for worker in self._workers)

    @property
    def busy(self) -> int:
        return len(self._workers) - self.idle

    def submit(self, job: object) -> None:
        """Give a job, which must not be None, to an idle worker."""
        free = [worker for worker in self._workers if worker.job is None]
        worker = next((worker for worker in free if worker.ready), free[0])
        worker.start(job, self._timeout)
        if not worker.ready:
            worker.deadline += START_SECONDS

    def wait(self, timeout: float | None = None) -> list[Done]:
        """Wait until a job ends, or for ``timeout`` seconds; returns the finished jobs, none if no job is running.

        Raises
        ------
        TvmMobilenetError
            A worker cannot start.
        """
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        done: list[Done] = []
        while not done and self.busy and time.monotonic() < end:
            watched = {worker.connection: worker for worker in self._workers}
            until = min(
                [end, *(worker.deadline for worker in self._workers if worker.job is not None or not worker.ready)]
            )
            ready = connection.wait(list(watched), max(0.0, min(until - time.monotonic(), 3600)))
            for worker in (watched[c] for c in ready):
                done += self._receive(worker)
            for worker in list(self._workers):
                if worker.job is not None and time.monotonic() > worker.deadline:
                    done.append(self._replace(worker, f"timeout: no result in {self._timeout:g} s"))
        for one in done:
            self.pace.count(one.seconds)
        return done

    def stop(self, failure: str) -> list[Done]:
        """Kill the busy workers; returns their jobs, failed for this reason."""
        return [self._replace(worker, failure) for worker in self._workers if worker.job is not None]

    @property
    def resident(self) -> int:
        """Bytes of memory of the workers, without their child processes."""
        found = 0
        for worker in self._workers:
            with contextlib.suppress(OSError), open(f"/proc/{worker.process.pid}/statm", encoding="ascii") as file:
                found += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return found

    def _receive(self, worker: _Worker) -> list[Done]:
        try:
            kind, value, failure = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            if worker.ready and worker.job is None:  # between jobs no result is lost
                self._replace(worker, "")
                return []
            code = self._end(worker)
            what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if not worker.ready:
                raise TvmMobilenetError(f"a worker process cannot start: {what}", "run again with --debug") from None
            return [self._replaced(worker, f"crash: the worker ended with {what}")]
        if kind == "broken":
            raise TvmMobilenetError(f"a worker process cannot start: {failure}", "run again with --debug to see more")
        if kind == "ready":
            worker.ready = True
            worker.started = time.monotonic()
            worker.deadline = worker.started + self._timeout
            return []
        done = Done(worker.job, value, failure, time.monotonic() - worker.started)
        worker.job = None
        return [done]

    def _end(self, worker: _Worker) -> int:
        """The exit code of a worker whose connection closed; it gets a moment to end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(0.5)
        return worker.kill()

    def _replace(self, worker: _Worker, failure: str) -> Done:
        worker.kill()
        return self._replaced(worker, failure)

    def _replaced(self, worker: _Worker, failure: str) -> Done:
        self._workers[self._workers.index(worker)] = self._new()
        return Done(worker.job, None, failure, time.monotonic() - worker.started)

    def close(self) -> None:
        """Kill all workers and remove their temporary files."""
        for worker in self._workers:
            worker.kill()
        self._workers = []
        self._folder.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def keep_busy(
    pool,
    next_job: Callable[[], object | None],
    take: Callable[[Done], None],
    show: Callable[[], None] = lambda: None,
    end: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Submit jobs while there are jobs, idle workers and time; take results until nothing runs.

    Parameters
    ----------
    pool : Workers or Fleet
    next_job : callable
        The next job, or None if there is none now; a finished job may allow others.
    take : callable
        Called with each finished job.
    show : callable
        Called after every change, and every second.
    end : float
        The time by ``clock`` after which no job is submitted.

    Returns
    -------
    bool
        Whether time ran out.
    """
    late = False
    while True:
        while pool.idle and not (late := clock() >= end) and (job := next_job()) is not None:
            pool.submit(job)
        show()
        if not pool.busy:
            return late
        for done in pool.wait(1.0):
            take(done)


def _serve(fd: int) -> None:
    """The main loop of a worker: prepare, then one job after another until the parent is gone."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    packages.collect_rarely()
    parent = connection.Connection(fd)
    try:
        try:
            evaluate = pickle.loads(parent.recv_bytes())
            getattr(evaluate, "prepare", lambda: None)()
        except Exception as e:
            parent.send(("broken", None, f"{type(e).__name__}: {e}"))
            raise
        parent.send(("ready", None, ""))
        while True:
            job, seconds = parent.recv()
            signal.setitimer(signal.ITIMER_REAL, seconds)  # its default action does not need the interpreter
            try:
                result = ("done", evaluate(job), "")
            except Exception as e:  # a candidate that fails is a result, not the end of the search
                text = " ".join(str(e).split())
                result = ("done", None, f"{type(e).__name__}: {text[:500]}")
            signal.setitimer(signal.ITIMER_REAL, 0)
            parent.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the thread below cleans up


def _die_with_parent() -> None:
    while os.read(0, 1):
        pass
    with contextlib.suppress(OSError):
        remove_after_group(os.getpgrp(), os.environ["TMPDIR"])
    os.killpg(0, signal.SIGKILL)
