"""Which of several ranges a value gets: the one that changes the following layers least.

A range may clip, and clipping need not matter: a ReLU6 behind the next layer often clamps the value anyway, and in
sums of residuals few positions are far larger than all others. So the value is rounded by each of its ranges, with
everything else in float32, and the following layers are computed. Where these are a small part of the network, they
are computed to its outputs; else to the next activations, through additions, pools and layers without activation. The
range's height on one image is the ratio of these results to their change, in dB. The mean over all images decides, so
that one unusual image does not decide alone.

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

# Of torchvision's MobileNetV2, 8 crops for choices, 80 images: with a part of 0.35 its scores stand 20.4 dB above
# noise, and choices take 41 CPU-seconds; with none 18.0 dB and 15. Of its ranges none differs between 12 dB and 20,
# between 12 and 6 eight do.
TO_THE_END = 0.35  # of the network's multiply-adds: where less follows, all of it is computed for each range
HOPELESS = 12.0  # dB below the best range on one image: such a range is not tried on the next ones


@dataclass(frozen=True)
class Choice:
    """The range of one value.

    Attributes
    ----------
    scale : Scale
    method : str
        How it was found, one of ``ranges.METHODS``.
    """

    scale: Scale
    method: str


@dataclass
class _Tried:
    """A value, or what a layer has inside, and the ranges that are tried of it.

    Attributes
    ----------
    value : str
    call : LayerCall or None
        Whose inside it is.
    ways : dict of Scale to str
        The ranges, and by which method each was found.
    behind : list of LayerCall
        What is computed.
    ends : set of str
        The values that are looked at.
    heights : ndarray
        Of each range, summed over images; minus infinity of those that are hopeless.
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
        """Try the ranges on one image, of which all values are known; ``power``: sums of squares of those looked at."""
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
    """The ranges of values, and of what calls have inside before a table or an addition.

    Parameters
    ----------
    graph : LayerGraph
        In float32.
    sample : sequence of tuples of ndarray
        On which ranges are tried, each the network's inputs. All values of one of them are held at a time.
    seen, inner : mapping of str to Histogram
        By value, and by call.
    methods : mapping of str to sequence of str
        By value, and by call: those of ``ranges.METHODS`` that are tried.
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
    """Whether a layer is looked at, and what it makes no further: what an activation leaves of a difference counts."""
    return call.layer.activation != "none" or bool(call.layer.declared.function) or call.layer.body is not None


def _carried(calls: Iterable[LayerCall]) -> set[str]:
    """The values of calls through which a difference goes on."""
    return {call.output for call in calls if not _is_end(call)}


def _late(graph: LayerGraph) -> set[str]:
    """The values behind which a small part of the network's multiply-adds is left."""
    left, found = 0, {port.value for port in graph.signature.outputs}
    whole = sum(call.layer.mult_adds for call in graph.calls)
    for call in reversed(graph.calls):
        if left <= TO_THE_END * whole:
            found.add(call.output)
        left += call.layer.mult_adds
    return found


def _behind(graph: LayerGraph, changed: set[str], whole: bool) -> list[LayerCall]:
    """The calls that values reach: all, or those up to the next activations."""
    found, changed = [], set(changed)
    for call in graph.calls:
        if changed.intersection(call.inputs):
            found.append(call)
            changed |= {call.output} if whole else _carried([call])
    return found
