"""Write the files that a user's flags name, completely or not at all.

A new file replaces an old one in one step and takes over its mode and, if allowed, its owner. For a link the file to
which it leads is replaced. A file with several names, or one that cannot be replaced, is overwritten in place. Other
kinds of files are never replaced: devices, pipes and ``/dev/stdout`` are written to, folders refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import temporary
from tvm_mobilenet.files.reading import kind_of
from tvm_mobilenet.system import is_linux

_STREAM = re.compile(r"/dev/(?:std(in|out|err)|fd/(\d+))|/proc/self/fd/(\d+)")
_HERE, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD; of linux/fs.h
NEW, _OLD = ".tmp", ".old"  # suffixes of folders beside the replaced one
_CLOSED = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV)


def write_whole(path: str | Path, content: str | bytes, flag: str) -> None:
    """Write a text (as UTF-8) or bytes; folders are made.

    Raises
    ------
    TvmMobilenetError
        It cannot be written there; ``flag`` is the flag that the user may change.
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
            with replacing(real, flush=True) as new:
                new.write_bytes(data)
        except OSError as e:
            if there is None or e.errno not in _CLOSED:
                raise
            _overwrite(real, data)
    except BrokenPipeError:
        raise  # the reader of stdout closed it
    except OSError as e:
        raise TvmMobilenetError(f"cannot write {path}: {e.strerror}", f"choose another {flag}") from None


@contextlib.contextmanager
def beside(path: Path, tidy: bool = True) -> Iterator[Path]:
    """A new, empty folder beside a file, for the data that will replace it; removed at the end.

    Parameters
    ----------
    tidy : bool
        Remove the folders that killed processes left there for the same path.
    """
    if tidy:
        remove_abandoned(path)
    place, lock = temporary.new_folder(path.parent, _prefix(path), NEW)
    try:
        yield place
    finally:
        temporary.remove(place)
        os.close(lock)


@contextlib.contextmanager
def replacing(path: str | Path, flush: bool = False, tidy: bool = True) -> Iterator[Path]:
    """The path of a new, empty file, which replaces another when the block ends without an error.

    Parameters
    ----------
    flush : bool
        Replace only after the new file is on the disk.
    tidy : bool
        As for `beside`.
    """
    real = Path(os.path.realpath(path))
    with beside(real, tidy) as place:
        new = place / real.name
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
        yield new
        _like(new, real)
        if flush:
            flushed(new)
        os.replace(new, real)
        if flush:
            flushed(real.parent)


@contextlib.contextmanager
def replacing_folder(path: str | Path, stays: float = 0.0) -> Iterator[Path]:
    """The path of a new, empty folder, which replaces another in one step when the block ends without an error.

    All of its files are on the disk before that. A process that dies meanwhile leaves the old folder unchanged, and
    processes that run programs of the old one keep its files. The new folder takes over the mode and, if allowed, the
    owner.

    Parameters
    ----------
    stays : float
        Seconds for which the old folder stays beside it, for programs in it that are starting and still open its files.
    """
    real = Path(os.path.realpath(path))
    real.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(real)
    temporary.tidy()
    new, lock = temporary.new_folder(real.parent, _prefix(real), NEW, mode=0o777)
    try:
        with temporary.inside(new):
            yield new
        flush_all(new)
        if _like(new, real):
            _exchange(new, real)
            flushed(real.parent)
            time.sleep(stays)
        else:
            new.rename(real)
            flushed(real.parent)
    finally:
        temporary.remove(new)  # by now the old one
        os.close(lock)


def remove_abandoned(path: Path) -> None:
    """Remove the folders that killed processes left beside a file or folder; if such a folder is the only copy, put it
    back."""
    temporary.remove_abandoned(path.parent, _prefix(path), _OLD, lambda old: _put_back(old, path))
    temporary.remove_abandoned(path.parent, _prefix(path), NEW)


def _prefix(path: Path) -> str:
    """The prefix of names beside a path; a name has at most 255 bytes."""
    long = len(os.fsencode(path.name)) > 200
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32] if long else path.name}."


def _like(new: Path, old: Path) -> bool:
    """Give a new file or folder the owner and mode of the one that it replaces; return whether that exists."""
    if (there := _status(old)) is None:
        return False
    with contextlib.suppress(OSError):
        os.chown(new, there.st_uid, there.st_gid)
    os.chmod(new, stat.S_IMODE(there.st_mode))
    return True


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders, in one step if the system can, else through a third name."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if is_linux() else None
    if swap is not None and swap(_HERE, os.fsencode(new), _HERE, os.fsencode(old), _RENAME_EXCHANGE) == 0:
        return
    aside = new.with_suffix(_OLD)
    with temporary.locked(old):  # so that no process takes it for abandoned
        old.rename(aside)
        try:
            new.rename(old)
        except BaseException:
            aside.rename(old)
            raise
        aside.rename(new)


def _put_back(old: Path, path: Path) -> None:
    """Give an old folder its name again: a process was killed between the steps of an exchange."""
    if not os.path.lexists(path):
        old.rename(path)


def flush_all(folder: Path) -> None:
    """Write a folder with all its contents to the disk, except files with a second name, which are not ours."""
    for where, _, names in os.walk(folder):
        for path in (Path(where, name) for name in names):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:  # a pipe would wait for a reader
                flushed(path)
        flushed(Path(where))


def flushed(path: Path) -> None:
    """Write a file or folder to the disk.

    Raises
    ------
    OSError
        It cannot be written; a file system without such a call raises nothing.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def refusal(path: str | Path, regular: bool = False) -> str:
    """Why a file cannot be written at a path, or the empty string; nothing is opened.

    Parameters
    ----------
    regular : bool
        Allow only a regular file, or a name that does not exist yet.
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


def _closed(path: Path) -> str:
    """Why this user may not write to a file or into a folder, or the empty string."""
    return "" if os.access(path, os.W_OK) else f"{path} may not be written to"


def _closed_to_a_new_file(real: Path) -> str:
    """Why no file can be made or replaced at a path; one that stays, as a device does, need only be open itself."""
    there = next(p for p in (real, *real.parents) if p.exists())
    return _closed(there) and _closed(real.parent if there == real else there)


def output_file(text: str) -> Path:
    """An argparse type: a file to write.

    Raises
    ------
    TvmMobilenetError
        Nothing can be written there.
    """
    if why := refusal(text) or _closed_to_a_new_file(Path(os.path.realpath(text))):
        raise TvmMobilenetError(f"cannot write {text}: {why}", "choose another file")
    return Path(text)


def folder_to_write(text: str) -> Path:
    """An argparse type: a folder to write to, which need not exist yet.

    Raises
    ------
    TvmMobilenetError
        The path is no folder.
    """
    real = Path(os.path.realpath(text))
    try:
        there = next(p for p in (real, *real.parents) if p.exists())
        why = _closed(there) if there.is_dir() else f"{there} is not a folder"
    except OSError as e:
        why = e.strerror
    if why:
        raise TvmMobilenetError(f"cannot write to {text}: {why}", "choose another folder")
    return Path(text)


def journal_file(text: str) -> Path:
    """An argparse type: a file to append to and to read again, beside which others are made.

    Whoever only reads it need not be able to write it: see `require_appendable`.

    Raises
    ------
    TvmMobilenetError
        One of them is no regular file.
    """
    if not text:
        raise TvmMobilenetError("the path of a log is empty", "give a regular file, or a name that does not exist yet")
    for path in _of_journal(text):
        if why := refusal(path, regular=True):
            raise TvmMobilenetError(
                f"{path} cannot be appended to: {why}", "give a regular file, or a name that does not exist yet"
            )
    return Path(text)


def require_appendable(text: str | Path, flag: str) -> None:
    """Refuse a file of `journal_file` that this user may not append to, before there is something to append.

    Raises
    ------
    TvmMobilenetError
        It, or a file beside it, is closed to this user; the message names ``flag``.
    """
    for path in _of_journal(text):
        real = Path(os.path.realpath(path))
        if why := _closed(next(p for p in (real, *real.parents) if p.exists())):
            raise TvmMobilenetError(f"{path} cannot be appended to: {why}", f"choose another {flag}")


def _of_journal(text: str | Path) -> Iterator[Path]:
    """A journal, then the files beside it: their names can only be made of a name that is one."""
    yield Path(text)
    yield from (Path(text).with_suffix(suffix) for suffix in (".trials.jsonl", ".torn"))


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
        if regular and data and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, len(data))  # a full disk is noticed while the old content is there
        _write(fd, data)
        if regular:
            os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
