"""Collections of files in the user's cache: compiled code that is not to be compiled again.

A collection may lose any file at any time, and be lost as a whole. It is shared by processes that know nothing of each
other; files appear whole or not at all, and one that was damaged counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.files.whole_file import replacing

_DIGEST = 32  # bytes of SHA-256 before the content
_TIDY_EVERY = 64  # files that a process adds


class Collection:
    """Files by key in a folder; those not used for longest are removed beyond ``most`` bytes.

    ``cache`` gives the user's cache folder, or raises a BoardError where there is none.
    """

    def __init__(self, cache: Callable[[], Path], name: str, most: int):
        self._cache, self._name, self._most, self._added = cache, name, most, 0

    def take(self, key: str, path: str | Path) -> bool:
        """Write the content of a key to a path; whether there is one."""
        with contextlib.suppress(OSError, BoardError):
            file = self._cache() / self._name / key
            data = memoryview(file.read_bytes())
            if hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST]:
                os.utime(file)
                with replacing(path) as new:
                    new.write_bytes(data[_DIGEST:])
                return True
        return False

    def keep(self, key: str, path: str | Path) -> None:
        """Add a file's content under a key; where that cannot be done it is not kept."""
        with contextlib.suppress(OSError, BoardError):
            folder = self._cache() / self._name
            folder.mkdir(mode=0o700, exist_ok=True)
            data = Path(path).read_bytes()
            with replacing(folder / key) as new:
                new.write_bytes(hashlib.sha256(data).digest() + data)
            if self._added % _TIDY_EVERY == 0:
                self._tidy(folder)
            self._added += 1

    def _tidy(self, folder: Path) -> None:
        found = []
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        left = self._most
        for _, size, path in sorted(found, reverse=True):
            left -= size
            if left < 0:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
