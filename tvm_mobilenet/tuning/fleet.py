"""All boards of an address as one pool for the search: candidates are built here, and run on the next free board.

Worker processes build (`builder`). For each board, a thread uploads, runs, checks and measures (`runner`). A session
may end at any moment:

- the board left (its port is closed): the candidate runs on another board, and the board rejoins when it returns;
- the kernel crashed its process, or never returned: after a second try on another board the candidate has failed;
- the board loses session after session: the fleet pauses it, with a message;
- the board is hot or throttled: it cools down and measures the candidate again; if it stays hot, another board does.

No candidate is lost or counted twice: it is in exactly one of *building*, *ready*, *on a board* or *done*. When no
board is left for ``PATIENCE`` seconds, the search ends with a message; its log is complete, and the same command
continues it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tvm_mobilenet.boards import reach, wire
from tvm_mobilenet.boards.address import Address, parse
from tvm_mobilenet.boards.remote.lender import HOT_C, Lender, is_hot
from tvm_mobilenet.boards.remote.session import Lost
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.terminal.console import say
from tvm_mobilenet.tuning.builder import Builder, Built
from tvm_mobilenet.tuning.candidate import Candidate
from tvm_mobilenet.tuning.runner import Runner
from tvm_mobilenet.tuning.workers import Done, Workers

PATIENCE = 120.0  # seconds without any board
TRIES = 3  # a candidate has failed if it ends so many sessions while the board still answers
COOL_SECONDS = 180.0  # longest time for a board to cool down
_POLL = 0.05
_COUNT_EVERY = 5.0


def of(board: str, target, linker: str | None, pool: Callable, debug: bool, seconds: float = 60.0):
    """A function that makes the fleet of an address, and the present number of its boards; (None, 0) if no fleet is
    needed.

    Parameters
    ----------
    board : str
        The value of ``--board``.
    pool : callable
        ``pool(builder, seconds)`` makes the pool of builders.
    seconds : float
        Time limit of a build, and of a kernel.

    Raises
    ------
    BoardError
        Nothing answers at the address.
    """
    where = parse(board)
    if not where.is_remote:
        return None, 0

    def make() -> Fleet:
        builder, runner = Builder(target, linker), Runner()
        return Fleet(where, target, builder, runner, builders=pool, timeout=seconds, debug=debug, say=say)

    return make, reach(board)


@dataclass
class _Job:
    """A candidate in progress."""

    candidate: Candidate
    built: Built | None = None
    losses: list[str] = field(default_factory=list)
    avoid: set[str] = field(default_factory=set)


class Fleet:
    """The boards behind an address; has the calls of ``Workers`` that a search needs. Use it as a context.

    Parameters
    ----------
    address : Address
        The address of one board, or of all boards of a tracker with a key.
    target : targets.Target
    builder : Builder
        Called in worker processes.
    runner : Runner
        Called in the boards' threads.
    builders : int or callable
        The number of processes that build, or a function ``builders(builder, timeout)`` that makes their pool.
    timeout : float
        Time limit in seconds of a build, and of a kernel.
    say : callable
        Called with a line for each event of a board.
    patience : float
        Seconds without any board until the search ends.

    Raises
    ------
    BoardError
        There is no board at the start.
    """

    def __init__(
        self,
        address: Address,
        target,
        builder: Builder,
        runner: Runner,
        *,
        builders: int | Callable = 2,
        timeout: float = 60.0,
        debug: bool = False,
        say: Callable[[str], None] = lambda line: None,
        patience: float = PATIENCE,
    ):
        self._runner, self._say, self._patience, self._timeout = runner, say, patience, timeout
        self._lender = Lender(address, target, say)
        self._ready: list[_Job] = []
        self._changed = threading.Condition()
        self._done: queue.SimpleQueue = queue.SimpleQueue()
        self._jobs: dict[int, _Job] = {}  # by the candidate's id, until it is done
        self._stopping, self._open = False, 0
        self._seen, self._counted, self._trouble = time.monotonic(), 0.0, ""
        self._threads: list[threading.Thread] = []
        self._started = max(1, self._lender.count())
        make = builders if callable(builders) else lambda *how: Workers(how[0], builders, how[1], debug)
        self._builders = make(builder, timeout)
        try:
            for _ in range(self._started):
                self._add_board()
        except BaseException:
            self.close()
            raise

    @property
    def boards(self) -> int:
        """The number of boards at the start."""
        return self._started

    @property
    def pace(self):
        """The pace of the builders."""
        return self._builders.pace

    @property
    def idle(self) -> int:
        """The number of candidates that may be submitted now; the fleet takes one for each board and each builder."""
        if not self._builders.idle:
            return 0
        return max(0, len(self._threads) + self._builders.pace.workers - len(self._jobs))

    @property
    def busy(self) -> int:
        return len(self._jobs)

    def submit(self, candidate: Candidate) -> None:
        """Build and run a candidate."""
        self._jobs[id(candidate)] = _Job(candidate)
        self._builders.submit(candidate)

    def wait(self, timeout: float | None = None) -> list[Done]:
        """Wait until a candidate is done, or for ``timeout`` seconds, and return the finished ones.

        Raises
        ------
        BoardError
            There has been no board for too long.
        """
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        found: list[Done] = []
        while not found and self._jobs and time.monotonic() < end:
            for built in self._builders.wait(_POLL) if self._builders.busy else ():
                found += self._built(built)
            try:
                while True:
                    found.append(self._finish(self._done.get(timeout=0 if found or self._builders.busy else _POLL)))
            except queue.Empty:
                pass
            self._look_after_boards()
        return found

    def _built(self, built: Done) -> list[Done]:
        job = self._jobs[id(built.job)]
        if built.value is None:
            return [self._finish(Done(job.candidate, None, built.failure, built.seconds))]
        job.built = built.value
        with self._changed:
            self._ready.append(job)
            self._changed.notify_all()
        return []

    def _finish(self, done: Done) -> Done:
        job = self._jobs.pop(id(done.job))
        if job.built:
            job.built.remove()
        return done

    def _look_after_boards(self) -> None:
        now = time.monotonic()
        if self._open:
            self._seen = now
        elif now - self._seen > self._patience:
            raise BoardError(
                f"no board for {self._patience:.0f} s: {self._trouble or 'none came'}",
                "all trials are in the log: the same command goes on when a board is there",
            )
        if now - self._counted > _COUNT_EVERY:
            self._counted = now
            try:
                for _ in range(self._lender.count() - len(self._threads)):
                    self._say("another board has come")
                    self._add_board()
            except BoardError as e:  # a tracker that is being restarted
                self._trouble = e.message

    def _add_board(self) -> None:
        thread = threading.Thread(target=self._serve, name="board", daemon=True)
        self._threads.append(thread)
        thread.start()

    # ---- a board's thread

    def _serve(self) -> None:
        board = None
        while not self._stopping:
            try:
                if board is None:
                    board = self._lender.open()
                    board.seconds = self._timeout
                    self._open += 1
                    continue
            except BoardError as e:
                self._trouble = e.message
                time.sleep(0.5)
                continue
            job = self._take(board.where)
            if job is None:
                continue
            try:
                done = self._run_on(board, job)
            except Lost as e:
                board = self._lose(board)
                self._lost(job, e, self._lender.lost(e))
                continue
            if done is None:
                job.avoid.add(board.where)
                board = self._lose(board)
                self._again(job)
                continue
            self._done.put(done)
            if not self._lender.cool(board):
                board = self._lose(board)
        if board is not None:
            self._lose(board)

    def _lose(self, board) -> None:
        self._open -= 1
        board.close()

    def _take(self, where: str) -> _Job | None:
        """The next candidate for a board: one that did not fail there, as long as others could run it."""
        with self._changed:
            if not self._ready:
                self._changed.wait(0.2)
            for job in self._ready:
                if where not in job.avoid or self._open <= 1:
                    self._ready.remove(job)
                    return job
            if self._ready:  # all of these failed on this board: let others try them first
                self._changed.wait(0.2)
        return None

    def _run_on(self, board, job: _Job) -> Done | None:
        """The outcome; None if the board stays too hot for a valid measurement."""
        started = time.monotonic()
        outcome, failure = None, ""
        try:
            outcome = self._runner.run(job.built, board)
            end = time.monotonic() + COOL_SECONDS
            while is_hot(board.state()) and time.monotonic() < end:
                self._say(f"{board.where} is above {HOT_C:.0f} °C or throttled: it cools down, and measures again")
                if not self._lender.cool(board):
                    return None
                outcome = self._runner.run(job.built, board)
            self._lender.well(board.where)
        except Lost:
            raise
        except Exception as e:
            failure = f"{type(e).__name__}: {' '.join(getattr(e, 'message', str(e)).split())[:500]}"
        return Done(job.candidate, outcome, failure, time.monotonic() - started)

    def _lost(self, job: _Job, error: Lost, stays: bool) -> None:
        """Decide about a candidate whose session ended: try another board, or report a failure.

        ``stays``: the board still answers, so the candidate may be at fault.
        """
        if stays:
            job.losses.append(error.message)
            job.avoid.add(error.where)
        if len(job.losses) >= (2 if error.crashed else TRIES):
            self._done.put(Done(job.candidate, None, f"Lost: {job.losses[-1]}, as on {len(job.losses)} tries", 0.0))
            return
        self._again(job)

    def _again(self, job: _Job) -> None:
        with self._changed:
            self._ready.insert(0, job)
            self._changed.notify_all()

    def close(self) -> None:
        """End all sessions and builders."""
        self._stopping = True
        with self._changed:
            self._changed.notify_all()
        self._builders.close()
        self._lender.close()
        for thread in self._threads:
            thread.join(2 * wire.SILENCE_SECONDS)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_) -> None:
        self.close()
