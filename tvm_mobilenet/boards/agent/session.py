"""One client's session on a board: a separate process that serves TVM's RPC. The agent notices every way in which it
ends.

The process is forked from the agent, which has imported TVM, so a session begins at once. It has its own folder and
process group; after its end, for any reason, its group is killed and its folder removed. A client that still waits is
told the reason: the agent keeps the connection too, and TVM's protocol accepts an exception in place of any answer.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import shutil
import signal
import socket
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet.boards.agent import lifeline, services
from tvm_mobilenet.system import resource

ENDED = "session ended: "  # start of the last message to a client, for which ``remote.session`` looks
GOODBYE_SECONDS = 3.0  # for a session to end by itself after its client has left
TELL_SECONDS = 1.5  # for a client to receive the last message
_POLL_SECONDS = 0.5
_NO_MEMORY = 12  # exit code of a session; ENOMEM
_LEAVES = getattr(select, "POLLRDHUP", 0)  # besides errors, which poll always reports


@dataclass
class AgentSession:
    """A session that runs.

    Parameters
    ----------
    connection : socket
        The connection, after the handshake.
    folder : path
        The session's own folder, made at its start and removed at its end.
    limit : float
        Seconds until it is ended; 0: never.
    memory : int
        Largest address space in bytes; 0: no limit.
    """

    connection: socket.socket
    folder: Path
    limit: float = 0.0
    memory: int = 0
    pid: int = 0
    _started: float = 0.0
    _left: float = 0.0  # time at which its client left
    _handle: int = -1

    def start(self) -> None:
        """Begin to serve.

        Raises
        ------
        OSError
            The board has no room for a folder, or for a process.
        """
        self.connection.setblocking(True)
        self.folder.mkdir(mode=0o700)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        try:
            self.pid = os.fork()
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        if self.pid == 0:
            self._child(parent)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)  # the child does the same: the first call counts
        with contextlib.suppress(OSError, AttributeError):
            self._handle = os.pidfd_open(self.pid)
        self._started = time.monotonic()

    def register(self, poll: select.poll) -> None:
        """Watch its process and its client's connection."""
        if self._handle >= 0:
            poll.register(self._handle, select.POLLIN)
        if not self._left:
            poll.register(self.connection, _LEAVES)

    def seconds_left(self, now: float) -> float:
        """Until `step` has something to do."""
        end = min(
            self._started + self.limit if self.limit else math.inf,
            self._left + GOODBYE_SECONDS if self._left else math.inf,
        )
        return min(end - now, math.inf if self._handle >= 0 else _POLL_SECONDS)

    def step(self, ready: set[int], now: float) -> str:
        """A short text of how it ended; empty while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.pid = 0
            return self._finish(*self._ended(status, self._left))
        if self.limit and now > self._started + self.limit:
            return self._finish(f"its {self.limit:g} s are over", True)
        if self._left and now > self._left + GOODBYE_SECONDS:
            return self._finish("its client left in the middle of a call", False)
        if self.connection.fileno() in ready:
            self._left = self._left or now
        return ""

    def end(self, why: str) -> str:
        """End it; return the message to its client."""
        return self._finish(why, True)

    def _finish(self, words: str, tell: bool) -> str:
        try:
            if tell:
                self._tell(words)
            return words
        finally:
            self.kill()
            self.connection.close()
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1
            shutil.rmtree(self.folder, ignore_errors=True)

    # ---- in the session's own process

    def _child(self, parent: int) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            lifeline.end_with(parent)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            _keep_only(self.connection.fileno())
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

        self.kill()  # no other process may write to the connection
        with contextlib.suppress(Exception):
            self.connection.settimeout(TELL_SECONDS)
            _ffi_api.ReturnException(self.connection.fileno(), f"{ENDED}{words}")
            self.connection.shutdown(socket.SHUT_WR)
            end = time.monotonic() + TELL_SECONDS
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(1 << 16):
                    break  # closing with unread bytes would reset the connection and lose the message

    def kill(self) -> None:
        """End its process, and the processes that it started."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid = 0


def _keep_only(connection: int) -> None:
    """Close every other socket of this process: listeners, trackers and callers are the agent's."""
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and int(name) != connection and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.close(int(name))


class _Folder:
    """The folder in the form that TVM's server uses."""

    def __init__(self, path: Path):
        self.temp_dir = str(path)

    def relpath(self, name: str) -> str:
        return os.path.join(self.temp_dir, name)


def register(folder: Path) -> None:
    """Register the functions of a session: TVM's own functions on files of a folder, and the services."""
    import tvm_ffi
    from tvm.rpc import server

    server.logger.setLevel("WARNING")
    server._server_env(None, _Folder(folder))

    def upload(name: str, data) -> None:
        """Replace TVM's own function, which reports no error when the disk is full."""
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
