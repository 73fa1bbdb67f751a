"""ONNX's sequences of tensors, as tuples: their lengths and places are known once sizes are fixed."""

from __future__ import annotations

from tvm import relax

from tvm_mobilenet.frontend.onnx_arguments import array_of


def _sequence_at(bb, inputs, attrs, otherwise):
    """A tensor of a sequence; negative places count from its end."""
    place = int(array_of(inputs[1]).reshape(()))
    return relax.TupleGetItem(inputs[0], place % len(inputs[0].ty.fields))


def _sequence_length(bb, inputs, attrs, otherwise):
    return relax.const(len(inputs[0].ty.fields), "int64")


def _sequence_insert(bb, inputs, attrs, otherwise):
    """A sequence with one more tensor before a place; TVM's importer counts negative places from one later."""
    fields = list(inputs[0].fields) if isinstance(inputs[0], relax.Tuple) else list(inputs[0])
    place = len(fields) if len(inputs) < 3 or inputs[2] is None else int(array_of(inputs[2]).reshape(()))
    if not -len(fields) <= place <= len(fields):
        raise ValueError(f"place {place} of a sequence of {len(fields)} tensors")
    fields.insert(place, inputs[1])
    return relax.Tuple(fields)


CONVERTERS = {"SequenceAt": _sequence_at, "SequenceInsert": _sequence_insert, "SequenceLength": _sequence_length}
