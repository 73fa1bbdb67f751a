"""Temporary folders that end with their process; the next run removes those of a killed process.

Its owner locks each folder (``flock``) from the first moment. A lock ends with its process in any case, so a process
that gets the lock of such a folder knows that no other uses it. A folder of another user, a link and a file system
without locks are left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.system import fcntl

_PREFIX = "tvm_mobilenet-run-"
_TOKEN = "[0-9a-f]{16}"
_WORK = ".work-"  # prefix of working folders in a folder that is being made
_TRIES = 10  # a new folder may be taken for an abandoned one before it is locked


def new_folder(parent: Path, prefix: str, suffix: str = "", mode: int = 0o700) -> tuple[Path, int]:
    """A new folder with a name that cannot be guessed, and the descriptor that locks it until it is closed.

    Raises
    ------
    OSError
        It cannot be made.
    """
    for _ in range(_TRIES):
        folder = parent / f"{prefix}{secrets.token_hex(8)}{suffix}"
        folder.mkdir(mode=mode)
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except BaseException:
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
        if _locked(lock) is not False and _is(folder, lock):
            return folder, lock
        os.close(lock)
    raise FileNotFoundError(2, "it is removed again and again", str(parent))


def remove_abandoned(parent: Path, prefix: str, suffix: str = "", before=lambda folder: None) -> None:
    """Remove the folders that `new_folder` made in a folder, except those of living processes.

    Parameters
    ----------
    prefix, suffix : str
        Of their names. No prefix: any.
    before : callable
        Called with each folder first; if it moves the folder away, nothing is removed.
    """
    named = re.compile((re.escape(prefix) or r".+\.") + _TOKEN + re.escape(suffix))
    with contextlib.suppress(OSError):
        found = [entry.path for entry in os.scandir(parent) if named.fullmatch(entry.name)]
        for folder in map(Path, found):
            with contextlib.suppress(OSError), locked(folder) as lock:
                if lock is not None and os.fstat(lock).st_uid == os.geteuid():
                    before(folder)
                    remove(folder)


def tidy() -> None:
    """Remove the temporary folders of killed processes, before this process makes its own."""
    with contextlib.suppress(OSError):
        remove_abandoned(Path(tempfile.gettempdir()), _PREFIX)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, as far as that can be done."""
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)  # it may have the mode of the folder that it replaces
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """The descriptor of a folder, locked; None if another process has locked it, or the file system has no locks.

    Raises
    ------
    OSError
        It is no folder, or gone.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield lock if _locked(lock) and _is(folder, lock) else None
    finally:
        os.close(lock)


def _locked(descriptor: int) -> bool | None:
    """Lock a folder; False: another process has; None: the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is(folder: Path, descriptor: int) -> bool:
    """Whether an open folder is still the one of this name."""
    try:
        there = os.lstat(folder)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(there.st_mode) and os.path.samestat(there, os.fstat(descriptor))


class _Place:
    """The place of a process's temporary folders: one folder of its own, so that a killed process leaves only one."""

    def __init__(self):
        self._lock, self._owner = threading.Lock(), 0
        self._own: Path | None = None
        self._descriptor, self._users = -1, 0
        self._given = threading.local()

    def take(self) -> Path:
        """A new folder.

        Raises
        ------
        OSError
            It cannot be made.
        """
        parent = Path(tempfile.gettempdir())
        with self._lock:
            if self._owner != os.getpid():  # forked: the existing folder belongs to the parent
                self._owner, self._own, self._users = os.getpid(), None, 0
            given = [folder for owner, folder in getattr(self._given, "folders", ()) if owner == os.getpid()]
            if self._own is None:
                remove_abandoned(parent, _PREFIX)
            if given and self._own is None:
                folder = given[-1] / f"{_WORK}{secrets.token_hex(8)}"
                folder.mkdir(mode=0o700)
                return folder
            if self._own is None:
                self._own, self._descriptor = new_folder(parent, _PREFIX)
            self._users += 1
            folder = self._own / secrets.token_hex(8)
            try:
                folder.mkdir(mode=0o700)
            except BaseException:
                self._release()
                raise
            return folder

    def give_back(self, folder: Path, owner: int) -> None:
        """Remove one, in the process that took it."""
        if owner != os.getpid():
            return
        with self._lock:
            remove(folder)
            if self._own == folder.parent:
                self._release()

    def _release(self) -> None:
        self._users -= 1
        if not self._users:
            remove(self._own)
            os.close(self._descriptor)
            self._own = None

    @contextlib.contextmanager
    def inside(self, folder: Path) -> Iterator[None]:
        """While the block runs, this thread's temporary folders are in the given folder, and are abandoned with it if
        the process is killed, unless the process already has a folder."""
        folders = self._given.__dict__.setdefault("folders", [])
        folders.append((os.getpid(), folder))
        try:
            yield
        finally:
            folders.pop()
            for entry in folder.glob(f"{_WORK}*") if folder.is_dir() else ():
                remove(entry)


# $1 a process group  $2 a folder  $3 the folder around it, or nothing. A dead process that nobody waits for counts as
# there: so this waits for ten seconds at most.
_AFTER = """
for try in $(seq 100); do kill -0 "-$1" 2>/dev/null || break; sleep 0.1; done
rm -rf -- "$2"
[ -z "$3" ] || rmdir -- "$3"
"""


def remove_after_group(group: int, path: str | Path) -> None:
    """Remove a temporary folder, and its parent folder if that is empty then, once a process group has ended. This does
    not wait.

    Raises
    ------
    OSError
        No process can be started.
    """
    around = Path(path).parent
    words = (str(group), str(path), str(around) if around.name.startswith(_PREFIX) else "")
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen(["sh", "-c", _AFTER, "sh", *words], process_group=0, **streams)


_PLACE = _Place()
inside = _PLACE.inside


class TemporaryFolder:
    """A folder for temporary files, gone when it is closed, when the process ends, or when the next one begins.

    A context manager that gives its path.

    Attributes
    ----------
    path : Path

    Raises
    ------
    TvmMobilenetError
        There is no place for one.
    """

    def __init__(self):
        try:
            self.path = _PLACE.take()
        except OSError as e:
            raise TvmMobilenetError(
                f"no temporary folder can be made: {reason(e)}",
                "make room, or set TMPDIR to a folder that exists and can be written",
            ) from None
        self._end = weakref.finalize(self, _PLACE.give_back, self.path, os.getpid())

    def close(self) -> None:
        """Remove it."""
        self._end()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error) -> None:
        self.close()
