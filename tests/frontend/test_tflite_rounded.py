"""Values that a TFLite file rounds to integers between layers in float32: those of 16 bits, and those of bytes if no
layer computes in bytes. Each operator is at most a step away from LiteRT's.
"""

import numpy as np
import pytest

from tests.support.shares import share
from tests.support.tflite_files import Net
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.boards.local import LocalBoard
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.frontend import tflite_run
from tvm_mobilenet.models.options import ModelOptions

SHAPE = (1, 6, 6, 4)
SCALES = {"int8": (0.05, 3), "int16": (0.0004, 0)}
ABOVE_ZERO = {"int8": (0.03, -128), "int16": (0.0004, 0)}
VERSIONS = range(1, 8)  # of operators: LiteRT has each for some of its dtypes


def unary(name, kind=None, shape=SHAPE, constants=(), **options):
    def make(net, x, dtype, scale):
        given = [x, *(net.constant(np.array(c, np.int32)) for c in constants)]
        return net.op(name, given, net.value(shape, dtype, scale), kind, **options)

    return make


def binary(name, kind):
    def make(net, x, dtype, scale):
        other = net.op("RELU", [x], net.value(SHAPE, dtype, scale))
        return net.op(name, [x, other], net.value(SHAPE, dtype, scale), kind)

    return make


def weighted(name, kind, weight, shape, first=(), **options):
    def make(net, x, dtype, scale):
        draw = np.random.default_rng(0)
        whole = draw.integers(-127, 128, weight).astype(np.int8)
        axis = 3 if name == "DEPTHWISE_CONV_2D" else 0
        count, wide = weight[axis], "int64" if dtype == "int16" else "int32"
        bias = draw.integers(-100, 100, count).astype(wide)
        held = net.constant(whole, (np.full(count, 0.01), 0, axis))
        given = [*(net.constant(np.array(c, np.int32)) for c in first), *([held, x] if first else [x, held])]
        if not first:
            steps = (np.full(count, scale[0] * 0.01), 0, 0)
            given.append(net.value((count,), wide, steps, data=bias))
        return net.op(name, given, net.value(shape, dtype, (4 * scale[0], scale[1])), kind, **options)

    return make


WINDOW = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "padding": 0}
POOL = {"padding": 1, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
BOTH = {
    "ABS": unary("ABS", "Abs"),
    "ADD": binary("ADD", "Add"),
    "SUB": binary("SUB", "Sub"),
    "MUL": binary("MUL", "Mul"),
    "MAXIMUM": binary("MAXIMUM", "MaximumMinimum"),
    "MINIMUM": binary("MINIMUM", "MaximumMinimum"),
    "RELU": unary("RELU"),
    "RELU6": unary("RELU6"),
    "LEAKY_RELU": unary("LEAKY_RELU", "LeakyRelu", alpha=0.2),
    "MEAN": unary("MEAN", "Reducer", (1, 6, 4), [[1]]),
    "SUM": unary("SUM", "Reducer", (1, 6, 4), [[1]]),
    "REDUCE_MAX": unary("REDUCE_MAX", "Reducer", (1, 6, 4), [[1]]),
    "REDUCE_MIN": unary("REDUCE_MIN", "Reducer", (1, 6, 4), [[1]]),
    "AVERAGE_POOL_2D": unary("AVERAGE_POOL_2D", "Pool2D", (1, 3, 3, 4), **POOL),
    "MAX_POOL_2D": unary("MAX_POOL_2D", "Pool2D", (1, 3, 3, 4), **POOL),
    "RESHAPE": unary("RESHAPE", "Reshape", (1, 144), [[1, 144]]),
    "TRANSPOSE": unary("TRANSPOSE", "Transpose", (1, 4, 6, 6), [[0, 3, 1, 2]]),
    "PAD": unary("PAD", "Pad", (1, 8, 6, 4), [[[0, 0], [1, 1], [0, 0], [0, 0]]]),
    "RESIZE_BILINEAR": unary("RESIZE_BILINEAR", "ResizeBilinear", (1, 12, 12, 4), [[12, 12]]),
    "RESIZE_NEAREST_NEIGHBOR": unary("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighbor", (1, 12, 12, 4), [[12, 12]]),
    "TRANSPOSE_CONV": weighted(
        *("TRANSPOSE_CONV", "TransposeConv", (5, 3, 3, 4), (1, 12, 12, 5), [[1, 12, 12, 5]]),
        **{"padding": 0, "strideH": 2, "strideW": 2},
    ),
}
OF_BYTES = {name: unary(name) for name in ("LOGISTIC", "TANH", "HARD_SWISH", "RELU_N1_TO_1", "RELU_0_TO_1", "ELU")}
OF_BYTES |= {
    "GELU": unary("GELU", "Gelu"),
    "EXP": unary("EXP", "Exp"),
    "SQRT": unary("SQRT"),
    "RSQRT": unary("RSQRT"),
    "LOG": unary("LOG"),
}
OF_WORDS = {
    "CONV_2D": weighted("CONV_2D", "Conv2D", (5, 3, 3, 4), (1, 6, 6, 5), **WINDOW),
    "DEPTHWISE_CONV_2D": weighted(
        "DEPTHWISE_CONV_2D", "DepthwiseConv2D", (1, 3, 3, 4), SHAPE, depthMultiplier=1, **WINDOW
    ),
    "FULLY_CONNECTED": weighted("FULLY_CONNECTED", "FullyConnected", (5, 144), (1, 5)),
}
CASES = [("int16", name) for name in (*OF_WORDS, *BOTH)] + [("int8", name) for name in (*BOTH, *OF_BYTES)]


def saved(path, dtype, name):
    """A file that LiteRT runs, if it has the operator for the dtype."""
    net, scale = Net(), (ABOVE_ZERO if name in ("LOG", "SQRT", "RSQRT") else SCALES)[dtype]
    x = net.op("QUANTIZE", [net.input(SHAPE)], net.value(SHAPE, dtype, scale), "Quantize")
    y = (BOTH | OF_BYTES | OF_WORDS)[name](net, x, dtype, scale)
    made = net.graph.tensors[y]
    y = net.op("DEQUANTIZE", [y], net.value(made.shape), "Dequantize")
    xs = [(2 * np.random.default_rng(4).standard_normal(SHAPE).astype(np.float32),)]
    for version in VERSIONS:
        for code in net.model.operatorCodes:
            code.version = version
        net.save(path, y)
        try:
            return xs, tflite_run.outputs(path, xs)[0], float(made.quantization.scale[0])
        except Exception as e:
            said = e
    raise said


@pytest.mark.parametrize(
    "dtype, name", [pytest.param(*each, marks=[pytest.mark.full] * (i > 0)) for i, each in enumerate(share(CASES, 3))]
)
def test_rounded_values_are_at_most_a_step_from_litert(dtype, name, tmp_path):
    path = tmp_path / "net.tflite"
    xs, due, step = saved(path, dtype, name)
    made = load_network(ModelOptions(model=str(path)))
    assert not made.quantized
    for (ours,), (theirs,) in zip(network_steps.outputs(made, xs), due, strict=True):
        assert theirs.std() > 4 * step and np.abs(ours - theirs).max() <= 1.01 * step


@pytest.mark.full
@pytest.mark.parametrize("dtype, name", [("int16", "CONV_2D"), ("int8", "AVERAGE_POOL_2D"), ("int8", "HARD_SWISH")])
def test_their_machine_code_verifies(dtype, name, tmp_path):
    """Against LiteRT's values, of which some are a step away."""
    xs, _, _ = saved(tmp_path / "net.tflite", dtype, name)
    options, target = ModelOptions(model=str(tmp_path / "net.tflite")), targets.load("host")
    build.build(options, target, output=tmp_path / "out")
    verify.verify(tmp_path / "out", board=LocalBoard(target), inputs=xs).require()


@pytest.mark.parametrize("name, dtype", [("GREATER", "bool"), ("ARG_MAX", "int32")])
def test_outputs_of_a_network_in_bytes_may_be_no_bytes(name, dtype, tmp_path):
    net, scale = Net(), SCALES["int8"]
    x = net.op("QUANTIZE", [net.input(SHAPE)], net.value(SHAPE, "int8", scale), "Quantize")
    x = weighted("CONV_2D", "Conv2D", (5, 3, 3, 4), (1, 6, 6, 5), **WINDOW)(net, x, "int8", scale)
    other = np.int32(3) if name == "ARG_MAX" else np.full((1, 6, 6, 5), 9, np.int8)
    other = net.constant(other, None if name == "ARG_MAX" else (4 * scale[0], scale[1]))
    shape, given = ((1, 6, 6), ("ArgMax",)) if name == "ARG_MAX" else ((1, 6, 6, 5), ())
    made = net.op(name, [x, other], net.value(shape, dtype), *given, **({"outputType": 2} if given else {}))
    path = net.save(tmp_path / "net.tflite", made)
    xs = [(np.random.default_rng(4).standard_normal(SHAPE).astype(np.float32),)]
    network = load_network(ModelOptions(model=str(path)))
    assert network.quantized
    ((ours,),), ((due,),) = network_steps.outputs(network, xs), tflite_run.outputs(path, xs)[0]
    assert ours.dtype == due.dtype == dtype and due.std() > 0 and (ours != due).mean() < 0.02
