"""Start, query and end the process between TVM's client and a board (``reply_filter``).

TVM starts it (``rpc.CreatePipeClient``) and kills it by its process id when the channel closes, even if another process
has that id by then. An id becomes free when the process has been waited for. So this module waits for it only after the
channel has closed, which it sees from the open descriptors of its own process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from tvm_mobilenet.errors import BoardError

START_SECONDS = 120.0
_PACKAGE = Path(__file__).resolve().parents[3]  # the folder that holds tvm_mobilenet
_CODE = (
    f"import sys; sys.path.insert(0, {str(_PACKAGE)!r}); "
    "from tvm_mobilenet.boards.remote.reply_filter import main; sys.exit(main(sys.argv[1:]))"
)
_unwaited: dict[int, int] = {}  # processes whose channel TVM still holds, and the inode of its pipe


class Link:
    """A filter process for one connection; call its ``close``.

    Attributes
    ----------
    command : list of str
        The command for TVM, which adds the descriptors of its pipes.
    confined : int
        The version of Landlock that confines the process; 0: none.
    """

    def __init__(self):
        _wait_for_gone()
        self._reports, report = os.pipe()
        self._way, theirs = socket.socketpair()
        os.set_blocking(self._reports, False)
        self._given = [theirs.detach(), report]
        for descriptor in self._given:
            os.set_inheritable(descriptor, True)
        self.command = [sys.executable, "-I", "-S", "-c", _CODE, *map(str, self._given)]
        self._text, self._over, self._ended = b"", {}, False
        self._pid = self._pipe = 0
        self._handle = -1
        self.confined = 0

    def started(self) -> None:
        """Wait until the process runs. Call the board only after that, because it will not wait long.

        Raises
        ------
        BoardError
            The process does not start.
        """
        end = time.monotonic() + START_SECONDS
        while not self._pid and not self._ended and time.monotonic() < end:
            select.select([self._reports], [], [], 0.5)
            self._read()
        for descriptor in self._given:
            os.close(descriptor)
        self._given = []
        if not self._pid:
            raise BoardError("the process that speaks to the board does not start", "is this machine out of memory?")

    def give(self, connection: socket.socket, key: str, token: bytes, demanded: bool) -> None:
        """Pass on a connection on which nothing has been sent.

        Parameters
        ----------
        key : str
            The key with its options, as TVM's client sends it.
        token : bytes
            The token; empty if this machine has none.
        demanded : bool
            The board must first prove that it has the token.

        Raises
        ------
        BoardError
            The process has ended.
        """
        settings = json.dumps({"key": key, "token": token.hex(), "demanded": demanded}).encode()
        try:
            socket.send_fds(self._way, [settings], [connection.fileno()])
        except OSError:
            raise BoardError("the process that speaks to the board has ended", "is there memory left here?") from None
        finally:
            connection.close()
            self._way.close()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not self._ended:
                part = os.read(self._reports, 1 << 16)
                self._ended = not part
                self._text += part
        *lines, self._text = self._text.split(b"\n")
        for line in map(json.loads, lines):
            if "pid" in line:
                self._pid, self._pipe, self.confined = line["pid"], line["pipe"], line["confined"]
                with contextlib.suppress(OSError, AttributeError):
                    self._handle = os.pidfd_open(self._pid)
            if "over" in line:
                self._over = line

    def over(self, wait: float = 0.0) -> tuple[str, str]:
        """How the session ended: ``reply_filter.Over``'s kind and text; empty while it runs.

        Parameters
        ----------
        wait : float
            Seconds to wait for that report.
        """
        end = time.monotonic() + wait
        while True:
            self._read()
            left = end - time.monotonic()
            if self._over or self._ended or left <= 0:
                break
            select.select([self._reports], [], [], left)
        if self._over:
            return self._over["over"], self._over["text"]
        return ("lost", "the connection was lost") if self._ended else ("", "")

    def end(self) -> None:
        """End the process, and with it the connection."""
        with contextlib.suppress(ProcessLookupError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            elif self._pid:
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process and forget it."""
        self.end()
        if self._pid:
            _unwaited[self._pid] = self._pipe
        if self._handle >= 0:
            os.close(self._handle)
        os.close(self._reports)
        self._way.close()
        for descriptor in self._given:
            os.close(descriptor)
        self._handle, self._pid, self._given = -1, 0, []
        _wait_for_gone()


def _wait_for_gone() -> None:
    """Wait for ended processes whose channel has closed."""
    if not _unwaited:
        return
    here = set()
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            here.add(os.fstat(int(name)).st_ino)
    for pid, pipe in list(_unwaited.items()):
        if pipe not in here:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            _unwaited.pop(pid, None)
