"""Checks one after the other, each with what to do when it fails: what ``doctor`` is made of.

A check that fails ends those that rest on it; they are reported as not reached, so that the first remedy is the one to
try first.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError

OK, DOUBTFUL, FAILED, SKIPPED = "ok", "doubtful", "FAILED", "not reached"
BUG = 1  # the exit code of what nobody foresaw, in every verb


@dataclass(frozen=True)
class Check:
    """One check: ``status`` is ``ok``, ``doubtful``, ``FAILED`` or ``not reached``; ``code``: the exit code it asks."""

    name: str
    status: str
    text: str
    remedy: str = ""
    code: int = 0


class Doubt(Exception):
    """What a check raises that works, but not as it should: what was found, what to do."""

    def __init__(self, text: str, remedy: str):
        super().__init__(text)
        self.text, self.remedy = text, remedy


@dataclass
class Checks:
    """Runs checks and keeps what came out.

    Attributes
    ----------
    found : list of Check
    show : callable
        Gets each check's name before it runs.
    debug : bool
        Print the traceback of an error that nobody foresaw.
    unforeseen : int
        The exit code of such an error; every other error brings its own.
    """

    show: Callable[[str], None] = lambda name: None
    found: list[Check] = field(default_factory=list)
    debug: bool = False
    unforeseen: int = BUG

    def run(self, name: str, check: Callable[[], str], needs: tuple[str, ...] = ()) -> bool:
        """One check: ``check()`` returns what it found, raises a `Doubt`, or an error with a remedy.

        Parameters
        ----------
        needs : tuple of str
            Names of checks without which this one says nothing.

        Returns
        -------
        bool
            Whether what rests on it can go on.
        """
        status = {c.name: c.status for c in self.found}
        if missing := [n for n in needs if status.get(n, FAILED) in (FAILED, SKIPPED)]:
            self.found.append(Check(name, SKIPPED, f"needs: {missing[0]}"))
            return False
        self.show(name)
        try:
            self.found.append(Check(name, OK, check()))
        except Doubt as e:
            self.found.append(Check(name, DOUBTFUL, e.text, e.remedy))
        except TvmMobilenetError as e:
            self.found.append(Check(name, FAILED, e.message, e.hint or "see docs/guides/benchmark.md", e.exit_code))
        except ModuleNotFoundError as e:
            from tvm_mobilenet.packages import missing_dependency

            known = missing_dependency(e) or MissingDependencyError(str(e), "install it again")
            self.found.append(Check(name, FAILED, known.message, known.hint, known.exit_code))
        except Exception as e:
            if self.debug:
                traceback.print_exc()
            text = " ".join(str(e).split())[:200] or "it ended without a word"
            remedy = "a bug, most likely: doctor --debug shows where"
            self.found.append(Check(name, FAILED, text, remedy, self.unforeseen))
        return self.found[-1].status in (OK, DOUBTFUL)

    @property
    def code(self) -> int:
        """0, or the exit code of the first that failed."""
        return next((c.code for c in self.found if c.status == FAILED), 0)
