"""MetaSchedule's evolutionary search over our decisions.

    python -m benchmarks.search compare benchmarks/data/search_cortex-a72.jsonl   # two columns of it are from here

``EvolutionarySearch`` chooses the points, with one ``sample_categorical`` for each decision, on a placeholder function
that computes nothing: only the choice of points is compared. Its stock mutators change tile sizes and unrolling, but no
plain choice, so it gets a mutator that takes another candidate of one decision. A post-processor refuses points that
our spaces refuse. Its XGBoost model learns from the decisions, and needs ``pip install xgboost``.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

BATCH = 4  # candidates requested at once; its default is 64, the limit of a layer
POPULATION = 128  # as many as the spaces have points; its default is 512
GREEDY = 0.25  # random share of a batch, which is one; its default, 0.05, would round to none
WARM = 8  # measured points before the cost model is used; its default is 100, more than there are trials


def has_xgboost() -> bool:
    """Whether MetaSchedule's cost model can be used; says on stderr how to get it if not."""
    if importlib.util.find_spec("xgboost"):
        return True
    print("MetaSchedule's cost model is left out: pip install xgboost", file=sys.stderr)
    return False


@contextmanager
def without_gpu_intrinsics():
    """Within, ``TuneContext`` can be made without its import of all intrinsics, which takes half a minute."""
    import tvm

    name = "tvm.s_tir.tensor_intrin"
    there = name in sys.modules
    empty = types.ModuleType(name)
    empty.__path__ = [os.path.join(tvm.s_tir.__path__[0], "tensor_intrin")]  # so that one of them can be imported
    sys.modules.setdefault(name, empty)
    try:
        yield
    finally:
        if not there:
            del sys.modules[name]


class Points:
    """Points of a space as traces, and back."""

    def __init__(self, space):
        self.space = space
        self.names = list(space.choices)

    def sample(self, schedule) -> None:
        """The schedule function: one sampled index for each decision, which only annotates the placeholder's block."""
        block = schedule.get_sblock("carrier")
        for name in self.names:
            n = len(self.space.choices[name].candidates)
            schedule.annotate(block, name, schedule.sample_categorical(list(range(n)), [1 / n] * n))

    @staticmethod
    def samples(trace) -> list:
        return [inst for inst in trace.insts if inst.kind.name == "SampleCategorical"]

    def indices(self, trace) -> list[int]:
        return [int(trace.get_decision(inst)) for inst in self.samples(trace)]

    def point(self, trace) -> dict:
        return {n: self.space.choices[n].candidates[i] for n, i in zip(self.names, self.indices(trace), strict=True)}

    def trace_of(self, point: dict, trace):
        """A trace with the decisions of a point."""
        for name, inst in zip(self.names, self.samples(trace), strict=True):
            trace = trace.with_decision(inst, self.space.choices[name].candidates.index(point[name]), True)
        return trace


def _extensions(points: Points, seed: int):
    """MetaSchedule's extensions for our decisions: refusal of points, mutation of a point, features for a model."""
    import tvm
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    chance = random.Random(seed)

    @derived_object
    class Refuse(ms.postproc.PyPostproc):
        def _initialize_with_tune_context(self, context):
            pass

        def apply(self, schedule):
            return not points.space.refuse(points.point(schedule.trace))

        def clone(self):
            return Refuse()

    @derived_object
    class Another(ms.mutator.PyMutator):
        def _initialize_with_tune_context(self, context):
            pass

        def apply(self, trace, _):
            choices = [len(points.space.choices[name].candidates) for name in points.names]
            at = chance.choice([i for i, n in enumerate(choices) if n > 1])
            inst = points.samples(trace)[at]
            other = [i for i in range(choices[at]) if i != int(trace.get_decision(inst))]
            return trace.with_decision(inst, chance.choice(other), True)

        def clone(self):
            return Another()

    @derived_object
    class Indices(ms.feature_extractor.PyFeatureExtractor):
        def extract_from(self, context, candidates):
            return [tvm.runtime.tensor(np.array([points.indices(c.sch.trace)], "float32")) for c in candidates]

    return Refuse(), Another(), Indices()


def evolution(
    space, seed: int, learned: bool = True, batch: int = BATCH, population: int = POPULATION, greedy: float = GREEDY
) -> Iterator[dict]:
    """MetaSchedule's evolutionary search, the default first; a generator that yields points and receives their costs.

    ``learned``: its XGBoost model, trained on the decisions' indices, selects the evolved points to measure; otherwise
    its random model does. Known points are not measured again.
    """
    from tvm import te
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms

    points = Points(space)
    refuse, another, indices = _extensions(points, seed)
    np.random.seed(seed)  # the model draws random scores from it until it is trained
    if learned:
        config = ms.cost_model.xgb_model.XGBConfig(seed=seed, nthread=1)
        model = ms.cost_model.XGBModel(extractor=indices, config=config, num_warmup_samples=WARM)
    else:
        model = ms.cost_model.RandomModel(seed=seed)
    carried = te.placeholder((1,), name="carried")
    carrier = te.create_prim_func([carried, te.compute((1,), lambda i: carried[i], name="carrier")])
    with without_gpu_intrinsics():
        context = ms.TuneContext(
            carrier,
            target={"kind": "llvm", "num-cores": 1},
            space_generator=ms.space_generator.ScheduleFn(points.sample, [], [refuse], {another: 1.0}),
            search_strategy=ms.search_strategy.EvolutionarySearch(
                population_size=population, init_min_unmeasured=min(50, population // 2), eps_greedy=greedy
            ),
            num_threads=1,
            rand_state=seed + 1,
        )
    database = ms.database.MemoryDatabase()
    workload = database.commit_workload(context.mod)
    design = context.generate_design_space()[0]
    context.pre_tuning(100_000, batch, [design], database, model)
    costs: dict[str, float] = {}

    def learn(candidates, found) -> list:
        results = [ms.runner.RunnerResult([cost], None) for cost in found]
        for candidate, cost in zip(candidates, found, strict=True):
            database.commit_tuning_record(
                ms.database.TuningRecord(candidate.sch.trace, workload, [cost], context.target, candidate.args_info)
            )
        model.update(context, candidates, results)
        return results

    def estimate(point) -> float:
        key = repr(point)
        if key not in costs:
            costs[key] = (yield point) or 1e10
        return costs[key]

    first = Schedule(context.mod)
    points.trace_of(space.default, design.trace).apply_to_schedule(first, remove_postproc=False)
    cost = yield from estimate(space.default)
    learn([ms.MeasureCandidate(first, ms.arg_info.ArgInfo.from_entry_func(first.mod))], [cost])
    while (candidates := context.generate_measure_candidates()) is not None:
        found = []
        for candidate in candidates:
            found.append((yield from estimate(points.point(candidate.sch.trace))))
        if candidates:
            context.notify_runner_results(candidates, learn(list(candidates), found))
