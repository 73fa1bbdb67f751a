"""int8 at its ends: sums of int16 and int32 that reach what these hold are exact, on every core.

Data of -128 and 127, weights at the most that `Layer.group` allows and, where no int16 sums them, of -128 too, in the
patterns that make each int16 lane as large as it can be; biases that fill an int32.
"""

import numpy as np
import pytest
from tvm_mobilenet.schedules import nest

from tests.schedules.test_integers import in_buffer, operands_of
from tvm_mobilenet import boards, schedules, targets
from tvm_mobilenet.checking import integers as definition
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes import whole_weights

LAYERS = (
    "pointwise m9 n12 k104 i8 group4",
    "pointwise m9 n12 k72 i8 group2 relu",
    "pointwise m5 n20 k40 i8",
    "depthwise 6x5x16 3x3 p1,1,1,1 i8 group3",
    "depthwise 5x5x24 5x5 s2 p2,2,2,2 i8 group3 small relu6",
    "depthwise 5x5x16 3x3 p1,1,1,1 i8",
    "conv 9x9x3 n16 3x3 s2 p1,1,1,1 in4 i8 group2",
    "conv 5x5x16 n8 3x3 p1,1,1,1 i8",
    "dense m1 n21 k64 i8 writes_f32 group4",
)
QUICK = {("rpi5", LAYERS[2]), ("rpi4", LAYERS[0]), ("rpi4", LAYERS[3]), ("rpi3", LAYERS[0]), ("rpi4", LAYERS[6])}
CASES = [
    pytest.param(t, name, marks=() if (t, name) in QUICK else pytest.mark.full)
    for name in LAYERS
    for t in ("rpi3", "rpi4", "rpi5", "armv7", "host")
]


def extreme_weights(layer: Layer, rng) -> list[np.ndarray]:
    """Weights whose groups have magnitudes that sum to 255: even, uneven, of one sign and of both; -128 alone."""
    shape = layer.weight_shape
    flat = np.zeros((shape[0], int(np.prod(shape[1:]))), np.int64)
    if layer.group < 2:
        return [np.full(shape, v) for v in (-128, 127)] + [rng.choice([-128, 127], shape)]
    member = whole_weights.grouped(layer, np.arange(1, flat[0].size + 1, dtype=float)[None])[0].astype(int)
    uneven = [127, 127, 1, 0][: layer.group] if layer.group > 2 else [127, 127]
    found = []
    for sizes in ([255 // layer.group] * layer.group, uneven):
        for signs in (1, -1, rng.choice([-1, 1], flat.shape)):
            magnitude = flat.copy()
            for group in member:
                for place, size in zip(group, sizes, strict=True):
                    if place:
                        magnitude[:, place - 1] = size
            found.append((magnitude * signs).reshape(shape))
    return found


@pytest.mark.parametrize("target_name, name", CASES)
def test_sums_at_their_ends_are_exact(target_name, name, tmp_path):
    layer, data, constants, _ = operands_of(name)
    target, rng = targets.load(target_name), np.random.default_rng(1)
    d = schedules.space(layer, target.core).default
    library = codegen.compile_kernels({nest.SYMBOL: schedules.kernel(layer, d)}, target, tmp_path / "k.so")
    reached = 0
    with boards.open_board("local" if target.is_host else "virtual", target) as board, board.load(library) as module:
        for weight in extreme_weights(layer, rng):
            for x in (np.full_like(data, -128), np.full_like(data, 127), rng.choice([-128, 127], data.shape)):
                x = x.astype(np.int8)
                given = {**constants, "weight": weight.astype(np.int8)}
                sums = definition.run(layer.replace(writes="float32", activation="none", small=False), x, unit(given))
                reached = max(reached, np.abs(sums).max())
                if not layer.small:  # biases that leave room for no more than these sums
                    given["bias"] = given["bias"] * 0 + rng.choice([-1, 1], len(given["bias"])).astype(np.int32) * BIAS
                expected = definition.run(layer, x, given)
                arguments = [
                    in_buffer(x, layer.input_place),
                    *schedules.pack(layer, d, given),
                    np.zeros(layer.output_buffer, layer.output_dtype),
                ]
                found = module.call(nest.SYMBOL, arguments).outputs[-1][..., : expected.shape[-1]]
                assert np.array_equal(found, expected), (weight.flat[:8], x.flat[:2])
    assert reached > 0.9 * 128 * 255 or layer.group < 2


BIAS = 2**31 - 1 - 128 * 128 * 200


def unit(constants: dict) -> dict:
    """The constants with factors of one and no bias: what comes out are the sums."""
    return {**constants, "scale": np.ones_like(constants["scale"]), "bias": np.zeros_like(constants["bias"])}


def test_four_products_too_large_for_an_int16_are_not_summed_in_one(tmp_path):
    """What `group4` promises is needed: the same weights without that promise are exact, with it they are not."""
    target = targets.load("rpi4")
    right, wrong = (Layer.parse(f"pointwise m4 n8 k64 i8 group{group}") for group in (2, 4))
    _, data, constants, _ = operands_of(right.name)
    data[:], constants["weight"][:], constants["scale"][:] = -128, 127, 1e-4
    assert np.abs(whole_weights.grouped(wrong, constants["weight"].astype(float))).sum(2).max() > whole_weights.SHORT
    expected = definition.run(right, data, constants)
    for layer in (right, wrong):
        d = schedules.space(layer, target.core).default
        library = codegen.compile_kernels({nest.SYMBOL: schedules.kernel(layer, d)}, target, tmp_path / "k.so")
        arguments = [data, *schedules.pack(layer, d, constants), np.zeros(layer.output_buffer, np.int8)]
        with boards.open_board("virtual", target) as board, board.load(library) as module:
            found = module.call(nest.SYMBOL, arguments).outputs[-1]
        assert np.array_equal(found, expected) == (layer is right)
