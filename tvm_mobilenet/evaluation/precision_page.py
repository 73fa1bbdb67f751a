"""What layers in float cost and gain: accuracy against predicted cycles, as one HTML file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path

from tvm_mobilenet.evaluation.sensitivity import Choice, Point, floats_of, keeping
from tvm_mobilenet.files.whole_file import write_whole
from tvm_mobilenet.survey import report

MOST_POINTS = 8  # each is compiled and executed whole


def with_cycles(
    choice: Choice, network, target, linker: str | None = None, show: Callable = lambda line: None
) -> Choice:
    """A choice with the predicted cycles of the networks on its way, conversions included.

    Of networks with as many layers in float the most accurate is estimated. They are at most `MOST_POINTS` in all, the
    first, the last and the chosen one always.

    Parameters
    ----------
    network : Network
        In int8; its options say in which float layers are kept.
    target : targets.Target
        Whose cycles are predicted.
    """
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.compiler import pipeline
    from tvm_mobilenet.compiler.network import with_decided
    from tvm_mobilenet.survey.estimates import executed

    points, floats = shown(choice), floats_of(network)
    found: dict[tuple, Point] = {}
    with open_board("virtual", target) as board:
        for point in points:
            show(lambda: f"predicting cycles: {len(found)} of {len(points)} networks")
            decided = keeping(network, {name: floats[name] for name in point.kept})
            model = pipeline.compile(with_decided(network, decided), target)
            _, one, _, _ = executed(model, board, linker)
            found[point.kept] = replace(point, cycles=float(one.value))
    every = tuple(found.get(point.kept, point) for point in choice.points)
    return replace(choice, points=every, chosen=found[choice.chosen.kept])


def shown(choice: Choice) -> list[Point]:
    """The points that are plotted, those with the fewest layers in float first."""
    best: dict[int, Point] = {}
    for point in choice.points:
        known = best.get(len(point.kept))
        if known is None or point.drop < known.drop:
            best[len(point.kept)] = point
    best[len(choice.chosen.kept)] = choice.chosen
    points = [best[count] for count in sorted(best)]
    while len(points) > MOST_POINTS:  # the one between the nearest neighbours says least
        inner = [i for i in range(1, len(points) - 1) if points[i] != choice.chosen]
        points.pop(min(inner, key=lambda i: len(points[i + 1].kept) - len(points[i - 1].kept)))
    return points


def write(choice: Choice, title: str, target, path: Path) -> None:
    """Write the page of a choice `with_cycles`."""
    write_whole(path, html(choice, title, target), "--plot")


def html(choice: Choice, title: str, target) -> str:
    """The page: the plot, the networks in it, what each layer costs."""
    points = [point for point in choice.points if point.cycles is not None]
    what = "top-1, %" if choice.labelled else "images of the float network's class, %"
    rows = [
        (len(p.kept), f"{100 * p.accuracy:.2f}", f"{100 * p.drop:.2f}", f"{p.cycles:,.0f}", _mark(p, choice))
        for p in points
    ]
    columns = ("layers in float", what, "drop, %", "cycles predicted, 1 core", "")
    kept = set(choice.chosen.kept)
    costs = [(c.layer, c.source, f"{100 * c.share:.2f}", "float" if c.layer in kept else "int8") for c in choice.costs]
    heading = escape(f"{title} for {target.name}: layers that stay in float")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{report.STYLE}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n"
        f"<p>{escape(choice.summary())}.</p>\n<section>\n{plot(choice, points, what)}</section>\n"
        f"{_table(columns, rows)}<h2>What each layer's int8 costs</h2>\n"
        f"{_table(('layer', 'from', 'share of the error, %', 'computed in'), costs)}</body>\n</html>\n"
    )


def plot(choice: Choice, points: list[Point], what: str) -> str:
    """Accuracy against predicted cycles, as SVG."""
    marks = [
        report.Point(
            point.cycles / 1e6,
            100 * point.accuracy,
            "chosen" if point == choice.chosen else "others",
            f"{len(point.kept)} layers",
            f"{len(point.kept)} layers in float: {point.accuracy:.2%}, {point.cycles / 1e6:.2f} M cycles",
        )
        for point in points
    ]
    axes = report.Axes(marks, "M cycles predicted, 1 core", what)
    return axes.svg([], marks, {mark.name for mark in marks})


def _mark(point: Point, choice: Choice) -> str:
    return "chosen" if point == choice.chosen else ""


def _table(columns: tuple[str, ...], rows: list[tuple]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>\n'
