"""Find the layers of an int8 network that cost most accuracy, and the fewest that must stay in float for a drop within
a limit.

1. **The cost of each layer.** On some images one layer at a time is computed in int8, all others in float32. The mean
   square of the change of the scores is the layer's error. Errors of layers are nearly independent, so they add up, and
   the cost of a layer is its share of the sum.
2. **The number of layers in float.** Layers are kept in float in the order of their cost: 1, 2, 4, … of them until the
   limit holds, then the least number that suffices. Then each of them, the cheapest first, returns to int8 if the limit
   allows it.

A network is computed layer by layer as its kernels compute it (`checking.integers`, value for value). Layers in float
are computed in the float dtype of the target. In float16 their values and weights are float16, but sums are float32,
because the kernels' step-by-step sums would take minutes. With labels the drop is that of top-1. Without labels it is
the share of images whose best class differs from the float network's, which is at least as large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvm_mobilenet.checking import integers, reference
from tvm_mobilenet.compiler import kept_float, quantization
from tvm_mobilenet.compiler.network import with_decided
from tvm_mobilenet.models.options import FLOAT32
from tvm_mobilenet.passes import equalize, quantize
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.mixed import Kept

IMAGES = 8  # images of step 1: an error is a mean over all scores of an image, so few suffice

Values = dict[str, np.ndarray]
Show = Callable[[Callable[[], str]], None]


@dataclass(frozen=True)
class LayerCost:
    """The cost of computing one layer in int8.

    Attributes
    ----------
    layer, source : str
        The call's name in the float32 graph, and its place in the model.
    share : float
        Share of the sum of all layers' errors.
    """

    layer: str
    source: str
    share: float


@dataclass(frozen=True)
class Point:
    """A network with some layers in float.

    Attributes
    ----------
    kept : tuple of str
        Their calls.
    accuracy, drop : float
        Shares of 1: top-1 and its drop below the float network's. Without labels: the share of images with the float
        network's class, and of all others.
    cycles : float or None
        Predicted, on one core; None: not estimated.
    """

    kept: tuple[str, ...]
    accuracy: float
    drop: float
    cycles: float | None = None


@dataclass(frozen=True)
class Choice:
    """The layers that stay in float, and the record of their choice.

    Attributes
    ----------
    limit : float
        The drop that was allowed.
    costs : tuple of LayerCost
        For all int8 layers, the largest cost first.
    points : tuple of Point
        The computed networks, by the number of layers in float.
    chosen : Point
    images : str
        A text of the images used.
    labelled : bool
    """

    limit: float
    costs: tuple[LayerCost, ...]
    points: tuple[Point, ...]
    chosen: Point
    images: str
    labelled: bool

    def why(self, layer: str) -> str:
        """Why a layer stays in float, for a table."""
        share = {cost.layer: cost.share for cost in self.costs}
        return f"{share[layer]:.1%} of the error of all layers" if layer in share else "named by --keep-float"

    def summary(self) -> str:
        """A summary in one line."""
        none = self.points[0]
        what = "top-1 drops by" if self.labelled else "another class than in float:"
        told = (
            f"{what} {none.drop:.2%} with {len(none.kept) or 'no'} layers in float, {self.chosen.drop:.2%} with "
            f"{len(self.chosen.kept)} (at most {self.limit:.2%}), on {self.images}"
        )
        if faster := self.faster:
            told += (
                f"; {len(faster.kept)} layers in float are predicted to take {faster.cycles / 1e6:.2f} M cycles, these "
                f"{self.chosen.cycles / 1e6:.2f} M: conversions between int8 and float cost more than int8 saves"
            )
        return told

    @property
    def faster(self) -> Point | None:
        """The tried network that meets the limit with the fewest predicted cycles, if it is not the chosen one."""
        known = [p for p in self.points if p.cycles is not None and p.drop <= self.limit]
        best = min(known, key=lambda p: p.cycles, default=None)
        return best if best and self.chosen.cycles is not None and best.cycles < self.chosen.cycles else None


def choose(
    network,
    floats: Mapping[str, str],
    limit: float,
    inputs: Sequence[tuple],
    images: str,
    labels: Sequence[int] = (),
    show: Show = lambda line: None,
) -> Choice:
    """The fewest layers that stay in float for a drop of no more than ``limit``.

    Parameters
    ----------
    network : Network
        A network in int8, with the layers that stay in float anyway.
    floats : mapping of str to str
        Its `floats_of`.
    inputs : sequence of tuples of ndarray
        Each the network's inputs in float32, one image a batch.
    images : str
        A text that describes them.
    labels : sequence of int
        The class of each image, where it is known.
    show : callable
        Called with a function that returns a text of the progress.
    """
    costs = layer_costs(network, inputs[:IMAGES], show)
    search = _Search(network, floats, inputs, labels, [cost.layer for cost in costs], show)
    count = _fewest(lambda k: search.first(k).drop <= limit, len(costs))
    chosen = search.first(count)
    for name in reversed(search.order[:count]):
        without = search.at((kept for kept in chosen.kept if kept != name), limit)
        chosen = without if without.drop <= limit else chosen
    points = sorted(search.points.values(), key=lambda point: (len(point.kept), point.drop))
    return Choice(limit, tuple(costs), tuple(points), chosen, images, bool(len(labels)))


def with_kept(network, floats: Mapping[str, str], choice: Choice):
    """The network with the chosen layers in float, each in its dtype of ``floats``, as it would be loaded with
    ``--keep-float``."""
    why = {layer: choice.why(layer) for layer in choice.chosen.kept}
    start = replace(network, graph=network.original)
    decided = kept_float.keeping(start, replace(network.precision, kept=()), why, floats)
    options = replace(network.options, keep_float=",".join(why) or None)
    return with_decided(replace(network, options=options), decided)


def _fewest(holds: Callable[[int], bool], most: int) -> int:
    """The least number from 0 to ``most`` for which a monotone condition holds."""
    if holds(0):
        return 0
    low, high = 0, 1
    while high < most and not holds(high):
        low, high = high, 2 * high
    high = min(high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


class _Search:
    """Networks with some layers in float on all images, each computed once."""

    def __init__(
        self,
        network,
        dtypes: Mapping[str, str],
        inputs: Sequence[tuple],
        labels: Sequence[int],
        order: list,
        show: Show,
    ):
        self.network, self.inputs, self.labels, self.order, self.show = network, inputs, labels, order, show
        self.base = tuple(kept.layer for kept in network.precision.kept)
        self.points: dict[frozenset[str], Point] = {}
        graph, self.dtypes = network.original, dtypes
        self.floats = [_best(graph, _run(graph, _ports(graph, x))) for x in inputs]

    def first(self, count: int) -> Point:
        """The network with the ``count`` costliest layers in float."""
        return self.at((*self.base, *self.order[:count]))

    def at(self, names: Iterable[str], limit: float = 1.0) -> Point:
        """The network with these layers in float; a run may stop when it has changed more classes than ``limit``
        allows."""
        names = tuple(names)
        known = self.points.get(frozenset(names))
        if known is not None:
            return known
        decided = keeping(self.network, {name: self.dtypes[name] for name in names})
        graph, found = decided.applied(self.network.original), []
        for x in self.inputs:
            found.append(_best(graph, _run(graph, _ports(graph, x))))
            self.show(lambda: f"{len(names)} layers in float: {len(found)} of {len(self.inputs)} images")
            if not len(self.labels) and self._changed(found) > limit * len(self.inputs):
                return Point(names, 0.0, 1.0)
        return self.points.setdefault(frozenset(names), self._point(names, found))

    def _changed(self, found: list[int]) -> int:
        return sum(best != due for best, due in zip(found, self.floats, strict=False))

    def _point(self, names: tuple[str, ...], found: list[int]) -> Point:
        right = self.labels if len(self.labels) else self.floats
        own, floats = (float(np.mean(np.equal(best, right))) for best in (found, self.floats))
        return Point(names, own, floats - own)


def floats_of(network) -> dict[str, str]:
    """The float dtype of each call of an int8 network that stays in float. Images are run to find it."""
    return kept_float.floats_of(replace(network, graph=network.original), network.precision)


def keeping(network, calls: Mapping[str, str]):
    """The precision of an int8 network that keeps calls in float, each in its dtype."""
    return replace(network.precision, kept=tuple(Kept(name, "", dtype, "") for name, dtype in calls.items()))


def layer_costs(network, inputs: Sequence[tuple], show: Show = lambda line: None) -> list[LayerCost]:
    """The cost of each int8 layer, the largest first."""
    already = {kept.layer for kept in network.precision.kept}
    graph = equalize.run(network.original, network.precision.factors)  # its values are those around an int8 layer
    calls = [call for call in graph.calls if quantize.integral(call.layer) and call.name not in already]
    others = {call.name: [c.name for c in graph.calls if c is not call] for call in calls}
    alone = {
        name: keeping(network, dict.fromkeys(names, FLOAT32)).applied(network.original)
        for name, names in others.items()
    }
    errors = dict.fromkeys(alone, 0.0)
    for i, x in enumerate(inputs):
        floats = _run(graph, _ports(graph, x), keep=True)
        due = _scores(graph, floats).astype(np.float64)
        for name, made in alone.items():
            off = _scores(made, _run(made, dict(floats), _start(made, name))) - due
            errors[name] += float(np.mean(off**2)) / max(float(due.var()), 1e-30) / len(inputs)
            show(lambda done=i: f"what each of {len(calls)} layers costs: {done} of {len(inputs)} images")
    total = sum(errors.values()) or 1.0
    costs = [LayerCost(call.name, call.source, errors[call.name] / total) for call in calls]
    return sorted(costs, key=lambda cost: -cost.share)


def _start(graph: LayerGraph, name: str) -> int:
    """The index of the first call in which a graph with one int8 layer differs from the float32 graph."""
    return next(i for i, call in enumerate(graph.calls) if call.name == name or reference.integral(call.layer))


def _ports(graph: LayerGraph, inputs: tuple) -> Values:
    return {port.value: np.asarray(x) for port, x in zip(graph.signature.inputs, inputs, strict=True)}


def _run(graph: LayerGraph, values: Values, start: int = 0, keep: bool = False) -> Values:
    """The values of a graph from a call on; ``keep``: all of them, not only the outputs."""
    for call, spent in graph.in_order(start):
        values[call.output] = _computed(call, [values[value] for value in call.inputs])
        for value in () if keep else spent:
            values.pop(value, None)
    return values


def _computed(call: LayerCall, operands: list[np.ndarray]) -> np.ndarray:
    layer = call.layer
    if not reference.integral(layer) or layer.body is not None:
        return quantization.outputs(call, operands)[1].astype(layer.output_dtype)
    data, *others = operands
    second = others[0].reshape(layer.second_shape) if others else None
    shape = layer.input_shape if data.size == np.prod(layer.input_shape) else data.shape
    return integers.run(layer, data.reshape(shape), call.constants, second)


def _scores(graph: LayerGraph, values: Values) -> np.ndarray:
    port = graph.signature.outputs[0]
    return values[port.value].reshape(port.shape)[0]


def _best(graph: LayerGraph, values: Values) -> int:
    return int(np.argmax(_scores(graph, values)))
