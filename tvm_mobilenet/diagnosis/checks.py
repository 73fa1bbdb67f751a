"""A sequence of checks, each with a remedy for its failure, for ``doctor``.

Checks that depend on a failed one are reported as not reached, so that the first remedy is the one to try first.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError

OK, DOUBTFUL, FAILED, SKIPPED = "ok", "doubtful", "FAILED", "not reached"
BUG = 1  # the exit code of an unexpected error, in every verb


@dataclass(frozen=True)
class Check:
    """One check: ``status`` is ``ok``, ``doubtful``, ``FAILED`` or ``not reached``; ``code``: the exit code for it."""

    name: str
    status: str
    text: str
    remedy: str = ""
    code: int = 0


class Doubt(Exception):
    """Raised by a check that succeeds with a warning: the observation and the remedy."""

    def __init__(self, text: str, remedy: str):
        super().__init__(text)
        self.text, self.remedy = text, remedy


@dataclass
class Checks:
    """Runs checks and keeps their results.

    Attributes
    ----------
    found : list of Check
    show : callable
        Called with each check's name before it runs.
    debug : bool
        Print the traceback of an unexpected error.
    unforeseen : int
        The exit code of such an error; every other error has its own.
    """

    show: Callable[[str], None] = lambda name: None
    found: list[Check] = field(default_factory=list)
    debug: bool = False
    unforeseen: int = BUG

    def run(self, name: str, check: Callable[[], str], needs: tuple[str, ...] = ()) -> bool:
        """Run one check: ``check()`` returns its observation, raises a `Doubt`, or an error with a remedy.

        Parameters
        ----------
        needs : tuple of str
            Names of checks on which this one depends.

        Returns
        -------
        bool
            Whether checks that depend on it can run.
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
