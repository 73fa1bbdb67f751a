"""Tables of a FlatBuffer, read in place: every offset and length is checked against the file before use.

A table begins with the offset of its vtable, which has the place of each field. A field that is not stored has its
default. Vectors are views of the file's bytes, so nothing is copied. The format: https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct

import numpy as np

_OFFSET, _VTABLE_HEAD = 4, 4  # bytes of an offset, and of a vtable's head


class Damaged(ValueError):
    """An offset or length points outside the file."""


class Table:
    """One table.

    Parameters
    ----------
    data : bytes
        The whole file.
    at : int
        The start of the table.

    Raises
    ------
    Damaged
        The table is not inside the file.
    """

    def __init__(self, data: bytes, at: int):
        self.data, self.at = data, at
        self._vtable = at - _number(data, at, "<i")
        self._fields = (_number(data, self._vtable, "<H") - _VTABLE_HEAD) // 2
        self._bytes = _number(data, self._vtable + 2, "<H")
        _inside(data, self._vtable, _VTABLE_HEAD + 2 * max(0, self._fields))
        _inside(data, at, self._bytes)

    def number(self, field: int, form: str, default: float | int = 0) -> float | int:
        """A scalar of a field by its number; ``form`` as `struct` has it: ``i`` an int32, ``b`` an int8."""
        at = self._place(field)
        return _number(self.data, at, "<" + form) if at else default

    def table(self, field: int) -> Table | None:
        """A table inside this one."""
        at = self._place(field)
        return Table(self.data, _followed(self.data, at)) if at else None

    def tables(self, field: int, most: int, what: str) -> list[Table]:
        """A vector of tables, ``most`` of them at most."""
        places = self.array(field, np.uint32)
        if len(places) > most:
            raise Damaged(f"it has {len(places):,} {what}; the limit is {most:,}")
        start = self._start(field)
        return [Table(self.data, start + _OFFSET * i + int(offset)) for i, offset in enumerate(places)]

    def array(self, field: int, dtype) -> np.ndarray:
        """A vector of numbers: a view of the file; empty if it is not stored."""
        start = self._start(field)
        if not start:
            return np.empty(0, dtype)
        length = _number(self.data, start - _OFFSET, "<I")
        dtype = np.dtype(dtype).newbyteorder("<")
        _inside(self.data, start, length * dtype.itemsize)
        return np.frombuffer(self.data, dtype, length, start)

    def text(self, field: int, most: int) -> str:
        """A text; its first ``most`` bytes."""
        return self.array(field, np.uint8)[:most].tobytes().decode("utf-8", "replace")

    def _start(self, field: int) -> int:
        """The place of a vector's first element; 0 if it is not stored."""
        at = self._place(field)
        return _followed(self.data, at) + _OFFSET if at else 0

    def _place(self, field: int) -> int:
        """The place of a field; 0 if it is not stored."""
        offset = _number(self.data, self._vtable + _VTABLE_HEAD + 2 * field, "<H") if field < self._fields else 0
        if offset >= max(self._bytes, 1):
            raise Damaged("it is damaged")
        return self.at + offset if offset else 0


def root(data: bytes, identifier: bytes) -> Table:
    """The root table of a file.

    Raises
    ------
    Damaged
        The file has another identifier, or is cut short.
    """
    if data[_OFFSET : 2 * _OFFSET] != identifier:
        raise Damaged(f"it does not begin as one: {data[_OFFSET : 2 * _OFFSET]!r} stands for {identifier!r}")
    return Table(data, _followed(data, 0))


def _followed(data: bytes, at: int) -> int:
    return at + _number(data, at, "<I")


def _number(data: bytes, at: int, form: str):
    _inside(data, at, struct.calcsize(form))
    return struct.unpack_from(form, data, at)[0]


def _inside(data: bytes, at: int, size: int) -> None:
    if at < 0 or size < 0 or at + size > len(data):
        raise Damaged("it is cut short, or damaged")
