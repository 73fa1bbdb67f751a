"""Kernels of float16: each of their decisions gives the bits of `checking.stepped`, and nothing that is planted in them
passes."""

import contextlib
import functools
import random
import re
import struct
from pathlib import Path

import capstone
import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from tvm_mobilenet.schedules import nest, sums, values

from tests.schedules.test_golden_tir import layer_of
from tvm_mobilenet import kinds, schedules, targets
from tvm_mobilenet.boards.comparison import WrongResult, require_right
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.checking import reference, stepped
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.errors import BoardError, TvmMobilenetError
from tvm_mobilenet.layer import Layer

RPI5 = targets.load("rpi5")
# Tails of vectors and tiles, pitches, batches, both layouts, dilation, groups, strides; what is read and written wide.
NAMES = (
    "conv 9x10x3 n24 3x3 s2 p1,1,1,1 nchw f16 reads_f32 relu6",
    "conv 9x9x3 n16 3x3 s2 p0,0,1,1 b2 in5 f16 reads_f32 sums_f32 hardswish",
    "conv 6x6x12 n20 3x3 p1,1,1,1 g2 f16 relu add_after",
    "conv 6x6x40 n20 3x3 p2,2,2,2 d2 f16 sums_f32 hardswish",
    "conv 5x5x4 n10 2x2 to_nchw f16 writes_f32",
    "depthwise 7x7x40 3x3 p1,1,1,1 in48 out44 f16 relu6",
    "depthwise 7x9x72 5x5 s2 p2,2,2,2 f16 hardswish add_after",
    "depthwise 6x6x24 3x3 p2,2,2,2 d2 b2 f16 writes_f32 sums_f32 add",
    "ghost 6x7x20 n40 3x3 p1,1,1,1 out44 f16 add prelu",
    "ghost 6x6x24 n48 5x3 p4,1,4,1 d2,1 b2 f16 sums_f32 hardswish",
    "pointwise m27 n72 k40 in48 out80 f16 add relu6",
    "pointwise m13 n150 k130 f16 hardswish add_after",
    "pointwise m16 n24 k300 f16 writes_f32",
    "pointwise m9 n16 k200 f16 sums_f32 hardsigmoid add",
    "pointwise m9 n40 k200 f16 reads_f32 writes_f32 sums_f32",
    "dense m1 n101 k67 f16 silu",
    "dense m3 n101 k300 f16 writes_f32 sums_f32",
    "conv 5x5x4 n12 2x2 f16 reads_f32 sums_f32 prelu add_after",
    "conv 7x6x10 n20 3x3 p1,1,1,1 g10 f16 relu",
    "conv 6x6x3 n24 5x5 s2 p2,2,2,2 g3 f16 add",
    "depthwise 7x7x40 3x3 p1,1,1,1 f16 prelu",
    "pointwise m13 n44 k30 f16 add leaky0.1",
    "pointwise m9 n24 k20 f16 leaky-0.2 add_after",
    "pointwise m9 n24 k70 f16 sums_f32 clip-0.3,0.7",
    "pointwise m9 n24 k20 f16 hardswish0.2,0.4 add_after",
    "elementwise 5x5x20 none f16 prelu",
    "pool 7x7x40 avg 7x7 f16 relu6",
    "pool 9x9x20 max 3x3 s2 p1,1,1,1 b2 f16 add",
    "pool 9x8x20 mean 3x3 s2 p1,1,1,1 b2 f16 relu",
    "bilinear2d 5x7x20 half_pixel to10x14 in24 f16 hardswish",
    "bilinear2d 5x7x9 align_corners to7x33 b2 f16 reads_f32",
    "bilinear2d 4x3x5 asymmetric to8x12 to_nchw f16 writes_f32 relu",
    "nearest2d 5x7x20 half_pixel_prefer_floor to9x14 out22 f16",
    "elementwise 5x5x40 add f16 relu",
    "elementwise 5x5x20 mul f16 hardsigmoid",
    "elementwise 5x5x12 scale f16 hardswish",
    "elementwise 5x5x20 sub in24 out22 f16 sigmoid",
    "softmax 1x1x101 f16 writes_f32",
    "softmax 2x2x5 b2 f16",
    "fused conv 16x16x3 n24 3x3 s2 p1,1,1,1 nchw f16 reads_f32 relu6 > depthwise 8x8x24 3x3 p1,1,1,1 f16 relu6 > "
    "pointwise m64 n40 k24 f16 sums_f32 add",
    "fused conv 16x16x3 n24 3x3 s2 p1,1,1,1 nchw f16 relu > depthwise 8x8x24 5x5 p2,2,2,2 f16 relu6 > "
    "pointwise m64 n24 k24 f16 sums_f32 add2 relu",
    "fused pointwise m64 n24 k20 f16 prelu > depthwise 8x8x24 3x3 p1,1,1,1 f16 prelu > pointwise m64 n24 k24 f16 prelu",
    "fused pointwise m64 n12 k20 f16 relu > ghost 8x8x12 n24 3x3 p1,1,1,1 f16 relu > "
    "depthwise 8x8x24 3x3 s2 p1,1,1,1 f16 > pointwise m16 n20 k24 f16 > ghost 4x4x20 n40 3x3 p1,1,1,1 f16 add",
    "fused pointwise m64 n24 k20 f16 silu > depthwise 8x8x24 5x5 s2 p2,2,2,2 f16 hardswish > "
    "pointwise m16 n24 k24 f16 writes_f32",
)
LAYERS = tuple(map(Layer.parse, NAMES))
OF_KIND = {layer.kind: layer for layer in reversed(LAYERS)}


def points(layer: Layer, count: int) -> list[dict]:
    """The default, and so many other points of a layer's space."""
    space, draw = schedules.space(layer, RPI5.core), random.Random(layer.name)
    found = [space.default]
    for _ in range(2000):
        one = {name: draw.choice(choice.candidates) for name, choice in space.choices.items()}
        if len(found) <= count and one not in found and not space.valid(one):
            found.append(one)
    return found


@contextlib.contextmanager
def loaded(kernels: dict, path: Path):
    """A library of kernels on the virtual board."""
    with VirtualBoard(RPI5).load(codegen.compile_kernels(kernels, RPI5, path)) as module:
        yield module


def compared(module, symbol: str, layer: Layer, decisions: dict, operands: dict, expected) -> float:
    """Run a kernel, whose output must be what is expected."""
    arguments = reference.kernel_arguments(layer, decisions, operands)
    arguments[-1].fill(np.nan)
    return require_right(module.call(symbol, arguments).outputs[-1], expected, **stepped.allowed(layer))


def every_point_is_right(layers: tuple[Layer, ...], count: int, path: Path) -> None:
    of_symbol = {f"k{i}_{j}": (a, d) for i, a in enumerate(layers) for j, d in enumerate(points(a, count))}
    kernels = {symbol: schedules.of(layer).kernel(layer, d) for symbol, (layer, d) in of_symbol.items()}
    known: dict[Layer, tuple] = {}
    with loaded(kernels, path) as module:
        for symbol, (layer, decisions) in of_symbol.items():
            if layer not in known:
                operands = reference.random_arguments(layer)
                known[layer] = operands, stepped.expected(layer, **operands)
            assert compared(module, symbol, layer, decisions, *known[layer]) == 0, (layer.name, decisions)


def test_every_kind_is_here():
    assert set(OF_KIND) == {kind.name for kind in kinds.every() if not kind.has_body}


def test_kernels_are_equal_to_the_reference_in_every_value(tmp_path):
    every_point_is_right(LAYERS[::2], 0, tmp_path / "k.so")


@pytest.mark.full
def test_kernels_of_any_decisions_give_the_same_bits(tmp_path):
    every_point_is_right(LAYERS, 3, tmp_path / "k.so")


def test_partial_sums_are_kept_where_none_of_their_digits_are_lost():
    def blocks(name: str) -> tuple:
        return schedules.space(Layer.parse(name), RPI5.core).choices["k_block"].candidates

    assert (
        blocks("pointwise m16 n16 k300 f16") == blocks("pointwise m16 n16 k300 f16 writes_f32") == (64, 128, 256, 300)
    )
    assert blocks("pointwise m16 n16 k300 f16 writes_f32 sums_f32") == (64, 128, 256, 300)
    assert blocks("pointwise m16 n16 k300 f16 sums_f32") == blocks("pointwise m16 n16 k300 f32 writes_f16") == (300,)


def test_generic_layers_of_float16_are_refused():
    """TVM's own nest has an order of steps that nobody promised."""
    layer = layer_of("concat").replace(dtype="float16")
    with pytest.raises(TvmMobilenetError, match="no schedule computes generic layers in float16") as error:
        schedules.space(layer, RPI5.core)
    assert "implemented for generic: float32" in error.value.hint


# ---- code


@functools.cache
def assembly(name: str) -> str:
    from tvm_mobilenet.compiler.kernel_text import kernel_text

    layer = Layer.parse(name)
    kernel = schedules.kernel(layer, schedules.space(layer, RPI5.core).default)
    return kernel_text("kernel", kernel.with_attr("global_symbol", "kernel"), RPI5).assembly


@pytest.mark.parametrize(
    "name",
    [
        "pointwise m49 n24 k40 f16 hardswish add_after",
        "pointwise m49 n16 k72 f16 relu6",
        "depthwise 14x14x24 3x3 p1,1,1,1 f16 hardswish",
        "conv 32x32x3 n16 3x3 s2 p1,1,1,1 nchw f16 reads_f32 hardswish",
        "pool 7x7x40 avg 7x7 f16",
        "elementwise 7x7x24 add f16 hardswish",
        "elementwise 7x7x24 none f16 silu",
        "depthwise 14x14x24 3x3 p1,1,1,1 f16 prelu",
        "pointwise m49 n24 k40 f16 leaky0.1 add_after",
    ],
)
def test_no_arithmetic_is_scalar_where_channels_are_vectors_of_eight(name):
    """Not lane by lane: nor are values converted one by one."""
    text = assembly(name)
    scalar = re.findall(r"^\s*(?:f(?:m?add|m?sub|mul|div|cvt|max|min)\w*\s+[hs]\d+,.*|.*\bexpf.*)$", text, re.MULTILINE)
    assert not scalar and re.search(r"v\d+\.(8h|4s)", text)


# ---- what must not pass


def test_products_that_are_rounded_before_they_are_added_are_found(tmp_path, monkeypatch):
    layer = Layer.parse("pointwise m16 n16 k40 f16")
    real = values.intrinsic

    def split(name, *operands):
        left_out = name != "llvm.fma"
        return (
            real(name, *operands)
            if left_out
            else real("llvm.arithmetic.fence", operands[0] * operands[1]) + operands[2]
        )

    monkeypatch.setattr(values, "intrinsic", split)
    with pytest.raises(WrongResult):
        computed_otherwise(layer, tmp_path)


def test_another_order_of_products_is_found(tmp_path, monkeypatch):
    layer = Layer.parse("pointwise m16 n16 k40 f16")
    real = sums.Sums.loop
    backwards = lambda self, depth, chunk, by, step: real(self, depth, chunk, by, lambda k: step(depth - 1 - k))  # noqa: E731
    monkeypatch.setattr(sums.Sums, "loop", backwards)
    with pytest.raises(WrongResult):
        computed_otherwise(layer, tmp_path)


def computed_otherwise(layer: Layer, folder: Path) -> None:
    decisions = schedules.space(layer, RPI5.core).default
    operands = reference.random_arguments(layer)
    with loaded({nest.SYMBOL: schedules.of(layer).kernel(layer, decisions)}, folder / "k.so") as module:
        compared(module, nest.SYMBOL, layer, decisions, operands, stepped.expected(layer, **operands))


@functools.cache
def _libraries(folder: Path) -> Path:
    kernels = {}
    for kind, layer in OF_KIND.items():
        decisions = schedules.space(layer, RPI5.core).default
        kernels[kind] = schedules.of(layer).kernel(layer, decisions)
    return Path(codegen.compile_kernels(kernels, RPI5, folder / "kinds.so"))


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """A kernel of each kind."""
    return _libraries(tmp_path_factory.mktemp("kinds"))


@pytest.mark.parametrize("kind", [kind for kind, layer in OF_KIND.items() if not layer.declared.moves(layer)])
def test_one_wrong_instruction_is_found(kind, library, tmp_path):
    """Another register, or minus in place of plus."""
    layer = OF_KIND[kind]
    decisions, operands = schedules.space(layer, RPI5.core).default, reference.random_arguments(layer)
    expected = stepped.expected(layer, **operands)
    with VirtualBoard(RPI5).load(library) as module:
        run = module.call(kind, reference.kernel_arguments(layer, decisions, operands))
        executed = [address for address, _ in run.executions()]
    data = library.read_bytes()
    with library.open("rb") as file:
        elf = ELFFile(file)
        places = [next(elf.address_offsets(address)) for address in executed]
    checker = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    found = []
    for place in dict.fromkeys(places):
        one = next(checker.disasm(data[place : place + 4], 0), None)
        if (
            one
            and one.mnemonic in ("fmla", "fadd", "fmul", "fsub", "fmax", "fmaxnm")
            and re.search(r"\.(8h|4h|4s)", one.op_str)
        ):
            found.append(place)
    assert found
    for place in random.Random(kind).sample(found, min(3, len(found))):
        (word,) = struct.unpack_from("<I", data, place)
        changed = bytearray(data)
        struct.pack_into("<I", changed, place, word ^ 1 << 16)  # the other of a pair of registers, or the next lane
        other = tmp_path / f"{place}.so"
        other.write_bytes(changed)
        with pytest.raises((WrongResult, BoardError)), VirtualBoard(RPI5).load(other) as module:
            compared(module, kind, layer, decisions, operands, expected)


@pytest.mark.parametrize("kind", [kind for kind, layer in OF_KIND.items() if layer.weight_shape])
def test_one_weight_that_is_off_by_a_hundredth_is_found(kind, library):
    layer = OF_KIND[kind]
    decisions, operands = schedules.space(layer, RPI5.core).default, reference.random_arguments(layer)
    expected = stepped.expected(layer, **operands)
    weights = operands["weight"] if layer.parts else (operands["weight"],)
    with VirtualBoard(RPI5).load(library) as module:
        assert compared(module, kind, layer, decisions, operands, expected) == 0
        for i in range(len(weights)):
            with pytest.raises(WrongResult):
                compared(module, kind, layer, decisions, one_off(layer, operands, i, expected), expected)


def one_off(layer: Layer, operands: dict, i: int, expected) -> dict:
    """Operands with one weight changed of part i; not one that meets nothing but zeros, which an activation left."""
    weights = operands["weight"] if layer.parts else (operands["weight"],)
    for place in np.abs(weights[i]).argsort(axis=None)[::-1]:
        changed = weights[i].copy()
        changed.flat[place] *= np.float16(1.01)
        several = (*weights[:i], changed, *weights[i + 1 :])
        other = {**operands, "weight": several if layer.parts else changed}
        if (stepped.expected(layer, **other) != expected).any():
            return other
    raise AssertionError("no weight has an effect")
