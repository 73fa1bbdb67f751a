"""The choice among several ranges of a value: the one that changes the following layers least.

A range may clip, and clipping need not matter: a ReLU6 after the next layer often clamps the value anyway, and in sums
of residuals a few positions are far larger than all others. So the value is rounded with each of its ranges, with
everything else in float32, and the following layers are computed. If only a small part of the network follows, it is
computed to the outputs. Otherwise it is computed to the next activations, through additions, pools and layers without
activation. The merit of a range on one image, its height, is the ratio of these results to their change, in dB. The
range with the highest mean over all images is taken, so that no single unusual image decides.

In torchvision's MobileNetV2 the sums of the last residuals have spikes of thirty times their root mean square. At half
their range the scores change by 5 dB less, which the mean square error of the sums themselves does not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tvm_mobilenet.compiler.equalization import decibels, highest
from tvm_mobilenet.compiler.float_run import one_thread, outputs, rounded
from tvm_mobilenet.compiler.ranges import Histogram
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.quantize import Scale

# Measured on torchvision's MobileNetV2, with 8 crops for choices and 80 images: at TO_THE_END = 0.35 its scores are
# 20.4 dB above noise, and choices take 41 CPU-seconds; at 0 it is 18.0 dB and 15 s. HOPELESS = 20 gives the same ranges
# as 12; at 6, eight ranges differ.
TO_THE_END = 0.35  # if less than this share of the multiply-adds follows, all of it is computed for each range
HOPELESS = 12.0  # a range that is so many dB below the best on one image is not tried on the next ones


@dataclass(frozen=True)
class Choice:
    """The range of one value.

    Attributes
    ----------
    scale : Scale
    method : str
        The method that found it, one of ``ranges.METHODS``.
    """

    scale: Scale
    method: str


@dataclass
class _Tried:
    """A value, or a layer's value before a table or an addition, and the ranges that are tried for it.

    Attributes
    ----------
    value : str
    call : LayerCall or None
        The layer that has it inside.
    ways : dict of Scale to str
        The ranges, and the method that found each.
    behind : list of LayerCall
        The layers to compute.
    ends : set of str
        The values that are compared.
    heights : ndarray
        The height of each range, summed over images; minus infinity for hopeless ones.
    """

    value: str
    call: LayerCall | None
    ways: dict[Scale, str]
    behind: list[LayerCall]
    ends: set[str]
    heights: np.ndarray = field(init=False)

    def __post_init__(self):
        self.heights = np.zeros(len(self.ways))

    def add(self, values: Mapping[str, np.ndarray], power: Mapping[str, float]) -> None:
        """Try the ranges on one image, whose values are all known. ``power``: sums of squares of these."""
        if len(self.ways) == 1:
            return
        alive = np.isfinite(self.heights)
        own = np.array(
            [self._height(s, values, power) if a else -np.inf for s, a in zip(self.ways, alive, strict=True)]
        )
        self.heights += np.where(own < own.max() - HOPELESS, -np.inf, own)

    def _height(self, scale: Scale, values: Mapping[str, np.ndarray], power: Mapping[str, float]) -> float:
        changed: dict[str, np.ndarray] = {}
        if self.call is None:
            changed[self.value] = rounded(values[self.value], scale)
        for call in self.behind:
            operands = [changed.get(value, values[value]) for value in call.inputs]
            changed[call.output] = outputs(call, operands, inner=scale if call is self.call else None)[1]
        noise = 0.0
        for value in sorted(self.ends & changed.keys()):
            off = changed[value].reshape(-1) - values[value].reshape(-1)
            noise += float(np.square(off, dtype=np.float64).sum()) / max(power[value], 1e-30)
        return decibels(1.0, noise)

    @property
    def best(self) -> Choice:
        """The highest range."""
        scale = list(self.ways)[highest(self.heights)]
        return Choice(scale, self.ways[scale])


def chosen(
    graph: LayerGraph,
    sample: Sequence[tuple[np.ndarray, ...]],
    seen: Mapping[str, Histogram],
    inner: Mapping[str, Histogram],
    methods: Mapping[str, Sequence[str]],
) -> tuple[dict[str, Choice], dict[str, Choice]]:
    """The ranges of values, and of the values that calls have before a table or an addition.

    Parameters
    ----------
    graph : LayerGraph
        In float32.
    sample : sequence of tuples of ndarray
        The inputs on which ranges are tried. All values of one input are held at a time.
    seen, inner : mapping of str to Histogram
        By value, and by call.
    methods : mapping of str to sequence of str
        The methods to try for each value and call, from ``ranges.METHODS``.
    """
    calls = {call.name: call for call in graph.calls}
    outputs_ = {port.value for port in graph.signature.outputs}
    ends, late = outputs_ | {call.output for call in graph.calls if _is_end(call)}, _late(graph)

    def tried(value: str, call: LayerCall | None, histogram: Histogram, own: Sequence[str]) -> _Tried:
        whole = value in late
        behind = _behind(graph, {value} if call is None or whole else _carried([call]), whole)
        first = [] if call is None else [call]
        return _Tried(value, call, _ways(histogram, own), [*first, *behind], outputs_ if whole else ends)

    values = {value: tried(value, None, seen[value], methods[value]) for value in seen}
    inside = {name: tried(calls[name].output, calls[name], inner[name], methods[name]) for name in inner}
    with one_thread():
        for one in sample:
            held = {port.value: np.asarray(x) for port, x in zip(graph.signature.inputs, one, strict=True)}
            for call in graph.calls:
                held[call.output] = outputs(call, [held[value] for value in call.inputs])[1]
            power = {value: float(np.square(held[value], dtype=np.float64).sum()) for value in ends}
            for place in (*values.values(), *inside.values()):
                place.add(held, power)
    return tuple({name: place.best for name, place in places.items()} for places in (values, inside))


def _ways(histogram: Histogram, methods: Sequence[str]) -> dict[Scale, str]:
    """The scales that methods find, each with the first that does."""
    found: dict[Scale, str] = {}
    for method in methods:
        for scale in histogram.scales(method):
            found.setdefault(scale, method)
    return found


def _is_end(call: LayerCall) -> bool:
    """Whether a layer's output is compared and not propagated: it shows how much of a difference an activation
    leaves.
    """
    return call.layer.activation != "none" or bool(call.layer.declared.function) or call.layer.body is not None


def _carried(calls: Iterable[LayerCall]) -> set[str]:
    """The outputs of calls through which a difference propagates."""
    return {call.output for call in calls if not _is_end(call)}


def _late(graph: LayerGraph) -> set[str]:
    """The values after which only a small part of the network's multiply-adds remains."""
    left, found = 0, {port.value for port in graph.signature.outputs}
    whole = sum(call.layer.mult_adds for call in graph.calls)
    for call in reversed(graph.calls):
        if left <= TO_THE_END * whole:
            found.add(call.output)
        left += call.layer.mult_adds
    return found


def _behind(graph: LayerGraph, changed: set[str], whole: bool) -> list[LayerCall]:
    """The calls that depend on the values: all, or those up to the next activations."""
    found, changed = [], set(changed)
    for call in graph.calls:
        if changed.intersection(call.inputs):
            found.append(call)
            changed |= {call.output} if whole else _carried([call])
    return found
