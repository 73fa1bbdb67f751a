"""Several boards at once: whatever they do, each candidate is counted once, and the log is that of one board."""

import contextlib
import itertools
import queue
import random
import threading
import time

import pytest
from tvm_mobilenet.tune_logs.log import Journal, trials_of

from tests.boards.test_remote import fault
from tests.support.agents import Agent, free_port, server_of_tvm
from tvm_mobilenet import targets
from tvm_mobilenet.boards import address
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tuning import fleet
from tvm_mobilenet.tuning import session as tuning
from tvm_mobilenet.tuning.builder import Builder
from tvm_mobilenet.tuning.candidate import Candidate, Outcome
from tvm_mobilenet.tuning.runner import Runner

HOST = targets.load("host")
LAYERS = ("pointwise m16 n16 k16 f32 relu6", "depthwise 8x8x16 3x3 p1,1,1,1 f32 relu6", "dense m1 n32 k16 f32")
POINTS = 4  # of each layer's space, so that it is searched to its end


class Run(Runner):
    """Really runs and checks on the board; the cost is the same everywhere, so that logs can be compared.

    ``act`` is called before the fifth run, in the middle of a search; or before every so many.
    """

    def __init__(self, act=lambda: None, every: int = 0):
        super().__init__()
        self.act, self.every, self.runs = act, every, 0

    def run(self, built, board):
        candidate = built.candidate
        self.runs += 1
        if self.runs % self.every == 0 if self.every else self.runs == 5:
            self.act()
        super().run(built, board)
        cost = random.Random(candidate.layer + repr(sorted(candidate.decisions.items()))).uniform(1e-6, 2e-6)
        return Outcome(cost, "s", False, 1e-7, cost)


def prepared(board, log, points=POINTS):
    """The search of some layers, over the first points of their spaces."""
    work = tuning.prepare({Layer.parse(name): 1 for name in LAYERS}, HOST, board, log, points)
    for layer in work.searches.values():
        default = layer.space.default
        layer.starts = [default, *(p for p in itertools.islice(layer.space.points(), points) if p != default)][:points]
    work.near.clear()
    return work


def tuned(board: str, log, run=None, lines=None, points=POINTS):
    lines, run = [] if lines is None else lines, run or Run()

    def pool():
        run.fleet = fleet.Fleet(
            address.parse(board),
            HOST,
            Builder(HOST),
            run,
            builders=1,
            timeout=300.0,
            say=lines.append,
            patience=300.0,
        )
        return run.fleet

    work = prepared("shelf", log, points)
    ended, new = tuning.search(work, None, 3000.0, 1, pool=pool)
    return ended, new, lines


def lost(log) -> list[str]:
    """Candidates that were blamed for what boards did."""
    return [r.failure for r in trials_of(log).records() if r.failure.startswith(("Lost", "BoardError"))]


def stripped(path):
    """The log without what differs from run to run."""
    return [{k: v for k, v in vars(r).items() if k not in ("seconds", "versions")} for r in Journal(path).records()]


@pytest.mark.full  # one board that leaves is below
def test_boards_that_are_killed_at_random_give_the_log_of_one(tmp_path):
    points = 2 * POINTS
    with Agent() as alone:
        assert tuned(alone.url, tmp_path / "one.jsonl", points=points)[:2] == ("done", points * len(LAYERS))
    due, chance = queue.SimpleQueue(), random.Random(0)
    with server_of_tvm("rpc_tracker") as port:
        options = ("--tracker", f"127.0.0.1:{port}", "--key", "shelf")
        boards = [Agent(*options) for _ in range(10)]

        def kill():
            while due.get():  # by what the search does and not by time: a busy machine takes longer to start one
                board = chance.choice(boards)
                board.kill()
                board.start()

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            run, url = Run(lambda: due.put(True), every=3), f"tracker://127.0.0.1:{port}/shelf"
            ended, new, lines = tuned(url, tmp_path / "all.jsonl", run, points=points)
        finally:
            due.put(False)
            killer.join()
            for board in boards:
                board.__exit__()
    assert (ended, new) == ("done", points * len(LAYERS)), lines
    trials = [(r.layer, str(r.decisions)) for r in trials_of(tmp_path / "all.jsonl").records()]
    assert len(trials) == len(set(trials)) == points * len(LAYERS), "a trial was lost or doubled"
    assert not lost(tmp_path / "all.jsonl")
    assert stripped(tmp_path / "all.jsonl") == stripped(tmp_path / "one.jsonl")


@pytest.mark.full
def test_a_board_that_leaves_and_comes_back(tmp_path):
    with Agent() as board:
        again = threading.Timer(1.0, board.start)

        def leave():
            board.kill()
            board._command += ["--port", str(board.port)]
            again.start()

        ended, new, lines = tuned(board.url, tmp_path / "log.jsonl", Run(leave))
        again.join()
    assert (ended, new) == ("done", POINTS * len(LAYERS)) and any("has left" in line for line in lines), lines
    assert not lost(tmp_path / "log.jsonl")


def test_no_board_for_too_long_ends_the_search_and_loses_nothing(tmp_path):
    with Agent() as board:

        def leave():
            board.kill()
            run.fleet._patience = 3.0

        run = Run(leave)
        with fault("no board for 3 s"):
            tuned(board.url, tmp_path / "log.jsonl", run)
    known = list(trials_of(tmp_path / "log.jsonl").records())
    assert len(known) == 4 and not lost(tmp_path / "log.jsonl")


class Hot(Run):
    """A board that gets hot when it runs, and cools down."""

    states: tuple = ()

    def run(self, built, board):
        board.state = lambda: {"temperature_c": self.states.pop(0) if self.states else 50.0, "throttled": []}
        return super().run(built, board)


@pytest.mark.full
def test_a_hot_board_cools_down_and_measures_again(monkeypatch, tmp_path):
    from tvm_mobilenet.boards.remote import lender

    monkeypatch.setattr(lender.time, "sleep", lambda seconds: None)
    run, lines = Hot(), []
    run.states = [85.0, 84.0, 84.0, 75.0, 65.0]
    candidate = Candidate(LAYERS[2], prepared("x", tmp_path / "l").searches[LAYERS[2]].space.default)
    with (
        Agent() as board,
        fleet.Fleet(address.parse(board.url), HOST, Builder(HOST), run, builders=1, say=lines.append) as boards,
    ):
        boards.submit(candidate)
        (done,) = boards.wait(300)
    assert done.value.cost and run.runs == 2 and any("cools down" in line for line in lines), (done, lines)


class OneIsBad(Run):
    """One board hangs, or is hot and stays so; the other gives it time to be found out, and is not done before."""

    def __init__(self, bad: str, hot: bool, lines: list):
        super().__init__()
        self.bad, self.hot, self.lines = bad, hot, lines

    def run(self, built, board):
        if board.where.endswith(self.bad):
            if self.hot:
                board.state = lambda: {"temperature_c": 90.0, "throttled": []}
        else:
            end = time.monotonic() + 300.0
            while time.monotonic() < end and not any("is left out" in line for line in self.lines):
                time.sleep(0.05)
        return super().run(built, board)


HANGS = """
import os, signal
from tvm_mobilenet import agent
from tvm_mobilenet.boards.agent import session as agent_session
real = agent_session.register
def register(folder):
    import tvm_ffi
    real(folder)
    hang = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)
    tvm_ffi.register_global_func("tvm.rpc.server.upload", hang, override=True)
agent_session.register = register
agent.main()
"""


@pytest.mark.parametrize("how", [pytest.param(how, marks=pytest.mark.full) for how in ("hot", "hangs")])
def test_a_board_that_stays_hot_or_hangs_is_left_out_and_others_do_its_work(how, tmp_path, monkeypatch):
    from tvm_mobilenet.boards.remote import board as remote_board
    from tvm_mobilenet.boards.remote import lender

    monkeypatch.setattr(lender, "COOL_SECONDS", 0.5)
    monkeypatch.setattr(lender, "LOSSES", 2)
    monkeypatch.setattr(remote_board, "UPLOAD_SECONDS", 10.0)
    with server_of_tvm("rpc_tracker") as port:
        options = ("--tracker", f"127.0.0.1:{port}", "--key", "shelf")
        with Agent(*options, **({"module": ("-c", HANGS)} if how == "hangs" else {})) as bad, Agent(*options) as good:
            run = OneIsBad(f":{bad.port}", how == "hot", lines := [])
            ended, new, _ = tuned(f"tracker://127.0.0.1:{port}/shelf", tmp_path / "log.jsonl", run=run, lines=lines)
            assert bad.is_clean() and good.is_clean()
    assert (ended, new) == ("done", POINTS * len(LAYERS)) and not lost(tmp_path / "log.jsonl"), lines
    why = "stays hot (90.0 °C)" if how == "hot" else "its sessions are lost one after the other"
    assert any(f":{bad.port} is left out for 120 s" in line and why in line for line in lines), lines
    assert not any(f":{good.port} is left out" in line for line in lines), lines


@pytest.mark.full
def test_a_tracker_that_restarts_during_a_search(tmp_path):
    port = free_port()
    with contextlib.ExitStack() as trackers:
        first = trackers.enter_context(contextlib.ExitStack())
        first.enter_context(server_of_tvm("rpc_tracker", port=port))
        with Agent("--tracker", f"127.0.0.1:{port}", "--key", "shelf"):

            def restart():
                first.close()
                trackers.enter_context(server_of_tvm("rpc_tracker", port=port))

            ended, new, lines = tuned(f"tracker://127.0.0.1:{port}/shelf", tmp_path / "log.jsonl", Run(restart))
    assert (ended, new) == ("done", POINTS * len(LAYERS)) and not lost(tmp_path / "log.jsonl"), lines
