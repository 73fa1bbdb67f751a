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


CONVERTERS = {"SequenceAt": _sequence_at, "SequenceLength": _sequence_length}
