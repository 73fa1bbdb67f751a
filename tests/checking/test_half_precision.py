"""Networks of float16: built, found equal to their layers computed step by step, and errors planted in them named."""

import dataclasses

import numpy as np
import pytest

from tests.support import modules
from tests.support.planting import Copy, instructions, minus, some, with_executed
from tests.support.sealing import seal
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.bundle import pack
from tvm_mobilenet.checking import layer_check, machine_check, network_ends, network_steps
from tvm_mobilenet.compiler import model_files
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError, VerificationError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions

TARGET = targets.load("rpi5")
FAMILIES = {
    "v1": ModelOptions(model="v1", alpha=0.25, resolution=32, classes=10, dtype="float16"),
    "v3-small": ModelOptions(model="v3-small", alpha=0.5, resolution=64, dtype="float16"),
}


@pytest.fixture(scope="module", params=["v1", pytest.param("v3-small", marks=pytest.mark.full)])
def family(request, tmp_path_factory):
    """A network built for the Raspberry Pi 5, and which instructions each of its steps executes."""
    network = load_network(FAMILIES[request.param])
    folder = tmp_path_factory.mktemp("half") / request.param
    build.build(network.options, TARGET, output=folder, network=network)
    return with_executed(network, folder, TARGET)


@pytest.fixture
def copy(family, tmp_path):
    return Copy(family, tmp_path / "copy")


def test_every_value_is_that_of_the_layers_computed_step_by_step(copy):
    """And so the network's outputs are known to the last digit, without a board."""
    result = copy.verify()
    result.require()
    assert {c.units for c in result.layers} == {0} and all(c.relative == 0 for c in result.layers)
    assert "equal to their layers computed step by step in every value" in result.summary()
    (output,) = result.outputs
    assert 1e-3 < output.relative < output.tolerance and output.cosine > 0.95
    inputs = copy.family.network.inputs(1)
    assert network_steps.is_exact(copy.family.network)
    ((steps,),), plan = network_steps.outputs(copy.family.network, inputs), built.read(copy.folder).plan
    assert steps.dtype == np.float32 and plan.inputs[0][1].dtype == plan.outputs[0][1].dtype == "float32"


def test_the_build_keeps_what_was_decided(copy):
    """No verb that opens it runs images again; an older build, which says nothing of dtypes, is of float32."""
    module = built.read(copy.folder)
    kept, network = module.info["precision"], copy.family.network
    assert [one["layer"] for one in kept["largest"]] == [call.name for call in network.original.calls]
    assert all(one["value"] > 0 for one in kept["largest"]) and kept["dtype"] == module.info["model"]["dtype"]
    options = model_files.from_build(module)
    assert options.decided == network.precision and options == network.options and " float16" in options.title
    weights = sum(a.size for call in network.layers for a in call.constants.values())
    assert 2 * weights <= module.plan.parameters_bytes < 2.2 * weights + 64 * 2 * len(network.layers)

    def forget(data: dict) -> None:
        del data["info"]["precision"]
        for name in ("dtype", "io", "accumulate", "calibrate"):
            del data["info"]["model"][name]

    seal(copy.folder, forget)
    assert model_files.from_build(built.read(copy.folder)).dtype == "float32"


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("dtype", "float32", "dtype 'float32' was decided, the model's is 'float16'"),
        ("dtype", "int8", "dtype 'int8' was decided"),
        ("io", "float16", "io 'float16' was decided, the model's is 'float32'"),
        ("sums", 7, "7 is not a list"),
        ("largest", [{"layer": "layer_000"}], "it lacks 'source'"),
        ("colour", "red", "colour"),
    ],
)
def test_decisions_that_were_edited_are_refused_in_words(copy, name, value, words):
    """Whoever writes into plan.json reads what is wrong there, and no Python class's name."""
    module = built.read(copy.folder)
    module.info["precision"][name] = value
    with pytest.raises(TvmMobilenetError, match=r"plan\.json was changed since the build") as found:
        model_files.from_build(module)
    assert words in found.value.message and found.value.exit_code == 2 and "Error" not in found.value.message


@pytest.mark.parametrize("where", [pytest.param(0, marks=pytest.mark.full), 0.5, 1])
def test_one_instruction_that_subtracts_is_found_in_its_layer(copy, where):
    step = round(where * (len(copy.family.steps) - 1))
    while not (found := instructions(copy.family, step, "fmla")):
        step -= 1
    copy.word(some(found), minus)
    copy.named(step)


@pytest.mark.parametrize("where", [pytest.param(0, marks=pytest.mark.full), 0.5, 1])
def test_one_weight_a_hundredth_off_is_found_in_its_layer(copy, where):
    step = round(where * (len(copy.family.steps) - 1))
    while not any(t.space == "parameters" for t in copy.family.steps[step].operands):
        step -= 1
    copy.weight(step, 0.01)
    copy.named(step)


def test_a_limit_of_outputs_follows_from_the_dtype_and_can_fail():
    """Outputs that have nothing to do with the right ones are beyond it, in networks of a hundred layers."""
    assert network_ends.output_tolerance("float32", 100) == pytest.approx(1e-3)
    draw = np.random.default_rng(0)
    right = [draw.standard_normal((1, 1000)) for _ in range(2)]
    for off, ok in ((1e-2, True), (0.2, True), (1.0, False)):
        found = [x * np.sqrt(1 - off**2) + off * draw.standard_normal(x.shape) for x in right]
        check = network_ends.check_output("y", found, right, 50, [None] * 2, [None] * 2, "float16")
        assert check.ok == ok, (off, check)


def test_what_an_error_of_float16_asks_for():
    """Layers that are right say that the dtype does not suit the network; an infinity, that values left its range."""
    draw = np.random.default_rng(0)
    found, right = ([draw.standard_normal((1, 1000))] for _ in range(2))
    output = network_ends.check_output("y", found, right, 1, [None], [None], "float16")
    half, wide = (layer_check.LayerCheck("layer_000", "conv", "a", 0.0, units=units) for units in (0, None))
    beyond = dataclasses.replace(half, relative=float("inf"))
    other = dataclasses.replace(half, relative=3.0)
    for layers, there, absent in (
        ([half], "--accumulate float32", "imported"),
        ([wide], "imported wrongly", "float16"),
        ([beyond, half], "--calibrate", "imported"),
        ([other, half], "report the layer's line", "--calibrate"),
    ):
        with pytest.raises(VerificationError) as told:
            machine_check.require([output], layers, "PyTorch")
        assert told.value.exit_code == 5 and there in told.value.hint and absent not in told.value.hint, told.value.hint


# ---- sums beyond the range


def overflowing(path):
    """A network of a file whose third layer reaches 500,000, and whose fourth scales that down."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU()),
        *(nn.Conv2d(8, 64, 1), nn.ReLU(), nn.Conv2d(64, 16, 1), nn.ReLU6()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    ).eval()
    with torch.no_grad():
        for layer, factor in ((0, 20), (2, 4), (4, 30_000), (6, 1 / 30_000), (10, 10)):
            net[layer].weight *= factor
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 32, 32),)), path)
    return ModelOptions(model=str(path), dtype="float16", mean=(0.5,), std=(0.5,))


def test_layers_beyond_the_range_are_computed_in_float32(tmp_path, capsys):
    """In float16 they would be infinities, which a later activation hides. The table says which, and how far."""
    options = overflowing(tmp_path / "over.pt2")
    made = build.build(options, TARGET, output=tmp_path / "built")
    layers = [Layer.parse(one.layer) for one in made.layers]
    wide = [layer for layer in layers if layer.dtype == "float32"]
    assert [layer.name for layer in wide] == [
        "pointwise m256 n64 k8 f32 reads_f16 relu",
        "pointwise m256 n16 k64 f32 writes_f16 relu6",
    ]
    assert made.precision.wide == ("layer_002", "layer_003") and made.precision.values == ("layer_002",)
    assert made.largest[wide[0].name] > 1e5 and max(made.largest[x.name] for x in layers if x not in wide) < 16384
    build.print_result(made)
    said = capsys.readouterr().out
    assert "largest sum" in said and "in float32, as their values reach above 16,384: 4 (" in " ".join(said.split())
    result = verify.verify(tmp_path / "built")
    result.require()
    assert result.outputs[0].cosine > 0.99999
    module = built.read(tmp_path / "built")
    again = load_network(model_files.from_build(module))
    assert again.precision == made.precision, "a build's decisions are read, not found again"


def test_without_those_layers_the_result_would_be_wrong(tmp_path):
    """What the move is for: all in float16, the same network's sums are infinite."""
    options = overflowing(tmp_path / "over.pt2")
    network = load_network(options)
    from dataclasses import replace

    from tvm_mobilenet.passes import precision

    narrow = replace(network.precision, wide=(), values=())
    half = replace(network, graph=precision.run(network.original, narrow), precision=narrow)
    inputs = network.inputs(1)
    right, wrong = (network_steps.outputs(n, inputs)[0][0] for n in (network, half))
    (reference,) = network.reference(inputs)[0][0]
    assert np.abs(right - reference).max() < 0.02 * reference.std()
    assert not np.isfinite(wrong).all() or np.abs(wrong - reference).max() > 0.5 * reference.std()


@pytest.mark.parametrize("hidden", [True, False])
def test_an_input_whose_sums_leave_the_range_is_told_whatever_an_activation_makes_of_them(tmp_path, hidden):
    """Images had said that the layers stay in range. The code is right: nobody shall look for a mistake in it."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    first = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6() if hidden else nn.ReLU())
    last = (nn.Conv2d(8, 8, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    net = nn.Sequential(*first, *last).eval()
    with torch.no_grad():
        net[0].weight *= 300
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 32, 32),)), tmp_path / "net.pt2")
    options = ModelOptions(model=str(tmp_path / "net.pt2"), dtype="float16", mean=(0.5,), std=(0.5,))
    network = load_network(options)
    assert not network.precision.wide
    build.build(options, TARGET, output=tmp_path / "built", network=network)
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    usual, large = (verify.verify(tmp_path / "built", network=network, inputs=[(x,)]) for x in (image, 300 * image))
    usual.require()
    assert "leave the range" not in usual.summary() and not any(c.beyond for c in usual.layers)
    assert [c.beyond for c in large.layers].count(True) == 1 and large.ok == hidden
    if hidden:
        assert "WARNING   sums of layer_000 leave the range of float16 on the first input" in large.summary()
    else:
        with pytest.raises(VerificationError, match=r"sums of layer_000.* leave the range of float16") as told:
            large.require()
        assert "--calibrate" in told.value.hint and "machine code" not in told.value.message


@pytest.mark.full
def test_images_of_ones_own_decide(tmp_path):
    """A folder of images, a file, and what is none."""
    from PIL import Image

    (tmp_path / "images").mkdir()
    for i, colour in enumerate(("black", "white")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / "images" / f"{i}.png")
    options = FAMILIES["v1"]
    from dataclasses import replace

    own = load_network(replace(options, calibrate=(str(tmp_path / "images"), str(tmp_path / "images" / "1.png"))))
    assert own.precision.images == "3 images of --calibrate"
    (tmp_path / "empty").mkdir()
    with pytest.raises(TvmMobilenetError, match="empty: no image is in it"):
        load_network(replace(options, calibrate=(str(tmp_path / "empty"),)))
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(TvmMobilenetError, match=r"x\.png"):
        load_network(replace(options, calibrate=(str(tmp_path / "x.png"),)))


def test_one_image_beside_those_that_ship_decides_no_less(tmp_path):
    """A grey one makes no layer's sums large; `--input` says what is classified, not what is calibrated on."""
    from dataclasses import replace

    from PIL import Image

    Image.new("RGB", (40, 40), (128, 128, 128)).save(tmp_path / "grey.png")
    options = overflowing(tmp_path / "over.pt2")
    shipped = load_network(options).precision
    both = load_network(replace(options, input=tmp_path / "grey.png")).precision
    assert shipped.wide and (both.wide, both.values) == (shipped.wide, shipped.values)
    assert (both.images, shipped.images) == ("--input and 8 photographs that ship, and crops of them", both.images[12:])
    assert load_network(replace(options, calibrate=(str(tmp_path / "grey.png"),))).precision.wide == ()


def test_a_target_without_the_dtype_is_refused_before_anything_slow(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tvm_mobilenet.compiler.network.load_network", None)
    for verb in (build, __import__("tvm_mobilenet.tune").tune):
        for target in ("rpi4", "rpi3", "armv7"):
            code = verb.main(["--target", target, "--dtype", "float16", "--output", str(tmp_path / "x")])
            said = capsys.readouterr().err
            assert code == 2 and "float16" in said and "rpi5" in said and "arm82" in said, said
    assert not (tmp_path / "x").exists()


def test_inputs_and_outputs_of_float16(tmp_path):
    """A build has them when asked, and so has its bundle."""
    options = ModelOptions(model=modules.tiny_options().model, dtype="float16", io="float16")
    build.build(options, TARGET, output=tmp_path / "built", bundle=tmp_path / "bundle")
    plan = built.read(tmp_path / "built").plan
    assert {t.dtype for _, t in (*plan.inputs, *plan.outputs)} == {"float16"}
    verify.verify(tmp_path / "built").require()
    manifest = pack.read(tmp_path / "bundle").manifest
    assert {port[2] for port in (*manifest["inputs"], *manifest["outputs"])} == {"float16"}
