# ruff: noqa: E501
"""StableHLO's operators in TFLite files, and operators that run other graphs: LiteRT's answer, or numpy's where LiteRT
has no kernel.
"""

import numpy as np
import pytest
import torch
from flatbuffers import flexbuffers

from tests.support.tflite_files import Net
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import tflite_graph, tflite_run
from tvm_mobilenet.models.options import ModelOptions

SHAPE = (1, 9, 8, 6)
RNG = np.random.default_rng(7)


def f(*shape) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def i(*values) -> np.ndarray:
    return np.array(values, np.int32)


def op(name, shape, *constants, kind=None, dtype="float32", first=(), **options):
    """An operator of the data and constants; ``first`` come before the data."""

    def make(net, x):
        before, behind = ([net.constant(c) for c in given] for given in (first, constants))
        return net.op(f"STABLEHLO_{name}", [*before, x, *behind], net.value(shape, dtype), kind, **options)

    return make


def flat(net, x):
    return net.op("RESHAPE", [x, net.constant(i(9, 48))], net.value((9, 48)), "Reshape")


def places(net, x, shape, most):
    """Whole numbers that the data have, from -2 on."""
    x = net.op("SLICE", [flat(net, x), net.constant(i(0, 0)), net.constant(i(*shape))], net.value(shape))
    scaled = net.op(
        "MUL", [net.op("LOGISTIC", [x], net.value(shape)), net.constant(np.float32(most + 4))], net.value(shape), "Mul"
    )
    whole = net.op("CAST", [scaled], net.value(shape, "int32"), "Cast", outDataType=2)
    return net.op("SUB", [whole, net.constant(np.int32(2))], net.value(shape, "int32"), "Sub")


def start(net, x, most):
    return [
        net.op(
            "RESHAPE",
            [places(net, x, (1, 1), m), net.constant(np.zeros(0, np.int32))],
            net.value((), "int32"),
            "Reshape",
        )
        for m in most
    ]


def halves(net, x):
    """The data, and others of their shape."""
    return x, net.op("COS", [x], net.value(SHAPE))


def of_two(name, dtype="float32", kind=None, **options):
    def make(net, x):
        made = net.op(
            f"STABLEHLO_{name}",
            [*halves(net, x)],
            net.value(SHAPE, "bool" if name == "COMPARE" else dtype),
            kind,
            **options,
        )
        return net.op("CAST", [made], net.value(SHAPE), "Cast", inDataType=6) if name == "COMPARE" else made

    return make


def of_bits(name):
    def make(net, x):
        whole = [net.op("CAST", [v], net.value(SHAPE, "int32"), "Cast", outDataType=2) for v in halves(net, x)]
        return net.op(
            "CAST",
            [net.op(f"STABLEHLO_{name}", whole, net.value(SHAPE, "int32"))],
            net.value(SHAPE),
            "Cast",
            inDataType=2,
        )

    return make


def padded(low, high, inside):
    shape = [a + (d - 1) * (s + 1) + 1 + b for d, a, b, s in zip(SHAPE, low, high, inside, strict=True)]
    return op(
        "PAD",
        shape,
        np.float32(1.5),
        kind="StablehloPad",
        edgePaddingLow=low,
        edgePaddingHigh=high,
        interiorPadding=inside,
    )


def windows(name, start, **given):
    def make(net, x):
        o = {
            "windowDimensions": [1, 3, 2, 1],
            "windowStrides": [1, 2, 1, 1],
            "baseDilations": [1] * 4,
            "windowDilations": [1, 1, 2, 1],
            "padding": [0, 0, 1, 1, 0, 1, 0, 0],
            **given,
        }
        rows = zip(
            SHAPE,
            *(o[k] for k in ("windowDimensions", "windowStrides", "baseDilations", "windowDilations")),
            o["padding"][::2],
            o["padding"][1::2],
            strict=True,
        )
        shape = [(a + (d - 1) * base + 1 + b - (k - 1) * dil - 1) // s + 1 for d, k, s, base, dil, a, b in rows]
        body = net.of_two(f"STABLEHLO_{name}")
        return net.op(
            "STABLEHLO_REDUCE_WINDOW",
            [x, net.constant(np.float32(start))],
            net.value(shape),
            "StablehloReduceWindow",
            bodySubgraphIndex=body,
            **o,
        )

    return make


def tflites_windows(function, start, dtype="float32"):
    def make(net, x):
        x = (
            x
            if dtype == "float32"
            else net.op("GREATER", [x, net.constant(np.float32(3 - 6 * start))], net.value(SHAPE, dtype))
        )
        sizes = [net.constant(np.array(v, np.int64)) for v in ((1, 3, 2, 2), (1, 2, 1, 1), (1, 1, 2, 1))]
        made = net.op(
            "REDUCE_WINDOW",
            [x, net.constant(np.array(start, dtype)), *sizes],
            net.value((1, 4, 6, 5), dtype),
            "ReduceWindow",
            reduceFunction=function,
        )
        return made if dtype == "float32" else net.op("CAST", [made], net.value((1, 4, 6, 5)), "Cast", inDataType=6)

    return make


def scattered(name, window=False):
    def make(net, x):
        data, body = (
            flat(net, x),
            net.of_two(f"STABLEHLO_{name}") if name else net.body(lambda a, b: b, ((), "float32"), ((), "float32")),
        )
        if window:
            where, update, o = (
                places(net, x, (4, 1), 8),
                (4, 48),
                {"updateWindowDims": [1], "insertedWindowDims": [0], "scatterDimsToOperandDims": [0]},
            )
        else:
            where = net.constant(np.int32([[1, 2], [8, 47], [1, 2] if name else [3, 3], [0, 0]]))
            update, o = (4,), {"updateWindowDims": [], "insertedWindowDims": [0, 1], "scatterDimsToOperandDims": [0, 1]}
        piece = net.op(
            "SLICE",
            [data, net.constant(i(2, 0)), net.constant(i(4, update[-1] if window else 1))],
            net.value((4, update[-1] if window else 1)),
        )
        piece = piece if window else net.op("RESHAPE", [piece, net.constant(i(4))], net.value((4,)), "Reshape")
        return net.op(
            "STABLEHLO_SCATTER",
            [data, where, piece],
            net.value((9, 48)),
            "StablehloScatter",
            indexVectorDim=1,
            updateComputationSubgraphIndex=body,
            **o,
        )

    return make


def gathered(shape, columns, **options):
    def make(net, x):
        return net.op(
            "STABLEHLO_GATHER",
            [x, places(net, x, (5, columns), 8)],
            net.value(shape),
            "StablehloGather",
            indexVectorDim=1,
            **options,
        )

    return make


def swish(net, x):
    return net.op("MUL", [net.op("LOGISTIC", [x], net.value(SHAPE)), x], net.value(SHAPE), "Mul")


def composite(net, x):
    made = net.op(
        "STABLEHLO_COMPOSITE",
        [x],
        net.value(SHAPE),
        "StableHLOComposite",
        decompositionSubgraphIndex=net.body(lambda a: swish(net, a), (SHAPE, "float32")),
    )
    given, attributes = net.graph.operators[-1].builtinOptions2, flexbuffers.Builder()
    with attributes.Map():
        pass
    given.name, given.compositeAttributes = "own.swish", np.frombuffer(bytes(attributes.Finish()), np.uint8)
    return made


def variable(net, x):
    """A weight that a graph gives to a variable, as TensorFlow's converter writes a network with resources."""

    def handle():
        made = net.op("VAR_HANDLE", [], net.value((), "resource"), "VarHandle", sharedName="weight")
        net.graph.operators[-1].builtinOptions.container = ""
        return made

    def initial():
        net.op("ASSIGN_VARIABLE", [handle(), net.constant(f(6))], [], "AssignVariable")
        return []

    net.op("CALL_ONCE", [], [], "CallOnce", initSubgraphIndex=net.body(initial))
    return net.op(
        "ADD", [x, net.op("READ_VARIABLE", [handle()], net.value((6,)), "ReadVariable")], net.value(SHAPE), "Add"
    )


LITERT = {
    "pad": padded([0, 1, 2, 0], [0, 0, 1, 3], [0] * 4),
    "windows of largest": windows("MAXIMUM", -np.inf),
    "points": scattered("ADD"),
    "pieces": gathered((5, 1, 3, 2, 6), 2, offsetDims=[1, 2, 3, 4], collapsedSliceDims=[], startIndexMap=[2, 1], sliceSizes=[1, 3, 2, 6]),
    "composite": composite,
    "variable": variable,
    "TFLite's windows": tflites_windows(1, 0),
    "pad and cut": padded([0, 1, -2, 0], [0, 0, 1, -3], [0, 2, 1, 0]),
    "cut": padded([0, -1, 0, 0], [0] * 4, [0] * 4),
    "rows": gathered((5, 1, 8, 6), 1, offsetDims=[1, 2, 3], collapsedSliceDims=[1], startIndexMap=[1], sliceSizes=[1, 1, 8, 6]),
    **{f"windows, {name}": windows(name, n) for name, n in (("ADD", 0), ("MINIMUM", np.inf), ("MULTIPLY", 1))},
    "windows of data apart": windows("MAXIMUM", -np.inf, baseDilations=[1, 2, 1, 1]),
    "windows from 1.5 on": windows("ADD", 1.5, padding=[0, 0, 1, 2, 0, 1, 1, 0]),
    **{f"TFLite's windows {n}": tflites_windows(n, first) for n, first in ((2, 1), (3, np.inf), (4, -np.inf))},
    **{f"TFLite's windows of truths {n}": tflites_windows(n, first, "bool") for n, first in ((5, 1), (6, 0))},
    **{f"points, {name}": scattered(name) for name in ("MAXIMUM", "MINIMUM", "MULTIPLY", "")},
    "rows of windows": scattered("ADD", window=True),
}  # fmt: skip
STRIDES = {"startIndices": [0, 1, 2, 0], "limitIndices": [1, 9, 7, 6], "strides": [1, 2, 2, 1]}
CONV = {"windowStrides": [2, 1], "padding": [1, 0, 0, 1], "lhsDilation": [1, 1], "rhsDilation": [1, 2], "inputBatchDimension": 0, "inputFeatureDimension": 3, "inputSpatialDimensions": [1, 2], "kernelInputFeatureDimension": 2, "kernelOutputFeatureDimension": 3, "kernelSpatialDimensions": [0, 1], "outputBatchDimension": 0, "outputFeatureDimension": 3, "outputSpatialDimensions": [1, 2], "featureGroupCount": 1, "batchGroupCount": 1}  # fmt: skip
DOT = {"kind": "StablehloDotGeneral", "lhsContractingDimensions": [1], "rhsContractingDimensions": [0]}


def convolved(x, weight, order=(0, 1, 2, 3)):
    image = torch.nn.functional.pad(torch.tensor(x).permute(0, 3, 1, 2), (0, 1, 1, 0))
    made = torch.nn.functional.conv2d(image, torch.tensor(weight).permute(3, 2, 0, 1), stride=(2, 1), dilation=(1, 2))
    return made.permute(0, 2, 3, 1).numpy().transpose(order)


def sort(descending):
    def make(net, x):
        less = net.of_two("STABLEHLO_COMPARE", kind="StablehloCompare", comparisonDirection=3 if descending else 5)
        return net.op(
            "STABLEHLO_SORT", [x], net.value(SHAPE), "StablehloSort", dimension=1, comparatorSubgraphIndex=less
        )

    return make


def sorted_pair(net, x):
    """The second of two values, in the order of the first."""
    body = net.body(
        lambda a, b, c, d: net.op(
            "STABLEHLO_COMPARE", [a, b], net.value((), "bool"), "StablehloCompare", comparisonDirection=5
        ),
        *[((), "float32")] * 4,
    )
    return net.op(
        "STABLEHLO_SORT",
        [*halves(net, x)],
        [net.value(SHAPE), net.value(SHAPE)],
        "StablehloSort",
        dimension=2,
        comparatorSubgraphIndex=body,
    )[1]


def reduced(name, start):
    def make(net, x):
        return net.op(
            "STABLEHLO_REDUCE",
            [x, net.constant(np.float32(start))],
            net.value((1, 8)),
            "StablehloReduce",
            dimensions=[1, 3],
            bodySubgraphIndex=net.of_two(f"STABLEHLO_{name}"),
        )

    return make


def dotted(net, x):
    y = net.op("TRANSPOSE", [x, net.constant(i(1, 3, 2, 0))], net.value((9, 6, 8, 1)), "Transpose")
    o = {
        "lhsContractingDimensions": [2],
        "rhsContractingDimensions": [2],
        "lhsBatchingDimensions": [3],
        "rhsBatchingDimensions": [1],
    }
    return net.op("STABLEHLO_DOT_GENERAL", [x, y], net.value((6, 1, 9, 9, 1)), "StablehloDotGeneral", **o)


def positive(name):
    return lambda net, x: net.op(f"STABLEHLO_{name}", [net.op("EXP", [x], net.value(SHAPE))], net.value(SHAPE))


def clamped(x, most):
    return [min(max(int(v), 0), m) for v, m in zip(starts(x), most, strict=True)]


def starts(x):
    """What `start` gives for (0, 5, 4, 0)."""
    first = 1 / (1 + np.exp(-x.reshape(-1)[0]))
    return [int(np.float32(first) * np.float32(m + 4)) - 2 for m in (0, 5, 4, 0)]


def replaced(x):
    at, made = clamped(x, (0, 4, 3, 4)), x.copy()
    made[at[0] : at[0] + 1, at[1] : at[1] + 5, at[2] : at[2] + 5, at[3] : at[3] + 2] = x[:, :5, :5, :2]
    return made


NUMPY = {
    "convolution": (op("CONVOLUTION", (1, 4, 5, 5), f(3, 3, 6, 5), kind="StablehloConvolution", **CONV), lambda x: convolved(x, f(3, 3, 6, 5))),
    "concatenate": (lambda net, x: net.op("STABLEHLO_CONCATENATE", [*halves(net, x)], net.value((1, 18, 8, 6)), "StablehloConcatenate", dimension=1), lambda x: np.concatenate([x, np.cos(x)], 1)),
    "dot": (lambda net, x: net.op("STABLEHLO_DOT_GENERAL", [flat(net, x), net.constant(f(48, 5))], net.value((9, 5)), "StablehloDotGeneral", lhsContractingDimensions=[1], rhsContractingDimensions=[0]), lambda x: x.reshape(9, 48) @ f(48, 5)),
    "broadcast": (op("BROADCAST_IN_DIM", (4, 1, 9, 3, 8, 6), kind="StablehloBroadcastInDim", broadcastDimensions=[1, 2, 4, 5]), lambda x: np.broadcast_to(x[None, :, :, None], (4, 1, 9, 3, 8, 6))),
    "sum": (reduced("ADD", 0), lambda x: x.sum((1, 3))),
    "compare": (of_two("COMPARE", kind="StablehloCompare", comparisonDirection=5), lambda x: x < np.cos(x)),
    "slice": (op("SLICE", (1, 4, 3, 6), kind="StablehloSlice", **STRIDES), lambda x: x[:, 1:9:2, 2:7:2]),
    "convolution, transposed": (
        op("CONVOLUTION", (5, 1, 4, 5), f(3, 3, 6, 5), kind="StablehloConvolution", **CONV | {"outputBatchDimension": 1, "outputFeatureDimension": 0, "outputSpatialDimensions": [2, 3]}),
        lambda x: convolved(x, f(3, 3, 6, 5), (3, 0, 1, 2)),
    ),
    **{name.lower(): (op(name, SHAPE), function) for name, function in (("ABS", np.abs), ("COSINE", np.cos), ("EXPONENTIAL", np.exp), ("FLOOR", np.floor), ("NEGATE", np.negative), ("TANH", np.tanh), ("CBRT", np.cbrt), ("LOGISTIC", lambda x: 1 / (1 + np.exp(-x))))},
    **{name.lower(): (positive(name), function) for name, function in (("LOG", lambda x: x), ("RSQRT", lambda x: np.exp(-x / 2)))},
    **{name.lower(): (of_two(name), lambda x, function=function: function(x, np.cos(x))) for name, function in (("SUBTRACT", np.subtract), ("DIVIDE", np.divide), ("REMAINDER", np.fmod))},
    "power": (lambda net, x: net.op("STABLEHLO_POWER", [net.op("EXP", [x], net.value(SHAPE)), x], net.value(SHAPE)), lambda x: np.exp(x.astype(float) ** 2)),
    "or": (of_bits("OR"), lambda x: x.astype(int) | np.cos(x).astype(int)),
    "clamp": (op("CLAMP", SHAPE, f(*SHAPE) + 1, first=[np.float32(-0.5)]), lambda x: np.minimum(np.maximum(x, -0.5), f(*SHAPE) + 1)),
    **{f"compare {n}": (of_two("COMPARE", kind="StablehloCompare", comparisonDirection=n), lambda x, function=function: function(x, np.cos(x))) for n, function in ((2, np.greater_equal), (3, np.greater), (4, np.less_equal))},
    "compare 0": (lambda net, x: net.op("CAST", [net.op("STABLEHLO_COMPARE", [x, net.op("RELU", [x], net.value(SHAPE))], net.value(SHAPE, "bool"), "StablehloCompare", comparisonDirection=0)], net.value(SHAPE), "Cast", inDataType=6), lambda x: x >= 0),
    "compare 1": (lambda net, x: net.op("CAST", [net.op("STABLEHLO_COMPARE", [x, net.op("RELU", [x], net.value(SHAPE))], net.value(SHAPE, "bool"), "StablehloCompare", comparisonDirection=1)], net.value(SHAPE), "Cast", inDataType=6), lambda x: x < 0),
    "select": (lambda net, x: net.op("STABLEHLO_SELECT", [net.op("GREATER", [x, net.constant(np.float32(0.2))], net.value(SHAPE, "bool")), *halves(net, x)], net.value(SHAPE)), lambda x: np.where(x > 0.2, x, np.cos(x))),
    "convert": (lambda net, x: net.op("CAST", [net.op("STABLEHLO_CONVERT", [x], net.value(SHAPE, "int32"))], net.value(SHAPE), "Cast", inDataType=2), np.trunc),
    "reshape": (op("RESHAPE", (72, 6)), lambda x: x.reshape(72, 6)),
    "transpose": (op("TRANSPOSE", (6, 9, 1, 8), kind="StablehloTranspose", permutation=[3, 1, 0, 2]), lambda x: x.transpose(3, 1, 0, 2)),
    "iota": (lambda net, x: net.op("ADD", [x, net.op("STABLEHLO_IOTA", [], net.value(SHAPE), "StablehloIota", iotaDimension=2)], net.value(SHAPE), "Add"), lambda x: x + np.arange(8).reshape(8, 1)),
    "dynamic slice": (lambda net, x: net.op("STABLEHLO_DYNAMIC_SLICE", [x, *start(net, x, (0, 5, 4, 0))], net.value((1, 4, 4, 6)), "StablehloDynamicSlice", sliceSizes=[1, 4, 4, 6]), lambda x: x[:, (a := clamped(x, (0, 5, 4, 0)))[1] : a[1] + 4, a[2] : a[2] + 4]),
    "dynamic update": (lambda net, x: net.op("STABLEHLO_DYNAMIC_UPDATE_SLICE", [x, net.op("SLICE", [x, net.constant(i(0, 0, 0, 0)), net.constant(i(1, 5, 5, 2))], net.value((1, 5, 5, 2))), *start(net, x, (0, 5, 4, 0))], net.value(SHAPE)), replaced),
    "dot of batches": (dotted, lambda x: np.einsum("abcd,edcg->dabeg", x, x.transpose(1, 3, 2, 0))),
    "sharding": (op("CUSTOM_CALL", SHAPE, kind="StablehloCustomCall", callTargetName="Sharding"), lambda x: x),
    "call": (lambda net, x: net.op("CALL", [x], net.value(SHAPE), "Call", subgraph=net.body(lambda a: swish(net, a), (SHAPE, "float32"))), lambda x: x / (1 + np.exp(-x))),
    **{f"reduced, {name}": (reduced(name, n), function) for name, n, function in (("MAXIMUM", -np.inf, lambda x: x.max((1, 3))), ("MINIMUM", 0.5, lambda x: np.minimum(x.min((1, 3)), 0.5)), ("MULTIPLY", 1, lambda x: x.prod((1, 3))))},
    "sort": (sort(False), lambda x: np.sort(x, 1)),
    "sort, descending": (sort(True), lambda x: -np.sort(-x, 1)),
    "sort of two": (sorted_pair, lambda x: np.take_along_axis(np.cos(x), np.argsort(x, 2, kind="stable"), 2)),
}  # fmt: skip
ALL = LITERT | {name: make for name, (make, _) in NUMPY.items()}


def saved(path, cases):
    net = Net()
    x = net.input(SHAPE)
    return net.save(path, *[make(net, x) for make in cases])


def some(cases, size, default):
    """Parts of a table, the first of which is in the default run if told so."""
    parts = [list(cases)[first : first + size] for first in range(0, len(cases), size)]
    return [
        pytest.param(part, id=part[0], marks=[pytest.mark.full] * (n > 0 or not default))
        for n, part in enumerate(parts)
    ]


@pytest.mark.parametrize("names", some(LITERT, 7, True))
def test_operators_compute_what_litert_does(names, tmp_path):
    path = saved(tmp_path / "net.tflite", [LITERT[name] for name in names])
    xs = [(2 * RNG.standard_normal(SHAPE).astype(np.float32),) for _ in range(2)]
    made = load_network(ModelOptions(model=str(path)))
    for ours, due in zip(network_steps.outputs(made, xs), tflite_run.outputs(path, xs)[0], strict=True):
        for name, a, b in zip(names, ours, due, strict=True):
            assert a.shape == b.shape and b.std() > 0 and np.abs(a - b).max() <= 1e-5 * np.abs(b).max(), name


@pytest.mark.parametrize("names", some(NUMPY, 7, False))
def test_operators_that_litert_lacks_compute_what_numpy_does(names, tmp_path):
    path = saved(tmp_path / "net.tflite", [NUMPY[name][0] for name in names])
    xs = [2 * RNG.standard_normal(SHAPE).astype(np.float32) for _ in range(2)]
    made = load_network(ModelOptions(model=str(path)))
    for x, ours in zip(xs, network_steps.outputs(made, [(x,) for x in xs]), strict=True):
        for name, a in zip(names, ours, strict=True):
            b = np.asarray(NUMPY[name][1](x), float)
            assert a.shape == b.shape and b.std() > 0 and np.abs(a - b).max() <= 2e-5 * max(1, np.abs(b).max()), name


# ---- what is refused


def nested(path, depth):
    """Graphs, each of which runs the next one twice."""
    net = Net()
    x = net.input(SHAPE)

    def twice(a, left):
        step = net.body(lambda b: twice(b, left - 1), (SHAPE, "float32")) if left else None
        for _ in range(2):
            a = (
                net.op("CALL", [a], net.value(SHAPE), "Call", subgraph=step)
                if left
                else net.op("RELU", [a], net.value(SHAPE))
            )
        return a

    return net.save(path, twice(x, depth))


def test_graphs_that_grow_without_end_are_refused(tmp_path):
    path = nested(tmp_path / "net.tflite", 14)
    assert path.stat().st_size < 20_000
    with pytest.raises(TvmMobilenetError, match="too many operators"):
        load_network(ModelOptions(model=str(path)))
    with pytest.raises(TvmMobilenetError, match="run one another"):
        tflite_graph.read(nested(path, 30))


def test_a_graph_that_runs_itself_is_refused(tmp_path):
    net = Net()
    made = net.op("CALL", [net.input(SHAPE)], net.value(SHAPE), "Call", subgraph=0)
    with pytest.raises(TvmMobilenetError, match="graph 0 runs itself"):
        tflite_graph.read(net.save(tmp_path / "net.tflite", made))


@pytest.mark.parametrize(
    "said, make",
    {
        "STABLEHLO_COMPARE at odd, .*: the comparison 9": lambda net, x: net.op("STABLEHLO_COMPARE", [x, x], net.value(SHAPE, "bool", name="odd"), "StablehloCompare", comparisonDirection=9),
        "STABLEHLO_WHILE at loop, .*: what it runs depends on data": lambda net, x: net.op("STABLEHLO_WHILE", [x], net.value(SHAPE, name="loop"), "StablehloWhile"),
        "STABLEHLO_CUSTOM_CALL at own, .*: a call of mine": lambda net, x: net.op("STABLEHLO_CUSTOM_CALL", [x], net.value(SHAPE, name="own"), "StablehloCustomCall", callTargetName="mine"),
        "STABLEHLO_REDUCE at few, .*: a reduction by STABLEHLO_POWER": lambda net, x: net.op("STABLEHLO_REDUCE", [x, net.constant(np.float32(1))], net.value((1, 8), name="few"), "StablehloReduce", dimensions=[1, 3], bodySubgraphIndex=net.of_two("STABLEHLO_POWER")),
    }.items(),
)  # fmt: skip
def test_what_cannot_be_converted_is_named(said, make, tmp_path):
    net = Net()
    with pytest.raises(TvmMobilenetError, match=f"not supported:\n.*{said}"):
        load_network(ModelOptions(model=str(net.save(tmp_path / "net.tflite", make(net, net.input(SHAPE))))))
