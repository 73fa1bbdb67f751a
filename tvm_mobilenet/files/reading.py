"""Check files that a user names, and explain why one cannot be read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)
NO_FILE = "no such file"
MOST_TEXT = 16 << 20  # bytes of a file that is read as text


def kind_of(mode: int) -> str:
    """The kind of a file that is not regular; else the empty string."""
    return next((word for test, word in KINDS if test(mode)), "")


def refusal(path: str | Path) -> str:
    """Why there is no regular file to read at a path; the empty string if there is one. Nothing is opened.

    Returns
    -------
    str
        ``NO_FILE`` if the path does not exist; else its kind: a folder, a pipe, a broken link.
    """
    try:
        kind = kind_of(os.stat(path).st_mode)
        return f"it is {kind}, not a file" if kind else ""
    except FileNotFoundError:
        return f"it is a link to {os.readlink(path)}, which does not exist" if os.path.islink(path) else NO_FILE
    except NotADirectoryError:
        return NO_FILE
    except (OSError, ValueError) as e:  # ValueError: a null character
        if getattr(e, "errno", None) == errno.ELOOP:
            return "it is a link that leads back to itself"
        return f"it cannot be read: {getattr(e, 'strerror', None) or 'no file has such a name'}".lower()


def text(path: str | Path, most: int = MOST_TEXT) -> str:
    """The text of a regular file in UTF-8; a larger file is refused.

    Parameters
    ----------
    most : int
        Bytes that it may have.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no regular file, too large, or no text.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if kind := kind_of(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"it is {kind}, not a file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data.decode("utf-8-sig")
