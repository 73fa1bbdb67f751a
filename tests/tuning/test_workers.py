"""Workers: a candidate that hangs or crashes must not cost the search, and nothing may be left running."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.fake_board import Jobs, Unable
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.tuning import workers as workers_module
from tvm_mobilenet.tuning.pace import Pace
from tvm_mobilenet.tuning.workers import Workers, keep_busy


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pids, seconds=120) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


def all_of(workers, jobs):
    waiting, done = list(jobs), {}
    assert not keep_busy(workers, lambda: waiting.pop(0) if waiting else None, lambda one: done.update({one.job: one}))
    return done


def test_every_job_gets_its_own_result():
    with Workers(Jobs(), 2, timeout=300) as workers:
        done = all_of(workers, [("square", i) for i in range(20)])
        assert {job[1]: one.value for job, one in done.items()} == {i: i * i for i in range(20)}


def test_failures_are_results_and_the_pool_goes_on():
    with Workers(Jobs(), 2, timeout=3) as workers:
        first = [worker.process.pid for worker in workers._workers]
        done = all_of(workers, [("raise",), ("die",), ("sleep", 600), ("square", 3), ("square", 4)])
        assert done[("raise",)].failure == "ValueError: built nothing"
        assert "SIGSEGV" in done[("die",)].failure
        assert "timeout" in done[("sleep", 600)].failure and done[("sleep", 600)].seconds < 300
        assert [done[("square", i)].value for i in (3, 4)] == [9, 16]
        assert gone(set(first) - {worker.process.pid for worker in workers._workers})


def test_a_job_that_ends_may_bring_another_and_none_begins_after_the_end():
    """By a clock that goes on when a job ends; what runs then is waited for."""
    waiting, ended, shown = [1], [], []

    def take(done):
        ended.append(done.value)
        waiting.append(len(ended) + 1)

    with Workers(Jobs(), 2, timeout=300) as workers:
        late = keep_busy(
            workers,
            lambda: ("square", waiting.pop()) if waiting else None,
            take,
            lambda: shown.append((len(ended), workers.busy)),
            end=3,
            clock=lambda: len(ended),
        )
    assert late and ended == [1, 4, 9] and shown[0] == (0, 1) and shown[-1] == (3, 0)


def test_the_loop_that_submits_and_waits_stands_once():
    package = Path(workers_module.__file__).parents[1]
    users = {p.name for p in package.rglob("*.py") if re.search(r"\.(idle|busy)\b", p.read_text())}
    assert users == {"workers.py", "fleet.py"}, "keep_busy is the loop"


def test_a_worker_that_cannot_start_is_an_error():
    with Workers(Unable(), 1) as workers, pytest.raises(TvmMobilenetError, match="no such thing as tvm"):
        workers.submit(("square", 1))
        workers.wait(600)


def test_temporary_files_of_workers_are_removed():
    with Workers(Jobs(), 1) as workers:
        (done,) = all_of(workers, [("file",)]).values()
        path = Path(done.value)
        assert path.exists() and path.parents[1].name.startswith("tvm_mobilenet-run-")
    assert not path.parent.exists(), "the run's folder may have other users in this process"


# Started in a shell's background, a process ignores Ctrl-C from birth; a parent at a terminal does not.
PARENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.support.fake_board import Jobs
from tvm_mobilenet.tuning.workers import Workers
with Workers(Jobs(), 2, timeout=500) as workers:
    workers.submit(("child", sys.argv[1] + "0"))
    workers.submit(("child", sys.argv[1] + "1"))
    workers.wait(500)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_parent(tmp_path, how):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "pids"],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    files = [tmp_path / "pids0", tmp_path / "pids1"]
    end = time.monotonic() + 300
    while not all(file.exists() and len(file.read_text().split()) == 2 for file in files) and time.monotonic() < end:
        time.sleep(0.05)
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    assert len(pids) == 4 and all(map(alive, pids))
    parent.send_signal(how)
    parent.wait(300)
    assert gone(pids)
    end = time.monotonic() + 120
    while list(temporary.iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("seconds, words", [(0.25, "4 jobs a second"), (200.0, "a job every 200 s")])
def test_a_slow_pace_is_told_as_seconds_a_job(seconds, words):
    now = [0.0]
    pace = Pace(lambda: now[0])
    pace.has(1)
    for _ in range(4):
        now[0] += seconds
        pace.count(seconds)
    assert words in str(pace)
