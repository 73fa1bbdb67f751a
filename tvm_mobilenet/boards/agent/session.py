"""One client's session on a board: a process of its own that serves TVM's RPC, and whatever ends it is noticed.

The process is forked from the agent, which has TVM imported, so that a session begins at once. It has a folder and a
process group of its own; when it ends, for whatever reason, its group is killed and its folder removed. A client that
still waits is told why: the agent has kept the connection too, and TVM's protocol takes an exception in place of any
answer.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tvm_mobilenet.boards.agent import lifeline, services

ENDED = "session ended: "  # how the last words to a client begin; ``remote.session`` looks for them
GOODBYE_SECONDS = 3.0  # for a session to end by itself after its client has left
_POLL_SECONDS = 0.5
_NO_MEMORY = 12  # exit code of a session; ENOMEM
_CLOSED = select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)


@dataclass
class AgentSession:
    """A session that runs.

    Parameters
    ----------
    connection : socket
        On which the handshake is done.
    folder : path
        Of the session alone; it is made here and removed at the end.
    limit : float
        Seconds until it is ended; 0: never.
    memory : int
        Bytes of address space that it may take; 0: all.
    close_in_child : list of socket
        What the session's process must not hold open.
    """

    connection: socket.socket
    folder: Path
    limit: float = 0.0
    memory: int = 0
    close_in_child: list = field(default_factory=list)
    pid: int = 0

    def run(self, stop: int) -> str:
        """Serve until the session is over; how it ended, in a few words.

        Parameters
        ----------
        stop : int
            A file descriptor that becomes readable when the agent is to end.
        """
        self.folder.mkdir()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._child(parent)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)  # the child does so too: whoever is first
        try:
            words, tell = self._watch(stop)
            if tell:
                self._tell(words)
            return words
        finally:
            self._kill()
            self.connection.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    # ---- in the session's own process

    def _child(self, parent: int) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            lifeline.end_with(parent)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            for other in self.close_in_child:
                other.close()
            with contextlib.suppress(OSError):  # when memory runs out, a session dies and not the agent
                Path("/proc/self/oom_score_adj").write_text("800")
            if self.memory:
                resource.setrlimit(resource.RLIMIT_AS, (self.memory, self.memory))
            os.chdir(self.folder)
            os.environ["TMPDIR"] = str(self.folder)
            register(self.folder)
            from tvm.rpc import _ffi_api

            _ffi_api.ServerLoop(self.connection.fileno())
            code = 0
        except BaseException as e:
            print(f"session: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
            if isinstance(e, MemoryError) or re.search("bad_alloc|annot allocate memory", str(e)):
                code = _NO_MEMORY
        finally:
            os._exit(code)

    # ---- in the agent

    def _watch(self, stop: int) -> tuple[str, bool]:
        """How the session ended, and whether its client should be told."""
        started = time.monotonic()
        poll = select.poll()
        poll.register(self.connection, _CLOSED & ~(select.POLLHUP | select.POLLERR | select.POLLNVAL))
        poll.register(stop, select.POLLIN)
        left = 0.0  # when the client did
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return self._ended(status, left)
            now = time.monotonic()
            if self.limit and now > started + self.limit:
                return f"its {self.limit:g} s are over", True
            if left and now > left + GOODBYE_SECONDS:
                return "its client left in the middle of a call", False
            for descriptor, _ in poll.poll(1000 * min(_POLL_SECONDS, self.limit or _POLL_SECONDS)):
                if descriptor == stop:
                    return "the agent was ended", True
                left = left or now
                poll.unregister(self.connection)
                poll.register(stop, select.POLLIN)
            if left:
                time.sleep(0.02)

    def _ended(self, status: int, left: float) -> tuple[str, bool]:
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return "closed by its client", False
        if code == _NO_MEMORY:
            return "the board ran out of memory", not left
        if code == -signal.SIGKILL:
            return "its process was killed (SIGKILL): most likely the board ran out of memory", not left
        if code < 0:
            return f"what ran crashed its process ({signal.Signals(-code).name})", not left
        return f"its process ended with exit code {code}", not left

    def _tell(self, words: str) -> None:
        from tvm.rpc import _ffi_api

        self._kill()  # nobody else may write to the connection
        with contextlib.suppress(Exception):
            self.connection.settimeout(1.0)
            _ffi_api.ReturnException(self.connection.fileno(), f"{ENDED}{words}")
            self.connection.shutdown(socket.SHUT_WR)
            end = time.monotonic() + GOODBYE_SECONDS
            while time.monotonic() < end and self.connection.recv(1 << 16):
                pass  # closed with bytes unread, the connection would be reset, and the words with it

    def _kill(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid = 0


class _Folder:
    """What TVM's server takes as its folder."""

    def __init__(self, path: Path):
        self.temp_dir = str(path)

    def relpath(self, name: str) -> str:
        return os.path.join(self.temp_dir, name)


def register(folder: Path) -> None:
    """What clients find in a session: TVM's own functions on files of a folder, and the services."""
    import tvm_ffi
    from tvm.rpc import server

    server.logger.setLevel("WARNING")
    server._server_env(None, _Folder(folder))

    def upload(name: str, data) -> None:
        """In place of TVM's own, which says nothing when the disk is full."""
        path = folder / name
        try:
            path.write_bytes(data)
            if path.stat().st_size != len(data):
                raise OSError(f"{path.stat().st_size} of {len(data)} bytes written")
        except OSError as e:
            path.unlink(missing_ok=True)
            raise RuntimeError(f"the board cannot store {len(data):,} bytes in {folder}: {e.strerror or e}") from None

    tvm_ffi.register_global_func("tvm.rpc.server.upload", upload, override=True)
    tvm_ffi.register_global_func(services.GLOBAL, services.serve, override=True)
