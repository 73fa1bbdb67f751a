"""Models that a user's program makes: ``--model my_file.py:factory``.

The file and its imports are run, as ``python my_file.py`` would run them. Only its owner names it, on a command line. A
build of such a model does not run the file again by itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError, nearest
from tvm_mobilenet.files.reading import refusal
from tvm_mobilenet.models.options import REGISTRY, ModelOptions
from tvm_mobilenet.models.registry import ModelSpec
from tvm_mobilenet.terminal.console import say
from tvm_mobilenet.terminal.printable import printable

_HINT = "it must take no arguments and return a torch.nn.Module"
_MODULE = "model_of_the_user"


def check(options: ModelOptions, flag: str = "--model") -> None:
    """Refuse a program that does not exist, or one without the name of a function; nothing is run.

    Raises
    ------
    TvmMobilenetError
    """
    path, factory = options.program
    if not factory.isidentifier():
        raise TvmMobilenetError(
            f"{flag} {printable(options.model)}: {printable(factory)!r} is not the name of a function",
            f"say what makes the model: {flag} {path}:FUNCTION; {_HINT}",
        )
    if why := refusal(path):
        raise TvmMobilenetError(f"{flag} {printable(str(path))}: {why}", "give the path of a program that exists")


def create(options: ModelOptions) -> ModelSpec:
    """Run the program and the named function, and return the resulting module.

    ``torch.manual_seed`` is called before, so that weights that the program draws are the same each time.

    Raises
    ------
    TvmMobilenetError
        The program or the function does not exist, one of them raises, the result is no module, or a checkpoint does
        not fit.
    """
    import torch

    from tvm_mobilenet.models.weights import load_weights, widened

    check(options)
    path, factory = options.program
    say(f"running {path}: {factory}()")
    torch.manual_seed(options.seed or 0)
    with _told(path, factory), _as_a_program(path):
        made = _named(_run(path), path, factory)
        module = made if isinstance(made, torch.nn.Module) else made()
    if not isinstance(module, torch.nn.Module):
        raise TvmMobilenetError(f"{path}: {factory}() returns {type(module).__name__}, not a torch.nn.Module", _HINT)
    if options.checkpoint is not None:
        load_weights(module, options.checkpoint)
    convolution = next((m for m in module.modules() if isinstance(m, torch.nn.Conv2d)), None)
    return ModelSpec(
        module=module.eval().requires_grad_(False)._apply(widened),
        name=options.model,
        alpha=1.0,
        resolution=options.resolution or REGISTRY["resolution"],
        num_classes=0,
        preprocess=None,
        weights=str(options.checkpoint or "the program's own"),
        channels=convolution.in_channels if convolution is not None else 3,
    )


def _run(path: Path):
    """Run the program and return it as a module."""
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # dataclasses and pickles look there
    spec.loader.exec_module(module)
    return module


def _named(module, path: Path, factory: str):
    """The object of that name in the program."""
    found = getattr(module, factory, None)
    if found is None:
        own = [
            name
            for name, value in vars(module).items()
            if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == _MODULE
        ]
        near = nearest(factory, own)
        known = f"it has {', '.join(own[:8])}" if own else f"it has no function; {_HINT}"
        raise TvmMobilenetError(f"{path} has no {factory}", f"did you mean {near}?" if near else known)
    if not callable(found):
        raise TvmMobilenetError(f"{path}: {factory} is {type(found).__name__}, not a function", _HINT)
    return found


@contextlib.contextmanager
def _as_a_program(path: Path) -> Iterator[None]:
    """Make modules beside the program importable, as in a run by itself."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


@contextlib.contextmanager
def _told(path: Path, factory: str) -> Iterator[None]:
    """Turn any exception of a program into an error that names its line."""
    try:
        yield
    except TvmMobilenetError:
        raise
    except (Exception, SystemExit) as e:
        lines = [frame.lineno for frame in traceback.extract_tb(e.__traceback__) if frame.filename.endswith(path.name)]
        line = e.lineno if isinstance(e, SyntaxError) else lines[-1] if lines else None
        where = f"{path}, line {line}" if line else str(path)
        text = printable(" ".join(str(e).split()))[:300]
        hint = _HINT if isinstance(e, TypeError) and not lines else "mend it, or run it by itself"
        raise TvmMobilenetError(f"{where}: {factory}() ends with {type(e).__name__}: {text}".rstrip(": "), hint) from e
