"""Format a table as lines: at full width in a pipe, fitted to the width of a terminal.

Numbers are never cut or wrapped. If a table is too wide, these steps are tried in order:

1. headings take several lines;
2. names of layers are shortened by omitting words (``terminal.titles.short_titles``);
3. columns with details are omitted, the last one first;
4. names and other text stand on a line of their own, the numbers under it;
5. the table is transposed: rows become columns, as many as fit side by side.

A last line says what was shortened or omitted. The headings ``Layers``, ``Detail`` and ``Words`` tell the kind of a
column; any other column holds numbers or short text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm_mobilenet.terminal.titles import cut, short_titles

GAP = 2  # blanks between columns
INDENT = 4  # of lines under a name


class Layers(str):
    """The heading of a column of layers' names."""


class Detail(str):
    """The heading of a column that is omitted if there is no room for it."""


class Words(str):
    """The heading of a column of text that is wrapped at blanks if it does not fit on one line."""


@dataclass(frozen=True)
class _Table:
    columns: list[str]
    rows: list[list[str]]
    right: list[bool]
    shortened: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def layers(self) -> int | None:
        return next((i for i, c in enumerate(self.columns) if isinstance(c, Layers)), None)

    def column(self, i: int) -> list[str]:
        return [row[i] for row in self.rows]

    def of(self, chosen: Sequence[int]) -> _Table:
        """The table of some of its columns."""
        return replace(
            self,
            columns=[self.columns[i] for i in chosen],
            rows=[[row[i] for i in chosen] for row in self.rows],
            right=[self.right[i] for i in chosen],
        )

    def without_last_detail(self) -> _Table | None:
        """The table without its last detail; None if it has none."""
        details = [i for i, c in enumerate(self.columns) if isinstance(c, Detail)]
        if not details:
            return None
        out = self.columns[details[-1]]
        chosen = [i for i in range(len(self.columns)) if i != details[-1]]
        return replace(self.of(chosen), left_out=(str(out), *self.left_out))

    def with_layers(self, names: Sequence[str]) -> _Table:
        """The table with other names of its layers."""
        at = self.layers
        rows = [[*row[:at], name, *row[at + 1 :]] for row, name in zip(self.rows, names, strict=True)]
        return replace(self, rows=rows, shortened=self.shortened or rows != self.rows)


def lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
    width: int | None = None,
    note: bool = True,
) -> list[str]:
    """The lines of a table.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : sequence of sequences of str
        Numbers as they are printed.
    right : sequence of bool
        Which columns are numbers.
    width : int, optional
        Characters of a line. None: no terminal, all on one line, whole.
    note : bool
        Add a last line that says what was shortened or omitted.
    """
    table = _Table(list(columns), [list(row) for row in rows], list(right))
    if width is None:
        return _grid(table)
    found, table = _fitted(table, width)
    said = ["names are shortened"] * table.shortened + [f"left out: {', '.join(table.left_out)}"] * bool(table.left_out)
    if said and note:
        found += wrapped(f"({'; '.join(said)}; a wider terminal, a pipe or --json has all)", width)
    return found


def _fitted(table: _Table, width: int) -> tuple[list[str], _Table]:
    whole = table
    while table is not None:
        for one, heads in ((table, False), (table, True), (_shorter(table, width), True)):
            found = _grid(one, heads)
            if max(map(len, found)) <= width:
                return found, one
        table = table.without_last_detail()
    return _stacked(whole, width) or _turned(whole, width)


def _shorter(table: _Table, width: int) -> _Table:
    """The table with names as short as necessary."""
    if table.layers is None:
        return table
    others = table.of([i for i in range(len(table.columns)) if i != table.layers])
    room = width - (max(map(len, _grid(others, True)), default=-GAP) + GAP)
    return table.with_layers(short_titles(table.column(table.layers), room))


def _grid(table: _Table, heads: bool = False) -> list[str]:
    """Columns side by side; ``heads``: headings may take several lines."""
    broken = [str(c).split(" ") if heads else [str(c)] for c in table.columns]
    inner = [max((len(row[i]) for row in table.rows), default=0) for i in range(len(table.columns))]
    widths = [max(each, *map(len, head)) for each, head in zip(inner, broken, strict=True)]
    heading = [_joined(str(c), w) if heads else [str(c)] for c, w in zip(table.columns, widths, strict=True)]
    tall = max(map(len, heading), default=0)
    top = [[""] * (tall - len(head)) + head for head in heading]
    return [_line(cells, widths, table.right) for cells in (*zip(*top, strict=True), *table.rows)]


def _joined(heading: str, width: int) -> list[str]:
    """A heading on as few lines as its column's width allows."""
    return textwrap.wrap(heading, max(1, width), break_long_words=False, break_on_hyphens=False) or [""]


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
    return (" " * GAP).join(padded).rstrip()


def _stacked(whole: _Table, width: int) -> tuple[list[str], _Table] | None:
    """Text on a line, numbers under it; None if the numbers alone are too wide, or if there is no text."""
    details = [i for i, c in enumerate(whole.columns) if isinstance(c, Detail)]
    words = [i for i, c in enumerate(whole.columns) if isinstance(c, Words)]
    texts = [i for i, r in enumerate(whole.right) if not r and i not in (*details, *words)]
    numbers = whole.of([i for i, r in enumerate(whole.right) if r and i not in (*details, *words)])
    grid = _grid(numbers, True) if numbers.columns else []
    indent = min(INDENT, width - max(map(len, grid), default=0))
    if indent < 0 or not texts or (not grid and not words):
        return None
    table = replace(whole, left_out=tuple(str(whole.columns[i]) for i in details))
    if whole.layers is not None:
        others = max((sum(len(row[i]) + GAP for i in texts if i != whole.layers) for row in whole.rows), default=0)
        table = table.with_layers(short_titles(whole.column(whole.layers), width - others))
    heads = ["  ".join(filter(None, (row[i] for i in texts))) for row in table.rows]
    short = cut(heads, width)
    found = wrapped("  ".join(str(whole.columns[i]) for i in texts if whole.columns[i]), width)
    tall = len(grid) - len(whole.rows) if grid else 0
    found += [" " * indent + line for line in grid[:tall]]
    for number, (row, head) in enumerate(zip(table.rows, short, strict=True)):
        found += [head] if head else []
        found += [" " * indent + grid[tall + number]] if grid else []
        for i in words:
            found += [" " * INDENT + line for line in wrapped(row[i], max(1, width - INDENT))]
    return found, replace(table, shortened=table.shortened or short != heads)


def _turned(whole: _Table, width: int) -> tuple[list[str], _Table]:
    """A line for each column of the table, and a column for as many of its rows as fit; then the next rows."""
    table = whole
    while (fewer := table.without_last_detail()) is not None:
        table = fewer
    head = max(map(len, table.columns), default=0)
    room = max(1, width - head - GAP)
    if table.layers is not None:
        table = table.with_layers(cut(short_titles(table.column(table.layers), min(room, 20)), room))
    found: list[str] = []
    left = list(table.rows)
    while left:
        widths: list[int] = []
        for row in left:
            each = max(map(len, row), default=0)
            if widths and head + sum(w + GAP for w in (*widths, each)) > width:
                break
            widths.append(each)
        chunk, left = left[: len(widths)], left[len(widths) :]
        found += [""] * bool(found)
        for i, column in enumerate(table.columns):
            cells = [str(column), *(row[i] for row in chunk)]
            found.append(_line(cells, [head, *widths], [False, *[True] * len(widths)]))
    return found, table


def wrapped(text: str, width: int | None, indent: int = 0) -> list[str]:
    """Text as lines of a terminal, broken at blanks alone so that no number is; what follows the first is indented.

    Blanks between the words of a line stay as they are. ``width`` None: as it is.
    """
    if width is None or len(text) <= width:
        return [text]
    indent = indent if indent < width // 2 else 0
    return textwrap.wrap(
        text,
        max(1, width),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [""]
