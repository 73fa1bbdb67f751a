"""Features of Linux that another operating system may lack. No other module asks which system this is.

This project is made and tested on Linux. TVM has wheels for macOS and Windows too: there the package imports, and a
function that cannot work says so before it begins. docs/guides/installing.md lists the systems that were tried.
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

_WSL = "on Windows, use WSL 2, a Linux system: docs/guides/installing.md"


def is_linux() -> bool:
    """Whether this is Linux, with its system calls, ``/proc`` and ELF libraries that can be loaded."""
    return sys.platform == "linux"


def require_posix(what: str) -> None:
    """Make sure that the system can lock files and folders, and end processes in groups.

    Parameters
    ----------
    what : str
        The function that needs them, for the message, such as ``build``.

    Raises
    ------
    MissingDependencyError
        The system is Windows, or another one without them.
    """
    if fcntl is None:
        raise MissingDependencyError(f"{what} needs Linux or macOS, this is {platform.system()}", _WSL)


def require_linux(what: str) -> None:
    """Make sure that this is Linux.

    Raises
    ------
    MissingDependencyError
        The system is not Linux.
    """
    if not is_linux():
        raise MissingDependencyError(f"{what} needs Linux, this is {platform.system()}", "run it on Linux")
