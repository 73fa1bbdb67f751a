"""The sweep: each kernel run once, figures that are those of the built module, a budget that chooses, a report."""

import csv
import dataclasses
import json
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.test_cli import run
from tvm_mobilenet import budget, built, pricing, report, sweep, targets, theory
from tvm_mobilenet.log import Journal
from tvm_mobilenet.models import cost as formulas
from tvm_mobilenet.options import ModelOptions
from tvm_mobilenet.sweep import SweepResult, Twin, Variant

RPI4 = targets.load("rpi4")
SMALL = ModelOptions(model="v1", alpha=0.25, resolution=32)


def variant(alpha, resolution, ms, top1, memory=10e6, model="v1"):
    return Variant(model, alpha, resolution, ms, ms / 3.5, True, int(ms * 5e6), 4_000_000, 16_000_000, int(memory),
                   top1, "arXiv 1704.04861")


NETWORKS = [
    variant(1.0, 224, 98.0, 0.709, 20e6), variant(0.75, 224, 57.0, 0.684, 12e6), variant(1.0, 160, 51.0, 0.680, 18e6),
    variant(0.5, 224, 27.0, 0.633, 7e6), variant(0.75, 128, 29.0, 0.621, 11e6), variant(0.9, 128, 5.0, None, 1e6),
]
RESULT = SweepResult("rpi4", "Raspberry Pi 4B", "cortex-a72", 4, "virtual", NETWORKS,
                     [Twin("v1 1-224", 8.55, 7.9, 7.5), Twin("v1 0.5-224", 8.2, 6.1, 5.9)])


# ---- which networks


def test_the_sixteen_networks_of_the_paper_are_the_default():
    found = sweep.networks_of(["v1"], [], [])
    assert len(found) == 16
    assert {(n.alpha, n.resolution) for n in found} == {
        (a, r) for a in (1.0, 0.75, 0.5, 0.25) for r in (224, 192, 160, 128)}


def test_alphas_and_resolutions_given_replace_the_published_ones():
    found = sweep.networks_of(["v2", "v1-plain"], [0.9], [96, 64])
    assert [(n.model, n.alpha, n.resolution) for n in found] == [
        ("v2", 0.9, 96), ("v2", 0.9, 64), ("v1-plain", 0.9, 96), ("v1-plain", 0.9, 64)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--families", "v3-lrage"], "did you mean mobilenet_v3_large"),
        (["--alphas", "0"], "alpha 0.0 must be above 0"),
        (["--alphas", "-1,0.5"], "alpha -1.0 must be above 0"),
        (["--alphas", "half"], "--alphas half: not numbers"),
        (["--resolutions", "100"], "the nearest are 96 or 128"),
        (["--budget", "60"], "the unit is missing"),
        (["--budget", "60MB"], "'MB' is no unit of time"),
        (["--budget", "0ms"], "no time above zero"),
        (["--memory", "64ms"], "'ms' is no unit of amount of memory"),
        (["--min-accuracy", "60"], "no share of 1"),
        (["--budget", "60ms", "--cores", "3"], "rpi4 has 4"),
    ],
)
def test_mistakes_are_named_before_anything_runs(arguments, words, capsys, tmp_path):
    flag, value, *rest = arguments
    code = sweep.main(["--target", "rpi4", "--prices", str(tmp_path / "p.jsonl"), f"{flag}={value}", *rest])
    assert code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ---- prices


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    prices = tmp_path_factory.mktemp("sweep") / "prices.jsonl"
    return prices, pricing.price_networks([SMALL], RPI4, prices=prices, workers=1)[0]


def test_a_network_costs_what_the_built_module_is_predicted_to(priced, tmp_path):
    """The sum over kernels run alone, with other weights, is what verification finds on the module that ships: in
    arithmetic exactly, in all up to what a layer leaves in the caches for the next."""
    from tvm_mobilenet.build import build
    from tvm_mobilenet.network import load_network
    from tvm_mobilenet.verify import verify

    prices, found = priced
    network = load_network(SMALL)
    made = build(SMALL, RPI4, output=tmp_path, network=network)
    checked = verify(tmp_path, network=network, count=1, layers=False)
    assert found.cost == pytest.approx(checked.cycles, rel=0.03)
    assert found.cost_all_cores == pytest.approx(checked.cycles_all_cores, rel=0.1)
    arithmetic = {r.layer: r.arithmetic for r in Journal(prices, pricing.Price).records()}
    counts = {layer: n for layer, _, n in found.outline.kernels}
    assert sum(n * arithmetic[layer] for layer, n in counts.items()) == pytest.approx(checked.arithmetic, rel=1e-3)
    assert checked.arithmetic < checked.cycles
    one = found.outline
    assert (one.parameters_bytes, one.arena_bytes, one.scratch_bytes) == (
        made.parameters_bytes, made.arena_bytes, made.scratch_bytes)
    # Alone, each kernel brings the few hundred bytes of start-up code and messages that a module has once.
    code = pricing.code_bytes(tmp_path / built.MODULE) - made.parameters_bytes
    assert code < found.code_bytes < 1.25 * code
    counted = formulas.model_costs("v1", 0.25, 32)
    assert (one.mult_adds, one.parameters) == (sum(c.mult_adds for c in counted), sum(c.parameters for c in counted))


def test_what_was_priced_is_not_run_again(priced, monkeypatch):
    prices, found = priced
    before = prices.read_bytes()
    lines = before.splitlines()
    keys = {pricing.key_of(layer, decisions) for layer, decisions, _ in found.outline.kernels}
    assert len(lines) == len(keys) and sum(n for *_, n in found.outline.kernels) > len(keys)
    again = pricing.price_networks([SMALL], RPI4, prices=prices, workers=1)[0]
    assert again == found and prices.read_bytes() == before


def test_a_sweep_goes_on_after_a_torn_line(priced, tmp_path):
    prices, found = priced
    lines = prices.read_bytes().splitlines(keepends=True)
    torn = tmp_path / "prices.jsonl"
    torn.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])
    with pytest.warns(UserWarning, match="torn|no record"):
        again = pricing.price_networks([SMALL], RPI4, prices=torn, workers=1)[0]
    assert again.cost == pytest.approx(found.cost)


def test_prices_of_other_schedules_or_targets_do_not_count(priced):
    prices, _ = priced
    records = list(Journal(prices, pricing.Price).records())
    assert records and all(r.target.startswith("rpi4 ") and r.schedule and r.code_bytes > 0 for r in records)


@pytest.mark.parametrize("name", ["pointwise m49 n64 k32 f32 relu6", "depthwise 14x14x32 3x3 p1,1,1,1 f32 hardswish",
                                  "pool 7x7x64 avg 7x7 f32"])
def test_what_a_kernel_costs_does_not_depend_on_its_data(name, tmp_path):
    from tvm_mobilenet.schedules import nest

    from tvm_mobilenet import codegen, reference, schedules
    from tvm_mobilenet.boards import open_board
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
        ({"memory": "12MB", "min_accuracy": "65%"}, "v1 0.75-224"),
        ({"budget": "6ms"}, "v1 0.9-128"),  # without a published accuracy, but nothing else fits
        ({"budget": "6ms", "min_accuracy": "0.1"}, None),
        ({"budget": "1ms"}, None),
    ],
)
def test_the_most_accurate_network_that_fits_is_chosen(values, chosen):
    best = budget.choose(NETWORKS, limits(**values))
    assert (best and best.title) == chosen


def test_the_nearest_miss_is_named_with_its_amount():
    nearest, why = budget.nearest(NETWORKS, limits(budget="25ms", min_accuracy="0.6"))
    assert nearest.title == "v1 0.5-224" and why == ["27.00 ms, 2.00 ms (8.0%) over"]
    nearest, why = budget.nearest(NETWORKS, limits(budget="120ms", min_accuracy="0.75"))
    assert nearest.title == "v1 1-224" and why == ["top-1 70.9 %, 4.1 points too low"]


def test_units():
    assert budget.quantity("--budget", "1.5 s", budget.TIMES, "time", "") == 1500
    assert budget.quantity("--memory", "1MiB", budget.SIZES, "memory", "") == 1 << 20
    assert limits() is None


# ---- the report


def test_the_front_holds_what_nothing_beats():
    assert [n.title for n in report.pareto(NETWORKS, 1)] == ["v1 0.5-224", "v1 1-160", "v1 0.75-224", "v1 1-224"]


def test_the_fitted_line():
    slope, intercept, explained = report.fit([1, 2, 4], [5, 7, 11])
    assert (slope, intercept, explained) == pytest.approx((2, 3, 1))
    assert report.fit([0, 1, 2], [0, 3, 0])[2] == pytest.approx(0)


def test_the_page_refers_to_nothing_outside_and_its_plots_hold_every_network(tmp_path):
    report.write(RESULT, tmp_path / "deep" / "r.html")
    page = (tmp_path / "deep" / "r.html").read_text()
    assert not re.search(r"<(script|link|img|iframe|object)|url\(|@import|src=", page)
    assert page.count("<svg") == 5 and "predicted" in page and "measured" not in page
    plots = [ElementTree.fromstring(p) for p in re.findall(r"<svg.*?</svg>", page, re.S)]
    tips = [len(p.findall(".//{*}circle/{*}title")) for p in plots]
    assert sorted(tips) == [4, 5, 5, 6, 6]  # twins on one core and on four; those with an accuracy; all
    for plot in plots:
        _, _, width, height = map(float, plot.get("viewBox").split())
        for mark in plot.findall(".//{*}circle"):
            assert 0 < float(mark.get("cx")) < width and 0 < float(mark.get("cy")) < height


@pytest.mark.parametrize("networks", [NETWORKS[:1], NETWORKS[-1:], NETWORKS[:2]])
def test_a_report_of_few_networks(networks):
    page = report.html(dataclasses.replace(RESULT, networks=networks, twins=[]))
    assert networks[0].title in page and "nan" not in page


def test_the_table_as_csv(tmp_path):
    sweep.write_csv(RESULT, tmp_path / "t.csv")
    with open(tmp_path / "t.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(NETWORKS)
    assert rows[0]["target"] == "rpi4" and float(rows[0]["milliseconds"]) == 98.0 and rows[-1]["top1"] == ""
    assert rows[0]["source"] and rows[0]["predicted"] == "True"


# ---- theory


def test_theory_says_by_how_much_cycles_differ_from_mult_adds(monkeypatch):
    def price(networks, target, **_):
        found = []
        for n in networks:
            counts = sum(c.mult_adds for c in formulas.model_costs(n.model, n.alpha, n.resolution))
            outline = pricing.Outline(n, (), (), counts, 0, 0, 0, 0)
            cycles = counts / target.core.macs_per_cycle() + 1e6
            found.append(pricing.Cost(outline, cycles, cycles / 2, "cycles", 0, {"pointwise": cycles}))
        return found

    monkeypatch.setattr(pricing, "price_networks", price)
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


# ---- the verb


@pytest.mark.slow
def test_a_budget_builds_and_verifies_what_it_chose(tmp_path):
    command = ["-m", "tvm_mobilenet.sweep", "--target", "rpi4", "--alphas", "0.25", "--resolutions", "128,160",
               "--prices", str(tmp_path / "p.jsonl"), "--output", str(tmp_path / "built"), "--csv",
               str(tmp_path / "r.csv")]
    done = run(*command, "--budget", "60ms", "--json", timeout=1200)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["chosen"]["resolution"] == 160 and document["verification"]["ok"]
    assert document["chosen"]["milliseconds"] == pytest.approx(document["verification"]["milliseconds"], rel=0.03)
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 3
    done = run(*command, "--budget", "1ms")
    assert done.returncode == 6 and "the nearest, v1 0.25-128" in done.stderr
