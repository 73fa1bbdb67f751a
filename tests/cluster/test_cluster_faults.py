"""What happens to real `dask worker` processes: no candidate is lost or doubled, and every end has a message.

Each test has workers of its own beside one that stays.
"""

import contextlib
import json
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from tvm_mobilenet.tune_logs.log import Journal, trials_of

from tests.cluster.evaluators import Hungry, Slow
from tests.cluster.test_cluster import all_of, opened, until
from tests.support.agents import Agent, server_of_tvm
from tests.support.clusters import Cluster
from tests.support.fake_board import Costs, Told
from tests.tuning.test_fleet import HOST, LAYERS, POINTS, prepared
from tests.tuning.test_search import NAMES, space
from tests.tuning.test_workers import alive, gone
from tvm_mobilenet import rebuild_logs, schedules
from tvm_mobilenet.cli import entry
from tvm_mobilenet.cluster import place, scheduler
from tvm_mobilenet.cluster.scheduler import Scheduler
from tvm_mobilenet.cluster.workers import DaskWorkers
from tvm_mobilenet.compiler import pipeline
from tvm_mobilenet.errors import ClusterError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.survey import estimates as estimating
from tvm_mobilenet.tuning import fleet, runner
from tvm_mobilenet.tuning import session as tuning
from tvm_mobilenet.tuning.candidate import Candidate
from tvm_mobilenet.tuning.workers import keep_busy

pytestmark = pytest.mark.full
SIGNALS = {"killed": signal.SIGKILL, "leaving": signal.SIGINT}


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as one:
        one.worker("stays")
        yield one


def names(pool) -> set[str]:
    return {worker.name for worker in pool._workers.values()}


def everybody(pool, count: int) -> None:
    until(lambda: pool._step(0.1) or len(pool._workers) == count, f"{names(pool)} are not {count}")


@pytest.mark.parametrize("how", SIGNALS)
def test_the_jobs_of_a_worker_that_goes_are_run_elsewhere(cluster, how, tmp_path):
    goes, said, done = cluster.worker(how), [], {}
    jobs, waiting = 30, [f"job {i}" for i in range(30)]
    with opened(cluster, Slow(str(tmp_path / "begun")), said) as pool:
        everybody(pool, 2)
        pids: dict[str, int] = {}

        def take(one):
            done[one.job] = one
            pids[one.value] = pids.get(one.value, 0) + 1
            if len(done) == 8:
                goes.signal(SIGNALS[how])

        keep_busy(pool, lambda: waiting.pop() if waiting else None, take)
        assert names(pool) == {"stays"} and f"worker {how} left; others run its jobs" in said
    assert len(done) == jobs and not any(one.failure for one in done.values())
    begun = (tmp_path / "begun").read_text().splitlines()
    assert set(begun) == set(done) and len(begun) <= jobs + 2, "more than the jobs that it had were run again"
    assert len(pids) == 2 and gone(pids), "processes outlive their worker"


def test_a_worker_that_comes_in_the_middle_is_given_jobs(cluster, tmp_path):
    waiting, seen = [f"job {i}" for i in range(400)], set()
    with opened(cluster, Slow(str(tmp_path / "begun"), 0.05)) as pool:
        assert names(pool) == {"stays"}
        comes = cluster.worker("comes")
        keep_busy(pool, lambda: waiting.pop() if waiting and len(seen) < 2 else None, lambda one: seen.add(one.value))
        until(lambda: pool._step(0.1) or "comes" in names(pool), "it is not taken in")
        waiting = [f"more {i}" for i in range(10)]
        keep_busy(pool, lambda: waiting.pop() if waiting else None, lambda one: seen.add(one.value))
        assert len(seen) == 2
    comes.kill()


def test_a_worker_that_hangs_loses_its_jobs_and_may_come_back(cluster, tmp_path):
    hangs, said, done = cluster.worker("hangs"), [], {}
    waiting = [f"job {i}" for i in range(30)]
    with opened(cluster, Slow(str(tmp_path / "begun")), said, timeout=2.0, starting=4.0) as pool:
        everybody(pool, 2)

        def take(one):
            done[one.job] = one
            if len(done) == 6:
                hangs.signal(signal.SIGSTOP)

        keep_busy(pool, lambda: waiting.pop() if waiting else None, take)
        assert len(done) == 30 and not any(one.failure for one in done.values())
        assert "worker hangs does not answer; others run its jobs" in said and names(pool) == {"stays"}
        hangs.signal(signal.SIGCONT)
        everybody(pool, 2)
    hangs.kill()


def test_what_a_worker_has_too_little_memory_for_is_run_on_another(cluster):
    small = cluster.worker("small", "--memory-limit", "450MiB")
    with opened(cluster, Hungry()) as pool:
        everybody(pool, 2)
        done = all_of(pool, [1000, 1001, 1, 2])
        assert {job: one.value for job, one in done.items()} == {job: job for job in done}
        assert names(pool) == {"stays", "small"}
    small.kill()


def test_what_no_worker_has_memory_for_has_failed(tmp_path):
    with Cluster() as own:
        for name in ("small", "other"):
            own.worker(name, "--memory-limit", "450MiB")
        with opened(own, Hungry()) as pool:
            everybody(pool, 2)
            done = all_of(pool, [1000, 3])
            assert done[1000].failure.startswith("memory: more than the 450 MiB") and done[3].value == 3
            assert names(pool) == {"small", "other"}
        # the system kills where memory is short; so a candidate that is killed is tried once more, elsewhere
        killed = Candidate(NAMES[0], {**space().default, "tile_m": 1, "tile_n": 8})
        evaluate = Costs(tmp_path)
        with opened(own, Told(evaluate)) as pool:
            everybody(pool, 2)
            pool.submit(killed)
            (done,) = pool.wait()
            assert done.failure == "crash: the worker ended with SIGKILL" and names(pool) == {"small", "other"}
        assert len((tmp_path / "evaluated").read_text().splitlines()) == 2


KILLED = """
import sys
from tests.cluster.evaluators import Slow
from tvm_mobilenet.cluster.workers import DaskWorkers
pool = DaskWorkers(sys.argv[1], Slow(sys.argv[2]), timeout=300)
pool.submit("job")
print(pool.wait()[0].value, flush=True)
sys.stdin.read()
"""


def test_where_the_search_is_killed_its_processes_end_too(tmp_path):
    with Cluster() as own:
        own.worker("tidy", "--preload", "tests.cluster.soon_idle")
        command = [sys.executable, "-c", KILLED, own.address, str(tmp_path / "begun")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
            pid = int(run.stdout.readline())
            assert alive(pid)
            run.kill()
        assert gone([pid]) and own.workers["tidy"].process.poll() is None


def test_without_its_scheduler_a_search_ends_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    counts = {Layer.parse(n): 1 for n in NAMES[:2]}
    network = types.SimpleNamespace(graph=types.SimpleNamespace(counts=counts))
    monkeypatch.setattr(pipeline, "CORE_PASSES", ())
    monkeypatch.setattr(estimating, "weightless", lambda options: network)
    monkeypatch.setattr(schedules, "space", lambda layer, core: space())
    monkeypatch.setattr(runner, "Evaluate", lambda target: Told(Costs(tmp_path, delay=0.1)))
    monkeypatch.setitem(DaskWorkers.__init__.__kwdefaults__, "patience", 5.0)
    flags = ["--targets", "rpi4", "--first", "--trials", "20", "--time-limit", "10h"]
    flags += ["--folder", str(tmp_path / "trials"), "--ship-to", str(tmp_path / "shipped")]
    trials = tmp_path / "trials" / "cortex-a72.trials.jsonl"
    ended = []

    with Cluster() as own:
        own.worker("one")

        def look():
            if trials.exists() and len(trials.read_text().splitlines()) > 6 and not ended:
                ended.append(own.scheduler.kill())

        send = Scheduler.send
        monkeypatch.setattr(Scheduler, "send", lambda self, *call, **how: (look(), send(self, *call, **how))[1])
        where = f"dask://127.0.0.1:{own.port}"
        assert entry.run_verb(rebuild_logs.parser(), rebuild_logs._run, [*flags, "--workers", where]) == 4
        err = capsys.readouterr().err
        assert "has been gone for 5 s" in err and "the same command continues" in err and "Traceback" not in err
        before = [json.loads(line) for line in trials.read_text().splitlines()]
        assert 6 < len(before) < 40 and (tmp_path / "shipped" / "cortex-a72.jsonl").exists()
    with Cluster() as again:
        again.worker("one")
        where = f"dask://127.0.0.1:{again.port}"
        assert entry.run_verb(rebuild_logs.parser(), rebuild_logs._run, [*flags, "--workers", where]) == 0
    after = [json.loads(line) for line in trials.read_text().splitlines()]
    assert after[: len(before)] == before and len(after) == 40
    assert len({(r["layer"], json.dumps(r["decisions"])) for r in after}) == 40
    assert list(Journal(tmp_path / "shipped" / "cortex-a72.jsonl").records())


def test_a_shelf_of_boards_runs_what_a_cluster_of_builders_builds(tmp_path):
    """Two real boards of a tracker; one of the two builders is killed in the middle."""
    killed = []
    with Cluster() as cluster, server_of_tvm("rpc_tracker") as port, contextlib.ExitStack() as shelf:
        for name in ("one", "two"):
            cluster.worker(name)
            shelf.enter_context(Agent("--tracker", f"127.0.0.1:{port}", "--key", "shelf"))
        where = place.parse(f"dask://127.0.0.1:{cluster.port}")
        board, log = f"tracker://127.0.0.1:{port}/shelf", tmp_path / "log.jsonl"
        make, boards = fleet.of(board, HOST, None, where.pool, False, 300.0)

        def show(_) -> None:
            if not killed and len(list(trials_of(log).records())) >= 3:
                killed.append(cluster.workers["two"].kill())

        work = prepared(board, log)
        ended, new = tuning.search(work, None, 3000.0, boards, show=show, pool=make)
        lines = cluster.workers["one"].log.read_text()
    records = list(trials_of(log).records())
    assert boards == 2 and killed and (ended, new) == ("done", POINTS * len(LAYERS)), lines
    assert len({(r.layer, str(r.decisions)) for r in records}) == len(records) == POINTS * len(LAYERS)
    assert all(r.cost and r.unit == "s" and not r.predicted for r in records), [r.failure for r in records]


def guide(begin: str) -> str:
    """The block of commands in the guide that begins so."""
    text = (Path(__file__).parents[2] / "docs/guides/cluster.md").read_text()
    return next(block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if block.startswith(begin))


def test_a_cluster_behind_tls_turns_others_away(tmp_path, monkeypatch):
    """With the commands of the guide. Others: who has no key, a key of another cluster, or speaks in the clear."""
    import dask

    keys = {}
    for name in ("ours", "others"):
        (tmp_path / name).mkdir()
        lines = "\n".join(line for line in guide("openssl").splitlines() if line.split()[0] in ("openssl", "export"))
        done = subprocess.run(
            ["bash", "-ec", lines + "\nenv | grep ^DASK_"],
            cwd=tmp_path / name,
            capture_output=True,
            text=True,
            check=True,
        )
        keys[name] = dict(line.split("=", 1) for line in done.stdout.splitlines())
        assert len(keys[name]) == 7

    def have(settings: dict) -> None:
        for name in keys["ours"]:
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        dask.config.refresh()

    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 20.0)
    try:
        with Cluster("tls", **keys["ours"]) as own:
            own.worker("one")
            have(keys["ours"])
            with place.parse(f"dask+tls://127.0.0.1:{own.port}").pool(Told(), 300.0) as pool:
                assert all_of(pool, [("square", 7)])[("square", 7)].value == 49
            for settings, address in (
                ({}, own.address),
                (keys["others"], own.address),
                ({}, f"tcp://127.0.0.1:{own.port}"),
            ):
                have(settings)
                with pytest.raises(ClusterError, match="no Dask scheduler answers"):
                    DaskWorkers(address, Told())
    finally:
        have({})


def test_a_scheduler_that_comes_back_soon_is_gone_on_with(tmp_path):
    waiting, done = [f"job {i}" for i in range(30)], {}
    with Cluster() as own:
        own.worker("one")
        with opened(own, Slow(str(tmp_path / "begun"), 0.1)) as pool:

            def take(one):
                done[one.job] = one
                if len(done) == 6:
                    own.restart_scheduler()
                    own.worker("two")

            keep_busy(pool, lambda: waiting.pop() if waiting else None, take)
    assert len(done) == 30 and not any(one.failure for one in done.values())
