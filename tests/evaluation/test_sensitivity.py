"""`build --max-drop`: the layers that cost most stay in float, the fewest that meet the limit."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import modules
from tvm_mobilenet import build, targets
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler import kept_float
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.evaluation import precision_page, sensitivity
from tvm_mobilenet.evaluation.sensitivity import Choice, LayerCost, Point, floats_of
from tvm_mobilenet.passes import precision

BAD = "layer_002"


@pytest.fixture(scope="module")
def inputs():
    draw = np.random.default_rng(1)
    return [(draw.normal(0, draw.uniform(0.3, 2), (1, 3, 32, 32)).astype(np.float32),) for _ in range(24)]


@pytest.fixture(scope="module")
def network(inputs):
    """The network of five layers in int8, of which one adds noise to what its channels should be: the first of drawn
    noises that changes the class of most inputs.
    """
    found = load_network(replace(modules.tiny_options(), dtype="int8"))
    shifts = dict(found.precision.shifts)
    sizes = np.asarray(found.precision.factors.get(BAD, 1.0))  # of its channels, which calibration chose
    for seed in range(100):
        shifts[BAD] = tuple(sizes * np.random.default_rng(seed).normal(0, 16, len(shifts[BAD])))
        decided = replace(found.precision, shifts=shifts)
        noisy = decided.applied(found.original)
        changed = [class_of(noisy, x) != class_of(found.original, x) for x in inputs[:4]]
        if np.mean(changed) > 0.5:
            return replace(found, precision=decided, graph=noisy)
    raise AssertionError("no noise changes the class")


def class_of(graph, x) -> int:
    return sensitivity._best(graph, sensitivity._run(graph, sensitivity._ports(graph, x)))


def test_a_network_is_computed_as_its_kernels_compute_it(network, inputs):
    graph = network.graph
    due = network_steps.outputs(network, inputs[:2])
    for x, right in zip(inputs, due, strict=False):
        assert np.array_equal(
            sensitivity._scores(graph, sensitivity._run(graph, sensitivity._ports(graph, x))), right[0][0]
        )


def test_the_layer_that_costs_most_is_found_and_stays_in_float(network, inputs):
    choice = sensitivity.choose(network, floats_of(network), 0.05, inputs, "noise")
    assert choice.costs[0].layer == BAD and choice.costs[0].share > 0.8
    assert sum(cost.share for cost in choice.costs) == pytest.approx(1)
    assert choice.chosen.kept == (BAD,) and choice.chosen.drop <= 0.05 < choice.points[0].drop
    assert choice.points[0].kept == () and not choice.labelled
    made = sensitivity.with_kept(network, floats_of(network), choice)
    assert made.options.keep_float == BAD and [k.layer for k in made.precision.kept] == [BAD]
    assert made.precision.kept[0].why.endswith("% of the error of all layers")
    again = load_network(replace(made.options, decided=made.precision))
    assert again.graph.counts == made.graph.counts


def test_with_labels_the_drop_is_that_of_top1(network, inputs):
    """Labels that the int8 network gives: its top-1 is above the float network's, and nothing need stay."""
    graph = network.graph
    labels = [class_of(graph, x) for x in inputs]
    choice = sensitivity.choose(network, floats_of(network), 0.0, inputs, "noise", labels)
    assert choice.labelled and choice.chosen.kept == () and choice.chosen.accuracy == 1 and choice.chosen.drop < 0


def test_what_a_user_keeps_is_kept_beside(network, inputs):
    options = replace(network.options, keep_float="layer_000")
    named = sensitivity.with_kept(
        network, floats_of(network), Choice(0, (), (), Point(("layer_000",), 1, 0), "", False)
    )
    choice = sensitivity.choose(replace(named, options=options), floats_of(named), 0.05, inputs, "noise")
    assert choice.points[0].kept == ("layer_000",) and set(choice.chosen.kept) == {"layer_000", BAD}
    assert choice.why("layer_000") == "named by --keep-float"


def test_layers_in_float_compute_in_the_float_of_the_target(network, inputs, monkeypatch):
    """What the drop is measured on: in float16 where the target keeps it so, in float32 what leaves its range."""
    narrow = replace(network, options=replace(network.options, keep_dtype="float16"))
    names = [call.name for call in network.original.calls]
    scores = {}
    for dtype in ("float32", "float16"):
        graph = sensitivity.keeping(narrow, dict.fromkeys(names, dtype)).applied(narrow.original)
        made = replace(narrow, graph=graph)
        scores[dtype] = sensitivity._scores(graph, sensitivity._run(graph, sensitivity._ports(graph, inputs[0])))
        (right,) = network_steps.outputs(made, inputs[:1])
        assert np.abs(scores[dtype] - right[0][0]).max() < (1e-5 if dtype == "float32" else 5e-3) * right[0].std()
    off = np.abs(scores["float16"] - scores["float32"]).max() / scores["float32"].std()
    assert 1e-4 < off < 1e-1, "float16 rounds, and that is seen"
    search = sensitivity._Search(narrow, floats_of(narrow), inputs[:2], (), [], lambda line: None)
    assert set(search.dtypes.values()) == {"float16"}
    monkeypatch.setattr(precision, "HEADROOM", 1e8)
    assert set(floats_of(narrow).values()) == {"float32"}


@given(st.integers(0, 70), st.integers(0, 70))
def test_the_fewest_are_found(least, more):
    assert sensitivity._fewest(lambda k: k >= least, least + more) == least


def test_the_page_has_the_networks_on_the_way(network, inputs):
    """Their cycles are predicted whole, with conversions: a layer in float costs more than its multiply-adds."""
    choice = sensitivity.choose(network, floats_of(network), 0.05, inputs, "noise")
    priced = precision_page.with_cycles(choice, network, floats_of(network), targets.load("rpi4"))
    points = [point for point in priced.points if point.cycles]
    assert points[0].kept == () and priced.chosen in points and priced.chosen.cycles > points[0].cycles > 0
    page = precision_page.page(priced, "<tiny>", targets.load("rpi4"))
    chart, networks, _ = page.parts
    assert len(chart.rows) == len(networks.rows) == len(points)
    assert [row[0] for row in chart.rows if row[-1] == "chosen"] == [len(priced.chosen.kept)]
    text = page.html(charts=False)
    assert "&lt;tiny&gt;" in text and f"{priced.chosen.cycles:,.0f}" in text and not re.search("https?:", text)
    assert all(cost.layer in text for cost in choice.costs)


def test_few_networks_are_plotted_the_chosen_one_among_them():
    points = tuple(Point(tuple(map(str, range(n))), 1 - 1 / (n + 1), 1 / (n + 1)) for n in range(40))
    choice = Choice(0.1, (LayerCost("0", "", 1.0),), points, points[17], "", False)
    shown = precision_page.shown(choice)
    assert len(shown) == precision_page.MOST_POINTS and {points[0], points[17], points[-1]} <= set(shown)
    gaps = np.diff([len(point.kept) for point in shown])
    assert gaps.max() <= 3 * gaps.min(), "they are spread over the way"


def test_a_network_that_is_faster_with_more_in_float_is_told():
    """Conversions cost: the fewest layers are not always the fewest cycles."""
    few, many, wrong = (Point(tuple("ab"[:n]), 1, d, c) for n, d, c in ((1, 0.0, 9e6), (2, 0.0, 8e6), (0, 0.5, 1e6)))
    choice = Choice(0.1, (), (wrong, few, many), few, "noise", False)
    assert choice.faster == many
    assert "2 layers in float are predicted to take 8.00 M cycles, these 9.00 M" in choice.summary()
    assert replace(choice, chosen=many).faster is None and "cycles" not in replace(choice, chosen=many).summary()


def test_the_command_keeps_layers_and_says_why(tmp_path, capsys, monkeypatch):
    measured, once = [], kept_float.floats_of
    monkeypatch.setattr(kept_float, "floats_of", lambda *given: measured.append(given) or once(*given))
    given = ["--model", modules.tiny_options().model, "--dtype", "int8", "--target", "host", "--max-drop", "0%"]
    assert build.main([*given, "--output", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    choice = found["choice"]
    assert choice["chosen"]["drop"] == 0 and choice["limit"] == 0
    assert len(measured) == 1, "the images run once to find what stays in a narrow float's range"
    assert [k["layer"] for k in found["precision"]["kept"]] == sorted(choice["chosen"]["kept"])
    kept = built.read(tmp_path).info["model"]["keep_float"] or ""
    assert sorted(filter(None, kept.split(","))) == sorted(choice["chosen"]["kept"])
