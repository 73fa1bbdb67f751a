"""Layers at a network's ends: bytes of images and int8 from outside, for stems of floats and of integers."""

import numpy as np
import pytest
from tvm_mobilenet.schedules import nest

from tests.schedules.test_integers import run
from tvm_mobilenet import boards, schedules, targets
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.checking import integers as definition
from tvm_mobilenet.checking import reference, stepped
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.layer import Layer

WHOLE = (
    "elementwise 5x19x3 pixels nchw out4 i8 reads_u8",
    "elementwise 4x37x1 pixels b2 nchw out4 i8 reads_u8",
    "elementwise 5x7x3 pixels out4 i8 reads_u8",
    "elementwise 5x19x3 pixels nchw to_nchw i8 reads_u8",
    "elementwise 5x19x3 none nchw out4 i8 reads_u8",
    "elementwise 5x19x3 none nchw out4 i8",
    "elementwise 3x1x21 none i8 reads_u8",
    "elementwise 3x1x21 none i8 writes_u8",
)
FLOATS = (
    "conv 11x13x3 n16 3x3 s2 p1,1,1,1 nchw f32 reads_u8 relu6",
    "conv 11x13x3 n10 3x3 p1,1,1,1 b2 f32 reads_u8",
    "conv 9x9x1 n8 5x5 p2,2,2,2 nchw f32 reads_u8 relu",
    "conv 11x13x3 n16 3x3 s2 p1,1,1,1 nchw f16 reads_u8 relu6",
    "fused conv 12x12x3 n16 3x3 s2 p1,1,1,1 nchw f32 reads_u8 relu6 > depthwise 6x6x16 3x3 p1,1,1,1 f32 relu6 "
    "> pointwise m36 n16 k16 f32",
)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("target", ["rpi5", *(pytest.param(t, marks=pytest.mark.full) for t in ("armv7", "host"))])
def test_a_copy_at_the_ends_equals_its_definition(target, name, tmp_path):
    layer, rng = Layer.parse(name), np.random.default_rng(0)
    assert layer.name == name
    operands = definition.random_operands(layer, rng)
    expected = definition.run(layer, **operands)
    assert len(np.unique(expected)) > 8, "an output that depends on its input"
    found = run(targets.load(target), layer, operands["data"], operands["constants"], None, tmp_path / "k.so")
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("target", ["rpi5", *(pytest.param(t, marks=pytest.mark.full) for t in ("armv7", "host"))])
def test_a_stem_reads_bytes(target, name, tmp_path):
    """Padding is zero of the values that bytes stand for, whatever byte is nearest to it."""
    layer, target = Layer.parse(name), targets.load(target)
    assert layer.name == name and layer.reads_pixels
    if not target.computes(layer.dtype):
        pytest.skip(f"{target.name} does not compute {layer.dtype}")
    operands = reference.random_arguments(layer)
    decisions = schedules.space(layer, target.core).default
    library = codegen.compile_kernels({nest.SYMBOL: schedules.kernel(layer, decisions)}, target, tmp_path / "k.so")
    arguments = reference.kernel_arguments(layer, decisions, operands)
    where = "local" if target.is_host else "virtual"
    with boards.open_board(where, target) as board, board.load(library) as module:
        found = module.call(nest.SYMBOL, arguments).outputs[-1]
    expected = stepped.expected(layer, **operands)
    if layer.dtype == "float16":
        assert np.array_equal(found, expected)
    else:
        assert relative(found, expected, float(expected.std())) < 1e-5
    pixels = operands["constants"]
    wrong = {**operands, "constants": {n: a + np.float32([[0], [0.02]]) for n, a in pixels.items()}}
    assert relative(found, stepped.expected(layer, **wrong), float(expected.std())) > 1e-3, "offsets matter"
