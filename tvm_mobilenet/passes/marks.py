"""The scales of a network that comes quantized, at the layers that they belong to.

`given_scales` leaves marks between operators, and `channels_last` makes copying layers of them. This pass turns such a
layer into a mark of the layer that makes its data, if it is the only reader of that data. The remaining ones round a
value, such as a network's input, for some of its readers. `fuse_epilogue` asks `fused` for the marks of two layers in
one: an int8 layer has a scale of its output, and one of its sums if they are rounded before a table or an addition.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tvm_mobilenet.kinds.activation import PER_CHANNEL, bounds
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.quantize import DTYPE, Scale


@dataclass(frozen=True)
class Marks:
    """The quantization of a layer, from the file.

    Attributes
    ----------
    output : Scale or None
        The scale of its output; None if that is float32.
    inner : Scale or None
        The scale of its sums, if they are rounded before an activation or a residual.
    steps : tuple of float or None
        The steps of the weight, one for each output channel; None if the weight is float32.
    source : str
        The origin of ``output``: the dequantize in the user's model.
    tables : str
        The runtime whose activation tables make ``output``, as `activation_table.table` takes it.
    """

    output: Scale | None = None
    inner: Scale | None = None
    steps: tuple[float, ...] | None = None
    source: str = field(default="", compare=False)
    tables: str = field(default="", compare=False)


NONE = Marks()
__all__ = ["DTYPE", "NONE", "Marks", "Scale", "fused", "known", "rounds", "run", "scaled"]


def known(graph: LayerGraph) -> bool:
    """Whether a network comes quantized."""
    return any(call.marks is not None for call in graph.calls)


def rounds(call: LayerCall) -> bool:
    """Whether a layer is a remaining mark, which only rounds its data to a scale."""
    layer = call.layer
    plain = layer.copies and layer.activation == "none" and layer.input_layout == layer.output_layout
    return plain and call.marks is not None and call.marks.output is not None


def run(graph: LayerGraph) -> LayerGraph:
    """The graph with its marks at the layers that make their data; the same graph if it has none."""
    if not known(graph):
        return graph
    readers: dict[str, list[LayerCall | None]] = {value: [*calls] for value, calls in graph.calls_reading().items()}
    for port in graph.signature.outputs:
        readers.setdefault(port.value, []).append(None)
    kept: dict[str, LayerCall] = {}
    names: dict[str, str] = {}
    for call in graph.calls:
        own = call.inputs[0]
        call = call.replace(inputs=tuple(names.get(v, v) for v in call.inputs))
        before = kept.get(call.inputs[0])
        if rounds(call) and before is not None:
            scale = call.marks.output
            alone = all(r is not None and rounds(r) and r.marks.output == scale for r in readers[own])
            if before.marks is not None and before.marks.output == scale:
                names[call.output] = before.output
                continue
            if alone and (before.marks is None or before.marks.output is None):
                kept[before.output] = before.replace(marks=_to(before.marks or NONE, call.marks))
                names[call.output] = before.output
                continue
        kept[call.output] = call
    outputs = tuple(replace(p, value=names.get(p.value, p.value)) for p in graph.signature.outputs)
    made = LayerGraph(graph.calls, replace(graph.signature, outputs=outputs))
    return made.with_calls(kept.values())


def fused(producer: LayerCall, call: LayerCall, what: str) -> Marks | None:
    """The combined marks of a layer and of the one to be fused into it; None if the two must stay apart.

    Parameters
    ----------
    what : str
        ``activation``, ``residual`` or ``layout``.
    """
    first, last = producer.marks or NONE, call.marks or NONE
    if first == last == NONE:
        return NONE
    if what == "activation" and call.layer.activation == PER_CHANNEL:
        return None  # the file rounds the sums before it
    if what == "layout":
        return None if first.output and last.output else first if first.output else _to(first, last)
    if what == "activation" and bounds(call.layer.activation):
        return _to(first, last) if first.output in (None, last.output) else None
    whole = first.steps is not None and first.output is not None and last.output is not None
    if whole and first.inner is None and producer.layer.residual == "none":
        table = bounds(producer.layer.activation) is None
        return None if table else replace(last, inner=first.output, steps=first.steps)
    return _to(first, last) if first.steps is None and first.output is None else None


def _to(first: Marks, last: Marks) -> Marks:
    return replace(first, output=last.output, source=last.source, tables=last.tables)


def scaled(marks: Marks | None, factors) -> Marks | None:
    """The marks of a layer whose weights are multiplied by these factors, one for each output channel."""
    if marks is None or marks.steps is None:
        return marks
    return replace(marks, steps=tuple(abs(s * float(f)) for s, f in zip(marks.steps, factors, strict=True)))
