"""``tvm-mobilenet VERB ...``: the same as ``python -m tvm_mobilenet.VERB ...``, also as ``python -m tvm_mobilenet``.

A verb is a module of this package with a ``main(argv)``; its summary is the first line of its docstring. They are found
by reading the files, not by importing them: help is there at once, and needs no torch and no TVM.
"""

from __future__ import annotations

import importlib
import os
import sys

from tvm_mobilenet import __version__
from tvm_mobilenet.cli.verbs import MAINTAINERS, command, verbs
from tvm_mobilenet.errors import nearest


def main(argv: list[str] | None = None) -> int:
    """Hand over to a verb, or list them."""
    if "_ARGCOMPLETE" in os.environ:
        from tvm_mobilenet.cli import completion

        completion.complete()
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    verb = argv[0].replace("-", "_")
    known = verbs()
    if verb not in known:
        near = nearest(verb, known)
        meant = f"; did you mean {near!r}?" if near else ""
        print(f"error: unknown verb {argv[0]!r}{meant}\n  verbs: {', '.join(known)}", file=sys.stderr)
        return 2
    if __name__ != "__main__":  # `tvm-mobilenet`; else the package did it
        from tvm_mobilenet.packages import started_as_a_verb

        started_as_a_verb()
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


def _help() -> str:
    known = verbs()
    width = max(map(len, known))

    def lines(names) -> str:
        return "\n".join(f"  {name:{width}}  {known[name]}" for name in names)

    users = [name for name in known if name not in MAINTAINERS]
    return (
        f"usage: {command()} VERB [options]\n\nverbs ({command()} help VERB says more):\n{lines(users)}\n\n"
        f"for those who maintain what ships:\n{lines(MAINTAINERS)}"
    )


if __name__ == "__main__":
    sys.exit(main())
