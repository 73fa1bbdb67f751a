"""The process between TVM's client and a board: requests go out, and only their answers come back.

TVM's client obeys every frame that a board sends. So this process alone holds the connection and serves the client on
two pipes. It greets the board as TVM's client does, after a challenge if the token is demanded, and then passes frame
after frame (``frames``). Any other data end the session. The reason of a session's end goes to the client as JSON lines
on a third pipe, so no data of the board can be taken for it.

Before it reads a byte from the board it gives up rights that it does not need (``files.landlock``): afterwards it can
open no file and no connection, and start no program.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import sys
import time

from tvm_mobilenet.boards import token
from tvm_mobilenet.boards.remote import frames

MAGIC = 0xFF271  # TVM's RPC; a server answers with this number, or with 2 more if it has another key
MISMATCHES = (MAGIC + 1, MAGIC + 2)
LAST_WORDS_SECONDS = 2.0
PIPE_BYTES = 1 << 20  # size of a pipe's buffer, if the system allows it
_CHUNK = 1 << 16
_LONGEST_KEY = 4096
_LONGEST_SETTINGS = 1 << 16


class Over(Exception):
    """The session is over.

    Attributes
    ----------
    kind : str
        ``lost``, ``refused``, ``key`` (the server has another key), ``server`` (no RPC server), ``token`` (none on this
        machine, or the board has another), ``closed`` (the client has left).
    text : str
    """

    def __init__(self, kind: str, text: str = ""):
        super().__init__(text)
        self.kind, self.text = kind, text


class Filter:
    """One session.

    Parameters
    ----------
    board : socket
        A connection on which nothing has been sent.
    requests, replies : int
        Pipes from and to TVM's client.
    """

    def __init__(self, board: socket.socket, requests: int, replies: int):
        self._board, self._in, self._out = board, requests, replies
        board.setblocking(True)
        self._waiting = select.poll()
        self._waiting.register(board, select.POLLIN)
        self._waiting.register(requests, 0)  # watched only for the client's end
        self._download = 0  # the handle of the function that reads files
        self._asks_for_download = False
        self._gone, self._last_words = False, b""  # whether the board is gone, and its last message

    # ---- the greeting

    def greet(self, key: str, secret: bytes, demanded: bool) -> None:
        """TVM's handshake, after the challenge if it is ``demanded`` or the board demands it.

        Raises
        ------
        Over
        """
        try:
            if demanded:
                token.challenge(secret, self._board.sendall, self._receive)
            name = f"client:{key}".encode()
            hello = struct.pack("<ii", MAGIC, len(name)) + name
            self._board.sendall(hello)
            answer = self._receive(4)
            if answer == token.CHALLENGE and not demanded:
                if not secret:
                    raise Over("token", "the agent there demands the token, and this machine has none")
                token.challenge(secret, self._board.sendall, self._receive)
                self._board.sendall(hello)
                answer = self._receive(4)
            (code,) = struct.unpack("<i", answer)
            if code in MISMATCHES:
                raise Over("key")
            if code != MAGIC:
                raise Over("server")
            (length,) = struct.unpack("<i", self._receive(4))
            if not 0 <= length <= _LONGEST_KEY:
                raise Over("refused", f"a key of {length:,} bytes")
            self._receive(length)
        except token.Unproven as e:
            raise Over("token", str(e)) from None
        except OSError as e:
            raise Over("lost", str(e)) from None

    # ---- frames

    def run(self) -> None:
        """Pass frames until the client leaves.

        Raises
        ------
        Over
        """
        while True:
            self._until_asked()
            expected = self._pass_request()
            if self._gone:
                self._write(self._last_words)
                raise Over("lost", "the connection was lost")
            self._pass_answer(expected)

    def _until_asked(self) -> None:
        """Wait for the next request. A board may send nothing meanwhile but its good-bye."""
        both = select.poll()
        both.register(self._in, select.POLLIN)
        if not self._gone:
            both.register(self._board, select.POLLIN)
        while True:
            ready = dict(both.poll())
            if self._board.fileno() in ready:
                both.unregister(self._board)
                self._gone, self._last_words = True, self._good_bye()
                if not self._last_words:
                    raise Over("lost", "the connection was lost")
            if self._in in ready:
                return

    def _good_bye(self) -> bytes:
        """Read the exception with which a board ends an idle session, if it sent one."""
        try:
            length, code = frames.HEADER.unpack(self._receive(frames.HEADER.size))
            if code == frames.SHUTDOWN and length == 4:
                return self._words_after_shutdown()
            if code != frames.EXCEPTION:
                raise Over("refused", f"{frames.named(code)}, {length:,} bytes, without a request")
            return self._exception(length)
        except OSError:
            return b""

    def _words_after_shutdown(self) -> bytes:
        """Read the reason after a good-bye: a server out of memory says good-bye first, and the agent tells the reason
        after it."""
        end = time.monotonic() + LAST_WORDS_SECONDS
        try:
            length, code = frames.HEADER.unpack(self._receive(frames.HEADER.size, end))
            if code == frames.EXCEPTION:
                return self._exception(length, end)
        except OSError:
            pass
        return b""

    def _exception(self, length: int, end: float = 0.0) -> bytes:
        expected = frames.Expected(frames.CALL)
        try:
            expected.check_header(length, frames.EXCEPTION)
            body = self._receive(length - 4, end)
            expected.check_body(frames.EXCEPTION, body[: frames.HEAD], len(body))
        except frames.Refused as e:
            raise Over("refused", str(e)) from None
        return frames.HEADER.pack(length, frames.EXCEPTION) + body

    def _pass_request(self) -> frames.Expected:
        header = self._read(frames.HEADER.size)
        length, code = frames.HEADER.unpack(header)
        left = length - 4
        head = self._read(min(left, _CHUNK))
        left -= len(head)
        if code == frames.SHUTDOWN:
            with contextlib.suppress(OSError):
                self._board.sendall(header)
            raise Over("closed")
        if code not in frames.REQUESTS:
            raise Over("refused", f"TVM's client sent {frames.named(code)}, which is not a request")
        calls = code == frames.CALL and bool(self._download) and struct.unpack_from("<Q", head)[0] == self._download
        self._asks_for_download = code == frames.GET_GLOBAL and head.endswith(frames.DOWNLOAD)
        expected = frames.Expected(code, head, calls)
        if self._gone:
            self._skip(left)
            return expected
        try:
            self._board.sendall(header + head)
            while left:
                if not (moved := os.splice(self._in, self._board.fileno(), min(left, PIPE_BYTES))):
                    raise Over("closed")
                left -= moved
        except OSError:  # the board closed the connection; its last message may tell why
            self._skip(left)
        return expected

    def _skip(self, left: int) -> None:
        while left:
            left -= len(self._read(min(left, _CHUNK)))

    def _pass_answer(self, expected: frames.Expected) -> None:
        try:
            length, code = frames.HEADER.unpack(self._receive(frames.HEADER.size))
            if code == frames.SHUTDOWN and length == 4:
                self._write(self._words_after_shutdown())
                raise Over("lost", "the connection was lost")
            expected.check_header(length, code)
            left = length - 4
            head = b""
            if code != frames.COPY_ACK:
                head = self._receive(min(left, frames.HEAD))
                expected.check_body(code, head, left)
                if self._asks_for_download and code == frames.RETURN and len(head) == 16:
                    (self._download,) = struct.unpack_from("<Q", head, 8)
            left -= len(head)
            self._write(frames.HEADER.pack(length, code) + head)
            self._copy(left)
        except frames.Refused as e:
            raise Over("refused", str(e)) from None
        except OSError:
            raise Over("lost", "the connection was lost") from None

    def _copy(self, left: int) -> None:
        while left:
            self._wait()
            if not (moved := os.splice(self._board.fileno(), self._out, min(left, PIPE_BYTES))):
                raise ConnectionResetError("closed by the other side")
            left -= moved

    # ---- bytes

    def _wait(self, end: float = 0.0) -> None:
        """Wait until the board has sent data.

        Raises
        ------
        Over
            The client has left.
        TimeoutError
        """
        while True:
            seconds = max(0.0, end - time.monotonic()) if end else None
            ready = dict(self._waiting.poll(None if seconds is None else 1000 * seconds))
            if self._in in ready:
                raise Over("closed")
            if ready:
                return
            raise TimeoutError

    def _receive(self, count: int, end: float = 0.0) -> bytes:
        """Read exactly this number of bytes from the board."""
        data = bytearray(count)
        view, at = memoryview(data), 0
        while at < count:
            self._wait(end)
            got = self._board.recv_into(view[at:])
            if not got:
                raise ConnectionResetError("closed by the other side")
            at += got
        return bytes(data)

    def _read(self, count: int) -> bytes:
        """Read exactly this number of bytes from the client."""
        data = bytearray()
        while len(data) < count:
            part = os.read(self._in, count - len(data))
            if not part:
                raise Over("closed")
            data += part
        return bytes(data)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._out, left) :]
        except OSError:
            raise Over("closed") from None


def main(arguments: list[str]) -> int:
    """Serve one session: descriptors of a socket that brings the connection, of the reports, and TVM's two pipes."""
    way, report, requests, replies = map(int, arguments)
    for name in os.listdir("/dev/fd"):
        if int(name) > 2 and int(name) not in (way, report, requests, replies):
            with contextlib.suppress(OSError):
                os.close(int(name))

    def tell(**what) -> None:
        with contextlib.suppress(OSError):
            os.write(report, json.dumps(what).encode() + b"\n")

    pipe = os.fstat(requests).st_ino
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        for one in (requests, replies):
            fcntl.fcntl(one, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    from tvm_mobilenet.files import landlock

    confined = 0
    with contextlib.suppress(OSError):
        confined = landlock.confine()
    tell(pid=os.getpid(), pipe=pipe, confined=confined)
    with socket.socket(fileno=way) as brings:
        text, given, _, _ = socket.recv_fds(brings, _LONGEST_SETTINGS, 1)
    if not given:
        return 0  # no board was reached
    (connection,), wanted = given, json.loads(text)
    with socket.socket(fileno=connection) as board:
        session = Filter(board, requests, replies)
        try:
            session.greet(wanted["key"], bytes.fromhex(wanted["token"]), wanted["demanded"])
            tell(open=True)
            session.run()
        except Over as e:
            tell(over=e.kind, text=e.text)
        except Exception as e:  # data that cannot be parsed never pass
            tell(over="refused", text=f"something that this cannot read: {type(e).__name__}: {e}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
