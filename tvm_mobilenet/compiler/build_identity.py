"""The identity of a build, which binds its files together. Every verb that opens a build checks it here.

    plan, parameters, kernels.o, scales, options, target, runtime ── SHA-256 ──▶ identity
    identity ──▶ plan.json, and into each library as its GNU build ID (``readelf -n`` and ``file`` show it)
    every file ── SHA-256 ──▶ plan.json, and plan.json's own hash in it

The hashes in ``plan.json`` detect files that changed. The identity detects files that were never built together, even
if somebody recomputed those hashes. It is computed anew from plan, parameters, kernels.o, options and target, and each
library carries it too. No path is part of it, so equal inputs give equal bytes wherever they are built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError

PLAN = "plan.json"
AGAIN = "build it again"
_NOTE = b"\x04\0\0\0\x20\0\0\0\x03\0\0\0GNU\0"  # of a 32-byte build ID: sizes, type, name
_SHOWN = 12  # digits of the identity in messages
_PLACES = ("calibrate", "quantization", "trust_file", "files")  # options with paths of files


def refuse_others_files(folder: Path) -> None:
    """Refuse a folder in which a build would replace somebody else's file. A damaged build may be replaced.

    Raises
    ------
    TvmMobilenetError
        Its ``plan.json`` is of no build.
    """
    try:
        text = (folder / PLAN).read_bytes()
    except OSError:  # there is none, or writing the folder says why
        return
    if not all(f'"{field}"'.encode() in text for field in ("layers", "plan", "steps")):
        raise TvmMobilenetError(
            f"--output {folder}: the {PLAN} there would be replaced, and it is none of a build", "choose another folder"
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The hash of each of these files of a folder."""
    return {name: file_hash(folder / name) for name in names}


def plan_hash(data: Mapping) -> str:
    """SHA-256 of the content of ``plan.json`` without its own hash."""
    return _hash_of({key: value for key, value in data.items() if key != "hash"})


def identity(data: Mapping, parts: Mapping[str, str]) -> str:
    """The identity of a build: 64 hexadecimal digits.

    Parameters
    ----------
    data : mapping
        The fields ``info``, ``target``, ``layers`` and ``plan`` of ``plan.json``.
    parts : mapping of str to str
        The hash of each file that is not a library, by name.
    """
    options = dict(data["info"]["model"])
    files = options.get("files") or {}
    options = {key: value for key, value in options.items() if key not in (*_PLACES, *files)}
    info = {**data["info"], "model": {**options, "files": {name: f["sha256"] for name, f in files.items()}}}
    return _hash_of({"info": info, "parts": dict(parts), **{k: data.get(k) for k in ("target", "layers", "plan")}})


def linked_with(build: str | None) -> list[str]:
    """The linker's option that puts an identity into a library."""
    return [f"-Wl,--build-id=0x{build}"] if build else []


def of_library(library: bytes) -> str | None:
    """The identity in a library; None if it has none, as in earlier versions."""
    at = library.find(_NOTE)
    return library[at + len(_NOTE) :][:32].hex() if at >= 0 else None


def require(folder: Path, data: Mapping, libraries: tuple[str, ...]) -> None:
    """Refuse a folder whose files do not belong together.

    Parameters
    ----------
    folder : path
    data : mapping
        The content of its ``plan.json``.
    libraries : tuple of str
        The names of files that carry the identity.

    Raises
    ------
    TvmMobilenetError
        A file is missing, changed, or of another build; the message names the file, and its build if that is known.
    """
    files = data["files"]
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise TvmMobilenetError(f"{path} is missing", AGAIN)
        if file_hash(path) != expected:
            raise TvmMobilenetError(
                f"{path} is not the file that was built with {folder / PLAN}: its hash differs"
                + _belongs(path, data, libraries),
                AGAIN,
            )
    if "hash" in data and data["hash"] != plan_hash(data):  # earlier builds have none
        raise TvmMobilenetError(f"{folder / PLAN} has changed since `build` wrote it: its own hash differs", AGAIN)
    build = data.get("build")
    for name in files:
        if name in libraries and (found := of_library((folder / name).read_bytes())) != build:
            raise TvmMobilenetError(
                f"{folder / name} is of {named(found)}, {folder / PLAN} of {named(build)}: two builds are mixed here",
                AGAIN,
            )
    if build and build != identity(data, {n: h for n, h in files.items() if n not in libraries}):
        others = ", ".join(n for n in files if n not in libraries)
        raise TvmMobilenetError(
            f"{folder / PLAN} names {named(build)}, but it and {others} are not what that was made of: files of "
            "several builds are mixed here, or one was changed",
            AGAIN,
        )


def named(build: str | None) -> str:
    """The name of a build in messages."""
    return f"build {build[:_SHOWN]}" if build else "a build without an identity"


def _belongs(path: Path, data: Mapping, libraries: tuple[str, ...]) -> str:
    found = of_library(path.read_bytes()) if path.name in libraries else None
    if found is None or found == data.get("build"):
        return ""
    return f"; it is of {named(found)}, the plan of {named(data.get('build'))}"


def _hash_of(data: Mapping) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
