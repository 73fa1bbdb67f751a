"""Options and a target from the keywords of `tvm_mobilenet.compile` and related calls, checked as the command line's
flags are."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from tvm_mobilenet.cli import keywords
from tvm_mobilenet.errors import TvmMobilenetError, nearest
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.frontend import given
from tvm_mobilenet.models.options import DTYPES, FLOAT32, IMAGENET, IO, METHODS, ModelOptions

if TYPE_CHECKING:
    import numpy as np

    from tvm_mobilenet.targets import Target

Say = keywords.Say


class ModelKeywords(TypedDict, total=False):
    """Keywords of `compile` and `tune`: the fields of `ModelOptions`, with paths as text or `Path`."""

    alpha: float
    resolution: int | tuple[int, int]
    classes: int
    weights: str | os.PathLike[str]
    seed: int
    batch: int
    signature: str
    features: bool
    input: str | os.PathLike[str]
    mean: float | Sequence[float]
    std: float | Sequence[float]
    resize: str
    crop: float
    interpolation: str
    layout: str
    channel_order: str
    labels: str | os.PathLike[str] | Sequence[str]
    io: str
    accumulate: str
    calibrate: str | os.PathLike[str] | np.ndarray | Sequence[str | os.PathLike[str] | np.ndarray]
    keep_float: str
    calibration_method: str
    quantization: str | os.PathLike[str]
    trust_file: bool


keywords.also_known(ModelKeywords.__annotations__)


def checked(options: ModelOptions, target=None, given: Iterable[str] = ()) -> ModelOptions:
    """The options that a user gave, after checks: files must exist, and every flag must have an effect.

    Parameters
    ----------
    target : targets.Target, optional
        The target of the build.
    given : iterable of str
        The flags that the user gave, such as ``--alpha``.

    Raises
    ------
    TvmMobilenetError
        The model is unknown, a file does not exist or cannot be read, a flag does not apply to the model, the size
        makes no network, or the target does not compute the dtype.
    """
    from tvm_mobilenet.frontend.files import check_model

    check_model(options.model)
    return _fitting(options, target, given)


def _fitting(options: ModelOptions, target, given: Iterable[str]) -> ModelOptions:
    """`checked` without the model's own file, which may not be written yet."""
    from tvm_mobilenet import targets
    from tvm_mobilenet.cli.flags import refuse_for_model
    from tvm_mobilenet.compiler import calibration_inputs
    from tvm_mobilenet.frontend.files import check_file
    from tvm_mobilenet.models import published
    from tvm_mobilenet.models.labels import read_labels
    from tvm_mobilenet.models.registry import check_shape, find

    named = {"--weights": options.checkpoint, "--quantization": options.quantization}
    for flag, path in {**named, "--input": options.input, "--labels": options.labels}.items():
        check_file(flag, path)
    for path in options.calibrate:
        if not Path(path).exists():
            check_file("--calibrate", Path(path))
    refuse_for_model(argparse.Namespace(given=frozenset(given)), options)
    if target is not None:
        targets.require(target, options.dtype)
        options = replace(options, keep_dtype="float16" if target.computes("float16") else FLOAT32)
    if options.in_registry:
        check_shape(options.alpha, options.resolution, options.classes)
        if str(options.weights) == IMAGENET:
            published.of(find(options.model).name, options.alpha, options.classes)
    calibration_inputs.files(options.calibrate)  # a folder has some
    if options.labels is not None and options.in_registry and not options.features:
        read_labels(options.labels, options.classes)
    return options


@contextmanager
def requested(
    model: given.Model,
    target: str | Target,
    example_inputs: given.Inputs | None,
    dtype: str,
    options: ModelKeywords,
) -> Iterator[tuple[ModelOptions, Target, TemporaryFolder]]:
    """The requested options and target, and a folder that may hold files of the model."""
    from tvm_mobilenet import packages

    packages.require("compile", "tvm", "torch")
    keywords.one_of(DTYPES)("dtype", dtype)
    place = target_of(target)
    named = given.is_named(model)
    if named and example_inputs is not None:
        raise TvmMobilenetError(f"example_inputs: {model} has its inputs already", "leave them out")
    if not named and example_inputs is not None and (fixed := {"resolution", "batch"} & set(options)):
        raise TvmMobilenetError(
            f"{min(fixed)}={keywords.shown(options[min(fixed)])}: a module has the shape of its example_inputs",
            "leave it out, and give example_inputs of that shape",
        )
    temporary = TemporaryFolder()
    values = _values(options, temporary.path)
    flags = [f"--{name.replace('_', '-')}" for name in values]
    path = keywords.path_of("model", model) if named else f"{type(model).__name__}.pt2"
    own = {"module": None if named else type(model).__name__, "temporary": temporary.path}
    try:
        asked = (checked if named else _fitting)(ModelOptions(model=path, dtype=dtype, **own, **values), place, flags)
        if not named:  # exporting takes seconds: last
            asked = replace(asked, model=str(given.save(model, example_inputs, temporary.path)))
        yield asked, place, temporary
    except TvmMobilenetError as error:  # messages name a temporary file by its keyword
        inside = f"{temporary.path}{os.sep}"
        error.message, error.hint = error.message.replace(inside, ""), error.hint.replace(inside, "")
        raise


def keep_files(asked: ModelOptions, temporary: TemporaryFolder, folder: Path) -> None:
    """Copy the temporary files of a program's objects into the built folder, where `load` needs them."""
    for path in (Path(asked.model), asked.labels):
        if path is not None and path.parent == temporary.path:
            shutil.copyfile(path, folder / path.name)


def _values(given: ModelKeywords, folder: Path) -> dict:
    """Keywords as `ModelOptions` takes them: paths; calibration arrays and names are written to files first."""
    if unknown := set(given) - set(ModelKeywords.__annotations__):
        name = min(unknown)
        near = nearest(name, ModelKeywords.__annotations__)
        raise TvmMobilenetError(
            f"there is no keyword {name!r}", f"did you mean {near!r}?" if near else "ModelKeywords lists them"
        )
    takes = _takes()
    values = {name: takes[name](name, value) for name, value in given.items()}
    if not isinstance(names := values.get("labels"), Path | None):
        values["labels"] = folder / "labels.json"
        values["labels"].write_text(json.dumps(names), encoding="utf-8")
    if "calibrate" in values:
        several = enumerate(values["calibrate"])
        values["calibrate"] = tuple(_calibration(one, folder / f"calibrate{i}.npy") for i, one in several)
    return values


def _takes() -> dict[str, Callable[[str, object], Any]]:
    """The check of each keyword of `ModelKeywords`, as argparse types check the flags of the command line."""
    from tvm_mobilenet.models import preprocess

    def names(name: str, value: object) -> Path | tuple[str, ...]:
        return (
            keywords.several(name, value, keywords.text)
            if isinstance(value, list | tuple)
            else keywords.path(name, value)
        )

    def inputs(name: str, value: object) -> tuple:
        asked = value if isinstance(value, list | tuple) else (value,)
        return keywords.several(name, asked, lambda name, one: one)

    return {
        "alpha": keywords.number,
        "crop": lambda name, value: keywords.number(name, value, 1),
        **dict.fromkeys(("classes", "batch"), keywords.whole),
        "resolution": keywords.resolution,
        "seed": keywords.seed,
        **dict.fromkeys(("mean", "std"), keywords.channels),
        **dict.fromkeys(("features", "trust_file"), keywords.flag),
        **dict.fromkeys(("accumulate", "keep_float", "signature"), keywords.text),
        **dict.fromkeys(("weights", "input", "quantization"), keywords.path),
        "labels": names,
        "calibrate": inputs,
        "io": keywords.one_of(tuple(IO)),
        "calibration_method": keywords.one_of(METHODS),
        "resize": keywords.one_of(preprocess.RESIZES),
        "interpolation": keywords.one_of(preprocess.INTERPOLATIONS),
        "layout": keywords.one_of(preprocess.LAYOUTS),
        "channel_order": keywords.one_of(preprocess.CHANNEL_ORDERS),
    }


def _calibration(one: object, path: Path) -> str:
    import numpy as np

    if isinstance(one, str | os.PathLike):
        return os.fspath(one)
    if not hasattr(one, "__array__"):
        raise TvmMobilenetError(
            f"calibrate holds a {type(one).__name__}", "give arrays of inputs, or paths of images and folders"
        )
    np.save(path, np.asarray(one), allow_pickle=False)
    return str(path)


def target_of(target: str | Target) -> Target:
    """The target of a name or a file; a `Target` is returned unchanged.

    Raises
    ------
    TvmMobilenetError
        There is no target of that name, or the value is of another type.
    """
    from tvm_mobilenet import targets

    if isinstance(target, str | os.PathLike):
        return targets.load(os.fspath(target))
    if not isinstance(target, targets.Target):
        raise keywords.wrong("target", target, "is not a target", f"give one of {', '.join(targets.names())}")
    return target


def require_board(board: str) -> None:
    """Refuse a text that is no board's address.

    Raises
    ------
    TvmMobilenetError
        The text is no address; the message says why, and the form of an address.
    """
    from tvm_mobilenet.boards import address

    address.parse(keywords.text("board", board)).check_tracker()


def as_ports(inputs: Sequence[np.ndarray], ports: Sequence) -> list[tuple[np.ndarray, ...]]:
    """Inputs in the network's dtypes, for one run or for several runs in turn.

    A network with one input takes an array (N, ...) as N runs.

    Raises
    ------
    TvmMobilenetError
        The number of inputs or a shape differs, or the dtype cannot hold a value.
    """
    import numpy as np

    if len(inputs) != len(ports):
        told = ", ".join(f"{p.name} {tuple(p.shape)}" for p in ports)
        raise TvmMobilenetError(f"{len(inputs)} inputs for {len(ports)}: {told}", "give each as an array")
    given = [np.asarray(x) for x in inputs]
    runs = len(given[0]) if given[0].ndim else 0
    shapes = [tuple(p.shape) for p in ports]
    alone = all(s[:1] == (1,) for s in shapes)
    single = alone and runs > 0 and all(x.shape == (runs, *s[1:]) for x, s in zip(given, shapes, strict=True))
    taken = []
    for array, port, shape in zip(given, ports, shapes, strict=True):
        if array.shape != shape and not single:
            several = f", or N at once: (N, {', '.join(map(str, shape[1:]))})" * alone
            raise TvmMobilenetError(
                f"input {port.name} has the shape {array.shape}, the model takes {shape}{several}",
                "reshape it, or transpose its axes",
            )
        if not np.can_cast(array.dtype, port.dtype, "same_kind"):
            raise TvmMobilenetError(
                f"input {port.name} is {array.dtype}, the model takes {port.dtype}", "convert it as your data need"
            )
        with np.errstate(over="ignore"):  # a value beyond the dtype becomes an infinity, which is refused
            taken.append(np.ascontiguousarray(array, port.dtype))
    if not single or runs == 1:
        return [tuple(taken)]
    return [tuple(x[i : i + 1] for x in taken) for i in range(runs)]
