"""The place of a bundle: an archive, or a folder without other files."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tvm_mobilenet.bundle.received import MANIFEST, SIGNATURE, SUM
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import json_text, reading

PORTS = ("float32", "float16", "uint8", "int8")  # dtypes of inputs and outputs


def is_archive(path: Path) -> bool:
    """Whether a bundle of this name is an archive, not a folder."""
    return path.name.endswith((".tar.gz", ".tgz"))


def refuse_others_files(path: Path) -> set[str]:
    """Refuse a folder that a bundle must not replace: it must be new, empty, or an earlier bundle.

    Returns
    -------
    set of str
        Names of an earlier bundle's files there.

    Raises
    ------
    TvmMobilenetError
        The folder holds other files; the message names them.
    """
    there = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    foreign, known = there, set()
    if {MANIFEST, SUM} <= set(there):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            manifest = json_text.parse(reading.text(path / MANIFEST))
            own = {*manifest["files"], MANIFEST, SUM, SIGNATURE, "__pycache__"}  # mobilenet.py was imported
            known = own if "symbol_prefix" in manifest else set()
            foreign = [name for name in there if name not in known]
    if foreign:
        raise TvmMobilenetError(
            f"--bundle {path}: the folder holds {', '.join(foreign[:3])}{', …' * (len(foreign) > 3)}, which belongs to "
            "no bundle",
            "name a folder that does not exist yet, or a .tar.gz",
        )
    return known
