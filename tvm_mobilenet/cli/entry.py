"""The steps that all verbs share: parse, run, report.

A user's mistake gives a message and a remedy. Any other error gives one line, and a traceback only with ``--debug``.
SIGTERM ends a verb as Ctrl-C does.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence

import tvm_mobilenet
from tvm_mobilenet import system
from tvm_mobilenet.cli import interrupted
from tvm_mobilenet.cli.arguments import VerbParser
from tvm_mobilenet.errors import TvmMobilenetError, reason, remedy, without_memory
from tvm_mobilenet.packages import missing_dependency
from tvm_mobilenet.terminal import console, stdout, table
from tvm_mobilenet.terminal.console import say, terminal_width

INTERRUPTED = 130


def run_verb(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None = None
) -> int:
    """Parse the arguments, run the verb, and turn every error into a message and an exit code.

    Parameters
    ----------
    parser : ArgumentParser
        The verb's parser; ``--debug`` is added here.
    run : callable
        Does the work and prints the result; its return value is the exit code, None for 0.
    argv : sequence of str, optional
        The arguments; those of the process by default.
    """
    add_saying(parser)
    with contextlib.suppress(AttributeError, ValueError):  # a terminal whose encoding has no °
        sys.stdout.reconfigure(errors="replace")
    try:
        args = parser.parse_args(argv)
    except TvmMobilenetError as error:  # raised by an argument's type, or where --help cannot be written
        say(f"error: {error}")
        return error.exit_code
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        system.require_posix(getattr(parser, "verb", "this"))
        with _warnings_as_lines(), console.saying(quiet=args.quiet, details=args.verbose):
            code = run(args) or 0
            if sys.stdout is not None:
                sys.stdout.flush()  # a failed write is found here, while an error can still be reported
            return code
    except KeyboardInterrupt:
        words = interrupted.words(getattr(parser, "verb", ""), args)
        say("\n".join(table.wrapped(words, terminal_width(sys.stderr), 2)))
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout closed it, as `head` does
        stdout.abandon()
        return 0
    except Exception as error:
        if args.debug:
            raise
        error = _explained(error)
        if isinstance(error, TvmMobilenetError):
            say(f"error: {error}")
            return error.exit_code
        text = " ".join(str(error).split())
        say(
            f"error: {type(error).__name__}: {text[:300]}\n  a bug, most likely: run again with --debug for a traceback"
        )
        return 1


def add_saying(parser: argparse.ArgumentParser) -> None:
    """``-q``, ``-v`` and ``--debug``, which every verb has."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="print only errors and warnings on stderr")
    group.add_argument("-v", "--verbose", action="store_true", help="print each phase with its time on stderr")
    parser.add_argument("--debug", action="store_true", help="show tracebacks, and the output of worker processes")


def _explained(error: Exception) -> Exception:
    """The error for the user where its cause is known: a package is missing, or the system lacks something."""
    error = missing_dependency(error) or error
    if isinstance(error, TvmMobilenetError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        hint = remedy(error, "check the path, its owner and its mode")
        return TvmMobilenetError(f"{error.filename}: {reason(error)}", hint)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        stdout.abandon()  # the error may have come from stdout
        return TvmMobilenetError(f"a result cannot be written: {reason(error)}", "make room, or write elsewhere")
    if isinstance(error, OSError) and (hint := remedy(error)):
        return TvmMobilenetError(reason(error), hint)
    return without_memory(error) or error


def parser_for(verb: str, description: str, **kwargs) -> VerbParser:
    """An argument parser that names the command as the user called it, and shows the defaults of options."""
    return VerbParser(verb, description, **kwargs)


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show warnings of this package as lines for the user, without their place in the code."""
    here = tuple(tvm_mobilenet.__path__)  # in a checkout also where schedules, targets and tune logs lie
    before = warnings.showwarning

    def show(message, category, filename, lineno, file=None, line=None):
        if issubclass(category, UserWarning) and (filename.startswith(here) or filename.startswith("<")):
            say(f"warning: {message}")
        else:
            before(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
