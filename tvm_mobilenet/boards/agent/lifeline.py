"""End processes together with the process that started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # Linux, prctl.h
_END_SECONDS = 2.0  # limit for finding all of them, even if they start others


def end_with(parent: int) -> None:
    """Let the system kill this process when its parent, a process id, ends; at once if the parent has ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt() -> None:
    """From now on, processes that a child started and left behind become children of this process."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_adopted() -> int:
    """End all children of this process and their children, also those in another session; return their number.

    Call it in a process that called `adopt`, when none of its children may stay.
    """
    found, last = set(), time.monotonic() + _END_SECONDS
    while (children := _children()) and time.monotonic() < last:
        for pid in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
        if not children - found:
            time.sleep(0.002)  # they are ending
        found |= children
    return len(found)


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in task.read_text(encoding="ascii").split()}
    return found
