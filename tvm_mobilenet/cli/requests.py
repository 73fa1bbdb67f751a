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

from tvm_mobilenet.errors import TvmMobilenetError, nearest
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.frontend import given
from tvm_mobilenet.models.options import FLOAT32, IMAGENET, ModelOptions
from tvm_mobilenet.terminal import console

if TYPE_CHECKING:
    import numpy as np

    from tvm_mobilenet.targets import Target

Say = Callable[[str], object]


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
    mean: tuple[float, ...]
    std: tuple[float, ...]
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
    from tvm_mobilenet import targets
    from tvm_mobilenet.cli.flags import refuse_for_model
    from tvm_mobilenet.frontend.files import check_file, check_model
    from tvm_mobilenet.models import published
    from tvm_mobilenet.models.registry import check_shape, find

    check_model(options.model)
    for flag, path in {"--weights": options.checkpoint, "--input": options.input, "--labels": options.labels}.items():
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
    return options


@contextmanager
def told(progress: Say | bool) -> Iterator[None]:
    """Lines for the person who waits go to a function; True: to stderr; False: nowhere."""
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
    from tvm_mobilenet import packages, targets

    packages.require("compile", "tvm", "torch")
    place = targets.load(target) if isinstance(target, str) else target
    temporary = TemporaryFolder()
    folder = temporary.path
    if not given.is_named(model):
        path = str(given.save(model, example_inputs, folder))
    elif example_inputs is not None:
        raise TvmMobilenetError(f"example_inputs: {model} has its inputs already", "leave them out")
    else:
        path = os.fspath(model)
    values = _values(keywords, folder)
    with told(progress):
        flags = (f"--{name.replace('_', '-')}" for name in values)
        yield checked(ModelOptions(model=path, dtype=dtype, **values), place, flags), place, temporary


def _values(keywords: ModelKeywords, folder: Path) -> dict:
    """Keywords as `ModelOptions` has them: paths, and arrays of calibration written as files."""
    if unknown := set(keywords) - set(ModelKeywords.__annotations__):
        name = min(unknown)
        near = nearest(name, ModelKeywords.__annotations__)
        raise TvmMobilenetError(
            f"there is no keyword {name!r}", f"did you mean {near!r}?" if near else "ModelKeywords lists them"
        )
    values: dict = {
        k: Path(v) if k in ("weights", "input", "labels", "quantization") else v for k, v in keywords.items()
    }
    if "calibrate" in values:
        asked = values["calibrate"]
        several = asked if isinstance(asked, list | tuple) else (asked,)
        values["calibrate"] = tuple(_calibration(one, folder / f"calibrate{i}.npy") for i, one in enumerate(several))
    return values


def _calibration(one: object, path: Path) -> str:
    import numpy as np

    if isinstance(one, str | os.PathLike):
        return os.fspath(one)
    np.save(path, np.asarray(one), allow_pickle=False)
    return str(path)


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
