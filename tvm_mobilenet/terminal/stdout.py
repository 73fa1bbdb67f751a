"""Write results to stdout, whose reader may leave, whose disk may be full, and which may not exist."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.terminal.printable import printable_lines

_ELSEWHERE = "send it somewhere else: a pipe, or a file on a disk with room"


def write(text: str) -> None:
    """Write a part of the result on stdout.

    Raises
    ------
    BrokenPipeError
        Its reader left.
    TvmMobilenetError
        stdout is closed, or its disk is full.
    """
    if sys.stdout is None:
        raise TvmMobilenetError("the result cannot be written: stdout is closed", _ELSEWHERE)
    try:
        print(printable_lines(text), flush=True)
    except BrokenPipeError:
        raise
    except OSError as e:
        raise _unwritten(e) from None


@contextmanager
def arriving() -> Iterator[None]:
    """Flush the output of the block; a reader that leaves early, as `head` does, is no error.

    Raises
    ------
    TvmMobilenetError
        The disk of stdout is full.
    """
    try:
        yield
    except BrokenPipeError:
        abandon()
    finally:  # also if argparse ends the process
        _flush()


def _flush() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        abandon()
    except OSError as e:
        raise _unwritten(e) from None


def _unwritten(error: OSError) -> TvmMobilenetError:
    abandon()
    return TvmMobilenetError(f"the result cannot be written to stdout: {reason(error)}", _ELSEWHERE)


def abandon() -> None:
    """Discard the rest of stdout, which cannot be written and on which Python would fail again at its exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
