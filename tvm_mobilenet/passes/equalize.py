"""Equalization: factors that make all channels of a value about equally large, since an int8 tensor has a single scale.

The weights and biases of the layer that makes a value are multiplied by the factors, and the weights of its readers are
divided by them (Nagel et al., 2019). The float32 result stays the same. Values that are added to each other share their
factors. Between the two layers only linear operators, a ReLU, a PReLU or a clamp may stand. A ReLU6 clamps a channel
with a factor f at 6 / f. So does the int8 range of such a value, which never exceeds six. Both are harmless if the
channel stays smaller than that; `compiler/equalization.py` tests it on images that the factors were not made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tvm_mobilenet.kinds.activation import PER_CHANNEL, bounds, parsed
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph

SLOPED = ("leaky", PER_CHANNEL)  # activations with two slopes


@dataclass(frozen=True)
class Group:
    """Values that share their factors.

    Attributes
    ----------
    values : tuple of str
    channels : int
    readers : tuple of str
        Names of the calls whose weights are divided.
    """

    values: tuple[str, ...]
    channels: int
    readers: tuple[str, ...]


def groups(graph: LayerGraph) -> list[Group]:
    """The groups of values that can be equalized in a float32 graph, in execution order."""
    sets = _Sets()
    fixed = {port.value for port in (*graph.signature.inputs, *graph.signature.outputs)}
    for call in graph.calls:
        fixed.update(_tied(call, sets))
    fixed = {sets.of(value) for value in fixed}
    makers: dict[str, list[LayerCall]] = {}
    for call in graph.calls:
        makers.setdefault(sets.of(call.output), []).append(call)
    found = []
    for root, made in makers.items():
        values = tuple(call.output for call in made)
        channels = {call.layer.out_channels for call in made}
        readers = [c for c in graph.calls if _weighted(c) and sets.of(c.inputs[0]) == root]
        channels |= {c.layer.channels for c in readers}
        if root not in fixed and len(channels) == 1 and readers:
            found.append(Group(values, channels.pop(), tuple(c.name for c in readers)))
    return found


def _weighted(call: LayerCall) -> bool:
    return call.layer.weight_shape is not None and not call.layer.parts


def _tied(call: LayerCall, sets: _Sets) -> set[str]:
    """Join the values of a call that share factors, and return those that can have none."""
    layer, (data, *others) = call.layer, call.inputs
    scalable = layer.body is None and _scalable(layer.activation) and layer.output_layout == "NHWC"
    fixed = set() if scalable else {call.output, *others}
    if layer.input_layout != "NHWC":
        fixed.update(call.inputs)
    if _weighted(call):
        fixed.update({data} if layer.groups != 1 and not _by_channel(call) else ())
        for value in others:
            sets.join(value, call.output)
    elif layer.kind == "pool" or (layer.kind == "elementwise" and layer.op in ("add", "sub", "none")):
        for value in call.inputs:
            sets.join(value, call.output)
    else:
        fixed.update((call.output, *call.inputs))
    return fixed


def _scalable(activation: str) -> bool:
    """Whether an activation f has f(factor * x) = factor * f(x), as far as it does not clamp."""
    low, high = bounds(activation) or (1.0, 0.0)
    return parsed(activation)[0] in SLOPED or low <= 0 <= high


def _by_channel(call: LayerCall) -> bool:
    return call.layer.declared.groups == "channels" and call.layer.out_channels == call.layer.channels


class _Sets:
    """Disjoint sets of values; each set is named by one of its members."""

    def __init__(self):
        self._parent: dict[str, str] = {}

    def of(self, value: str) -> str:
        while value in self._parent:
            value = self._parent[value]
        return value

    def join(self, a: str, b: str) -> None:
        a, b = self.of(a), self.of(b)
        if a != b:
            self._parent[a] = b


def read_by(call: LayerCall, factors: np.ndarray) -> np.ndarray:
    """The weights of a layer whose data is multiplied by the factors."""
    weight = call.weight.astype(np.float64)
    if _by_channel(call):
        return weight / factors.reshape(-1, *[1] * (weight.ndim - 1))
    return weight / factors.reshape(1, -1, *[1] * (weight.ndim - 2))


def run(graph: LayerGraph, factors: Mapping[str, np.ndarray]) -> LayerGraph:
    """The graph with the values in ``factors`` multiplied by these, channel by channel."""
    return replace(graph, calls=tuple(_scaled(call, factors) for call in graph.calls)) if factors else graph


def _scaled(call: LayerCall, factors: Mapping[str, np.ndarray]) -> LayerCall:
    if not _weighted(call):
        return call
    if call.inputs[0] in factors:
        call = call.replace(weight=read_by(call, np.asarray(factors[call.inputs[0]])))
    if call.output in factors:
        own = np.asarray(factors[call.output])
        weight = call.weight * own.reshape(-1, *[1] * (call.weight.ndim - 1))
        call = call.replace(weight=weight, bias=call.bias * own)
    return call
