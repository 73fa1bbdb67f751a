"""Cases of ONNX operators on small tensors with various attributes, for `operators` and for tests.

All read ``c``, a feature map (1, 4, 8, 8) of a convolution with different channels, ``s``, another one, or ``g``, (1,
4, 1, 1). Constants other than indices are random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx import helper as h

SHAPE = (1, 4, 8, 8)
GIVEN = ("c", "s", "g", "")
_draw = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """One operator in one way.

    Parameters
    ----------
    operator : str
        Its name in ONNX.
    how : str
        The case's attributes and operands.
    nodes : list of onnx.NodeProto
        The last writes ``y``.
    constants : dict of str to ndarray
    opset : int
    """

    operator: str
    how: str
    nodes: list
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 13

    @property
    def name(self) -> str:
        return f"{self.operator} {self.how}".strip()


def _numbers(*shape: int) -> np.ndarray:
    return (_draw.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


def _positive(*shape: int) -> np.ndarray:
    return np.abs(_numbers(*shape)) + np.float32(0.5)


def _integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def _one(
    operator: str, how: str = "", *constants, reads: Sequence[str] = ("c",), opset: int = 13, **attributes
) -> Case:
    """A node that reads these inputs and then the constants."""
    names = [f"k{i}" for i in range(len(constants))]
    node = h.make_node(operator, [*reads, *names], ["y"], **attributes)
    return Case(operator, how, [node], dict(zip(names, constants, strict=True)), opset)


def _several(operator: str, how: str, *nodes, **constants: np.ndarray) -> Case:
    """Nodes as ``(operator, "inputs", "outputs", attributes)``."""
    made = [
        h.make_node(op, i.split(" ") if i else [], o.split(), **(rest[0] if rest else {})) for op, i, o, *rest in nodes
    ]
    return Case(operator, how, made, constants)


def _unary() -> list[Case]:
    plain = """Abs Neg Exp Floor Ceil Round Sign Sin Cos Tan Tanh Sigmoid Softplus Softsign Elu Selu Erf Relu
    LeakyRelu HardSigmoid Celu ThresholdedRelu Identity Dropout"""
    found = [_one(operator) for operator in plain.split()]
    found += [_one(operator, opset=20) for operator in ("HardSwish", "Mish", "Gelu")]
    found += [
        _one("Gelu", "tanh", opset=20, approximate="tanh"),
        _one("HardSigmoid", "alpha 0.25, beta 0.4", alpha=0.25, beta=0.4),
        _one("LeakyRelu", "alpha 0.2", alpha=0.2),
        _one("Celu", "alpha 2", alpha=2.0),
        _one("Clip", "0 to 6", _number(0), _number(6)),
        _one("Clip", "-0.3 to 0.7", _number(-0.3), _number(0.7)),
        _one("PRelu", "one a channel", _numbers(4, 1, 1)),
        _one("PRelu", "one", _numbers(1)),
        _several("Reciprocal", "of exponentials", ("Exp", "c", "e"), ("Reciprocal", "e", "y")),
        _several("Sqrt", "of squares", ("Mul", "c c", "q"), ("Sqrt", "q", "y")),
        _several("Log", "of exponentials", ("Exp", "c", "e"), ("Log", "e", "y")),
        _several("Max", "and Min: relu6", ("Max", "z c", "m"), ("Min", "m k", "y"), z=_number(0), k=_number(6)),
        _one("BatchNormalization", "", _numbers(4), _numbers(4), _numbers(4), _positive(4)),
    ]
    return found


def _binary() -> list[Case]:
    found = []
    for operator in ("Add", "Sub", "Mul", "Div", "Min", "Max"):
        found += [
            _one(operator, "a constant a channel", _positive(1, 4, 1, 1)),
            _one(operator, "a constant a value", _positive(*SHAPE)),
            _one(operator, "a constant a row", _positive(8, 1)),
            _one(operator, "two tensors", reads=("c", "s")),
            _one(operator, "a value a channel", reads=("c", "g")),
        ]
    return [
        *found,
        _several("Pow", "of positives", ("Abs", "c", "a"), ("Pow", "a k", "y"), k=_positive(1, 4, 1, 1)),
        _several("Sub", "from a number", ("Sub", "k c", "y"), k=_number(1)),
        _several("Div", "of a number", ("Exp", "c", "e"), ("Div", "k e", "y"), k=_number(1)),
        _one("Mod", "fmod 1", _floats(2), fmod=1),
        _one("Mean", "two tensors", reads=("c", "s")),
        _one("Sum", "three tensors", reads=("c", "s", "c")),
        _several("Greater", "as numbers", ("Greater", "c s", "b"), ("Cast", "b", "y", {"to": TensorProto.FLOAT})),
        _several("Equal", "as numbers", ("Equal", "c s", "b"), ("Cast", "b", "y", {"to": TensorProto.FLOAT})),
        _several("Where", "of a comparison", ("Greater", "c s", "b"), ("Where", "b c s", "y")),
        *(
            _several("Cast", f"to {name} and back", ("Cast", "c", "b", {"to": to}), ("Cast", "b", "y", {"to": 1}))
            for name, to in (("int32", 6), ("int64", 7), ("float16", 10))
        ),
    ]


def _product(axes: list[int]) -> Case:
    """A product of numbers within a hundredth of 1 and -1, so that 256 of them neither overflow nor vanish."""
    signs = np.sign(_draw.standard_normal(SHAPE)).astype(np.float32)
    nodes = ("Softsign", "c", "t"), ("Mul", "t k", "m"), ("Add", "m l", "a")
    reduced = ("ReduceProd", "a", "y", {"axes": axes, "keepdims": 1})
    return _several("ReduceProd", f"axes {axes}", *nodes, reduced, k=_number(0.01), l=signs)


def _reductions() -> list[Case]:
    found = []
    for operator in ["Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp"]:
        for axes in ([2, 3], [1], [2], [1, 2, 3]):
            found.append(_one(f"Reduce{operator}", f"axes {axes}", axes=axes, keepdims=1))
    return [
        *found,
        *(_product(axes) for axes in ([2, 3], [1], [2], [1, 2, 3])),
        *(_one("ReduceSum", f"axes {axes}", _integers(*axes), keepdims=1) for axes in ([2, 3], [1], [2], [1, 2, 3])),
        _one("ReduceMean", "axes [2, 3], keepdims 0", axes=[2, 3], keepdims=0),
        _one("ArgMax", "axis 1", axis=1),
        _one("CumSum", "axis 1", np.int64(1)),
        *(_one("Softmax", f"axis {axis}", axis=axis) for axis in (1, 2, -1)),
        _one("LogSoftmax", "axis 1", axis=1),
        _one("LpNormalization", "axis 1", axis=1),
        _one("LpNormalization", "axis 1, p 1", axis=1, p=1),
        _one("InstanceNormalization", "", _numbers(4), _numbers(4)),
        _one("LayerNormalization", "axis -1", _numbers(8), _numbers(8), opset=17, axis=-1),
        _one("LRN", "size 3", size=3),
    ]


def _windows() -> list[Case]:
    pads = {
        "": {},
        "padded": {"pads": [1, 1, 1, 1]},
        "ceil_mode": {"ceil_mode": 1, "strides": [2, 2]},
        "SAME_UPPER": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    }
    found = [
        _one(operator, how, kernel_shape=[3, 3], **given)
        for operator in ("AveragePool", "MaxPool")
        for how, given in pads.items()
    ]
    twice, padded = {"strides": [2, 2]}, {"pads": [1, 1, 1, 1]}
    return [
        *found,
        _one("AveragePool", "counts its padding", kernel_shape=[3, 3], count_include_pad=1, **padded),
        _one("MaxPool", "dilated", kernel_shape=[2, 2], dilations=[2, 2]),
        _one("GlobalAveragePool"),
        _one("GlobalMaxPool"),
        _one("Conv", "dilated", _numbers(6, 4, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2]),
        _one("Conv", "two groups", _numbers(8, 2, 3, 3), group=2, **padded),
        _one("Conv", "depth multiplier 2", _numbers(8, 1, 3, 3), group=4, **padded),
        _one("Conv", "other pads and strides", _numbers(6, 4, 5, 3), pads=[0, 1, 2, 0], strides=[2, 1]),
        _several("Conv", "a tensor as weight", ("Reshape", "s k", "w"), ("Conv", "c w", "y"), k=_integers(8, 4, 2, 4)),
        _several(
            "Conv",
            "one dimension",
            ("Reshape", "c k", "r"),
            ("Conv", "r w", "y"),
            k=_integers(1, 4, 64),
            w=_numbers(6, 4, 3),
        ),
        _one("ConvTranspose", "", _numbers(4, 6, 2, 2), **twice),
        _one("ConvTranspose", "padded", _numbers(4, 6, 3, 3), output_padding=[1, 1], **padded, **twice),
        _one("ConvTranspose", "depthwise", _numbers(4, 1, 4, 4), group=4, **padded, **twice),
        _one("MatMul", "a constant", _numbers(8, 5)),
        _several("MatMul", "two tensors", ("Transpose", "s", "t", {"perm": [0, 1, 3, 2]}), ("MatMul", "c t", "y")),
        _several(
            "Gemm",
            "transB 1, alpha 0.5",
            ("Flatten", "c", "f"),
            ("Gemm", "f w b", "y", {"transB": 1, "alpha": 0.5}),
            w=_numbers(7, 256),
            b=_numbers(7),
        ),
        _one("Einsum", "bchw,cd->bdhw", _numbers(4, 5), equation="bchw,cd->bdhw"),
    ]


def _moves() -> list[Case]:
    none, nothing = np.zeros(0, np.float32), np.zeros(0, np.float32)
    found = []
    for mode in ("nearest", "linear"):
        for places in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
            how = {"mode": mode, "coordinate_transformation_mode": places}
            found.append(_one("Resize", f"{mode}, {places}, scales", none, _floats(1, 1, 2, 2), **how))
            found.append(_one("Resize", f"{mode}, {places}, sizes", none, nothing, _integers(1, 4, 5, 3), **how))
    for rounding in ("floor", "ceil", "round_prefer_ceil"):
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": rounding}
        found.append(_one("Resize", f"nearest, {rounding}", none, _floats(1, 1, 1.5, 2), **how))
    pads = _integers(0, 0, 1, 2, 0, 0, 1, 0)
    found += [_one("Pad", mode, pads, mode=mode) for mode in ("constant", "reflect", "edge", "wrap")]
    for axis in (1, 2, 3):
        found.append(_one("Concat", f"axis {axis}", reads=("c", "s"), axis=axis))
        found.append(_one("Concat", f"axis {axis}, a constant", _numbers(*SHAPE), axis=axis))
    return [
        *found,
        _one("Resize", "cubic", none, _floats(1, 1, 2, 2), mode="cubic"),
        _one("Pad", "with 2", pads, _number(2)),
        _one("Pad", "channels", _integers(0, 0, 0, 0, 0, 2, 0, 0)),
        _several("Split", "halves", ("Split", "c", "a b", {"axis": 1}), ("Mul", "a b", "y")),
        _several(
            "Split",
            "1 and 3",
            ("Split", "c k", "a b", {"axis": 1}),
            ("Concat", "b a", "y", {"axis": 1}),
            k=_integers(1, 3),
        ),
        _one("Slice", "channels", _integers(1), _integers(3), _integers(1)),
        _one("Slice", "rows and columns", _integers(0, 1), _integers(8, 7), _integers(2, 3), _integers(2, 1)),
        _one("Slice", "backwards", _integers(-1), _integers(-9), _integers(2), _integers(-1)),
        _one("Gather", "channels", _integers(2, 0, 1, 3), axis=1),
        _one("Gather", "one channel", np.int64(1), axis=1),
        _one("GatherElements", "axis 3", np.zeros((1, 4, 8, 2), np.int64), axis=3),
        _one("Transpose", "to NHWC", perm=[0, 2, 3, 1]),
        _one("Transpose", "rows and columns", perm=[0, 1, 3, 2]),
        _one("Flatten"),
        _one("Reshape", "", _integers(1, 2, 2, 8, 8)),
        _several(
            "Reshape",
            "channel shuffle",
            ("Reshape", "c k", "r"),
            ("Transpose", "r", "t", {"perm": [0, 2, 1, 3, 4]}),
            ("Reshape", "t l", "y"),
            k=_integers(1, 2, 2, 8, 8),
            l=_integers(*SHAPE),
        ),
        _several("Shape", "", ("Shape", "c", "n"), ("Reshape", "s n", "y")),
        _one("Squeeze", "", _integers(0)),
        _one("Unsqueeze", "", _integers(0)),
        _one("Expand", "", _integers(*SHAPE), reads=("g",)),
        _one("Tile", "", _integers(1, 2, 1, 1)),
        _one("DepthToSpace", "DCR", blocksize=2),
        _one("DepthToSpace", "CRD", blocksize=2, mode="CRD"),
        _one("SpaceToDepth", "", blocksize=2),
        _one("GridSample", "", _numbers(1, 4, 4, 2), opset=20),
    ]


CASES = [*_unary(), *_binary(), *_reductions(), *_windows(), *_moves()]


def write(cases: Sequence[Case], path: Path) -> None:
    """A model of one input ``x``, (1, 3, 8, 8) float32, with an output for each case, ``y_0`` and so on."""
    nodes = [
        h.make_node("Conv", ["x", "w"], ["c"], "c"),
        h.make_node("Conv", ["x", "v"], ["s"], "s"),
        h.make_node("GlobalAveragePool", ["s"], ["g"], "g"),
    ]
    weights = np.random.default_rng(1)
    constants = {name: weights.standard_normal((4, 3, 1, 1)).astype(np.float32) for name in "wv"}
    outputs = []
    for i, case in enumerate(cases):

        def own(name: str, i: int = i) -> str:
            return name if name in GIVEN else f"{name}_{i}"

        for j, node in enumerate(case.nodes):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:], copy.output[:]
            copy.input.extend(map(own, node.input))
            copy.output.extend(map(own, node.output))
            copy.name = f"{case.operator}_{i}_{j}"
            nodes.append(copy)
        constants |= {own(name): np.asarray(value) for name, value in case.constants.items()}
        number = TensorProto.INT64 if case.operator.startswith("Arg") else TensorProto.FLOAT
        outputs.append(h.make_tensor_value_info(own("y"), number, None))
    read = {name for node in nodes for name in node.input} | {o.name for o in outputs}
    nodes = [node for node in nodes if set(node.output) & (read if len(nodes) > 3 else set(node.output))]
    graph = h.make_graph(
        nodes,
        "operators",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in read],
    )
    opset = max(case.opset for case in cases)
    domains = {"": opset} | {node.domain: 1 for node in nodes if node.domain}
    model = h.make_model(graph, opset_imports=[h.make_opsetid(*one) for one in domains.items()])
    model.ir_version = 10
    onnx.save(model, str(path))


NAMES = {  # from ONNX's name to PyTorch's and TFLite's, if these differ
    "Add": ("add", "ADD"),
    "ArgMax": ("argmax", "ARG_MAX"),
    "AveragePool": ("avg_pool2d", "AVERAGE_POOL_2D"),
    "BatchNormalization": ("batch_norm", ""),
    "Cast": ("to", "CAST"),
    "Clip": ("clamp, hardtanh, relu6", "RELU6, RELU_0_TO_1, RELU_N1_TO_1"),
    "Concat": ("cat", "CONCATENATION"),
    "Conv": ("conv2d", "CONV_2D, DEPTHWISE_CONV_2D"),
    "ConvTranspose": ("conv_transpose2d", "TRANSPOSE_CONV"),
    "CumSum": ("cumsum", ""),
    "DepthToSpace": ("pixel_shuffle", "DEPTH_TO_SPACE"),
    "Div": ("div", "DIV"),
    "Elu": ("elu", "ELU"),
    "Expand": ("expand", "BROADCAST_TO"),
    "Gather": ("index_select", "GATHER"),
    "Gelu": ("gelu", "GELU"),
    "Gemm": ("linear", "FULLY_CONNECTED"),
    "GlobalAveragePool": ("adaptive_avg_pool2d", "MEAN"),
    "GlobalMaxPool": ("adaptive_max_pool2d", "REDUCE_MAX"),
    "GridSample": ("grid_sample", ""),
    "HardSigmoid": ("hardsigmoid", ""),
    "HardSwish": ("hardswish", "HARD_SWISH"),
    "InstanceNormalization": ("instance_norm", ""),
    "LayerNormalization": ("layer_norm", ""),
    "LeakyRelu": ("leaky_relu", "LEAKY_RELU"),
    "LpNormalization": ("normalize", "L2_NORMALIZATION"),
    "LogSoftmax": ("log_softmax", "LOG_SOFTMAX"),
    "MatMul": ("matmul", "BATCH_MATMUL"),
    "Max": ("maximum", "MAXIMUM"),
    "MaxPool": ("max_pool2d", "MAX_POOL_2D"),
    "Min": ("minimum", "MINIMUM"),
    "Mul": ("mul", "MUL"),
    "PRelu": ("prelu", "PRELU"),
    "Pad": ("pad", "PAD, PADV2, MIRROR_PAD"),
    "Pow": ("pow", "POW"),
    "ReduceMax": ("amax", "REDUCE_MAX"),
    "ReduceMean": ("mean", "MEAN"),
    "ReduceMin": ("amin", "REDUCE_MIN"),
    "ReduceProd": ("prod", "REDUCE_PROD"),
    "ReduceSum": ("sum", "SUM"),
    "Relu": ("relu", "RELU"),
    "Reshape": ("reshape", "RESHAPE"),
    "Resize": ("interpolate", "RESIZE_BILINEAR, RESIZE_NEAREST_NEIGHBOR"),
    "Sigmoid": ("sigmoid", "LOGISTIC"),
    "Slice": ("slice", "SLICE, STRIDED_SLICE"),
    "Softmax": ("softmax", "SOFTMAX"),
    "SpaceToDepth": ("pixel_unshuffle", "SPACE_TO_DEPTH"),
    "Split": ("split, chunk", "SPLIT, SPLIT_V"),
    "Squeeze": ("squeeze", "SQUEEZE"),
    "Sub": ("sub", "SUB"),
    "Tanh": ("tanh", "TANH"),
    "Tile": ("repeat", "TILE"),
    "Transpose": ("permute", "TRANSPOSE"),
    "Unsqueeze": ("unsqueeze", "EXPAND_DIMS"),
    "Where": ("where", "SELECT, SELECT_V2"),
}
