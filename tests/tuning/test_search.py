"""The search: worth its time only if it beats the defaults, finds what is there, and never does its work twice."""

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from tvm_mobilenet.schedules.choices import Choice, Space
from tvm_mobilenet.tune_logs.log import Journal, Record

from tests.support.fake_board import Costs, cost_of
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tuning.candidate import Candidate
from tvm_mobilenet.tuning.layer_search import LayerSearch
from tvm_mobilenet.tuning.search import Search, near
from tvm_mobilenet.tuning.workers import Workers

NAMES = ["pointwise m196 n512 k512 f32 relu6", "pointwise m784 n256 k256 f32 relu6", "dense m1 n1000 k1024 f32"]
BEST = {"tile_m": 7, "tile_n": 8, "unroll": 4, "order": "m"}


def space(big=True) -> Space:
    """8 x 4 x 4 x 2 points, 40 of them refused; a bad default."""
    tiles = tuple(range(1, 9)) if big else (1, 7)
    return Space(
        {
            "tile_m": Choice(tiles, 1),
            "tile_n": Choice((4, 8, 12, 16), 16),
            "unroll": Choice((1, 2, 4, 8), 1),
            "order": Choice(("n", "m"), "n"),
        },
        lambda d: "too many registers" if d["tile_m"] * d["tile_n"] > 96 else "",
    )


def layers(**fields) -> dict[str, LayerSearch]:
    return {name: LayerSearch(name, space(), **fields) for name in NAMES}


def search(path, layer_searches, evaluate, **fields) -> Search:
    journal = Journal(path)
    one = Search(
        layer_searches, near(layer_searches, Layer.parse), lambda record, best: journal.append(record), **fields
    )
    one.resume(list(journal.records()))

    def record_of(done):
        return Record(
            layer=done.job.layer,
            core="c",
            decisions=done.job.decisions,
            cost=done.value and done.value.cost,
            failure=done.failure,
            seconds=done.seconds,
        )

    with Workers(evaluate, 2, timeout=300) as workers:
        one.ended = one.run(workers, record_of, Candidate)
    return one


def test_a_bad_default_is_beaten_with_few_trials(tmp_path):
    one = search(tmp_path / "log", layers(trials=40), Costs())
    for name, layer in one.layers.items():
        assert layer.default_cost > 1.5 * layer.best.cost, name
        assert layer.best.cost <= 1.05 * cost_of(name, BEST), layer.best
        assert layer.curve == sorted(layer.curve, reverse=True)
        assert len(layer.tried) == 40 and one.ended == "done"


def test_a_small_space_is_searched_exhaustively(tmp_path):
    small = {NAMES[0]: LayerSearch(NAMES[0], space(big=False), trials=100)}
    one = search(tmp_path / "log", small, Costs())
    layer = one.layers[NAMES[0]]
    assert len(layer.tried) == layer.size == len(list(space(big=False).points()))
    assert layer.best.decisions == BEST


def test_no_candidate_is_evaluated_twice_and_failures_are_logged(tmp_path):
    one = search(tmp_path / "log", {NAMES[0]: LayerSearch(NAMES[0], space(), trials=1000)}, Costs(tmp_path))
    evaluated = (tmp_path / "evaluated").read_text().splitlines()
    assert len(evaluated) == len(set(evaluated)) == len(list(space().points()))
    failures = Counter(r.failure.split(":")[0] for r in one.layers[NAMES[0]].tried.values())
    assert failures["ValueError"] == failures["crash"] == 8 and len(failures) == 3
    assert one.layers[NAMES[0]].best.decisions == BEST


def test_all_layers_get_their_default_first_and_the_heavy_ones_more(tmp_path):
    them = {
        name: LayerSearch(name, space(), count=count, trials=100) for name, count in zip(NAMES, (1, 20, 1), strict=True)
    }
    one = Search(them, {}, lambda record, best: None)
    order = []
    for _ in range(60):
        layer, decisions = one.next()
        order.append((layer.name, decisions))
        one.end(
            Record(layer=layer.name, core="c", decisions=decisions, cost=cost_of(layer.name, decisions), seconds=0.1)
        )
    assert [name for name, _ in order[:3]] == NAMES and all(d == space().default for _, d in order[:3])
    counts = Counter(name for name, _ in order)
    assert counts[NAMES[1]] > 2 * counts[NAMES[0]] and min(counts.values()) >= 2


def test_near_layers_start_from_each_others_decisions():
    them = layers(trials=100)
    one = Search(them, near(them, Layer.parse), lambda record, best: None)
    assert one.near[NAMES[0]] == [NAMES[1]] and one.near[NAMES[2]] == []
    them[NAMES[1]].tell(Record(layer=NAMES[1], core="c", decisions=BEST, cost=cost_of(NAMES[1], BEST)))
    asked = [one.next() for _ in range(9)]
    assert [decisions for layer, decisions in asked if layer.name == NAMES[0]][:2] == [space().default, BEST]


def orders(count: int, late: random.Random, **fields) -> tuple[dict, list]:
    """Every layer's trials as ``count`` workers search them that end in any order, and the log."""
    them, written = layers(**fields), []
    one = Search(them, near(them, Layer.parse), lambda record, best: written.append((record, best)))
    running = []
    while True:
        while len(running) < count and (turn := one.next()):
            running.append(turn)
        if not running:
            break
        layer, decisions = running.pop(late.randrange(len(running)))
        cost = cost_of(layer.name, decisions)
        failed = decisions["tile_m"] == 1 and decisions["tile_n"] == 4
        facts = {"layer": layer.name, "core": "c", "decisions": decisions, "seconds": late.random()}
        one.end(Record(**facts, cost=None if failed else cost, failure="no code" * failed))
    return {name: [r.decisions for r in layer.tried.values()] for name, layer in them.items()}, written


def test_the_trials_are_the_same_on_any_number_of_workers_in_any_order():
    """Otherwise a cluster would ship other decisions than the machine beside it, and nobody could tell which is a
    mistake."""
    one, _ = orders(1, random.Random(1), trials=24)
    assert all(len(tried) == 24 for tried in one.values())
    for seed, count in enumerate((2, 3, 64)):
        other, written = orders(count, random.Random(seed), trials=24)
        assert other == one
        assert Counter(r.layer for r, _ in written) == dict.fromkeys(NAMES, 24)
        for name in NAMES:  # and the last line that says so has the best
            best = [r for r, better in written if r.layer == name and better][-1]
            assert best.score == min(r.score for r, _ in written if r.layer == name and r.cost is not None)


def test_a_search_that_stops_early_tells_what_has_ended():
    """Results that wait for an earlier one are not lost to the result of the search."""
    them = layers(trials=40)
    one = Search(them, {}, lambda record, best: None)
    asked = [one.next() for _ in range(12)]
    for layer, decisions in asked[1:]:
        one.end(Record(layer=layer.name, core="c", decisions=decisions, cost=cost_of(layer.name, decisions)))
    assert not asked[0][0].tried
    one._turns.close()
    assert sum(len(layer.tried) for layer in them.values()) == 11 and not any(layer.running for layer in them.values())


def test_layers_of_another_dtype_are_not_near():
    names = [f"pointwise m196 n512 k{k} {token} relu6" for k in (32, 64) for token in ("f32", "f16")]
    near_of = near(dict.fromkeys(names), Layer.parse)
    assert all(len(others) == 1 for others in near_of.values()) and len(near_of) == 4
    assert all(
        Layer.parse(name).dtype == Layer.parse(other).dtype for name, others in near_of.items() for other in others
    )


def test_time_of_earlier_runs_counts(tmp_path):
    journal = Journal(tmp_path / "log")
    journal.append(Record(layer=NAMES[0], core="c", decisions=space().default, cost=1.0, seconds=100.0))
    one = search(tmp_path / "log", layers(), Costs(tmp_path), time_limit=50, workers=2)
    assert one.ended == "time" and not (tmp_path / "evaluated").exists()


def test_a_time_limit_ends_the_search(tmp_path):
    """By a clock that goes on by a second whenever it is looked at, which is once a trial."""
    clock = itertools.count().__next__
    one = search(tmp_path / "log", layers(trials=1000), Costs(), time_limit=10, clock=clock)
    assert one.ended == "time" and sum(len(layer.tried) for layer in one.layers.values()) == 9


def test_a_point_refuted_as_a_whole_gives_way_to_the_next():
    layer = LayerSearch(NAMES[0], space())
    second = {**BEST, "unroll": 2}
    for decisions in (BEST, second):
        layer.tell(Record(layer=NAMES[0], core="c", decisions=decisions, cost=cost_of(NAMES[0], decisions)))
    layer.settle(Record(layer=NAMES[0], core="c", decisions=BEST, cost=None, failure="wrong", whole=True))
    assert layer.best.decisions == second


RUN = """
import sys
from tests.tuning.test_search import *
try:
    search(sys.argv[1] + "/log", layers(trials=30), Costs(sys.argv[1], delay=0.02))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.full
def test_killed_at_random_moments_it_goes_on_where_it_was(tmp_path):
    chance, kills = random.Random(1), 0

    def evaluated() -> int:
        path = tmp_path / "evaluated"
        return len(path.read_text().splitlines()) if path.exists() else 0

    for _ in range(30):
        enough = evaluated() + chance.randint(0, 25)  # trials, not seconds: on a busy machine a start takes those
        run = subprocess.Popen([sys.executable, "-c", RUN, tmp_path], stderr=subprocess.DEVNULL)
        while run.poll() is None and evaluated() <= enough:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        if run.poll() is not None:
            break
        kills += 1
        run.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        run.wait()
    assert run.returncode == 0 and kills >= 2
    done = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    tried = Counter((one["layer"], json.dumps(one["decisions"])) for one in done)
    assert len(done) == 90 and set(tried.values()) == {1}
    names = (tmp_path / "evaluated").read_text().splitlines()
    assert len(names) - len(set(names)) <= 2 * kills  # the trials in flight, and no others


def test_two_searches_into_one_log_lose_nothing(tmp_path):
    runs = [subprocess.Popen([sys.executable, "-c", RUN, tmp_path], stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    evaluated = len((tmp_path / "evaluated").read_text().splitlines())
    assert len(list(Journal(tmp_path / "log").records())) == evaluated
    assert 90 < evaluated <= 180, "each goes on from what the other had logged when it began"


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_workers(tmp_path, count):
    assert search(tmp_path / "log", layers(trials=6), Costs(), workers=count).ended == "done"
