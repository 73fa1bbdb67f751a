"""The files that a built module was made from (model, weights, labels, image), found again from any working directory.

A build keeps each file's absolute path, its path relative to the build's folder, and its hash. So the file is found
from another working directory, after a move of the whole tree, and as a copy in the build's own folder. If a file is
gone, the error lists every place that was tried. A file that a program's object was written to is in the build's folder
alone; its temporary path is not kept.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, replace
from pathlib import Path

from tvm_mobilenet.compiler import quantization_file
from tvm_mobilenet.compiler.build_identity import file_hash
from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.models.options import DTYPES, IO, ModelOptions
from tvm_mobilenet.passes.precision import Precision
from tvm_mobilenet.passes.quantize import DTYPE, Quantization
from tvm_mobilenet.terminal.printable import printable

_FLAGS = {"model": "--model", "weights": "--weights", "labels": "--labels", "input": "--input"}


def to_data(options: ModelOptions, folder: Path) -> dict:
    """The options as JSON data for a build in ``folder``; ``files`` has each file's places and hash."""
    data, files = asdict(replace(options, decided=None)), {}
    left_out = ("decided", "trust_file", "temporary")
    data = {name: str(v) if isinstance(v, Path) else v for name, v in data.items() if name not in left_out}
    data["calibrate"] = tuple(Path(one).name if _is_object(one, options) else one for one in options.calibrate)
    for name in _FLAGS:
        given = data[name]
        if given is None or (name == "model" and (options.in_registry or options.package)):
            continue
        if name == "weights" and options.checkpoint is None:
            continue
        file, factory = _split(name, given)
        path = Path(os.path.abspath(file))
        own = _is_object(file, options)
        data[name] = path.name if own else f"{path}{factory}"
        files[name] = {
            "given": path.name if own else str(given),
            "from_build": path.name if own else os.path.relpath(path, folder),
            "sha256": file_hash(path) if path.is_file() else None,
        }
    return {**data, "files": files}


def _is_object(file: str | Path, options: ModelOptions) -> bool:
    """Whether a file was written from a program's object."""
    return options.temporary is not None and Path(file).parent == options.temporary


def from_build(module, **changes) -> ModelOptions:
    """The options that a module was built with, with the present path of every file.

    Parameters
    ----------
    module : built.BuiltModule
    changes
        Options that replace the build's, such as ``input``; files of these options are not looked for.

    Raises
    ------
    TvmMobilenetError
        A file is gone; the stored decisions about dtypes are malformed; or a program made the model, and no flag
        permits this program to run.
    """
    from tvm_mobilenet.compiler.module import PLAN

    changes = {name: value for name, value in changes.items() if value is not None}
    data = dict(module.info["model"])
    if ModelOptions(model=data["model"]).program and not changes.get("trust_file"):
        raise TvmMobilenetError(
            f"{module.folder} was built with --model {printable(data['model'])}: that program would run again",
            "if it is your own: verify and accuracy run it with --trust-file",
        )
    for name, kept in (data.get("files") or {}).items():
        if name not in changes:
            file, factory = _split(name, data[name])
            data[name] = f"{_find(name, Path(file), kept, module.folder)}{factory}"
    if kept := module.info.get("precision"):
        changes["decided"] = _decided(kept, data, module.folder / PLAN)
    elif quantization_file.FILE in module.files:
        path = module.folder / quantization_file.FILE
        try:
            kept = quantization_file.parsed(path)
        except (OSError, ValueError) as e:
            raise TvmMobilenetError(f"{path} cannot be read: {reason(e)}", "build it again") from None
        changes["decided"] = _decided(kept, data, path)
    return ModelOptions.from_data(data, **changes)


def places(module) -> list[Path]:
    """The present paths of the files that a module was made from.

    Raises
    ------
    TvmMobilenetError
        A file is gone.
    """
    data = module.info["model"]
    files = (data.get("files") or {}).items()
    return [_find(name, Path(_split(name, data[name])[0]), kept, module.folder) for name, kept in files]


def _split(name: str, given: str) -> tuple[str, str]:
    """The path of a file as given, and its suffix: the factory of a program, with its colon."""
    made = ModelOptions(model=str(given)).program if name == "model" else None
    return (str(made[0]), f":{made[1]}") if made else (str(given), "")


def _decided(kept: dict, data: dict, path: Path) -> Precision | Quantization:
    """The stored decisions about dtypes, which must match the dtypes of the model's options."""
    try:
        for name, known in (("dtype", DTYPES), ("io", IO)):
            if kept[name] != data.get(name) or data[name] not in known:
                raise ValueError(f"{name} {kept[name]!r} was decided, the model's is {data.get(name)!r}")
        decided = (Quantization if kept["dtype"] == DTYPE else Precision).from_data(kept)
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise TvmMobilenetError(f"{path} was changed since the build: {reason(e)}", "build it again") from None
    return decided


def _find(name: str, path: Path, kept: dict, folder: Path) -> Path:
    """A file at the first place where it is unchanged, else at the first place where it exists."""
    beside = (os.path.abspath(folder / kept["from_build"]), os.path.abspath(folder / path.name))
    places = list(dict.fromkeys((*(path,) * path.is_absolute(), *map(Path, beside))))
    there = [place for place in places if place.is_file()]
    for place in there:
        if kept["sha256"] is None or file_hash(place) == kept["sha256"]:
            return place
    if there:
        warnings.warn(f"{there[0]} has changed since {folder} was built from it", stacklevel=2)
        return there[0]
    given = f" (given as {kept['given']})" if kept["given"] != str(path) else ""
    others = f"; looked for it at {' and '.join(map(str, places[1:]))} too" if len(places) > 1 else ""
    raise TvmMobilenetError(
        f"{folder} was built with {_FLAGS[name]} {path}{given}, which is not there any more{others}",
        f"put the file back, or a copy of it into {folder}",
    )
