"""Layers in int8, with the scales that a network came with.

Its marks (`passes.marks`) say which values are rounded to int8, and where. A layer becomes int8 if its data and output
are rounded and its weights came as integers. It then computes as the layers that `quantize` makes of calibrated
networks. A layer that only moves values, such as a concatenation or a slice, moves bytes. All other layers
stay in float32, as in the file: between conversions, and with their output rounded if they have a mark.
"""

from __future__ import annotations

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.activation import of_sums
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes import marks, moved
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, copying
from tvm_mobilenet.passes.quantize import (
    DTYPE,
    Quantization,
    Quantize,
    Scale,
    image,
    plain,
)
from tvm_mobilenet.passes.whole_weights import HIGH, LOW, whole_weights

_MOST = 1 << 31  # limit of a sum
_LATER = "later"  # a value that is rounded when it gets a reader


def found(graph: LayerGraph, io: str = "float32") -> Quantization | None:
    """The scales that a graph came with, for such inputs and outputs; None if it came without."""
    if not marks.known(graph):
        return None
    own = [(call, call.marks) for call in graph.calls if call.marks is not None]
    return Quantization(
        {call.output: m.output for call, m in own if m.output is not None},
        {call.name: m.inner for call, m in own if m.inner is not None},
        io=io,
        given=True,
    )


class QuantizeGiven(Quantize):
    """The pass of this module."""

    def __init__(self, graph: LayerGraph, q: Quantization):
        super().__init__(graph, q)
        self.later: dict[str, tuple[str, Layer]] = {}  # values still to be rounded: float value, layer

    def _scales(self) -> dict[str, Scale]:
        return dict(self.q.scales)

    def _call(self, call: LayerCall) -> None:
        if marks.rounds(call):
            self.later[call.output] = call.inputs[0], call.layer
            self.held[call.output] = _LATER
        elif self._whole(call):
            self._integer(self._of_image(call))
        elif self._moves(call):
            self._moved(call)
        elif call.output in self.scales:  # computed in float32, then rounded as in the file
            raw = f"{call.output}_raw"
            self._float(call, raw)
            self._rounded(raw, call.output, call.layer.output_shape)
        else:
            self._float(call, call.output)

    # ---- which layers are integer

    def _whole(self, call: LayerCall) -> bool:
        """Whether a layer computes in integers."""
        layer, out = call.layer, self.scales.get(call.output)
        if not self._integral(call) or any(v not in self.scales for v in call.inputs):
            return False
        given = self.scales[call.inputs[0]]
        if layer.declared.moves(layer):
            return out in (None, given)
        if layer.weight_shape is None:
            return out is not None
        if call.marks is None or call.marks.steps is None or not (out or plain(layer)):
            return False
        inner = layer.residual != "none" or not of_sums(layer.activation)
        return (call.name in self.q.inner or not inner) and _fits(call, given)

    def _moves(self, call: LayerCall) -> bool:
        """Whether a generic layer only moves integers: all of its operands have scales. They are one scale, that of the
        output, unless it is a concatenation to a scale of its own.
        """
        scales, out = [self.scales.get(v) for v in call.inputs], self.scales.get(call.output)
        if not moved.moves(call.layer) or None in scales:
            return False
        if out is not None and moved.joins(call.layer):
            return True
        return all(s == scales[0] for s in scales) and out in (None, scales[0])

    def _floating(self, call: LayerCall) -> bool:
        return call.output not in self.scales

    # ---- values

    def _of_image(self, call: LayerCall) -> LayerCall:
        """A convolution that reads a rounded image, changed to read the image itself and to round it to whole quads."""
        data = call.inputs[0]
        if self.held[data] != _LATER or not image(call.layer):
            return call
        given = self.later[data][0]
        known = self.scales.setdefault(given, self.scales[data])
        if self.held[given] != "float32" or known != self.scales[data]:
            return call
        return call.replace(inputs=(given, *call.inputs[1:]))

    def _in(self, value: str, dtype: str, shape: tuple[int, ...]) -> str:
        if self.held[value] == _LATER:
            given, copy = self.later[value]
            self._rounded(self._in(given, "float32", copy.input_shape), value, copy.input_shape)
        return super()._in(value, dtype, shape)

    def _rounded(self, raw: str, value: str, shape: tuple[int, ...]) -> None:
        """Round a float32 value to int8."""
        self._convert(copying(shape), raw, DTYPE, self.scales[value], f"{value}_{dtypes.of(DTYPE).token}", value)


def _fits(call: LayerCall, given: Scale) -> bool:
    """Whether all sums of a layer fit an int32."""
    whole, steps = whole_weights(call, given)
    biases = np.abs(call.bias.astype(np.float64) / (given.step * steps))
    return bool((biases + np.abs(whole).sum(1) * (HIGH - LOW) < _MOST).all())
