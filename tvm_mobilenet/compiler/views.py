"""Tensors as parts of larger ones, so that concatenations and slices move no data.

The output of a concatenation is seen as rows: one row for each index of the axes before the concatenated one. Each
operand fills a stretch of every row. Along the channels of a feature map, a row is a position. Along the outermost axis
(detectors' boxes) there is one row, and a stretch is a contiguous part. The layer that computes an operand writes it
directly into its stretches: from the operand's first element on, at the pitch of a whole row (`kinds.places.Place`).
The readers of a slice read it in place, in the same way.

An element-wise layer copies an operand that cannot be written in this way. These are operands whose layer is generic or
writes positions that are not rows of the concatenation, inputs and outputs of the network, and operands that another
layer reads as a residual or with a generic loop nest. A slice is copied if one of its readers cannot read a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.places import Place
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, copying
from tvm_mobilenet.passes.quantize import image
from tvm_mobilenet.passes.whole_weights import HIGH, LOW

VECTORS = 64, 16, 4  # for every core: vectors in a row of a copy, the first that divides it; long rows are cheap loops


def run(graph: LayerGraph, core) -> LayerGraph:
    """The graph without the concatenations and slices that need no kernel."""
    if not any(moves(call) for call in graph.calls):
        return graph
    return _Views(graph, core).run()


@dataclass(frozen=True)
class _Rows:
    """A tensor as rows in memory: ``count`` rows of ``width`` elements, ``pitch`` apart, from ``first`` on.

    Attributes
    ----------
    value : str
        The value that owns the memory: the tensor itself, or the one that it is a part of.
    size : int
        Elements of that memory.
    """

    value: str
    first: int
    count: int
    width: int
    pitch: int
    size: int

    @property
    def contiguous(self) -> bool:
        return self.count == 1 or self.pitch == self.width

    @property
    def lies(self) -> tuple[int, tuple[int, ...]]:
        """Pitch and part, as `Layer.reading` and `Layer.writing` take them."""
        whole = self.contiguous and self.count * self.width == self.size
        return 0 if self.contiguous else self.pitch, () if whole else (self.first, self.size)

    def stretch(self, count: int, begin: int, width: int) -> _Rows | None:
        """``width`` elements of each row from ``begin`` on, with the tensor divided into ``count`` rows; None if its
        memory does not allow this division.
        """
        if self.contiguous:
            row = self.count * self.width // count
            return _Rows(self.value, self.first + begin, count, width, row, self.size)
        return replace(self, first=self.first + begin, width=width) if count == self.count else None

    def fits(self, place: Place, layout: str, layer: Layer) -> bool:
        """Whether a layer can read data, or write an output, with these rows."""
        if layer.body is not None or place.pitch or place.part or prod(place.shape) != self.count * self.width:
            return False
        rows = layer.declared.pitched and layout == "NHWC" and place.shape[-1] == self.width
        return self.contiguous or rows


def moves(call: LayerCall | None) -> bool:
    """Whether a call is a concatenation or a slice, in a dtype that layers support."""
    if call is None or call.layer.body is None or call.layer.body.view is None:
        return False
    return {*call.layer.operand_dtypes, call.layer.output_dtype} in [{dtype} for dtype in dtypes.OF_DATA]


def joins(call: LayerCall | None) -> bool:
    """Whether a call is a concatenation."""
    return moves(call) and call.layer.body.view.begin is None


def cuts(call: LayerCall | None) -> bool:
    """Whether a call is a slice."""
    return moves(call) and call.layer.body.view.begin is not None


def copy_of(
    name: str, layer: Layer, parts: tuple[LayerCall, ...], reads: tuple[str, ...], writes: str, into: str
) -> LayerCall:
    """The call of a layer that copies what a concatenation or a slice moves; int8 keeps its scale."""
    copy = LayerCall(name, layer, parts[0].source, reads, {}, writes, parts, into=into)
    return copy.replace(ends=np.array([0, 0, LOW, HIGH])) if dtypes.of(layer.dtype).integer else copy


class _Views:
    """The pass of this module."""

    def __init__(self, graph: LayerGraph, core):
        self.graph, self.core = graph, core
        self.makers = {call.output: call for call in graph.calls}
        self.readers = graph.calls_reading()
        self.outside = {port.value for port in graph.signature.outputs}
        self.places: dict[str, _Rows] = {}  # the places of values that are parts of others
        self.copied: dict[str, list[tuple[int, str, _Rows]]] = {}  # by concatenation, the operands that are copied
        self.kept: set[str] = set()  # slices that remain layers of their own

    def run(self) -> LayerGraph:
        """The graph with parts in place of concatenations and slices."""
        for call in reversed(self.graph.calls):  # an outer concatenation before the inner ones
            if joins(call):
                self._join(call)
        for call in self.graph.calls:
            if cuts(call):
                self._cut(call)
        made = [new for call in self.graph.calls for new in self._made(call)]
        return replace(self.graph, calls=tuple(made))

    def _whole(self, value: str, shape: tuple[int, ...]) -> _Rows:
        """A value as rows: at its known place, or in memory of its own."""
        size = prod(shape)
        return self.places.get(value) or _Rows(value, 0, 1, size, size, size)

    def _may_read(self, reader: LayerCall, value: str, rows: _Rows) -> bool:
        """Whether a call can read a value with these rows."""
        layer = reader.layer
        if cuts(reader):
            return _taken(reader, rows) is not None
        if joins(reader):  # it reads through a copy
            counts = {s.count for s, v in zip(_stretches(reader), reader.inputs, strict=True) if v == value}
            return rows.contiguous or counts <= {1, rows.count}
        if reader.inputs.index(value) or reader.inputs.count(value) > 1:
            return False
        quads = image(layer) and dtypes.of(layer.dtype).integer  # it reads quads, also of the last row
        if quads and not rows.contiguous:
            return False
        return rows.fits(layer.input_place, layer.input_layout, layer)

    # ---- concatenations

    def _join(self, call: LayerCall) -> None:
        """Decide which operands of a concatenation are parts of its output, and which are copied."""
        stretches = _stretches(call, self._whole(call.output, call.layer.body.output))
        copied = []
        for i, (value, rows) in enumerate(zip(call.inputs, stretches, strict=True)):
            if self._may_lie(value, rows, call):
                self.places[value] = rows
            else:
                copied.append((i, value, rows))
        self.copied[call.output] = copied

    def _may_lie(self, value: str, rows: _Rows, into: LayerCall) -> bool:
        """Whether a value may have these rows: its layer can write them, and all its other readers can read them."""
        maker = self.makers.get(value)
        if maker is None or value in self.outside or value in self.places:
            return False
        if joins(maker):
            if None in _stretches(maker, rows):
                return False
        elif not rows.fits(maker.layer.output_place, maker.layer.output_layout, maker.layer):
            return False
        return all(self._may_read(reader, value, rows) for reader in self.readers[value] if reader is not into)

    # ---- slices

    def _cut(self, call: LayerCall) -> None:
        """Decide whether a slice is read in place, is copied, or remains a layer of its own."""
        value = call.inputs[0]
        maker = self.makers.get(value)
        rows = None if maker is None else _taken(call, self._whole(value, call.layer.body.operands[0]))
        if rows is None or maker.layer.output_pitch:
            self.kept.add(call.output)
        elif self._is_view(call, rows):
            self.places[call.output] = rows

    def _is_view(self, call: LayerCall, rows: _Rows) -> bool:
        """Whether all readers of a slice can read it in place."""
        readers = self.readers.get(call.output, [])
        return call.output not in self.outside and all(self._may_read(r, call.output, rows) for r in readers)

    # ---- the resulting calls

    def _made(self, call: LayerCall) -> list[LayerCall]:
        if not moves(call) or call.output in self.kept:
            return [self._placed(call)]
        if joins(call):
            return [self._copy(call, f"{call.name}_{i}", value, rows) for i, value, rows in self.copied[call.output]]
        if call.output in self.places:
            return []
        return [self._copy(call, call.output, call.inputs[0], None)]

    def _placed(self, call: LayerCall) -> LayerCall:
        """A call with the places of its data and its output."""
        layer, into = call.layer, ""
        if layer.body is None and call.inputs[0] in self.places:
            layer = layer.reading(*self.places[call.inputs[0]].lies)
        if call.output in self.places:
            layer, into = layer.writing(*self.places[call.output].lies), self.places[call.output].value
        return replace(call, layer=layer, inputs=tuple(map(self._memory, call.inputs)), into=into)

    def _memory(self, value: str) -> str:
        """The name under which a value is read: that of the larger tensor, if the value is the result of a
        concatenation or a slice and a part of that tensor; else its own.
        """
        return self.places[value].value if value in self.places and moves(self.makers[value]) else value

    def _copy(self, call: LayerCall, name: str, value: str, to: _Rows | None) -> LayerCall:
        """The layer that copies an operand of a concatenation to its place ``to``, or, if that is None, a slice into
        memory of its own.
        """
        body, dtype = call.layer.body, call.layer.output_dtype
        if to is None:
            data = _taken(call, self._whole(value, body.operands[0]))
        else:
            data = self._whole(value, body.operands[call.inputs.index(value)])
        rows = next((r for r in (data, to) if r is not None and not r.contiguous), None)
        count, width = (rows.count, rows.width) if rows else self._even(data.count * data.width, dtype)
        layer = copying((count, width), dtype).reading(*data.lies)
        layer = layer.writing(*to.lies) if to else layer
        inputs = (self._memory(value),) if value in self.places else (value,)
        return copy_of(name, layer, (call,), inputs, name, to.value if to else "")

    def _even(self, size: int, dtype: str) -> tuple[int, int]:
        """``size`` elements as rows of whole vectors, if possible."""
        lanes = self.core.lanes(dtype)
        width = next((n * lanes for n in VECTORS if size % (n * lanes) == 0), size)
        return size // width, width


def _stretches(call: LayerCall, whole: _Rows | None = None) -> list[_Rows | None]:
    """The places of a concatenation's operands in its output.

    ``whole`` is the place of the output, if that is a part of a larger tensor.
    """
    body, begin, found = call.layer.body, 0, []
    size = prod(body.output)
    whole = whole or _Rows(call.output, 0, 1, size, size, size)
    for shape in body.operands:
        width = prod(shape[body.view.axis :])
        found.append(whole.stretch(prod(shape[: body.view.axis]), begin, width))
        begin += width
    return found


def _taken(call: LayerCall, data: _Rows) -> _Rows | None:
    """The rows of its data that a slice takes; None if the data has no such rows."""
    body = call.layer.body
    axis, inner = body.view.axis, prod(body.output[body.view.axis + 1 :])
    return data.stretch(prod(body.output[:axis]), body.view.begin * inner, body.output[axis] * inner)


def memory(without: Sequence[LayerCall], steps: Sequence) -> dict[str, str]:
    """For each value of a concatenation or slice that no kernel writes, the value that is read in its place.

    Parameters
    ----------
    without : sequence of LayerCall
        The calls of the network for which the plan has no step.
    steps : sequence of plan.Step
    """
    into = {step.writes: step.into for step in steps if step.into}
    whole, found = set(into.values()), {}
    for call in reversed(without):  # an outer concatenation before the inner ones
        if joins(call) and call.output not in whole:
            parts = [into[v] for v in call.inputs if v in into]
            found[call.output] = into[call.output] = parts[0] if parts else call.output
    for call in without:
        if cuts(call):
            found[call.output] = found.get(call.inputs[0], call.inputs[0])
    return found
