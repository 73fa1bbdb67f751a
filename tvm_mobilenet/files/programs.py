"""Run a program such as ssh for its output, with a limit on the output."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass

MOST = 1 << 20  # bytes of each stream that are kept
_GRACE_SECONDS = 5.0  # for processes that a program left behind to close its streams


class TooMuch(Exception):
    """A program printed more than the limit, and was ended."""


@dataclass(frozen=True)
class Done:
    """The end of a program: its exit code, its messages, and its output as bytes."""

    code: int
    out: str
    words: str
    data: bytes = b""


class Drain:
    """Read a pipe to its end in a thread and close it. A limited part of its beginning is kept; ``over`` tells whether
    there was more.

    ``seen`` is called with the kept part whenever data arrive.
    """

    def __init__(self, pipe, most: int = MOST, full=lambda: None, seen=lambda data: None):
        self.data, self.over, self._pipe, self._most, self._full = bytearray(), False, pipe, most, full
        self._seen = seen
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._pipe:
            while part := self._pipe.read1(1 << 16):
                room = self._most - len(self.data)
                self.data += part[:room]
                if len(part) > room and not self.over:
                    self.over = True
                    self._full()
                self._seen(self.data)

    def text(self, wait: float = 0.0) -> str:
        """The kept part, after a wait of this number of seconds for the end."""
        self._thread.join(wait)
        return bytes(self.data).decode(errors="replace")


def run(
    command: Sequence[str],
    data: bytes = b"",
    seconds: float = 600.0,
    reply: tuple[bytes, bytes] | None = None,
    most: int = MOST,
) -> Done:
    """Run a program to its end.

    Parameters
    ----------
    data : bytes
        Its input.
    reply : (bytes, bytes), optional
        A line of its output without its newline, and the rest of its input, which is sent after that line.
    most : int
        Limit of its output in bytes; beyond it the program is ended.

    Raises
    ------
    subprocess.TimeoutExpired
        It took longer; it was ended.
    TooMuch
    OSError
        It cannot be started.
    """
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    asked = threading.Event()
    ask, answer = reply or (b"", b"")

    def seen(data: bytearray) -> None:
        if not asked.is_set() and ask in bytes(data).split(b"\n")[:-1]:
            asked.set()

    drains = [Drain(process.stdout, most, process.kill, seen), Drain(process.stderr, full=process.kill)]

    def write() -> None:
        with contextlib.suppress(OSError), process.stdin:
            process.stdin.write(data)
            if answer:
                process.stdin.flush()
                asked.wait()
                process.stdin.write(answer)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        process.wait(seconds)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        asked.set()
    out, words = (drain.text(_GRACE_SECONDS) for drain in drains)
    if any(drain.over for drain in drains):
        raise TooMuch
    writer.join(_GRACE_SECONDS)
    return Done(process.returncode, out, words, bytes(drains[0].data))
