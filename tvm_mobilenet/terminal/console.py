"""Lines, tables and progress: results to stdout, everything else to stderr.

On a terminal tables are drawn and progress is live; elsewhere, and with ``NO_COLOR``, both are plain lines. With
``--json`` stdout carries one JSON document and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from tvm_mobilenet import old_words
from tvm_mobilenet.terminal import table, titles
from tvm_mobilenet.terminal.printable import printable, printable_lines
from tvm_mobilenet.terminal.stdout import write

_NUMBER = re.compile(r"-?|[-+]?[\d,]+(\.\d+)?(e[-+]?\d+)?%?(-[\d.,]+)?")  # a number, ``-``, or a range such as 51-63


# Receives the lines of `say` instead of stderr.
_TOLD: ContextVar[Callable[[str], object] | None] = ContextVar("told", default=None)
_DETAILS: ContextVar[bool] = ContextVar("details", default=False)
_LOUD = ("error:", "warning:")  # lines that are always printed
_WORDED: ContextVar[Callable[[str], str]] = ContextVar("worded", default=str)  # changes each text of `say`
_PARTS: ContextVar[list | None] = ContextVar("parts", default=None)  # receives tables and text instead of stdout


def say(text: str) -> None:
    """Print a line of progress on stderr; control characters in it are escaped."""
    told, text = _TOLD.get(), _WORDED.get()(text)
    if told is None:
        print(printable_lines(text), file=sys.stderr, flush=True)
    else:
        told(printable_lines(text))


@contextmanager
def told_to(listener: Callable[[str], object] | None) -> Iterator[None]:
    """Send each line of `say` and `Progress` of this thread to a function instead of stderr; None changes nothing."""
    token = _TOLD.set(_TOLD.get() if listener is None else listener)
    try:
        yield
    finally:
        _TOLD.reset(token)


@contextmanager
def worded(words: Callable[[str], str]) -> Iterator[None]:
    """Let a function change each text of `say`."""
    token = _WORDED.set(words)
    try:
        yield
    finally:
        _WORDED.reset(token)


@contextmanager
def saying(quiet: bool = False, details: bool = False) -> Iterator[None]:
    """Let `say` print only errors and warnings, or also `detail`, with the seconds since now before each line."""
    if not quiet and not details:
        yield
        return
    began, told = time.monotonic(), _TOLD.get() or (lambda line: print(line, file=sys.stderr, flush=True))

    def listener(line: str) -> None:
        if details:
            told(f"{time.monotonic() - began:7.2f} s  {line}")
        elif line.startswith(_LOUD):
            told(line)

    token = _DETAILS.set(details)
    try:
        with told_to(listener):
            yield
    finally:
        _DETAILS.reset(token)


def detail(text: str) -> None:
    """Print a line that only ``--verbose`` shows."""
    if _DETAILS.get():
        say(text)


@contextmanager
def captured() -> Iterator[list]:
    """Collect printed results: a table as a tuple of columns, rows and title; other text as it is."""
    parts: list = []
    token = _PARTS.set(parts)
    try:
        yield parts
    finally:
        _PARTS.reset(token)


def is_plain(stream) -> bool:
    """Whether a stream gets plain lines: it is no terminal, a dumb one, or NO_COLOR is set."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def print_json(result: object) -> None:
    """Print the JSON document of ``--json`` in ASCII, with other characters escaped."""
    write(json.dumps(old_words.with_old_keys(plain_data(result)), indent=2).replace("\x7f", "\\u007f"))


def plain_data(value: object) -> object:
    """Dataclasses, paths and tuples as JSON data; numbers that are not finite become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain_data(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain_data(v) for v in value]
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()  # a numpy scalar
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence], title: str = "") -> None:
    """Print a table on stdout, fitted to the terminal (`table`), or complete in a pipe; numbers are right-aligned.

    Parameters
    ----------
    columns : sequence of str
        Headings; ``table.Layers``, ``table.Detail`` and ``table.Words`` say what a column holds.
    """
    if (parts := _PARTS.get()) is not None:
        parts.append((columns, rows, title))
        return
    if title:
        print_text(title)
    write(table_text(columns, rows))


def table_text(columns: Sequence[str], rows: Sequence[Sequence], title: str = "") -> str:
    """The text of `print_table`, fitted to the terminal."""
    cells = [[printable(cell) if isinstance(cell, str) else number(cell) for cell in row] for row in rows]
    right = numeric(cells, len(columns))
    found = table.lines(columns, cells, right, terminal_width(sys.stdout))
    return "\n".join([title, *found] if title else found)


def numeric(cells: Sequence[Sequence[str]], columns: int) -> list[bool]:
    """For each column, whether it holds only numbers and empty cells."""
    return [all(_NUMBER.fullmatch(row[i]) for row in cells) for i in range(columns)]


def print_text(text: str, indent: int = 0) -> None:
    """Print lines on stdout. On a terminal they are wrapped at blanks, and continuation lines are indented by
    ``indent``."""
    if (parts := _PARTS.get()) is not None:
        parts.append(text)
        return
    for line in text.split("\n"):
        write("\n".join(table.wrapped(line, terminal_width(sys.stdout), indent)))


def terminal_width(stream) -> int | None:
    """The width of a stream's terminal in characters; None if it is no terminal.

    The terminal's own answer counts; ``COLUMNS`` counts if a terminal does not know its size.
    """
    return terminal_size(stream)[0] if stream is not None and stream.isatty() else None


def terminal_size(stream) -> tuple[int, int]:
    """Columns and lines of a stream's terminal; 80 and 24 if unknown."""
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        found = (0, 0)
    asked = (os.environ.get(name, "") for name in ("COLUMNS", "LINES"))
    assumed = (int(text) if text.isdecimal() and 0 < int(text) < 10_000 else 0 for text in asked)
    return tuple(known or said or usual for known, said, usual in zip(found, assumed, (80, 24), strict=True))


def number(value: object) -> str:
    """A number for reading: thousands separated, at most three digits after the point; ``-`` for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def duration(seconds: float) -> str:
    """``1:05`` or ``1:02:03``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """A live table on a terminal; elsewhere a plain line at intervals. It prints on stderr; use it as a context."""

    def __init__(self, every: float = 10.0):
        self._every, self._last, self._live, self._stream = every, float("-inf"), None, None

    def __enter__(self) -> Progress:
        if _TOLD.get() is None and not is_plain(sys.stderr):
            from rich import console, live

            stream = self._stream = sys.stderr  # during the live display, sys.stderr prints above it
            here = console.Console(file=stream, highlight=False, force_terminal=True)
            self._live = live.Live(_View("", stream), console=here, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._live:
            self._live.stop()

    def update(self, line: Callable[[], str], columns: Sequence[str] = (), rows: Callable[[], list] = list) -> None:
        """Show the state: ``rows()`` of a table, the most important first, and ``line()`` under it.

        On a screen too small for both, the line stays and hidden rows are counted.
        """
        if self._live:
            self._live.update(_View(line(), self._stream, columns, rows()))
        elif time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            say(line())


@dataclasses.dataclass(frozen=True)
class _View:
    """The display of `Progress`, made for the terminal's size at each drawing."""

    line: str
    stream: object
    columns: Sequence[str] = ()
    rows: Sequence[Sequence] = ()

    def __rich_console__(self, console, options):
        from rich import text

        width, height = terminal_size(self.stream)
        yield text.Text(printable_lines("\n".join(self.lines(width, height))), no_wrap=True, overflow="crop", end="")

    def lines(self, width: int, height: int) -> list[str]:
        """At most ``height - 1`` lines: a full screen would scroll."""
        said = table.wrapped(self.line, width)
        room = height - 1 - len(said)
        if not self.columns or not self.rows:
            return said[: max(1, height - 1)]
        cells = [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in self.rows]
        right = numeric(cells, len(self.columns))
        found = table.lines(self.columns, cells, right, width, note=False)
        head = len(found) - len(cells)  # one line for each row, or there is no room for a table
        if max(map(len, found)) > width or head > 3 or room < head + 1:
            return said[: max(1, height - 1)]
        if len(cells) > room - head:
            shown = max(0, room - head - 1)
            found = [*found[: head + shown], f"{titles.MARK} and {len(cells) - shown} more"]
        return [*found, *said]
