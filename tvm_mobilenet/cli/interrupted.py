"""What a verb says when Ctrl-C or SIGTERM ends it: what is kept, and how to go on."""

from __future__ import annotations

import argparse

UNCHANGED = "nothing was changed"
KEPT = {  # by verb, filled in with its arguments
    "accuracy": UNCHANGED,
    "agent": "no session is left",
    "bench": "nothing was measured to the end, nothing is recorded",
    "build": "the module is not whole; the same command builds it again",
    "complexity": UNCHANGED,
    "doctor": UNCHANGED,
    "factorize": UNCHANGED,
    "profile": UNCHANGED,
    "rebuild_logs": "all trials are kept in {folder}; the same command goes on from there",
    "ship": "a board has either the new version or the one before, whole; the same command ships again",
    "sweep": "the networks estimated so far are kept in {estimates}; the same command goes on from there",
    "tune": "all trials so far are kept in {trials}; the same command goes on from there",
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
    if verb == "tune":
        from tvm_mobilenet.tune_logs.log import trials_of

        trials = trials_of(args.log).path
        if not trials.exists():
            return "interrupted: no trial had ended yet; the same command begins again"
        known = {**known, "trials": trials}
    return f"interrupted: {KEPT[verb].format(**known)}"
