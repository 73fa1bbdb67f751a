"""Pages that verbs write: what a reader finds on them, with charts and without, and how a browser shows them.

Records are made here, as small as a page of each kind can be; Vega-Lite itself says whether a specification is one.
"""

import dataclasses
import itertools
import json
import math
import os
import re
from html import unescape

import pytest

from tests.support import browser
from tests.survey.test_sweep import RESULT, variant
from tvm_mobilenet import packages, targets
from tvm_mobilenet.compiler.plan import Plan, Step, Tensor
from tvm_mobilenet.errors import MissingDependencyError
from tvm_mobilenet.evaluation import precision_page
from tvm_mobilenet.evaluation.sensitivity import Choice, LayerCost, Point
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.measuring.benchmark import Benchmark, LayerTime, Peer, Row
from tvm_mobilenet.measuring.conditions import Mark
from tvm_mobilenet.measuring.layer_profile import LayerProfile, Profile
from tvm_mobilenet.measuring.roofline import rooflines
from tvm_mobilenet.measuring.statistics import Statistics
from tvm_mobilenet.report import vega
from tvm_mobilenet.report.page import MOST_BYTES, Page, Table
from tvm_mobilenet.survey import bench_page, profile_page, sweep_page, tune_page
from tvm_mobilenet.tuning.result import LayerResult, TuneResult

RPI4 = targets.load("rpi4")
NAMES = (
    "conv 32x32x3 n8 3x3 s2 p1,1,1,1 f32 relu6",
    "depthwise 16x16x8 3x3 p1,1,1,1 f32 relu6",
    "pointwise m256 n16 k8 f32 relu6",
    "dense m1 n1000 k16 f32",
)
MODEL = {"model": "v1", "alpha": 0.25, "resolution": 128}


def tuned(layers: int = len(NAMES), trials: int = 6, predicted: bool = True) -> TuneResult:
    found = []
    for i in range(layers):
        base = 1000.0 * (i + 1)
        curve = [math.inf, *(base * (1.5 - j / trials / 2) for j in range(trials))]
        name = NAMES[i % len(NAMES)].replace("n", f"n{i}", 1) if i >= len(NAMES) else NAMES[i]
        compute = 0.8 * curve[-1] if predicted else None
        cost = (0.5 * base, 1.7 * base, curve[-1], None, curve, compute)
        found.append(LayerResult(name, i % 3 + 1, {"tile_m": i}, "tuned", 9, trials, *cost))
    total = sum(x.tuned * x.count for x in found)
    how = ("cycles", True) if predicted else ("seconds", False)
    return TuneResult("v1 0.25-128", "rpi4", "cortex-a72", 4, "virtual", "done", *how, found, total, total, total, 1.0,
                      1.5e9, "log", 1)  # fmt: skip


def plan() -> Plan:
    """Three layers and a classifier; the second's output lies where the first's input was."""
    layers = [Layer.parse(name) for name in NAMES]
    places = [("input", 0), ("arena", 0), ("arena", 8192), ("arena", 0), ("output", 0)]
    steps = []
    for i, layer in enumerate(layers):
        operands = [Tensor(*places[i], layer.input_shape, layer.input_dtype)]
        operands.append(Tensor("parameters", 0, layer.weight_shape, layer.weight_dtype))
        operands.append(Tensor(*places[i + 1], layer.output_shape, layer.output_dtype))
        steps.append(Step(f"layer_{i}", f"s{i}", layer.name, tuple(operands)))
    return Plan(tuple(steps), (), (), 24576, 0, 1 << 20)


class Module:
    plan = plan()


def profiled(predicted: bool = True) -> Profile:
    layers = []
    for i, (step, ceiling) in enumerate(zip(Module.plan.steps, rooflines(Module.plan, RPI4, 1), strict=True)):
        layer, t = Layer.parse(step.layer), 1.3 * ceiling.seconds
        rate = layer.mult_adds / t / 1e9
        layers.append(
            LayerProfile(
                i,
                step.name,
                layer.kind,
                "",
                layer.name,
                t,
                0.25,
                layer.mult_adds,
                rate,
                ceiling,
                1.3,
                {},
                "log",
                1.1 * t,
                0.7 * t,
            )
        )
    whole = sum(x.seconds for x in layers)
    return Profile(MODEL, "rpi4", "virtual", 1, predicted, layers, [], whole, {"board": {}}, ["<b>a note</b>"])


def benchmarked(predicted: bool = False, samples: int = 200) -> Benchmark:
    times = [0.01 * (1 + 0.02 * math.sin(i * i) + 3 * (i % 97 == 96)) for i in range(1 if predicted else samples)]
    layers = [LayerTime(f"layer_{i}", name, 0.001 * (i + 1), 0.001) for i, name in enumerate(NAMES)]
    marks = [] if predicted else [Mark("outliers", "2 samples lie far out", "end what else runs")]
    rows = [
        Row(n, Statistics.of([t / n for t in times]), layers=layers, samples=[t / n for t in times], marks=marks)
        for n in (1, 4)
    ]
    peers = (
        [] if predicted else [Peer("onnxruntime", 1, "1", rows[0].time, 1.2, 1.1, 1.3), Peer("ncnn", 1, missing="no")]
    )
    return Benchmark(MODEL, "rpi4", "local", predicted, "today", {}, {"board": {}}, rows, peers)


def chosen() -> Choice:
    points = tuple(Point(tuple("abcde"[:n]), 0.7 + n / 100, 0.05 - n / 100, 9e6 + n * 1e5) for n in range(5))
    return Choice(0.01, (LayerCost("a", "<i>", 0.9),), points, points[3], "images", True)


def swept(networks: int) -> object:
    """A sweep of many networks in two families."""
    found = [
        variant(0.25 + i / 100, 224, 3.0 * 1.03**i, 0.4 + 0.3 * i / networks, model=f"v{i % 4 + 1}")
        for i in range(networks)
    ]
    return dataclasses.replace(RESULT, networks=found)


def pages() -> dict[str, Page]:
    """One of each kind, and those at the ends of what there is."""
    columns, row = ("layer", "cost"), ("<script>alert(1)</script>", 1.5)
    return {
        "tune": tune_page.page(tuned(), columns, [row], ["untuned   1 cycle"]),
        "tune-measured": tune_page.page(tuned(predicted=False), columns, [row], []),
        "profile": profile_page.page(profiled(), Module, RPI4),
        "profile-measured": profile_page.page(profiled(False), Module, RPI4),
        "bench": bench_page.page(benchmarked()),
        "bench-predicted": bench_page.page(benchmarked(True)),
        "sweep": sweep_page.page(RESULT),
        "sweep-large": sweep_page.page(swept(150)),
        "sweep-one": sweep_page.page(dataclasses.replace(RESULT, networks=RESULT.networks[:1], twins=[])),
        "precision": precision_page.page(chosen(), "v1", RPI4),
    }


def charts(page: Page) -> list[vega.Chart]:
    return [part for part in page.parts if isinstance(part, vega.Chart)]


# ---- what stands on them


@pytest.fixture(scope="module")
def every():
    return pages()


def test_each_chart_is_vega_lite_with_its_numbers(every):
    """Vega-Lite compiles each; what it would draw with are the columns that a reader downloads."""
    converter = pytest.importorskip("vl_convert")
    for name, page in every.items():
        assert charts(page), name
        for chart in charts(page):
            spec = {**chart.specification(), "width": 300, "data": {"values": chart.values()}}
            made = json.dumps(converter.vegalite_to_vega(json.dumps(spec)))
            used = set(re.findall(r'"field": ?"(\w+)"', json.dumps(chart.spec))) - {
                "x",
                "y",
                "part",
                "label",
                "ceiling",
            }
            assert used - {"part_ms", "field"} <= {*chart.columns, "ms"}, (name, chart.title)
            assert "marks" in made and chart.rows, (name, chart.title)


def test_a_page_loads_nothing_and_takes_text_as_text(every):
    for name, page in every.items():
        text = page.html(charts=False)
        assert not re.search(r"<(link|img|iframe|object)|url\(|@import|\bsrc=", text), name
        assert "default-src 'none'" in text and "Charts need the extra [report]" in text
        assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", text, flags=re.S).lower(), name
    assert "<script>alert" not in every["tune"].html(charts=False)
    assert "&lt;b&gt;a note" in every["profile"].html(charts=False)


def test_the_largest_pages_are_no_larger_than_a_megabyte_and_a_half(every):
    pytest.importorskip("vl_convert")
    for page in (every["sweep-large"], tune_page.page(tuned(120, 200), ("layer",), [], [])):
        assert 800_000 < len(page.html().encode()) <= MOST_BYTES


def test_the_drawing_code_of_pages_is_joined_once_for_all_processes(monkeypatch, tmp_path):
    """It takes 2 seconds of CPU time."""
    converter, joined = pytest.importorskip("vl_convert"), []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(converter, "javascript_bundle", lambda code: joined.append(code) or f"/*é*/{code}")
    assert [vega.script.__wrapped__() for _ in range(2)] == [f"/*é*/{joined[0]}"] * 2 and len(joined) == 1


def test_the_data_of_a_chart_cannot_end_its_script(monkeypatch):
    monkeypatch.setattr(vega, "script", lambda: "")
    monkeypatch.setattr(vega, "notice", lambda: "")
    chart = vega.Chart("</script><b>", "n", ("a",), [("</script><!--",)], {"mark": "bar"})
    text = Page("t", [], [chart]).html()
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)
    assert json.loads(data)["rows"] == [["</script><!--"]]


def test_cells_say_what_they_sort_by():
    table = Table("T", ("network", "ms"), [("b", 1234.5), ("a", None), ("c", 2.25)], decimals=True)
    text = Page("t", [], [table]).html()
    cells = re.findall(r"<td( class=number)?(?: data-value=\"(.*?)\")?>(.*?)</td>", text)
    shown = [(value, unescape(text)) for _, value, text in cells]
    assert shown == [("", "b"), ("1234.5", "1,234.50"), ("", "a"), ("", "-"), ("", "c"), ("2.25", "2.25")]


def test_without_the_package_a_page_that_was_asked_for_is_an_error(monkeypatch):
    monkeypatch.setitem(packages.MODULES, "no_such_module", packages.MODULES["vl_convert"])
    monkeypatch.setattr(packages, "for_pages", lambda wanted: ("no_such_module",) * wanted)
    with pytest.raises(MissingDependencyError, match="sweep needs vl-convert-python") as raised:
        packages.require("sweep", *packages.for_pages(True))
    assert "report" in raised.value.hint and raised.value.exit_code == 3
    assert vega.svg(charts(sweep_page.page(RESULT))[0]) == "", "a notebook then shows the table alone"


# ---- the numbers


def test_compute_and_memory_are_the_layers_time():
    (chart, *_) = charts(tune_page.page(tuned(), (), [], []))
    for row in chart.rows:
        value = dict(zip(chart.columns, row, strict=True))
        assert value["compute_ms"] + value["memory_ms"] == pytest.approx(value["tuned_ms"])
        assert value["peak_ms"] < value["tuned_ms"] < value["untuned_ms"]


def test_searches_end_at_the_best_that_was_found():
    _, chart = charts(tune_page.page(tuned(), (), [], []))
    for name in {row[0] for row in chart.rows}:
        curve = [(trial, above) for layer, trial, above in chart.rows if layer == name]
        assert curve == sorted(curve) and curve[-1][1] == 0 < curve[0][1] and curve[0][0] == 2, "the first had failed"
        assert [above for _, above in curve] == sorted((above for _, above in curve), reverse=True)
    flat = dataclasses.replace(tuned().layers[0], curve=[1.0, 1.0])
    assert not tune_page.searches_chart(dataclasses.replace(tuned(), layers=[flat]))


def test_a_tensor_lies_in_the_arena_from_its_writer_to_its_last_reader():
    assert [(t.step, t.offset, t.last) for t in profile_page.lives(plan())] == [(0, 0, 1), (1, 8192, 2), (2, 0, 3)]
    residual = dataclasses.replace(
        plan().steps[3], operands=(Tensor("arena", 8192, (1,), "float32"), *plan().steps[3].operands)
    )
    held = dataclasses.replace(plan(), steps=(*plan().steps[:3], residual))
    assert [t.last for t in profile_page.lives(held)] == [1, 3, 3], "an operand that is read again is kept"


def test_layers_lie_under_the_roofline():
    chart = profile_page.roofline_chart(profiled(), Module.plan, profile_page.ceilings(Module.plan, RPI4, 1))
    peak = RPI4.core.macs_per_cycle("float32") * RPI4.clock_hz / 1e9
    assert len(chart.rows) == len(NAMES) and all(0 < row[3] <= peak / 1.3 * (1 + 1e-9) for row in chart.rows)


@pytest.mark.parametrize("samples", [5, 12, 200, 5000])
def test_a_histogram_counts_every_sample(samples):
    row = benchmarked(samples=samples).rows[0]
    bars, beyond = bench_page.bars_of(row)
    assert sum(n for *_, n in bars) == samples and bench_page.BARS[0] <= len(bars) <= bench_page.BARS[1]
    assert all(a[1] == pytest.approx(b[0]) for a, b in itertools.pairwise(bars))
    assert bars[0][0] == min(row.samples) and (beyond > 0) == (samples > 97), "one in 97 takes four times as long"


def test_equal_samples_and_predictions_have_no_distribution():
    row = dataclasses.replace(benchmarked().rows[0], samples=[0.01] * 9)
    assert sum(n for *_, n in bench_page.bars_of(row)[0]) == 9
    assert not bench_page.histograms_chart(benchmarked(True))


# ---- in a browser


@pytest.mark.full
def test_a_browser_shows_every_page(every, tmp_path):
    """On a desktop and on a phone, light and dark: no error, nothing asked of the network, no sideways scrolling, each
    chart drawn, and no text on another or cut off. `TVM_MOBILENET_SCREENSHOTS=FOLDER` keeps the pictures."""
    if browser.program() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    pytest.importorskip("vl_convert")
    kept = os.environ.get("TVM_MOBILENET_SCREENSHOTS")
    with browser.opened() as chromium:
        for name, page in every.items():
            path = tmp_path / f"{name}.html"
            page.write(path, "--html")
            inks = []
            for width, dark in ((1280, False), (390, True)):
                look = chromium.look(path, width, dark)
                where, found = f"{name} at {width}", look.found
                assert (look.console, look.requests) == ([], []), where
                assert found["wide"] <= 0, f"{where} scrolls sideways"
                assert found["charts"] >= len(charts(page)) and min(found["marks"]) > 0, where
                assert (found["met"], found["cut"]) == ([], []), where
                assert look.picture.startswith(b"\x89PNG") and len(look.picture) > 10_000, where
                inks.append((found["ink"], found["paper"], *found["strokes"]))
                if kept:
                    os.makedirs(kept, exist_ok=True)
                    (tmp_path / "p").write_bytes(look.picture)
                    os.replace(tmp_path / "p", os.path.join(kept, f"{name}-{width}.png"))
            assert not set(inks[0]) & set(inks[1]), f"{name}: dark mode changes paper, text and charts"


SORT = """(async () => {
  await window.reportDrawn;
  const table = document.querySelector("table.sorts"), heads = [...table.querySelectorAll("th button")];
  const column = i => [...table.tBodies[0].rows].map(row => row.cells[i].textContent);
  const found = [];
  for (const i of [1, 1, 0]) {
    heads[i].click();
    found.push([heads[i].parentElement.ariaSort, column(i)]);
  }
  const link = document.querySelector(".numbers a");
  return {found, file: link.download, text: decodeURIComponent(link.href.split(",").slice(1).join(","))};
})()"""


@pytest.mark.full
def test_tables_sort_and_numbers_are_downloaded(tmp_path):
    if browser.program() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    pytest.importorskip("vl_convert")
    table = Table("T", ("network", "ms"), [("b", 1234.5), ("a", None), ("c", 2.25)])
    spec = {"mark": "bar", "encoding": {"y": vega.names("name"), "x": vega.quantitative("v", "v")}}
    chart = vega.Chart("C", "file", ("name", "v"), [('quo"te, comma', 1.5), ("plain", None)], spec)
    Page("t", [], [chart, table]).write(tmp_path / "p.html", "--html")
    with browser.opened() as chromium:
        found = chromium.look(tmp_path / "p.html", 390, script=SORT).found
    down, up, names = found["found"]
    assert down == ["descending", ["1,234", "2.25", "-"]] or down == ["descending", ["1,234.5", "2.25", "-"]]
    assert up[0] == "ascending" and up[1][0] == "2.25" and up[1][-1] == "-", "what is not known comes last"
    assert names == ["ascending", ["a", "b", "c"]]
    assert found["file"] == "file.csv" and found["text"] == 'name,v\n"quo""te, comma",1.5\nplain,\n'
