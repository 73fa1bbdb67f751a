"""The user's cache, and collections of files in it, such as compiled code.

A collection may lose any file, or all, at any time. Independent processes share it. Files appear complete or not at
all, and a damaged file counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.files import temporary
from tvm_mobilenet.files.whole_file import NEW, replacing

_DIGEST = 32  # bytes of SHA-256 before the content
_TIDY_EVERY = 64  # files that a process adds


def folder() -> Path:
    """The user's cache folder of this project, made if need be.

    Raises
    ------
    BoardError
        No folder of the user's own can be made.
    """
    choices = [home] if (home := _home()) else []
    with contextlib.suppress(OSError):
        choices.append(Path(tempfile.gettempdir()) / f"tvm_mobilenet-{os.getuid()}")
    for place in choices:
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            if place is not home and not _is_private(os.lstat(place)):
                continue  # others may make links and folders there
            if place.stat().st_uid == os.getuid() and os.access(place, os.W_OK):
                return place
        except OSError:
            continue
    raise BoardError(
        f"no folder to keep compiled code in: tried {', '.join(map(str, choices))}",
        "set XDG_CACHE_HOME to a folder that can be written",
    )


def _home() -> Path | None:
    """Where this project's cache belongs; None: this user has no home."""
    with contextlib.suppress(RuntimeError):
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tvm_mobilenet"
    return None


def zig_environment() -> dict[str, str]:
    """The environment for zig, which needs a cache: if zig finds no place for one, it goes into this project's.

    Raises
    ------
    BoardError
        There is no place for ours.
    """
    if "ZIG_GLOBAL_CACHE_DIR" in os.environ:
        return dict(os.environ)
    home = os.environ.get("HOME")
    if own := os.environ.get("XDG_CACHE_HOME") or (home and f"{home}/.cache"):
        place = Path(own).absolute() / "zig"
        there = next(p for p in (place, *place.parents) if p.exists())
        if there.is_dir() and os.access(there, os.W_OK):
            return dict(os.environ)
    return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(folder() / "zig")}


def _is_private(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022


class Collection:
    """Files by key in a folder of the user's cache; beyond ``most`` bytes the least recently used are removed."""

    def __init__(self, name: str, most: int):
        self._name, self._most, self._added = name, most, 0

    def take(self, key: str, path: str | Path) -> bool:
        """Write the content of a key to a path; return whether the key exists."""
        with contextlib.suppress(OSError, BoardError):
            file = folder() / self._name / key
            data = memoryview(file.read_bytes())
            if hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST]:
                os.utime(file)
                with replacing(path) as new:
                    new.write_bytes(data[_DIGEST:])
                return True
        return False

    def keep(self, key: str, path: str | Path) -> None:
        """Add a file's content under a key; errors are ignored."""
        with contextlib.suppress(OSError, BoardError):
            place = folder() / self._name
            place.mkdir(mode=0o700, exist_ok=True)
            data = Path(path).read_bytes()
            with replacing(place / key, tidy=False) as new:
                new.write_bytes(hashlib.sha256(data).digest() + data)
            if self._added % _TIDY_EVERY == 0:
                self._tidy(place)
            self._added += 1

    def _tidy(self, place: Path) -> None:
        temporary.remove_abandoned(place, "", NEW)
        found = []
        for entry in os.scandir(place):
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file():
                    found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        left = self._most
        for _, size, path in sorted(found, reverse=True):
            left -= size
            if left < 0:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
