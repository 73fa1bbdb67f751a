# ruff: noqa: E501
"""TFLite's operators in float32: each computes what LiteRT does; what has no layer is refused by name."""

import sys

import numpy as np
import pytest

from tests.support.shares import share
from tests.support.tflite_files import Net
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.__main__ import main
from tvm_mobilenet.boards.local import LocalBoard
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import tflite_run
from tvm_mobilenet.models.options import ModelOptions

SHAPE = (1, 9, 8, 6)
RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def same_numbers(monkeypatch):
    """Whatever other tests run: some results are compared exactly."""
    monkeypatch.setattr(sys.modules[__name__], "RNG", np.random.default_rng(3))


def f(*shape) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def i(*values) -> np.ndarray:
    return np.array(values, np.int32)


def conv(k=3, out=4, **options):
    def make(net, x):
        n, h, w, c = net.graph.tensors[x].shape
        stride, d = options.get("strideH", 1), options.get("dilationHFactor", 1)
        size = [-(-v // stride) if not options.get("padding") else -(-(v - (k - 1) * d) // stride) for v in (h, w)]
        return net.conv(x, net.constant(f(out, k, k, c)), net.constant(f(out)), (n, *size, out), **options)

    return make


def depthwise(k=3, multiplier=1, **options):
    def make(net, x):
        n, h, w, c = net.graph.tensors[x].shape
        out, stride = c * multiplier, options.get("strideH", 1)
        weight, bias = net.constant(f(1, k, k, out)), net.constant(f(out))
        shape = (n, -(-h // stride), -(-w // stride), out)
        return net.conv(x, weight, bias, shape, depthwise=True, depthMultiplier=multiplier, **options)

    return make


def op(name, shape, *constants, kind=None, first=False, dtype="float32", **options):
    """An operator of the value and constants; these come first if told so."""

    def make(net, x):
        others = [net.constant(c) for c in constants]
        inputs = [*others, x] if first else [x, *others]
        return net.op(name, inputs, net.value(shape, dtype), kind, **options)

    return make


def best(net, x):
    outputs = [net.value((1, 9, 8, 2)), net.value((1, 9, 8, 2), "int32")]
    return net.op("TOPK_V2", [x, net.constant(np.int32(2))], outputs)


def twice(name, kind=None, **options):
    """An operator of the value and of a function of it."""

    def make(net, x):
        shape = net.graph.tensors[x].shape
        other = net.op("LOGISTIC", [x], net.value(shape))
        return net.op(name, [x, other], net.value(shape), kind, **options)

    return make


def pieces(name, kind, shapes, *constants, first=False, **options):
    """An operator of several outputs, joined again in another order."""

    def make(net, x):
        others = [net.constant(c) for c in constants]
        inputs = [*others, x] if first else [x, *others]
        found = net.op(name, inputs, [net.value(s) for s in shapes], kind, **options)
        rank, axis = len(shapes[0]), len(shapes[0]) - 1
        joined = (*shapes[0][:-1], sum(s[-1] for s in shapes))
        assert rank
        return net.op("CONCATENATION", found[::-1], net.value(joined), "Concatenation", axis=axis)

    return make


def from_shape(net, x):
    """A reshape whose target follows from the data's shape, as TensorFlow's converter writes a Flatten."""
    shape = net.op("SHAPE", [x], net.value((4,), "int32"), "Shape", outType=2)
    masks = {"shrinkAxisMask": 1}
    one = net.op(
        "STRIDED_SLICE",
        [shape, *(net.constant(i(n)) for n in (0, 1, 1))],
        net.value((), "int32"),
        "StridedSlice",
        **masks,
    )
    rest = net.constant(np.int32(9 * 8 * 6))
    target = net.op("PACK", [one, rest], net.value((2,), "int32"), "Pack", valuesCount=2, axis=0)
    return net.op("RESHAPE", [x, target], net.value((1, 9 * 8 * 6)), "Reshape")


def dense(net, x):
    flat = net.op("RESHAPE", [x, net.constant(i(1, -1))], net.value((1, 432)), "Reshape", newShape=[1, -1])
    weight, bias = net.constant(f(5, 432) / 20), net.constant(f(5))
    return net.op(
        "FULLY_CONNECTED", [flat, weight, bias], net.value((1, 5)), "FullyConnected", fusedActivationFunction=1
    )


def gate(net, x):
    """Squeeze and excite."""
    mean = net.op("MEAN", [x, net.constant(i(1, 2))], net.value((1, 1, 1, 6)), "Reducer", keepDims=True)
    made = net.conv(mean, net.constant(f(6, 1, 1, 6)), net.constant(f(6)), (1, 1, 1, 6), fusedActivationFunction=3)
    return net.op("MUL", [x, net.op("LOGISTIC", [made], net.value((1, 1, 1, 6)))], net.value(SHAPE), "Mul")


def half(net, x):
    """Weights of float16, as the converter writes them."""
    weight = net.op(
        "DEQUANTIZE", [net.constant(f(4, 3, 3, 6).astype(np.float16))], net.value((4, 3, 3, 6)), "Dequantize"
    )
    return net.conv(x, weight, net.constant(f(4)), (1, 9, 8, 4))


def of_exponentials(name, *constants, kind=None):
    """An operator of numbers above zero."""

    def make(net, x):
        positive = net.op("EXP", [x], net.value(SHAPE))
        return net.op(name, [positive, *map(net.constant, constants)], net.value(SHAPE), kind)

    return make


def number(net, condition):
    return net.op("CAST", [condition], net.value(SHAPE), "Cast", inDataType=6, outDataType=0)


def above(net, x, limit):
    return net.op("GREATER", [x, net.constant(np.float32(limit))], net.value(SHAPE, "bool"))


def compared_to(name):
    """A comparison with itself between -1 and 1: some are equal, some less, some more."""

    def make(net, x):
        near = net.op("RELU_N1_TO_1", [x], net.value(SHAPE))
        return number(net, net.op(name, [x, near], net.value(SHAPE, "bool")))

    return make


def both(name):
    def make(net, x):
        low = net.op("LESS", [x, net.constant(np.float32(0.2))], net.value(SHAPE, "bool"))
        large = above(net, net.op("ABS", [x], net.value(SHAPE)), 1)
        return number(net, net.op(name, [low, large], net.value(SHAPE, "bool")))

    return make


def chosen(name):
    def make(net, x):
        return net.op(name, [above(net, x, 0.1), x, net.op("ABS", [x], net.value(SHAPE))], net.value(SHAPE))

    return make


def places_of_largest(net, x):
    return net.op("ARG_MAX", [x, net.constant(np.int32(3))], net.value((1, 9, 8), "int32"), "ArgMax", outputType=2)


def of_depth(**options):
    """A convolution over depth: the channels are the depth."""

    def make(net, x):
        rest = {"strideD": 1, "strideW": 1, "dilationDFactor": 1, "dilationWFactor": 1, "dilationHFactor": 1}
        given = {"strideH": 1, **rest, **options}
        deep = net.op("RESHAPE", [x, net.constant(i(1, 9, 8, 3, 2))], net.value((1, 9, 8, 3, 2)), "Reshape")
        size = (7, 3, 1) if given["padding"] else (9, 8, 3)
        inputs = [deep, net.constant(f(3, 3, 3, 2, 4)), net.constant(f(4))]
        return net.op("CONV_3D", inputs, net.value((1, *size, 4)), "Conv3D", **given)

    return make


def whole(net, x, times=9):
    """Whole numbers, some below zero."""
    more = net.op("MUL", [x, net.constant(np.float32(times))], net.value(SHAPE), "Mul")
    return net.op("CAST", [more], net.value(SHAPE, "int32"), "Cast", outDataType=2)


def of_whole(name, *constants):
    """An operator of whole numbers and others, or constants; as floats."""

    def make(net, x):
        others = [net.constant(c) for c in constants] or [whole(net, net.op("ABS", [x], net.value(SHAPE)))]
        found = net.op(name, [whole(net, x), *others], net.value(SHAPE, "int32"))
        return net.op("CAST", [found], net.value(SHAPE), "Cast", inDataType=2)

    return make


def in_segments(name, *number):
    """Rows by their numbers; one number has no row, and a negative one none of the results."""

    def make(net, x):
        rows = net.op("RESHAPE", [x, net.constant(i(9, 48))], net.value((9, 48)), "Reshape")
        places = i(*((3, 0, 2, -1, 2, 0, 3, 0, 0) if number else (0, 0, 1, 1, 1, 2, 3, 3, 3)))
        inputs = [rows, net.constant(places), *(net.constant(np.int32(n)) for n in number)]
        found = net.op(name, inputs, net.value((4, 48)))
        return net.op("TANH", [found], net.value((4, 48)))  # the number of no row is infinite, or nearly

    return make


def reversed_parts(along, batch, lengths):
    return op("REVERSE_SEQUENCE", SHAPE, i(*lengths), kind="ReverseSequence", seqDim=along, batchDim=batch)


def replaced(*place):
    """A piece of data that is the same values' opposites, at a place that is computed."""

    def make(net, x):
        data = net.op("SLICE", [x, net.constant(i(0, 0, 0, 0)), net.constant(i(1, 5, 3, 4))], net.value((1, 5, 3, 4)))
        piece = net.op("NEG", [data], net.value((1, 5, 3, 4)))
        largest = net.op("REDUCE_MAX", [whole(net, x), net.constant(i(0, 1, 2, 3))], net.value((), "int32"), "Reducer")
        none = net.op("MUL", [largest, net.constant(np.int32(0))], net.value((), "int32"), "Mul")
        where = net.op("ADD", [net.constant(i(*place)), none], net.value((4,), "int32"), "Add")
        return net.op("DYNAMIC_UPDATE_SLICE", [x, piece, where], net.value(SHAPE))

    return make


def with_diagonal(axis):
    """A diagonal of a matrix with more rows, or with more columns."""

    def make(net, x):
        shape = SHAPE if axis == 2 else (1, 9, 6, 8)
        data = x if axis == 2 else net.op("TRANSPOSE", [x, net.constant(i(0, 1, 3, 2))], net.value(shape))
        values = net.op("REDUCE_MAX", [x, net.constant(i(2))], net.value((1, 9, 6)), "Reducer")
        return net.op("MATRIX_SET_DIAG", [data, values], net.value(shape), "MatrixSetDiag")

    return make


def weighted_rows(combiner):
    """Of a table, at places of which some are the same."""

    def make(net, x):
        flat = net.op("RESHAPE", [x, net.constant(i(432))], net.value((432,)), "Reshape")
        weights = net.op("SLICE", [flat, net.constant(i(3)), net.constant(i(4))], net.value((4,)))
        ids = net.op("RESHAPE", [places_of_largest(net, x), net.constant(i(72))], net.value((72,), "int32"), "Reshape")
        ids = net.op("SLICE", [ids, net.constant(i(5)), net.constant(i(4))], net.value((4,), "int32"))
        where, shape = net.constant(np.int32([[0, 0], [0, 2], [2, 1], [2, 2]])), net.constant(i(3, 4))
        given = [ids, where, shape, weights, net.constant(f(6, 2, 3))]
        return net.op(
            "EMBEDDING_LOOKUP_SPARSE", given, net.value((3, 2, 3)), "EmbeddingLookupSparse", combiner=combiner
        )

    return make


def transposed_of_depth(size, **options):
    def make(net, x):
        given = {"dilationDFactor": 1, "dilationWFactor": 1, "dilationHFactor": 1, **options}
        deep = net.op("RESHAPE", [x, net.constant(i(1, 9, 8, 3, 2))], net.value((1, 9, 8, 3, 2)), "Reshape")
        inputs = [net.constant(i(1, *size, 4)), net.constant(f(3, 3, 3, 4, 2)), deep, net.constant(f(4))]
        return net.op("CONV_3D_TRANSPOSE", inputs, net.value((1, *size, 4)), "Conv3D", **given)

    return make


CASES = {
    "conv SAME": conv(),
    "conv SAME stride 2": conv(strideH=2, strideW=2, fusedActivationFunction=3),
    "conv VALID": conv(padding=1),
    "conv 1x1": conv(1, 8, fusedActivationFunction=1),
    "conv dilated": conv(dilationHFactor=2, dilationWFactor=2),
    "conv -1 to 1": conv(fusedActivationFunction=2),
    "depthwise SAME": depthwise(),
    "depthwise 5x5 stride 2": depthwise(5, strideH=2, strideW=2, fusedActivationFunction=3),
    "depthwise multiplier 2": depthwise(multiplier=2),
    "float16 weights": half,
    "transposed conv": lambda net, x: net.op(
        "TRANSPOSE_CONV", [net.constant(i(1, 18, 16, 4)), net.constant(f(4, 3, 3, 6)), x, net.constant(f(4))],
        net.value((1, 18, 16, 4)), "TransposeConv", padding=0, strideH=2, strideW=2,
    ),
    "dense": dense,
    "gate": gate,
    "average pool": op("AVERAGE_POOL_2D", (1, 4, 4, 6), kind="Pool2D", padding=1, strideH=2, strideW=2, filterHeight=2, filterWidth=2),
    "average pool SAME": op("AVERAGE_POOL_2D", (1, 5, 4, 6), kind="Pool2D", padding=0, strideH=2, strideW=2, filterHeight=3, filterWidth=3),
    "max pool SAME": op("MAX_POOL_2D", (1, 5, 4, 6), kind="Pool2D", padding=0, strideH=2, strideW=2, filterHeight=3, filterWidth=3),
    "mean": op("MEAN", (1, 6), i(1, 2), kind="Reducer"),
    "mean of channels": op("MEAN", (1, 9, 8, 1), i(-1), kind="Reducer", keepDims=True),
    "sum": op("SUM", (1, 8, 6), i(1), kind="Reducer"),
    "maximum of rows": op("REDUCE_MAX", (1, 8, 6), i(1), kind="Reducer"),
    "pad": op("PAD", (1, 12, 9, 6), np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32), kind="Pad"),
    "pad channels": op("PAD", (1, 9, 8, 9), np.array([[0, 0], [0, 0], [0, 0], [1, 2]], np.int32), kind="Pad"),
    "pad with 2": op("PADV2", (1, 11, 8, 6), np.array([[0, 0], [1, 1], [0, 0], [0, 0]], np.int32), np.float32(2), kind="PadV2"),
    "mirror": op("MIRROR_PAD", (1, 12, 8, 6), np.array([[0, 0], [1, 2], [0, 0], [0, 0]], np.int32), kind="MirrorPad", mode=0),
    "mirror with its edge": op("MIRROR_PAD", (1, 12, 8, 6), np.array([[0, 0], [1, 2], [0, 0], [0, 0]], np.int32), kind="MirrorPad", mode=1),
    "bilinear": op("RESIZE_BILINEAR", (1, 18, 13, 6), i(18, 13), kind="ResizeBilinear"),
    "bilinear half pixel": op("RESIZE_BILINEAR", (1, 18, 16, 6), i(18, 16), kind="ResizeBilinear", halfPixelCenters=True),
    "bilinear corners": op("RESIZE_BILINEAR", (1, 17, 15, 6), i(17, 15), kind="ResizeBilinear", alignCorners=True),
    "nearest": op("RESIZE_NEAREST_NEIGHBOR", (1, 18, 13, 6), i(18, 13), kind="ResizeNearestNeighbor"),
    "nearest half pixel": op("RESIZE_NEAREST_NEIGHBOR", (1, 18, 13, 6), i(18, 13), kind="ResizeNearestNeighbor", halfPixelCenters=True),
    "nearest corners": op("RESIZE_NEAREST_NEIGHBOR", (1, 17, 15, 6), i(17, 15), kind="ResizeNearestNeighbor", alignCorners=True),
    "add": twice("ADD", "Add", fusedActivationFunction=1),
    "mul": twice("MUL", "Mul"),
    "sub": twice("SUB", "Sub"),
    "div": twice("DIV", "Div"),
    "maximum": twice("MAXIMUM", "MaximumMinimum"),
    "squared difference": twice("SQUARED_DIFFERENCE", "SquaredDifference"),
    "add a constant": op("ADD", SHAPE, f(6), kind="Add"),
    "mul by a number": op("MUL", SHAPE, np.float32(0.3), kind="Mul"),
    "a constant less it": op("SUB", SHAPE, f(6), kind="Sub", first=True),
    **{name: op(name.upper(), SHAPE) for name in ("relu", "relu6", "tanh", "logistic", "hard_swish", "elu", "abs", "exp", "neg", "square", "floor", "sin")},
    "relu_n1_to_1": op("RELU_N1_TO_1", SHAPE),
    "leaky": op("LEAKY_RELU", SHAPE, kind="LeakyRelu", alpha=0.2),
    "gelu": op("GELU", SHAPE, kind="Gelu"),
    "prelu": op("PRELU", SHAPE, f(1, 1, 6)),
    "softmax": op("SOFTMAX", SHAPE, kind="Softmax", beta=1.0),
    "softmax beta 2": op("SOFTMAX", SHAPE, kind="Softmax", beta=2.0),
    "log softmax": op("LOG_SOFTMAX", SHAPE),
    "l2": op("L2_NORMALIZATION", SHAPE, kind="L2Norm"),
    "reshape": op("RESHAPE", (1, 72, 6), i(1, -1, 6), kind="Reshape"),
    "reshape by shape": from_shape,
    "squeeze": op("SQUEEZE", (9, 8, 6), kind="Squeeze", squeezeDims=[0]),
    "expand": op("EXPAND_DIMS", (1, 9, 8, 6, 1), i(-1)),
    "transpose": op("TRANSPOSE", (1, 6, 9, 8), i(0, 3, 1, 2)),
    "slice": op("SLICE", (1, 4, 8, 3), i(0, 2, 0, 1), i(1, 4, -1, 3)),
    "strided": op("STRIDED_SLICE", (1, 4, 4, 6), i(0, 1, 0, 0), i(0, 9, 8, 0), i(1, 2, 2, 1), kind="StridedSlice", beginMask=9, endMask=9),
    "one row": op("STRIDED_SLICE", (1, 8, 6), i(0, -1, 0, 0), i(0, 0, 0, 0), i(1, 1, 1, 1), kind="StridedSlice", beginMask=13, endMask=13, shrinkAxisMask=2),
    "gather": op("GATHER", (1, 9, 8, 3), i(5, 0, 5), kind="Gather", axis=3),
    "split": pieces("SPLIT", "Split", [(1, 9, 8, 2)] * 3, np.int32(3), first=True, numSplits=3),
    "split by sizes": pieces("SPLIT_V", "SplitV", [(1, 9, 8, 1), (1, 9, 8, 5)], i(1, 5), np.int32(-1), numSplits=2),
    "unpack": pieces("UNPACK", "Unpack", [(1, 9, 8)] * 6, num=6, axis=3),
    "to depth": op("SPACE_TO_DEPTH", (1, 3, 4, 24), kind="SpaceToDepth", blockSize=2),
    **{name: op(name.upper(), SHAPE) for name in ("ceil", "round", "cos", "sign", "relu_0_to_1")},
    **{name: of_exponentials(name.upper()) for name in ("sqrt", "rsqrt", "log")},
    "pow": of_exponentials("POW", np.float32(1.5), kind="Pow"),
    "minimum": twice("MINIMUM", "MaximumMinimum"),
    "sum of three": lambda net, x: net.op("ADD_N", [x, x, net.op("ABS", [x], net.value(SHAPE))], net.value(SHAPE), "AddN"),
    **{name: compared_to(name.upper()) for name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")},
    **{name: both(name.upper()) for name in ("logical_and", "logical_or")},
    "logical_not": lambda net, x: number(net, net.op("LOGICAL_NOT", [above(net, x, 0.1)], net.value(SHAPE, "bool"))),
    **{name: chosen(name.upper()) for name in ("select", "select_v2")},
    "floor_div": op("FLOOR_DIV", SHAPE, np.float32(0.7)),
    "floor_mod": op("FLOOR_MOD", SHAPE, np.float32(0.7)),
    "matmul": lambda net, x: net.op("BATCH_MATMUL", [x, x], net.value((1, 9, 8, 8)), "BatchMatMul", adjY=True),
    "minimum of rows": op("REDUCE_MIN", (1, 8, 6), i(1), kind="Reducer"),
    "product of rows": op("REDUCE_PROD", (1, 8, 6), i(1), kind="Reducer"),
    "argmin": op("ARG_MIN", (1, 9, 8), np.int32(3), kind="ArgMin", outputType=2, dtype="int32"),
    "broadcast": lambda net, x: net.op("BROADCAST_TO", [net.op("REDUCE_MAX", [x, net.constant(i(1))], net.value((1, 1, 8, 6)), "Reducer", keepDims=True), net.constant(i(2, 9, 8, 6))], net.value((2, 9, 8, 6))),
    "backwards": op("STRIDED_SLICE", (1, 9, 4, 6), i(0, 0, 0, 0), i(0, 0, 0, 0), i(1, 1, -2, 1), kind="StridedSlice", beginMask=15, endMask=15),
    "reversed": op("REVERSE_V2", SHAPE, i(1)),
    "the largest": lambda net, x: best(net, x)[0],
    "integers, as Keras casts them": lambda net, x: net.op("CAST", [net.op("MUL", [net.op("CAST", [x], net.value(SHAPE, "int32"), "Cast"), net.constant(np.int32(3))], net.value(SHAPE, "int32"))], net.value(SHAPE), "Cast"),
    "places of the largest": lambda net, x: net.op("CAST", [best(net, x)[1]], net.value((1, 9, 8, 2))),
    "blocks to batches": op("SPACE_TO_BATCH_ND", (4, 5, 5, 6), i(2, 2), np.int32([[0, 1], [2, 0]])),
    "batches to blocks": lambda net, x: net.op("BATCH_TO_SPACE_ND", [net.op("SPACE_TO_BATCH_ND", [x, net.constant(i(3, 2)), net.constant(np.int32([[0, 0], [1, 1]]))], net.value((6, 3, 5, 6))), net.constant(i(2, 3)), net.constant(np.int32([[1, 0], [0, 2]]))], net.value((1, 5, 13, 6))),
    "tile": op("TILE", (1, 18, 8, 12), i(1, 2, 1, 2)),
    "to space": lambda net, x: net.op("DEPTH_TO_SPACE", [net.op("CONCATENATION", [x, x], net.value((1, 9, 8, 12)), "Concatenation", axis=3)], net.value((1, 18, 16, 3)), "DepthToSpace", blockSize=2),
    "pack": lambda net, x: net.op("PACK", [x, net.op("ABS", [x], net.value(SHAPE))], net.value((1, 2, 9, 8, 6)), "Pack", valuesCount=2, axis=1),
    "argmax": op("ARG_MAX", (1, 9, 8), np.int32(3), kind="ArgMax", outputType=2, dtype="int32"),
    "angle": twice("ATAN2", "ATan2"),
    "sums so far": op("CUMSUM", SHAPE, np.int32(1), kind="Cumsum"),
    "sums of those behind": op("CUMSUM", SHAPE, np.int32(-1), kind="Cumsum", exclusive=True, reverse=True),
    "rows at positions": op("GATHER_ND", (2, 2, 6), np.int32([[[0, 1, 2], [0, 3, 7]], [[0, 8, 0], [0, 0, 0]]])),
    "at the largest": lambda net, x: net.op("GATHER", [net.op("RESHAPE", [x, net.constant(i(9, 48))], net.value((9, 48)), "Reshape"), net.op("RESHAPE", [places_of_largest(net, x), net.constant(i(9, 8))], net.value((9, 8), "int32"), "Reshape")], net.value((9, 8)), "Gather", axis=1, batchDims=1),
    "rows of the largest": lambda net, x: net.op("GATHER", [x, places_of_largest(net, x)], net.value((1, 1, 9, 8, 8, 6)), "Gather", axis=1),
    "one hot": lambda net, x: net.op("ONE_HOT", [places_of_largest(net, x), *map(net.constant, (np.int32(6), np.float32(2), np.float32(-1)))], net.value((1, 6, 9, 8)), "OneHot", axis=1),
    "a table": lambda net, x: net.op("EMBEDDING_LOOKUP", [net.op("RESHAPE", [places_of_largest(net, x), net.constant(i(72))], net.value((72,), "int32"), "Reshape"), net.constant(f(6, 3))], net.value((72, 3))),
    "scattered": lambda net, x: net.op("SCATTER_ND", [net.constant(np.int32([[0, 1], [2, 0], [0, 1]])), net.op("SLICE", [net.op("RESHAPE", [x, net.constant(i(9, 48))], net.value((9, 48)), "Reshape"), net.constant(i(0, 0)), net.constant(i(3, 48))], net.value((3, 48))), net.constant(i(3, 2, 48))], net.value((3, 2, 48))),
    "conv of depth": of_depth(padding=0),
    "conv of depth, stride 2": of_depth(padding=1, strideH=2),
    "norms": op("L2_POOL_2D", (1, 5, 4, 6), kind="Pool2D", padding=0, strideH=2, strideW=2, filterHeight=3, filterWidth=3),
    "local response": op("LOCAL_RESPONSE_NORMALIZATION", SHAPE, kind="LocalResponseNormalization", radius=2, bias=1.0, alpha=0.5, beta=0.75),
    "any and all": lambda net, x: net.op("ADD", [net.op("CAST", [net.op(name, [above(net, x, limit), net.constant(i(3))], net.value((1, 9, 8), "bool"), "Reducer")], net.value((1, 9, 8)), "Cast", inDataType=6) for name, limit in (("REDUCE_ANY", 2), ("REDUCE_ALL", -2))], net.value((1, 9, 8)), "Add"),
    "filled": lambda net, x: net.op("FILL", [net.constant(i(2, 3)), net.op("REDUCE_MAX", [x, net.constant(i(0, 1, 2, 3))], net.value(()), "Reducer")], net.value((2, 3))),
    "rest and a new axis": op("STRIDED_SLICE", (1, 9, 8, 1, 2), *(i(*n) for n in ((0, 0, 1), (0, 0, 4), (1, 1, 2))), kind="StridedSlice", ellipsisMask=1, newAxisMask=2),
    "zeros": lambda net, x: net.op("ADD", [x, net.op("ZEROS_LIKE", [x], net.value(SHAPE), "ZerosLike")], net.value(SHAPE), "Add"),
    "bits of one": of_whole("BITWISE_XOR"),
    "bits to the right": of_whole("RIGHT_SHIFT", i(0, 1, 2, 3, -2, 40)),
    "steps of 8 bits": op("FAKE_QUANT", SHAPE, kind="FakeQuant", min=-1.3, max=2.2, numBits=8),
    "steps from 0.3 on": op("FAKE_QUANT", SHAPE, kind="FakeQuant", min=0.3, max=2.2, numBits=5),
    "a computed bias": lambda net, x: net.conv(x, net.constant(f(4, 3, 3, 6)), net.op("REDUCE_MAX", [net.op("SLICE", [x, net.constant(i(0, 0, 0, 0)), net.constant(i(1, 9, 8, 4))], net.value((1, 9, 8, 4))), net.constant(i(0, 1, 2))], net.value((4,)), "Reducer"), (1, 9, 8, 4)),
    "computed slopes": lambda net, x: net.op("PRELU", [x, net.op("LOGISTIC", [net.op("REDUCE_MAX", [x, net.constant(i(0, 1))], net.value((8, 6)), "Reducer")], net.value((8, 6)))], net.value(SHAPE)),
    "truths that are the same": lambda net, x: net.op("ADD", [number(net, net.op("EQUAL", [above(net, x, 0.5), above(net, x, -0.5)], net.value(SHAPE, "bool"), "Equal")), number(net, net.op("NOT_EQUAL", [above(net, x, 1), net.constant(np.array([True, False, True, True, False, False]))], net.value(SHAPE, "bool"), "NotEqual"))], net.value(SHAPE), "Add"),
    "rounded to halves": lambda net, x: net.op("CAST", [net.op("CAST", [x], net.value(SHAPE, "float16"), "Cast", outDataType=1)], net.value(SHAPE), "Cast", inDataType=1),
    "bytes and words": lambda net, x: net.op("ADD", [net.op("CAST", [net.op("CAST", [net.op(name, [x], net.value(SHAPE))], net.value(SHAPE, dtype), "Cast", outDataType=n)], net.value(SHAPE), "Cast", inDataType=n) for name, dtype, n in (("ABS", "uint8", 3), ("NEG", "int16", 7))], net.value(SHAPE), "Add"),
    "weighted rows": weighted_rows(0),
    "means of rows": weighted_rows(1),
    "roots of rows": weighted_rows(2),
    "rows of keys": lambda net, x: net.op("ADD", [(made := net.op("HASHTABLE_LOOKUP", [net.op("RESHAPE", [places_of_largest(net, x), net.constant(i(72))], net.value((72,), "int32"), "Reshape"), net.constant(i(0, 2, 3, 5)), net.constant(f(4, 3))], [net.value((72, 3)), net.value((72,), "uint8")]))[0], net.op("RESHAPE", [net.op("CAST", [made[1]], net.value((72,)), "Cast", inDataType=3), net.constant(i(72, 1))], net.value((72, 1)), "Reshape")], net.value((72, 3)), "Add"),
    "shape of both": lambda net, x: net.op("CAST", [net.op("BROADCAST_ARGS", [net.op("RESHAPE", [net.op("MAXIMUM", [net.op("SLICE", [net.op("RESHAPE", [whole(net, x), net.constant(i(432))], net.value((432,), "int32"), "Reshape"), net.constant(i(0)), net.constant(i(2))], net.value((2,), "int32")), net.constant(np.int32(1))], net.value((2,), "int32"), "MaximumMinimum"), net.constant(i(2))], net.value((2,), "int32"), "Reshape"), net.constant(i(4, 3, 1, 1))], net.value((4,), "int32"))], net.value((4,)), "Cast", inDataType=2),
    "shape and rank": lambda net, x: net.op("ADD", [x, net.op("CAST", [net.op("ADD", [net.op("STRIDED_SLICE", [net.op("SHAPE", [x], net.value((4,), "int64"), "Shape", outType=4), *(net.constant(i(n)) for n in (1, 2, 1))], net.value((), "int64"), "StridedSlice", shrinkAxisMask=1), net.op("CAST", [net.op("RANK", [x], net.value((), "int32"), "Rank")], net.value((), "int64"), "Cast", inDataType=2, outDataType=4)], net.value((), "int64"), "Add")], net.value(()), "Cast", inDataType=4)], net.value(SHAPE), "Add"),
    "numbers in order": lambda net, x: net.op("MUL", [x, net.op("RANGE", [net.constant(np.float32(n)) for n in (0, 6, 1)], net.value((6,)), "Range")], net.value(SHAPE), "Mul"),
    "steps of 4 bits": op("FAKE_QUANT", SHAPE, kind="FakeQuant", min=0.0, max=3.1, numBits=4),
    "buckets": op("BUCKETIZE", SHAPE, kind="Bucketize", dtype="int32", boundaries=[-1.5, 0.0, 0.25, 2.0]),
    "buckets of whole numbers": lambda net, x: net.op("BUCKETIZE", [whole(net, x)], net.value(SHAPE, "int32"), "Bucketize", boundaries=[-9.0, 0.0, 2.5, 11.0]),
    "first rows backwards": reversed_parts(1, 3, (9, 0, 1, 5, 2, 8)),
    "first of each row backwards": reversed_parts(3, 2, (6, 0, 1, 5, 2, 6, 3, 4)),
    "diagonals": op("MATRIX_DIAG", (*SHAPE, 6), kind="MatrixDiag"),
    "other diagonals": with_diagonal(2),
    "other diagonals of wide matrices": with_diagonal(3),
    "sums of segments": in_segments("SEGMENT_SUM"),
    **{f"segments, {name}": in_segments(f"UNSORTED_SEGMENT_{name.upper()}", 4) for name in ("sum", "prod", "max", "min")},
    "transposed conv of depth": transposed_of_depth((11, 17, 7), padding=1, strideD=1, strideH=2, strideW=2),
    "transposed conv of depth, SAME": transposed_of_depth((18, 16, 3), padding=0, strideD=2, strideH=2, strideW=1),
    **{f"StableHLO's {name}": twice(f"STABLEHLO_{name.upper()}") for name in ("add", "multiply", "maximum", "minimum")},
    "StableHLO's bits of both": of_whole("STABLEHLO_AND"),
    "StableHLO's bits to the left": of_whole("STABLEHLO_SHIFT_LEFT", np.broadcast_to(i(0, 1, 2, 3, 5, 17), SHAPE)),
    "one value between": op("DILATE", (1, 17, 8, 16), i(1, 2, 1, 3), np.float32(-1.5)),
    "bits of floats": lambda net, x: net.op("CAST", [net.op("RIGHT_SHIFT", [net.op("BITCAST", [x], net.value(SHAPE, "int32")), net.constant(i(20))], net.value(SHAPE, "int32"))], net.value(SHAPE), "Cast", inDataType=2),
    "a piece that is replaced": replaced(7, 3, 1, 0),
    "a piece that is replaced where it fits": replaced(-4, 1, 30, 3),
    "from sparse to dense": lambda net, x: net.op("SPARSE_TO_DENSE", [net.constant(np.int32([[0, 1], [2, 0], [2, 3]])), net.constant(i(3, 4)), net.op("SLICE", [net.op("RESHAPE", [x, net.constant(i(432))], net.value((432,)), "Reshape"), net.constant(i(5)), net.constant(i(3))], net.value((3,))), net.constant(np.float32(-1.5))], net.value((3, 4)), "SparseToDense"),
}  # fmt: skip


def saved(path, cases):
    net = Net()
    x = net.input(SHAPE)
    outputs = []
    for make in cases:
        given = net.op("SLICE", [x, net.constant(i(0, 0, 0, 0)), net.constant(i(1, 6, 8, 6))], net.value((1, 6, 8, 6))) if make is CASES["to depth"] else x  # fmt: skip
        outputs.append(make(net, given))
    return net.save(path, *outputs)


def compared(path, shape=SHAPE, **options):
    """Ours, layer by layer, and LiteRT's."""
    made = load_network(ModelOptions(model=str(path), **options))
    batch = [(RNG.standard_normal(shape).astype(np.float32) * 2,) for _ in range(2)]
    due, _, _ = tflite_run.outputs(path, batch)
    found = network_steps.outputs(made, batch)
    for ours, theirs in zip(found, due, strict=True):
        yield from zip(ours, theirs, strict=True)
    assert made.signature.inputs[0].shape == shape


@pytest.mark.parametrize(
    "first", [pytest.param(i, marks=[pytest.mark.full] * (i % 36 > 0 or i > 108)) for i in range(0, len(CASES), 12)]
)
def test_operators_compute_what_litert_does(first, tmp_path):
    names = list(CASES)[first : first + 12]
    path = saved(tmp_path / "net.tflite", [CASES[name] for name in names])
    for number, (ours, theirs) in enumerate(compared(path)):
        name = names[number % len(names)]
        assert ours.shape == theirs.shape, name
        assert theirs.std() > 0 and np.abs(ours - theirs).max() <= 2e-5 * max(1, np.abs(theirs).max()), name


@pytest.mark.full
@pytest.mark.parametrize("first", share(range(0, len(CASES), 26), 3))
def test_the_machine_code_of_operators_verifies(first, tmp_path):
    """What TVM's own nests need, such as scratch memory, a module may lack."""
    made = list(CASES.values())[first : first + 26]
    options = ModelOptions(model=str(saved(tmp_path / "net.tflite", made)))
    target = targets.load("host")
    build.build(options, target, output=tmp_path / "out")
    found = verify.verify(tmp_path / "out", board=LocalBoard(target), inputs=[(f(*SHAPE),)])
    found.require()
    assert found.reference.startswith("LiteRT") and len(found.outputs) == len(made)


# ---- what is refused, and sizes


def loops(net, x):
    return net.op("WHILE", [x], net.value(SHAPE, name="loop"), "While", condSubgraphIndex=0, bodySubgraphIndex=0)


REFUSED = {
    "CUSTOM_FlexErf at boxes, .*: it is TensorFlow's": lambda net, x: custom(net, x, "FlexErf"),
    "CUSTOM_Own at boxes, .*: it is not TFLite's": lambda net, x: custom(net, x, "Own"),
    "WHILE at loop, .*: what it runs depends on data": loops,
    "CONV_2D at sum, .*: the activation TANH": lambda net, x: net.op("CONV_2D", [x, net.constant(f(4, 3, 3, 6)), net.constant(f(4))], net.value((1, 9, 8, 4), name="sum"), "Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=4),
    "FAKE_QUANT at low, .*: 8 bits from 1.0 to -1.0": lambda net, x: net.op("FAKE_QUANT", [x], net.value(SHAPE, name="low"), "FakeQuant", min=1.0, max=-1.0, numBits=8),
    "BUCKETIZE at few, .*: boundaries that are not in order": lambda net, x: net.op("BUCKETIZE", [x], net.value(SHAPE, "int32", name="few"), "Bucketize", boundaries=[1.0, 0.0]),
    "REVERSE_SEQUENCE at back, .*: lengths \\[9\\] for axes 1 and 3": lambda net, x: net.op("REVERSE_SEQUENCE", [x, net.constant(i(*range(9)))], net.value(SHAPE, name="back"), "ReverseSequence", seqDim=1, batchDim=3),
    "SLICE at flat, .*: its operand target is computed": lambda net, x: net.op("SLICE", [x, net.op("CAST", [net.op("REDUCE_MAX", [x, net.constant(i(1, 2))], net.value((1, 6)), "Reducer")], net.value((1, 6), "int32", name="target"), "Cast", outDataType=2), net.constant(i(1, 1, 1, 1))], net.value((1, 1, 1, 1), name="flat")),
}  # fmt: skip


def custom(net, x, name):
    made = net.op("CUSTOM", [x], net.value(SHAPE, name="boxes"))
    net.model.operatorCodes[-1].customCode = name
    return made


@pytest.mark.parametrize("said", REFUSED)
def test_what_has_no_layer_is_refused_by_name_with_all_else(said, tmp_path):
    net = Net()
    x = net.input(SHAPE)
    net.save(tmp_path / "net.tflite", REFUSED[said](net, net.op("RELU", [x], net.value(SHAPE))))
    with pytest.raises(TvmMobilenetError, match=f"operators? (is|are) not supported:\n.*{said}"):
        load_network(ModelOptions(model=str(tmp_path / "net.tflite")))


def two_networks(path, named=True):
    """One that cuts off what is below zero, and one of two inputs that the signature names in another order."""
    net = Net()
    made = net.op("RELU", [net.input(SHAPE)], net.value(SHAPE))
    net.graph.outputs = [made]
    inner = net.body(
        lambda a, b: net.op("SUB", [a, b], net.value(SHAPE), "Sub"), (SHAPE, "float32"), (SHAPE, "float32")
    )
    graphs, net.model.signatureDefs = (net.model.subgraphs[0], net.model.subgraphs[inner]), []
    for number, (graph, name) in enumerate(zip(graphs, ("serve", "apart"), strict=True)):
        one = net.s.SignatureDefT()
        one.signatureKey, one.subgraphIndex, one.inputs, one.outputs = name, number, [], []
        for kind, ends in (("inputs", list(graph.inputs)[::-1]), ("outputs", graph.outputs)):
            for n, index in enumerate(ends if named else ()):
                end = net.s.TensorMapT()
                end.name, end.tensorIndex = f"{kind}{n}", index
                getattr(one, kind).append(end)
        net.model.signatureDefs.append(one)
    return net.save(path, made)


def test_one_network_of_several_is_built(tmp_path, capsys):
    path = two_networks(tmp_path / "net.tflite")
    load_network(ModelOptions(model=str(path)))
    assert "several networks; serve is built" in (said := capsys.readouterr().err) and "not apart:" in said
    made = load_network(ModelOptions(model=str(path), signature="apart"))
    assert "several" not in capsys.readouterr().err and len(made.signature.inputs) == 2
    xs = [(f(*SHAPE), f(*SHAPE))]
    ((ours,),) = network_steps.outputs(made, xs)
    assert np.array_equal(ours, xs[0][0] - xs[0][1])
    assert np.array_equal(made.framework(xs).values[0][0], ours), "LiteRT runs it too"
    with pytest.raises(TvmMobilenetError, match="no signature train: it has serve, apart"):
        load_network(ModelOptions(model=str(path), signature="train"))
    with pytest.raises(TvmMobilenetError, match="does not name the inputs"):
        load_network(ModelOptions(model=str(two_networks(path, named=False)), signature="apart"))


@pytest.mark.full
def test_a_build_of_one_network_of_several_verifies(tmp_path):
    """Also from its folder, which keeps the name."""
    options = ModelOptions(model=str(two_networks(tmp_path / "net.tflite")), signature="apart")
    build.build(options, targets.load("host"), output=tmp_path / "out")
    xs = [(f(*SHAPE), f(*SHAPE))]
    verify.verify(tmp_path / "out", board=LocalBoard(targets.load("host")), inputs=xs).require()
    assert main(["verify", str(tmp_path / "out"), "--board", "local"]) == 0


def test_inputs_that_are_no_quantized_values_keep_their_dtypes(tmp_path):
    """Numbers of words, masks and bytes are no floats."""
    net = Net()
    ids, mask, pixels = (net.input((2, 3), dtype, name=dtype) for dtype in ("int32", "bool", "uint8"))
    rows = net.op(
        "EMBEDDING_LOOKUP",
        [net.op("RESHAPE", [ids, net.constant(i(6))], net.value((6,), "int32"), "Reshape"), net.constant(f(8, 4))],
        net.value((6, 4)),
    )
    light = net.op("CAST", [pixels], net.value((2, 3)), "Cast")
    path = net.save(
        tmp_path / "net.tflite", rows, net.op("SELECT_V2", [mask, light, net.constant(f(2, 3))], net.value((2, 3)))
    )
    network = load_network(ModelOptions(model=str(path)))
    assert [port.dtype for port in network.signature.inputs] == ["int32", "bool", "uint8"]
    draw = np.random.default_rng(0)
    batch = [
        (draw.integers(0, 8, (2, 3), np.int32), draw.random((2, 3)) > 0.5, draw.integers(0, 255, (2, 3), np.uint8))
    ]
    (due,), _, _ = tflite_run.outputs(path, batch)
    for ours, theirs in zip(network_steps.outputs(network, batch)[0], due, strict=True):
        assert np.array_equal(ours, theirs)


def open_net(path, signature):
    """A network whose converter left sizes open."""
    net = Net()
    x = net.input((1, 9, 8, 6), signature=signature)
    y = net.conv(x, net.constant(f(4, 3, 3, 6)), net.constant(f(4)), (1, 5, 4, 4), strideH=2, strideW=2)
    return net.save(path, net.op("MEAN", [y, net.constant(i(1, 2))], net.value((1, 4)), "Reducer"))


def test_sizes_that_are_open_are_fixed_by_flags(tmp_path):
    path = open_net(tmp_path / "net.tflite", [-1, -1, -1, 6])
    for ours, theirs in compared(path, (2, 12, 16, 6), batch=2, resolution=(12, 16)):
        assert ours.shape == theirs.shape == (2, 4) and np.abs(ours - theirs).max() < 1e-4
    with pytest.raises(TvmMobilenetError, match="not fixed"):
        load_network(ModelOptions(model=str(path)))


def test_flags_for_sizes_that_are_fixed_are_refused(tmp_path):
    path = open_net(tmp_path / "net.tflite", None)
    with pytest.raises(TvmMobilenetError, match="batch that is fixed"):
        load_network(ModelOptions(model=str(path), batch=2))
    with pytest.raises(TvmMobilenetError, match="width that is fixed"):
        load_network(ModelOptions(model=str(path), resolution=32))


def test_probabilities_are_compared_before_their_softmax(tmp_path):
    """Values of 1.0 and 0.0 would hide what the logits show."""
    net = Net()
    made = net.op(
        "SOFTMAX",
        [net.op("RESHAPE", [net.input(SHAPE), net.constant(i(1, -1))], net.value((1, 432)), "Reshape")],
        net.value((1, 432)),
        "Softmax",
        beta=1.0,
    )
    path = net.save(tmp_path / "net.tflite", made)
    x = 100 * RNG.standard_normal(SHAPE).astype(np.float32)
    values, before, functions = tflite_run.outputs(path, [(x,)])
    assert functions == ("softmax",) and np.array_equal(before[0][0], x.reshape(1, -1)) and values[0][0].max() > 0.99
