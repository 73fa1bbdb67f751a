"""One page: a heading, a summary, charts and tables; HTML, styles and scripts in one self-contained file.

The page's Content-Security-Policy forbids it to load other files. Without JavaScript the text and the tables are
visible, and a line says that charts need it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path

from tvm_mobilenet.files.whole_file import write_whole
from tvm_mobilenet.report import vega
from tvm_mobilenet.report.vega import Chart
from tvm_mobilenet.terminal import console
from tvm_mobilenet.terminal.printable import printable

MOST_BYTES = 1_500_000  # largest size of a page
COLUMN = 10  # column at which text beside a word begins
LONG = 30  # characters of a cell that may take several lines
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data:"


@dataclass(frozen=True)
class Table:
    """A table that sorts by any of its columns.

    Attributes
    ----------
    rows : sequence of sequences
        Texts and numbers; None is shown as ``-``.
    bold : set of str
        The first cells of highlighted rows.
    decimals : bool
        Whether a column's numbers get as many decimals as its smallest number needs for three digits.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence]
    words: str = ""
    bold: frozenset[str] = frozenset()
    decimals: bool = False


@dataclass(frozen=True)
class Words:
    """A heading with paragraphs."""

    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Markup:
    """HTML, in which foreign text is escaped already."""

    title: str
    html: str


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes
    ----------
    summary : sequence of (str, str)
        Lines under the heading: a word and its text.
    parts : sequence of Chart, Table, Words or Markup
        The parts in order; consecutive charts stand side by side on a wide screen.
    notes : sequence of str
        Warnings about the figures.
    """

    title: str
    summary: Sequence[tuple[str, str]]
    parts: Sequence[Chart | Table | Words | Markup]
    notes: Sequence[str] = ()

    def html(self, charts: bool = True) -> str:
        """The page; ``charts=False`` omits charts and the scripts that draw them."""
        parts = [part for part in self.parts if charts or not isinstance(part, Chart)]
        drawn = any(isinstance(part, Chart) for part in parts)
        notes = "".join(f'<p class="note" role="note">{_text(line)}</p>\n' for line in self.notes)
        missing = [part.title for part in self.parts if isinstance(part, Chart)] if not charts else []
        if missing:
            why = "Charts need the extra [report] where the page is made (docs/guides/installing.md). Left out: "
            notes += f'<p class="note" role="note">{_text(why + ", ".join(missing))}.</p>\n'
        code = [f"<script>/*!\n{_file('notices.txt')}*/\n{vega.script()}</script>\n"] if drawn else []
        code.append(f"<script>{_file('page.js')}</script>\n")
        by = f" Charts: {vega.notice()}; their licences are in the page's source." if drawn else ""
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
            f'<meta name="color-scheme" content="light dark">\n<title>{_text(self.title)}</title>\n'
            f"<style>{_file('page.css')}</style>\n</head>\n<body>\n<main>\n<h1>{_text(self.title)}</h1>\n"
            f"{_summary(self.summary)}{notes}{_parts(parts)}</main>\n"
            f"<footer>Written by tvm_mobilenet.{by}</footer>\n{''.join(code)}</body>\n</html>\n"
        )

    def write(self, path: Path, flag: str, charts: bool = True) -> None:
        """Write it, completely or not at all.

        Raises
        ------
        TvmMobilenetError
            It cannot be written there; ``flag`` is the flag that the user may change.
        """
        write_whole(path, self.html(charts), flag)


def _summary(lines: Sequence[tuple[str, str]]) -> str:
    found = "".join(f"<dt>{_text(word)}</dt><dd>{_text(text)}</dd>\n" for word, text in lines)
    return f'<dl class="summary">\n{found}</dl>\n'


def printed(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Printed lines of verbs for a summary: a word in the first ten columns, or blanks there, or text alone."""
    found = []
    for line in lines:
        head, text = line[:COLUMN], line[COLUMN:]
        word = head.strip()
        known = bool(text) and head.endswith(" ") and " " not in word
        found.append((word, text.strip()) if known else ("", line.strip()))
    return found


def _parts(parts: Sequence) -> str:
    """The parts, with consecutive charts in a grid."""
    found, grid = [], []
    for part in [*parts, None]:
        if isinstance(part, Chart) and not part.wide:
            grid.append(_chart(part))
            continue
        if grid:
            found.append(f'<div class="charts{" two" * (len(grid) > 1)}">\n{"".join(grid)}</div>\n')
            grid = []
        if part is not None:
            found.append({Chart: _chart, Table: _table, Words: _words, Markup: _markup}[type(part)](part))
    return "".join(found)


def _chart(chart: Chart) -> str:
    data = {
        "name": chart.name,
        "each": chart.each,
        "columns": list(chart.columns),
        "rows": [[float(f"{v:.6g}") if isinstance(v, float) else v for v in row] for row in chart.rows],
        "spec": chart.specification(),
    }
    return (
        f'<section class="drawn">\n<h2>{_text(chart.title)}</h2>\n<p>{_text(chart.words)}</p>\n'
        f'<div class="chart{" many" * bool(chart.each)}"><noscript>Charts need JavaScript.</noscript></div>\n'
        f'<script type="application/json">{_in_script(data)}</script>\n</section>\n'
    )


def _table(table: Table) -> str:
    """A table whose cells hold their sort keys."""
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    number = [any(_is_number(v) for v in c) and all(v is None or v == "-" or _is_number(v) for v in c) for c in columns]
    shown = [_aligned(c) if table.decimals else [_shown(v) for v in c] for c in columns]
    head = "".join(
        f'<th scope="col"{" class=number" * right}><button type="button">{_text(c)}</button></th>'
        for c, right in zip(table.columns, number, strict=True)
    )
    lines = ""
    for i, row in enumerate(table.rows):
        cells = ""
        for value, texts, right in zip(row, shown, number, strict=True):
            key = f' data-value="{value!r}"' if _is_number(value) else ""
            kind = " class=number" if right else " class=long" if len(texts[i]) > LONG else ""
            cells += f"<td{kind}{key}>{_text(texts[i])}</td>"
        lines += f"<tr{' class=bold' * (str(row[0]) in table.bold)}>{cells}</tr>\n"
    title = _text(table.title)
    return (
        f"<section>\n<h2>{title}</h2>\n{f'<p>{_text(table.words)}</p>' if table.words else ''}\n"
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table class="sorts">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>\n</section>\n"
    )


def _words(words: Words) -> str:
    return (
        f"<section>\n<h2>{_text(words.title)}</h2>\n{''.join(f'<p>{_text(x)}</p>' for x in words.lines)}\n</section>\n"
    )


def _markup(markup: Markup) -> str:
    return f"<section>\n<h2>{_text(markup.title)}</h2>\n{markup.html}</section>\n"


def link(address: str) -> str:
    """A source as HTML, which is a link for an address."""
    return f'<a href="{escape(address)}">{_text(address)}</a>' if address.startswith("http") else _text(address)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else console.number(value)


def _aligned(column: Sequence) -> list[str]:
    """A column's cells: numbers with as many decimals as give the smallest three digits, so that they align."""
    sizes = [abs(v) for v in column if isinstance(v, float) and v]
    decimals = max(0, 2 - math.floor(math.log10(min(sizes)))) if sizes else 0
    return [f"{v:,.{decimals}f}" if isinstance(v, float) else _shown(v) for v in column]


def _text(text: object) -> str:
    """Foreign text, escaped for HTML."""
    return escape(printable(str(text)))


def _in_script(data: object) -> str:
    """Data as JSON that cannot end its script element."""
    text = json.dumps(console.plain_data(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


@functools.cache
def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
