"""The message of a verb that Ctrl-C or SIGTERM ends: which results are kept, and how to continue."""

from __future__ import annotations

import argparse
from pathlib import Path

UNCHANGED = "nothing was changed"
KEPT = {  # by verb, filled in with its arguments
    "accuracy": UNCHANGED,
    "agent": "no session is left",
    "bench": "no measurement was complete, so none is recorded",
    "build": "no module or bundle is left incomplete; the same command builds again",
    "complexity": UNCHANGED,
    "doctor": UNCHANGED,
    "factorize": UNCHANGED,
    "profile": UNCHANGED,
    "rebuild_logs": "all trials are kept in {folder}; the same command continues from there",
    "ship": "each board has the new version or the one before, complete; the same command ships again",
    "sweep": "the estimates so far are kept in {estimates}; the same command continues from there",
    "tune": "all trials so far are kept in {trials}; the same command continues from there",
    "verify": UNCHANGED,
}


def words(verb: str, args: argparse.Namespace) -> str:
    """One line for stderr.

    Parameters
    ----------
    verb : str
        As in ``python -m tvm_mobilenet.VERB``.
    args : Namespace
        Its arguments.
    """
    if verb not in KEPT:
        return "interrupted"
    known = vars(args)
    if verb == "sweep" and not Path(args.estimates).exists():
        return "interrupted: no estimate was complete yet; the same command starts again"
    if verb == "tune":
        from tvm_mobilenet.tune_logs.log import trials_of

        trials = trials_of(args.log).path
        if not trials.exists():
            return "interrupted: no trial was complete yet; the same command starts again"
        known = {**known, "trials": trials}
    return f"interrupted: {KEPT[verb].format(**known)}"
