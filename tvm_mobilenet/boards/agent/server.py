"""The agent's listening side: TVM's RPC handshake, one session after the other, and its place in a tracker.

TVM's own ``rpc.Server`` stops serving when a session's process crashes, and waits without end for a client that
connects and says nothing. This one speaks the same protocol (``tvm/rpc/server.py``, TVM 0.27), so TVM's clients,
trackers and proxies see no difference.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tvm_mobilenet.boards import wire
from tvm_mobilenet.boards.agent.session import AgentSession
from tvm_mobilenet.errors import BoardError

HANDSHAKE_SECONDS = 5.0
PING_SECONDS = 2.0  # between two looks at the tracker
TAKEN_SECONDS = 10.0  # that a match key may be out without its client coming, before it is replaced
_PREFIX = "tvm_mobilenet-agent-"
PUT, UPDATE_INFO = 3, 5  # of tvm.rpc.base.TrackerCode


class AgentServer:
    """A listening agent; use it as a context.

    Parameters
    ----------
    host, port
        To bind; port 0: any free one.
    key : str
        Clients must name it; of the tracker's list as well.
    tracker : (str, int), optional
    limit : float
        Seconds that a session may take; 0: as long as its client wants.
    memory : int
        Bytes of address space a session may take; 0: all.
    say : callable
        Takes a line of what happens.

    Raises
    ------
    BoardError
        The port is taken, or the host is none of this machine.
    """

    def __init__(
        self,
        host: str,
        port: int,
        key: str = "",
        tracker: tuple[str, int] | None = None,
        limit: float = 0.0,
        memory: int = 0,
        say: Callable[[str], None] = print,
    ):
        self.key, self.tracker, self.limit, self.memory, self._say = key, tracker, limit, memory, say
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=64)
        except OSError as e:
            raise BoardError(
                f"cannot listen on {host}:{port}: {e.strerror or e}", "is an agent running there already? see --port"
            ) from None
        self.host, self.port = self._listener.getsockname()[:2]
        self._stop_read, self._stop_write = os.pipe()
        self.folder, self._lock = _own_folder()
        self._registration: _Registration | None = None
        self._sessions = 0

    def stop(self, *_) -> None:
        """End ``run`` and the session in it; may be called by a signal handler."""
        with contextlib.suppress(OSError):
            os.write(self._stop_write, b"x")

    def run(self) -> None:
        """Serve until ``stop``."""
        if self.tracker:
            self._registration = _Registration(self.tracker, self.key, self.port, self._say)
        while True:
            watched = [self._listener, self._stop_read]
            ready = select.select(watched, [], [], PING_SECONDS if self._registration else None)[0]
            if self._stop_read in ready:
                return
            if self._registration:
                self._registration.keep()
            if self._listener in ready:
                self._accept()
                if self._stopping():
                    return

    def _stopping(self) -> bool:
        return bool(select.select([self._stop_read], [], [], 0)[0])

    def _accept(self) -> None:
        try:
            connection, peer = self._listener.accept()
        except OSError:
            return
        with connection:
            try:
                options = self._handshake(connection)
            except (OSError, ValueError):
                return  # no client of TVM's, or one that left; a scanner is not worth a line
            if options is None:
                self._say(f"refused {peer[0]}:{peer[1]}: another key")
                return
            self._sessions += 1
            number, started = self._sessions, time.monotonic()
            self._say(f"session {number} from {peer[0]}:{peer[1]}")
            wire.watch(connection)
            limit = min(filter(None, (options, self.limit)), default=0.0)
            held = [self._listener, *(self._registration.sockets if self._registration else ())]
            session = AgentSession(connection, self.folder / str(number), limit, self.memory, held)
            ended = session.run(self._stop_read)
            self._say(f"session {number} over after {time.monotonic() - started:.1f} s: {ended}")
            if self._registration:
                self._registration.renew()

    def _handshake(self, connection: socket.socket) -> float | None:
        """Seconds that the client wants the session to last at most (0: no limit), or None: another key."""
        connection.settimeout(HANDSHAKE_SECONDS)
        magic, length = struct.unpack("<ii", wire.receive(connection, 8))
        if magic != wire.MAGIC or not 0 < length < 4096:
            raise ValueError("no client of TVM's")
        name, *options = wire.receive(connection, length).decode().split(" ")
        if name != f"client:{self._registration.match_key if self._registration else self.key}":
            connection.sendall(struct.pack("<i", wire.MISMATCH))
            return None
        ours = f"server:{self.key}".encode()
        connection.sendall(struct.pack("<ii", wire.SUCCESS, len(ours)) + ours)
        connection.settimeout(None)
        return max((float(o.removeprefix("-timeout=")) for o in options if o.startswith("-timeout=")), default=0.0)

    def close(self) -> None:
        """Leave the tracker, close the port, remove the folder."""
        if self._registration:
            self._registration.close()
        self._listener.close()
        os.close(self._stop_read)
        os.close(self._stop_write)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> AgentServer:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Registration:
    """The agent's entry in a tracker: made again when the tracker was restarted, with a new match key each session."""

    def __init__(self, tracker: tuple[str, int], key: str, port: int, say: Callable[[str], None]):
        self._address, self._key, self._port, self._say = tracker, key, port, say
        self._tracker: wire.Tracker | None = None
        self._missed = self._taken = 0.0
        self.match_key = ""
        self.keep()

    @property
    def sockets(self) -> list:
        """What a session's process must close."""
        return [self._tracker] if self._tracker else []

    def keep(self) -> None:
        """See that the tracker knows this board and its match key; called every few seconds while no session runs."""
        try:
            if self._tracker is None:
                self._tracker = wire.Tracker(*self._address)
                self._tracker.ask([UPDATE_INFO, {"key": f"server:{self._key}", "addr": [None, self._port]}])
                self._put()
                self._say(f"tracker {self._tracker.where} has this board under {self._key!r}")
                self._missed = 0.0
            elif self.match_key in self._tracker.ask([wire.PENDING])[0]:
                self._taken = 0.0
            else:
                self._taken = self._taken or time.monotonic()
                if time.monotonic() - self._taken > TAKEN_SECONDS:  # its client never came
                    self._put()
        except (BoardError, OSError) as e:
            if not self._missed:
                self._say(f"no tracker: {getattr(e, 'message', e)}; trying again")
            self._missed = self._missed or time.monotonic()
            self.close()

    def renew(self) -> None:
        """After a session: the board is free again."""
        try:
            if self._tracker:
                self._put()
        except (BoardError, OSError):
            self.close()
        self.keep()

    def _put(self) -> None:
        self.match_key, self._taken = f"{self._key}:{random.random()}", 0.0
        self._tracker.ask([PUT, self._key, [self._port, self.match_key], None])

    def close(self) -> None:
        if self._tracker:
            self._tracker.close()
            self._tracker = None


def _own_folder() -> tuple[Path, int]:
    """A new folder for temporary files, with a lock that goes with this process; those of dead agents are removed."""
    parent = Path(tempfile.gettempdir())
    for old in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(old / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(lock)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, lock
