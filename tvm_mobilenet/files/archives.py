"""Open untrusted zip archives within limits: the number of members is checked before objects are made of them."""

from __future__ import annotations

import io
import zipfile
from typing import BinaryIO

from tvm_mobilenet.files.limits import MOST_MEMBERS

_MOST_DIRECTORY = 256 * MOST_MEMBERS  # bytes of the list of members; a name of 200 characters each


class TooMany(ValueError):
    """An archive has more members than any model's file."""


class _Bounded(io.BufferedIOBase):
    """A file with a limit on the bytes of one read, while the limit is set."""

    def __init__(self, file: BinaryIO, most: int | None):
        self._file, self.most = file, most

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, count: int | None = -1) -> bytes:
        if self.most is None:
            return self._file.read(count)
        data = self._file.read(self.most + 1 if count is None or not 0 <= count <= self.most else count)
        if len(data) > self.most:
            raise TooMany(f"its list of members has more than {self.most:,} bytes")
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def opened(file: BinaryIO) -> zipfile.ZipFile:
    """The archive in a file, for reading; close it, and then the file.

    Raises
    ------
    TooMany
        It has more members than any model's file.
    zipfile.BadZipFile, OSError
        It is no archive, or damaged.
    """
    bounded = _Bounded(file, _MOST_DIRECTORY)
    archive = zipfile.ZipFile(bounded)  # the list of members is one read
    bounded.most = None
    if len(archive.infolist()) > MOST_MEMBERS:
        archive.close()
        raise TooMany(f"the archive has {len(archive.infolist()):,} members, {MOST_MEMBERS:,} are read")
    return archive
