"""A guard: is a build still the one that a verb began with? This module needs no TVM, which verbs import late."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tvm_mobilenet.compiler.build_identity import PLAN
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import json_text, reading

if TYPE_CHECKING:
    from tvm_mobilenet.compiler.module import BuiltModule

_P, _R = ParamSpec("_P"), TypeVar("_R")


@contextlib.contextmanager
def kept(module: BuiltModule) -> Iterator[None]:
    """A block that uses the files of a build. A run of minutes begins with the plan of one build, and could later open
    the libraries of another build that replaced it.

    Raises
    ------
    TvmMobilenetError
        The module was built anew meanwhile; this error replaces any other error of the block.
    """
    began = _written(module)
    try:
        yield
    except Exception as error:
        if _is_another(module, began):
            raise _anew(module) from error
        raise
    if _is_another(module, began):
        raise _anew(module)


def using_its_files(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function that takes a built module and uses its files, wrapped in `kept`."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **how: _P.kwargs) -> _R:
        from tvm_mobilenet.compiler.module import BuiltModule

        with kept(next(one for one in (*args, *how.values()) if isinstance(one, BuiltModule))):
            return function(*args, **how)

    return wrapped


def _written(module: BuiltModule) -> tuple[int, ...] | None:
    """The identity of the plan's file on disk. Another build may have replaced it, even by a build with equal
    content.
    """
    try:
        found = (module.folder / PLAN).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _is_another(module: BuiltModule, began: tuple[int, ...] | None) -> bool:
    try:
        now = json_text.parse(reading.text(module.folder / PLAN)).get("build")
        return now != module.build or _written(module) != began
    except (OSError, ValueError, AttributeError):
        return True


def _anew(module: BuiltModule) -> TvmMobilenetError:
    return TvmMobilenetError(f"{module.folder} was built anew, or removed, while this ran", "run it again")
