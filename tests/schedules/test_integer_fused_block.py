"""Fused blocks of int8 give the bits of their layers one by one, on every target, however they are cut; a user who
builds for a Raspberry Pi 3 or 4 gets other numbers than on a Pi 5 where one does not."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedules.test_integers import run
from tvm_mobilenet import schedules, targets
from tvm_mobilenet.checking import integers as definition
from tvm_mobilenet.layer import Layer

BLOCKS = (
    "fused depthwise 9x9x20 3x3 p1,1,1,1 in32 i8 group3 small relu6 > pointwise m81 n24 k20 i8 group4 small",
    "fused conv 13x13x3 n16 3x3 s2 p1,1,1,1 in4 i8 group2 small relu6 > depthwise 7x7x16 3x3 p1,1,1,1 i8 group3 small "
    "hardswish > pointwise m49 n24 k16 i8 group4 small > depthwise 7x7x24 5x5 s2 p1,1,2,2 i8 group3 small relu > "
    "pointwise m9 n19 k24 out32 i8 group4 small hardswish add_after",
    "fused pointwise m48 n40 k48 i8 group4 small relu6 > depthwise 6x8x40 3x3 s2 p0,0,1,1 i8 group3 small relu6 > "
    "pointwise m12 n12 k40 i8 group4 small add relu",
    "fused conv 8x8x3 n7 3x3 p1,1,1,1 nchw i8 relu > depthwise 8x8x7 3x3 p2,2,2,2 d2 i8 > pointwise m64 n9 k7 i8",
    "fused pointwise m30 n33 k35 i8 group2 small relu > depthwise 5x6x33 3x3 p1,1,1,1 i8 group1 small > "
    "pointwise m30 n8 k33 i8 weights_i16 add_after",
    "fused conv 9x9x3 n7 3x3 s2 p1,1,1,1 b3 nchw i8 group2 small relu6 > "
    "depthwise 5x5x7 3x3 p1,1,1,1 b3 i8 group3 small > pointwise m75 n12 k7 out16 i8 group4 small add_after",
    "fused pointwise m60 n24 k16 i8 group4 small relu6 > depthwise 6x5x24 3x3 s2 p1,1,1,1 b2 i8 group3 small > "
    "pointwise m18 n9 k24 i8 group4 small",
)
SOME = [("rpi5", BLOCKS[0]), ("rpi3", BLOCKS[2]), ("rpi4", BLOCKS[5])]
# The same instructions on a Pi 3 and a Pi 4: each block is on one of the two, in another order.
EVERY = [("rpi4" if i % 2 else "rpi3", b) for i, b in enumerate(BLOCKS)]
EVERY += [(t, b) for t in ("rpi5", "armv7", "host") for b in BLOCKS]
OTHERS = [one for one in EVERY if one not in SOME]


def operands_of(layer: Layer, seed: int = 0):
    """Data, constants and second operand, all of it drawn."""
    drawn = definition.random_operands(layer, np.random.default_rng(seed))
    return drawn["data"], drawn["constants"], drawn.get("second")


def equals(layer: Layer, target, path, decisions=None, operands=None) -> bool:
    """Whether a block's kernel gives what its layers do, each run by its definition on what the one before gave."""
    data, constants, second = operands or operands_of(layer)
    expected = definition.run(layer, data, constants, second)
    return np.array_equal(run(target, layer, data, constants, second, path, decisions), expected)


@pytest.mark.parametrize("target, name", SOME + [pytest.param(*o, marks=pytest.mark.full) for o in OTHERS])
def test_a_block_equals_its_layers(target, name, tmp_path):
    layer, target = Layer.parse(name), targets.load(target)
    assert layer.name == name
    data, constants, second = operands_of(layer)
    assert len(np.unique(definition.run(layer, data, constants, second))) > 8, "an output that depends on its input"
    space = schedules.space(layer, target.core)
    assert not space.valid(space.default)
    assert equals(layer, target, tmp_path / "k.so", operands=(data, constants, second))


@pytest.mark.parametrize(
    "row_tiles, column_tiles", [pytest.param(*c, marks=pytest.mark.full) for c in ((3, 2), (1, 4))]
)
def test_however_it_is_cut(row_tiles, column_tiles, tmp_path):
    """Padding at the sides of the image alone, not at those of column tiles."""
    layer, target = Layer.parse(BLOCKS[1]), targets.load("rpi4")
    decisions = schedules.space(layer, target.core).default | {"row_tiles": row_tiles, "column_tiles": column_tiles}
    assert equals(layer, target, tmp_path / "k.so", decisions)


@st.composite
def blocks(draw):
    """Up to four parts, of any number of channels; windows of 5x5 in one of them: TVM lowers four such of single
    channels, all taps written out, in a minute, and a draw of five parts ended in a segmentation fault."""
    h, w, images = draw(st.integers(3, 12)), draw(st.integers(3, 12)), draw(st.sampled_from([1, 1, 2]))
    channels = st.sampled_from([1, 3, 7, 8, 16, 19, 24, 40])
    activations = st.sampled_from(["none", "relu", "relu6", "hardswish"])
    c, parts = draw(channels), []
    small = draw(st.booleans())
    for i in range(draw(st.integers(2, 4))):
        kind = draw(st.sampled_from(["conv", "depthwise", "pointwise"] if i == 0 else ["depthwise", "pointwise"]))
        n = c if kind == "depthwise" else draw(channels)
        common = {"kind": kind, "channels": c, "out_channels": n, "activation": draw(activations), "dtype": "int8"}
        common |= {"small": small, "group": draw(st.sampled_from([0, 1, 2, 3 if kind == "depthwise" else 4]))}
        if kind == "pointwise":
            parts.append(Layer(height=images * h * w, **common))
        else:
            large = any(part.kernel == (5, 5) for part in parts)
            kernel, stride = draw(st.sampled_from([3] if large else [3, 5])), draw(st.sampled_from([1, 2]))
            half, groups = kernel // 2, c if kind == "depthwise" else 1
            shape = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": (half,) * 4, "groups": groups}
            parts.append(Layer(height=h, width=w, batch=images, **common, **shape))
            h, w = parts[-1].out_height, parts[-1].out_width
        c = n
    parts[-1] = parts[-1].replace(residual=draw(st.sampled_from(["none", "before", "after"])))
    return Layer.fused_block(tuple(parts))


@pytest.mark.full
@pytest.mark.parametrize("target", ["rpi3"])
def test_a_block_equals_its_layers_whatever_their_shapes_and_decisions(target, tmp_path):
    target = targets.load(target)

    @settings(max_examples=4, derandomize=True)
    @given(layer=blocks(), seed=st.integers(0, 1 << 20))
    def check(layer, seed):
        space, draw = schedules.space(layer, target.core), random.Random(seed)
        assert equals(layer, target, tmp_path / "k.so")
        drawn = {name: draw.choice(choice.candidates) for name, choice in space.choices.items()}
        if not space.valid(drawn):
            assert equals(layer, target, tmp_path / "k.so", drawn)

    check()


@pytest.mark.parametrize(
    "target, value, sign",
    [("rpi3", -128, 1)]
    + [
        pytest.param(t, *ends, marks=pytest.mark.full)
        for t in ("rpi3", "rpi4", "rpi5")
        for ends in ((-128, -1), (127, -1), (127, 1))
    ],
)
def test_adversarial_sums_stay_in_their_integers(target, value, sign, tmp_path):
    """All data, and what parts hand on, at the ends, weights at the most that the groups allow."""
    layer = Layer.parse(
        "fused pointwise m36 n32 k64 i8 group4 > depthwise 6x6x32 3x3 p1,1,1,1 i8 group3 > "
        "pointwise m36 n8 k32 i8 group4"
    )
    data, constants, _ = operands_of(layer)
    data[:] = value
    for i, most in enumerate((63, 85, 63)):
        constants[f"{i}.weight"][:] = sign * most
        constants[f"{i}.scale"][:] = 1e-5 if i == 2 else 1.0
        constants[f"{i}.bias"][:] = 0
    assert equals(layer, targets.load(target), tmp_path / "k.so", operands=(data, constants, None))


@pytest.mark.parametrize(
    "planted", ["1.ends", *(pytest.param(p, marks=pytest.mark.full) for p in ("0.weight", "1.scale", "2.bias"))]
)
def test_a_unit_in_any_part_is_found(planted, tmp_path):
    layer = Layer.parse(BLOCKS[2])
    data, constants, second = operands_of(layer)
    wrong = {key: array.copy() for key, array in constants.items()}
    if planted == "0.weight":
        wrong[planted][:, 5] += 1
    elif planted == "1.scale":
        wrong[planted][1] *= 1.01
    elif planted == "2.bias":
        wrong[planted][2] += int(2 / wrong["2.scale"][2])
    else:
        wrong[planted][0] += 1  # the zero point that padding reads
    found = run(targets.load("rpi5"), layer, data, wrong, second, tmp_path / "k.so")
    assert not np.array_equal(found, definition.run(layer, data, constants, second))


def test_constants_that_a_schedule_makes_come_after_those_that_plans_name():
    layer, core = Layer.parse(BLOCKS[1]), targets.load("rpi4").core
    d = schedules.space(layer, core).default
    names = [name for name, *_ in schedules.of(layer).constants(layer, d)]
    own = [f"{name}{i}" for i, _, name in (n.partition(".") for n in layer.constants)]
    assert names[: len(own)] == own and set(names[len(own) :]) == {
        "lowest1",
        "lowest4",
        *(f"vectors{i}" for i in range(5)),
    }
    packed = schedules.pack(layer, d, operands_of(layer)[1])
    assert len(packed) == len(names)
    for n, ((name, shape, dtype), array) in enumerate(
        zip(schedules.of(layer).constants(layer, d), packed, strict=True)
    ):
        assert array.shape == shape and str(array.dtype) == dtype
        assert schedules.of(layer).part_of(layer, d, n) is layer.parts[int(name[-1])]
