"""The tune log: lose a record, trust a torn one or prefer a worse one, and a user's tuning was for nothing."""

import os
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest
from tvm_mobilenet.tune_logs import keys, log
from tvm_mobilenet.tune_logs.log import Journal, Record, TornLineWarning, TuneLogs

from tvm_mobilenet import targets
from tvm_mobilenet.errors import TvmMobilenetError

POINTWISE = "pointwise m196 n512 k512 f32 relu6"


def record(cost=100.0, layer=POINTWISE, core="cortex-a72", **fields) -> Record:
    if cost is None:
        fields.setdefault("failure", "wild: illegal instruction")
    return Record(layer=layer, core=core, decisions={"tile_m": 7}, cost=cost, **fields)


def test_a_line_is_readable_and_comes_back(tmp_path):
    journal = Journal(tmp_path / "sub" / "log.jsonl")
    written = [
        record(default_cost=120.5, versions={"tvm": "0.27"}),
        record(None, seconds=1.5),
        record(0.01, unit="s", predicted=False, board="pi.local"),
    ]
    for one in written:
        journal.append(one)
    assert list(journal.records()) == written
    first = journal.path.read_text().splitlines()[0]
    assert first.startswith(
        '{"layer": "pointwise m196 n512 k512 f32 relu6", "core": "cortex-a72", "decisions": {"tile_m": 7}'
    )
    assert '"failure"' not in first


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_as_fast_the_one_with_less_traffic_wins(order):
    """The A76 hides 350,000 L1 misses a layer as well as 100,000; its neighbours on the L2 do not."""
    lean, greedy = record(6_587_441.0, memory=302_000.0), record(6_557_293.0, memory=735_000.0)
    slow = record(6_700_000.0, memory=302_000.0)
    (winner,) = log.best([lean, greedy, slow][::order]).values()
    assert winner is lean
    (winner,) = log.best([greedy, slow][::order]).values()  # a gain that traffic does not outweigh
    assert winner is greedy


@pytest.mark.parametrize("order", [1, -1])
def test_all_cores_count_as_much_as_one(order):
    even, alone = record(102.0, cost_all_cores=27.0), record(100.0, cost_all_cores=31.0)
    assert log.best([even, alone][::order]) == {even.key: even}
    assert record(100.0).score == record(100.0, cost_all_cores=25.0).score == 100.0


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("core, wins", [("cortex-a53", "few"), ("cortex-a72", "many")])
def test_a_core_that_issues_in_order_waits_at_every_level(order, core, wins):
    few = record(101.0, core=core, compute=90.0, memory=14.0)  # three more than its slowest level alone
    many = record(100.0, core=core, compute=90.0, memory=16.0)
    (winner,) = log.best([few, many][::order]).values()
    assert winner is {"few": few, "many": many}[wins]


@pytest.mark.parametrize("order", [1, -1])
def test_so_does_a_core_of_ones_own_that_issues_in_order(order):
    costs = ((101.0, 14.0), (100.0, 16.0))
    few, many = (record(c, core="my-a35", compute=90.0, memory=m, in_order=True) for c, m in costs)
    (winner,) = log.best([Record.from_json(r.to_json()) for r in [few, many][::order]]).values()
    assert winner == few


@pytest.mark.parametrize(
    "fields", [{"unit": "s"}, {"predicted": False}, {"unit": "hours"}, {"failure": "no"}, {"decisions": [1]}]
)
def test_seconds_and_predictions_cannot_be_mixed_up(fields):
    with pytest.raises(ValueError):
        Record(**{"layer": POINTWISE, "core": "cortex-a72", "decisions": {}, "cost": 1.0, **fields})


@pytest.mark.parametrize("cut", [1, 20, 80])
def test_a_torn_end_is_set_aside_and_the_rest_kept(tmp_path, cut):
    journal = Journal(tmp_path / "log.jsonl")
    journal.append(record(1))
    journal.append(record(2))
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-cut])
    torn = cut > 1  # without its newline alone the record is still there to be read
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert [r.cost for r in journal.records()] == ([1] if torn else [1, 2])
    assert bool(seen) is torn
    if torn:
        with pytest.warns(TornLineWarning, match="torn"):
            journal.append(record(3))
        assert b"\n".join(whole.split(b"\n")[1:])[:-cut].strip() in (tmp_path / "log.torn").read_bytes()
    else:
        journal.append(record(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [r.cost for r in journal.records()] == ([1, 3] if torn else [1, 2, 3])


def test_a_line_that_is_no_record_is_skipped_by_name(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{record(1).to_json()}\n{{"layer": 3}}\n[]\n{record(2).to_json()}\n')
    with pytest.warns(TornLineWarning, match=r"log.jsonl:2") as seen:
        assert [r.cost for r in Journal(path).records()] == [1, 2]
    assert len(seen) == 2


WRITER = """
import sys
from tvm_mobilenet.tune_logs import log
for i in range(150):
    log.Journal(sys.argv[1]).append(log.Record(layer=sys.argv[2], core="c", decisions={"i": i}, cost=1.0 + i))
    if i % 10 == 0:
        log.tidy(sys.argv[1]) if sys.argv[3:] else None
"""


def test_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "log.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in ("a", "b", "c")]
    assert [w.wait() for w in writers] == [0, 0, 0]
    seen = {(r.layer, r.decisions["i"]) for r in Journal(path).records()}
    assert seen == {(name, i) for name in "abc" for i in range(150)}


def test_tidying_while_others_write_loses_no_best(tmp_path):
    path = tmp_path / "log.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name, *tidy])
        for name, tidy in (("a", []), ("b", ["tidy"]), ("c", ["tidy"]))
    ]
    assert [w.wait() for w in writers] == [0, 0, 0]
    log.tidy(path)
    assert [(r.layer, r.cost) for r in Journal(path).records()] == [("a", 1), ("b", 1), ("c", 1)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl"]


def test_a_kill_at_any_moment_tears_at_most_the_last_line(tmp_path):
    path, chance = tmp_path / "log.jsonl", random.Random(0)
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER.replace("150", "100000"), path, "a"])
        while not path.exists() or time.time() - path.stat().st_mtime > 1:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # one write a line: not even torn here
            costs = [r.cost for r in Journal(path).records()]
        starts = [i for i, cost in enumerate(costs) if cost == 1]
        runs = [costs[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
        assert costs and all(run == [1.0 + i for i in range(len(run))] for run in runs)


def test_measured_beats_predicted_and_today_beats_yesterday():
    target = targets.load("rpi4")
    today = {"sources": keys.sources_key(), "estimate": keys.estimate_key(target), "target": log.target_key(target)}
    slow, fast = record(200, **today), record(100, **today)
    stale = record(50, **{**today, "sources": "old"})
    assert log.best([fast, record(50, **{**today, "estimate": "old"})])[fast.key] == fast
    measured = record(1.0, unit="s", predicted=False, sources="old")
    assert log.best([slow, fast, stale, record(None)])[fast.key] == fast
    assert log.best([fast, measured, slow])[fast.key] == measured
    assert log.best([stale])[fast.key] == stale


def test_tidy_leaves_one_line_of_each_kind(tmp_path):
    path = tmp_path / "log.jsonl"
    for one in (record(3), record(2), record(4, layer="dense m1 n10 k64 f32"), record(9.0, unit="s", predicted=False)):
        Journal(path).append(one)
    log.tidy(path)
    assert [(r.layer.split()[0], r.cost) for r in Journal(path).records()] == [
        ("dense", 4),
        ("pointwise", 9.0),
        ("pointwise", 2),
    ]


@pytest.fixture
def spaces(monkeypatch):
    """Schedules of which only even tiles are valid."""
    from tvm_mobilenet import schedules

    class Space:
        def valid(self, decisions):
            return "tile_m is odd" if decisions["tile_m"] % 2 else ""

    monkeypatch.setattr(schedules, "space", lambda layer, core: Space(), raising=False)


def _log(path, *rows):
    for tile, cost, *measured in rows:
        kind = {"unit": "s", "predicted": False} if measured else {}
        Journal(path).append(Record(layer=POINTWISE, core="cortex-a72", decisions={"tile_m": tile}, cost=cost, **kind))
    return path


def _find(*paths):
    from tvm_mobilenet.layer import Layer

    known = TuneLogs(paths, targets.load("rpi4")).find(Layer.parse(POINTWISE))
    return known and (known.record.decisions["tile_m"], known.source.name)


def test_logs_are_consulted_in_order(tmp_path, spaces):
    mine = _log(tmp_path / "mine", (4, 100.0), (6, 90.0))
    shipped = _log(tmp_path / "shipped", (8, 10.0))
    assert _find(mine, shipped) == (6, "mine")
    assert _find(shipped, mine) == (8, "shipped")
    assert _find(tmp_path / "none", shipped) == (8, "shipped")
    assert _find(tmp_path / "none") is None
    assert _find(mine, _log(tmp_path / "board", (2, 1.0, "measured"))) == (2, "board")


def test_records_of_the_very_target_come_before_others_of_its_core(tmp_path, spaces):
    path = _log(tmp_path / "mine", (4, 100.0))
    Journal(path).append(
        Record(layer=POINTWISE, core="cortex-a72", decisions={"tile_m": 6}, cost=200.0, target="rpi4 0")
    )
    Journal(path).append(Record(layer=POINTWISE, core="cortex-a53", decisions={"tile_m": 2}, cost=1.0, target="rpi3 0"))
    assert _find(path) == (6, "mine")


def test_decisions_that_no_schedule_knows_any_more_are_skipped(tmp_path, spaces):
    mine = _log(tmp_path / "mine", (5, 1.0))
    with pytest.warns(UserWarning, match="tile_m is odd; skipped"):
        assert _find(mine, _log(tmp_path / "shipped", (8, 10.0))) == (8, "shipped")


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TvmMobilenetError, match="tune log"):
        Journal(tmp_path / "file" / "log.jsonl").append(record())
