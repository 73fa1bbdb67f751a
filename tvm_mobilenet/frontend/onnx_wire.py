"""A count of the parts of a serialized ONNX model before it is parsed.

Two bytes of a file can represent a whole message, for which a parser allocates a hundred bytes. So messages, texts and
numbers are counted first, only by the lengths in the file. Weights are one part, however long.
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

MOST_PARTS = 400_000  # the largest MobileNet's file has 10,000
_DEEPEST = 100  # depth of nested messages, as in the parser
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5  # kinds of a part


class _Fields:
    """The fields of a message that are messages themselves."""

    def __init__(self):
        self._known: dict[str, dict[int, Descriptor]] = {}

    def of(self, kind: Descriptor) -> dict[int, Descriptor]:
        found = self._known.get(kind.full_name)
        if found is None:
            found = {f.number: f.message_type for f in kind.fields if f.type == FieldDescriptor.TYPE_MESSAGE}
            self._known[kind.full_name] = found
        return found


def check_parts(data: bytes, kind: Descriptor) -> None:
    """Refuse a message with more parts than any model, or one that a parser would not accept.

    Parameters
    ----------
    data : bytes
        A serialized message.
    kind : Descriptor
        The type of the message.

    Raises
    ------
    ValueError
        The message gives the problem.
    """
    fields, left = _Fields(), MOST_PARTS
    waiting = [(0, len(data), kind, 0)]
    while waiting:
        at, end, here, depth = waiting.pop()
        inner = fields.of(here)
        while at < end:
            left -= 1
            if left < 0:
                raise ValueError(f"it has more than {MOST_PARTS:,} parts")
            tag, at = _number(data, at, end)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                _, at = _number(data, at, end)
                continue
            if wire == _LENGTH:
                length, at = _number(data, at, end)
            elif wire in (_EIGHT, _FOUR):
                length = 8 if wire == _EIGHT else 4
            else:
                raise ValueError("it is damaged")
            if at + length > end:
                raise ValueError("it is cut short")
            if wire == _LENGTH and number in inner:
                if depth >= _DEEPEST:
                    raise ValueError("it is nested too deeply")
                waiting.append((at, at + length, inner[number], depth + 1))
            at += length


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number with seven bits in each byte, and the place after it."""
    found = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, at
        shift += 7
    raise ValueError("it is damaged")
