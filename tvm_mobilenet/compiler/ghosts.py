"""Ghost modules of a graph: a depthwise layer, and the concatenation of its data with its output.

    x ─┬────────────────▶ concatenation ─▶ [ + another value ]
       └─▶ depthwise ───▶

In a fused block these calls are one part of kind ``ghost``, so that the concatenated tensor has each row written once,
or never leaves the cache. Outside of fused blocks they stay apart: `compiler.views` then lets both layers write their
channels of the tensor.

A ghost layer applies its activation to all channels. So the data must not change by it: there is none, or it is a clamp
that the data's own layer has applied. An addition that follows the concatenation becomes its residual.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mobilenet.compiler import views
from tvm_mobilenet.kinds import activation
from tvm_mobilenet.layer import ImpossibleLayerError, Layer
from tvm_mobilenet.passes.layer_graph import LayerCall
from tvm_mobilenet.schedules import implemented


def at(calls: Sequence[LayerCall], first: int) -> list[LayerCall]:
    """The ghost modules that begin with a call, the longest first: each as one call, whose ``parts`` are the calls that
    it replaces.
    """
    if first + 1 >= len(calls):
        return []
    call, concatenation = calls[first : first + 2]
    made = _joined(call, concatenation)
    if made is None:
        return []
    added = _added(made, calls[first + 2]) if first + 2 < len(calls) else None
    return [made] if added is None else [added, made]


def joined(calls: Sequence[LayerCall]) -> list[LayerCall]:
    """The parts of a fused block for the calls that it replaces."""
    found: list[LayerCall] = []
    i = 0
    while i < len(calls):
        part = next(iter(at(calls, i)), calls[i])
        found.append(part)
        i += len(part.originals)
    return found


def unchanged(maker: Layer, ghost: Layer) -> bool:
    """Whether a ghost layer's activation does not change its data, which ``maker`` wrote."""
    if ghost.residual != "none" or ghost.activation == "none":
        return True
    return maker.residual != "after" and not activation.changes(ghost.activation, maker.activation)


def _joined(call: LayerCall, concatenation: LayerCall) -> LayerCall | None:
    """The ghost module of a depthwise layer and the concatenation that follows it; None if it is none."""
    layer = call.layer
    if layer.kind != "depthwise" or layer.dtype not in implemented("ghost") or layer.residual != "none":
        return None
    if not views.joins(concatenation) or concatenation.inputs != (call.inputs[0], call.output):
        return None
    if layer.input_layout != layer.output_layout or {layer.input_dtype, layer.output_dtype} != {layer.dtype}:
        return None
    body = concatenation.layer.body
    if body.view.axis != 3 or body.operands != (layer.input_shape, layer.output_shape):
        return None
    try:
        ghost = layer.replace(kind="ghost", out_channels=2 * layer.channels)
    except ImpossibleLayerError:  # its windows have no middle
        return None
    parts = (call, concatenation)
    return LayerCall(call.name, ghost, call.source, call.inputs, call.constants, concatenation.output, parts)


def _added(ghost: LayerCall, call: LayerCall) -> LayerCall | None:
    """A ghost module with the addition that follows it; None if another call follows."""
    layer, value = call.layer, ghost.output
    if not layer.declared.identity or layer.op != "add" or ghost.layer.activation != "none":
        return None
    if call.inputs.count(value) != 1 or layer.input_shape != ghost.layer.output_shape:
        return None
    if {*layer.operand_dtypes, layer.output_dtype} != {ghost.layer.dtype} or layer.activation == activation.PER_CHANNEL:
        return None
    other = next(v for v in call.inputs if v != value)
    whole = ghost.layer.replace(residual="before", activation=layer.activation)
    return ghost.replace(layer=whole, inputs=(*ghost.inputs, other), output=call.output, parts=(*ghost.parts, call))
