"""TVM's RPC frames: the answers that a request allows, and the check of an answer.

A frame is ``u64 length, i32 code`` and the rest of ``length`` bytes, little endian. TVM's client accepts any frame in
place of an answer and obeys it: requests to start processes or call functions, lengths beyond memory. These rules let
pass only the kind of reply that belongs to the request, an exception, or a copy of the requested number of bytes.

The codes are those of ``rpc_protocol.h``, the types those of TVM's FFI (TVM 0.27, protocol 0.8.0).
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<Qi")
_BEYOND_LENGTH = 4  # bytes of the header that a frame's length counts
SHUTDOWN, INIT, CALL, RETURN, EXCEPTION, COPY_FROM, COPY_TO, COPY_ACK, GET_GLOBAL, FREE = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
NAMES = (
    "none", "shutdown", "initialise a server", "call a function", "reply", "exception", "copy from", "copy to",
    "acknowledge a copy", "look up a function", "free", "set device", "ask a device", "allocate", "free memory",
    "wait for a device", "copy there", "allocate in a scope", "create a stream", "free a stream", "set a stream",
    "ask for a stream",
)  # fmt: skip
NONE, INT, BOOL, FLOAT, HANDLE, DTYPE, DEVICE, TENSOR, STR, BYTES = range(10)
FUNCTION, MODULE = 68, 73  # types of a called function's result whose value is a handle
_SIZES = {NONE: 0, INT: 8, BOOL: 8, FLOAT: 8, HANDLE: 8, STR: 8, BYTES: 8}  # bytes of the value, or of its length
_NOTHING, _PLACE = {NONE}, {HANDLE, NONE}
_REPLIES = {
    INIT: _NOTHING, COPY_TO: _NOTHING, GET_GLOBAL: _PLACE, FREE: _NOTHING, 11: _NOTHING, 12: {NONE, INT, BOOL, STR},
    13: _PLACE, 14: _NOTHING, 15: _NOTHING, 16: _NOTHING, 17: _PLACE, 18: _PLACE, 19: _NOTHING, 20: _NOTHING,
    21: _PLACE,
}  # fmt: skip
_RESULTS = {
    NONE: NONE, INT: INT, BOOL: BOOL, FLOAT: FLOAT, HANDLE: HANDLE, FUNCTION: HANDLE, MODULE: HANDLE,
    STR: STR, 11: STR, 65: STR, BYTES: BYTES, 12: BYTES, 66: BYTES,
}  # fmt: skip
REQUESTS = frozenset({*_REPLIES, CALL, COPY_FROM})
MOST = {RETURN: 64 << 20, EXCEPTION: 1 << 20}
MOST_OF_A_FILE = 1 << 30
HEAD = 1 << 12  # bytes of a reply that are checked: all but the rest of a text, of bytes or of a copy
DOWNLOAD = b"tvm.rpc.server.download"


class Refused(Exception):
    """A frame that does not answer the request; the text describes it."""


def named(code: int) -> str:
    """The name of a code, for messages."""
    return f"code {code} ({NAMES[code]})" if 0 <= code < len(NAMES) else f"code {code}, which there is not"


class Expected:
    """The answers that one request allows.

    Parameters
    ----------
    code : int
        Of the request.
    body : bytes
        The request after its code; only the first bytes of a long one.
    download : bool
        The request calls the function that reads a file.
    """

    def __init__(self, code: int, body: bytes = b"", download: bool = False):
        self.code = code
        self.most = MOST_OF_A_FILE if download else MOST[RETURN]
        self.copied = struct.unpack("<Q", body[-8:])[0] if code == COPY_FROM else 0

    def check_header(self, length: int, code: int) -> None:
        """Refuse a frame by its length and code.

        Raises
        ------
        Refused
        """
        if code not in (RETURN, EXCEPTION, COPY_ACK):
            raise Refused(f"{named(code)}, {length:,} bytes, in place of an answer")
        if length < _BEYOND_LENGTH:
            raise Refused(f"a frame of {length} bytes: a frame has {_BEYOND_LENGTH} at least")
        if code == EXCEPTION:
            most = MOST[EXCEPTION]
        elif code == COPY_ACK:
            if self.code != COPY_FROM:
                raise Refused(f"a copy of {length - _BEYOND_LENGTH:,} bytes without a request")
            if length != self.copied + _BEYOND_LENGTH:
                raise Refused(f"a copy of {length - _BEYOND_LENGTH:,} bytes, {self.copied:,} were asked for")
            return
        else:
            if self.code == COPY_FROM:
                raise Refused("a reply in place of a copy")
            most = self.most
        if length > most:
            raise Refused(
                f"{'an exception' if code == EXCEPTION else 'a reply'} of {length:,} bytes, more than {most:,}"
            )

    def check_body(self, code: int, head: bytes, total: int) -> None:
        """Refuse a reply or an exception by its contents.

        Parameters
        ----------
        head : bytes
            Its first ``HEAD`` bytes after the code, or all of a shorter one.
        total : int
            The number of all its bytes.

        Raises
        ------
        Refused
        """
        values = _values(head, total)
        kinds = [kind for kind, _ in values]
        if code == EXCEPTION:
            if kinds != [STR]:
                raise Refused(f"an exception with values of types {kinds}, it has one text")
        elif self.code != CALL:
            if len(kinds) != 1 or kinds[0] not in _REPLIES[self.code]:
                raise Refused(f"a reply with values of types {kinds} to {NAMES[self.code]}")
        else:
            _check_result(values)


def _check_result(values: list[tuple[int, int | None]]) -> None:
    """Check a called function's result: its type and the value. Tensors are copied, never returned."""
    (first, told), *rest = values
    kinds = [kind for kind, _ in rest]
    if first != INT or told not in _RESULTS or kinds != [_RESULTS[told]]:
        raise Refused(f"a result of type {told if first == INT else None} with values of types {kinds}")
    if told in (FUNCTION, MODULE) and not rest[0][1]:
        raise Refused("a function or module that is nowhere")


def _values(head: bytes, total: int) -> list[tuple[int, int | None]]:
    """The types of the values in a sequence, and the values of integers."""
    if total < 4 or len(head) < 4:
        raise Refused(f"a reply of {total} bytes, too short for a number of values")
    (count,) = struct.unpack_from("<i", head)
    if not 1 <= count <= 2:
        raise Refused(f"a reply of {count} values")
    at, found = 4, []
    for _ in range(count):
        if at + 4 > len(head):
            raise Refused(f"a reply of {total:,} bytes, too short for {count} values")
        (kind,) = struct.unpack_from("<i", head, at)
        size = _SIZES.get(kind)
        if size is None:
            raise Refused(f"a value of type {kind}, which no reply has")
        at += 4
        if at + size > len(head):
            raise Refused(f"a reply of {total:,} bytes, too short for a value of type {kind}")
        value = struct.unpack_from("<q", head, at)[0] if size else None
        at += size
        if kind in (STR, BYTES):
            if not 0 <= value <= total - at:
                raise Refused(f"a text of {value:,} bytes in a reply of {total:,}")
            at += value
        found.append((kind, value))
    if at != total:
        raise Refused(f"{total - at:,} bytes after the last value of a reply")
    return found
