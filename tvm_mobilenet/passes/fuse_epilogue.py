"""Activation, residual add and the last change of layout, fused into the layer before them.

An element-wise layer is fused into the layer that makes its data if it is the only reader of that data. A residual add
is fused into the later of the two layers that it adds, when the other operand already exists. It goes ``before`` the
activation if that layer has none yet, ``after`` it otherwise.

``x + x * gate`` is ``x * (1 + gate)``, and a clamped gate of an own layer can be made one larger by its bias: the sum
needs no layer then, as in PaddleOCR's feature pyramids.
"""

from __future__ import annotations

import numpy as np

from tvm_mobilenet.kinds.activation import PER_CHANNEL, PLAIN, bounds, named
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes import marks
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.quantize import integral


def run(graph: LayerGraph, integer: bool = False) -> LayerGraph:
    """The graph with its epilogues fused. ``integer``: the layers are to become int8."""
    integer = integer or marks.known(graph)
    count = graph.readers()
    kept: dict[str, LayerCall] = {}
    for call in graph.calls:
        for fuse in (_activation, _residual, _layout, *([] if integer else [_shortcut])):
            fused = fuse(call, kept, count)
            if fused is not None and not (integer and _only_float(fused[1].layer)):
                producer, call = fused
                del kept[producer]
                break
        kept[call.output] = call
    return graph.with_calls(kept.values())


def _only_float(layer: Layer) -> bool:
    """Whether an activation with numbers or slopes keeps a layer from an integer form."""
    return layer.activation not in PLAIN and not integral(layer) and integral(layer.replace(activation="none"))


def _only_reader(value: str, kept: dict[str, LayerCall], count) -> LayerCall | None:
    """The layer that makes a value, if the value has only one reader."""
    producer = kept.get(value)
    return producer if producer is not None and count[value] == 1 else None


def _activation(call: LayerCall, kept: dict, count) -> tuple[str, LayerCall] | None:
    layer, producer = call.layer, _only_reader(call.inputs[0], kept, count)
    if not (layer.copies and layer.activation != "none"):
        return None
    if producer is None or producer.layer.activation != "none" or producer.layer.residual == "after":
        return None
    declared = producer.layer.declared
    if not declared.epilogue or layer.input_layout != layer.output_layout:
        return None
    if layer.activation == PER_CHANNEL and declared.weight_shape is None and not declared.identity:
        return None
    made = _extended(producer, call, producer.layer.replace(activation=layer.activation), "activation")
    return made and (producer.output, made)


def _residual(call: LayerCall, kept: dict, count) -> tuple[str, LayerCall] | None:
    if not (call.layer.declared.identity and call.layer.op == "add" and call.layer.activation == "none"):
        return None
    order = list(kept)
    operands = sorted(call.inputs, key=lambda v: order.index(v) if v in order else -1, reverse=True)
    for value, other in (operands, operands[::-1]):
        producer = _only_reader(value, kept, count)
        if producer is None or producer.layer.weight_shape is None or producer.layer.residual != "none":
            continue
        if other in order and order.index(other) > order.index(value):
            continue
        where = "before" if producer.layer.activation == "none" else "after"
        fused = _extended(producer, call, producer.layer.replace(residual=where), "residual")
        if fused is None:
            continue
        return producer.output, fused.replace(inputs=(*fused.inputs, other))
    return None


def _shortcut(call: LayerCall, kept: dict, count) -> tuple[str, LayerCall] | None:
    """The sum of a tensor and of the same tensor times a gate, as one product."""
    if not (call.layer.declared.identity and call.layer.op == "add" and call.layer.residual == "none"):
        return None
    for value, other in (call.inputs, call.inputs[::-1]):
        scale = _only_reader(value, kept, count)
        if scale is None or (scale.layer.op, scale.layer.activation) != ("scale", "none"):
            continue
        gate = _only_reader(scale.inputs[1], kept, count)
        if scale.inputs[0] != other or gate is None or (larger := _one_larger(gate)) is None:
            continue
        kept[gate.output] = larger
        layer = scale.layer.replace(activation=call.layer.activation)
        return value, scale.replace(layer=layer, output=call.output, name=call.name, source=call.source)
    return None


def _one_larger(gate: LayerCall) -> LayerCall | None:
    """The layer whose output is that of this one plus one; None if its activation is no clamp to finite numbers."""
    layer, factor, offset, ends = gate.layer, 1.0, 0.0, bounds(gate.layer.activation)
    if layer.activation == "hardsigmoid":
        factor, offset, ends = 1 / 6, 0.5, (0.0, 1.0)
    if layer.weight_shape is None or layer.parts or layer.residual != "none":
        return None
    if ends is None or not np.isfinite(ends).all():
        return None
    weight, bias = gate.weight * factor, gate.bias * factor + (offset + 1)
    return gate.replace(
        layer=layer.replace(activation=named("clip", ends[0] + 1, ends[1] + 1)), weight=weight, bias=bias
    )


def _layout(call: LayerCall, kept: dict, count) -> tuple[str, LayerCall] | None:
    """The copy that writes an output as NCHW, fused into the layer before it."""
    layer, producer = call.layer, _only_reader(call.inputs[0], kept, count)
    copy = layer.copies and layer.activation == "none" and layer.output_layout == "NCHW"
    if not copy or layer.input_layout == "NCHW" or producer is None:
        return None
    made: Layer = producer.layer
    if made.residual != "none":  # its other operand is channels-last
        return None
    sizes = (layer.batch, layer.height, layer.width) if not made.declared.with_rows else ()
    if made.out_channels != layer.channels or (sizes and sizes != (made.batch, made.out_height, made.out_width)):
        return None  # it permutes other dimensions
    if made.declared.with_rows:  # a matrix product has no rows and columns: it becomes a convolution again
        geometry = {"height": layer.height, "width": layer.width, "batch": layer.batch}
        made = made.replace(kind=made.declared.with_rows, **geometry)
        producer = producer.replace(weight=producer.weight.reshape(made.weight_shape))
    elif not made.declared.writes_nchw or len(producer.inputs) > 1:
        return None
    extended = _extended(producer, call, made.replace(output_layout="NCHW"), "layout")
    return extended and (producer.output, extended)


def _extended(producer: LayerCall, call: LayerCall, layer: Layer, what: str) -> LayerCall | None:
    """The producer as this layer, which also computes the call; None if the scales of a quantized network forbid it."""
    joined = marks.fused(producer, call, what)
    if joined is None:
        return None
    return producer.replace(
        layer=layer,
        output=call.output,
        name=call.name,
        marks=joined if joined != marks.NONE else None,
        **call.constants,  # slopes
    )
