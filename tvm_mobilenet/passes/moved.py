"""Generic layers that only move values of an int8 network: concatenations, slices, changes of order.

Such a layer moves int8 if a layer that computes in integers made some of its values and another one reads some. The
values of a concatenation have one scale. `agreed` gives it to the layers that make the operands, so that these write
what the concatenation holds. It does so if no other layer reads the operand, or if the others lose little: the scale's
step is at most `COARSER` times the operand's own, and its range lacks at most `LACKING` of the operand's. `quantize`
converts all other operands from their scale to that of the concatenation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.quantization import Scale

COARSER = 2.0  # one bit of eight
LACKING = 1 / 16


def moves(layer: Layer) -> bool:
    """Whether a generic layer computes nothing."""
    return layer.body is not None and layer.body.narrow is not None


def joins(layer: Layer) -> bool:
    """Whether a layer is a concatenation."""
    return moves(layer) and len(layer.body.operands) > 1


def between(graph: LayerGraph, computes: Callable[[LayerCall], bool]) -> frozenset[str]:
    """The names of the layers that move values from one layer that ``computes`` to another. A copy computes nothing."""
    readers = graph.calls_reading()
    wanted: set[str] = set()
    for call in reversed(graph.calls):
        behind = any(reader.name in wanted for reader in readers.get(call.output, ()))
        carries = moves(call.layer) or call.layer.declared.moves(call.layer)
        if behind if carries else computes(call):
            wanted.add(call.name)
    found: set[str] = set()
    made: set[str] = set()
    for call in graph.calls:
        if computes(call) or (call.name in wanted and made.intersection(call.inputs)):
            made.add(call.output)
            found.update({call.name} if moves(call.layer) else ())
    return frozenset(found)


def agreed(graph: LayerGraph, scales: Mapping[str, Scale], computes: Callable[[LayerCall], bool]) -> dict[str, Scale]:
    """The scales of a network's values, with one scale for what is joined where that loses little, and the scale of its
    data for the output of a layer that moves values.
    """
    found, readers = dict(scales), graph.calls_reading()
    makers = {call.output: call for call in graph.calls}
    ends = {port.value for port in graph.signature.outputs}
    moving = between(graph, computes)

    def free(value: str) -> bool:
        """Whether a value may have any scale."""
        maker = makers.get(value)
        if maker is not None and maker.name in moving:
            return joins(maker.layer)
        return maker is None or not (computes(maker) and maker.layer.declared.moves(maker.layer))

    settled: set[str] = set()
    for call in reversed(graph.calls):  # an outer concatenation before the inner ones
        if call.name not in moving or not joins(call.layer):
            continue
        scale = found[call.output]
        for value in set(call.inputs) - settled:
            alone = readers[value] == [call] and value not in ends
            if free(value) and (alone or _near(scale, found[value])):
                found[value] = scale
                settled.add(value)
    for call in graph.calls:
        one = call.name in moving and not joins(call.layer)
        if one or (computes(call) and call.layer.declared.moves(call.layer)):
            found[call.output] = found[call.inputs[0]]
    return found


def _near(scale: Scale, own: Scale) -> bool:
    """Whether a value of one scale loses little in another."""
    (low, high), (least, most) = scale.ends, own.ends
    return scale.step <= COARSER * own.step and max(0, low - least) + max(0, most - high) <= LACKING * (most - least)
