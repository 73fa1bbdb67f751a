"""The reference that rounds at each step: it is its definition, value by value, it stays near the layer's, and its
exponential is one."""

import numpy as np
import pytest

from tests.schedules.test_float16 import LAYERS
from tvm_mobilenet.boards.comparison import WrongResult, require_right
from tvm_mobilenet.checking import reference, stepped
from tvm_mobilenet.kinds import windows
from tvm_mobilenet.layer import Layer


def one_by_one(layer: Layer, data, weight, bias) -> np.ndarray:
    """A convolution in float16 by Python's own loops: bias, then products, each added in one rounding."""
    out = np.zeros(layer.output_shape, np.float16)
    depth, n = layer.channels // layer.groups, layer.out_channels // layer.groups
    weight = weight.reshape(layer.out_channels, depth, *layer.kernel)
    for b, h, w, o in np.ndindex(out.shape):
        total, chunk, last = bias[o] if not layer.sums else np.float32(bias[o]), np.float16(0), None
        rows, taps, channels = windows.chunks(layer)
        for kh, kw, c in np.ndindex(*layer.kernel, depth):
            y = h * layer.stride[0] - layer.padding[0] + kh * layer.dilation[0]
            x = w * layer.stride[1] - layer.padding[1] + kw * layer.dilation[1]
            if not (0 <= y < layer.height and 0 <= x < layer.width):
                continue
            product = np.float64(data[b, y, x, o // n * depth + c]) * np.float64(weight[o, c, kh, kw])
            if not layer.sums:
                total = np.float16(product + np.float64(total))
                continue
            key = kh // rows, kw // taps, c // channels
            if last not in (None, key):
                total, chunk = np.float32(total + np.float32(chunk)), np.float16(0)
            chunk, last = np.float16(product + np.float64(chunk)), key
        out[b, h, w, o] = np.float16(np.float32(total) + np.float32(chunk)) if layer.sums else total
    return out


@pytest.mark.parametrize(
    "name",
    [
        "pointwise m3 n4 k150 f16",
        "pointwise m2 n3 k150 f16 sums_f32",
        "conv 5x4x6 n4 3x3 s2 p1,1,1,1 g2 f16",
        "conv 3x3x70 n2 2x2 p1,0,0,1 f16 sums_f32",
        "conv 3x3x20 n2 3x3 d2 p2,2,2,2 f16 sums_f32",
        "depthwise 5x5x3 3x3 s2 p0,0,1,1 b2 f16",
        "depthwise 9x9x2 9x9 p4,4,4,4 f16 sums_f32",
    ],
)
def test_it_is_what_its_definition_says_value_by_value(name):
    layer = Layer.parse(name)
    operands = reference.random_arguments(layer)
    found, largest = stepped.run(layer, **operands)
    assert np.array_equal(found, one_by_one(layer, **operands)) and largest >= np.abs(found).max()


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_it_stays_near_the_layers_definition(layer):
    operands = reference.random_arguments(layer)
    exact = reference.reference(layer, **operands)
    found, largest = stepped.run(layer, **operands)
    assert found.dtype == layer.output_dtype and found.shape == layer.output_shape
    steps = 1 + max(p.channels // p.groups * p.kernel[0] * p.kernel[1] for p in layer.parts or (layer,))
    assert np.abs(found - exact).max() <= 2.0**-10 * np.sqrt(steps) * 4 * np.abs(exact).max()
    assert np.isfinite(largest) and largest < 100


def test_the_largest_value_is_that_of_a_sum_on_the_way():
    layer = Layer.parse("pointwise m1 n1 k3 f16")
    operands = {"data": np.array([300.0, 200.0, -400.0]), "weight": np.ones((1, 3)), "bias": np.zeros(1)}
    half = {name: a.astype(np.float16) for name, a in operands.items()}
    half["data"] = half["data"].reshape(layer.input_shape)
    found, largest = stepped.run(layer, **half)
    assert float(found.item()) == 100.0 and largest == 500.0
    assert stepped.run(layer, **half, largest=False)[1] == 0.0
    half["weight"] = np.full((1, 3), 200, np.float16)
    assert stepped.run(layer, **half)[1] == np.inf, "60,000 and 40,000 leave float16's range"


def test_wide_sums_do_not_count_but_what_is_written_does():
    layer = Layer.parse("pool 16x16x1 avg 16x16 f16")
    data = np.full(layer.input_shape, 1000, np.float16)
    assert stepped.run(layer, data) == (np.full(layer.output_shape, 1000, np.float16), 1000.0)


def test_its_exponential_is_one():
    x = np.linspace(-86, 87, 100_001).astype(np.float32).astype(np.float64)
    found = stepped.Steps.exponential(x)
    assert np.abs(found / np.exp(x) - 1).max() < 2**-22
    assert stepped.Steps.exponential(np.array([0.0])) == 1.0
    assert np.isnan(stepped.Steps.exponential(np.array([np.nan])))
    assert np.isfinite(stepped.Steps.exponential(np.array([-np.inf, np.inf]))).all()


# ---- the comparison


def test_float16_layers_have_to_be_equal_and_those_with_exponentials_nearly():
    plain = stepped.allowed(Layer.parse("pointwise m1 n1 k3 f16 hardswish add_after"))
    inexact = stepped.allowed(Layer.parse("pointwise m1 n1 k3 f16 silu"))
    assert plain == {"units": 0, "dtype": "float16"} and inexact == {"units": 1, "dtype": "float16"}
    assert stepped.allowed(Layer.parse("softmax 1x1x10 f16 writes_f32"))["units"] == 1
    assert stepped.allowed(Layer.parse("pointwise m1 n1 k3 f32 reads_f16 writes_f16")) == {}
    expected = np.array([1.0, -2.5, 0.0, 6e-8], np.float16)
    assert require_right(np.array([1.0, -2.5, -0.0, 6e-8], np.float16), expected, **plain) == 0, "the sign of a zero"
    for i in range(4):
        off = expected.copy()
        off[i] = np.nextafter(off[i], np.float16(10))
        with pytest.raises(WrongResult, match=rf"1 units in the last place off at \({i},\), none is allowed"):
            require_right(off, expected, **plain)
        assert require_right(off, expected, **inexact) == 1
        off[i] = np.nextafter(off[i], np.float16(10))
        with pytest.raises(WrongResult, match="2 units in the last place off"):
            require_right(off, expected, **inexact)
    with pytest.raises(WrongResult, match="3 of 4 values are numbers"):
        require_right(np.array([1, np.nan, 0, 0], np.float16), expected, **plain)
    some = np.array([1, np.nan, 0, 6e-8], np.float16)
    assert require_right(some, expected, sample=True, **plain) == 0
    with pytest.raises(WrongResult):
        require_right(np.array([1, np.inf, 0, 0], np.float16), expected, **inexact)


def test_a_float32_layer_that_writes_float16_may_lose_what_storing_loses():
    expected = np.array([1.0, 1000.3, -3.7, 0.1])
    assert require_right(expected.astype(np.float16), expected) <= 1e-4
    with pytest.raises(WrongResult):
        require_right((expected * 1.002).astype(np.float16), expected)
    with pytest.raises(WrongResult):
        require_right(expected.astype(np.float16).astype(np.float32), expected)
