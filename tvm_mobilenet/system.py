"""What the operating system may lack of what Linux has, and who needs it: the one place that asks which system this is.

This project is made and tested on Linux. TVM has wheels for macOS and Windows too: there the package imports, and what
cannot work says so before it begins. docs/guides/installing.md says what was tried.
"""

from __future__ import annotations

import platform
import sys

from tvm_mobilenet.errors import MissingDependencyError

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None  # type: ignore[assignment]

_WSL = "on Windows work in WSL 2, which is a Linux: docs/guides/installing.md"


def is_linux() -> bool:
    """Whether this is Linux: its system calls, ``/proc``, and ELF libraries that can be loaded."""
    return sys.platform == "linux"


def require_posix(what: str) -> None:
    """Make sure that files and folders can be locked, and processes be ended in groups.

    Parameters
    ----------
    what : str
        That needs it, for the message: ``build``.

    Raises
    ------
    MissingDependencyError
        This is Windows, or another system without them.
    """
    if fcntl is None:
        raise MissingDependencyError(f"{what} needs Linux or macOS, this is {platform.system()}", _WSL)


def require_linux(what: str) -> None:
    """Make sure that this is Linux.

    Raises
    ------
    MissingDependencyError
        It is another system.
    """
    if not is_linux():
        raise MissingDependencyError(f"{what} needs Linux, this is {platform.system()}", "run it on Linux")
