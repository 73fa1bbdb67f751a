"""Code that runs in a Dask worker: it gives jobs to its own processes and returns plain data.

A job may compile and execute new machine code. So a process of `tuning.workers` runs it, which may crash, hang or take
too much memory without harm to the worker. It is killed with the worker, after ``IDLE_SECONDS`` without a job, and when
its search ends.

The scheduler imports this module too: it imports nothing slow.
"""

from __future__ import annotations

import json
import pickle
import threading
import time
from dataclasses import dataclass, field

from tvm_mobilenet.tuning.workers import Workers

IDLE_SECONDS = 60.0  # without a job, after which a search's processes are ended
FORGET_SECONDS = 3600.0  # without a job, after which a search is forgotten, since its command is gone
LOOK_SECONDS = 0.5  # between looks at the memory of a process
FACTS = b"facts"  # the job that asks for a process's compiler
_KILLED = "SIGKILL"  # sent by the system when memory is short, never by this code

_searches: dict[str, _Search] = {}
_lock = threading.Lock()


class Plain:
    """An evaluator whose jobs are pickled and whose results are JSON; runs in a process of a worker."""

    def __init__(self, evaluate):
        self._evaluate = evaluate

    def prepare(self) -> None:
        """Call the evaluator's own ``prepare``."""
        getattr(self._evaluate, "prepare", lambda: None)()

    def __call__(self, job: bytes) -> str:
        if job == FACTS:
            from tvm_mobilenet.cluster import facts

            return json.dumps(facts.of_compiler() if getattr(self._evaluate, "compiles", True) else {})
        return json.dumps(self._evaluate.pack(self._evaluate(pickle.loads(job))))


@dataclass
class _Search:
    """A worker's data of one search."""

    evaluate: object
    timeout: float
    debug: bool
    threads: int
    limit: float | None  # memory limit of a process in bytes
    free: list[Workers] = field(default_factory=list)
    used: float = 0.0
    closed: bool = False

    def take(self) -> Workers:
        with _lock:
            if self.free:
                return self.free.pop()
        return Workers(self.evaluate, 1, self.timeout, self.debug, self.threads)

    def put(self, pool: Workers) -> None:
        with _lock:
            self.used = time.monotonic()
            if not self.closed:
                self.free.append(pool)
                return
        pool.close()

    def close(self) -> None:
        with _lock:
            self.closed, pools, self.free = True, self.free, []
        for pool in pools:
            pool.close()


def describe() -> str:
    """JSON of this worker: its name, machine and facts."""
    from distributed import get_worker

    from tvm_mobilenet.cluster import facts

    told = {"name": str(get_worker().name), "machine": facts.machine()}
    return json.dumps({**told, "facts": facts.of_process() | facts.of_cpu()})


def begin(search: str, evaluate: bytes, timeout: float, debug: bool, threads: int, slots: int) -> str:
    """Start a process of a search, and ask for its compiler; JSON of `run`."""
    from distributed import get_worker

    limit = get_worker().memory_manager.memory_limit
    with _lock:
        if search not in _searches:
            limit = limit / slots if limit else None
            made = _Search(Plain(pickle.loads(evaluate)), timeout, debug, threads, limit)
            made.used = time.monotonic()
            _searches[search] = made
            threading.Thread(target=_tidy, args=(search, made), name="tidy", daemon=True).start()
    return run(search, FACTS)


def run(search: str, job: bytes) -> str:
    """Run a job in a process of a search; JSON with its ``value``, a text, or the reason of its failure.

    ``again``: the failure may be the worker's, such as too little memory. ``over``: this worker does not know the
    search.
    """
    known = _searches.get(search)
    if known is None:
        return json.dumps({"over": True})
    started = time.monotonic()
    pool = known.take()
    try:
        pool.submit(job)
        while not (done := pool.wait(LOOK_SECONDS)):
            if known.closed:
                done = pool.stop("its search ended")
                break
            if known.limit and pool.resident > known.limit:
                done = pool.stop(f"memory: more than the {known.limit / 2**20:,.0f} MiB of a worker's process")
                break
        (one,) = done
    except BaseException as e:  # the process cannot start
        pool.close()
        failure = getattr(e, "message", f"{type(e).__name__}: {e}")
        return json.dumps({"failure": failure, "again": True, "seconds": time.monotonic() - started})
    known.put(pool)
    again = one.failure.startswith("memory: ") or (one.failure.startswith("crash: ") and one.failure.endswith(_KILLED))
    return json.dumps({"value": one.value, "failure": one.failure, "again": again, "seconds": one.seconds})


def end(search: str) -> None:
    """End the processes of a search."""
    known = _searches.pop(search, None)
    if known:
        known.close()


def _tidy(name: str, search: _Search) -> None:
    """End the processes of searches without jobs."""
    while not search.closed:
        time.sleep(1.0)
        with _lock:
            unused = time.monotonic() - search.used
            pools, search.free = (search.free, []) if unused > IDLE_SECONDS else ([], search.free)
            if unused > FORGET_SECONDS:
                search.closed = _searches.pop(name, None) is not None
        for pool in pools:
            pool.close()
