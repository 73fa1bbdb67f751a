"""A built module on disk: a folder that any board can run.

``kernels.o``       the kernels, compiled once: all libraries are linked from it
``kernels.so``      every kernel exported, for the virtual board and TVM's RPC servers
``libmobilenet.so`` the kernels with the runtime in C, for all that runs on a real CPU
``parameters.bin``  the constants, as the plan wants them
``quantization.json``  of a network in int8: its scales, and how well each layer does
``plan.json``       what it is, how and for which target it was built, and the plan
``model.so``        with ``build --tvm`` alone: TVM's executable, the same kernels in it and a copy of the constants

A build of an earlier version has ``module.so`` in place of all that is machine code. It is read and run as it is.

The target's facts travel, not its name alone: every verb that opens a build uses them, whatever its TOML file says now
or the host's level is now. Only a build of a version before that is opened by its target's name.

``plan.json`` is written last and holds the hashes of the others, so a folder that is half written, mixed or changed is
refused.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tvm_mobilenet import old_words, targets
from tvm_mobilenet.compiler import quantization_file, stored_plan
from tvm_mobilenet.compiler.plan import Plan
from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.files import json_text, reading
from tvm_mobilenet.files.whole_file import replacing

OBJECT, KERNELS, LIBRARY, EXECUTABLE = "kernels.o", "kernels.so", "libmobilenet.so", "model.so"
PARAMETERS, PLAN = "parameters.bin", "plan.json"
EARLIER = "module.so"  # of earlier versions: kernels and executable in one


@dataclass(frozen=True)
class BuiltLayer:
    """How one distinct layer was built. ``source``: the log its decisions come from, or ``default``."""

    layer: str
    decisions: dict
    source: str

    @classmethod
    def from_data(cls, data: dict) -> BuiltLayer:
        """Of plain data, in the words of today or of an earlier version."""
        found = cls(**data)
        return cls(old_words.layer_name(found.layer), old_words.decisions(found.decisions), found.source)


@dataclass(frozen=True)
class BuiltModule:
    """A folder that `build` wrote.

    Attributes
    ----------
    info : dict
        ``model`` (the options it was made with), ``target`` and ``core`` (their names), ``versions``.
    target_data : dict or None
        The facts of its target (``targets.stored``); None: it is of a version before they travelled.
    files : tuple of str
        Names of the files in the folder that belong to it, besides the plan.
    """

    folder: Path
    plan: Plan
    layers: tuple[BuiltLayer, ...]
    info: dict
    target_data: dict | None = None
    files: tuple[str, ...] = (KERNELS, LIBRARY, PARAMETERS)

    @cached_property
    def target(self) -> targets.Target:
        """What it was built for; a warning says how today's target of the same name or file differs.

        Raises
        ------
        TvmMobilenetError
            Its facts are impossible; or it is of an earlier version, and there is no target of its name any more.
        """
        from tvm_mobilenet.targets import stored

        if self.target_data is None:
            try:
                return targets.load(self.info["target"])
            except TvmMobilenetError as e:
                raise TvmMobilenetError(
                    f"{self.folder} was built by a version that kept its target's name alone: {e.message}",
                    "build it again",
                ) from None
        target = stored.from_data(self.target_data, str(self.folder / PLAN))
        if changes := stored.changes(target):
            warnings.warn(
                f"{target.file or 'target ' + target.name} has changed since {self.folder} was built, which is used as "
                f"it was built: {changes}",
                stacklevel=3,  # functools is between
            )
        return target

    @property
    def is_earlier(self) -> bool:
        """Whether an earlier version built it: kernels and TVM's executable are one library."""
        return EARLIER in self.files

    @property
    def library(self) -> Path:
        """The kernels."""
        return self.folder / (EARLIER if self.is_earlier else KERNELS)

    @property
    def runtime(self) -> Path | None:
        """The kernels with our runtime; None for a build of an earlier version."""
        return self.folder / LIBRARY if LIBRARY in self.files else None

    @property
    def executable(self) -> Path:
        """TVM's executable.

        Raises
        ------
        TvmMobilenetError
            It was not built.
        """
        name = EARLIER if self.is_earlier else EXECUTABLE
        if name not in self.files:
            raise TvmMobilenetError(f"{self.folder} has no TVM executable", "build it again with --tvm")
        return self.folder / name

    @property
    def module_bytes(self) -> int:
        """Of what runs: kernels and parameters."""
        return self.library.stat().st_size + (0 if self.is_earlier else self.plan.parameters_bytes)

    def parameters(self) -> np.ndarray:
        """The constants, mapped: (parameters_bytes,) uint8."""
        if not self.plan.parameters_bytes:
            return np.zeros(0, np.uint8)
        return np.memmap(self.folder / PARAMETERS, np.uint8, "r")


def write(
    folder: Path,
    plan: Plan,
    parameters: np.ndarray,
    layers: list[BuiltLayer],
    info: dict,
    target: targets.Target,
    made: tuple[str, ...],
) -> BuiltModule:
    """Put parameters and plan beside the files of `artifacts.make`, and remove those of an earlier build."""
    from tvm_mobilenet.targets import stored

    with replacing(folder / PARAMETERS) as new:
        parameters.tofile(new)
    files = {name: file_hash(folder / name) for name in (*made, PARAMETERS)}
    data = {
        "info": info,
        "files": files,
        "target": stored.to_data(target),
        "layers": [vars(layer) for layer in layers],
        "plan": plan.to_data(),
    }
    data["hash"] = _hash_of(data)
    with replacing(folder / PLAN) as new:
        new.write_text(json.dumps(data, indent=1), encoding="utf-8")
    for name in {OBJECT, KERNELS, LIBRARY, EXECUTABLE, EARLIER, quantization_file.FILE} - set(files):
        (folder / name).unlink(missing_ok=True)
    return BuiltModule(folder, plan, tuple(layers), info, data["target"], tuple(files))


def read(folder: str | Path, check: bool = True) -> BuiltModule:
    """The built module of a folder.

    Raises
    ------
    TvmMobilenetError
        It is none, or its files are not those that were built together.
    """
    folder = Path(folder)
    if not (folder / PLAN).is_file():
        raise TvmMobilenetError(f"{folder} holds no built module: {_lacks(folder)}", _remedy(folder))
    try:
        data = json_text.parse(reading.text(folder / PLAN))
        stored_plan.check(data)
        layers = tuple(BuiltLayer.from_data(layer) for layer in data["layers"])
        plan, info, files = Plan.from_data(data["plan"]), data["info"], data["files"]
        stored_plan.check_places(plan)
        if odd := set(files) - {OBJECT, KERNELS, LIBRARY, EXECUTABLE, PARAMETERS, EARLIER, quantization_file.FILE}:
            raise ValueError(f"it names a file {min(odd)[:80]!a}, which no build has")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise TvmMobilenetError(
            f"{folder} holds no built module: {PLAN} cannot be read: {reason(e)}",
            "python -m tvm_mobilenet.build --output FOLDER makes one",
        ) from None
    if check and "hash" in data and data["hash"] != _hash_of(data):  # builds of before have none
        warnings.warn(f"{folder / PLAN} is not as `build` wrote it: build the module again", stacklevel=2)
    for name, expected in files.items() if check else ():
        path = folder / name
        if not path.is_file():
            raise TvmMobilenetError(f"{path} is missing", "build the module again")
        if file_hash(path) != expected:
            raise TvmMobilenetError(
                f"{path} is not the file that was built with {folder / PLAN}: its hash differs",
                "build the module again",
            )
    if not {KERNELS, EARLIER} & files.keys():
        raise TvmMobilenetError(f"{folder} holds no built module: {PLAN} names no kernels", "build the module again")
    return BuiltModule(folder, plan, layers, info, data.get("target"), tuple(files))


def _hash_of(data: dict) -> str:
    """A hash of all that a plan's file says besides."""
    text = json.dumps({key: value for key, value in data.items() if key != "hash"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _lacks(folder: Path) -> str:
    if folder.is_dir():
        return f"there is no {PLAN} in it"
    return "it is a file" if folder.exists() else "there is no such folder"


def _remedy(folder: Path) -> str:
    """What to do about a folder that is no build: the builds that lie near, or how to make one."""
    if (folder / "manifest.json").is_file() or folder.name.endswith((".tar.gz", ".tgz")):
        return "it is a bundle: give the folder that `build --output` wrote, or run ./mobilenet there"
    if folder.suffix.lower() in (".onnx", ".pt2"):
        return f"build it first: python -m tvm_mobilenet.build --model {folder}"
    near = [folder, folder.parent, Path("out")]
    found = sorted({str(p.parent) for place in near if place.is_dir() for p in place.glob(f"*/{PLAN}")})
    if found:
        return f"built modules near it: {', '.join(found[:5])}" + f" and {len(found) - 5} more" * (len(found) > 5)
    return "python -m tvm_mobilenet.build --output FOLDER makes one"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
