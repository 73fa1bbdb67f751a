"""The papers' tables come out of our counts, and the counts out of the graph."""

import functools
import json
import math

import pytest
import torch

from tests.support import schemas
from tvm_mobilenet import complexity as verb
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import cost, papers, registry
from tvm_mobilenet.models.options import ModelOptions

ROWS = [tuple(row[k] for k in ("paper", "table", "row", "quantity")) for row in papers.read_table("figures.csv")]


counted = functools.cache(verb.complexity)  # importing a network takes seconds


def options(model="v1", **changes):
    return ModelOptions(**{"model": model, "alpha": 0.25, "resolution": 32, **changes})


# ---- the papers' figures


@pytest.fixture(scope="module")
def figures():
    """Every figure by its row. They take seconds to count, so not where tests are collected, which each worker does."""
    return {(f.paper, f.table, f.row, f.quantity): f for f in papers.figures()}


@pytest.mark.full
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row).replace(" ", "_"))
def test_every_figure_is_reproduced_or_an_erratum(row, figures):
    figure = figures[row]
    assert figure.reproduced != bool(figure.reason), f"printed {figure.printed}, ours {figure.ours}"


@pytest.mark.full
def test_errata_hold_what_they_say(figures):
    for erratum in papers.errata():
        assert len(erratum["reason"]) > 10
        if erratum["quantity"] in ("stride", "se"):
            continue  # of the body tables, below
        figure = figures[erratum["paper"], erratum["table"], erratum["row"], erratum["quantity"]]
        assert erratum["printed"] == figure.printed
        assert erratum["ours"] == papers.rounded(figure.ours, "0.000")


@pytest.mark.full
def test_the_figures_that_the_v1_paper_argues_with(figures):
    # Written out here too, so that the data file cannot lose one.
    printed = {(f.row, f.quantity): f.printed for f in figures.values() if f.paper == "1704.04861"}
    for row, quantity, value in [
        ("pointwise", "share_mult_adds", "94.86"),
        ("pointwise", "share_parameters", "74.59"),
        ("depthwise", "share_mult_adds", "3.06"),
        ("depthwise", "share_parameters", "1.06"),
        ("conv", "share_mult_adds", "1.19"),
        ("conv", "share_parameters", "0.02"),
        ("dense", "share_mult_adds", "0.18"),
        ("dense", "share_parameters", "24.33"),
        ("convolution", "mult_adds", "462"),
        ("convolution", "parameters", "2.36"),
        ("depthwise separable", "mult_adds", "52.3"),
        ("alpha = 0.75", "mult_adds", "29.6"),
        ("rho = 0.714", "mult_adds", "15.1"),
        ("Conv MobileNet", "mult_adds", "4866"),
        ("Conv MobileNet", "parameters", "29.3"),
        ("MobileNet", "mult_adds", "569"),
        ("MobileNet", "parameters", "4.2"),
        ("0.75 MobileNet", "mult_adds", "325"),
        ("Shallow MobileNet", "mult_adds", "307"),
        ("Shallow MobileNet", "parameters", "2.9"),
        ("0.5 MobileNet-224", "mult_adds", "149"),
        ("0.25 MobileNet-224", "mult_adds", "41"),
        ("0.25 MobileNet-224", "parameters", "0.5"),
        ("1.0 MobileNet-192", "mult_adds", "418"),
        ("1.0 MobileNet-160", "mult_adds", "290"),
        ("1.0 MobileNet-128", "mult_adds", "186"),
    ]:
        assert printed[row, quantity] == value
    assert sum(f.reproduced for f in figures.values() if f.paper == "1704.04861") == 38


def test_rounding_to_the_digits_printed():
    assert [papers.rounded(v, p) for v, p in ((1.906, "1.19"), (149.5, "149"), (0.26683, "0.27"), (4.209, "4.2"))] == [
        "1.91",
        "150",
        "0.27",
        "4.2",
    ]


# ---- the body tables


def erratum(paper, quantity):
    return next(e for e in papers.errata() if e["paper"] == paper and e["quantity"] == quantity)


def outputs(name, block):
    """The blocks of a network and the (height, channels) each is given, at 224."""
    module, found = registry.architecture(name).eval(), []
    for layer in module.modules():
        if type(layer).__name__ == block:
            layer.register_forward_pre_hook(lambda m, x: found.append((m, x[0].shape[2], x[0].shape[1])))
    with torch.no_grad():
        module(torch.zeros(1, 3, 224, 224))
    return module, found


def test_v1_body():
    rows, counted = papers.read_table("v1_body.csv"), cost.model_costs("v1")
    assert len(rows) - 1 == len(counted) == 28  # the paper counts depthwise and pointwise apart, and not the pool
    misprint, size = erratum("1704.04861", "stride"), 224
    for row, layer in zip([r for r in rows if r["type"] != "pool"], counted, strict=True):
        printed = [int(n) for n in row["filter"].split("x")]
        if row["type"] == "fc":
            assert [layer.inputs, layer.outputs] == printed
            continue
        place = f"{row['type']} {row['filter']} on {row['input']}"
        stride = misprint["ours"] if place == misprint["row"] else row["stride"]
        assert [int(n) for n in row["input"].split("x")] == [size, size, layer.inputs], place
        assert layer.stride == int(stride), place
        assert (layer.kind == "depthwise") == (row["type"] == "depthwise"), place
        ours = [*layer.kernel, layer.inputs] + ([] if layer.kind == "depthwise" else [layer.outputs])
        assert ours == printed, place
        size = layer.size[0]
    assert size == 7


def test_v2_body():
    rows = papers.read_table("v2_body.csv")
    module, blocks = outputs("v2", "InvertedResidual")
    expected = []
    for row in rows[1:-1]:
        size, _, channels = map(int, row["input"].split("x"))
        for i in range(int(row["n"])):
            stride = int(row["s"]) if i == 0 else 1
            expected.append((size, channels, channels * int(row["t"]), int(row["c"]), stride))
            size, channels = size // stride, int(row["c"])
    ours = []
    for block, size, channels in blocks:
        depthwise = next(m for m in block.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1)
        ours.append((size, channels, depthwise.in_channels, block.conv[-2].out_channels, depthwise.stride[0]))
    assert ours == expected
    assert module.features[0][0].out_channels == int(rows[0]["c"])
    assert module.features[18][0].out_channels == int(rows[-1]["c"])


@pytest.mark.parametrize("name", ["v3_large", "v3_small"])
def test_v3_body(name):
    rows = papers.read_table(f"{name}_body.csv")
    module, blocks = outputs(name, "InvertedResidual")
    activations = {"RE": torch.nn.ReLU, "HS": torch.nn.Hardswish}
    for row, (block, size, channels) in zip(rows[1:-1], blocks, strict=True):
        depthwise = next(m for m in block.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1)
        squeezed = any(type(m).__name__ == "SqueezeExcite" for m in block.modules())
        ours = (
            f"{size}x{size}x{channels}",
            f"bneck {depthwise.kernel_size[0]}x{depthwise.kernel_size[1]}",
            depthwise.in_channels,
            block.block[-1][0].out_channels,
            squeezed,
            depthwise.stride[0],
        )
        printed = (row["input"], row["operator"], int(row["exp"]), int(row["out"]), row["se"] == "SE", int(row["s"]))
        assert ours == printed
        assert isinstance(block.block[0][2], activations[row["nl"]])
    stem, head = module.features[0], module.features[-1]
    assert stem[0].out_channels == int(rows[0]["out"]) and isinstance(stem[2], activations[rows[0]["nl"]])
    assert head[0].out_channels == int(rows[-1]["out"]) and isinstance(head[2], activations[rows[-1]["nl"]])
    if name == "v3_small":
        misprint = erratum("1905.02244", "se")
        assert rows[-1]["se"] == misprint["printed"] and misprint["ours"] == ""
    assert module.classifier[0].out_features == (1280 if name == "v3_large" else 1024)


@pytest.mark.parametrize("name", ["v4_small", "v4_medium", "v4_large"])
def test_v4_body(name):
    rows = papers.read_table(f"{name}_body.csv")
    assert [row["block"] for row in rows[-2:]] == ["gpooling", "convbn"]
    with torch.device("meta"):
        module = registry.architecture(name)
    stem = (f"convbn {module.conv_stem.kernel_size[0]}", module.conv_stem.stride[0], module.conv_stem.out_channels)
    ours, width = [(*stem, None)], module.conv_stem.out_channels
    for _, block in module.staged_blocks():
        convolutions = {n: m for n, m in block.named_modules() if isinstance(m, torch.nn.Conv2d)}
        kernels = {n: m.kernel_size[0] for n, m in convolutions.items()}
        stride = math.prod(m.stride[0] for m in convolutions.values())
        out = list(convolutions.values())[-1].out_channels
        if "conv" in kernels:
            ours.append((f"convbn {kernels['conv']}", stride, out, None))
        elif "conv_exp" in kernels:
            ours.append((f"fused_ib {kernels['conv_exp']}", stride, out, block.conv_exp.out_channels / width))
        else:
            start, middle = (kernels.get(f"dw_{place}.conv", 0) for place in ("start", "mid"))
            ours.append((f"uib {start} {middle}", stride, out, block.pw_exp.conv.out_channels / width))
        width = out
    ours.append((f"convbn {module.conv_head.kernel_size[0]}", 1, module.conv_head.out_channels, None))
    printed = [
        (
            " ".join([row["block"], *(row[k] for k in ("kernel", "start_dw", "middle_dw") if row[k])]),
            int(row["strides"]),
            int(row["filters"]),
            float(row["expand_ratio"]) if row["expand_ratio"] else None,
        )
        for row in rows
        if row["block"] != "gpooling"
    ]
    assert ours == printed


@pytest.mark.parametrize("size", ["large", "small"])
def test_the_minimalistic_body_is_v3_s_without_what_it_leaves_out(size):
    # The authors name it after its differences; the paper prints no table of it.
    full, minimal = (cost.model_costs(f"v3-{size}{kind}") for kind in ("", "-minimal"))
    body = [c for c in full if not c.name.endswith(("fc1", "fc2"))]
    assert [(c.inputs, c.outputs, c.stride) for c in body] == [(c.inputs, c.outputs, c.stride) for c in minimal]
    assert [c.groups for c in body] == [c.groups for c in minimal]
    assert {c.kernel for c in minimal} == {(1, 1), (3, 3)} and any(c.kernel == (5, 5) for c in body)


# ---- formulas against the graph


def test_formulas():
    assert cost.standard(3, 512, 512, 14) == 9 * 512 * 512 * 196
    assert cost.depthwise(3, 512, 14) == 9 * 512 * 196
    assert cost.pointwise(512, 1024, 7) == 512 * 1024 * 49
    assert cost.separable(3, 512, 512, 14) / cost.standard(3, 512, 512, 14) == pytest.approx(1 / 512 + 1 / 9)
    assert cost.separable(3, 512, 512, 14, alpha=0.75, rho=10 / 14) == pytest.approx(9 * 384 * 100 + 384 * 384 * 100)


SOME = ("mobilenet_v1", "mobilenet_v3_small")


@pytest.mark.parametrize(
    "model", [m if m in SOME else pytest.param(m, marks=pytest.mark.full) for m in registry.names()]
)
def test_formula_module_and_graph_agree_layer_by_layer(model):
    alpha, resolution = (1.0, 64) if model == "mobilenet_v2" else (0.5, 64)
    result = counted(options(model, alpha=alpha, resolution=resolution, classes=11))
    assert result.agree
    module = {c.name: c for c in cost.model_costs(model, alpha, resolution, 11)}
    graph = {c.source: c for c in result.layers if c.parameters}
    assert {n: (c.mult_adds, c.parameters) for n, c in module.items()} == {
        n: (c.mult_adds, c.parameters) for n, c in graph.items()
    }
    assert result.mult_adds == sum(c.mult_adds for c in module.values())


@pytest.mark.parametrize(
    "model, alpha, resolution, mult_adds, parameters",
    [
        ("v1", 1.0, 224, 568_740_352, 4_209_088),
        pytest.param("v2", 1.0, 224, 300_774_272, 3_469_760, marks=pytest.mark.full),
    ],
)
def test_whole_networks_from_the_graph(model, alpha, resolution, mult_adds, parameters):
    result = counted(options(model, alpha=alpha, resolution=resolution))
    assert (result.mult_adds, result.parameters) == (mult_adds, parameters) and result.agree


def test_a_weight_that_is_not_in_the_graph_is_noticed():
    # The two counts are two: take away a row of one weight and they differ.
    calls = verb._calls(options())
    cut = calls[2].replace(weight=calls[2].weight[:-1])
    good, bad = verb._layer_complexity(calls[2]), verb._layer_complexity(cut)
    assert good.formula == good.mult_adds and bad.formula == good.formula != bad.mult_adds


def test_the_ratio_and_the_multipliers():
    result = counted(options("mobilenet_v1", alpha=0.5, resolution=64, classes=11))
    assert len(result.blocks) == 13
    for block in result.blocks:
        assert block.ratio == pytest.approx(block.predicted, rel=1e-12)
        assert block.separable == pytest.approx(block.multiplied, rel=1e-12)  # 0.5 M and 64/224 D_F are whole numbers
    odd = counted(options(alpha=0.3)).blocks[0]
    assert odd.separable != pytest.approx(odd.multiplied, rel=1e-3)  # 9.6 channels are cut to 9


def test_bytes_and_intensity_of_known_layers():
    layers = {c.source: c for c in counted(options(alpha=1.0, resolution=224)).layers}
    pointwise = layers["blocks.3.1.conv_pw"]
    assert pointwise.weight_bytes == 4 * (512 * 512 + 512) and pointwise.activation_bytes == 4 * 2 * 196 * 512
    assert pointwise.intensity == pytest.approx(196 * 512 * 512 / (pointwise.weight_bytes + pointwise.activation_bytes))
    v2 = counted(options("mobilenet_v2", alpha=1.0, resolution=64, classes=11))
    residual = next(c for c in v2.layers if " add" in c.layer)
    m, n, k = [int(token[1:]) for token in residual.layer.split() if token[1:].isdigit() and token[0] in "mnk"]
    assert residual.activation_bytes == 4 * (m * k + 2 * m * n)


def test_shares_add_up():
    result = counted(options("mobilenet_v3_small", alpha=0.5, resolution=64, classes=11))
    assert math.isclose(sum(row[2] for row in result.kinds), 100) and math.isclose(sum(r[4] for r in result.kinds), 100)
    assert {"conv", "depthwise", "pointwise", "dense"} <= {row[0] for row in result.kinds}


@pytest.mark.full
def test_batch_and_features():
    one, two = counted(options()), counted(options(batch=2))
    assert two.mult_adds == 2 * one.mult_adds and two.parameters == one.parameters and two.agree
    headless = counted(options(features=True))
    assert headless.mult_adds == one.mult_adds - 256 * 1000


def test_a_file(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 8, (3, 5), groups=2, bias=False), torch.nn.ReLU()).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 4, 9, 13),)), tmp_path / "net.pt2")
    result = counted(ModelOptions(model=str(tmp_path / "net.pt2")))
    assert result.mult_adds == result.formula == 8 * 2 * 15 * 7 * 9 and result.parameters == 8 * 2 * 15


# ---- the command


@pytest.fixture
def command(monkeypatch):
    monkeypatch.setattr(verb, "complexity", counted)
    return verb.main


def test_json_and_plain(capsys, command):
    small = ["--alpha", "0.25", "--resolution", "32"]
    assert command([*small, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["agree"] and document["mult_adds"] == sum(c["mult_adds"] for c in document["layers"])
    schemas.require("complexity", document, "", "layers.0", "blocks.0", "kinds.0")
    assert command(small) == 0
    out = capsys.readouterr().out
    assert "formula and graph agree in every layer" in out and "1/N + 1/D_K^2" in out


def test_compare(capsys, command):
    assert command(["--alpha", "0.25", "--resolution", "32", "--compare", "mobilenet_v1_plain", "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["compared"]["mult_adds"] > 5 * both["model"]["mult_adds"]
    schemas.require("complexity", both, "")
    assert command(["--alpha", "0.25", "--resolution", "32", "--compare", "mobilenet_v1:0.5-64"]) == 0
    assert "mobilenet_v1 0.5-64" in capsys.readouterr().out


@pytest.mark.full
def test_paper(capsys, command):
    assert command(["--paper"]) == 0
    out = capsys.readouterr().out
    assert "0 unexplained" in out and "1.19, ours 1.906" in out
    assert command(["--paper", "v1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["figures"]) == 42 and {f["paper"] for f in document["figures"]} == {"1704.04861"}
    schemas.require("complexity", document, "", "figures.0", "errata.0")


@pytest.mark.parametrize("text", ["v2:0", "v2:x", "v2:1-100", "v2:1-x", "missing.onnx"])
def test_wrong_comparisons(text):
    with pytest.raises(TvmMobilenetError, match="--compare"):
        verb.variant(text, options())


def test_unknown_family(capsys, command):
    assert command(["--model", "mobilenet_v7"]) == 2
    assert "v3-large" in capsys.readouterr().err


def test_int8_takes_a_quarter_of_the_weights():
    whole, quarter = (counted(options(dtype=dtype)) for dtype in ("float32", "int8"))
    assert quarter.model == f"{whole.model} int8" and quarter.mult_adds == whole.mult_adds
    assert whole.weight_bytes / 4 < quarter.weight_bytes < whole.weight_bytes / 2.5


def test_float16_takes_half_of_the_bytes_and_the_same_multiply_adds():
    """But for the image and the scores, which stay float32."""
    whole, half = (counted(options(dtype=dtype)) for dtype in ("float32", "float16"))
    assert half.model == f"{whole.model} float16" and half.mult_adds == whole.mult_adds
    assert half.weight_bytes == whole.weight_bytes / 2
    ends = 3 * 32 * 32 + 1000
    assert half.activation_bytes == whole.activation_bytes / 2 + 2 * ends
