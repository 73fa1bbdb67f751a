"""Completion of verbs, flags and files in a shell, by argcomplete: it runs the command to list the words that may
follow.

docs/reference/terminal.md says how to switch it on in a shell.
"""

from __future__ import annotations

import argparse
import importlib
import os

from tvm_mobilenet.cli.verbs import COMMAND, OF_ALL, verbs


def complete() -> None:
    """Answer argcomplete, and end the process."""
    import argcomplete

    words = [word for word in os.environ.get("COMP_LINE", "").split()[1:] if word not in OF_ALL]
    argcomplete.autocomplete(parser(words[0] if words else ""))


def parser(verb: str) -> argparse.ArgumentParser:
    """A parser of all verbs, with the flags of one."""
    new = argparse.ArgumentParser(prog=COMMAND, allow_abbrev=False)
    for flags in (("--version",), OF_ALL[:2], OF_ALL[2:4], OF_ALL[4:]):
        new.add_argument(*flags, action="store_true")
    own = importlib.import_module(f"tvm_mobilenet.{verb}").parser() if verb in verbs() else None

    def parser_of(**how) -> argparse.ArgumentParser:
        return own if own is not None and how["prog"].endswith(f" {verb}") else argparse.ArgumentParser(**how)

    subparsers = new.add_subparsers(parser_class=parser_of)
    for name, summary in {**verbs(), "help": "what a verb does"}.items():
        subparsers.add_parser(name, help=summary)
    return new
