"""Small ONNX graphs that hypothesis draws: what the operators of MobileNet-shaped networks may say, in any order.

`batches` draws several graphs of one opset that share an input, in the manner of PyTorch's exporter (NCHW) or of
TensorFlow's (NHWC, with transposes about each convolution). `written` puts them into one file, an output a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnx import helper as h

OPSETS = (11, 12, 13, 14, 16, 17, 18, 19, 20, 21)
MOST_VALUES = 20_000  # of a tensor
IR_VERSION = 9


@dataclass(repr=False)
class Graph:
    """A graph under construction, of one value after the other.

    Attributes
    ----------
    draw : callable
        Of hypothesis.
    opset : int
    channel : int
        The axis of the channels: 1 or 3.
    value, shape : str, tuple of int
        Of the value that the next operator reads; every value before it stands in ``earlier``.
    """

    draw: Callable
    opset: int
    channel: int
    value: str
    shape: tuple[int, ...]
    rng: np.random.Generator
    nodes: list = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    earlier: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(self.told)

    @property
    def channels(self) -> int:
        return self.shape[self.channel]

    @property
    def space(self) -> tuple[int, int]:
        """The axes of rows and columns."""
        return (2, 3) if self.channel == 1 else (1, 2)

    def pick(self, *values):
        return self.draw(st.sampled_from(values))

    def constant(self, value, dtype=np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def numbers(self, *shape: int, scale: float | None = None) -> np.ndarray:
        scale = np.sqrt(1 / max(1, np.prod(shape[1:]))) if scale is None else scale
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes) -> str | list[str]:
        """A node; its outputs' names."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        node = h.make_node(operator, list(inputs), names, f"{operator}_{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        said = ", ".join(f"{key}={value}" for key, value in attributes.items())
        given = ", ".join(
            f"{np.array2string(self.constants[i].reshape(-1), threshold=8)}{list(self.constants[i].shape)}"
            if i in self.constants and self.constants[i].size <= 8
            else i
            for i in inputs
        )
        self.told.append(f"{operator}({given}; {said}) -> {', '.join(names)}")
        return names[0] if outputs == 1 else names

    def becomes(self, name: str) -> None:
        """The value that the next operator reads is this one from now on."""
        self.earlier.append((self.value, self.shape))
        self.value, self.shape = name, self.shape_of(name)
        self.told[-1] += f" {list(self.shape)}"

    def shape_of(self, name: str) -> tuple[int, ...]:
        """By ONNX's own inference."""
        model = onnx.shape_inference.infer_shapes(model_of([self], self.given, [name], own=False), data_prop=True)
        found = next(v for v in (*model.graph.value_info, *model.graph.output) if v.name == name)
        shape = tuple(d.dim_value for d in found.type.tensor_type.shape.dim)
        assert shape and min(shape) > 0, (name, shape, self.told)
        return shape

    given: tuple[int, ...] = ()  # the shape of the network's input

    def axis(self, *axes: int) -> int:
        """One of these axes, also counted from the end."""
        axis = self.pick(*axes)
        return self.pick(axis, axis - len(self.shape))

    def axes_input(self, operator: str, name: str, axes: list[int], since: int, **attributes) -> str:
        """A node whose axes are an attribute before that opset, an input from then on."""
        if self.opset < since:
            return self.node(operator, name, axes=axes, **attributes)
        return self.node(operator, name, self.constant(axes, np.int64), **attributes)


# ---- steps: each makes one operator, or a pattern that exporters write for one, of the graph's value


def _nchw(graph: Graph, name: str) -> str:
    return name if graph.channel == 1 else graph.node("Transpose", name, perm=[0, 3, 1, 2])


def _back(graph: Graph, name: str) -> str:
    return name if graph.channel == 1 else graph.node("Transpose", name, perm=[0, 2, 3, 1])


def _windowed(graph: Graph, kernel: tuple[int, int], dilations=(1, 1)) -> dict:
    """Attributes of a window that has room: strides, dilations, and pads or auto_pad."""
    size = [graph.shape[a] for a in graph.space]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    found = {"kernel_shape": list(kernel), "strides": graph.pick([1, 1], [2, 2], [2, 1], [1, 3])}
    if list(dilations) != [1, 1]:
        found["dilations"] = list(dilations)
    ways = ["none", "pads", "VALID"]
    if list(dilations) == [1, 1] and all(s <= k for s, k in zip(found["strides"], kernel, strict=True)):
        ways += ["SAME_UPPER", "SAME_LOWER"]  # of others ONNX Runtime has none
    how = graph.pick(*ways)
    most = [k - 1 for k in kernel]  # of the pads of a pool, whatever its dilation
    if any(s < r for s, r in zip(size, reach, strict=True)):
        found["pads"] = [*(-(-(r - 1) // 2) for r in reach)] * 2
    elif how == "pads":
        found["pads"] = [min(m, graph.pick(0, 1, 2)) for m in most * 2]
    elif how != "none":
        found["auto_pad"] = how
    return found


def conv(graph: Graph) -> None:
    kernel = graph.pick((1, 1), (3, 3), (2, 3), (5, 5), (1, 3))
    groups = graph.pick(1, *(d for d in range(1, graph.channels + 1) if graph.channels % d == 0))
    out = groups * graph.pick(1, 2, 3, 4)
    given = _windowed(graph, kernel, graph.pick((1, 1), (1, 1), (2, 2), (1, 2)))
    weight = graph.constant(graph.numbers(out, graph.channels // groups, *kernel))
    bias = [graph.constant(graph.numbers(out, scale=0.5))] * graph.pick(True, False)
    made = graph.node("Conv", _nchw(graph, graph.value), weight, *bias, group=groups, **given)
    graph.becomes(_back(graph, made))


def depthwise(graph: Graph) -> None:
    kernel, times = graph.pick((3, 3), (5, 5), (2, 2)), graph.pick(1, 1, 2, 3)
    weight = graph.constant(graph.numbers(graph.channels * times, 1, *kernel))
    given = _windowed(graph, kernel, graph.pick((1, 1), (2, 2)))
    made = graph.node("Conv", _nchw(graph, graph.value), weight, group=graph.channels, **given)
    graph.becomes(_back(graph, made))


def conv_transpose(graph: Graph) -> None:
    groups = graph.pick(1, graph.channels)
    kernel, strides = graph.pick((2, 2), (3, 3), (4, 4), (3, 2)), graph.pick([1, 1], [2, 2], [2, 1])
    attributes: dict = {"strides": strides, "group": groups}
    how = graph.pick("none", "pads", "output_padding", "SAME_UPPER", "dilations", "output_shape")
    if how in ("pads", "output_padding"):
        attributes["pads"] = [graph.pick(0, 1) for _ in range(4)]
    if how == "output_padding":
        attributes["output_padding"] = [s - 1 for s in strides]
    if how == "SAME_UPPER":
        attributes["auto_pad"] = how
    if how == "dilations":
        attributes["dilations"] = [2, 2]
    if how == "output_shape":
        size = [graph.shape[a] for a in graph.space]
        attributes["output_shape"] = [n * s for n, s in zip(size, strides, strict=True)]
        if any(k < s for k, s in zip(kernel, strides, strict=True)):
            del attributes["output_shape"]
    weight = graph.constant(graph.numbers(graph.channels, graph.pick(1, 2, 3), *kernel, scale=0.3))
    bias = []
    if graph.pick(True, False):
        bias = [graph.constant(graph.numbers(groups * graph.constants[weight].shape[1]))]
    made = graph.node("ConvTranspose", _nchw(graph, graph.value), weight, *bias, **attributes)
    graph.becomes(_back(graph, made))


def average_pool(graph: Graph) -> None:
    given = _windowed(graph, graph.pick((2, 2), (3, 3), (3, 2)))
    given["count_include_pad"] = graph.pick(0, 1)
    given |= {"ceil_mode": 1} if graph.pick(True, False, False) and "auto_pad" not in given else {}
    graph.becomes(_back(graph, graph.node("AveragePool", _nchw(graph, graph.value), **given)))


def max_pool(graph: Graph) -> None:
    fits = min(graph.shape[a] for a in graph.space) > 4
    dilations = graph.pick((1, 1), (1, 1), (2, 2)) if fits else (1, 1)
    given = _windowed(graph, graph.pick((2, 2), (3, 3), (3, 2)), dilations)
    given |= {"ceil_mode": 1} if graph.pick(True, False, False) and "auto_pad" not in given else {}
    graph.becomes(_back(graph, graph.node("MaxPool", _nchw(graph, graph.value), **given)))


def concat(graph: Graph) -> None:
    """The value beside itself, what an activation makes of it, an earlier value that fits, a constant."""
    axis = graph.axis(1, 1, 2, 3)
    place = axis % len(graph.shape)
    fit = [
        name
        for name, shape in graph.earlier
        if len(shape) == len(graph.shape)
        and all(a == b for i, (a, b) in enumerate(zip(shape, graph.shape, strict=True)) if i != place)
    ]
    parts = [graph.value]
    for _ in range(graph.pick(1, 1, 2)):
        other = graph.pick("activation", "earlier", "constant", "itself", "conv")
        if other == "earlier" and fit:
            parts.append(graph.pick(*fit))
        elif other == "constant":
            shape = list(graph.shape)
            shape[place] = graph.pick(1, 2, 5)
            parts.append(graph.constant(graph.numbers(*shape, scale=1.0)))
        elif other == "itself":
            parts.append(graph.value)
        elif other == "conv" and place == graph.channel:
            out = graph.pick(1, 4, 7)
            weight = graph.constant(graph.numbers(out, graph.channels, 1, 1))
            parts.append(_back(graph, graph.node("Conv", _nchw(graph, graph.value), weight)))
        else:
            parts.append(graph.node(graph.pick("Relu", "Sigmoid"), graph.value))
    if graph.pick(True, False):
        parts = parts[::-1]
    graph.becomes(graph.node("Concat", *parts, axis=axis))


def split(graph: Graph) -> None:
    """Along an axis; the parts are multiplied, joined the other way about, or one of them goes on."""
    axis = graph.axis(graph.channel, graph.channel, 1, 2, 3)
    size = graph.shape[axis % len(graph.shape)]
    if size < 2:
        return
    first = size // 2 if size % 2 == 0 and graph.pick(True, False) else graph.draw(st.integers(1, size - 1))
    sizes = [first, size - first]
    if sizes[0] == sizes[1] and graph.pick(True, False):
        more = {"num_outputs": 2} if graph.opset >= 18 else {}
        parts = graph.node("Split", graph.value, outputs=2, axis=axis, **more)
    elif graph.opset < 13:
        parts = graph.node("Split", graph.value, outputs=2, axis=axis, split=sizes)
    else:
        parts = graph.node("Split", graph.value, graph.constant(sizes, np.int64), outputs=2, axis=axis)
    how = graph.pick("joined", "first", "last", "gated")
    if how == "gated" and sizes[0] == sizes[1]:
        graph.becomes(graph.node("Mul", parts[0], graph.node("Sigmoid", parts[1])))
    elif how == "joined":
        graph.becomes(graph.node("Concat", parts[1], graph.node("Relu", parts[0]), axis=axis))
    else:
        graph.becomes(parts[how == "last"])


def slice_(graph: Graph) -> None:
    axis = graph.axis(graph.channel, 1, 2, 3)
    size = graph.shape[axis % len(graph.shape)]
    first = graph.draw(st.integers(0, size - 1))
    last = graph.draw(st.integers(first + 1, size))
    step = graph.pick(1, 1, 2, -1)
    bounds = (first, graph.pick(last, 1 << 40) if last == size else last) if step > 0 else (last - 1, first - 1 - size)
    values = [*bounds, axis, step] if step > 0 else [bounds[0], bounds[1] if first else -(1 << 40), axis, step]
    if graph.pick(True, False) and step > 0:
        values[0] -= size
    given = [graph.constant([v], np.int64) for v in values]
    graph.becomes(graph.node("Slice", graph.value, *given))


def resize(graph: Graph) -> None:
    mode = graph.pick("nearest", "nearest", "linear", "linear", "cubic")
    places = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    places += ["tf_half_pixel_for_nn"] if graph.opset < 13 and mode == "nearest" else []
    places += ["half_pixel_symmetric"] if graph.opset >= 19 else []
    how: dict = {"mode": mode, "coordinate_transformation_mode": graph.pick(*places)}
    if mode == "nearest":
        how["nearest_mode"] = graph.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode == "cubic":
        how["cubic_coeff_a"] = graph.pick(-0.75, -0.5)
    size = [graph.shape[a] for a in graph.space]
    roi = graph.constant(np.zeros(0)) if graph.opset < 13 else ""
    if graph.pick(True, False):
        factors = graph.pick([2.0, 2.0], [1.5, 2.0], [0.5, 0.5], [4.0, 1.0])
        if any((n * f) % 1 for n, f in zip(size, factors, strict=True)):
            factors = [2.0, 3.0]
        scales = [1.0] * 4
        for axis, factor in zip(graph.space, factors, strict=True):
            scales[axis] = factor
        made = graph.node("Resize", graph.value, roi, graph.constant(scales), **how)
    else:
        wanted = list(graph.shape)
        for axis in graph.space:
            wanted[axis] = graph.draw(st.integers(1, 12))
        scales = graph.constant(np.zeros(0)) if graph.opset < 13 else ""
        made = graph.node("Resize", graph.value, roi, scales, graph.constant(wanted, np.int64), **how)
    graph.becomes(made)


def pad(graph: Graph) -> None:
    widths = np.zeros((2, 4), np.int64)
    for axis in graph.space:
        widths[:, axis] = graph.pick(0, 1, 2), graph.pick(0, 1, 2)
    mode = graph.pick("constant", "constant", "reflect", "edge")
    if mode == "reflect":
        widths = np.minimum(widths, np.array(graph.shape) - 1)
    if mode == "constant" and graph.pick(True, False, False):
        widths[1, graph.channel] = graph.pick(1, 3)
    given = [graph.constant(widths.reshape(-1), np.int64)]
    if mode == "constant" and graph.pick(True, False):
        given.append(graph.constant(graph.pick(0.0, 0.0, 1.5)))
    graph.becomes(graph.node("Pad", graph.value, *given, mode=mode))


def activation(graph: Graph) -> None:
    graph.becomes(graph.pick(*_ACTIVATIONS)(graph))


def _plain(graph: Graph) -> str:
    plain = ["Relu", "Sigmoid", "Tanh", "Softplus", "Elu", "Selu", "Erf", "Abs", "Neg", "Exp", "Softsign"]
    plain += ["HardSwish"] if graph.opset >= 14 else []
    plain += ["Mish"] if graph.opset >= 18 else []
    plain += ["Gelu"] if graph.opset >= 20 else []
    return graph.node(graph.pick(*plain), graph.value)


def _leaky(graph: Graph) -> str:
    return graph.node("LeakyRelu", graph.value, alpha=graph.pick(0.01, 0.1, 0.3, 1.5, -0.2))


def _prelu(graph: Graph) -> str:
    shape = [1] * 3
    shape[graph.channel - 1] = graph.channels
    shape = graph.pick(shape, [1, *shape], [1], [1] * 3)
    return graph.node("PRelu", graph.value, graph.constant(graph.numbers(*shape, scale=0.4)))


def _hard_sigmoid(graph: Graph) -> str:
    slopes = graph.pick({}, {"alpha": 1 / 6}, {"alpha": 0.25, "beta": 0.4}, {"alpha": 1 / 6, "beta": 0.5})
    return graph.node("HardSigmoid", graph.value, **slopes)


def _hard_swish(graph: Graph) -> str:
    """In the ways in which it is written."""
    x, how = graph.value, graph.pick("hardsigmoid", "relu6 * x", "x / 6", "clip")
    if how == "hardsigmoid":
        return graph.node("Mul", x, _hard_sigmoid(graph))
    if how == "clip":
        a, b = graph.pick((1 / 6, 0.5), (0.2, 0.5), (0.25, 0.3))
        line = graph.node("Add", graph.node("Mul", x, graph.constant(a)), graph.constant(b))
        return graph.node("Mul", graph.node("Clip", line, graph.constant(0), graph.constant(1)), x)
    gate = _six(graph, graph.node("Add", x, graph.constant(3.0)))
    sixth = graph.pick(True, False)

    def divided(name: str) -> str:
        return graph.node("Mul" if sixth else "Div", name, graph.constant(1 / 6 if sixth else 6.0))

    return divided(graph.node("Mul", x, gate)) if how == "relu6 * x" else graph.node("Mul", divided(x), gate)


def _six(graph: Graph, x: str) -> str:
    """ReLU6, in the ways in which it is written."""
    how = graph.pick("clip", "min max", "max min", "relu min", "clips")
    six, zero = graph.constant(6.0), graph.constant(0.0)
    if how == "clip":
        return graph.node("Clip", x, zero, six)
    if how == "min max":
        return graph.node("Min", six, graph.node("Max", x, zero))
    if how == "max min":
        return graph.node("Max", graph.node("Min", x, six), zero)
    if how == "relu min":
        return graph.node("Min", graph.node("Relu", x), six)
    return graph.node("Clip", graph.node("Clip", x, zero), "", six)


def _relu6(graph: Graph) -> str:
    return _six(graph, graph.value)


def _clip(graph: Graph) -> str:
    low, high = graph.pick((0, 1), (-1, 1), (-0.3, 0.7), (0, 20), (None, 0.5), (-0.5, None))
    given = ["" if v is None else graph.constant(v) for v in (low, high)]
    if graph.pick(True, False, False):  # written as a maximum and a minimum
        bounded = graph.node("Max", graph.value, given[0]) if given[0] else graph.value
        return graph.node("Min", given[1], bounded) if given[1] else bounded
    return graph.node("Clip", graph.value, *(given if given[1] else given[:1]))


def _swish(graph: Graph) -> str:
    both = graph.value, graph.node("Sigmoid", graph.value)
    return graph.node("Mul", *(both if graph.pick(True, False) else both[::-1]))


_ACTIVATIONS = (_plain, _leaky, _prelu, _hard_sigmoid, _hard_swish, _relu6, _clip, _swish)


def normalised(graph: Graph) -> None:
    """Divided by its L2 norm along an axis, in the ways in which it is written."""
    axis, x = graph.axis(graph.channel, graph.channel, 2), graph.value
    how = graph.pick("LpNormalization", "ReduceL2", "ReduceSum")
    if how == "LpNormalization":
        made = graph.node("LpNormalization", x, axis=axis, p=graph.pick(1, 2))
    elif how == "ReduceL2":
        norm = graph.axes_input("ReduceL2", x, [axis], 18, keepdims=1)
        made = graph.node("Div", x, graph.node("Clip", norm, graph.constant(1e-12)))
    else:
        total = graph.axes_input("ReduceSum", graph.node("Mul", x, x), [axis], 13, keepdims=1)
        root = graph.node("Sqrt", graph.node("Add", total, graph.constant(1e-5)))
        made = graph.node("Div", x, root)
    graph.becomes(made)


def softmax(graph: Graph) -> None:
    """Over an axis of more than one value: else it is one everywhere, and a comparison shows nothing."""
    axes = [a for a in (1, 2, 3) if graph.shape[a] > 1]
    if axes:
        operator = graph.pick("Softmax", "Softmax", "LogSoftmax")
        graph.becomes(graph.node(operator, graph.value, axis=graph.axis(*axes)))


def reduced(graph: Graph) -> None:
    """A mean, sum or maximum over some axes, which stay."""
    operator, since = graph.pick(("ReduceMean", 18), ("ReduceMax", 18), ("ReduceSum", 13), ("ReduceMin", 18))
    axes = graph.pick(list(graph.space), [graph.channel], [2], [graph.space[0], graph.channel], [-1], [1, 2, 3])
    graph.becomes(graph.axes_input(operator, graph.value, axes, since, keepdims=1))


def gate(graph: Graph) -> None:
    """Squeeze-and-excite: a value a channel, (N, C, 1, 1) or (N, 1, 1, C)."""
    x, channels = graph.value, graph.channels
    if graph.channel == 1 and graph.pick(True, False):
        squeezed = graph.node("GlobalAveragePool", x)
    else:
        squeezed = graph.axes_input("ReduceMean", x, list(graph.space), 18, keepdims=1)
    weight = graph.constant(graph.numbers(channels, channels, 1, 1))
    excited = _back(graph, graph.node("Conv", _nchw(graph, squeezed), weight))
    excited = graph.node(graph.pick("Sigmoid", "HardSigmoid", "Relu"), excited)
    graph.becomes(graph.node("Mul", *((x, excited) if graph.pick(True, False) else (excited, x))))


def arithmetic(graph: Graph) -> None:
    """With a number, a number a channel, one a row, a whole constant, or an earlier value of the shape."""
    operator = graph.pick("Add", "Mul", "Sub", "Div", "Max", "Min")
    per_channel = [1] * 4
    per_channel[graph.channel] = graph.channels
    fit = [name for name, shape in graph.earlier if shape == graph.shape]
    how = graph.pick("number", "channel", "row", "whole", "earlier", "itself")
    if how in ("earlier", "itself"):
        other = graph.pick(*fit) if fit and how == "earlier" else graph.node("Sigmoid", graph.value)
        operator = {"Div": "Sub"}.get(operator, operator)
    else:
        row = [graph.shape[2], 1]
        shape = {"number": graph.pick([], [1], [1, 1, 1, 1]), "channel": per_channel, "row": row, "whole": graph.shape}
        other = graph.constant(np.abs(graph.numbers(*shape[how], scale=1.0)) + 0.5)
    swapped = graph.pick(True, False) and operator != "Div"
    graph.becomes(graph.node(operator, *((other, graph.value) if swapped else (graph.value, other))))


def batch_norm(graph: Graph) -> None:
    n = graph.channels
    given = [graph.numbers(n, scale=1.0), graph.numbers(n, scale=1.0), graph.numbers(n, scale=1.0)]
    given.append(np.abs(graph.numbers(n, scale=1.0)) + 0.5)
    x = _nchw(graph, graph.value)
    made = graph.node("BatchNormalization", x, *map(graph.constant, given), epsilon=graph.pick(1e-5, 1e-3))
    graph.becomes(_back(graph, made))


def shuffled(graph: Graph) -> None:
    """Channel shuffle, or blocks of pixels and channels."""
    if graph.channel == 1 and graph.channels % 2 == 0 and graph.pick(True, False):
        n, c, height, width = graph.shape
        cut = graph.node("Reshape", graph.value, graph.constant([n, 2, c // 2, height, width], np.int64))
        moved = graph.node("Transpose", cut, perm=[0, 2, 1, 3, 4])
        graph.becomes(graph.node("Reshape", moved, graph.constant([n, c, height, width], np.int64)))
    elif graph.channel == 1 and graph.channels % 4 == 0:
        graph.becomes(graph.node("DepthToSpace", graph.value, blocksize=2, mode=graph.pick("DCR", "CRD")))


def transposed(graph: Graph) -> None:
    """A head's last words: the channels last, rows and columns as one."""
    moved = graph.node("Transpose", graph.value, perm=[0, 2, 3, 1] if graph.channel == 1 else [0, 1, 2, 3])
    graph.becomes(graph.node("Reshape", moved, graph.constant([0, -1, graph.pick(1, graph.channels)], np.int64)))


def dense(graph: Graph) -> None:
    """Flattened, or averaged, and a product."""
    count = int(np.prod(graph.shape[1:]))
    flat = graph.node("Flatten", graph.value, axis=1)
    if graph.pick(True, False):
        weight = graph.constant(graph.numbers(5, count))
        graph.becomes(graph.node("Gemm", flat, weight, graph.constant(graph.numbers(5)), transB=1))
    else:
        graph.becomes(graph.node("MatMul", flat, graph.constant(graph.numbers(5, count).T.copy())))


STEPS = (conv, depthwise, conv_transpose, average_pool, max_pool, concat, split, slice_, resize, pad, activation)
STEPS += (activation, normalised, softmax, reduced, gate, arithmetic, batch_norm, shuffled)
ENDS = (transposed, dense)


@st.composite
def graphs(draw, opset: int, given: tuple[int, int, int, int]) -> Graph:
    """A graph of one to four steps behind a convolution, or of the input itself."""
    channel = draw(st.sampled_from((1, 3)))
    graph = Graph(draw, opset, channel, "x", given, np.random.default_rng(draw(st.integers(0, 999))), given=given)
    if channel == 3:
        graph.becomes(_back(graph, "x"))
    if draw(st.sampled_from((True, True, True, False))):
        weight = graph.constant(graph.numbers(draw(st.sampled_from((1, 4, 6, 8, 16, 17))), given[1], 1, 1, scale=1.0))
        graph.becomes(_back(graph, graph.node("Conv", _nchw(graph, graph.value), weight)))
    for _ in range(draw(st.integers(1, 4))):
        if np.prod(graph.shape) < MOST_VALUES:
            draw(st.sampled_from(STEPS))(graph)
    if draw(st.sampled_from((True, False, False))):
        draw(st.sampled_from(ENDS))(graph)
    if all(node.op_type in ("Transpose", "Reshape", "Flatten") for node in graph.nodes):
        activation(graph)
    return graph


@st.composite
def batches(draw, count: int) -> list[Graph]:
    """Graphs of one opset and one input, (N, C, H, W)."""
    opset = draw(st.sampled_from(OPSETS))
    given = (
        draw(st.sampled_from((1, 1, 2))),
        draw(st.sampled_from((3, 1, 4))),
        *draw(st.tuples(*[st.integers(4, 9)] * 2)),
    )
    return [draw(graphs(opset, given)) for _ in range(count)]


def model_of(of: list[Graph], given: tuple[int, ...], outputs: list[str] | None = None, own: bool = True):
    """One model of several graphs, whose values have the graph's number before their names."""
    nodes, constants = [], {}
    for i, graph in enumerate(of):

        def name_of(name: str, i: int = i) -> str:
            return name if name in ("x", "") or not own else f"g{i}_{name}"

        for node in graph.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:], copy.output[:]
            copy.input.extend(map(name_of, node.input))
            copy.output.extend(map(name_of, node.output))
            copy.name = name_of(node.name)
            nodes.append(copy)
        constants |= {name_of(name): value for name, value in graph.constants.items()}
    outputs = outputs or [f"g{i}_{graph.value}" for i, graph in enumerate(of)]
    made = h.make_graph(
        nodes,
        "drawn",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [h.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [h.make_opsetid("", of[0].opset)]
    return h.make_model(made, opset_imports=opset, ir_version=IR_VERSION)


def in_float64(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a float32 model, computed in float64 by ONNX's own reference; transposed convolutions, of which
    it cuts the weights of a group wrongly, by PyTorch."""
    import torch
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class ConvTranspose(OpRun):
        """As ONNX describes it: what the pads leave of all that the windows reach."""

        def _run(self, x, w, b=None, dilations=None, group=1, output_padding=None, pads=None, strides=None, **others):
            size, mode, steps = others.get("output_shape"), others.get("auto_pad"), strides or (1, 1)
            x, w, b = (None if v is None else torch.from_numpy(np.asarray(v, np.float64)) for v in (x, w, b))
            how = {"output_padding": output_padding or 0, "dilation": dilations or 1, "groups": group or 1}
            whole = torch.nn.functional.conv_transpose2d(x, w, b, stride=tuple(steps), **how).numpy()
            height, width = whole.shape[2:]
            if mode in ("SAME_UPPER", "SAME_LOWER"):
                size = [n * s for n, s in zip(x.shape[2:], steps, strict=True)]
            if size:
                total = [n - to for n, to in zip((height, width), size, strict=True)]
                less = [n // 2 if mode == "SAME_UPPER" else n - n // 2 for n in total]
                pads = [*less, *(n - few for n, few in zip(total, less, strict=True))]
            top, left, bottom, right = pads or (0, 0, 0, 0)
            return (whole[:, :, top : height - bottom, left : width - right],)

    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for kept in wide.graph.initializer:
        if kept.data_type == TensorProto.FLOAT:
            kept.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kept).astype(np.float64), kept.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return ReferenceEvaluator(wide, new_ops=[ConvTranspose]).run(
        None, {name: array.astype(np.float64) for name, array in inputs.items()}
    )
