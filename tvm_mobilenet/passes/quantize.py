"""Layers of float32 in int8, by the scales that were found on images.

An int8 value ``q`` stands for ``(q - zero) * scale``; each value of the network has one scale and one zero point, each
output channel of a weight a step of its own and no zero point. Sums are int32, their biases have the data's zero point
taken out, and what they are multiplied by is scale of the data times step over scale of the output.

What has no integer form (softmax, generic layers) stays in float32, between conversions. The network's inputs and
outputs stay as they are: the first layer's data is quantized to channels-last in whole quads of bytes, the layer that
makes scores writes float32.

What a core could do better with other weights is decided here once, for all of them: four products of a matrix product
and three taps of a depthwise filter fit an int16, since steps are chosen so (``Layer.group``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from tvm_mobilenet import dtypes, schedules
from tvm_mobilenet.kinds.integers import CLAMPS, TABLE
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph

DTYPE = "int8"
LOW, HIGH = -128, 127
STEPS = 127  # of a weight: -128 is left out, so that two products fit an int16
SHORT = 255  # of the magnitudes of weights whose products with int8 are summed in an int16
QUAD = 4  # bytes that dot products sum at once
GROUPS = {"products": 4, "taps": 3}  # what an int16 sums
MAGIC_SUMS, MAGIC_OUTPUTS = 1 << 22, (1 << 15) - 256  # below which sums are read as floats, see schedules/integers.py
LEAST = 2.0**-60


@dataclass(frozen=True)
class Scale:
    """Of a value: ``(q - zero) * step``."""

    step: float
    zero: int

    def of(self, values: np.ndarray) -> np.ndarray:
        """Values as int8, as integers of no particular dtype."""
        return np.clip(np.rint(values / self.step) + self.zero, LOW, HIGH)


@dataclass(frozen=True)
class Quantization:
    """What is decided of a network's int8: once, when it is built.

    Attributes
    ----------
    scales : dict of str to Scale
        Of each value that a layer of int8 reads or writes.
    inner : dict of str to Scale
        By call: of the value before a table or an addition that is fused into it.
    shifts : dict of str to tuple of float
        By call: what is added to the biases of its output channels, since rounded weights shift the mean of its sums.
    images : str
        On which they were found, in words.
    io : str
        Of the network's inputs and outputs.
    kept : tuple of mixed.Kept
        Calls that stay in float.
    """

    scales: Mapping[str, Scale]
    inner: Mapping[str, Scale]
    shifts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    images: str = ""
    io: str = "float32"
    kept: tuple = ()

    dtype, wide, largest = DTYPE, (), ()  # as a `precision.Precision` has them

    def summary(self) -> str:
        """One line for people."""
        told = f"scales of {len(self.scales)} values, found on {self.images}"
        if self.kept:
            floats = " and ".join(sorted({kept.dtype for kept in self.kept}))
            told += f"; {len(self.kept)} layer{'s' * (len(self.kept) > 1)} in {floats}"
        return told

    def applied(self, graph: LayerGraph) -> LayerGraph:
        """A graph in float32 as it says."""
        from tvm_mobilenet.passes import mixed

        return mixed.run(graph, self)

    def to_data(self) -> dict:
        """Plain data for JSON."""
        return {"dtype": DTYPE, **asdict(self)}

    @classmethod
    def from_data(cls, data: Mapping) -> Quantization:
        """Of plain data."""
        scales = {name: {v: Scale(**s) for v, s in data[name].items()} for name in ("scales", "inner")}
        shifts = {name: tuple(values) for name, values in data["shifts"].items()}
        from tvm_mobilenet.passes.mixed import Kept

        kept = tuple(Kept(**one) for one in data.get("kept", ()))
        return cls(**scales, shifts=shifts, images=data["images"], io=data["io"], kept=kept)


class _Any(dict):
    """The same scale for whatever value."""

    def __missing__(self, value: str) -> Scale:
        return Scale(1 / 32, 0)

    def get(self, value: str, default=None) -> Scale:
        return self[value]


ASSUMED = Quantization(_Any(), _Any(), images="none: costs do not depend on scales")


def run(graph: LayerGraph, quantization: Quantization) -> LayerGraph:
    """The graph with its layers in int8, and conversions where they are needed."""
    return _Quantize(graph, quantization).run()


def integral(layer: Layer) -> bool:
    """Whether a layer of float32 has an integer form: of activations behind an addition, a product or a pool those that
    are clamps, behind a maximum none."""
    if layer.dtype != "float32" or layer.body is not None or DTYPE not in schedules.implemented(layer.kind):
        return False
    if layer.op == "max":
        return layer.activation == "none"
    alone = layer.copies or (layer.weight_shape is not None and layer.residual == "none")
    return alone or layer.activation in CLAMPS


class _Quantize:
    def __init__(self, graph: LayerGraph, q: Quantization):
        self.graph, self.q, self.made = graph, q, []
        self.kept = {kept.layer for kept in q.kept}
        self.scales = {value: q.scales[value] for value in graph.readers()}
        self.held = {p.value: p.dtype for p in graph.signature.inputs}
        self.converted: dict[tuple[str, str], str] = {}
        self.readers = graph.readers()
        self.outputs = {p.value for p in graph.signature.outputs}

    def run(self) -> LayerGraph:
        for call in self.graph.calls:
            if not self._integral(call):
                due = zip(call.inputs, call.layer.operand_dtypes, call.layer.operand_buffers, strict=True)
                inputs = tuple(self._in(*operand) for operand in due)
                self.made.append(call.replace(inputs=inputs))
                self.held[call.output] = call.layer.output_dtype
            else:
                self._integer(call)
        names = {p.value: self._in(p.value, p.dtype, p.shape) for p in self.graph.signature.outputs}
        outputs = tuple(replace(p, value=names[p.value]) for p in self.graph.signature.outputs)
        return LayerGraph(tuple(self.made), replace(self.graph.signature, outputs=outputs))

    # ---- conversions

    def _in(self, value: str, dtype: str, shape: tuple[int, ...]) -> str:
        """A value in a dtype: itself, or a copy."""
        if self.held[value] == dtype:
            return value
        if (value, dtype) not in self.converted:
            channels = shape[-1] if shape else 1
            positions = int(np.prod(shape, dtype=np.int64)) // channels
            base = Layer(kind="elementwise", op="none", height=positions, channels=channels, out_channels=channels)
            self.converted[value, dtype] = self._convert(base, value, dtype)
        return self.converted[value, dtype]

    def _convert(self, base: Layer, value: str, dtype: str) -> str:
        scale = self.scales[value]
        to_integers = dtype == DTYPE
        layer = base.replace(dtype=DTYPE, reads="float32" if to_integers else "", writes="" if to_integers else dtype)
        ends = (0, scale.zero, LOW, HIGH) if to_integers else (scale.zero, 0, LOW, HIGH)
        name = f"{value}_{dtypes.of(dtype).token}"
        constants = {"scale": np.array([scale.step]), "ends": np.array(ends)}
        self.made.append(LayerCall(name, layer, f"{value} as {dtype}", (value,), {}, name).replace(**constants))
        self.held[name] = dtype
        return name

    def _image(self, call: LayerCall) -> tuple[str, Layer]:
        """The data of a convolution that reads float32 NCHW: quantized to channels-last, in whole quads."""
        layer, value = call.layer, call.inputs[0]
        key = value, "image"
        pitch = -(-layer.channels // QUAD) * QUAD
        pitch = pitch if pitch > layer.channels else 0
        if key not in self.converted:
            base = Layer(
                kind="elementwise",
                op="none",
                height=layer.height,
                width=layer.width,
                channels=layer.channels,
                out_channels=layer.channels,
                batch=layer.batch,
                input_layout="NCHW",
                output_pitch=pitch,
            )
            self.converted[key] = self._convert(base, value, DTYPE)
        return self.converted[key], layer.replace(input_layout="NHWC", input_pitch=pitch)

    # ---- layers

    def _integer(self, call: LayerCall) -> None:
        layer, data = call.layer, call.inputs[0]
        if self.held[data] == "float32" and layer.kind == "conv" and layer.input_layout == "NCHW" and layer.groups == 1:
            value, layer = self._image(call)
        else:
            value = self._in(data, DTYPE, layer.input_shape)
        inputs = [value, *(self._in(v, DTYPE, layer.second_shape) for v in call.inputs[1:])]
        scores = call.output in self.outputs and self.readers[call.output] == 1
        floating = scores or self._reads_float(call.output)
        plain = layer.weight_shape and layer.residual == "none" and layer.activation == "none"
        writes = "float32" if plain and floating and layer.output_layout == "NHWC" else ""
        given = self.scales[data]
        if layer.op == "max" or (layer.copies and layer.activation == "none"):  # its values are some of the data's
            self.scales[call.output] = given
        out = self.scales[call.output]
        own = given if layer.copies else self.q.inner.get(call.name) or out
        layer = layer.replace(dtype=DTYPE, writes=writes)
        if call.name in self.q.shifts:
            call = call.replace(bias=call.bias + np.array(self.q.shifts[call.name]))
        constants, layer = constants_of(call, layer, given, own, out, [self.scales[v] for v in call.inputs[1:]])
        made = LayerCall(call.name, layer, call.source, tuple(inputs), {}, call.output, call.parts)
        self.made.append(made.replace(**constants))
        self.held[call.output] = layer.output_dtype

    def _reads_float(self, value: str) -> bool:
        """Whether a value's only reader has no integer form."""
        readers = [c for c in self.graph.calls if value in c.inputs]
        return len(readers) == 1 == self.readers[value] and not self._integral(readers[0])

    def _integral(self, call: LayerCall) -> bool:
        """Whether a call becomes one of integers."""
        return integral(call.layer) and call.name not in self.kept


def constants_of(
    call: LayerCall, layer: Layer, given: Scale, own: Scale, out: Scale, others: list[Scale]
) -> tuple[dict[str, np.ndarray], Layer]:
    """The constants of a layer, and the layer with what they allow: groups in an int16, small sums, no clamp.

    Parameters
    ----------
    given, own, out : Scale
        Of its data, of what its sums become, and of what it writes.
    others : list of Scale
        Of its second operand.
    """
    found: dict[str, np.ndarray] = {}
    if layer.weight_shape is not None:
        factors, layer = _weighted(found, call, layer, given, own)
    elif layer.kind == "pool":
        taps = layer.kernel[0] * layer.kernel[1]
        factors = np.array([given.step / (out.step * taps)])
        if layer.op == "avg":
            found["bias"] = np.array([-given.zero * taps])
    else:
        factors = np.array([given.step * others[0].step / out.step]) if layer.op in ("mul", "scale") else None
    if "scale" in layer.constants:
        found["scale"] = factors
    low, high = LOW, HIGH
    clamps = layer.residual != "before"
    if clamps and layer.output_dtype == DTYPE:
        low, high = _clamp(layer.activation, own)
    ends = [given.zero, own.zero, low, high]
    if others:
        sum_low, sum_high = (LOW, HIGH) if layer.residual == "after" else _clamp(layer.activation, out)
        ends += [others[0].zero, out.zero, sum_low, sum_high]
        left = own if layer.residual != "none" else given
        found["added"] = np.array([left.step / out.step, others[0].step / out.step])
        if layer.op in ("mul", "scale"):
            ends[2:4] = sum_low, sum_high
            ends[1] = out.zero
    if "table" in layer.constants:
        found["table"] = table(layer.activation, own, out)
    elif layer.activation != "none" and (low, high) == (LOW, HIGH) and layer.weight_shape and clamps:
        layer = layer.replace(activation="none")
    found["ends"] = np.array(ends)
    layer = layer.replace(small=_small(layer, found) and layer.output_dtype == DTYPE == layer.input_dtype)
    return {name: found[name] for name in layer.constants}, layer


def _clamp(activation: str, scale: Scale) -> tuple[int, int]:
    """The lowest and highest value of an activation that is a clamp."""
    if activation not in ("relu", "relu6"):
        return LOW, HIGH
    low = max(LOW, scale.zero)
    return low, min(HIGH, int(np.rint(6 / scale.step)) + scale.zero) if activation == "relu6" else HIGH


def whole_weights(call: LayerCall, given: Scale) -> tuple[np.ndarray, np.ndarray]:
    """The weights (n, taps) of a layer as whole numbers, and their steps (n,)."""
    weight, bias = call.weight.astype(np.float64), call.bias.astype(np.float64)
    flat = weight.reshape(len(weight), -1)
    steps = steps_of(call.layer.replace(group=_group(call.layer)), flat, bias / given.step)
    return np.clip(np.rint(flat / steps[:, None]), -STEPS, STEPS), steps


def _weighted(found: dict, call: LayerCall, layer: Layer, given: Scale, own: Scale) -> tuple[np.ndarray, Layer]:
    """Weights, biases and factors of a layer with weights."""
    weight, bias = call.weight, call.bias.astype(np.float64)
    layer = layer.replace(group=_group(layer))
    whole, steps = whole_weights(call, given)
    biases = np.rint(bias / (given.step * steps)) - given.zero * whole.sum(1)
    factors = (given.step * steps) / (own.step if layer.output_dtype == DTYPE else 1.0)
    found["weight"], found["bias"] = whole.reshape(weight.shape), biases
    return factors, layer


def _small(layer: Layer, found: Mapping[str, np.ndarray]) -> bool:
    """Whether all sums are below `MAGIC_SUMS`, and what they become, and what an addition makes, within an int16."""
    if "added" in found and "added" in layer.constants and (HIGH - LOW) * found["added"].sum() >= MAGIC_OUTPUTS:
        return False
    if layer.weight_shape is None:
        taps = layer.kernel[0] * layer.kernel[1]
        most = (HIGH - LOW) ** 2 if layer.op in ("mul", "scale") else (HIGH - LOW) * taps
        return most < MAGIC_SUMS and (found.get("scale") is None or most * found["scale"][0] < MAGIC_OUTPUTS)
    whole, biases = found["weight"].reshape(layer.out_channels, -1), found["bias"]
    plus, minus = np.maximum(whole, 0).sum(1), np.maximum(-whole, 0).sum(1)
    most = np.maximum(np.abs(biases + HIGH * plus - LOW * minus), np.abs(biases + LOW * plus - HIGH * minus))
    return bool((most < MAGIC_SUMS).all() and (most * found["scale"] < MAGIC_OUTPUTS).all())


def _group(layer: Layer) -> int:
    if layer.declared.pixels:
        return GROUPS["products"]
    return GROUPS["taps"] if layer.declared.groups == "channels" else 0


def steps_of(layer: Layer, flat: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """The step of each output channel: its largest weight in `STEPS`, the groups that an int16 sums within `SHORT`, and
    its bias within an int32. Rounded up to 12 bits.

    Parameters
    ----------
    flat : (n, taps) float64
    biases : (n,) float64
        Over the scale of the data.
    """
    steps = np.abs(flat).max(1) / STEPS
    if layer.group:
        sums = np.abs(grouped(layer, flat)).sum(2).max(1)
        steps = np.maximum(steps, sums / (SHORT - layer.group / 2))
    steps = np.maximum(steps, np.abs(biases) / (1 << 30))
    return rounded_up(np.maximum(steps, LEAST))


def grouped(layer: Layer, flat: np.ndarray) -> np.ndarray:
    """Weights (n, groups, members) by the groups that are summed in an int16, zeros where there are none.

    Of a matrix product the members are eight apart (``schedules/integer_products.py``), of a depthwise filter
    neighbours.
    """
    n, taps = flat.shape
    if layer.declared.pixels:
        block = 8 * layer.group
        padded = np.pad(flat, ((0, 0), (0, -taps % block)))
        return padded.reshape(n, -1, layer.group, 8).transpose(0, 1, 3, 2).reshape(n, -1, layer.group)
    return np.pad(flat, ((0, 0), (0, -taps % layer.group))).reshape(n, -1, layer.group)


def rounded_up(values: np.ndarray, bits: int = 12) -> np.ndarray:
    """To so many significant bits, so that what differs in its last digits from CPU to CPU becomes equal."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.ceil(mantissa * (1 << bits)) / (1 << bits), exponent)


def table(activation: str, before: Scale, after: Scale) -> np.ndarray:
    """What an activation makes of each int8 value."""
    x = (np.arange(LOW, LOW + TABLE) - before.zero) * before.step
    return after.of(_FUNCTIONS[activation](x)).astype(np.int8)


_FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
}
