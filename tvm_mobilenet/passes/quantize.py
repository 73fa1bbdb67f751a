"""Layers of float32 converted to int8, with the scales that calibration found on images.

An int8 value ``q`` represents ``(q - zero) * scale``. Each value of the network has one scale and one zero point. Each
output channel of a weight has a step of its own and no zero point. Sums are int32; their biases contain the term that
the data's zero point needs. The factor from a sum to an output is the scale of the data times the step of the weight,
over the scale of the output.

Layers without an integer form (softmax, generic layers that compute) stay in float32, between conversions. Generic
layers that move values move int8 (`passes.moved`). The network's inputs and outputs stay float32. So an image is first
quantized to channels-last, in whole quads of bytes, and the layer that makes the scores writes float32.

The weights do not depend on the core. Their steps are chosen such that the sum of four products of a matrix product, or
of three taps of a depthwise filter, fits an int16 (``Layer.group``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tvm_mobilenet import dtypes, schedules
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.kinds.activation import PER_CHANNEL, SLOPES, bounds
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes import equalize, moved
from tvm_mobilenet.passes.activation_table import table
from tvm_mobilenet.passes.encoding import Whole
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, Port, copying
from tvm_mobilenet.passes.quantization import ASSUMED, DTYPE, Quality, Quantization, Scale
from tvm_mobilenet.passes.whole_weights import HIGH, LOW, group_of, summed, whole_weights

__all__ = ["ASSUMED", "DTYPE", "Quality", "Quantization", "Scale", "integral", "run", "table"]
QUAD = 4  # bytes that a dot product sums at once
MAGIC_SUMS, MAGIC_OUTPUTS = 1 << 22, (1 << 15) - 256  # sums below these are read as floats, see schedules/integers.py


def run(graph: LayerGraph, quantization: Quantization) -> LayerGraph:
    """The graph with its layers in int8, and conversions where necessary."""
    if quantization.given:
        from tvm_mobilenet.passes.quantize_given import QuantizeGiven

        return QuantizeGiven(graph, quantization).run()
    return Quantize(equalize.run(graph, quantization.factors), quantization).run()


def integral(layer: Layer) -> bool:
    """Whether a float32 layer has an integer form. After an addition, a product or a pool, its activation must be a
    clamp; a maximum and a resize by nearest neighbour must have no activation. A PReLU must be of a layer's own sums,
    or a layer of its own.
    """
    if layer.activation == PER_CHANNEL and layer.residual != "none":
        return False
    if layer.dtype != "float32" or layer.body is not None or DTYPE not in schedules.implemented(layer.kind):
        return False
    if layer.op in layer.declared.selects:
        return layer.declared.moves(layer)
    alone = layer.copies or (layer.weight_shape is not None and layer.residual == "none")
    return alone or bounds(layer.activation) is not None


class Quantize:
    """The pass of this module."""

    def __init__(self, graph: LayerGraph, q: Quantization):
        self.graph, self.q, self.made = graph, q, []
        self.kept = {kept.layer for kept in q.kept}
        self.moving = moved.between(graph, self._integral)
        self.scales = self._scales()
        self.held = {p.value: p.dtype for p in graph.signature.inputs}
        self.converted: dict[tuple[str, str], str] = {}
        self.rescaled: dict[tuple[str, Scale], str] = {}
        self.readers = graph.readers()
        self.outputs = {p.value for p in graph.signature.outputs if p.dtype == "float32"}

    def run(self) -> LayerGraph:
        """The graph with its layers in int8.

        Raises
        ------
        TvmMobilenetError
            An output that is to be int8 has no scale.
        """
        for port in self.graph.signature.outputs:
            if port.dtype == DTYPE and self.scales.get(port.value) is None:
                raise TvmMobilenetError(
                    f"output {port.name} cannot be int8: the network came quantized and leaves it in float",
                    "leave out --io",
                )
        for call in self.graph.calls:
            self._call(call)
        names = {p.value: self._in(p.value, p.dtype, p.shape) for p in self.graph.signature.outputs}
        outputs = tuple(self._output(p, names[p.value]) for p in self.graph.signature.outputs)
        return LayerGraph(tuple(self.made), replace(self.graph.signature, outputs=outputs))

    def _scales(self) -> dict[str, Scale]:
        return {value: self.q.scales[value] for value in self.graph.readers()}

    def _call(self, call: LayerCall) -> None:
        if self._integral(call) and not self._copies_float(call):
            self._integer(call)
        elif self._moves(call):
            self._moved(call)
        else:
            self._float(call, call.output)

    def _float(self, call: LayerCall, output: str) -> None:
        """Keep a layer in float32; ``output`` is the name of the value that it writes."""
        due = zip(call.inputs, call.layer.operand_dtypes, call.layer.operand_buffers, strict=True)
        inputs = tuple(self._in(*operand) for operand in due)
        self.made.append(call.replace(inputs=inputs, output=output, marks=None))
        self.held[output] = call.layer.output_dtype

    def _output(self, port: Port, value: str) -> Port:
        scale = self.scales.get(port.value)
        encoding = Whole(scale.step, scale.zero) if port.dtype == DTYPE else None
        return replace(port, value=value, encoding=encoding)

    # ---- conversions

    def _in(self, value: str, dtype: str, shape: tuple[int, ...]) -> str:
        """The name of a value in a dtype: the value itself, or a converted copy."""
        if self.held[value] == dtype:
            return value
        if (value, dtype) not in self.converted:
            name = f"{value}_{dtypes.of(dtype).token}"
            self.converted[value, dtype] = self._convert(copying(shape), value, dtype, self.scales[value], name)
        return self.converted[value, dtype]

    def _convert(self, base: Layer, value: str, dtype: str, scale: Scale, name: str, output: str = "") -> str:
        to_integers = dtype == DTYPE
        layer = base.replace(dtype=DTYPE, reads="float32" if to_integers else "", writes="" if to_integers else dtype)
        ends = (0, scale.zero, LOW, HIGH) if to_integers else (scale.zero, 0, LOW, HIGH)
        constants = {"scale": np.array([scale.step]), "ends": np.array(ends)}
        self.made.append(
            LayerCall(name, layer, f"{value} as {dtype}", (value,), {}, output or name).replace(**constants)
        )
        self.held[output or name] = dtype
        return output or name

    def _image(self, call: LayerCall) -> tuple[str, Layer]:
        """Quantize the float32 image that a convolution reads to channels-last, in whole quads; return the value's
        name, and the convolution as it reads this value.
        """
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
                input_layout=layer.input_layout,
                output_pitch=pitch,
            )
            name = f"{value}_{dtypes.of(DTYPE).token}"
            self.converted[key] = self._convert(base, value, DTYPE, self.scales[value], name)
        return self.converted[key], layer.replace(input_layout="NHWC", input_pitch=pitch)

    # ---- layers

    def _integer(self, call: LayerCall) -> None:
        layer, data = call.layer, call.inputs[0]
        if self.held[data] == "float32" and image(layer):
            value, layer = self._image(call)
        else:
            value = self._in(data, DTYPE, layer.input_shape)
        inputs = [value, *(self._in(v, DTYPE, layer.second_shape) for v in call.inputs[1:])]
        writes = "float32" if plain(layer) and self._floating(call) else ""
        given = self.scales[data]
        if layer.declared.moves(layer):
            self.scales[call.output] = given
        out = self.scales.get(call.output) or Scale(1.0, 0)
        own = given if layer.copies and layer.activation != PER_CHANNEL else self.q.inner.get(call.name) or out
        layer = layer.replace(dtype=DTYPE, writes=writes)
        if call.name in self.q.shifts:
            call = call.replace(bias=call.bias + np.array(self.q.shifts[call.name]))
        constants, layer = constants_of(call, layer, given, own, out, [self.scales[v] for v in call.inputs[1:]])
        made = LayerCall(call.name, layer, call.source, tuple(inputs), {}, call.output, call.parts)
        self.made.append(made.replace(**constants))
        self.held[call.output] = layer.output_dtype

    def _copies_float(self, call: LayerCall) -> bool:
        """Whether a layer copies float32 to an output."""
        copies = call.layer.copies and call.layer.activation == "none"
        return copies and self.held[call.inputs[0]] == "float32" and call.output in self.outputs

    def _moves(self, call: LayerCall) -> bool:
        """Whether a generic layer only moves int8."""
        return call.name in self.moving

    def _moved(self, call: LayerCall) -> None:
        """Move int8, each operand in the scale of the output."""
        layer = call.layer.body.narrow(DTYPE)
        first = self.scales[call.inputs[0]]
        scale = self.scales.get(call.output, first) if moved.joins(call.layer) else first
        each = zip(call.inputs, layer.operand_buffers, strict=True)
        inputs = tuple(self._rescaled(value, scale, shape) for value, shape in each)
        self.made.append(call.replace(layer=layer, inputs=inputs, marks=None))
        self.scales[call.output] = scale
        self.held[call.output] = DTYPE

    def _rescaled(self, value: str, scale: Scale, shape: tuple[int, ...]) -> str:
        """The name of an int8 value in another scale: the value itself, or a converted copy."""
        given, own = self._in(value, DTYPE, shape), self.scales[value]
        if own == scale:
            return given
        if (value, scale) not in self.rescaled:
            name = f"{value}_scale{sum(v == value for v, _ in self.rescaled)}"
            call = LayerCall(
                name, copying(shape).replace(op="rescale"), f"{value} of another scale", (given,), {}, name
            )
            constants, layer = constants_of(call, call.layer.replace(dtype=DTYPE), own, scale, scale, [])
            self.made.append(call.replace(layer=layer, **constants))
            self.rescaled[value, scale] = name
        return self.rescaled[value, scale]

    def _floating(self, call: LayerCall) -> bool:
        """Whether a layer's output has a single reader, which reads float32."""
        value = call.output
        if value in self.outputs and self.readers[value] == 1:
            return True
        readers = [c for c in self.graph.calls if value in c.inputs]
        return len(readers) == 1 == self.readers[value] and not (self._integral(readers[0]) or self._moves(readers[0]))

    def _integral(self, call: LayerCall) -> bool:
        """Whether a call becomes an integer layer."""
        return integral(call.layer) and call.name not in self.kept


def image(layer: Layer) -> bool:
    """Whether a layer is a convolution of an image, whose data is to be laid out in whole quads: it is NCHW, or has
    three channels.
    """
    return layer.kind == "conv" and layer.groups == 1 and (layer.input_layout == "NCHW" or layer.channels % QUAD > 0)


def plain(layer: Layer) -> bool:
    """Whether a layer can write its sums as float32."""
    alone = layer.residual == "none" and layer.activation == "none"
    return layer.weight_shape is not None and alone and layer.output_layout == "NHWC"


def constants_of(
    call: LayerCall, layer: Layer, given: Scale, own: Scale, out: Scale, others: list[Scale]
) -> tuple[dict[str, np.ndarray], Layer]:
    """The constants of a layer, and the layer with the properties that follow from their values: how many products fit
    an int16, whether sums are small, and no clamp where int8 itself is the limit.

    Parameters
    ----------
    given, own, out : Scale
        The scales of the layer's data, of its requantized sums, and of its output.
    others : list of Scale
        The scale of the layer's second operand, if it has one.
    """
    found: dict[str, np.ndarray] = {}
    if layer.weight_shape is not None:
        factors, layer = _weighted(found, call, layer, given, own)
    elif layer.kind == "pool":
        taps = layer.kernel[0] * layer.kernel[1]
        counts = np.arange(1, taps + 1) if layer.op == "mean" else np.array([taps])
        factors = given.step / (out.step * counts)
        found["bias"] = -given.zero * counts[:1]
    else:
        step = given.step * others[0].step if layer.op in ("mul", "scale") else given.step
        factors = np.full(layer.constants["scale"][0] if "scale" in layer.constants else 1, step / out.step)
    if "scale" in layer.constants:
        found["scale"] = factors
    if "below" in layer.constants:
        found["below"] = factors * call.constants[SLOPES].astype(np.float64)
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
        found["table"] = table(layer.activation, own, out, getattr(call.marks, "tables", ""))
    elif bounds(layer.activation) and (low, high) == (LOW, HIGH) and layer.weight_shape and clamps:
        layer = layer.replace(activation="none")
    found["ends"] = np.array(ends)
    layer = layer.replace(small=_small(layer, found) and layer.output_dtype == DTYPE == layer.input_dtype)
    return {name: found[name] for name in layer.constants}, layer


def _clamp(activation: str, scale: Scale) -> tuple[int, int]:
    """The lowest and highest int8 value of an activation that is a clamp."""
    least, most = np.rint(np.array(bounds(activation) or bounds("none")) / scale.step) + scale.zero
    return int(np.clip(least, LOW, HIGH)), int(np.clip(most, LOW, HIGH))


def _weighted(found: dict, call: LayerCall, layer: Layer, given: Scale, own: Scale) -> tuple[np.ndarray, Layer]:
    """Weights, biases and factors of a layer with weights."""
    weight, bias = call.weight, call.bias.astype(np.float64)
    whole, steps = whole_weights(call, given)
    layer = summed(layer.replace(group=group_of(layer)), whole)
    biases = np.rint(bias / (given.step * steps)) - given.zero * whole.sum(1)
    factors = (given.step * steps) / (own.step if layer.output_dtype == DTYPE else 1.0)
    found["weight"], found["bias"] = whole.reshape(weight.shape), biases
    return factors, layer


def _small(layer: Layer, found: Mapping[str, np.ndarray]) -> bool:
    """Whether all sums are below `MAGIC_SUMS`, and their requantized values and the results of an addition below
    `MAGIC_OUTPUTS`, so that they fit an int16.
    """
    if "added" in found and "added" in layer.constants and (HIGH - LOW) * found["added"].sum() >= MAGIC_OUTPUTS:
        return False
    if layer.weight_shape is None:
        taps = layer.kernel[0] * layer.kernel[1]
        most = (HIGH - LOW) ** 2 if layer.op in ("mul", "scale") else (HIGH - LOW) * taps
        factors = found.get("scale", np.zeros(1))[-1:] if layer.op == "mean" else found.get("scale", 0.0)
        furthest = max(np.max(factors), np.max(np.abs(found.get("below", 0.0))))
        return bool(most < MAGIC_SUMS and most * furthest < MAGIC_OUTPUTS)
    whole, biases = found["weight"].reshape(layer.out_channels, -1), found["bias"]
    plus, minus = np.maximum(whole, 0).sum(1), np.maximum(-whole, 0).sum(1)
    most = np.maximum(np.abs(biases + HIGH * plus - LOW * minus), np.abs(biases + LOW * plus - HIGH * minus))
    furthest = np.maximum(found["scale"], np.abs(found.get("below", 0.0)))
    return bool((most < MAGIC_SUMS).all() and (most * furthest < MAGIC_OUTPUTS).all())
