"""The agent's own folder for temporary files. It is made again if it disappears, and removed when the agent ends.

Its name cannot be guessed. It is made and locked under a hidden name, then renamed, so no other agent can take it for a
dead agent's. An agent that finds a folder of this user with a free lock removes it; links are never followed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from pathlib import Path

from tvm_mobilenet.system import fcntl

PREFIX = "tvm_mobilenet-agent-"
_HIDDEN = f".{PREFIX}"
_FORGOTTEN_SECONDS = 3600.0  # after this time a folder that was never renamed is a dead agent's


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
            shutil.rmtree(self.path, ignore_errors=True)
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
    _remove_dead(parent)
    new = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=parent))
    try:
        lock = os.open(new / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = parent / f"{PREFIX}{secrets.token_hex(8)}"
        os.rename(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return folder, lock


def _remove_dead(parent: Path) -> None:
    for old in [*parent.glob(f"{PREFIX}*"), *parent.glob(f"{_HIDDEN}*")]:
        if _identity(old) is None:
            continue
        with contextlib.suppress(OSError):
            if old.name.startswith(_HIDDEN) and time.time() - os.lstat(old).st_mtime < _FORGOTTEN_SECONDS:
                continue
            try:
                lock = os.open(old / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                if old.name.startswith(_HIDDEN):  # its agent was killed before it made the lock
                    old.rmdir()  # which fails if anything is in it
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(lock)
