"""A built module on disk: a folder that any board can run.

``module.so``       the kernels and TVM's executable, parameters bound
``parameters.bin``  the constants once more, as the plan wants them
``plan.json``       what it is, how it was built, and the plan

``plan.json`` is written last and holds the hashes of the other two, so a folder that is half written, mixed or changed
is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import TvmMobilenetError
from .plan import Plan

MODULE, PARAMETERS, PLAN = "module.so", "parameters.bin", "plan.json"


@dataclass(frozen=True)
class BuiltLayer:
    """How one distinct layer was built. ``source``: the log its decisions come from, or ``default``."""

    layer: str
    decisions: dict
    source: str


@dataclass(frozen=True)
class BuiltModule:
    """A folder that `build` wrote.

    Attributes
    ----------
    info : dict
        ``model`` (the options it was made with), ``target``, ``versions``.
    """

    folder: Path
    plan: Plan
    layers: tuple[BuiltLayer, ...]
    info: dict

    @property
    def library(self) -> Path:
        return self.folder / MODULE

    @property
    def module_bytes(self) -> int:
        return self.library.stat().st_size

    def parameters(self) -> np.ndarray:
        """The constants, mapped: (parameters_bytes,) uint8."""
        if not self.plan.parameters_bytes:
            return np.zeros(0, np.uint8)
        return np.memmap(self.folder / PARAMETERS, np.uint8, "r")


def write(folder: Path, plan: Plan, parameters: np.ndarray, layers: list[BuiltLayer], info: dict) -> BuiltModule:
    """Put parameters and plan beside a module that is there already."""
    temporary = folder / f".{PARAMETERS}.{os.getpid()}.tmp"
    try:
        parameters.tofile(temporary)
        os.replace(temporary, folder / PARAMETERS)
        files = {name: file_hash(folder / name) for name in (MODULE, PARAMETERS)}
        data = {"info": info, "files": files, "layers": [vars(layer) for layer in layers], "plan": plan.to_data()}
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
        os.replace(temporary, folder / PLAN)
    finally:
        temporary.unlink(missing_ok=True)
    return BuiltModule(folder, plan, tuple(layers), info)


def read(folder: str | Path, check: bool = True) -> BuiltModule:
    """The built module of a folder.

    Raises
    ------
    TvmMobilenetError
        It is none, or its files are not those that were built together.
    """
    folder = Path(folder)
    try:
        data = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        layers = tuple(BuiltLayer(**layer) for layer in data["layers"])
        plan, info, files = Plan.from_data(data["plan"]), data["info"], data["files"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise TvmMobilenetError(
            f"{folder} holds no built module: {type(e).__name__}: {e}",
            "python -m tvm_mobilenet.build --output FOLDER makes one",
        ) from None
    for name, expected in files.items() if check else ():
        path = folder / name
        if not path.is_file():
            raise TvmMobilenetError(f"{path} is missing", "build the module again")
        if file_hash(path) != expected:
            raise TvmMobilenetError(
                f"{path} is not the file that was built with {folder / PLAN}: its hash differs",
                "build the module again",
            )
    return BuiltModule(folder, plan, layers, info)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
