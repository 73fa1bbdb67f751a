"""Check the form of untrusted plain data before use: keys, types and sizes.

A shape is one of the words below, a `Whole`, `OneOf`, `Maybe` or `Either`; a list with one shape, or a `Many`, for
lists of any length; a dict from keys to shapes, with ``?`` after a key that may be missing; or
``{str: shape}`` for any keys.
"""

from __future__ import annotations

from dataclasses import dataclass

NUMBER, TIME, COUNT, TEXT, FLAG = "a number", "a time", "a whole number from 0", "a text", "true or false"
ANYTHING, TABLE = "anything", "a table"
FAR = 1e300  # beyond it a number is taken for infinite


class Maybe:
    """A value of this shape, or null."""

    def __init__(self, shape):
        self.shape = shape


class Either:
    """A value of one of these shapes."""

    def __init__(self, *shapes):
        self.shapes = shapes


@dataclass(frozen=True)
class Whole:
    """A whole number within limits."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"a whole number from {self.least:,} to {self.most:,}"


@dataclass(frozen=True)
class Text:
    """A text with a largest number of characters."""

    most: int

    def __str__(self) -> str:
        return f"a text of {self.most:,} characters at most"


class OneOf:
    """One of some texts."""

    def __init__(self, *texts: str):
        self.texts = texts

    def __str__(self) -> str:
        return f"one of {', '.join(self.texts)}"


class Many:
    """A list of values of one shape, within limits of its length."""

    def __init__(self, shape, most: int, least: int = 0):
        self.shape, self.most, self.least = shape, most, least


def is_number(value: object) -> bool:
    """Whether a value is a number that is finite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -FAR < value < FAR


_WORDS = {
    NUMBER: is_number,
    TIME: lambda value: is_number(value) and value >= 0,
    COUNT: lambda value: _is_whole(value) and value >= 0,
    TEXT: lambda value: isinstance(value, str),
    FLAG: lambda value: isinstance(value, bool),
    TABLE: lambda value: isinstance(value, dict),
    ANYTHING: lambda value: True,
}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def wrong(value: object, shape: object, path: str) -> str:
    """The first fault of a value with its place; the empty string if there is none.

    Parameters
    ----------
    path : str
        The value's name.
    """
    if isinstance(shape, Maybe):
        return "" if value is None else wrong(value, shape.shape, path)
    if isinstance(shape, Either):
        found = [wrong(value, one, path) for one in shape.shapes]
        return "" if "" in found else found[-1]
    if isinstance(shape, (list, Many)):
        return _wrong_list(value, shape if isinstance(shape, Many) else Many(shape[0], 1 << 62), path)
    if isinstance(shape, dict):
        return _wrong_table(value, shape, path)
    if isinstance(shape, Whole):
        right = _is_whole(value) and shape.least <= value <= shape.most
    elif isinstance(shape, Text):
        right = isinstance(value, str) and len(value) <= shape.most
    elif isinstance(shape, OneOf):
        right = isinstance(value, str) and value in shape.texts
    else:
        right = _WORDS[shape](value)
    return "" if right else f"{path} is {_short(value)}, not {shape}"


def _wrong_list(value: object, shape: Many, path: str) -> str:
    if not isinstance(value, list):
        return f"{path} is not a list"
    if not shape.least <= len(value) <= shape.most:
        return f"{path} has {len(value):,} parts, from {shape.least:,} to {shape.most:,} are read"
    return next(filter(None, (wrong(v, shape.shape, f"{path}[{i}]") for i, v in enumerate(value))), "")


def _wrong_table(value: object, shape: dict, path: str) -> str:
    if not isinstance(value, dict):
        return f"{path} is not an object"
    if str in shape:
        return next(filter(None, (wrong(v, shape[str], f"{path}.{k}") for k, v in value.items())), "")
    for key, inner in shape.items():
        name = key.removesuffix("?")
        if name not in value:
            if name == key:
                return f"{path} has no {name!r}"
        elif found := wrong(value[name], inner, f"{path}.{name}"):
            return found
    return ""


def _short(value: object) -> str:
    """The beginning of a value, without writing all of it out."""
    if isinstance(value, (list, dict)):
        return f"a {'list' if isinstance(value, list) else 'table'} of {len(value):,} parts"
    if isinstance(value, int) and abs(value) > 1 << 64:
        return f"a number of {value.bit_length():,} bits"
    return repr(value[:60] if isinstance(value, str) else value)[:80]
