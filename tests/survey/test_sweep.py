"""The sweep: each network run once, figures that are those of the built module, a budget that chooses, a report."""

import csv
import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from tvm_mobilenet.tune_logs.log import Journal, Record

from tests.cli.test_cli import run
from tests.support import schemas
from tvm_mobilenet import sweep, targets
from tvm_mobilenet.cluster import place
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.models import cost as formulas
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.survey import budget, sweep_page, sweep_text, theory
from tvm_mobilenet.survey import estimates as estimating
from tvm_mobilenet.sweep import SweepResult, Twin, Variant
from tvm_mobilenet.terminal import console
from tvm_mobilenet.tuning.workers import Done

RPI4 = targets.load("rpi4")
SMALL = ModelOptions(model="v1", alpha=0.25, resolution=32)


def variant(alpha, resolution, ms, top1, memory=10e6, model="v1"):
    return Variant(
        model,
        alpha,
        resolution,
        ms,
        ms / 3.5,
        True,
        int(ms * 5e6),
        4_000_000,
        16_000_000,
        int(memory),
        top1,
        "arXiv 1704.04861",
    )


NETWORKS = [
    variant(1.0, 224, 98.0, 0.709, 20e6),
    variant(0.75, 224, 57.0, 0.684, 12e6),
    variant(1.0, 160, 51.0, 0.680, 18e6),
    variant(0.5, 224, 27.0, 0.633, 7e6),
    variant(0.75, 128, 29.0, 0.621, 11e6),
    variant(0.9, 128, 5.0, None, 1e6),
]
RESULT = SweepResult(
    "rpi4",
    "Raspberry Pi 4B",
    "cortex-a72",
    4,
    "virtual",
    NETWORKS,
    [Twin("v1 1-224", 8.55, 7.9, 7.5), Twin("v1 0.5-224", 8.2, 6.1, 5.9)],
)


# ---- which networks


def test_the_sixteen_networks_of_the_paper_are_the_default():
    found = sweep.networks_of(["v1"], [], [])
    assert len(found) == 16
    assert {(n.alpha, n.resolution) for n in found} == {
        (a, r) for a in (1.0, 0.75, 0.5, 0.25) for r in (224, 192, 160, 128)
    }


def test_alphas_and_resolutions_given_replace_the_published_ones():
    found = sweep.networks_of(["v2", "v1-plain"], [0.9], [96, 64])
    assert [(n.model, n.alpha, n.resolution) for n in found] == [
        ("v2", 0.9, 96),
        ("v2", 0.9, 64),
        ("v1-plain", 0.9, 96),
        ("v1-plain", 0.9, 64),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--families", "v3-lrage"], "did you mean v3-large"),
        (["--alphas", "0"], "alpha 0.0 must be above 0"),
        (["--alphas", "-1,0.5"], "alpha -1.0 must be above 0"),
        (["--alphas", "half"], "--alphas half: not numbers"),
        (["--resolutions", "100"], "the nearest are 96 or 128"),
        (["--budget", "60"], "the unit is missing"),
        (["--budget", "60MB"], "'MB' is not a unit of time"),
        (["--budget", "0ms"], "no time above zero"),
        (["--memory", "64ms"], "'ms' is not a unit of amount of memory"),
        (["--budget", "60ms", "--cores", "3"], "rpi4 has 4"),
    ],
)
def test_mistakes_are_named_before_anything_runs(arguments, words, capsys, tmp_path):
    flag, value, *rest = arguments
    code = sweep.main(["--target", "rpi4", "--estimates", str(tmp_path / "p.jsonl"), f"{flag}={value}", *rest])
    assert code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["60", "0%", "101%", "nan", "much"])
def test_an_accuracy_is_a_share(value, capsys):
    """As `build --min-accuracy` reads it."""
    with pytest.raises(SystemExit) as stopped:
        sweep.main(["--target", "rpi4", f"--min-accuracy={value}"])
    assert stopped.value.code == 2 and re.search("(a|no) share of 1", capsys.readouterr().err)


# ---- estimates


@pytest.fixture(scope="module")
def estimated(tmp_path_factory):
    estimates = tmp_path_factory.mktemp("sweep") / "estimates.jsonl"
    return estimates, estimating.estimate_networks([SMALL], RPI4, estimates=estimates, workers=1)[0]


@pytest.mark.full
def test_a_network_costs_what_the_built_module_is_predicted_to(estimated, tmp_path):
    """With other weights, input and code around the kernels, an estimate is what verification finds on the module that
    ships: arithmetic and memory, on one core and on all."""
    from tvm_mobilenet.build import build
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.verify import verify

    _, found = estimated
    network = load_network(SMALL)
    made = build(SMALL, RPI4, output=tmp_path, network=network)
    checked = verify(tmp_path, network=network, count=1, layers=False)
    assert found.cost == pytest.approx(checked.cycles, rel=2e-3)
    assert found.cost_all_cores == pytest.approx(checked.cycles_all_cores, rel=2e-3)
    assert found.compute == pytest.approx(checked.compute, rel=1e-3)
    assert checked.compute < checked.cycles
    assert sum(found.kinds.values()) == pytest.approx(found.cost)
    assert (found.parameters_bytes, found.arena_bytes, found.scratch_bytes) == (
        made.parameters_bytes,
        made.arena_bytes,
        made.scratch_bytes,
    )
    assert found.code_bytes == estimating.code_bytes(tmp_path / built.KERNELS)
    counted = formulas.model_costs("v1", 0.25, 32)
    assert found.mult_adds == sum(c.mult_adds for c in counted)
    assert found.parameters == sum(c.parameters for c in counted)


def test_what_was_estimated_is_not_run_again(estimated, monkeypatch, capsys):
    estimates, found = estimated
    before = estimates.read_bytes()
    assert len(before.splitlines()) == 1
    monkeypatch.setattr(place, "Workers", None)  # nobody is asked
    again = estimating.estimate_networks([SMALL], RPI4, estimates=estimates, workers=1)
    assert again == [found] and estimates.read_bytes() == before
    words = ["--target", "rpi4", "--alphas", "0.25", "--resolutions", "32", "--estimates", str(estimates), "--json"]
    assert sweep.main([*words, "--log", "missing.jsonl"]) == 0
    shown = capsys.readouterr()
    schemas.require("sweep", json.loads(shown.out), "", "networks.0")
    assert "--log missing.jsonl: no such file" in shown.err


class Pool:
    """In place of workers: does the jobs at once, and may be interrupted."""

    def __init__(self, bench, count, *_):
        self.jobs, self.count, self.busy, self.pace = [], count, 0, ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def idle(self):
        return self.count - self.busy

    def submit(self, job):
        self.jobs.append(job)
        self.busy += 1

    def wait(self, _):
        job, self.busy = self.jobs.pop(0), self.busy - 1
        if job.resolution == Pool.interrupted_at:
            raise KeyboardInterrupt
        Pool.ran.append(job)
        return [Done(job, estimate_of(job), "", 0.0)]


def estimate_of(options, **values):
    return estimating.Estimate(
        **{
            "model": options.model,
            "alpha": options.alpha,
            "resolution": options.resolution,
            "classes": options.classes,
            "batch": options.batch,
            "cost": 1e8,
            "cost_all_cores": 3e7,
            "unit": "cycles",
            "compute": 9e7,
            "kinds": {"pointwise": 1e8},
            "mult_adds": 5 * 10**8,
            "parameters": 4_000_000,
            "parameters_bytes": 16_000_000,
            "arena_bytes": 2_000_000,
            "scratch_bytes": 1000,
            "code_bytes": 300_000,
            **values,
        }
    )


@pytest.fixture
def pool(monkeypatch):
    Pool.interrupted_at, Pool.ran = 0, []
    monkeypatch.setattr(place, "Workers", Pool)
    return Pool


NETWORKS_OF_THREE = [dataclasses.replace(SMALL, resolution=r) for r in (32, 64, 96)]


def test_an_interrupted_sweep_goes_on_where_it_was(pool, tmp_path):
    estimates, seen = tmp_path / "p.jsonl", []
    pool.interrupted_at = 32  # the smallest comes last
    with pytest.raises(KeyboardInterrupt):
        estimating.estimate_networks(NETWORKS_OF_THREE, RPI4, estimates=estimates)
    assert [n.resolution for n in pool.ran] == [96, 64]
    with estimates.open("a") as file:
        file.write('{"model": "v1", "alp')  # and was killed while it wrote
    pool.interrupted_at = 0
    with pytest.warns(UserWarning, match="torn|no record"):
        found = estimating.estimate_networks(
            NETWORKS_OF_THREE, RPI4, estimates=estimates, show=lambda *now: seen.append(now[:2])
        )
    assert [n.resolution for n in pool.ran] == [96, 64, 32]
    assert [p.resolution for p in found] == [32, 64, 96] and seen[0] == (2, 3) and seen[-1] == (3, 3)


def test_estimates_of_other_targets_boards_logs_or_code_do_not_count(pool, tmp_path, monkeypatch):
    estimates, log = tmp_path / "p.jsonl", tmp_path / "log.jsonl"

    def runs(*arguments, **options):
        pool.ran.clear()
        estimating.estimate_networks([SMALL], *arguments, estimates=estimates, **options)
        return len(pool.ran)

    assert runs(RPI4) == 1 and runs(RPI4) == 0
    assert runs(targets.load("rpi3")) == 1
    assert runs(dataclasses.replace(RPI4, clock_hz=RPI4.clock_hz + 1)) == 1
    assert runs(RPI4, "rpc://pi:9090") == 1
    assert runs(RPI4, log=log) == 0  # there is none yet
    Journal(log).append(Record(layer="pointwise m49 n64 k32 f32", core="cortex-a72", decisions={}, cost=1.0))
    assert runs(RPI4, log=log) == 1 and runs(RPI4, log=log) == 0
    monkeypatch.setattr(estimating.keys, "sources_key", lambda: "other schedules")
    assert runs(RPI4) == 1


def test_a_network_that_cannot_be_run_is_named(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "wait", lambda self, _: [Done(self.jobs.pop(), None, "crash: SIGSEGV", 0.0)])
    with pytest.raises(BoardError, match=r"v1 0\.25-32 on rpi4: crash: SIGSEGV"):
        estimating.estimate_networks([SMALL], RPI4, estimates=tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    "name",
    ["pointwise m49 n64 k32 f32 relu6", "depthwise 14x14x32 3x3 p1,1,1,1 f32 hardswish", "pool 7x7x64 avg 7x7 f32"],
)
def test_what_a_kernel_costs_does_not_depend_on_its_data(name, tmp_path):
    from tvm_mobilenet.schedules import nest

    from tvm_mobilenet import schedules
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.checking import reference
    from tvm_mobilenet.compiler import codegen
    from tvm_mobilenet.layer import Layer

    layer = Layer.parse(name)
    decisions = schedules.space(layer, RPI4.core).default
    codegen.compile_kernels({nest.SYMBOL: schedules.kernel(layer, decisions)}, RPI4, tmp_path / "k.so")
    found = set()
    with open_board("virtual", RPI4).load(tmp_path / "k.so") as module:
        for scale in (1.0, 0.0, -1e30):
            operands = {k: a * np.float32(scale) for k, a in reference.random_arguments(layer).items()}
            kernel_run = module.call(nest.SYMBOL, reference.kernel_arguments(layer, decisions, operands))
            found.add((kernel_run.instructions, kernel_run.cost(1).value, kernel_run.cost(4).value))
    assert len(found) == 1


# ---- the budget


def limits(**values):
    arguments = {"budget": None, "memory": None, "min_accuracy": None, "cores": "1", **values}
    return budget.limits_of(SimpleNamespace(**arguments), RPI4)


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ({"budget": "60ms"}, "v1 0.75-224"),
        ({"budget": "0.056s"}, "v1 1-160"),
        ({"budget": "60ms", "cores": "4"}, "v1 1-224"),
        ({"budget": "60ms", "memory": "10MB"}, "v1 0.5-224"),
        ({"memory": "12MB", "min_accuracy": 0.65}, "v1 0.75-224"),
        ({"budget": "6ms"}, "v1 0.9-128"),  # without a published accuracy, but nothing else fits
        ({"budget": "6ms", "min_accuracy": 0.1}, None),
        ({"budget": "1ms"}, None),
    ],
)
def test_the_most_accurate_network_that_fits_is_chosen(values, chosen):
    best, over = budget.choose(NETWORKS, limits(**values), made=lambda network: network)
    assert (best and best.title) == chosen and not over


def in_dtypes(ms: dict, top1):
    return [dataclasses.replace(variant(0.25, 128, each, top1), dtype=dtype) for dtype, each in ms.items()]


@pytest.mark.parametrize("top1", [0.415, None])
@pytest.mark.parametrize(
    ("values", "chosen"),
    [({"budget": "9ms"}, "float32"), ({"budget": "2.5ms"}, "float16"), ({"budget": "1.5ms"}, "int8")],
)
def test_of_equal_accuracies_the_dtype_nearest_to_float32_is_chosen(values, chosen, top1):
    """Quantizing costs accuracy that nobody published: a user who asks for the most accurate must not get it for speed
    that the budget does not ask for."""
    networks = in_dtypes({"int8": 1.0, "float32": 4.0, "float16": 2.0}, top1)
    best, _ = budget.choose(networks, limits(**values), made=lambda network: network)
    assert best.dtype == chosen
    more = [*networks, *in_dtypes({"int8": 1.2}, 0.6)]
    assert budget.fitting(more, limits(**values))[0].top1 == 0.6


def test_the_accuracy_of_an_int8_network_is_said_to_be_that_of_float32(capsys, tmp_path):
    float32, float16, int8 = networks = in_dtypes({"float32": 4.0, "float16": 2.0, "int8": 1.0}, 0.415)
    assert budget.accuracy(float32) == budget.accuracy(float16) == "top-1 41.5 % (published)"
    assert budget.accuracy(int8) == "top-1 41.5 % (of float32)"
    (why,) = limits(min_accuracy=0.5).misses(int8)
    assert why == "top-1 41.5 % of float32, 8.5 points too low"
    (why,) = limits(min_accuracy=0.5).misses(float16)
    assert why == "top-1 41.5 %, 8.5 points too low"
    result = dataclasses.replace(RESULT, networks=networks)
    assert "top-1 of float32, %" in sweep_text.rows_of(result)[0] and "top-1, %" in sweep_text.rows_of(RESULT)[0]
    sweep_text.print_result(result)
    assert "by float32's published top-1" in capsys.readouterr().out
    assert {n["top1_of"] for n in console.plain_data(result)["networks"]} == {"float32"}
    chart = sweep_page.front_chart(result, 1)
    assert "published top-1 of float32, %" in str(chart.spec) and "float32's published top-1" in chart.words
    sweep.write_csv(result, tmp_path / "t.csv")
    assert [row["top1_of"] for row in csv.DictReader((tmp_path / "t.csv").open())] == ["float32"] * 3


def test_a_network_that_does_not_fit_once_it_is_built_gives_way_to_the_next():
    def made(network):  # 2 % dearer than its estimate
        return dataclasses.replace(network, milliseconds=1.02 * network.milliseconds)

    best, over = budget.choose(NETWORKS, limits(budget="57.5ms"), made)
    assert (best.title, best.milliseconds) == ("v1 1-160", 1.02 * 51.0)
    assert [(n.title, n.milliseconds) for n in over] == [("v1 0.75-224", 1.02 * 57.0)]
    best, over = budget.choose(NETWORKS, limits(budget="27.1ms", min_accuracy=0.6), made)
    assert best is None and [n.title for n in over] == ["v1 0.5-224"]


def test_the_nearest_miss_is_named_with_its_amount():
    nearest, why = budget.nearest(NETWORKS, limits(budget="25ms", min_accuracy=0.6))
    assert nearest.title == "v1 0.5-224" and why == ["27.00 ms, 2.00 ms (8.0%) over"]
    nearest, why = budget.nearest(NETWORKS, limits(budget="120ms", min_accuracy=0.75))
    assert nearest.title == "v1 1-224" and why == ["top-1 70.9 %, 4.1 points too low"]


def test_units():
    assert budget.quantity("--budget", "1.5 s", budget.TIMES, "time", "") == 1500
    assert budget.quantity("--memory", "1MiB", budget.SIZES, "memory", "") == 1 << 20
    assert limits() is None


# ---- the report


def test_the_front_holds_what_nothing_beats():
    assert [n.title for n in sweep_text.pareto(NETWORKS, 1)] == ["v1 0.5-224", "v1 1-160", "v1 0.75-224", "v1 1-224"]


def test_the_fitted_line():
    slope, intercept, explained = sweep_page.fit([1, 2, 4], [5, 7, 11])
    assert (slope, intercept, explained) == pytest.approx((2, 3, 1))
    assert sweep_page.fit([0, 1, 2], [0, 3, 0])[2] == pytest.approx(0)


def test_the_charts_hold_every_network():
    charts = {part.title: part for part in sweep_page.page(RESULT).parts if hasattr(part, "spec")}
    assert {title: len(chart.rows) for title, chart in charts.items()} == {
        "Latency and accuracy, 1 core": 5,  # those with an accuracy
        "Latency and mult-adds, 1 core": 6,
        "Latency and accuracy, 4 cores": 5,
        "Latency and mult-adds, 4 cores": 6,
        "Cost saved and time saved by separable convolutions": 4,  # twins on one core and on four
    }
    front = charts["Latency and accuracy, 1 core"]
    assert [row[0] for row in front.rows if row[-1]] == [n.title for n in NETWORKS[:4]]
    assert "predicted" in str(front.spec) and "measured" not in str(front.spec)


def test_a_line_is_fitted_through_three_networks_or_more():
    """Two points always lie on one: a fit through them explains all and says nothing."""
    for count, fitted in ((6, True), (3, True), (2, False), (1, False)):
        chart = sweep_page.cost_chart(dataclasses.replace(RESULT, networks=NETWORKS[:count]), 1)
        assert ("of the variance" in chart.words) == fitted == (len(chart.spec["layer"]) == 2)
    same = [dataclasses.replace(NETWORKS[0], milliseconds=ms) for ms in (1.0, 2.0, 3.0)]
    assert len(sweep_page.cost_chart(dataclasses.replace(RESULT, networks=same), 1).spec["layer"]) == 1


def test_labels_of_the_front_have_a_line_each():
    near = [variant(1.0, 32 * i, float(i), 0.7 + i / 1e4) for i in range(1, 5)] + [variant(0.25, 32, 0.5, 0.4)]
    chart = sweep_page.front_chart(dataclasses.replace(RESULT, networks=near), 1)
    (names,) = [layer["transform"][0]["filter"]["oneOf"] for layer in chart.spec["layer"] if "oneOf" in str(layer)]
    assert names == ["v1 1-128", "v1 0.25-32"], "the most accurate of those that lie on one another"


@pytest.mark.parametrize("networks", [NETWORKS[:1], NETWORKS[-1:], NETWORKS[:2]])
def test_a_page_of_few_networks(networks):
    page = sweep_page.page(dataclasses.replace(RESULT, networks=networks, twins=[])).html(charts=False)
    assert networks[0].title in page and "nan" not in page


def test_the_table_as_csv(tmp_path):
    sweep.write_csv(RESULT, tmp_path / "t.csv")
    with open(tmp_path / "t.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(NETWORKS)
    assert rows[0]["target"] == "rpi4" and float(rows[0]["milliseconds"]) == 98.0 and rows[-1]["top1"] == ""
    assert rows[0]["source"] and rows[0]["predicted"] == "True"


# ---- theory


@pytest.mark.full
def test_theory_says_by_how_much_cycles_differ_from_mult_adds(monkeypatch):
    def estimate(networks, target, **_):
        found = []
        for n in networks:
            counts = sum(c.mult_adds for c in formulas.model_costs(n.model, n.alpha, n.resolution))
            cycles = counts / target.core.macs_per_cycle("float32") + 1e6
            found.append(
                estimate_of(
                    n,
                    cost=cycles,
                    cost_all_cores=cycles / 2,
                    mult_adds=counts,
                    compute=0.9 * cycles,
                    kinds={"pointwise": cycles},
                )
            )
        return found

    monkeypatch.setattr(estimating, "estimate_networks", estimate)
    found = theory.compare()
    separable, *others = found.comparisons
    assert separable.mult_adds == pytest.approx(569 / 4866, rel=2e-3)
    assert separable.formula == pytest.approx(1 / 9 + 1 / 512, rel=0.1)
    assert list(separable.cycles) == ["cortex-a53", "cortex-a72", "cortex-a76"]
    assert all(ratio > c.mult_adds for c in found.comparisons for ratio in c.cycles.values())
    assert [round(c.formula, 3) for c in others] == [0.562, 0.25, 0.062, 0.735, 0.51, 0.327]
    columns, rows = found.table()
    assert all(len(row) == len(columns) for row in rows) and len(rows) == 7
    assert found.words()
    schemas.require("sweep", schemas.printed(found), "", "comparisons.0")


# ---- the verb


@pytest.mark.full
def test_a_budget_builds_and_verifies_what_it_chose(tmp_path):
    command = [
        "-m",
        "tvm_mobilenet.sweep",
        "--target",
        "rpi4",
        "--alphas",
        "0.25",
        "--resolutions",
        "128,160",
        "--estimates",
        str(tmp_path / "p.jsonl"),
        "--output",
        str(tmp_path / "built"),
        "--csv",
        str(tmp_path / "r.csv"),
    ]
    done = run(*command, "--budget", "60ms", "--json", timeout=1200)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["chosen"]["resolution"] == 160 and document["verification"]["ok"]
    schemas.require("sweep", document, "", "chosen")
    estimated = next(n for n in document["networks"] if n["resolution"] == 160)
    for name in ("milliseconds", "milliseconds_all_cores"):
        assert document["chosen"][name] == document["verification"][name]
        assert document["chosen"][name] == pytest.approx(estimated[name], rel=2e-3)
    assert document["chosen"]["memory_bytes"] == estimated["memory_bytes"] and document["built_and_over"] == []
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 3
    done = run(*command, "--budget", "1ms", "--json")
    assert done.returncode == 6 and "the nearest, v1 0.25-128" in done.stderr
    schemas.require("sweep", json.loads(done.stdout), "")


def test_several_dtypes_share_one_front(capsys):
    """A narrower dtype that is as accurate by the published figure and faster takes its float32 network's place."""
    narrow = [dataclasses.replace(n, dtype="int8", milliseconds=n.milliseconds / 3) for n in NETWORKS[:1]]
    result = sweep.SweepResult("rpi5", "Pi 5", "cortex-a76", 4, "virtual", [*NETWORKS, *narrow], [])
    front = sweep_text.pareto(result.networks, 1)
    assert any(n.dtype == "int8" for n in front) and any(n.dtype == "float32" for n in front)
    for n in narrow:
        assert dataclasses.replace(n, dtype="float32") not in front
    sweep_text.print_result(result)
    out = capsys.readouterr().out
    assert "no network is both faster and more accurate" in out and "top-1 is of float32, whatever the dtype" in out
    found = sweep.networks_of(["v1"], [1.0], [224], ("float32", "int8"))
    assert [(n.dtype, n.title) for n in found] == [("float32", "v1 1-224"), ("int8", "v1 1-224 int8")]
