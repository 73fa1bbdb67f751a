"""Schedules: every decision record of every layer computes what the layer's definition says, whatever the shape."""

import dataclasses
import random
import re
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import tvm
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm_mobilenet.schedules import values, window
from tvm_mobilenet.schedules.choices import Choice, Space

from tvm_mobilenet import frontend, passes, schedules, targets
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.checking import reference
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.compiler.kernel_text import kernel_text
from tvm_mobilenet.kinds import activation, windows
from tvm_mobilenet.layer import RESIDUALS, Layer
from tvm_mobilenet.models import registry

CORES = {core.name: core for core in (targets.load(n).core for n in ("rpi3", "rpi4", "rpi5", "armv7"))}
ACTIVATIONS = (*activation.PLAIN, "leaky0.1", "leaky1.5", "leaky-0.2", "clip-1,1", "clip-inf,0.5", "hardswish0.2,0.4")
KINDS = ("pointwise", "dense", "conv", "depthwise", "pool", "elementwise", "softmax")
# Operands have unit variance, so rounding is absolute: 1,024 products in float32 differ by some 3e-6.
TOLERANCE = 1e-5


# ---- layers of every kind, small enough that a test compiles dozens


def sizes(*odd):
    """Extents of a tensor: the awkward ones as often as all others together."""
    return st.one_of(st.integers(1, 40), st.sampled_from(odd))


@st.composite
def geometry(draw, kernels, most_pixels=144):
    """Height, width, kernel, stride, padding on each side, dilation; the window fits."""
    kernel = draw(st.sampled_from(kernels))
    dilation = draw(st.sampled_from([(1, 1)] * 3 + [(2, 2), (1, 2)]))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    side = [draw(st.integers(1, 15)) for _ in range(2)]
    # as PyTorch (both sides alike), as TensorFlow (one more at the end), or any
    pads = [draw(st.sampled_from([(r // 2, r // 2), (max(0, r // 2 - 1), r // 2), (0, r - 1), (0, 0)])) for r in reach]
    size = [max(s, r - sum(p), 1) for s, r, p in zip(side, reach, pads, strict=True)]
    assume(size[0] * size[1] <= most_pixels)
    (top, bottom), (left, right) = pads
    return {
        "height": size[0],
        "width": size[1],
        "kernel": kernel,
        "padding": (top, left, bottom, right),
        "stride": draw(st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 3)])),
        "dilation": dilation,
    }


def epilogues(slopes=True):
    activations = (*ACTIVATIONS, *["prelu"] * 3) if slopes else ACTIVATIONS
    return st.fixed_dictionaries({"activation": st.sampled_from(activations), "residual": st.sampled_from(RESIDUALS)})


layouts = st.sampled_from(["NHWC", "NHWC", "NCHW"])
batches = st.sampled_from([1, 1, 2])


@st.composite
def pointwise(draw, kind="pointwise"):
    rows = st.integers(1, 3) if kind == "dense" else sizes(1, 3, 49, 50, 63)
    return Layer(
        kind=kind,
        height=draw(rows),
        channels=draw(sizes(1, 3, 65, 130, 259)),
        out_channels=draw(sizes(1, 3, 97, 1001)),
        batch=draw(batches),
        **draw(epilogues()),
    )


def dense():
    return pointwise("dense")


@st.composite
def conv(draw):
    shape = draw(geometry([(3, 3), (3, 3), (1, 1), (5, 5), (2, 3), (7, 7)], 81))
    taps = shape["kernel"][0] * shape["kernel"][1]
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    depth = draw(st.integers(1, 4) if taps > 9 else st.sampled_from([1, 2, 3, 5, 18, 21]))
    assume(taps * depth <= 50 or taps * depth > 160)  # those between are written out: many seconds of LLVM each
    n = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 12, 20, 33]))
    return Layer(
        kind="conv",
        channels=groups * depth,
        out_channels=groups * n,
        groups=groups,
        batch=draw(batches),
        input_layout=draw(layouts),
        output_layout=draw(layouts),
        **shape,
        **draw(epilogues()),
    )


@st.composite
def depthwise(draw):
    c = draw(sizes(1, 3, 7, 13, 17, 48))
    shape = draw(geometry([(3, 3), (3, 3), (5, 5), (7, 7), (1, 3)]))
    assume(shape["kernel"] != (7, 7) or shape["width"] <= 9)
    return Layer(
        kind="depthwise",
        channels=c,
        out_channels=c,
        groups=c,
        batch=draw(batches),
        **shape,
        input_layout=draw(layouts),
        output_layout=draw(layouts),
        **draw(epilogues()),
    )


@st.composite
def pool(draw):
    c, op = draw(sizes(1, 3, 7, 50)), draw(st.sampled_from(["avg", "mean", "max"]))
    shape = draw(geometry([(2, 2), (3, 3), (7, 7), (1, 2)], 225))
    for axis in (0, 1):  # a maximum over padding alone is minus infinity, a mean is 0 / 0
        assume(max(shape["padding"][axis::2]) < shape["kernel"][axis] * shape["dilation"][axis])
    layer = Layer(
        kind="pool",
        op=op,
        channels=c,
        out_channels=c,
        batch=draw(batches),
        **shape,
        input_layout=draw(layouts),
        output_layout=draw(layouts),
        **draw(epilogues(slopes=False)),
    )
    return layer


@st.composite
def elementwise(draw):
    c, layout = draw(sizes(1, 3, 7, 13, 50)), draw(layouts)
    return Layer(
        kind="elementwise",
        height=draw(sizes(1, 7)),
        width=draw(st.integers(1, 9)),
        channels=c,
        out_channels=c,
        op=draw(st.sampled_from(["none", "add", "sub", "mul", "scale"])),
        batch=draw(batches),
        input_layout=layout,
        output_layout=draw(layouts),
        activation=draw(st.sampled_from((*ACTIVATIONS, "prelu"))),
    )


@st.composite
def softmax(draw):
    c = draw(sizes(1, 3, 21, 1001))
    return Layer(
        kind="softmax",
        height=draw(st.integers(1, 5)),
        width=draw(st.integers(1, 3)),
        channels=c,
        out_channels=c,
        batch=draw(batches),
        input_layout=draw(layouts),
        output_layout=draw(layouts),
    )


@st.composite
def at_pitches(draw, layers):
    """The layer, sometimes with its positions further apart than its channels are many."""
    layer = draw(layers)
    more = st.sampled_from([0, 0, 1, 4, 7])
    data = draw(more) if layer.input_layout == "NHWC" else 0
    output = draw(more) if layer.output_layout == "NHWC" else 0
    return layer.with_pitches(data and layer.channels + data, output and layer.out_channels + output)


LAYERS = {kind: at_pitches(globals()[kind]()) for kind in KINDS}


def some_decisions(space: Space, seed: int) -> dict:
    """A valid record drawn at random; the default for seed 0 and where none is found."""
    draw = random.Random(seed)
    for _ in range(200 if seed else 0):
        point = {name: draw.choice(choice.candidates) for name, choice in space.choices.items()}
        if not space.refuse(point):
            return point
    return space.default


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape and found.dtype == np.float32
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def run_here(layer: Layer, decisions: dict) -> float:
    """The largest difference to the definition, run on this machine."""
    decisions = {k: "tir" if v == "dual_issue" else v for k, v in decisions.items()}  # that one is AArch64 assembly
    module = tvm.IRModule({"kernel": schedules.kernel(layer, decisions)})
    kernel = tvm.compile(module, target=tvm.target.Target({"kind": "llvm", "opt-level": 1}))["kernel"]
    operands = reference.random_arguments(layer)
    arguments = reference.kernel_arguments(layer, decisions, operands)
    arguments[-1][...] = np.nan  # what is not written is found
    tensors = [tvm.runtime.tensor(a) for a in arguments]
    kernel(*tensors)
    return difference(tensors[-1].numpy()[..., : layer.output_shape[-1]], reference.reference(layer, **operands))


# ---- what kernels compute


@pytest.mark.parametrize("kind", KINDS)
def test_any_shape_under_any_decisions_computes_its_definition(kind):
    """Shapes and decisions are drawn together: a tile that does not divide, with the padding that breaks it."""

    @settings(max_examples=10)
    @given(layer=LAYERS[kind], core=st.sampled_from(sorted(CORES)), seed=st.integers(0, 1 << 20))
    def check(layer, core, seed):
        decisions = some_decisions(schedules.space(layer, CORES[core]), seed)
        assert run_here(layer, decisions) <= TOLERANCE, (layer.name, decisions)

    check()


CORNERS = [
    "pointwise m49 n1001 k33 f32 add relu6",
    "pointwise m12 n24 k259 f32 hardswish add_after",
    "pointwise m13 n44 k34 f32 add prelu",
    "conv 6x5x6 n9 3x3 p1,1,1,1 g3 to_nchw f32 prelu add_after",
    "depthwise 9x11x13 3x3 p1,1,1,1 f32 prelu",
    "elementwise 4x3x13 none nchw f32 prelu",
    "pointwise m12 n24 k20 f32 leaky-0.2 add_after",
    "depthwise 7x7x20 5x5 p2,2,2,2 f32 leaky0.1",
    "conv 7x7x4 n8 7x7 s2 p3,3,3,3 f32 clip-1,1",
    "dense m2 n11 k20 f32 hardswish0.2,0.4",
    "dense m1 n1001 k130 f32",
    "pointwise m27 n44 k34 f32 add relu6",
    "pointwise m23 n40 k130 b2 to_nchw f32 silu",
    "dense m2 n3 k7 b2 f32 hardsigmoid",
    "pointwise m23 n40 k64 in68 out44 f32 add relu6",
    "depthwise 9x9x24 3x3 s2 p1,1,1,1 in28 out32 f32 relu6",
    "conv 15x13x3 n9 3x3 s2 p0,0,1,1 nchw f32 relu6",
    "conv 9x9x3 n5 3x3 s2 p1,0,1,2 d2 b2 nchw to_nchw f32 add relu",
    "conv 7x7x20 n12 3x3 p1,1,1,1 f32 relu",
    "conv 6x5x6 n9 3x3 p1,1,1,1 g3 f32 silu add_after",
    "conv 6x5x10 n40 3x3 p1,1,1,1 g10 f32 prelu add_after",
    "conv 4x4x24 n8 1x1 to_nchw f32",
    "conv 7x7x4 n8 7x7 s2 p3,3,3,3 f32",
    "depthwise 9x11x13 3x3 p1,1,1,1 f32 relu6",
    "depthwise 15x15x8 3x3 s2 p0,0,1,1 f32 hardswish",
    "depthwise 7x7x20 5x5 p2,2,2,2 b2 f32 add relu",
    "depthwise 1x1x3 3x3 p1,1,1,1 f32",
    "depthwise 9x9x4 7x7 s2 p3,3,3,3 f32 sigmoid",
    "pool 7x7x50 avg 7x7 f32",
    "pool 8x9x13 max 3x3 s2 p0,0,1,1 f32 relu",
    "pool 8x9x13 mean 3x3 s2 p0,0,1,1 f32 relu",
    "elementwise 5x3x13 scale b2 f32",
    "elementwise 7x7x24 add f32 relu",
    "elementwise 4x3x5 none to_nchw f32 hardswish",
    "softmax 1x1x1001 f32",
]


@pytest.mark.parametrize(
    "board, step", [("rpi3", 3), *(pytest.param(b, 1, marks=pytest.mark.full) for b in ("rpi3", "rpi4", "armv7"))]
)
def test_machine_code_for_the_boards_computes_the_definition(board, step, tmp_path):
    """Another compiler back end, other registers: an untuned kernel or a random one of every corner, emulated."""
    target = targets.load(board)
    built = {}
    for i, name in list(enumerate(CORNERS))[::step]:
        layer = Layer.parse(name)
        seed = (i + (board == "armv7")) % 2 * 5
        built[f"k{i}"] = layer, some_decisions(schedules.space(layer, target.core), seed)
    kernels = {symbol: schedules.kernel(*what) for symbol, what in built.items()}
    library = codegen.compile_kernels(kernels, target, tmp_path / "kernels.so")
    wrong = []
    with VirtualBoard(target).load(library) as module:
        for symbol, (layer, decisions) in built.items():
            operands = reference.random_arguments(layer)
            arguments = reference.kernel_arguments(layer, decisions, operands)
            arguments[-1][...] = np.nan
            module.call(symbol, arguments)
            output = arguments[-1][..., : layer.output_shape[-1]]
            found = difference(output, reference.reference(layer, **operands))
            if not found <= TOLERANCE:
                wrong.append((layer.name, decisions, found))
    assert not wrong


def sigmoids(target, channels: int = 8) -> dict:
    """A sigmoid and a silu."""
    layers = {word: Layer.parse(f"elementwise 2x4x{channels} none f32 {word}") for word in ("sigmoid", "silu")}
    return {word: schedules.kernel(one, schedules.space(one, target.core).default) for word, one in layers.items()}


def calls_expf(kernels: dict, target) -> bool:
    code = (kernel_text(word, kernel.with_attr("global_symbol", word), target) for word, kernel in kernels.items())
    return any("expf" in text.assembly for text in code)


@pytest.mark.parametrize("board", ["rpi4", "armv7"])
def test_a_sigmoid_computes_its_own_exponential_over_the_whole_range(board, tmp_path):
    """A library's expf, called for each value, takes four times as long."""
    target = targets.load(board)
    kernels = sigmoids(target)
    assert not calls_expf(kernels, target)
    library = codegen.compile_kernels(kernels, target, tmp_path / "kernels.so")
    x = np.concatenate([np.linspace(-120, 120, 58), [0.0, -0.0, 1e30, -1e30, np.inf, np.nan]]).astype(np.float32)
    wide, smallest = x.astype(np.float64), 2.0**-124  # beside it a sigmoid may be zero: `values.reciprocal` ends there
    with VirtualBoard(target).load(library) as module, np.errstate(over="ignore"):
        for word, expected in (("sigmoid", 1 / (1 + np.exp(-wide))), ("silu", wide / (1 + np.exp(-wide)))):
            output = np.zeros((1, 2, 4, 8), np.float32)
            module.call(word, [x.reshape(output.shape), output])
            found = output.reshape(-1).astype(np.float64)
            assert np.isnan(found[-1]) and found[-2] == expected[-2]
            allowed = 4 * 2**-23 * np.abs(expected) + smallest * np.maximum(1.0, np.abs(wide))
            assert (np.abs(found[:-2] - expected[:-2]) <= allowed[:-2]).all(), word


def test_a_sigmoid_divides_only_where_that_is_fast():
    """A division of four values takes a Cortex-A72 34 cycles, a Cortex-A53 14, a Cortex-A76 7."""
    for board, divides in (("rpi3", False), ("rpi4", False), ("armv7", False), ("rpi5", True)):
        target = targets.load(board)
        for word, kernel in sigmoids(target).items():
            code = kernel_text(word, kernel.with_attr("global_symbol", word), target).assembly
            assert bool(re.search(r"\b[fv]div\b", code)) == divides, (board, word)
        assert "quotient" not in schedules.space(Layer.parse("elementwise 2x4x8 none f32 relu"), target.core).default


def test_a_call_of_a_library_is_found(monkeypatch):
    monkeypatch.setattr(values, "exponential", lambda layer, x: tirx.exp(x))
    target = targets.load("rpi4")
    assert calls_expf(sigmoids(target, 12), target), "a kernel of its own: kernels are kept by layer and decisions"


@settings(max_examples=30)
@given(layer=st.one_of(*LAYERS.values()), core=st.sampled_from(sorted(CORES)), seed=st.integers(0, 1 << 20))
def test_packing_keeps_every_weight(layer, core, seed):
    """Packing may reorder weights, never lose or invent one."""
    decisions = some_decisions(schedules.space(layer, CORES[core]), seed)
    operands = reference.random_arguments(layer)
    packed = schedules.pack(layer, decisions, reference.constants_of(layer, operands))
    assert all(a.dtype == np.float32 for a in packed)
    if packed:
        weights = packed[0][packed[0] != 0] if packed[0].size > operands["weight"].size else packed[0]
        assert np.array_equal(np.sort(weights.ravel()), np.sort(operands["weight"].ravel()))


# ---- the same decisions, the same kernel

SAME = """
import sys
from tests.schedules.test_schedules import kernel_texts
print(kernel_texts())
"""


def kernel_texts() -> str:
    """A fingerprint of the TIR of many corners."""
    import hashlib

    texts = []
    for name in CORNERS[::2]:
        layer = Layer.parse(name)
        space = schedules.space(layer, CORES["cortex-a72"])
        texts.append(schedules.kernel(layer, some_decisions(space, 9)).script())
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


@pytest.mark.full
def test_the_same_decisions_give_the_same_tir_in_this_process_and_in_another():
    """Or what was searched is not what is built, and no build can be repeated."""
    for name in CORNERS:
        layer = Layer.parse(name)
        space = schedules.space(layer, CORES["cortex-a53"])
        decisions = some_decisions(space, 9)
        first = schedules.kernel(layer, decisions)
        schedules._kernel.cache_clear()
        again = schedules.kernel(Layer.parse(name), dict(reversed(decisions.items())))
        assert first is not again
        tvm.ir.assert_structural_equal(first, again, map_free_vars=True)
    done = subprocess.run([sys.executable, "-c", SAME], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kernel_texts()


def test_other_decisions_give_other_tir():
    layer = Layer.parse("pointwise m196 n64 k96 f32 relu6")
    space = schedules.space(layer, CORES["cortex-a72"])
    texts = {schedules.kernel(layer, d).script() for d in islice(space.neighbours(space.default), 6)}
    assert len(texts) == 6 and schedules.kernel(layer, space.default).script() not in texts


# ---- spaces


@settings(max_examples=300)
@given(layer=st.one_of(*LAYERS.values()), core=st.sampled_from(sorted(CORES)))
@example(layer=Layer.parse("depthwise 1x1x1 3x3 p1,1,1,1 f32"), core="cortex-a53")
@example(layer=Layer.parse("depthwise 4x1x40 3x3 p1,1,1,1 f32"), core="cortex-a72")
def test_the_default_is_valid_and_its_neighbours_are(layer, core):
    space = schedules.space(layer, CORES[core])
    assert space.valid(space.default) == ""
    assert all(space.valid(n) == "" for n in islice(space.neighbours(space.default), 20))
    near = space.nearest(space.default)
    assert near == space.default


@settings(max_examples=60)
@given(layer=st.one_of(*LAYERS.values()), core=st.sampled_from(sorted(CORES)), data=st.data())
def test_invalid_decisions_are_refused_with_a_reason(layer, core, data):
    space = schedules.space(layer, CORES[core])
    name = data.draw(st.sampled_from(sorted(space.choices)))
    wrong = data.draw(st.sampled_from([0, -1, 3000, "sideways", None]))
    assert name in space.valid({**space.default, name: wrong})
    missing = {k: v for k, v in space.default.items() if k != name}
    assert name in space.valid(missing)
    assert "colour" in space.valid({**space.default, "colour": 1})


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"tile_m": 8, "tile_n": 32}, "registers"),
        ({"tile_m": 7, "tile_n": 8, "n_block": 21}, "n_block = 21 does not divide"),
        ({"tile_m": 7, "tile_n": 8, "n_block": 1, "m_block": 3}, "m_block = 3 does not divide"),
    ],
)
def test_combinations_that_do_not_go_together_say_why(record, reason):
    space = schedules.space(Layer.parse("pointwise m196 n512 k512 f32 relu6"), CORES["cortex-a72"])
    assert reason in space.valid({**space.default, **record})


def test_every_point_of_a_small_space_is_valid_and_listed_once():
    space = schedules.space(Layer.parse("depthwise 7x7x32 3x3 p1,1,1,1 f32"), CORES["cortex-a72"])
    points = [tuple(p.values()) for p in space.points()]
    assert len(points) == len(set(points)) > 100 and points[0] == tuple(space.default.values())
    assert all(space.valid(dict(zip(space.choices, p, strict=True))) == "" for p in points)


def test_a_default_that_is_no_candidate_is_an_error_of_the_schedule():
    with pytest.raises(ValueError, match="5"):
        Choice((1, 2), 5)


def registry_layers(name: str, alpha: float) -> set[Layer]:
    """The layers of a network of the registry; weights play no part, so they stay as PyTorch made them."""
    import torch

    model = registry.architecture(name, alpha).eval().requires_grad_(False)
    return set(passes.run(frontend.from_torch(model, torch.zeros(1, 3, 224, 224))).counts)


@pytest.mark.parametrize(
    "name, alpha",
    [
        ("v1", 0.25),
        pytest.param("v1-plain", 0.25, marks=pytest.mark.full),
        pytest.param("v1-shallow", 0.75, marks=pytest.mark.full),
        pytest.param("v2", 1.4, marks=pytest.mark.full),
        pytest.param("v3-large", 0.75, marks=pytest.mark.full),
        pytest.param("v3-small", 1.0, marks=pytest.mark.full),
    ],
)
def test_the_default_of_every_layer_of_the_registry_is_valid_on_every_core(name, alpha):
    layers = registry_layers(name, alpha)
    assert len(layers) > 10
    for layer in layers:
        assert Layer.parse(layer.name) == layer
        for core in CORES.values():
            space = schedules.space(layer, core)
            assert space.valid(space.default) == "", (layer.name, core.name)


# ---- names


@settings(max_examples=250)
@given(layer=st.one_of(*LAYERS.values()), dtype=st.sampled_from(["float32", "float16", "int8"]))
def test_the_name_of_a_layer_parses_back(layer, dtype):
    """It is the key of the tune log: two layers with one name would share their decisions."""
    assume(layer.activation != "prelu" or dtype != "int8")
    layer = layer.replace(dtype=dtype)
    assert Layer.parse(layer.name) == layer


@pytest.mark.parametrize(
    "name, token",
    [
        ("pointwise m196 n512 k512 f32 relu7", "relu7"),
        ("pointwise m196 n512 k512 f32 clip0,6", "clip0,6"),  # relu6: two names would have two records
        ("pointwise m196 n512 k512 f32 leaky0.10", "leaky0.10"),
        ("pool 8x8x32 max 2x2 f32 prelu", "activation"),
        ("conv 8x8x3 n8 3x3 q2 f32", "q2"),
        ("pointwise n512 k512 f32", "height"),
        ("depthwise 8x8x3 11x11 f32", "kernel"),
        ("wavelet 8x8x3 f32", "wavelet"),
        ("pool 8x8x32 max 2x2 in24 f32", "input_pitch"),
        ("pool 8x8x32 max 2x2 to_nchw out48 f32", "output_pitch"),
    ],
)
def test_a_name_that_is_none_says_where(name, token):
    with pytest.raises(ValueError, match=token):
        Layer.parse(name)


@pytest.mark.parametrize(
    "name",
    [
        "depthwise 14x14x480 3x3 p1,1,1,1 f32 hardswish",
        "pool 7x7x960 avg 7x7 f32",
        "depthwise 28x28x120 5x5 p2,2,2,2 f32 relu",
        "pointwise m196 n512 k512 f32 relu6",
        "conv 64x64x3 n32 3x3 s2 p1,1,1,1 nchw f32 relu6",
        "dense m1 n1000 k1024 f32",
    ],
)
def test_defaults_of_cores_with_long_vectors_are_kernels(name):
    """AVX-512 has 32 registers of 64 bytes: what fits them may still be too large a tile for TVM."""
    core = dataclasses.replace(targets.load("rpi4").core, vector_bytes=64)
    layer = Layer.parse(name)
    found = schedules.space(layer, core)
    assert not found.valid(found.default)
    assert schedules.kernel(layer, found.default)


@pytest.mark.parametrize("step", [1, 2, 3, 20])
@pytest.mark.parametrize("name", ["13x7x8 3x3 p2,2,2,2 d2", "12x9x8 5x5 p6,6,6,6 d3", "9x9x8 3x3 s2 p1,1,1,1"])
def test_runs_of_tiles_cover_each_position_once_with_its_taps(name, step):
    layer = Layer.parse(f"depthwise {name} f32")
    for axis in (0, 1):
        for tile in (1, 2, 4):
            found = [
                (run.first(i) + n * run.step, taps)
                for run in window.runs(layer, axis, tile, step=step)
                for i in range(run.tiles)
                for n, taps in enumerate(run.taps)
            ]
            assert sorted(found) == list(enumerate(map(tuple, windows.inside(layer, axis))))


@pytest.mark.parametrize("tile, rows", [(1, 5), (2, 10), (3, 11), (4, 12)])
def test_a_dilation_shares_the_rows_of_every_other_output(tile, rows):
    """Outputs 0 and 2 of a dilation of 2 read four common rows of five, outputs 0 and 1 none."""
    layer = Layer.parse("depthwise 14x14x64 5x5 p4,4,4,4 d2 f32")
    assert window.under(layer, tile, 1) == (rows, 5) and window.lines_under(layer, tile, tile) == rows * rows
    assert window.under(layer.replace(dilation=(1, 1)), tile, 1) == (tile + 4, 5)
