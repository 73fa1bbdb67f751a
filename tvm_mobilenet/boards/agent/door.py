"""The agent's port: it listens to all callers at the same time, and none can delay the others.

A caller has ten seconds for the whole greeting, in any number of pieces. Silent connections are closed, the oldest
first if there are many. A caller that has greeted waits for its turn: one session runs at a time, and TVM's client
takes silence for a busy board. If the token is demanded, it is asked for before anything else (``boards.token``), from
everybody, or from all but processes of this user on this machine (``boards.owner``).
"""

from __future__ import annotations

import contextlib
import errno
import math
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable

from tvm_mobilenet.boards import owner, token, wire

HANDSHAKE_SECONDS = 10.0
EVERYBODY, OWN, NOBODY = "everybody", "own", "nobody"  # callers that need no token
MOST_CALLERS = 64  # limit of callers before their greeting, and of those that wait for their turn
_LONGEST_NAME = 4096


class Caller:
    """One connection before its session.

    Attributes
    ----------
    key : str
        The key that it gave; empty before its greeting.
    limit : float
        The longest time in seconds that it wants for its session; 0: no limit.
    """

    def __init__(self, connection: socket.socket, peer: tuple):
        connection.setblocking(False)
        self.connection, self.where = connection, f"{peer[0]}:{peer[1]}"
        self.end = time.monotonic() + HANDSHAKE_SECONDS
        self.key, self.limit, self.greeted = "", 0.0, False
        self._bytes, self._next, self._wanted = b"", self._begin, 4
        self._proven, self._nonces = False, b""

    def hear(self, secret: bytes, free: str) -> None:
        """Read the bytes that have arrived.

        Raises
        ------
        OSError, ValueError
            It closed the connection, or is not a client of TVM's.
        """
        while not self.greeted:
            try:
                part = self.connection.recv(self._wanted - len(self._bytes))
            except BlockingIOError:
                return
            if not part:
                raise ConnectionResetError
            self._bytes += part
            if len(self._bytes) == self._wanted:
                data, self._bytes = self._bytes, b""
                self._next(data, secret, free)

    def _begin(self, data: bytes, secret: bytes, free: str) -> None:
        if data == token.CHALLENGE and secret and not self._nonces:
            self._next, self._wanted = self._answer, token.NONCE
        elif data == struct.pack("<i", wire.MAGIC):
            self._next, self._wanted = self._length, 4
        else:
            raise ValueError("not a client of TVM's")

    def _answer(self, data: bytes, secret: bytes, free: str) -> None:
        ours = secrets.token_bytes(token.NONCE)
        self._nonces = data + ours
        self.say(token.CHALLENGE + ours + token.proof(secret, "agent", self._nonces))
        self._next, self._wanted = self._check, token.PROOF

    def _check(self, data: bytes, secret: bytes, free: str) -> None:
        if not token.same(data, token.proof(secret, "client", self._nonces)):
            raise ValueError("another token")
        self._proven, self._next, self._wanted = True, self._begin, 4

    def _length(self, data: bytes, secret: bytes, free: str) -> None:
        (self._wanted,) = struct.unpack("<i", data)
        if not 0 < self._wanted < _LONGEST_NAME:
            raise ValueError("not a client of TVM's")
        self._next = self._name

    def _name(self, data: bytes, secret: bytes, free: str) -> None:
        if not self._proven and free != EVERYBODY and (free == NOBODY or not owner.is_own_caller(self.connection)):
            if self._nonces or not secret:
                raise ValueError("no token")
            self.say(token.CHALLENGE)
            self._next, self._wanted = self._begin, 4
            return
        name, *options = data.decode().split(" ")
        if not name.startswith("client:"):
            raise ValueError("no client")
        wishes = [float(o.removeprefix("-timeout=")) for o in options if o.startswith("-timeout=")]
        if not all(math.isfinite(w) and w >= 0 for w in wishes):
            raise ValueError("an invalid limit")
        self.key, self.limit, self.greeted = name.removeprefix("client:"), min(filter(None, wishes), default=0.0), True

    def say(self, data: bytes) -> None:
        """Send a few bytes at once.

        Raises
        ------
        OSError
            The bytes cannot be sent.
        """
        if self.connection.send(data) != len(data):
            raise BrokenPipeError

    def has_left(self) -> bool:
        """Whether a waiting caller has closed its connection, or sent bytes before its turn."""
        try:
            self.connection.recv(1, socket.MSG_PEEK)
            return True
        except BlockingIOError:
            return False
        except OSError:
            return True


class Door:
    """The listening socket and its callers.

    Parameters
    ----------
    listener : socket
    secret : bytes
        The token; empty: there is none.
    free : str
        The callers that need no token: ``EVERYBODY``, ``OWN`` or ``NOBODY``.
    """

    def __init__(self, listener: socket.socket, secret: bytes, free: str):
        listener.setblocking(False)
        self.listener, self._secret, self._free = listener, secret, free
        self._callers: dict[int, Caller] = {}  # by descriptor, in order of arrival
        self._waiting: list[Caller] = []

    def register(self, poll: select.poll) -> None:
        """Watch all of them."""
        poll.register(self.listener, select.POLLIN)
        for caller in self.callers:
            poll.register(caller.connection, select.POLLIN)

    @property
    def callers(self) -> list[Caller]:
        return [*self._callers.values(), *self._waiting]

    def seconds_left(self, now: float) -> float:
        """Seconds until the first caller's time is over; infinite without callers."""
        return min((caller.end - now for caller in self._callers.values()), default=math.inf)

    def step(self, ready: set[int], now: float) -> None:
        """Read from callers whose descriptors are ``ready``, accept new ones, and close those whose time is over."""
        for descriptor, caller in list(self._callers.items()):
            if descriptor in ready:
                try:
                    caller.hear(self._secret, self._free)
                except (OSError, ValueError):  # a port scanner is not logged
                    self._drop(caller)
            if caller.greeted:
                del self._callers[descriptor]
                self._waiting.append(caller)
            elif now > caller.end and descriptor in self._callers:
                self._drop(caller)
        for caller in [c for c in self._waiting if c.connection.fileno() in ready and c.has_left()]:
            self._drop(caller)
        for caller in self._waiting[MOST_CALLERS:]:
            self._drop(caller)
        if self.listener.fileno() in ready:
            self._let_in()

    def _let_in(self) -> None:
        for _ in range(MOST_CALLERS):
            try:
                caller = Caller(*self.listener.accept())
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    for oldest in self.callers[:1]:
                        self._drop(oldest)
                    time.sleep(0.05)
                return
            self._callers[caller.connection.fileno()] = caller
            if len(self._callers) > MOST_CALLERS:
                self._drop(next(iter(self._callers.values())))

    def next(self, key: str, refused: Callable[[str], None]) -> Caller | None:
        """Greet and return the next caller; callers with another key get an answer that says so.

        Parameters
        ----------
        key : str
            The key that callers must give.
        refused : callable
            Called with the address of a caller that gave another key.
        """
        while self._waiting:
            caller = self._waiting.pop(0)
            if caller.key == key:
                return caller
            with contextlib.suppress(OSError):
                caller.say(struct.pack("<i", wire.MISMATCH))
            refused(caller.where)
            caller.connection.close()
        return None

    def _drop(self, caller: Caller) -> None:
        self._callers.pop(caller.connection.fileno(), None)
        if caller in self._waiting:
            self._waiting.remove(caller)
        caller.connection.close()

    def close(self) -> None:
        """Close all connections and the port."""
        for caller in self.callers:
            caller.connection.close()
        self._callers, self._waiting = {}, []
        self.listener.close()
