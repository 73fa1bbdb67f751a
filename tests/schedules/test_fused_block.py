"""Fused blocks: rows streamed through several layers give what the layers give one by one; and which layers become
fused blocks."""

import dataclasses
import random

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm_mobilenet.schedules import row_tiles

from tests.schedules.test_schedules import TOLERANCE
from tvm_mobilenet import build, schedules, targets, verify
from tvm_mobilenet.checking import reference, tolerance
from tvm_mobilenet.compiler import codegen, fuse_blocks
from tvm_mobilenet.compiler.fuse_blocks import MOST_PARTS
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.compiler.pipeline import for_core
from tvm_mobilenet.kinds.windows import centred
from tvm_mobilenet.layer import ImpossibleLayerError, Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.terminal import titles

RPI4 = targets.load("rpi4")
HOST = tvm.target.Target({"kind": "llvm", "opt-level": 1})


def window(h, w, c, kernel, stride, pad, activation, images=1):
    return Layer(
        kind="depthwise",
        batch=images,
        height=h,
        width=w,
        channels=c,
        out_channels=c,
        groups=c,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=pad,
        activation=activation,
    )


@st.composite
def fused_blocks(draw):
    """Up to five parts, with every kind at the start and the end."""
    h, w, images = draw(st.integers(3, 14)), draw(st.integers(3, 14)), draw(st.sampled_from([1, 1, 2, 3]))
    channels = st.sampled_from([1, 3, 4, 6, 8, 16, 19])
    activations = st.sampled_from(["none", "relu", "relu6", "hardswish", "prelu", "leaky0.1"])
    first = draw(st.sampled_from(["conv", "depthwise", "pointwise"]))
    parts: list[Layer] = []
    c = draw(channels)
    for i in range(draw(st.integers(2, 5))):
        kind = first if i == 0 else draw(st.sampled_from(["depthwise", "pointwise", *["ghost"] * (c <= 8)]))
        if kind == "pointwise":
            n = draw(channels)
            parts.append(
                Layer(kind=kind, height=images * h * w, channels=c, out_channels=n, activation=draw(activations))
            )
            c = n
            continue
        kernel, stride = draw(st.sampled_from([3, 5] if min(h, w) >= 3 else [1])), draw(st.sampled_from([1, 2]))
        half = kernel // 2
        if kind == "ghost":
            same = window(h, w, c, kernel, 1, (half,) * 4, draw(activations), images)
            parts.append(same.replace(kind=kind, out_channels=2 * c))
            c *= 2
            continue
        pad = draw(st.sampled_from([(half,) * 4, (max(0, half - 1),) * 2 + (half, half)]))
        if kind == "conv":
            n = draw(channels)
            parts.append(
                Layer(
                    kind=kind,
                    batch=images,
                    height=h,
                    width=w,
                    channels=c,
                    out_channels=n,
                    kernel=(kernel, kernel),
                    stride=(stride, stride),
                    padding=pad,
                    activation=draw(activations),
                    input_layout=draw(st.sampled_from(["NCHW", "NHWC"])),
                )
            )
            c = n
        else:
            parts.append(window(h, w, c, kernel, stride, pad, draw(activations), images))
        h, w = parts[-1].out_height, parts[-1].out_width
    if all(p.kind == "pointwise" for p in parts):
        parts.append(window(h, w, c, 3, 1, (1, 1, 1, 1), "relu", images))
    parts[-1] = parts[-1].replace(residual=draw(st.sampled_from(["none", "before", "after"])))
    if inner := _with_inner_residual(parts):
        parts = draw(st.sampled_from([parts, *inner]))
    layer, more = Layer.fused_block(tuple(parts)), st.sampled_from([0, 4, 7])
    data = draw(more) if layer.input_layout == "NHWC" else 0
    output = draw(more)
    return layer.with_pitches(data and layer.channels + data, output and layer.out_channels + output)


def _with_inner_residual(parts: list[Layer]) -> list[list[Layer]]:
    """The parts, whose last one adds the output of one before it, if all rows and columns stay."""
    *before, last = parts
    found = []
    for back in range(1, len(parts)):
        if last.kind == "depthwise" or any(p.kind != "pointwise" and not centred(p) for p in parts[-back:]):
            break
        channels = before[-back].out_channels
        if last.kind == "pointwise" or channels == last.out_channels:
            added = last.replace(out_channels=channels, residual="before", back=back)
            found.append([*before, added])
    return found


def difference(layer: Layer, decisions: dict) -> float:
    operands = reference.random_arguments(layer)
    arguments = reference.kernel_arguments(layer, decisions, operands)
    arguments[-1].fill(np.nan)
    kernel = schedules.kernel(layer, decisions)
    built = tvm.compile(tvm.IRModule({"kernel": kernel}), target=HOST, tir_pipeline=codegen.lowering())
    tensors = [tvm.runtime.tensor(a) for a in arguments]
    built["kernel"](*tensors)
    expected = reference.reference(layer, **operands)
    output = tensors[-1].numpy()[..., : layer.out_channels]
    return float(np.abs(output - expected).max() / max(1.0, expected.std()))


@pytest.mark.parametrize("examples", [1, pytest.param(15, marks=pytest.mark.full)])
def test_a_fused_block_computes_its_layers_whatever_their_shapes_and_decisions(examples):
    @settings(max_examples=examples)
    @given(layer=fused_blocks(), seed=st.integers(0, 1 << 20))
    def check(layer, seed):
        space = schedules.space(layer, RPI4.core)
        decisions = space.default
        assert not space.valid(decisions)
        assert difference(layer, decisions) < TOLERANCE
        draw = random.Random(seed)
        drawn = {name: draw.choice(choice.candidates) for name, choice in space.choices.items()}
        if not space.valid(drawn):
            assert difference(layer, drawn) < TOLERANCE

    check()


BATCHES = (
    "fused conv 9x8x3 n7 3x3 s2 p1,1,1,1 b3 nchw f32 relu6 > depthwise 5x4x7 3x3 p1,1,1,1 b3 f32 relu6 > "
    "pointwise m60 n9 k7 out12 f32 relu add_after",
    "fused pointwise m60 n5 k6 in8 f32 relu > depthwise 6x5x5 3x3 s2 p1,1,1,1 b2 f32 > pointwise m18 n6 k5 f32",
)


@pytest.mark.parametrize("name, row_tiles, column_tiles", [(BATCHES[0], 1, 1), (BATCHES[1], 2, 2)])
def test_each_image_of_a_batch_has_tasks_of_its_own(name, row_tiles, column_tiles):
    layer = Layer.parse(name)
    assert layer.name == name
    cut = {"row_tiles": row_tiles, "column_tiles": column_tiles}
    assert difference(layer, schedules.space(layer, RPI4.core).default | cut) < TOLERANCE


@pytest.mark.parametrize("images, tasks", [(1, 4), (2, 4), (3, 12), (4, 4), (8, 8)])
def test_batches_are_cut_no_further_than_four_cores_need(images, tasks):
    block = Layer.fused_block(
        (
            window(56, 56, 64, 3, 1, (1, 1, 1, 1), "relu6", images),
            Layer(kind="pointwise", height=images * 56 * 56, channels=64, out_channels=64),
        )
    )
    rows, columns = row_tiles.tasks(block, RPI4.core)
    assert images * rows * columns == tasks
    assert row_tiles.load_balance(block, rows, columns, RPI4.cores) <= 1.05


@pytest.mark.parametrize(
    "width, channels, target, cut, fits",
    [
        (56, 72, "rpi4", (1, 4), True),
        (56, 16, "rpi4", (4, 1), True),  # its rows fit whole
        (56, 96, "rpi5", (4, 1), False),  # its traffic hides behind arithmetic
        (28, 192, "rpi4", (4, 1), False),  # seven columns would be too few
    ],
)
def test_an_untuned_block_streams_within_the_l1_where_that_costs_little(width, channels, target, cut, fits):
    block = Layer.fused_block(
        (
            Layer(kind="pointwise", height=width * width, channels=24, out_channels=channels, activation="relu"),
            window(width, width, channels, 3, 1, (1, 1, 1, 1), "relu"),
            Layer(kind="pointwise", height=width * width, channels=channels, out_channels=24),
        )
    )
    core = targets.load(target).core
    chosen = schedules.space(block, core).default
    assert (chosen["row_tiles"], chosen["column_tiles"]) == cut
    assert (row_tiles.scratch_bytes(block, chosen["column_tiles"]) <= core.l1d.bytes) == fits


def separable(width: int, channels: int) -> Layer:
    """A stem and two blocks, the second with stride 2, of an image of ``width``."""
    half = width // 2
    rows = (half - 1) // 2 + 1
    return Layer.fused_block(
        (
            Layer(
                kind="conv",
                height=width,
                width=width,
                channels=3,
                out_channels=channels,
                kernel=(3, 3),
                stride=(2, 2),
                padding=(1, 1, 1, 1),
                activation="relu6",
                input_layout="NCHW",
            ),
            window(half, half, channels, 3, 1, (1, 1, 1, 1), "relu6"),
            Layer(kind="pointwise", height=half * half, channels=channels, out_channels=2 * channels),
            window(half, half, 2 * channels, 3, 2, (1, 1, 1, 1), "relu6"),
            Layer(kind="pointwise", height=rows * rows, channels=2 * channels, out_channels=19, activation="relu"),
        )
    )


# Each width with two of the cuts, each cut with a width or two.
CUTS = [(20, 1, 4), (20, 3, 1), (26, 2, 2), (26, 4, 2), (34, 1, 4), (34, 2, 2)]


@pytest.mark.parametrize("width, row_tiles, column_tiles", [pytest.param(*c, marks=pytest.mark.full) for c in CUTS])
def test_column_tiles_and_row_tiles_cut_a_fused_block_anywhere(width, row_tiles, column_tiles):
    layer = separable(width, 8)
    decisions = schedules.space(layer, RPI4.core).default | {"row_tiles": row_tiles, "column_tiles": column_tiles}
    assert difference(layer, decisions) < TOLERANCE


@pytest.mark.parametrize("column_tiles", [1, 2, 4])
def test_column_tiles_cover_each_part_with_no_column_more_than_windows_reach(column_tiles):
    layer = separable(112, 16)
    columns = row_tiles.columns_of(layer, column_tiles)
    for part, stage in enumerate(row_tiles.stages(layer)):
        ranges = [column_tile[part] for column_tile in columns]
        assert {c for r in ranges for c in r} == set(range(stage.out_width))
        assert sum(map(len, ranges)) <= stage.out_width + (column_tiles - 1) * 3
    assert sum(len(column_tile[-1]) for column_tile in columns) == layer.parts[-1].height ** 0.5
    kept = [row_tiles.scratch_bytes(layer, b) for b in (1, 2, 4)]
    assert kept[0] > 1.8 * kept[1] > 3 * kept[2]


def test_fourteen_rows_are_cut_both_ways_so_that_four_cores_have_as_much_each():
    layer = Layer.fused_block(
        (
            window(14, 14, 64, 3, 1, (1, 1, 1, 1), "relu6"),
            Layer(kind="pointwise", height=196, channels=64, out_channels=64),
        )
    )
    assert row_tiles.tasks(layer, RPI4.core) == (2, 2)
    assert row_tiles.load_balance(layer, 2, 2, 4) == 1 < row_tiles.load_balance(layer, 4, 1, 4)
    space = schedules.space(layer, RPI4.core)
    assert "without a task" in space.valid(space.default | {"row_tiles": 1, "column_tiles": 2})
    assert not space.valid(space.default | {"row_tiles": 4, "column_tiles": 1})


def test_the_name_of_a_fused_block_parses_back():
    layer = Layer.fused_block(
        (
            window(14, 14, 8, 3, 1, (1, 1, 1, 1), "relu6"),
            Layer(kind="pointwise", height=196, channels=8, out_channels=24),
        )
    )
    assert Layer.parse(layer.name) == layer
    assert Layer.parse(layer.with_pitches(12, 32).name) == layer.with_pitches(12, 32) != layer
    assert layer.mult_adds == sum(part.mult_adds for part in layer.parts)


def test_a_residual_inside_of_a_block_is_of_a_part_before():
    begin = (
        "fused conv 9x9x3 n8 3x3 s2 p1,1,1,1 f32 relu > depthwise 5x5x8 3x3 p1,1,1,1 f32 relu > pointwise m25 n8 k8 f32"
    )
    layer = Layer.parse(f"{begin} add2")
    assert Layer.parse(layer.name) == layer and layer.second_shape is None and layer.residual == "none"
    assert titles.short_titles([layer.name], 40)[0].endswith("add2")
    operands = reference.random_arguments(layer)
    expected = tolerance.expected(layer, 1e-5, **operands)
    assert np.allclose(expected.output, reference.reference(layer, **operands)) and expected.answers > 0.9
    with pytest.raises(ImpossibleLayerError, match="a residual of no part before it"):
        Layer.parse(f"{begin} add3")


@pytest.fixture(scope="module")
def small():
    """MobileNet v2 at 64 pixels, and a board with caches so small that its layers become fused blocks."""
    core = dataclasses.replace(RPI4.core, l2=dataclasses.replace(RPI4.core.l2, bytes=256 * 1024))
    return load_network(ModelOptions(model="v2", alpha=0.5, resolution=64)), dataclasses.replace(RPI4, core=core)


def test_fusing_keeps_every_layer_once_and_in_order(small):
    network, target = small
    fused = fuse_blocks.run(network.graph, target.core).calls
    assert any(c.layer.parts for c in fused)
    flat = [part.name for c in fused for part in (c.layer.parts or (c.layer,))]
    assert flat == [c.layer.name for c in network.layers]


def test_what_two_layers_read_is_never_kept_inside_a_fused_block(small):
    network, target = small
    calls = fuse_blocks.run(network.graph, target.core).calls
    added = {c.parts[-1].inputs[1] for c in calls if c.layer.parts and c.layer.parts[-1].back}  # in a line buffer
    written = {c.output for c in calls} | added
    read = [v for c in network.layers for v in c.inputs] + [p.value for p in network.signature.outputs]
    assert {v for v in read if read.count(v) > 1} <= written | {p.value for p in network.signature.inputs}


@pytest.fixture(scope="module")
def large():
    return load_network(ModelOptions(model="v1", resolution=224))


@pytest.mark.full
def test_a_larger_l2_makes_other_fused_blocks(large):
    cores = (targets.load(board).core for board in ("rpi3", "rpi4"))
    names = [[c.layer.name for c in for_core(large.graph, core).calls] for core in cores]
    assert names[0] != names[1]
    assert min(map(len, names)) < len(large.layers)


@pytest.mark.full
def test_a_huge_l2_makes_no_fused_block_that_takes_minutes_to_build(large):
    target = targets.load("rpi4")
    l2 = dataclasses.replace(target.core.l2, bytes=1 << 25)
    wide = dataclasses.replace(target, core=dataclasses.replace(target.core, l2=l2))
    lengths = [len(layer.parts) for layer in for_core(large.graph, wide.core).counts if layer.kind == "fused"]
    assert lengths and max(lengths) <= MOST_PARTS


def test_a_network_of_fused_blocks_verifies_and_a_changed_weight_inside_one_is_found(small, tmp_path):
    network, target = small
    build.build(network.options, target, output=tmp_path, network=network)
    result = verify.verify(tmp_path, network=network, target=target, count=1)
    assert result.ok and any(c.layer.startswith("fused ") for c in result.layers)
    index = next(i for i, c in enumerate(network.layers) if c.layer.kind == "pointwise")
    weight = network.layers[index].weight.copy()
    weight[0, 0] += 0.01 * weight.std()
    calls = (c.replace(weight=weight) if i == index else c for i, c in enumerate(network.layers))
    changed = dataclasses.replace(network, graph=dataclasses.replace(network.graph, calls=tuple(calls)))
    wrong = verify.verify(tmp_path, network=changed, target=target, count=1)
    assert network.layers[index].layer.name in wrong.first_wrong.layer


@pytest.mark.full  # tests/compiler/test_one_object.py compares its code
def test_the_executable_runs_fused_blocks_in_tvms_own_runtime(small, tmp_path):
    network, target = small
    host = dataclasses.replace(
        targets.load("host"), core=dataclasses.replace(targets.load("host").core, l2=target.core.l2)
    )
    if not any(c.layer.parts for c in for_core(network.graph, host.core).calls):
        pytest.skip("this machine's caches make no fused blocks of so small a network")
    build.build(network.options, host, output=tmp_path, network=network, tvm_executable=True)
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / "model.so")), tvm.cpu())
    (x,) = network.inputs(1)[0]
    found = machine["main"](tvm.runtime.tensor(x)).numpy()
    with torch.no_grad():
        expected = network.model.module(torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() < 1e-4 * expected.std() * len(network.layers) ** 0.5
