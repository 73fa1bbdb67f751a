"""One process at a time works on a folder: a lock beside it, which names the process that holds it.

The lock is the system's own (``flock``), so it ends with the process in any case. The file that a killed process leaves
holds no lock; the next process takes it, and removes it at its end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.system import fcntl

_MOST_TEXT = 400  # bytes of the text about the holder


@contextlib.contextmanager
def held(folder: Path, doing: str, flag: str) -> Iterator[None]:
    """Hold the lock of a folder while the block runs. Folders above it are made, and stay if the folder does.

    Parameters
    ----------
    folder : path
        It need not exist.
    doing : str
        The work on it, for the message to another process: ``built (v1 0.25-128 for rpi4)``.
    flag : str
        The flag that the user may change.

    Raises
    ------
    TvmMobilenetError
        Another process holds it, which the message names; or the folder cannot be written.
    """
    real = Path(os.path.realpath(folder))
    above = [parent for parent in real.parents if not parent.exists()]
    try:
        path, descriptor = _taken(real)
    except BlockingIOError as e:
        raise TvmMobilenetError(
            f"{folder} is being {e.args[1]}", f"wait until it has ended, or give another {flag}"
        ) from None
    except OSError as e:
        raise TvmMobilenetError(f"cannot write to {folder}: {reason(e)}", f"choose another {flag}") from None
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock has no text
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{doing} by process {os.getpid()}".encode()[:_MOST_TEXT], 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # removed while held: a process that opened it meanwhile notices that the name is gone
        os.close(descriptor)
        with contextlib.suppress(OSError):
            for parent in above:
                parent.rmdir()  # while it is empty


def _taken(folder: Path) -> tuple[Path, int]:
    """The lock's file and its descriptor; the second argument of a BlockingIOError names the holder."""
    name = f".{folder.name[:100]}.lock"
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(name)
    if not os.access(folder.parent, os.W_OK) and folder.is_dir():
        path = folder / name  # the folder is ours, its parent is not
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return path, descriptor
        except FileNotFoundError:
            pass  # its holder ended and removed it
        except BlockingIOError as e:
            who = os.pread(descriptor, _MOST_TEXT, 0).decode(errors="replace")
            os.close(descriptor)
            printable = "".join(c for c in who if c.isprintable())
            raise BlockingIOError(e.errno, printable or "used by another process") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
