"""Which verbs there are, and how the user calls them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

COMMAND = "tvm-mobilenet"  # the console script of pyproject.toml
MAINTAINERS = ("rebuild_logs",)  # verbs that make what ships
OF_ALL = ("-q", "--quiet", "-v", "--verbose", "--debug")  # flags of every verb, which may also stand before it


def verbs() -> dict[str, str]:
    """The verbs and what they do, by name."""
    found = {}
    for path in sorted(Path(__file__).parent.parent.glob("[!_]*.py")):
        source = path.read_text(encoding="utf-8")
        if "\ndef main(argv" in source:
            found[path.stem] = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
    return found


def command(verb: str = "") -> str:
    """What the user types for a verb: ``tvm-mobilenet build``, or ``python -m tvm_mobilenet.build``; all."""
    if Path(sys.argv[0]).stem == COMMAND:
        return f"{COMMAND} {verb}".rstrip()
    return f"python -m tvm_mobilenet.{verb}" if verb else "python -m tvm_mobilenet"
