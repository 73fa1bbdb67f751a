"""Which verbs there are."""

from __future__ import annotations

import ast
from pathlib import Path


def verbs() -> dict[str, str]:
    """The verbs and what they do, by name."""
    found = {}
    for path in sorted(Path(__file__).parent.parent.glob("[!_]*.py")):
        source = path.read_text(encoding="utf-8")
        if "\ndef main(argv" in source:
            found[path.stem] = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
    return found
