"""A built module on disk: a folder that any board can run.

``kernels.o``       the kernels, compiled once: all libraries are linked from it ``kernels.so``      every kernel
exported, for the virtual board and TVM's RPC servers ``libmobilenet.so`` the kernels with the runtime in C, for real
CPUs ``parameters.bin``  the constants, at the plan's offsets ``quantization.json``  for a network in int8: its scales,
and the accuracy of each layer ``plan.json``       the model, the options and the target of the build, and the plan
``model.so``        only with ``build --tvm``: TVM's executable, with the same kernels and a copy of the constants

A build of an earlier version has ``module.so`` in place of all files with machine code. It can still be read and run.

The build stores the target's facts, not only its name. Every verb that opens a build uses these facts, even if the TOML
file or the host's level has changed since. Only builds of earlier versions are opened by their target's name.

A build is made beside its folder and takes its place in one step (`files.own_files`). ``plan.json`` names every file
with its hash, and `build_identity` refuses a folder whose files were not built together.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tvm_mobilenet import old_words, targets
from tvm_mobilenet.compiler import build_identity, quantization_file, stored_plan
from tvm_mobilenet.compiler.build_identity import AGAIN, PLAN
from tvm_mobilenet.compiler.plan import Plan
from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.files import json_text, reading
from tvm_mobilenet.models.options import FILES

OBJECT, KERNELS, LIBRARY, EXECUTABLE = "kernels.o", "kernels.so", "libmobilenet.so", "model.so"
PARAMETERS = "parameters.bin"
EARLIER = "module.so"  # in builds of earlier versions: kernels and executable in one file
LIBRARIES = (KERNELS, LIBRARY, EXECUTABLE, EARLIER)
OWN = (OBJECT, *LIBRARIES, PARAMETERS, quantization_file.FILE, PLAN)  # all files of ours that a build's folder may have


@dataclass(frozen=True)
class BuiltLayer:
    """The decisions of one distinct layer. ``source``: the log that they come from, or ``default``."""

    layer: str
    decisions: dict
    source: str

    @classmethod
    def from_data(cls, data: dict) -> BuiltLayer:
        """The layer from plain data, in the words of this or of an earlier version."""
        found = cls(**data)
        return cls(old_words.layer_name(found.layer), old_words.decisions(found.decisions), found.source)


@dataclass(frozen=True)
class BuiltModule:
    """A folder that `build` wrote.

    Attributes
    ----------
    info : dict
        ``model`` (the options of the build), ``target`` and ``core`` (their names), ``versions``.
    target_data : dict or None
        The facts of its target (``targets.stored``); None for versions that did not store them.
    files : tuple of str
        Names of the files in the folder that belong to it, besides the plan.
    build : str or None
        Its identity (``build_identity``); None for versions that had none.
    """

    folder: Path
    plan: Plan
    layers: tuple[BuiltLayer, ...]
    info: dict
    target_data: dict | None = None
    files: tuple[str, ...] = (KERNELS, LIBRARY, PARAMETERS)
    build: str | None = None

    @cached_property
    def target(self) -> targets.Target:
        """The target that it was built for. A warning lists the differences to today's target of the same name or file.

        Raises
        ------
        TvmMobilenetError
            The facts are impossible, or do not allow instructions of the build; or the build is of an earlier version,
            and its target's name is no longer known.
        """
        from tvm_mobilenet.targets import stored

        if self.target_data is None:
            try:
                return targets.load(self.info["target"])
            except TvmMobilenetError as e:
                raise TvmMobilenetError(
                    f"{self.folder} was built by a version that kept only the name of its target: {e.message}",
                    "build it again",
                ) from None
        target = stored.from_data(self.target_data, str(self.folder / PLAN))
        self._require_instructions(target)
        if changes := stored.changes(target):
            warnings.warn(
                f"{target.file or 'target ' + target.name} has changed since {self.folder} was built, which is used as "
                f"it was built: {changes}",
                stacklevel=3,  # one level is functools
            )
        return target

    def _require_instructions(self, target: targets.Target) -> None:
        """Refuse code that the target's CPU may lack: an emulator executes it, and a board would end the process.

        Each file was checked before it was written; its bytes or the facts may have changed since. In 32-bit code the
        symbols that tell code from data are in the object alone.
        """
        from tvm_mobilenet.compiler import instruction_sets

        checked = (OBJECT, *LIBRARIES) if target.architecture == "aarch64" else (OBJECT,)
        for name in (name for name in checked if name in self.files and not self.is_earlier):
            path = self.folder / name
            try:
                instruction_sets.check(path, target, str(path))
            except TvmMobilenetError as e:
                raise TvmMobilenetError(f"{e.message}; {self.folder / PLAN} says what it may use", AGAIN) from None
            except (ValueError, IndexError, struct.error) as e:
                raise TvmMobilenetError(
                    f"{path} is not a whole ELF file of {target.architecture}: {reason(e)}", AGAIN
                ) from None

    @property
    def is_earlier(self) -> bool:
        """Whether an earlier version built it, with kernels and TVM's executable in one library."""
        return EARLIER in self.files

    @property
    def library(self) -> Path:
        """The library of the kernels."""
        return self.folder / (EARLIER if self.is_earlier else KERNELS)

    @property
    def runtime(self) -> Path | None:
        """The kernels with our runtime; None for a build of an earlier version."""
        return self.folder / LIBRARY if LIBRARY in self.files else None

    @property
    def has_executable(self) -> bool:
        """Whether it was built with TVM's executable, by this version."""
        return EXECUTABLE in self.files

    @property
    def executable(self) -> Path:
        """TVM's executable.

        Raises
        ------
        TvmMobilenetError
            The build has none.
        """
        name = EARLIER if self.is_earlier else EXECUTABLE
        if name not in self.files:
            raise TvmMobilenetError(f"{self.folder} has no TVM executable", "build it again with --tvm")
        return self.folder / name

    @property
    def module_bytes(self) -> int:
        """Bytes of the files that a device runs: kernels and parameters."""
        return self.library.stat().st_size + (0 if self.is_earlier else self.plan.parameters_bytes)

    def parameters(self) -> np.ndarray:
        """The constants, memory-mapped: (parameters_bytes,) uint8."""
        if not self.plan.parameters_bytes:
            return np.zeros(0, np.uint8)
        return np.memmap(self.folder / PARAMETERS, np.uint8, "r")


def described(plan: Plan, layers: list[BuiltLayer], info: dict, target: targets.Target) -> dict:
    """The content of ``plan.json`` besides its files and its build, as plain data."""
    from tvm_mobilenet.targets import stored

    return {
        "info": info,
        "target": stored.to_data(target),
        "layers": [vars(layer) for layer in layers],
        "plan": plan.to_data(),
    }


def write_plan(new: Path, data: dict, build: str, files: Mapping[str, str]) -> None:
    """Write the plan, which names the build and all files with their hashes, into a folder that already has them."""
    data = {**data, "build": build, "files": dict(files)}
    data["hash"] = build_identity.plan_hash(data)
    (new / PLAN).write_text(json.dumps(data, indent=1), encoding="utf-8")


def read(folder: str | Path) -> BuiltModule:
    """The built module of a folder.

    Raises
    ------
    TvmMobilenetError
        The folder is not a built module, or its files were not built together.
    """
    folder = Path(folder)
    if not (folder / PLAN).is_file():
        raise TvmMobilenetError(f"{folder} holds no built module: {_lacks(folder)}", _remedy(folder))
    try:
        text = reading.text(folder / PLAN)
        data = json_text.parse(text)
        stored_plan.check(data)
        layers = tuple(BuiltLayer.from_data(layer) for layer in data["layers"])
        plan, info, files = Plan.from_data(data["plan"]), data["info"], data["files"]
        stored_plan.check_places(plan)
        if odd := set(files) - set(OWN) - {PLAN}:
            raise ValueError(f"it names a file {min(odd)[:80]!a}, which no build has")
        known = {layer.layer for layer in layers}
        if missing := [step for step in plan.steps if step.layer not in known]:
            raise ValueError(f"it has no decisions for {missing[0].name}, {missing[0].layer[:80]}")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise TvmMobilenetError(
            f"{folder} holds no built module: {PLAN} cannot be read: {reason(e)}",
            "python -m tvm_mobilenet.build --output FOLDER makes one",
        ) from None
    try:
        build_identity.require(folder, data, LIBRARIES)
    except TvmMobilenetError:
        if _is_still(folder, text):
            raise
        return read(folder)  # it was built anew while its files were read
    if not {KERNELS, EARLIER} & files.keys():
        raise TvmMobilenetError(f"{folder} holds no built module: {PLAN} names no kernels", "build the module again")
    return BuiltModule(folder, plan, layers, info, data.get("target"), tuple(files), data.get("build"))


def _is_still(folder: Path, text: str) -> bool:
    try:
        return reading.text(folder / PLAN) == text
    except (OSError, ValueError):
        return True


def _lacks(folder: Path) -> str:
    if folder.is_dir():
        return f"there is no {PLAN} in it"
    return "it is a file" if folder.exists() else "there is no such folder"


def _remedy(folder: Path) -> str:
    """The hint for a folder that is not a build: the builds near it, or the command that makes one."""
    if (folder / "manifest.json").is_file() or folder.name.endswith((".tar.gz", ".tgz")):
        return "it is a bundle: give the folder that `build --output` wrote, or run ./mobilenet there"
    if folder.suffix.lower() in FILES:
        return f"build it first: python -m tvm_mobilenet.build --model {folder}"
    near = [folder, folder.parent, Path("out")]
    found = sorted({str(p.parent) for place in near if place.is_dir() for p in place.glob(f"*/{PLAN}")})
    if found:
        return f"built modules near it: {', '.join(found[:5])}" + f" and {len(found) - 5} more" * (len(found) > 5)
    return "python -m tvm_mobilenet.build --output FOLDER makes one"
