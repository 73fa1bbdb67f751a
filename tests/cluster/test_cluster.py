"""A cluster: the same records as on one machine, whatever happens to its workers, and nobody who would spoil them."""

import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.evaluators import Claims, Sized
from tests.support.clusters import Cluster
from tests.support.fake_board import Costs, Jobs, Told
from tests.tuning.test_search import NAMES, space
from tests.tuning.test_workers import alive, gone
from tvm_mobilenet import rebuild_logs, schedules, targets
from tvm_mobilenet.cluster import facts, place
from tvm_mobilenet.cluster.workers import DaskWorkers
from tvm_mobilenet.errors import ClusterError, TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tuning import session as tuning
from tvm_mobilenet.tuning.builder import Builder, Built
from tvm_mobilenet.tuning.candidate import Candidate
from tvm_mobilenet.tuning.workers import Workers, keep_busy

SECONDS = 300.0


@pytest.fixture(scope="module")
def cluster():
    """A scheduler and two workers, which no test may end."""
    with Cluster() as one:
        one.worker("first")
        one.worker("second")
        yield one


def opened(cluster, evaluate=None, said=None, starting=SECONDS, **how) -> DaskWorkers:
    how = {"timeout": SECONDS, "say": (said if said is not None else []).append, **how}
    return type("Patient", (DaskWorkers,), {"starting": starting})(cluster.address, evaluate or Told(), **how)


def all_of(pool, jobs) -> dict:
    waiting, done = list(jobs), []
    keep_busy(pool, lambda: waiting.pop(0) if waiting else None, done.append)
    assert max(Counter(one.job for one in done).values()) == 1, "a job was counted twice"
    return {one.job: one for one in done}


def until(condition, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


# ---- the same as here


def test_a_cluster_gives_what_processes_here_give(cluster):
    """Values, failures and their words: the log must not tell where a candidate ran."""
    jobs = [*(("square", i) for i in range(12)), ("raise",), ("die",), ("sleep", 600)]
    with opened(cluster, timeout=3) as there, Workers(Jobs(), 2, 3) as here:
        found, wanted = all_of(there, jobs), all_of(here, jobs)
        assert len(there._workers) == 2 and "bytes a job" in str(there.pace), "two workers go on after a crash"
    assert {job: (one.value, one.failure) for job, one in found.items()} == {
        job: (one.value, one.failure) for job, one in wanted.items()
    }


def searched(path, monkeypatch, **how) -> list[dict]:
    """The trials of a search, without their times, in the order of layers."""
    monkeypatch.setattr(schedules, "space", lambda layer, core: space())
    counts = {Layer.parse(name): 1.0 for name in NAMES}
    work = tuning.prepare(counts, targets.load("rpi4"), "virtual", path, 8)
    assert tuning.search(work, Costs(), 3600.0, **how) == ("done", 8 * len(NAMES))
    best = {name: search.best.decisions for name, search in work.searches.items()}
    lines = [json.loads(line) for line in path.with_suffix(".trials.jsonl").read_text().splitlines()]
    return best, sorted(json.dumps({**line, "seconds": 0}, sort_keys=True) for line in lines)


def test_a_search_on_a_cluster_makes_the_records_of_one_here(cluster, tmp_path, monkeypatch):
    """Otherwise what ships would depend on how many machines somebody had."""
    here = searched(tmp_path / "here.jsonl", monkeypatch)
    pool = lambda: opened(cluster, Told(Costs()))  # noqa: E731
    assert searched(tmp_path / "there.jsonl", monkeypatch, pool=pool, workers=None) == here


def test_nothing_outlives_the_search(cluster, tmp_path):
    """A cluster is shared: processes with hundreds of MB each would stay for ever."""
    with opened(cluster) as pool:
        pool.submit(("child", str(tmp_path / "pids")))
        until(lambda: pool.wait(0.1) or ((tmp_path / "pids").exists() and (tmp_path / "pids").read_text()), "no start")
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(pids) == 2 and all(map(alive, pids))
    assert gone(pids)


# ---- whose results would be others


@pytest.mark.parametrize("what", ["Python", "tvm_mobilenet", "apache-tvm", "LLVM", "CPU"])
def test_a_worker_that_differs_is_refused_by_name_and_others_go_on(cluster, what, monkeypatch):
    """Candidates of another compiler or CPU have other costs; they would be compared with ours."""
    said, describe = [], DaskWorkers._answered

    def answered(self, kind, address, told):  # as if the worker called `second` were another machine
        known = self._asked.get(address)
        if isinstance(told, dict) and kind == "who" and told["name"] == "second" and what != "LLVM":
            told["facts"][what] = "0.1"
        if isinstance(told, dict) and kind == "begin" and known and known.name == "second" and what == "LLVM":
            told["value"] = json.dumps({"LLVM": "0.1"})
        describe(self, kind, address, told)

    monkeypatch.setattr(DaskWorkers, "_answered", answered)
    monkeypatch.setattr(facts, "of_compiler", lambda: {"LLVM": "22"})
    evaluate = Claims({"LLVM": "22"})
    with opened(cluster, evaluate, said, cpu=what == "CPU") as pool:
        until(lambda: pool._step(0.1) or said, "nobody was refused")
        assert [worker.name for worker in pool._workers.values()] in ([], ["first"])
        assert all_of(pool, [("square", 3)])[("square", 3)].value == 9
    assert said[0].startswith(f"worker second is left out: {what} 0.1 there, ") and len(said) == 1


@pytest.mark.full
def test_without_a_worker_that_fits_the_search_ends_and_says_why(cluster, monkeypatch):
    monkeypatch.setattr(facts, "of_process", lambda: {"Python": "9.9"})
    with pytest.raises(ClusterError, match=r"no worker .* can take part: .*Python 3\.\d+ there, 9.9 here") as found:
        opened(cluster, patience=10.0)
    assert found.value.exit_code == 4


def test_two_that_measure_on_one_machine_would_disturb_each_other(cluster):
    said = []
    with opened(cluster, said=said, alone=True) as pool:
        until(lambda: pool._step(0.1) or said, "both take part")
        assert len(pool._workers) == 1 and "another worker measures on" in said[0]


@pytest.mark.parametrize("sent", ["text", [1], {"cost": "dear"}, {"cost": float("nan")}])
def test_what_is_no_result_puts_its_worker_out_and_the_job_goes_elsewhere(cluster, sent, tmp_path):
    said = []
    with opened(cluster, Sized(str(tmp_path / "first"), sent), said) as pool:
        until(lambda: pool._step(0.1) or len(pool._workers) == 2, "one is missing")
        done = all_of(pool, [1, 2, 3])
        assert all(one.value.cost == one.job for one in done.values())
        assert len(pool._workers) == 1 and "it sent no valid result" in said[0]


def test_a_library_comes_back_from_a_cluster_of_builders(tmp_path):
    """Boards run what builders elsewhere made: the very bytes, and what is known of them."""
    library = tmp_path / "made.so"
    library.write_bytes(b"\x7fELF and more")
    builder, candidate = Builder(None), Candidate(NAMES[0], space().default)
    takes = (((1, 196, 512), "float32"), ((512,), "float32"))
    data = json.loads(json.dumps(builder.pack(Built(candidate, str(library), "0123", takes))))
    assert not library.exists(), "nothing stays at the worker"
    found = builder.unpack(candidate, data, tmp_path)
    assert (found.candidate, found.code, found.takes) == (candidate, "0123", takes)
    assert Path(found.library).read_bytes() == b"\x7fELF and more" and Path(found.library).parent == tmp_path
    for bad in ({}, [], None, {**data, "library": "TVo="}, {**data, "library": "?"}, {**data, "takes": [1]}):
        with pytest.raises(ValueError):
            builder.unpack(candidate, bad, tmp_path)


# ---- the guide's files


def test_the_compose_file_is_one():
    """Docker is not everywhere; YAML and Dask's own parsers are."""
    import yaml
    from distributed.cli import dask_scheduler, dask_worker

    text = (Path(__file__).parents[2] / "docs/guides/cluster.md").read_text()
    (found,) = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    assert set(found) == {"services", "volumes"} and set(found["services"]) == {"scheduler", "worker"}
    for name, service in found["services"].items():
        assert (
            set(service) <= {"build", "command", "ports", "environment", "volumes", "deploy"}
            and service["build"] == "."
        )
        dask, verb, *arguments = service["command"].split()
        assert (dask, verb) == ("dask", name)
        parsed = {"scheduler": dask_scheduler, "worker": dask_worker}[name].main.make_context(verb, arguments).params
        if name == "worker":
            assert parsed["scheduler"] == "tcp://scheduler:8786" and int(parsed["nthreads"]) > 0
            assert service["deploy"]["replicas"] > 1
            (volume,) = service["volumes"]
            source, folder = volume.split(":")
            assert source in found["volumes"] and service["environment"] == {"XDG_CACHE_HOME": folder}
        else:
            address, *ports = service["ports"][0].split(":")
            assert address == "127.0.0.1" and ports == ["8786"] * 2 and parsed["host"] == "0.0.0.0"


# ---- words


@pytest.mark.parametrize("text", ["0", "-1", "two", "dask://", "dask://host", "dask://host:0", "tcp://host:8786", ""])
def test_what_is_no_place_is_refused(text, capsys):
    with pytest.raises(TvmMobilenetError, match="neither a number of processes nor"):
        place.parse(text)
    with pytest.raises(SystemExit):
        rebuild_logs.main([f"--workers={text}"])
    assert "try --workers 2, or --workers dask://host:8786" in capsys.readouterr().err


@pytest.mark.full
def test_places_have_their_names():
    assert place.parse("3") == place.parse(3) == place.Place(3)
    assert place.parse("dask://[::1]:8786") == place.Place(0, "tcp://[::1]:8786")
    assert place.parse("dask+tls://build-box:8786").address == "tls://build-box:8786"


@pytest.mark.full
def test_where_nobody_listens_the_command_says_how_to_start_one(tmp_path, capsys, monkeypatch):
    from tvm_mobilenet.cluster import scheduler

    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 0.2)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9:") as found:
        DaskWorkers("tcp://127.0.0.1:9", Told())
    assert "dask worker ADDRESS" in found.value.hint and found.value.exit_code == 4
