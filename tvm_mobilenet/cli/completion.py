"""Completion of verbs, flags and files in a shell, by argcomplete: it runs the command to ask what may follow.

eval "$(register-python-argcomplete tvm-mobilenet)"
"""

from __future__ import annotations

import argparse
import importlib
import os

from tvm_mobilenet.cli.verbs import COMMAND, verbs


def complete() -> None:
    """Answer argcomplete, and end the process."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    argcomplete.autocomplete(parser(words[1] if len(words) > 1 else ""))


def parser(verb: str) -> argparse.ArgumentParser:
    """A parser of all verbs, with the flags of one."""
    new = argparse.ArgumentParser(prog=COMMAND, allow_abbrev=False)
    new.add_argument("--version", action="store_true")
    own = importlib.import_module(f"tvm_mobilenet.{verb}").parser() if verb in verbs() else None

    def parser_of(**how) -> argparse.ArgumentParser:
        return own if own is not None and how["prog"].endswith(f" {verb}") else argparse.ArgumentParser(**how)

    subparsers = new.add_subparsers(parser_class=parser_of)
    for name, summary in {**verbs(), "help": "what a verb does"}.items():
        subparsers.add_parser(name, help=summary)
    return new
