"""The facts that two machines must have in common so that a job gives the same result on both.

A worker reports its facts as plain data. A worker that differs is refused, with a message that names it; the others
continue.
"""

from __future__ import annotations

import hashlib
import platform
import socket
import sys
from functools import cache
from importlib import metadata, resources

PACKAGES = ("apache-tvm", "apache-tvm-ffi", "unicorn", "ziglang", "numpy")  # versions on which results depend
_ROOMS = ("schedules", "targets", "tune_logs")  # folders that lie elsewhere in a checkout
_SUFFIXES = (".py", ".toml", ".jsonl", ".c", ".h", ".csv")


@cache
def ours() -> str:
    """A short hash of all of this package's files: another version of it is another hash."""
    digest = hashlib.sha256()
    for package in ("tvm_mobilenet", *(f"tvm_mobilenet.{room}" for room in _ROOMS)):
        _add(digest, resources.files(package), package)
    return digest.hexdigest()[:12]


def _add(digest, folder, name: str) -> None:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = f"{name}/{entry.name}"
        if entry.is_dir() and entry.name not in ("__pycache__", *_ROOMS):
            _add(digest, entry, path)
        elif entry.name.endswith(_SUFFIXES):
            digest.update(path.encode() + b"\0" + entry.read_bytes() + b"\0")


@cache
def _of_process() -> tuple[tuple[str, str], ...]:
    found = {"Python": ".".join(map(str, sys.version_info[:2])), "tvm_mobilenet": ours()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return tuple(found.items())


def of_process() -> dict[str, str]:
    """The facts that this process knows without importing TVM."""
    return dict(_of_process())


def of_cpu() -> dict[str, str]:
    """This machine's CPU: its level, and its model by the kernel's name."""
    from tvm_mobilenet import targets

    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            named = [line.partition(":")[2].strip() for line in file if line.startswith(("model name", "CPU part"))]
        model = named[0] if named else model
    except OSError:
        pass
    return {"CPU": f"{targets.load('host').core.name} ({model})"}


def of_compiler() -> dict[str, str]:
    """The LLVM of this process's compiler; imports TVM."""
    from tvm_mobilenet import packages

    packages.import_tvm()
    import tvm

    return {"TVM": str(tvm.__version__), "LLVM": str(tvm.support.libinfo().get("LLVM_VERSION", "none"))}


def machine() -> str:
    """The name of this machine."""
    return socket.gethostname()


def differences(here: dict[str, str], there: dict[str, str]) -> str:
    """A text of a worker's differences; empty if there are none."""
    found = [
        f"{name} {there.get(name, 'unknown')} there, {value} here"
        for name, value in here.items()
        if there.get(name) != value
    ]
    return "; ".join(found)
