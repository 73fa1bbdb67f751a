"""Display of results in programs and notebooks: the tables and lines that a verb prints, as text and as HTML.

Objects get ``__str__`` for `print`, ``__repr__`` with one line, and ``_repr_html_`` for Jupyter. The notebook chooses
styles, since it knows light and dark mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from tvm_mobilenet.terminal import console


def table(columns: Sequence[str], rows: Sequence[Sequence], title: str = "") -> str:
    """A table of text and numbers, numbers to the right."""
    cells = [[cell if isinstance(cell, str) else console.number(cell) for cell in row] for row in rows]
    right = console.numeric(cells, len(columns))
    head = "".join(f"<th>{escape(str(c))}</th>" for c in columns)
    side = ["right" if number else "left" for number in right]
    body = ""
    for row in cells:
        each = zip(row, side, strict=True)
        body += "<tr>" + "".join(f'<td style="text-align:{at}">{escape(c)}</td>' for c, at in each) + "</tr>"
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def shows(
    kind: type, about: Callable[[object], str], chart: Callable[[object], str] | None = None
) -> Callable[[Callable], Callable]:
    """A decorator: the function that prints results of a kind also shows them in notebooks.

    Parameters
    ----------
    kind : type
        It gets ``__str__`` and ``_repr_html_`` with the function's output by `console.print_table` and
        `console.print_text`.
    about : callable
        A result in a few words, for ``__repr__``.
    chart : callable, optional
        Returns SVG or HTML of a result, which comes first.
    """

    def register(show: Callable) -> Callable:
        def as_html(self: object) -> str:
            with console.captured() as parts:
                show(self)
            found = [chart(self)] if chart else []
            found += [table(*part) if isinstance(part, tuple) else f"<pre>{escape(part)}</pre>" for part in parts]
            return "\n".join(found)

        def as_text(self: object) -> str:
            with console.captured() as parts:
                show(self)
            return "\n".join(part if isinstance(part, str) else console.table_text(*part) for part in parts)

        def as_line(self: object) -> str:
            return f"<{kind.__name__}: {about(self)}; print it to see all>"

        kind._repr_html_, kind.__str__, kind.__repr__ = as_html, as_text, as_line
        return show

    return register
