"""``tvm-mobilenet VERB ...``: the same as ``python -m tvm_mobilenet.VERB ...``, also as ``python -m tvm_mobilenet``.

A verb is a module of this package with a ``main(argv)``; its summary is the first line of its docstring. Verbs are
found by reading the files, not by importing them, so help appears at once and needs neither torch nor TVM.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys

from tvm_mobilenet import __version__
from tvm_mobilenet.cli.verbs import MAINTAINERS, OF_ALL, command, verbs
from tvm_mobilenet.errors import TvmMobilenetError, nearest
from tvm_mobilenet.terminal import stdout


def main(argv: list[str] | None = None) -> int:
    """Hand over to a verb, or list them."""
    if "_ARGCOMPLETE" in os.environ:
        from tvm_mobilenet.cli import completion

        completion.complete()
    argv = sys.argv[1:] if argv is None else argv
    # Flags before the verb, which other commands allow too.
    shared = list(itertools.takewhile(OF_ALL.__contains__, argv))
    argv = argv[len(shared) :]
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if (not argv and not shared) or argv[:1] in (["-h"], ["--help"]):
        return _printed(_help())
    if argv[:1] == ["--version"]:
        return _printed(__version__)
    verb = argv[0].replace("-", "_") if argv else ""
    known = verbs()
    if verb not in known:
        near = nearest(verb, known)
        meant = f"; did you mean {near!r}?" if near else ""
        wrong = f"unknown verb {argv[0]!r}{meant}" if argv else f"a verb is missing after {' '.join(shared)}"
        if argv and argv[0].startswith("-"):
            wrong = f"{argv[0]} does not stand before a verb; {', '.join(OF_ALL)} do"
        print(f"error: {wrong}\n  verbs: {', '.join(known)}", file=sys.stderr)
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
    return module.main([*shared, *argv[1:]])


def _printed(text: str) -> int:
    try:
        with stdout.arriving():
            stdout.write(text)
    except TvmMobilenetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


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
