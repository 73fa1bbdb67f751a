"""Batch norm, bias, scale and shift, folded into the weights.

`channels_last` makes every one of these a depthwise 1x1 layer: ``y = weight * x + bias`` by channel. Such a layer is
folded into the convolution or product before it if it is the only reader of that layer's output. A norm before a
convolution is folded into that convolution if this is its only reader, and if the convolution does not pad or the shift
is zero; otherwise zeros of the padding would become the shift. A layer that cannot be folded remains.
"""

from __future__ import annotations

import numpy as np

from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.marks import scaled


def run(graph: LayerGraph) -> LayerGraph:
    """The graph with its affine layers folded."""
    count = graph.readers()
    kept: dict[str, LayerCall] = {}
    for call in graph.calls:
        before = kept.get(call.inputs[0])
        if _is_affine(call) and before is not None and count[before.output] == 1 and _bare(before):
            del kept[before.output]
            call = _into_previous(before, call)
        elif (
            before is not None
            and _is_affine(before)
            and count[before.output] == 1
            and call.weight is not None
            and (not any(call.layer.padding) or not before.bias.any())
            and before.output not in call.inputs[1:]
            and before.layer.channels == call.layer.channels
        ):
            del kept[before.output]
            call = _into_next(before, call)
        kept[call.output] = call
    return graph.with_calls(kept.values())


def _is_affine(call: LayerCall) -> bool:
    layer = call.layer
    plain = layer.kernel == layer.stride == (1, 1) and not any(layer.padding)
    return layer.declared.groups == "channels" and plain and layer.activation == "none" and layer.residual == "none"


def _bare(call: LayerCall) -> bool:
    layer = call.layer
    return layer.weight_shape is not None and layer.activation == "none" and layer.residual == "none"


def _into_previous(before: LayerCall, affine: LayerCall) -> LayerCall:
    scale = affine.weight.reshape(-1).astype(np.float64)
    weight = before.weight * scale.reshape(-1, *[1] * (before.weight.ndim - 1))
    bias = before.bias * scale + affine.bias
    marks = scaled(before.marks, scale)
    return before.replace(weight=weight, bias=bias, output=affine.output, name=affine.name, marks=marks)


def _into_next(affine: LayerCall, call: LayerCall) -> LayerCall:
    layer = call.layer
    scale, shift = affine.weight.reshape(-1).astype(np.float64), affine.bias.astype(np.float64)
    out, per_group = call.weight.shape[:2] if call.weight.ndim == 2 else (layer.out_channels, call.weight.shape[1])
    # the input channel of each weight: first the group of the output channel, then the place in the group
    group = np.arange(out) // (out // layer.groups)
    channel = group[:, None] * per_group + np.arange(per_group)[None, :]
    tail = [1] * (call.weight.ndim - 2)
    taps = call.weight.astype(np.float64).reshape(out, per_group, -1).sum(-1)
    weight = call.weight * scale[channel].reshape(out, per_group, *tail)
    bias = call.bias + (taps * shift[channel]).sum(1)
    # weights that came as integers are no longer integers
    return call.replace(weight=weight, bias=bias, inputs=(affine.inputs[0], *call.inputs[1:]), marks=None)
