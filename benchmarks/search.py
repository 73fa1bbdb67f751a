"""Compare searches with an exhaustive search over the same decisions.

    python -m benchmarks.search estimates rpi4 benchmarks/data/search_cortex-a72.jsonl   # every point; goes on
    python -m benchmarks.search compare benchmarks/data/search_cortex-a72.jsonl       # searches, replayed on that

``estimates`` builds, runs whole, checks and estimates every point of some layers' spaces, memory included, as a
candidate of ``tune`` is. A space of more than ``MOST`` points is cut first: the longest choice loses the candidates
farthest from the default. ``compare`` lets each way of searching ask for points one at a time, with estimates from the
file, several times with other seeds. It prints the number of trials until a point is within 2 % of the best.
``metaschedule`` describes how MetaSchedule chooses among our points; its two ways with 20 runs take half an hour.
``compare FILE MetaSchedule 10`` runs only the ways with that text in their name, 10 times each.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import metaschedule

# Six layers of each kind whose spaces have a hundred points or more, of all four networks at several widths.
LAYERS = (
    "depthwise 14x14x120 5x5 p2,2,2,2 f32 hardswish",
    "depthwise 7x7x240 3x3 p1,1,1,1 f32 relu6",
    "depthwise 14x14x64 3x3 s2 p1,1,1,1 f32 relu6",
    "depthwise 28x28x64 3x3 s2 p1,1,1,1 f32 relu6",
    "depthwise 14x14x128 3x3 p1,1,1,1 f32 relu6",
    "depthwise 7x7x256 3x3 p1,1,1,1 f32 relu6",
    "conv 96x96x3 n16 3x3 s2 p1,1,1,1 nchw f32 hardswish",
    "conv 64x64x3 n32 3x3 s2 p1,1,1,1 f32 relu6",
    "conv 128x128x3 n16 3x3 s2 p1,1,1,1 f32 relu6",
    "conv 128x128x3 n24 3x3 s2 p1,1,1,1 f32 relu6",
    "conv 128x128x3 n32 3x3 s2 p1,1,1,1 f32 relu6",
    "conv 160x160x3 n16 3x3 s2 p1,1,1,1 f32 relu6",
    "pointwise m49 n256 k128 f32 relu6",
    "pointwise m196 n64 k192 f32",
    "pointwise m196 n128 k64 f32 relu6",
    "pointwise m49 n256 k256 f32 relu6",
    "pointwise m49 n112 k336 f32",
    "pointwise m784 n96 k16 f32 relu6",
    "dense m1 n1000 k256 f32",
    "dense m1 n1000 k512 f32",
    "dense m1 n1000 k1024 f32",
    "dense m1 n1000 k1280 f32",
    "dense m1 n1024 k576 f32 hardswish",
    "dense m1 n96 k24 f32 relu",
    "fused depthwise 8x8x128 3x3 p1,1,1,1 f32 relu6 > pointwise m64 n128 k128 f32 relu6",
    "fused depthwise 16x16x64 3x3 s2 p1,1,1,1 f32 relu6 > pointwise m64 n128 k64 f32 relu6",
    "fused depthwise 16x16x64 3x3 p1,1,1,1 f32 relu6 > pointwise m256 n64 k64 f32 relu6",
    "fused depthwise 32x32x32 3x3 s2 p1,1,1,1 f32 relu6 > pointwise m256 n64 k32 f32 relu6",
    "fused depthwise 32x32x32 3x3 p1,1,1,1 f32 relu6 > pointwise m1024 n32 k32 f32 relu6",
    "fused pointwise m3136 n48 k8 f32 relu6 > depthwise 56x56x48 3x3 s2 p1,1,1,1 f32 relu6"
    " > pointwise m784 n16 k48 f32",
)
MOST = 140
NEAR = 1.02
SEEDS = 20
TRIALS = 64
LEARNED = "MetaSchedule, XGBoost"


def cut(space, most: int = MOST):
    """A space cut to at most this number of points, more than half of it; the default stays in it."""
    choices = dict(space.choices)
    while True:
        now = dataclasses.replace(space, choices=choices)
        points = list(itertools.islice(now.points(), 20_000))
        if len(points) <= most:
            return now, points
        name = max(choices, key=lambda n: len(choices[n].candidates))
        candidates = choices[name].candidates
        at = candidates.index(choices[name].default)
        far = max(range(len(candidates)), key=lambda i: abs(i - at))
        kept = tuple(c for i, c in enumerate(candidates) if i != far)
        choices[name] = dataclasses.replace(choices[name], candidates=kept)


def estimates(target_name: str, path: str, jobs: str = "2") -> None:
    """Estimate every point of every layer; points in the file do not run again."""
    with multiprocessing.get_context("spawn").Pool(int(jobs)) as pool:
        for name, points in pool.imap_unordered(_estimates, [(target_name, path, name) for name in LAYERS]):
            print(name, points, file=sys.stderr, flush=True)


def _estimates(work: tuple[str, str, str]) -> tuple[str, int]:
    """Estimate the points of one layer; each becomes a line of the file."""
    from tvm_mobilenet.tune_logs.log import identity

    from tvm_mobilenet import schedules, targets
    from tvm_mobilenet.layer import Layer
    from tvm_mobilenet.tuning.builder import Builder
    from tvm_mobilenet.tuning.candidate import Candidate
    from tvm_mobilenet.tuning.runner import Evaluate

    target_name, path, name = work
    target, file = targets.load(target_name), Path(path)
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    known = {identity(r["decisions"]) for r in rows if r["layer"] == name}
    space, points = cut(schedules.space(Layer.parse(name), target.core))
    evaluate = Evaluate(target)
    evaluate.prepare()
    evaluate.builder = Builder(target, fresh=True)  # the seconds of a build are recorded
    for point in points:
        if identity(point) in known:
            continue
        start = time.process_time()
        try:
            cost, failure = evaluate(Candidate(name, point, True)).cost, ""
        except Exception as error:
            cost, failure = None, f"{type(error).__name__}: {error}"[:200]
        row = {
            "layer": name,
            "core": target.core.name,
            "decisions": point,
            "cost": cost,
            "failure": failure,
            "default": point == space.default,
            "seconds": round(time.process_time() - start, 2),
        }
        with open(file, "a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
    return name, len(points)


# ---- the searches: generators that yield points and receive their costs


def shipped(space, seed: int, use_proposals: bool = True, use_neighbours: bool = True) -> Iterator[dict]:
    """``tuning.layer_search.LayerSearch``; without Optuna's proposals, or without neighbours."""
    from tvm_mobilenet.tune_logs.log import Record

    from tvm_mobilenet.tuning.layer_search import LayerSearch

    one = LayerSearch("layer", space, trials=TRIALS)
    one._random = random.Random(seed)
    if not use_proposals:
        one._proposals = lambda: iter(())
    if not use_neighbours:
        one._neighbours = lambda: iter(())
    while (point := one.ask()) is not None:
        cost = yield point
        one.tell(Record(layer="layer", core="c", decisions=point, cost=cost, failure="" if cost else "failed"))


def sampler(kind: str, space, seed: int) -> Iterator[dict]:
    """An Optuna sampler on indices of candidates, the default first; refused or known points are skipped."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=6),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=12),
    }[kind]()
    study = optuna.create_study(sampler=made)
    study.enqueue_trial({n: c.candidates.index(c.default) for n, c in space.choices.items()})
    tried: dict[str, float] = {}
    for _ in range(40 * TRIALS):
        trial = study.ask()
        point = {n: c.candidates[trial.suggest_int(n, 0, len(c.candidates) - 1)] for n, c in space.choices.items()}
        key = json.dumps(point, sort_keys=True)
        if space.valid(point):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        if key not in tried:
            tried[key] = (yield point) or 1e30
        study.tell(trial, tried[key])


WAYS = {
    "neighbours and TPE in turns": shipped,
    "neighbours and random": lambda space, seed: shipped(space, seed, use_proposals=False),
    "TPE (default first)": lambda space, seed: sampler("tpe", space, seed),
    "evolution, NSGA-II of 12": lambda space, seed: sampler("nsga2", space, seed),
    "random": lambda space, seed: sampler("random", space, seed),
    LEARNED: lambda space, seed: metaschedule.evolution(space, seed),
    "MetaSchedule, no model": lambda space, seed: metaschedule.evolution(space, seed, learned=False),
}


def trials_needed(way, space, costs: dict[str, float | None], seed: int) -> int:
    """Trials until within ``NEAR`` of the best; ``TRIALS`` + 1 if these did not suffice."""
    goal = NEAR * min(c for c in costs.values() if c)
    asking = way(space, seed)
    point = next(asking, None)
    for n in range(1, TRIALS + 1):
        if point is None:
            break
        cost = costs[json.dumps(point, sort_keys=True)]
        if cost and cost <= goal:
            return n
        try:
            point = asking.send(cost)
        except StopIteration:
            break
    return TRIALS + 1


def compare(path: str, part: str = "", seeds: str = str(SEEDS)) -> None:
    """Print a table: median and 90th percentile of the trials for each layer, by each way with ``part`` in its name."""
    from tvm_mobilenet import schedules, targets
    from tvm_mobilenet.layer import Layer

    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    core = next(t.core for t in map(targets.load, ("rpi3", "rpi4", "rpi5")) if t.core.name == rows[0]["core"])
    ways = {label: way for label, way in WAYS.items() if part in label}
    if LEARNED in ways and not metaschedule.has_xgboost():
        del ways[LEARNED]
    print("| layer | points | default / best | " + " | ".join(ways) + " |\n" + "|---" * (3 + len(ways)) + "|")
    totals: dict[str, list[int]] = {label: [] for label in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for name in dict.fromkeys(r["layer"] for r in rows):
        space, points = cut(schedules.space(Layer.parse(name), core))
        costs = {json.dumps(r["decisions"], sort_keys=True): r["cost"] for r in rows if r["layer"] == name}
        if missing := [p for p in points if json.dumps(p, sort_keys=True) not in costs]:
            print(f"{name}: {len(missing)} of {len(points)} points have no estimate", file=sys.stderr)
            continue
        best = min(c for c in costs.values() if c)
        cells = [name, str(len(points)), f"{costs[json.dumps(space.default, sort_keys=True)] / best:.3f}"]
        for label, way in ways.items():
            start = time.process_time()
            needed = sorted(trials_needed(way, space, costs, seed) for seed in range(int(seeds)))
            seconds[label] += time.process_time() - start
            totals[label] += needed
            cells.append(f"{statistics.median(needed):g}, {needed[int(0.9 * len(needed)) - 1]}")
        print("| " + " | ".join(cells) + " |", flush=True)
    print("| all | | | " + " | ".join(f"{statistics.mean(t):.1f} on average" for t in totals.values()) + " |")
    choosing = (f"{1e3 * seconds[label] / sum(t):.0f} ms" for label, t in totals.items())
    print("| choosing, a trial | | | " + " | ".join(choosing) + " |")


if __name__ == "__main__":
    {"estimates": estimates, "compare": compare}[sys.argv[1]](*sys.argv[2:])
