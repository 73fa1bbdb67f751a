"""What ships: only decisions that are cheaper than today's defaults, found by a command that can be stopped."""

import dataclasses
import json
import os
import random
import signal
import threading
import time
import types

import pytest
from tvm_mobilenet.tune_logs import log
from tvm_mobilenet.tune_logs.log import Journal, Record

from tests.support.fake_board import Costs, cost_of
from tests.tuning.test_search import BEST, NAMES, space
from tvm_mobilenet import dtypes, rebuild_logs, schedules, targets
from tvm_mobilenet.cli import entry
from tvm_mobilenet.compiler import network, pipeline
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.survey import estimates as estimating
from tvm_mobilenet.tuning import runner
from tvm_mobilenet.tuning import session as tuning
from tvm_mobilenet.tuning.candidate import Candidate
from tvm_mobilenet.tuning.runner import Evaluate

SHIPPED = sorted(log.shipped("").parent.glob("*.jsonl"))


def work(tmp_path, monkeypatch, names=NAMES[:2]) -> tuning.Work:
    monkeypatch.setattr(schedules, "space", lambda layer, core: space())
    counts = {Layer.parse(n): 1.0 for n in names}
    return tuning.prepare(counts, targets.load("rpi4"), "virtual", tmp_path / "w.jsonl", 30)


def test_only_what_is_cheaper_than_the_default_ships(tmp_path, monkeypatch):
    one = work(tmp_path, monkeypatch)
    tuning.search(one, Costs(), 60.0, 2)
    file = tmp_path / "shipped.jsonl"
    Journal(file).append(Record(layer=NAMES[0], core="cortex-a72", decisions=space().default, cost=1.0))  # a lie
    Journal(file).append(Record(layer=NAMES[2], core="cortex-a72", decisions=BEST, cost=1.0))  # not searched
    found = rebuild_logs.ship(one, file)
    records = {r.layer: r for r in Journal(file).records()}
    assert list(records) == sorted(NAMES) and records[NAMES[2]].cost == 1.0 and found.records == 3
    for name in NAMES[:2]:
        assert records[name].cost == pytest.approx(cost_of(name, records[name].decisions))
        assert records[name].cost < records[name].default_cost == pytest.approx(cost_of(name, space().default))
        assert records[name].whole and not records[name].seconds
    assert found.tuned < 0.8 * found.default
    assert rebuild_logs.ship(one, file) == found, "the same trials give the same file"


def test_what_was_not_tried_again_stays(tmp_path, monkeypatch):
    """A search that time cut short after the defaults has refuted nothing."""
    one = work(tmp_path, monkeypatch)
    file = tmp_path / "shipped.jsonl"
    known = Record(layer=NAMES[0], core="cortex-a72", decisions=BEST, cost=80.0, whole=True)
    Journal(file).append(known)
    search = one.searches[NAMES[0]]
    default = dataclasses.replace(known, decisions=search.space.default, cost=100.0)
    search.tell(default)
    rebuild_logs.ship(one, file)
    assert list(Journal(file).records()) == [known]
    search.tell(dataclasses.replace(known, cost=101.0))  # tried again, and no better than the default any more
    rebuild_logs.ship(one, file)
    assert not list(Journal(file).records())


def test_a_rebuild_that_is_terminated_ships_what_it_found(tmp_path, monkeypatch):
    counts = {Layer.parse(n): 1 for n in NAMES[:2]}
    network = types.SimpleNamespace(graph=types.SimpleNamespace(counts=counts))
    monkeypatch.setattr(pipeline, "CORE_PASSES", ())
    monkeypatch.setattr(estimating, "weightless", lambda options: network)
    monkeypatch.setattr(schedules, "space", lambda layer, core: space())
    monkeypatch.setattr(runner, "Evaluate", lambda target: Costs(tmp_path, delay=0.02))
    evaluated = tmp_path / "evaluated"

    def terminate():
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (evaluated.exists() and evaluated.read_text().count("\n") > 20):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    sender = threading.Thread(target=terminate)
    sender.start()
    try:
        code = entry.run_verb(
            rebuild_logs.parser(),
            rebuild_logs._run,
            [
                "--targets",
                "rpi4",
                "--folder",
                str(tmp_path / "trials"),
                "--ship-to",
                str(tmp_path / "shipped"),
                "--time-limit",
                "10m",
            ],
        )
    finally:
        sender.join()
        signal.signal(signal.SIGTERM, before)
    assert code == entry.INTERRUPTED
    records = list(Journal(tmp_path / "shipped" / "cortex-a72.jsonl").records())
    assert records and all(r.cost <= (1 + rebuild_logs.DEARER) * r.default_cost for r in records)


def test_a_winner_that_is_dearer_on_all_cores_stays_at_home(tmp_path, monkeypatch):
    search = work(tmp_path, monkeypatch).searches[NAMES[0]]
    base = Record(layer=NAMES[0], core="c", decisions=search.space.default, cost=100.0, cost_all_cores=30.0, whole=True)
    search.tell(base)
    assert rebuild_logs.winner(search) is None
    uneven = dataclasses.replace(base, decisions=BEST, cost=80.0, cost_all_cores=31.0)
    even = dataclasses.replace(base, decisions={**BEST, "unroll": 2}, cost=90.0, cost_all_cores=29.0)
    search.tell(uneven)
    search.tell(dataclasses.replace(even, decisions={**BEST, "unroll": 8}, cost=50.0, whole=False))
    assert rebuild_logs.winner(search) is None
    search.tell(even)
    assert rebuild_logs.winner(search).decisions == even.decisions


@pytest.mark.parametrize(
    "default, loses, wins",
    [
        pytest.param(
            {"balance": 1.0},
            {"cost": 80.0, "balance": 1.19},
            {"cost": 81.0, "balance": 1.04},
            id="cores share it less evenly, which memory may hide on all of them",
        ),
        pytest.param(
            {"memory": 800.0},
            {"cost": 102.5, "memory": 400.0},
            {"cost": 101.5, "memory": 400.0},
            id="it wins by memory, much dearer on one core",
        ),
    ],
)
def test_a_winner_stays_at_home_if(default, loses, wins, tmp_path, monkeypatch):
    search = work(tmp_path, monkeypatch).searches[NAMES[0]]
    base = Record(layer=NAMES[0], core="c", decisions=search.space.default, cost=100.0, whole=True, **default)
    search.tell(base)
    search.tell(dataclasses.replace(base, decisions=BEST, **loses))
    assert rebuild_logs.winner(search) is None
    better = dataclasses.replace(base, decisions={**BEST, "unroll": 2}, **wins)
    search.tell(better)
    found = rebuild_logs.winner(search)
    assert (found.decisions, found.cost) == (better.decisions, better.cost)


def test_layers_count_by_their_share_of_each_networks_floor(monkeypatch):
    monkeypatch.setattr(pipeline, "CORE_PASSES", ())
    small, large, both = (Layer.parse(f"pointwise m49 n{n} k64 f32") for n in (64, 640, 128))
    networks = [
        types.SimpleNamespace(graph=types.SimpleNamespace(counts=c)) for c in ({small: 2, both: 1}, {large: 1, both: 1})
    ]
    found = rebuild_logs.weights_of(networks, types.SimpleNamespace(core=None))
    assert found[small] == pytest.approx(1e9 * 2 / (49 * 64 * 256)) and set(found) == {small, large, both}
    assert found[both] == pytest.approx(1e9 / (49 * 64 * 256) + 1e9 / (49 * 64 * 768))


def test_the_first_round_is_of_the_networks_used_most():
    full = rebuild_logs.FULL[0]
    assert {n.model for n in rebuild_logs.ROUNDS[0]} == {"v1", "v2", "v3-large", "v3-small"}
    assert len(rebuild_logs.ROUNDS[1]) == len(set(rebuild_logs.ROUNDS[1])) >= 24 and full in rebuild_logs.ROUNDS[1]


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[pytest.mark.full] * ("a76" in p.stem)) for p in SHIPPED], ids=lambda p: p.stem
)
def test_shipped_records_are_valid_for_todays_schedules(path):
    target = next(t for t in map(targets.load, rebuild_logs.TARGETS) if t.core.name == path.stem)
    lines = path.read_text(encoding="utf-8").splitlines()
    records = [Record.from_json(line) for line in lines]
    assert len({r.layer for r in records}) == len(records) and [r.layer for r in records] == sorted(
        r.layer for r in records
    )
    logs = log.TuneLogs([path], target)
    for r in records:
        assert (r.core, r.board, r.unit, r.whole) == (target.core.name, "virtual", "cycles", True), r.layer
        assert r.target.split(" ")[0] == target.name and r.code and r.estimate and r.versions, r.layer
        assert r.cost <= (1 + rebuild_logs.DEARER) * r.default_cost and r.compute <= r.cost, r.layer
        known = logs.find(Layer.parse(r.layer))
        assert known is not None and known.record == r, f"{r.layer}: {r.decisions} is not valid any more"
    assert all(json.loads(line) for line in lines)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_sample_of_the_shipped_kernels_builds_and_computes_what_it_should(path):
    target = next(t for t in map(targets.load, rebuild_logs.TARGETS) if t.core.name == path.stem)
    records = [r for r in Journal(path).records() if Layer.parse(r.layer).mult_adds < 2e7]
    evaluate = Evaluate(target)
    evaluate.prepare()
    for r in random.Random(path.stem).sample(records, min(3, len(records))):
        outcome = evaluate(Candidate(r.layer, r.decisions, True))
        assert outcome.difference <= 1e-4
        if log.Today(target).counts(r):
            assert outcome.cost == pytest.approx(r.cost, rel=1e-3)


def test_another_dtype_is_searched_on_the_cores_that_compute_it():
    assert [t.name for t in rebuild_logs.computing(None, "float16")] == ["rpi5"]
    assert [t.name for t in rebuild_logs.computing(None, "float32")] == list(rebuild_logs.TARGETS)
    with pytest.raises(TvmMobilenetError, match="--targets rpi4: no arithmetic of float16") as error:
        rebuild_logs.computing(["rpi5", "rpi4"], "float16")
    assert "rpi5" in error.value.hint and error.value.exit_code == 2
    assert rebuild_logs.in_dtype(rebuild_logs.ROUNDS, "float32") == list(rebuild_logs.ROUNDS)
    assert rebuild_logs.parser().parse_args(["--dtype", "float16"]).dtype == "float16"


def test_layers_of_int8_are_those_of_calibrated_networks(monkeypatch):
    """Clamps and small sums stand in their names: without scales what ships would be of layers that no build has."""
    monkeypatch.setattr(network, "load_network", lambda options: ("calibrated", options.dtype))
    monkeypatch.setattr(estimating, "weightless", lambda options: ("weightless", options.dtype))
    found = [rebuild_logs.outline(rebuild_logs.in_dtype(rebuild_logs.ROUNDS, name)[0][0]) for name in dtypes.OF_DATA]
    assert found == [("weightless", "float32"), ("weightless", "float16"), ("calibrated", "int8")]
    assert rebuild_logs.parser().parse_args(["--dtype", "int8"]).dtype == "int8"
    assert len(rebuild_logs.computing(None, "int8")) == len(rebuild_logs.TARGETS)
