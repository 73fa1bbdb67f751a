"""The map of numbers that a FlexBuffer holds, as custom operators of TFLite store their options.

The last byte is the width of the root, the one before its type: the kind, and in its last two bits the logarithm of the
width. Offsets lead backwards; each is checked. The format: https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct

from tvm_mobilenet.frontend.flatbuffer import Damaged

_MAP, _BOOL = 9, 26
_NUMBERS = {1: int, 2: int, 3: float, 6: int, 7: int, 8: float, _BOOL: bool}
_INDIRECT = (6, 7, 8)
_MOST = 1_000  # entries of a map


def numbers(data: bytes) -> dict[str, int | float | bool]:
    """The entries of a map that are numbers.

    Raises
    ------
    Damaged
        The data are no map.
    """
    reader = _Reader(data)
    if len(data) < 3 or data[-2] >> 2 != _MAP:
        raise Damaged("its options are no map")
    width = 1 << (data[-2] & 3)
    at = reader.followed(len(data) - 2 - data[-1], data[-1])
    count = reader.unsigned(at - width, width)
    keys, key_width = reader.followed(at - 3 * width, width), reader.unsigned(at - 2 * width, width)
    if count > _MOST:
        raise Damaged(f"its options are {count:,}")
    found = {}
    for i in range(count):
        kind = reader.unsigned(at + count * width + i, 1)
        number = _NUMBERS.get(kind >> 2)
        if number is None:
            continue
        place, own = at + i * width, width
        if kind >> 2 in _INDIRECT:
            place, own = reader.followed(place, width), 1 << (kind & 3)
        name = reader.text(reader.followed(keys + i * key_width, key_width))
        value = reader.real(place, own) if number is float else reader.whole(place, own, kind >> 2)
        found[name] = number(value)
    return found


class _Reader:
    def __init__(self, data: bytes):
        self.data = data

    def unsigned(self, at: int, width: int) -> int:
        return int.from_bytes(self._bytes(at, width), "little")

    def whole(self, at: int, width: int, kind: int) -> int:
        return int.from_bytes(self._bytes(at, width), "little", signed=kind in (1, 6))

    def real(self, at: int, width: int) -> float:
        form = {2: "<e", 4: "<f", 8: "<d"}.get(width)
        if form is None:
            raise Damaged(f"its options have a float of {width} bytes")
        return struct.unpack(form, self._bytes(at, width))[0]

    def followed(self, at: int, width: int) -> int:
        """The place to which the offset at another one leads."""
        return at - self.unsigned(at, width)

    def text(self, at: int) -> str:
        if not 0 <= at < len(self.data) or (end := self.data.find(0, at)) < 0:
            raise Damaged("its options are cut short, or damaged")
        return self.data[at:end].decode("utf-8", "replace")

    def _bytes(self, at: int, width: int) -> bytes:
        if width not in (1, 2, 4, 8) or at < 0 or at + width > len(self.data):
            raise Damaged("its options are cut short, or damaged")
        return self.data[at : at + width]
