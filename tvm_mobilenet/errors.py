"""The errors a user can cause, and the exit code of each.

Every verb ends with one of these codes: 0 done, 2 usage, 3 a package or tool is missing, 4 the board, 5 verification
failed, 6 slower than asked. A traceback is printed only with ``--debug``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def reason(error: BaseException) -> str:
    """Why something failed, for a sentence: the system's own words for a file, without names of Python classes."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]!r}" if error.args else "something is missing in it"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "it is damaged").rstrip(":")


class TvmMobilenetError(Exception):
    """A mistake or a lack that the user can mend.

    Parameters
    ----------
    message : str
        What is wrong, where, and the value received.
    hint : str
        What to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class MissingDependencyError(TvmMobilenetError):
    """A package or a tool is not installed; the hint is the command that installs it."""

    exit_code = 3


class BoardError(TvmMobilenetError):
    """A board could not be reached, or what ran on it went wrong."""

    exit_code = 4


class VerificationError(TvmMobilenetError):
    """The machine code computes something other than the reference, or a bundle is not what was signed."""

    exit_code = 5


class RegressionError(TvmMobilenetError):
    """A measurement is slower than asked."""

    exit_code = 6


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known word that is most like another; empty when none is."""
    return next(iter(difflib.get_close_matches(word, list(known), 1, cutoff)), "")
