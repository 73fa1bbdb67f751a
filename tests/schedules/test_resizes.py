"""Resizes: the positions that frameworks read, in kernels of any tiles, layouts and dtypes."""

import random

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import helper as h
from tvm_mobilenet.schedules import resized

from tvm_mobilenet import kinds, passes, schedules, targets
from tvm_mobilenet.boards.comparison import require_right
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.checking import reference, stepped
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.frontend import from_torch
from tvm_mobilenet.kinds import resizes
from tvm_mobilenet.layer import Layer

# Of each pair a size to which positions repeat after few values, and one to which they do not.
SIZES = ((4, 6), (7, 12), (3, 33), (5, 1), (9, 4), (1, 3))
ROUNDINGS = {"floor": "floor", "ceil": "ceil", "prefer_floor": "round_prefer_floor", "prefer_ceil": "round_prefer_ceil"}


def of_onnx_runtime(mode: str, rounding: str, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """ONNX Runtime's resize, channels second; nearest neighbour with a rounding."""
    how = {"mode": "nearest" if rounding else "linear", "coordinate_transformation_mode": mode}
    how |= {"nearest_mode": ROUNDINGS[rounding]} if rounding else {}
    shape = (*x.shape[:2], *size)
    node = h.make_node("Resize", ["x", "", "", "sizes"], ["y"], **how)
    ports = [h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, s) for name, s in (("x", x.shape), ("y", shape))]
    sizes = onnx.numpy_helper.from_array(np.array(shape, np.int64), "sizes")
    model = h.make_model(
        h.make_graph([node], "resize", ports[:1], ports[1:], [sizes]), opset_imports=[h.make_opsetid("", 13)]
    )
    model.ir_version = 8
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("op", [op for op in (*resizes.MODES, *resizes.NEAREST) if not op.startswith("tf_")])
def test_positions_are_those_of_onnx_runtime(op):
    mode, rounding = resizes.NEAREST.get(op, (op, ""))
    for n, m in SIZES:
        layer = Layer(
            kind="nearest2d" if rounding else "bilinear2d",
            op=op,
            height=n,
            width=m,
            channels=2,
            out_channels=2,
            size=(m, n),
        )
        x = np.random.default_rng(0).standard_normal((1, n, m, 2)).astype(np.float32)
        if m == 1 and mode == "align_corners":  # one row is the first; ONNX Runtime takes it too
            assert resizes.positions(layer, 0).read(0) == (0, None, 0.0)
        found = reference.reference(layer, x).transpose(0, 3, 1, 2)
        due = of_onnx_runtime(mode, rounding, x.transpose(0, 3, 1, 2), layer.size)
        np.testing.assert_allclose(found, due, atol=2e-5, err_msg=layer.name)


@pytest.mark.parametrize("corners", [False, True])
def test_bilinear_resizes_are_those_of_pytorch(corners):
    op = "align_corners" if corners else "half_pixel"
    layer = Layer.parse(f"bilinear2d 5x9x3 {op} to12x7 f32")
    x = torch.randn(1, 3, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = reference.reference(layer, x.permute(0, 2, 3, 1).numpy())
    due = F.interpolate(x, layer.size, mode="bilinear", align_corners=corners)
    np.testing.assert_allclose(found, due.permute(0, 2, 3, 1), atol=1e-6)


def test_a_position_halfway_between_two_values_is_rounded_as_the_mode_says():
    """In float32 it is not halfway: 10.5 * (4 / 14) - 0.5 is above 2.5."""
    assert (np.float32(10) + np.float32(0.5)) * (np.float32(4) / np.float32(14)) - np.float32(0.5) > 2.5
    for rounding, index in (("prefer_floor", 2), ("prefer_ceil", 3)):
        layer = Layer.parse(f"nearest2d 4x4x1 half_pixel_{rounding} to14x14 f32")
        assert resizes.positions(layer, 0).read(10) == (index, None, 0.0)
        x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
        due = of_onnx_runtime("half_pixel", rounding, x.transpose(0, 3, 1, 2), layer.size)
        assert np.array_equal(reference.reference(layer, x)[..., 0], due[:, 0])


# ---- tiles


@pytest.mark.parametrize("name", ["bilinear", "nearest"])
def test_tiles_cover_each_output_once_with_its_own_reads(name):
    for n, m in ((28, 56), (28, 40), (7, 56), (13, 9), (1, 8), (8, 1), (28, 224), (5, 33)):
        for mode in ("half_pixel", "align_corners"):
            layer = Layer.parse(f"{name}2d {n}x{n}x4 {mode}{'_floor' * (name == 'nearest')} to{m}x{m} f32")
            where = resizes.positions(layer, 1)
            for tile in resized.tiles(layer, 1)[1:]:
                found = []
                for run in resized.runs(layer, 1, tile):
                    for k in range(run.count):
                        assert run.start + k * run.tile == len(found)
                        at = [place + k * run.advance for place in run.places]
                        found += [(at[a], None if b is None else at[b], share) for a, b, share in run.outputs]
                assert found == [where.read(i) for i in range(m)]


def test_an_inner_tile_of_twice_the_size_lies_between_few_values():
    """Begun anywhere else, four outputs of a row would read four values, not three."""
    runs = resized.runs(Layer.parse("bilinear2d 28x28x4 half_pixel to56x56 f32"), 1, 4)
    assert [(run.start, len(run.places)) for run in runs if run.count > 1] == [(1, 3)]


# ---- kernels

NAMES = {
    "rpi4": (
        "bilinear2d 5x7x21 half_pixel to10x14 f32 relu",  # tails of channels and columns
        "bilinear2d 3x4x9 half_pixel to24x32 to_nchw f32",  # a network's scores
        "bilinear2d 6x5x4 align_corners to9x11 in8 out8 f32",  # positions that do not repeat, pitches
        "bilinear2d 3x5x1 asymmetric to6x20 b2 f32",
        "bilinear2d 1x1x8 half_pixel to3x3 f32",
        "nearest2d 5x7x21 asymmetric_floor to10x14 f32",
        "nearest2d 9x11x6 half_pixel_prefer_ceil to4x13 b2 to_nchw f32",
        "nearest2d 5x7x21 asymmetric_floor to10x14 i8",
    ),
    "armv7": ("bilinear2d 5x7x9 half_pixel to10x14 f32", "nearest2d 5x7x9 asymmetric_floor to10x14 i8"),
}


def right(target, cases: list, path) -> None:
    """Build kernels of layers and decisions as one library, and compare each."""
    kernels = {f"k{i}": schedules.of(layer).kernel(layer, d) for i, (layer, d) in enumerate(cases)}
    with VirtualBoard(target).load(codegen.compile_kernels(kernels, target, path)) as module:
        for i, (layer, decisions) in enumerate(cases):
            operands = reference.random_arguments(layer)
            arguments = reference.kernel_arguments(layer, decisions, operands)
            arguments[-1].fill(np.nan if arguments[-1].dtype.kind == "f" else 85)
            found = module.call(f"k{i}", arguments).outputs[-1]
            require_right(found, stepped.expected(layer, **operands), **stepped.allowed(layer))


@pytest.mark.parametrize("board", NAMES)
def test_kernels_compute_their_definition(board, tmp_path):
    target = targets.load(board)
    layers = [Layer.parse(name) for name in NAMES[board]]
    right(target, [(layer, schedules.space(layer, target.core).default) for layer in layers], tmp_path / "k.so")


@pytest.mark.full
@pytest.mark.parametrize("board", ["rpi4", "rpi5"])
def test_kernels_of_any_decisions_compute_their_definition(board, tmp_path):
    target, draw, cases = targets.load(board), random.Random(board), []
    for name in (
        *NAMES["rpi4"],
        "bilinear2d 13x7x12 half_pixel to5x3 f32",
        "nearest2d 13x7x12 align_corners_ceil to5x3 f32",
    ):
        choices = schedules.space(Layer.parse(name), target.core).choices
        for _ in range(3):
            cases.append((Layer.parse(name), {one: draw.choice(each.candidates) for one, each in choices.items()}))
    right(target, cases, tmp_path / "k.so")


# ---- from a model


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_resize_before_an_output_writes_it(mode):
    """Not a copy of it: of LR-ASPP's scores the copy took twice as long as the resize."""

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Conv2d(3, 5, 1)

        def forward(self, x):
            return F.interpolate(self.first(x), scale_factor=2, mode=mode)

    graph = passes.run(from_torch(Scores().eval().requires_grad_(False), torch.zeros(1, 3, 4, 6)))
    last = graph.calls[-1].layer
    assert (last.kind, last.output_layout, last.size) == (f"{mode}2d", "NCHW", (8, 12))
    assert kinds.of(last.kind).resizes and len(graph.calls) == 2
