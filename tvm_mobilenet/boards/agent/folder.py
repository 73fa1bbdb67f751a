"""The agent's own folder for temporary files. It is made again if it disappears, and removed when the agent ends.

Its name cannot be guessed. The agent locks the folder itself. An agent that finds such a folder of this user with a
free lock removes it; links are never followed (`files.temporary`). No clock is asked: a board without a clock of its
own gets the time from the network, hours after it began.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from tvm_mobilenet.files import temporary

PREFIX = "tvm_mobilenet-board-"  # agents of earlier versions lock a file in a folder, and name it otherwise


class Folder:
    """A new folder, with a lock that ends with this process; folders of dead agents are removed.

    Attributes
    ----------
    path : Path

    Raises
    ------
    OSError
        There is no room for one.
    """

    def __init__(self):
        self.path, self._lock = _own_folder()
        self._is = _identity(self.path)

    def renew(self) -> bool:
        """Make the folder again if it is missing or replaced; return whether it was.

        Raises
        ------
        OSError
            There is no room for one.
        """
        if _identity(self.path) == self._is:
            return False
        old = self._lock
        self.path, self._lock = _own_folder()
        self._is = _identity(self.path)
        os.close(old)
        return True

    def new(self, name: str) -> Path:
        """The path of a new folder in it, which is not made yet."""
        return self.path / f"{name}-{secrets.token_hex(4)}"

    def remove(self) -> None:
        """Remove it with all its contents."""
        if _identity(self.path) == self._is:
            temporary.remove(self.path)
        os.close(self._lock)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """The identity of the folder; None if there is none of this user's."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return None
    return status.st_dev, status.st_ino, status.st_uid


def _own_folder() -> tuple[Path, int]:
    parent = Path(tempfile.gettempdir())
    temporary.remove_abandoned(parent, PREFIX)
    return temporary.new_folder(parent, PREFIX)
