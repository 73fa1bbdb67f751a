"""The agent's entry in a tracker. It is made again after a restart of the tracker, with a new match key for each
session.

A tracker is not trusted, and the agent does not wait for it. Bytes are read as they arrive, and a whole answer has ten
seconds. A bad answer ends only this connection; another is tried two seconds later.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable

from tvm_mobilenet.boards import wire
from tvm_mobilenet.boards.answers import plain
from tvm_mobilenet.files import json_text

ANSWER_SECONDS = 10.0
PING_SECONDS = 2.0  # between two questions to the tracker
TAKEN_SECONDS = 10.0  # how long a match key may be taken without its client, before it is replaced
PUT, UPDATE_INFO = 3, 5  # codes of tvm.rpc.base.TrackerCode
_LONGEST_ANSWER = 1 << 20


class Registration:
    """One entry; call `step` when its descriptor is ready, or its time has come.

    Parameters
    ----------
    tracker : (str, int)
    key : str
        The key under which the board is lent out.
    port : int
        The agent's port.
    say : callable
        Called with one line for each event.

    Attributes
    ----------
    match_key : str
        The key that the next client must give.
    """

    def __init__(self, tracker: tuple[str, int], key: str, port: int, say: Callable[[str], None]):
        self._address, self._key, self._port, self._say = tracker, key, port, say
        self.where = f"{tracker[0]}:{tracker[1]}"
        self.match_key = self._new_key()
        self._connection: socket.socket | None = None
        self._out, self._in, self._wanted = b"", b"", 0
        self._next: Callable[[bytes], None] | None = None  # takes the next answer
        self._end, self._again, self._taken = 0.0, 0.0, 0.0
        self._complained = self._held = self._known = self._stale = False

    def _new_key(self) -> str:
        return f"{self._key}:{secrets.token_hex(16)}"

    def register(self, poll: select.poll) -> None:
        """Watch the connection."""
        if self._connection is not None and not self._held:
            poll.register(self._connection, select.POLLIN | (select.POLLOUT if self._out else 0))

    def seconds_left(self, now: float) -> float:
        """Seconds until the next `step` is due."""
        if self._held:
            return math.inf
        if self._stale and not self._next:
            return 0.0
        return max(0.0, (self._end if self._next else self._again) - now)

    def hold(self) -> None:
        """A session begins: stop asking the tracker."""
        self._held = True

    def renew(self) -> None:
        """A session is over: offer the board again, under a new key."""
        self._held, self.match_key, self._taken = False, self._new_key(), 0.0
        if self._next:  # an answer was on its way when the session began
            self.close()
        self._stale, self._again = self._connection is not None, 0.0

    def step(self, ready: set[int], now: float) -> None:
        """Do the work that is due, without waiting."""
        if self._held:
            return
        try:
            if self._connection is None:
                if now >= self._again:
                    self._connect(now)
                return
            if self._connection.fileno() in ready:
                self._exchange()
            if self._next and now > self._end:
                raise TimeoutError("no whole answer in time")
            if self._stale and not self._next:
                self._put()
            elif not self._next and now >= self._again:
                self._again = now + PING_SECONDS
                self._ask([wire.PENDING], self._pending)
        except (OSError, ValueError) as e:
            why = getattr(e, "strerror", "") or str(e) or "the connection was lost"
            if not self._complained:
                self._say(f"no tracker at {self.where}: {plain(why)}; trying again")
            self._complained = True
            self.close()

    def _connect(self, now: float) -> None:
        self._again = now + PING_SECONDS
        family, kind, protocol, _, where = socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM)[0]
        self._connection = socket.socket(family, kind, protocol)
        self._connection.setblocking(False)
        if (error := self._connection.connect_ex(where)) not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
        wire.watch(self._connection)
        magic = struct.pack("<i", wire.TRACKER_MAGIC)
        self._send(magic, 4, lambda answer: self._greeted(answer == magic))

    def _send(self, data: bytes, wanted: int, take: Callable[[bytes], None]) -> None:
        self._out, self._in, self._wanted, self._next = data, b"", wanted, take
        self._end = time.monotonic() + ANSWER_SECONDS

    def _exchange(self) -> None:
        if self._out:
            if error := self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            with contextlib.suppress(BlockingIOError):
                self._out = self._out[self._connection.send(self._out) :]
        while self._connection is not None:
            try:
                part = self._connection.recv((self._wanted - len(self._in)) or 1)
            except BlockingIOError:
                return
            if not part:
                raise ConnectionResetError("it closed the connection")
            if not self._next:
                raise ValueError("it sends unrequested data")
            self._in += part
            if len(self._in) == self._wanted:
                take, data = self._next, self._in
                self._next, self._in, self._wanted = None, b"", 0
                take(data)

    def _ask(self, message: list, take: Callable[[object], None]) -> None:
        def length(data: bytes) -> None:
            (count,) = struct.unpack("<i", data)
            if not 0 < count <= _LONGEST_ANSWER:
                raise ValueError(f"an answer of {count:,} bytes")
            end = self._end
            self._send(b"", count, lambda answer: take(json_text.parse(answer.decode())))
            self._end = end  # the limit of the whole answer

        text = json.dumps(message).encode()
        self._send(struct.pack("<i", len(text)) + text, 4, length)
        self._exchange()

    # ---- the conversation

    def _greeted(self, right: bool) -> None:
        if not right:
            raise ValueError("the server there is no TVM tracker")
        about = {"key": f"server:{self._key}", "addr": [None, self._port]}
        self._ask([UPDATE_INFO, about], lambda answer: (self._must(answer), self._put()))

    def _must(self, answer: object) -> None:
        if answer != 0 or isinstance(answer, bool):
            raise ValueError(f"it answers {str(answer)[:100]}")

    def _put(self) -> None:
        def done(answer: object) -> None:
            self._must(answer)
            if not self._known:
                self._say(f"tracker {self.where} has this board under {self._key!r}")
            self._known, self._complained, self._taken = True, False, 0.0
            self._again = time.monotonic() + PING_SECONDS

        self._stale = False
        self._ask([PUT, self._key, [self._port, self.match_key], None], done)

    def _pending(self, answer: object) -> None:
        if not isinstance(answer, list):
            raise ValueError(f"it answers {str(answer)[:100]}")
        if self.match_key in answer:
            self._taken = 0.0
            return
        self._taken = self._taken or time.monotonic()
        if time.monotonic() - self._taken > TAKEN_SECONDS:  # its client never came
            self.match_key = self._new_key()
            self._put()

    def close(self) -> None:
        """Leave the tracker."""
        self._known = False
        self._next, self._out, self._in = None, b"", b""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
