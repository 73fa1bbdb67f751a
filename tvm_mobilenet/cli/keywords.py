"""Keywords of the Python API: the values that each takes, and messages that name the keywords.

A wrong value is refused before any work begins; the message names the keyword and the value. Calls share the code of
verbs, whose messages name flags; `call` makes them name the keywords.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
import re
import reprlib
from collections.abc import Callable, Collection, Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TypeVar

from tvm_mobilenet import system
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.options import MOST_SEED
from tvm_mobilenet.terminal import console

Say = Callable[[str], object]
F = TypeVar("F", bound=Callable)
T = TypeVar("T")
_TEXT = re.compile(r"`[^`]*`|--([a-z]+(?:-[a-z]+)*)")  # text in backquotes stays
_COMMANDS = ("python -m ", "pip ", "tvm-mobilenet ")
_KNOWN: set[str] = set()  # keywords of all calls
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def call(function: F) -> F:
    """A decorator of the API's calls: messages name keywords, and ``progress`` receives the lines of progress.

    Parameters
    ----------
    function : callable
        It may have the keyword ``progress``: a function receives each line; True prints them on stderr; False drops
        them.
    """
    code = function.__code__
    several = bool(code.co_flags & inspect.CO_VARARGS)
    _KNOWN.update(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + several])

    @functools.wraps(function)
    def called(*given, **how):
        progress = how.get("progress", True)
        try:
            if not (callable(progress) or isinstance(progress, bool)):
                raise TvmMobilenetError(f"progress={shown(progress)} is not a function", "give one, True or False")
            system.require_posix("this")
            listener = progress if callable(progress) else None if progress else (lambda line: None)
            with console.told_to(listener), console.worded(named):
                return function(*given, **how)
        except TvmMobilenetError as error:
            error.message, error.hint = named(error.message), named(error.hint)
            error.args = (error.message,)
            raise

    return called  # type: ignore[return-value]


def also_known(names: Iterable[str]) -> None:
    """Declare keywords that a call takes as ``**options``."""
    _KNOWN.update(names)


def named(text: str) -> str:
    """A message with keywords instead of flags; commands to type stay unchanged."""

    def keyword(found: re.Match) -> str:
        name = (found[1] or "").replace("-", "_")
        return name if name in _KNOWN else found[0]

    lines = text.split("\n")
    return "\n".join(line if any(c in line for c in _COMMANDS) else _TEXT.sub(keyword, line) for line in lines)


def shown(value: object) -> str:
    """A value as a message shows it: an array by its dtype and shape, a long text cut."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{type(value).__name__} of {value.dtype} {tuple(value.shape)}>"
    return " ".join(_SHORT.repr(value).split())


def wrong(name: str, value: object, why: str, hint: str = "give another, or leave it out") -> TvmMobilenetError:
    """The error of a value that a keyword does not take: ``batch=0 is no whole number above zero``."""
    return TvmMobilenetError(f"{name}={shown(value)} {why}", hint)


def whole(name: str, value: object, least: int = 1, most: float = math.inf) -> int:
    """A whole number, also NumPy's.

    Raises
    ------
    TvmMobilenetError
        It is none, or beyond the limits.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise wrong(name, value, "is not of type int")
    if not least <= operator.index(value) <= most:
        limits = f"from {least}" if most == math.inf else f"from {least} to {most:,}"
        raise wrong(name, value, f"is not a whole number {limits}")
    return operator.index(value)


def number(name: str, value: object, most: float = math.inf, above: float = 0.0) -> float:
    """A finite number, by default above zero.

    Raises
    ------
    TvmMobilenetError
        It is none, or beyond the limits.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise wrong(name, value, "is not of type int or float")
    if not (math.isfinite(value) and above < value <= most):
        limits = f" above {above:g}" * (above > -math.inf) + f" and at most {most:g}" * (most < math.inf)
        raise wrong(name, value, f"is not a finite number{limits}")
    return value if isinstance(value, int | float) else float(value)


def several(name: str, value: object, kind: Callable[[str, object], object]) -> tuple:
    """One value, or a sequence of them, as a tuple of what ``kind(name, one)`` gives.

    Raises
    ------
    TvmMobilenetError
        The sequence is empty, or ``kind`` refuses a value.
    """
    if getattr(value, "ndim", 0) == 1:
        value = list(value)  # type: ignore[call-overload]
    ones = value if isinstance(value, list | tuple | set | frozenset | range) else (value,)
    if not ones:
        raise wrong(name, value, "is empty", "give at least one, or leave it out")
    return tuple(kind(name, one) for one in ones)


def channels(name: str, value: object) -> tuple[float, ...]:
    """``mean`` or ``std``: one number, or one for each of three channels.

    Raises
    ------
    TvmMobilenetError
        The count of numbers is another, or a number is out of range.
    """
    found = several(name, value, functools.partial(number, above=0.0 if name == "std" else -math.inf))
    if len(found) not in (1, 3):
        raise wrong(name, value, f"has {len(found)} numbers", "give one number, or one for each of three channels")
    return tuple(map(float, found))


def one_of(choices: Collection[str]) -> Callable[[str, object], str]:
    """A ``kind`` for `several`: one word of a few."""

    def parse(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise wrong(name, value, f"is none of {', '.join(choices)}", "give one of them")
        return value

    return parse


def text(name: str, value: object) -> str:
    """A str.

    Raises
    ------
    TvmMobilenetError
        It is none.
    """
    if not isinstance(value, str):
        raise wrong(name, value, "is not of type str")
    return value


def flag(name: str, value: object) -> bool:
    """True or False.

    Raises
    ------
    TvmMobilenetError
        It is neither.
    """
    if not isinstance(value, bool):
        raise wrong(name, value, "is not of type bool")
    return value


def path_of(name: str, value: object) -> str:
    """A path that a call was given, as text.

    Raises
    ------
    TvmMobilenetError
        The value is no path, such as None, a number or bytes.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise wrong(name, value, "is not a path", "give a str or a pathlib.Path")
    found = os.fspath(value)
    if "\0" in found or not found:
        raise wrong(name, value, "is not a path", 'give a name; the working directory is "."')
    return found


def path(name: str, value: object) -> Path:
    """`path_of` as a Path."""
    return Path(path_of(name, value))


def unless_none(kind: Callable[[str, object], T], name: str, value: object) -> T | None:
    """The result of ``kind(name, value)``; None stays None."""
    return None if value is None else kind(name, value)


def resolution(name: str, value: object) -> int | tuple[int, int]:
    """Pixels, or height and width.

    Raises
    ------
    TvmMobilenetError
        It is neither.
    """
    sides = several(name, value, whole)
    if len(sides) > 2:
        raise wrong(name, value, f"has {len(sides)} numbers", "give pixels, or height and width")
    return sides[0] if len(set(sides)) == 1 else (sides[0], sides[1])


def seed(name: str, value: object) -> int:
    """The seed of random weights."""
    return whole(name, value, 0, MOST_SEED)


def limits(name: str, values: object, kind: Callable[[str, object], object] = whole) -> Sequence:
    """Like `several`, but the sequence may be empty."""
    return () if isinstance(values, list | tuple) and not values else several(name, values, kind)
