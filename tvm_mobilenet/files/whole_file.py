"""Files that a user asked for by a flag: written whole or not at all, where they may be written.

A new file replaces an old one in one step and takes over its mode and, where that is allowed, its owner. A link stays
one: the file it leads to is replaced. A file of several names, or one that cannot be replaced, is overwritten in its
place. What is no regular file is never replaced: devices, pipes and ``/dev/stdout`` are written to, folders refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.reading import kind_of

_STREAM = re.compile(r"/dev/(?:std(in|out|err)|fd/(\d+))|/proc/self/fd/(\d+)")
_HERE, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD; of linux/fs.h
_CLOSED = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV)


def write_whole(path: str | Path, content: str | bytes, flag: str) -> None:
    """Write a text (as UTF-8) or bytes; folders are made.

    Raises
    ------
    TvmMobilenetError
        It cannot be written there; ``flag`` is what the user may change.
    """
    data = content.encode() if isinstance(content, str) else content
    if why := refusal(path):
        raise TvmMobilenetError(f"cannot write {path}: {why}", f"choose another {flag}")
    real = Path(os.path.realpath(path))
    try:
        there = _status(real)
        if (stream := _stream(path, there)) is not None:
            sys.stdout.flush()
            return _write(stream, data)
        if there is None:
            real.parent.mkdir(parents=True, exist_ok=True)
        elif there.st_nlink > 1 or not stat.S_ISREG(there.st_mode):
            return _overwrite(real, data)
        try:
            with replacing(real) as new:
                new.write_bytes(data)
        except OSError as e:
            if there is None or e.errno not in _CLOSED:
                raise
            _overwrite(real, data)
    except BrokenPipeError:
        raise  # the reader of stdout left
    except OSError as e:
        raise TvmMobilenetError(f"cannot write {path}: {e.strerror}", f"choose another {flag}") from None


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """The path of a new, empty file beside another, which it replaces when the block ends without an error."""
    real = Path(os.path.realpath(path))
    new = real.with_name(f".{real.name[:100]}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    try:
        yield new
        if (there := _status(real)) is not None:
            with contextlib.suppress(OSError):
                os.chown(new, there.st_uid, there.st_gid)
            os.chmod(new, stat.S_IMODE(there.st_mode))
        os.replace(new, real)
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


@contextlib.contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """The path of a new, empty folder beside another, which it replaces in one step when the block ends without error.

    Whoever dies meanwhile leaves the old folder as it was. The new one takes over its mode and, where that is allowed,
    its owner.
    """
    real = Path(os.path.realpath(path))
    real.parent.mkdir(parents=True, exist_ok=True)
    new = real.with_name(f".{real.name[:100]}.{secrets.token_hex(8)}.tmp")
    new.mkdir()
    try:
        yield new
        if (there := _status(real)) is None:
            new.rename(real)
            return
        with contextlib.suppress(OSError):
            os.chown(new, there.st_uid, there.st_gid)
        os.chmod(new, stat.S_IMODE(there.st_mode))
        _exchange(new, real)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: at once where the system can, else by way of a third name."""
    libc = ctypes.CDLL(None, use_errno=True)
    swap = getattr(libc, "renameat2", None)
    if swap is not None and swap(_HERE, os.fsencode(new), _HERE, os.fsencode(old), _RENAME_EXCHANGE) == 0:
        return
    aside = new.with_suffix(".old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def refusal(path: str | Path, regular: bool = False) -> str:
    """Why a file cannot be written at a path, or the empty string; nothing is opened.

    Parameters
    ----------
    regular : bool
        Only a regular file will do, or the name of one that does not exist yet.
    """
    if (stream := _stream(path)) is not None:
        return f"it is file descriptor {stream} of this process, not a file" if regular else ""
    real = Path(os.path.realpath(path))
    try:
        if (there := _status(real)) is None:
            parent = next(p for p in real.parents if p.exists())
            return "" if parent.is_dir() else f"{parent} is not a folder"
    except OSError as e:
        return e.strerror
    kind = kind_of(there.st_mode)
    if not kind or (not regular and stat.S_IFMT(there.st_mode) in (stat.S_IFCHR, stat.S_IFIFO)):
        return ""
    return f"it is {kind}, not a file"


def output_file(text: str) -> Path:
    """An argparse type: a file to write.

    Raises
    ------
    TvmMobilenetError
        Nothing can be written there.
    """
    if why := refusal(text):
        raise TvmMobilenetError(f"cannot write {text}: {why}", "choose another file")
    return Path(text)


def folder_to_write(text: str) -> Path:
    """An argparse type: a folder to write to, which need not exist yet.

    Raises
    ------
    TvmMobilenetError
        There is something else.
    """
    real = Path(os.path.realpath(text))
    try:
        there = next(p for p in (real, *real.parents) if p.exists())
        why = "" if there.is_dir() else f"{there} is no folder"
    except OSError as e:
        why = e.strerror
    if why:
        raise TvmMobilenetError(f"cannot write to {text}: {why}", "choose another folder")
    return Path(text)


def journal_file(text: str) -> Path:
    """An argparse type: a file to append to and to read again, beside which others are made.

    Raises
    ------
    TvmMobilenetError
        One of them is no regular file.
    """
    if not text:
        raise TvmMobilenetError("the path of a log is empty", "give a regular file, or a name that does not exist yet")
    for suffix in ("", ".trials.jsonl", ".torn"):
        path = Path(text).with_suffix(suffix) if suffix else text
        if why := refusal(path, regular=True):
            raise TvmMobilenetError(
                f"{path} cannot be appended to: {why}", "give a regular file, or a name that does not exist yet"
            )
    return Path(text)


def _stream(path: str | Path, there: os.stat_result | None = None) -> int | None:
    """The descriptor of this process that a path such as ``/dev/stdout`` names, or whose file is ``there``."""
    if found := _STREAM.fullmatch(os.path.abspath(path)):
        return {"in": 0, "out": 1, "err": 2}[found[1]] if found[1] else int(found[2] or found[3])
    for descriptor in (1, 2) if there else ():
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), there):
                return descriptor
    return None


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _overwrite(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        if regular and data:
            os.posix_fallocate(fd, 0, len(data))  # a full disk is found out while the old content stands
        _write(fd, data)
        if regular:
            os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
