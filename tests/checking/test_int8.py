"""Networks of int8: quantized, built, equal on every target to their layers one by one; planted errors named."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tvm_mobilenet.schedules import integer_products

from tests.support.planting import Copy, instructions, some, with_executed
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler import model_files, ranges
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.compiler.pipeline import for_core
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.passes import quantize, whole_weights
from tvm_mobilenet.passes.quantize import Scale

TARGET = targets.load("rpi5")
FAMILIES = {
    "v1": ModelOptions(model="v1", alpha=0.25, resolution=32, classes=10, dtype="int8"),
    "v2": ModelOptions(model="v2", alpha=0.35, resolution=32, dtype="int8"),
    "v3-small": ModelOptions(model="v3-small", alpha=0.5, resolution=64, dtype="int8"),
}


@pytest.fixture(scope="module", params=["v1", *(pytest.param(f, marks=pytest.mark.full) for f in ("v2", "v3-small"))])
def family(request, tmp_path_factory):
    """A network built for the Raspberry Pi 5, and which instructions each of its steps executes."""
    network = load_network(FAMILIES[request.param])
    folder = tmp_path_factory.mktemp("int8") / request.param
    build.build(network.options, TARGET, output=folder, network=network)
    return with_executed(network, folder, TARGET)


@pytest.fixture
def copy(family, tmp_path):
    return Copy(family, tmp_path / "copy")


def test_every_layer_equals_its_definition(copy):
    result = copy.verify()
    result.require()
    assert {c.units for c in result.layers} == {0} and all(c.relative == 0 for c in result.layers)
    (output,) = result.outputs
    assert not output.decides and output.relative > 1e-3, "quantizing changes something, and that is told"
    for cosine, told in ((0.94, True), (0.96, False)):
        changed = replace(result, outputs=[replace(output, cosine=cosine)])
        assert changed.ok and ("int8 leaves little of output0: cosine 0.940" in changed.summary()) == told
        assert ("the weights are seeded" in changed.summary()) == told and "calibrate on" not in changed.summary()
        trained = replace(changed, seeded=False).summary()
        assert ("calibrate on images like those" in trained) == told and "seeded" not in trained
    assert network_steps.is_integral(copy.family.network)


def test_the_build_keeps_its_scales(copy):
    """A quarter of the weights, and no verb that opens it runs images again."""
    module, network = built.read(copy.folder), copy.family.network
    options = model_files.from_build(module)
    assert options.decided == network.precision and options == network.options and " int8" in options.title
    again = quantize.Quantization.from_data(json.loads(json.dumps(network.precision.to_data())))
    assert again == network.precision
    weights = sum(call.weight.size for call in network.layers if call.weight is not None)
    assert weights < module.plan.parameters_bytes < 1.5 * weights + 1024 * len(network.layers)
    assert load_network(options).graph.counts == network.graph.counts


@pytest.mark.parametrize("target", ["rpi4", *(pytest.param(t, marks=pytest.mark.full) for t in ("host", "armv7"))])
def test_every_target_gives_the_same_bits(family, target, tmp_path):
    """By other instructions, in other tiles."""
    from tvm_mobilenet import boards
    from tvm_mobilenet.boards.library_runner import open_runner

    network, target = family.network, targets.load(target)
    build.build(network.options, target, output=tmp_path, network=network)
    module, inputs = built.read(tmp_path), network.inputs(2)
    where = "local" if target.is_host else "virtual"
    with boards.open_board(where, target) as board, open_runner(board, module) as runner:
        found = [runner.run(*x).outputs for x in inputs]
    expected = network_steps.outputs(network, inputs)
    assert not np.array_equal(expected[0][0], expected[1][0]), "outputs that depend on their input"
    for one, right in zip(found, expected, strict=True):
        assert np.array_equal(one[0], right[0])


@pytest.mark.parametrize("where", [pytest.param(0, marks=pytest.mark.full), 0.5, 1])
def test_one_weight_a_unit_off_is_found_in_its_layer(copy, where):
    steps = [n for n, step in enumerate(copy.family.steps) if "weight" in step.constants]
    number = steps[round(where * (len(steps) - 1))]
    step = copy.family.steps[number]
    weight = [t for t in step.operands if t.space == "parameters"][step.constants.index("weight")]
    path = copy.folder / built.PARAMETERS
    data = bytearray(path.read_bytes())
    data[weight.offset] = (data[weight.offset] + 1) % 256
    path.write_bytes(data)
    copy.sign()
    copy.named(number)


@pytest.mark.parametrize("name, change", [("scale", lambda x: x * 1.01), ("ends", lambda x: np.add(x, [0, 1, 0, 0]))])
def test_a_scale_or_zero_point_that_is_off_is_found_in_its_layer(copy, name, change):
    steps = copy.family.steps
    number = len(steps) // 2
    number = next(n for n in range(number, len(steps)) if {"scale", "ends"} <= set(steps[n].constants))
    step = steps[number]
    tensor = [t for t in step.operands if t.space == "parameters"][step.constants.index(name)]
    path = copy.folder / built.PARAMETERS
    data = np.fromfile(path, np.uint8)
    values = data[tensor.offset : tensor.offset + tensor.nbytes].view(tensor.dtype)
    values[:4] = change(values[:4].copy())
    data.tofile(path)
    copy.sign()
    copy.named(number)


def test_one_instruction_that_is_off_is_found_in_its_layer(copy):
    """Of a product of signed bytes and signed bytes one of unsigned ones: what only the sums tell."""
    number = next(n for n, step in enumerate(copy.family.steps) if step.layer.startswith("pointwise"))
    copy.word(some(instructions(copy.family, number, "sdot")), lambda word: word | 1 << 29)  # udot
    copy.named(number)


# ---- fused blocks

# Bytes with which some layers of each become blocks; of v2 its stem too.
SMALL_L2 = {"v1": 4096, "v2": 4096, "v3-small": 16384}


@pytest.fixture(scope="module")
def fused(family, tmp_path_factory):
    """The network for a board with caches so small that its layers become fused blocks."""
    core = targets.load("rpi4").core
    core = replace(core, l2=replace(core.l2, bytes=SMALL_L2[family.network.options.model]))
    target, folder = replace(targets.load("rpi4"), core=core), tmp_path_factory.mktemp("fused") / "network"
    build.build(family.network.options, target, output=folder, network=family.network)
    return SimpleNamespace(
        network=family.network, folder=folder, target=target, steps=built.read(folder).plan.steps, executed=[]
    )


def test_a_network_of_blocks_is_equal_layer_by_layer(fused):
    result = verify.verify(fused.folder, network=fused.network, target=fused.target, count=1)
    result.require()
    assert any(c.layer.startswith("fused ") for c in result.layers) and {c.relative for c in result.layers} == {0}


@pytest.mark.parametrize("name", ["0.weight", pytest.param("1.scale", marks=pytest.mark.full), "vectors"])
def test_a_wrong_constant_in_a_block_is_found_and_the_layer_named(fused, name, tmp_path):
    copy = Copy(fused, tmp_path / "copy")
    step = next(step for step in fused.steps if step.layer.startswith("fused "))
    tensors = [t for t in step.operands if t.space == "parameters"]
    tensor = tensors[-1] if name == "vectors" else tensors[step.constants.index(name)]
    path = copy.folder / built.PARAMETERS
    data = np.fromfile(path, np.uint8)
    data[tensor.offset + tensor.nbytes - 1] ^= 1
    data.tofile(path)
    copy.sign()
    result = copy.verify(target=fused.target)
    part = Layer.parse(step.layer).parts[int(name[0]) if name[0].isdigit() else -1]
    assert not result.ok and result.first_wrong.name == step.name and result.first_wrong.wrong_part == part.name


# ---- scales


def test_a_scale_holds_zero_exactly_and_does_not_depend_on_the_last_digits():
    for low, high in ((-1.3, 2.7), (0.0, 6.0), (-5.0, 0.0), (-1e-3, 1e3)):
        scale = ranges.scale_of(low, high)
        assert float(scale.of(np.zeros(1))[0]) == scale.zero
        assert (scale.of(np.array([low, high])) - scale.zero) * scale.step == pytest.approx([low, high], abs=scale.step)
        near = [ranges.scale_of(low * (1 + d), high * (1 + d)) for d in (-1e-7, 1e-7)]
        assert near[0] == near[1] == scale or (low, high) == (-1e-3, 1e3)
    assert ranges.scale_of(0.0, 6.0).zero == -128


def test_the_ranges_that_are_tried_are_those_of_the_values():
    """Of values with long tails: all of them, all but shares of them, parts; the ends are the values' own."""
    values = np.random.default_rng(0).standard_t(3, 100_000)
    histogram = ranges.Histogram()
    for part in np.split(values, 10):
        histogram.add(part)
    whole = ranges.scale_of(values.min(), values.max())
    assert histogram.scales("minmax") == [whole]
    width = (values.max() - values.min()) / ranges.BINS
    tails = histogram.scales("percentile")
    for scale, tail in zip(tails[1:], ranges.TAILS[1:], strict=True):  # a hundred-thousandth is one value
        due = np.quantile(values, [tail, 1 - tail])
        assert np.abs(np.array(scale.ends) - due).max() < 0.1 * np.abs(due).max() + 2 * width
        assert histogram.clipped(scale) == pytest.approx(2 * tail, rel=0.5)
    assert whole.step >= tails[0].step > tails[1].step
    parts = histogram.scales("mse")
    assert [scale.step / whole.step for scale in parts] == pytest.approx(ranges.PARTS, rel=1e-3)
    assert ranges.Histogram().scales("mse") == [Scale(1.0, 0)], "of nothing, or of zeros"


def test_steps_keep_groups_of_products_within_an_int16():
    draw = np.random.default_rng(0)
    for name, group in (("pointwise m9 n16 k72 i8", 4), ("depthwise 9x9x16 3x3 i8", 3)):
        layer = Layer.parse(name).replace(group=group)
        flat = draw.standard_normal((16, 72 if group == 4 else 9)) ** 3
        steps = whole_weights.steps_of(layer, flat, np.zeros(16))
        whole = np.rint(flat / steps[:, None])
        assert np.abs(whole).max() <= 127 and np.abs(whole_weights.grouped(layer, whole)).sum(2).max() <= 255
    dead = whole_weights.steps_of(Layer.parse("pointwise m9 n2 k8 i8"), np.zeros((2, 8)), np.array([0.0, 3.0]))
    assert (dead > 0).all() and abs(3.0 / dead[1]) < 2**31, "a channel of zeros keeps its bias"


@pytest.mark.parametrize("name, apart, group", [("conv 4x4x32 n4 3x3 i8", 8, 1), ("conv 4x4x24 n4 3x3 i8", 8, 2)])
def test_an_int16_holds_products_of_channels_eight_apart_too(name, apart, group):
    """Weights of -128 in a file: a kernel that sums channels 0 and 8 of a tap would overflow. With 24 channels none
    does.
    """
    assert apart == whole_weights.APART == integer_products.EIGHT, "the lanes of an int16 product of the kernels"
    weights = np.zeros((4, 24 if "x24" in name else 32, 3, 3))
    weights[1, [3, 3 + apart], 2, 1] = -128
    layer = Layer.parse(name).replace(group=2)
    assert whole_weights.summed(layer, weights.reshape(4, -1)).group == group
    weights[1, 3] = 0
    assert whole_weights.summed(layer, weights.reshape(4, -1)).group == 2


def test_a_table_is_the_activation_of_each_value():
    before, after = Scale(0.05, 3), Scale(0.03, -100)
    table = quantize.table("hardswish", before, after)
    x = (np.arange(-128, 128) - 3) * 0.05
    assert np.array_equal(table, np.clip(np.rint(x * np.clip(x + 3, 0, 6) / 6 / 0.03) - 100, -128, 127))


def test_the_image_is_quantized_to_quads_and_pitches_stay(family):
    graph = for_core(family.network.graph, TARGET.core)
    image, stem = graph.calls[0].layer, graph.calls[1].layer
    assert image.output_pitch == stem.input_pitch == 4 and stem.input_layout == "NHWC" and image.reads == "float32"
    assert graph.calls[-1].layer.writes == "float32"
