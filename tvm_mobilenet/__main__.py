"""``python -m tvm_mobilenet VERB ...``: the same as ``python -m tvm_mobilenet.VERB ...``; without a verb, which there
are.

A verb is a module of this package with a ``main(argv)``; its summary is the first line of its docstring. They are found
by reading the files, not by importing them: help is there at once, and needs no torch and no TVM.
"""

from __future__ import annotations

import difflib
import importlib
import sys

from tvm_mobilenet import __version__
from tvm_mobilenet.cli.verbs import verbs


def main(argv: list[str] | None = None) -> int:
    """Hand over to a verb, or list them."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m tvm_mobilenet VERB [options]\n\nverbs (VERB --help says more):")
        known = verbs()
        for name, summary in known.items():
            print(f"  {name:{max(map(len, known))}}  {summary}")
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    verb = argv[0]
    known = verbs()
    if verb not in known:
        near = difflib.get_close_matches(verb, known, 1)
        print(
            f"error: unknown verb {verb!r}"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + "\n  verbs: "
            + ", ".join(known),
            file=sys.stderr,
        )
        return 2
    try:
        module = importlib.import_module(f".{verb}", __package__)
    except ModuleNotFoundError as error:
        from tvm_mobilenet.packages import missing_dependency
        from tvm_mobilenet.terminal.console import say

        missing = missing_dependency(error)
        if missing is None:
            raise
        say(f"error: {missing}")
        return missing.exit_code
    return module.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
