"""The agent's folder for temporary files: its own, made anew when somebody cleaned it away, gone when it ends.

Its name cannot be guessed, and it is the agent's from the first moment on: it is made and locked under a hidden name,
then renamed. So no other agent takes it for that of a dead one. Whoever finds a lock that nobody holds removes the
folder, if it is this user's; links are never followed.
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
_FORGOTTEN_SECONDS = 3600.0  # after which one that was never renamed is a dead agent's


class Folder:
    """A new folder, with a lock that goes with this process; those of dead agents are removed.

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
        """Make it again if it has gone, or is another one; whether it had.

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
        """The path of a folder in it that is not there yet."""
        return self.path / f"{name}-{secrets.token_hex(4)}"

    def remove(self) -> None:
        """Remove it with all that is in it."""
        if _identity(self.path) == self._is:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Which folder there is; None: none of this user's."""
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
            lock = os.open(old / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(lock)
