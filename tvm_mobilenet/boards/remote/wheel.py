"""Make a wheel of this package for a board, from the files that run on this machine."""

from __future__ import annotations

import hashlib
import io
import zipfile
from importlib import resources
from pathlib import Path

import tvm_mobilenet

REQUIRES = ("apache-tvm==0.27.0.post1", "apache-tvm-ffi==0.1.14.post1", "numpy>=1.26", "rich>=13")  # as pyproject.toml
_REQUIRES = [f"Requires-Dist: {one}" for one in REQUIRES]
_SUFFIXES = (".py", ".toml", ".jsonl", ".c", ".h")


def build_wheel() -> tuple[str, str, bytes]:
    """This package as a wheel: its name, a short hash of its content, and its bytes.

    The wheel is made of the installed files, so a board runs the same code, whether this is a checkout, an editable
    install or a wheel. It contains no compiled code.
    """
    version, files = tvm_mobilenet.__version__, {}
    for package in ("", ".schedules", ".targets", ".tune_logs"):
        root = Path(str(resources.files(f"tvm_mobilenet{package}")))
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix in _SUFFIXES:
                inside = Path("tvm_mobilenet", *package.strip(".").split("."), path.relative_to(root))
                files[inside.as_posix()] = path.read_bytes()
    info = f"tvm_mobilenet-{version}.dist-info"
    head = ("Metadata-Version: 2.1", "Name: tvm-mobilenet", f"Version: {version}")
    files[f"{info}/METADATA"] = "".join(f"{line}\n" for line in (*head, *_REQUIRES)).encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tvm_mobilenet\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD")).encode()
    packed = io.BytesIO()
    digest = hashlib.sha256()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            digest.update(name.encode() + b"\0" + content + b"\0")
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return f"tvm_mobilenet-{version}-py3-none-any.whl", digest.hexdigest()[:12], packed.getvalue()
