"""The agent's listening side: TVM's RPC handshake, one session after the other, and its place in a tracker.

TVM's own ``rpc.Server`` stops serving when a session's process crashes, and waits without end for a client that
connects and sends nothing. This one speaks the same protocol (``tvm/rpc/server.py``, TVM 0.27), so TVM's clients,
trackers and proxies see no difference. One loop waits for the port, the callers, the session and the tracker at once,
and no step in it blocks.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable

from tvm_mobilenet.boards import wire
from tvm_mobilenet.boards.agent import lifeline
from tvm_mobilenet.boards.agent.door import OWN, Caller, Door
from tvm_mobilenet.boards.agent.folder import Folder
from tvm_mobilenet.boards.agent.registration import Registration
from tvm_mobilenet.boards.agent.session import ENDED, AgentSession
from tvm_mobilenet.errors import BoardError

STOP_SECONDS = 4.0  # after a signal to end, the process ends within this time even if it waits


class AgentServer:
    """A listening agent; use it as a context.

    Parameters
    ----------
    host, port
        To bind; port 0: any free one.
    key : str
        The key that clients must give, also the key in the tracker.
    tracker : (str, int), optional
    limit : float
        Longest time of a session in seconds; 0: the client's choice.
    memory : int
        Largest address space of a session in bytes; 0: no limit.
    secret : bytes
        The token; empty: there is none.
    free : str
        The callers that need no token: ``door.EVERYBODY``; ``OWN``, callers of this user on this machine; or
        ``NOBODY``.
    say : callable
        Takes a line of what happens.

    Raises
    ------
    BoardError
        The port is in use, or the host is no address of this machine.
    """

    def __init__(
        self,
        host: str,
        port: int,
        key: str = "",
        tracker: tuple[str, int] | None = None,
        limit: float = 0.0,
        memory: int = 0,
        secret: bytes = b"",
        free: str = OWN,
        say: Callable[[str], None] = print,
    ):
        self.key, self.tracker, self.limit, self.memory, self._say = key, tracker, limit, memory, say
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=128)
        except OSError as e:
            raise BoardError(
                f"cannot listen on {host}:{port}: {e.strerror or e}", "is an agent running there already? see --port"
            ) from None
        self.host, self.port = listener.getsockname()[:2]
        self._door = Door(listener, secret, free)
        self._stop_read, self._stop_write = os.pipe()
        os.set_blocking(self._stop_write, False)
        self._folder = Folder()
        self._registration: Registration | None = None
        self._session: AgentSession | None = None
        self._sessions, self._began, self._adopts = 0, 0.0, False

    @property
    def folder(self):
        """The folder of temporary files; each session has a folder in it."""
        return self._folder.path

    def stop(self, *_) -> None:
        """End ``run`` and the session in it; may be called by a signal handler."""
        with contextlib.suppress(OSError):
            os.write(self._stop_write, b"x")

    def run(self) -> None:
        """Serve until ``stop``."""
        if self.tracker:
            self._registration = Registration(self.tracker, self.key, self.port, self._say)
        while True:
            poll = select.poll()
            poll.register(self._stop_read, select.POLLIN)
            parts = [part for part in (self._door, self._session, self._registration) if part]
            for part in parts:
                part.register(poll)
            left = min(part.seconds_left(time.monotonic()) for part in parts)
            ready = {fd for fd, _ in poll.poll(None if left == math.inf else 1000 * max(0.0, left) + 1)}
            if self._stop_read in ready:
                if self._session:
                    self._over(self._session.end("the agent was ended"))
                return
            now = time.monotonic()
            self._door.step(ready, now)
            if self._session and (words := self._session.step(ready, now)):
                self._over(words)
            if self._registration:
                self._registration.step(ready, now)
            while not self._session and (caller := self._door.next(self._wanted, self._refused)):
                self._begin(caller)

    @property
    def _wanted(self) -> str:
        return self._registration.match_key if self._registration else self.key

    def _refused(self, where: str) -> None:
        self._say(f"refused {where}: another key")

    def _begin(self, caller: Caller) -> None:
        ours = f"server:{self.key}".encode()
        try:
            caller.say(struct.pack("<ii", wire.SUCCESS, len(ours)) + ours)
            wire.watch(caller.connection)
        except OSError:
            caller.connection.close()
            return
        self._sessions, self._began = self._sessions + 1, time.monotonic()
        self._say(f"session {self._sessions} from {caller.where}")
        limit = min(filter(None, (caller.limit, self.limit)), default=0.0)
        try:
            if self._folder.renew():
                self._say(f"the folder for temporary files had gone; it is {self.folder} now")
            session = AgentSession(caller.connection, self._folder.new(str(self._sessions)), limit, self.memory)
            session.start()
        except OSError as e:
            words = f"the board cannot begin a session: {e.strerror or e}"
            _tell(caller.connection, words)
            self._say(f"session {self._sessions} over at once: {words}")
            return
        self._session = session
        if self._registration:
            self._registration.hold()

    def _over(self, words: str) -> None:
        self._say(f"session {self._sessions} over after {time.monotonic() - self._began:.1f} s: {words}")
        self._session = None
        if self._adopts and (left := lifeline.end_adopted()):
            self._say(f"session {self._sessions} left {left} process{'es' * (left > 1)} behind, ended too")
        if self._registration:
            self._registration.renew()

    def guard(self) -> None:
        """Make sure that a signal ends this process within ``STOP_SECONDS``, even if it waits.

        From now on, processes that a session leaves behind end with it too. Call it in the main thread, after the
        handlers of signals call ``stop``.
        """
        lifeline.adopt()
        self._adopts = True
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

        def watch() -> None:
            while number := os.read(read, 1):
                if number[0] in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    break
            time.sleep(STOP_SECONDS)
            with contextlib.suppress(Exception):
                if session := self._session:
                    session.kill()
                lifeline.end_adopted()
                self._folder.remove()
            os._exit(0)

        threading.Thread(target=watch, name="guard", daemon=True).start()

    def close(self) -> None:
        """Leave the tracker, close the port, remove the folder."""
        if self._session:
            self._session.end("the agent was ended")
            self._session = None
        if self._adopts:
            lifeline.end_adopted()
        if self._registration:
            self._registration.close()
        self._door.close()
        os.close(self._stop_read)
        os.close(self._stop_write)
        self._folder.remove()

    def __enter__(self) -> AgentServer:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _tell(connection: socket.socket, words: str) -> None:
    """End a session that did not begin, and tell its client why."""
    text = f"{ENDED}{words}".encode()
    with contextlib.suppress(OSError), connection:
        connection.settimeout(1.0)
        connection.sendall(struct.pack("<QiiiQ", 20 + len(text), 5, 1, 8, len(text)) + text)  # an exception with a text
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1 << 12)
