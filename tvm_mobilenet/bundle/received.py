"""Read an untrusted bundle: its archive as a stream within limits, and its manifest with checks.

An archive may be a decompression bomb: zeros that compress a thousandfold, a sparse file, a header that announces
gigabytes. A manifest may be any JSON. Its names become paths and words of a board's shell, so only plain names are
allowed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import stat
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tvm_mobilenet.compiler import build_identity
from tvm_mobilenet.files import json_text
from tvm_mobilenet.files.limits import MOST_EXPANSION

MANIFEST, SUM = "manifest.json", "manifest.sha256"
SIGNATURE = f"{SUM}.sig"
FORMAT = 1
WEIGHTS, _HEADER_BYTES = "weights.bin", 64  # bytes before the weights
_PROGRAMS = ("libmobilenet.so", "mobilenet")
_MOST_BYTES = 2 << 30  # bytes of all files: twice the largest value that a build allows
_MOST_FILES = 64
_MOST_MANIFEST = 8 << 20
_FREE = 64 << 20  # size to which any archive may unpack; padding and symbols of libraries compress well
_MOST_MEMBERS = 4 * _MOST_FILES  # folders too
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE)
_ABOUT = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_MOST_ABOUT = 1 << 16  # bytes of a header about the next member
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]{0,149}")
_ID = re.compile(r"[0-9a-f]{8,64}")


class _Member(tarfile.TarInfo):
    """A header of an archive: for a file, a folder, or a short text about the next header. Others are refused.

    ``tarfile`` reads the data before a member (long names, attributes, maps of sparse files) at once, and recurses for
    each.
    """

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or found.type not in (*_PLAIN, *_ABOUT):
            raise ValueError(f"{found.name[:80]!a} in it is not a plain file")
        if found.type in _ABOUT and found.size > _MOST_ABOUT:
            raise ValueError(f"a header in it has {found.size:,} bytes")
        return found


class _Limited(io.RawIOBase):
    """A stream that raises a ValueError after a number of bytes."""

    def __init__(self, source: BinaryIO, most: int):
        self._source, self._left, self._most = source, most, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._source.read(min(len(buffer), 1 << 20))
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {self._most:,} bytes, too many for its size")
        buffer[: len(data)] = data
        return len(data)


def files_of(path: Path) -> dict[str, bytes]:
    """The files of a bundle's folder or archive, by name.

    Raises
    ------
    ValueError, OSError, EOFError, tarfile.TarError
        It is damaged, holds files of no bundle, or would unpack to far more than its size.
    """
    if path.is_dir():
        return _from_folder(path)
    with path.open("rb") as file:
        packed = file.seek(0, io.SEEK_END)
        head = (file.seek(0), file.read(2))[1]
        file.seek(0)
        most = min(_MOST_BYTES, _FREE + MOST_EXPANSION * packed)
        source = gzip.GzipFile(fileobj=file) if head == b"\x1f\x8b" else file
        try:
            return _from_tar(io.BufferedReader(_Limited(source, most), 1 << 16))
        except RecursionError:  # each header about the next one recurses
            raise ValueError("it has headers about headers that never end") from None


def _from_folder(path: Path) -> dict[str, bytes]:
    """Read all files through one opened folder, so an exchange of the folder cannot mix files of two bundles."""
    found, left = {}, _MOST_BYTES
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in sorted(os.listdir(folder)):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                raise ValueError(f"{name} is a link")
            if not stat.S_ISREG(status.st_mode):
                continue
            left -= status.st_size
            if left < 0 or len(found) >= _MOST_FILES:
                raise ValueError(f"it holds more than {_MOST_FILES} files or {_MOST_BYTES:,} bytes")
            with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
                found[name] = file.read()
    finally:
        os.close(folder)
    return found


def _from_tar(stream: BinaryIO) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as tar:
        for count, member in enumerate(tar):
            if count >= _MOST_MEMBERS:
                raise ValueError(f"it has more than {_MOST_MEMBERS} members")
            name = member.name[:80]
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise ValueError(f"{name!a} in it is not a plain file")
            parts = PurePosixPath(member.name).parts
            if member.name.startswith("/") or ".." in parts or not parts or len(parts) > 3:
                raise ValueError(f"{name!a} in it lies outside of the bundle")
            if parts[-1] in found:
                raise ValueError(f"{name!a} is in it twice")
            if len(found) >= _MOST_FILES or member.size > _MOST_BYTES:
                raise ValueError(f"it holds more than {_MOST_FILES} files or {_MOST_BYTES:,} bytes")
            data = tar.extractfile(member).read()
            if len(data) != member.size:
                raise ValueError(f"{name!a} in it is cut short")
            found[parts[-1]] = data
    return found


def manifest_of(files: dict[str, bytes]) -> dict:
    """The manifest among a bundle's files, after a check that it describes them.

    Raises
    ------
    ValueError
        There is no valid manifest, or a file differs from its description.
    """
    for name in (MANIFEST, SUM):
        if name not in files:
            raise ValueError(f"it lacks {name}")
    text = files[MANIFEST]
    if len(text) > _MOST_MANIFEST:
        raise ValueError(f"its manifest has {len(text):,} bytes")
    if hashlib.sha256(text).hexdigest().encode() != files[SUM][:64]:
        raise ValueError("the manifest's hash differs")
    manifest = json_text.parse(text.decode(), unique=True)
    if not isinstance(manifest, dict):
        raise ValueError("its manifest is not a JSON object")
    if type(manifest.get("format")) is not int or manifest["format"] != FORMAT:
        raise ValueError(f"format {json.dumps(manifest.get('format'))[:40]}, this reads {FORMAT}")
    for key, pattern in (("name", _NAME), ("id", _ID)):
        if not isinstance(manifest.get(key), str) or not pattern.fullmatch(manifest[key]):
            raise ValueError(f"its manifest has {json.dumps(manifest.get(key))[:60]} as {key}")
    described = manifest.get("files")
    if not isinstance(described, dict):
        raise ValueError("its manifest lists no files")
    for name in (*_PROGRAMS, *described):
        if name not in described or not _FILE.fullmatch(name) or name in (MANIFEST, SUM, SIGNATURE):
            raise ValueError(f"its manifest lists no {name}" if name in _PROGRAMS else f"it has a file {name[:60]!a}")
        _check_file(name, described[name], files)
    _check_build(manifest, files)
    return manifest


def sums_of(manifest: dict, text: bytes) -> bytes:
    """The text of ``manifest.sha256``: lines of `sha256sum` for the manifest and all files that it describes."""
    described = sorted(manifest["files"].items())
    lines = (_sum(name, entry["sha256"]) for name, entry in described)
    return b"".join([_sum(MANIFEST, hashlib.sha256(text).hexdigest()), *lines])


def _sum(name: str, digest: str) -> bytes:
    return f"{digest}  {name}\n".encode()


def _check_build(manifest: dict, files: dict[str, bytes]) -> None:
    """Check that library, program and weights belong to the manifest's build; bundles of earlier versions name none."""
    if (build := manifest.get("build")) is None:
        return
    for name in _PROGRAMS:
        if (found := build_identity.of_library(files[name])) != build:
            raise ValueError(
                f"{name} is of {build_identity.named(found)}, the manifest of {build_identity.named(str(build))}"
            )
    library, weights = files[_PROGRAMS[0]], files.get(WEIGHTS)
    if manifest["id"].encode() + b"\0" not in library:
        raise ValueError(f"{_PROGRAMS[0]} is not that of the manifest, {manifest['id']}")
    if weights is not None and hashlib.sha256(weights[_HEADER_BYTES:]).hexdigest().encode() + b"\0" not in library:
        raise ValueError(f"{WEIGHTS} holds other weights than {_PROGRAMS[0]} was built with")


def _check_file(name: str, entry: object, files: dict[str, bytes]) -> None:
    if not isinstance(entry, dict) or type(entry.get("bytes")) is not int or not isinstance(entry.get("sha256"), str):
        raise ValueError(f"its manifest does not describe {name}")
    if name not in files:
        raise ValueError(f"it lacks {name}")
    if hashlib.sha256(files[name]).hexdigest() != entry["sha256"] or len(files[name]) != entry["bytes"]:
        raise ValueError(f"{name} is not the file that was built: its hash differs")
