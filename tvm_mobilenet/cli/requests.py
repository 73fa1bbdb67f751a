"""What a program asks for, as options and a target: the keywords of `tvm_mobilenet.compile` and its kin, checked as
flags of the command line are."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from tvm_mobilenet import system
from tvm_mobilenet.errors import TvmMobilenetError, nearest
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.frontend import given
from tvm_mobilenet.models.options import DTYPES, FLOAT32, IMAGENET, IO, METHODS, ModelOptions
from tvm_mobilenet.terminal import console

if TYPE_CHECKING:
    import numpy as np

    from tvm_mobilenet.targets import Target

Say = Callable[[str], object]
_NUMBERS, _WHOLE = (int, float), (int,)
_TAKES = {  # types of values; paths, or text, where nothing else is said
    **dict.fromkeys(("alpha", "crop", "mean", "std"), _NUMBERS),
    **dict.fromkeys(("resolution", "classes", "seed", "batch"), _WHOLE),
    **dict.fromkeys(("features", "trust_file"), (bool,)),
    **dict.fromkeys(("accumulate", "keep_float"), (str,)),
}


class ModelKeywords(TypedDict, total=False):
    """Keywords of `compile` and `tune`: the fields of `ModelOptions`, with paths as text or `Path`."""

    alpha: float
    resolution: int | tuple[int, int]
    classes: int
    weights: str | os.PathLike[str]
    seed: int
    batch: int
    features: bool
    input: str | os.PathLike[str]
    mean: float | Sequence[float]
    std: float | Sequence[float]
    resize: str
    crop: float
    interpolation: str
    layout: str
    channel_order: str
    labels: str | os.PathLike[str]
    io: str
    accumulate: str
    calibrate: str | os.PathLike[str] | np.ndarray | Sequence[str | os.PathLike[str] | np.ndarray]
    keep_float: str
    calibration_method: str
    quantization: str | os.PathLike[str]
    trust_file: bool


def checked(options: ModelOptions, target=None, given: Iterable[str] = ()) -> ModelOptions:
    """The options a user gave; files must exist, and every flag must have an effect.

    Parameters
    ----------
    target : targets.Target, optional
        What it is built for.
    given : iterable of str
        The flags that the user gave, such as ``--alpha``.

    Raises
    ------
    TvmMobilenetError
        A model that nobody knows, a file that does not exist or cannot be read, a flag that the model has no use for, a
        size that makes no network; a target that does not compute the dtype.
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
def told(progress: Say | bool) -> Iterator[None]:
    """Lines for the person who waits go to a function; True: to stderr; False: nowhere."""
    system.require_posix("this")
    listener = progress if callable(progress) else None if progress else (lambda line: None)
    with console.told_to(listener):
        yield


@contextmanager
def requested(
    model: given.Model,
    target: str | Target,
    example_inputs: given.Inputs | None,
    dtype: str,
    progress: Say | bool,
    keywords: ModelKeywords,
) -> Iterator[tuple[ModelOptions, Target, TemporaryFolder]]:
    """The options and the target of what is asked for, and a folder where files of the model may stand."""
    from tvm_mobilenet import packages

    system.require_posix("compiling")
    packages.require("compile", "tvm", "torch")
    _check_value("dtype", dtype)
    place = target_of(target)
    named = given.is_named(model)
    if named and example_inputs is not None:
        raise TvmMobilenetError(f"example_inputs: {model} has its inputs already", "leave them out")
    temporary = TemporaryFolder()
    values = _values(keywords, temporary.path)
    flags = [f"--{name.replace('_', '-')}" for name in values]
    path = os.fspath(model) if named else f"{type(model).__name__}.pt2"
    with told(progress):
        options = (checked if named else _fitting)(ModelOptions(model=path, dtype=dtype, **values), place, flags)
        if not named:  # exporting takes seconds: last
            options = replace(options, model=str(given.save(model, example_inputs, temporary.path)))
        yield options, place, temporary


def _values(keywords: ModelKeywords, folder: Path) -> dict:
    """Keywords as `ModelOptions` has them: paths, and arrays of calibration written as files."""
    if unknown := set(keywords) - set(ModelKeywords.__annotations__):
        name = min(unknown)
        near = nearest(name, ModelKeywords.__annotations__)
        raise TvmMobilenetError(
            f"there is no keyword {name!r}", f"did you mean {near!r}?" if near else "ModelKeywords lists them"
        )
    for name, value in keywords.items():
        _check_value(name, value)
    values: dict = {
        k: Path(v) if k in ("weights", "input", "labels", "quantization") else v for k, v in keywords.items()
    }
    for name in {"mean", "std"} & values.keys():
        several = values[name] if isinstance(values[name], list | tuple) else (values[name],)
        values[name] = tuple(map(float, several))
    if "calibrate" in values:
        asked = values["calibrate"]
        several = asked if isinstance(asked, list | tuple) else (asked,)
        values["calibrate"] = tuple(_calibration(one, folder / f"calibrate{i}.npy") for i, one in enumerate(several))
    return values


def _check_value(name: str, value: object) -> None:
    """Refuse a value of another kind than the keyword's; the command line's flags do so by their types.

    Raises
    ------
    TvmMobilenetError
        It names the keyword, the value and what it takes.
    """
    from tvm_mobilenet.models import preprocess

    choices = {
        "dtype": DTYPES,
        "io": tuple(IO),
        "calibration_method": METHODS,
        "resize": preprocess.RESIZES,
        "interpolation": preprocess.INTERPOLATIONS,
        "layout": preprocess.LAYOUTS,
        "channel_order": preprocess.CHANNEL_ORDERS,
    }
    if name in choices:
        if value not in choices[name]:
            raise TvmMobilenetError(f"{name}={value!r} is none of {', '.join(choices[name])}", "give one of them")
        return
    takes = _TAKES.get(name, (str, os.PathLike))
    several = name in ("resolution", "mean", "std") and isinstance(value, tuple | list)
    whole = value if several else (value,)
    wrong = [one for one in whole if not isinstance(one, takes) or (isinstance(one, bool) and bool not in takes)]
    if name != "calibrate" and (wrong or not whole):
        words = " or ".join(kind.__name__ for kind in takes)
        hint = "docs/reference/api.md says what each keyword takes"
        raise TvmMobilenetError(f"{name}={value!r} is not of type {words}", hint)


def path_of(name: str, value: object) -> str:
    """A path that a call was given, as text.

    Raises
    ------
    TvmMobilenetError
        It is no path: None, a number, bytes.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TvmMobilenetError(f"{name}={value!r} is no path", "give a str or a pathlib.Path")
    return os.fspath(value)


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
    """A target by its name or its file, or as it is.

    Raises
    ------
    TvmMobilenetError
        There is none of that name; it is something else.
    """
    from tvm_mobilenet import targets

    if isinstance(target, str | os.PathLike):
        return targets.load(os.fspath(target))
    if not isinstance(target, targets.Target):
        raise TvmMobilenetError(f"target={target!r} is no target", f"give one of {', '.join(targets.names())}")
    return target


def require_positive(**limits: float | None) -> None:
    """Refuse limits that are not finite numbers above zero; None: not given.

    Raises
    ------
    TvmMobilenetError
        It names the keyword and the value.
    """
    for name, value in limits.items():
        if value is not None and not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise TvmMobilenetError(f"{name}={value!r} is no number above zero", "give one, or leave it out")


def require_board(board: str) -> None:
    """Refuse what is no board's address.

    Raises
    ------
    TvmMobilenetError
        It says why, and what an address is.
    """
    from tvm_mobilenet.boards import address

    address.parse(board).check_tracker()


def as_ports(inputs: Sequence[np.ndarray], ports: Sequence) -> tuple[np.ndarray, ...]:
    """Inputs in the dtypes that the network takes."""
    import numpy as np

    if len(inputs) != len(ports):
        raise TvmMobilenetError(
            f"{len(inputs)} inputs for {len(ports)}: {', '.join(f'{p.name} {p.shape}' for p in ports)}",
            "give each as an array",
        )
    taken = []
    for x, port in zip(inputs, ports, strict=True):
        array = np.asarray(x)
        if array.shape != tuple(port.shape):
            raise TvmMobilenetError(
                f"input {port.name} has the shape {array.shape}, the model takes {tuple(port.shape)}", "reshape it"
            )
        if not np.can_cast(array.dtype, port.dtype, "same_kind"):
            raise TvmMobilenetError(
                f"input {port.name} is {array.dtype}, the model takes {port.dtype}", "convert it, so as it is meant"
            )
        taken.append(np.ascontiguousarray(array, port.dtype))
    return tuple(taken)
