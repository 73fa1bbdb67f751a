"""The list of verbs, and the command by which the user calls one."""

from __future__ import annotations

import sys
from pathlib import Path

COMMAND = "tvm-mobilenet"  # the console script of pyproject.toml
MAINTAINERS = ("rebuild_logs",)  # verbs that make files which ship with the package
OF_ALL = ("-q", "--quiet", "-v", "--verbose", "--debug")  # flags that all verbs take, also in front of the verb


def verbs() -> dict[str, str]:
    """The verbs' summaries by name: the first lines of their docstrings, each at the top of its file.

    Every command asks for them, and to parse all these files would take longer than to start Python.
    """
    found = {}
    for path in sorted(Path(__file__).parent.parent.glob("[!_]*.py")):
        source = path.read_text(encoding="utf-8")
        if "\ndef main(argv" in source:
            found[path.stem] = source.removeprefix('"""').partition("\n")[0].removesuffix('"""')
    return found


def command(verb: str = "") -> str:
    """The command that the user types: ``tvm-mobilenet build``, or ``python -m tvm_mobilenet.build``."""
    if Path(sys.argv[0]).stem == COMMAND:
        return f"{COMMAND} {verb}".rstrip()
    return f"python -m tvm_mobilenet.{verb}" if verb else "python -m tvm_mobilenet"
