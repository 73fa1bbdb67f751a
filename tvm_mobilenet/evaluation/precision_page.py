"""The page of layers in float: accuracy against predicted cycles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tvm_mobilenet.evaluation.sensitivity import Choice, Point, keeping
from tvm_mobilenet.report import vega
from tvm_mobilenet.report.page import Page, Table

MOST_POINTS = 8  # each is compiled and executed whole


def with_cycles(
    choice: Choice,
    network,
    floats: Mapping[str, str],
    target,
    linker: str | None = None,
    show: Callable = lambda line: None,
) -> Choice:
    """A choice with the predicted cycles of the networks that it tried, conversions included.

    Among networks with equally many layers in float only the most accurate is estimated. At most `MOST_POINTS` are,
    always with the first, the last and the chosen one.

    Parameters
    ----------
    network : Network
        A network in int8.
    floats : mapping of str to str
        Its `sensitivity.floats_of`.
    target : targets.Target
        The target of the predicted cycles.
    """
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.compiler import pipeline
    from tvm_mobilenet.compiler.network import with_decided
    from tvm_mobilenet.survey.estimates import executed

    points = shown(choice)
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
    while len(points) > MOST_POINTS:  # drop the one between the nearest neighbours, which shows least
        inner = [i for i in range(1, len(points) - 1) if points[i] != choice.chosen]
        points.pop(min(inner, key=lambda i: len(points[i + 1].kept) - len(points[i - 1].kept)))
    return points


def page(choice: Choice, title: str, target) -> Page:
    """The page of a choice `with_cycles`: the chart, its networks, the cost of each layer."""
    points = [point for point in choice.points if point.cycles is not None]
    what = "top-1, %" if choice.labelled else "images of the float network's class, %"
    rows = [
        (len(p.kept), 100 * p.accuracy, 100 * p.drop, p.cycles, "chosen" if p == choice.chosen else "") for p in points
    ]
    columns = ("layers in float", what, "drop, %", "cycles predicted, 1 core", "")
    kept = set(choice.chosen.kept)
    costs = [(c.layer, c.source, 100 * c.share, "float" if c.layer in kept else "int8") for c in choice.costs]
    return Page(
        f"{title} for {target.name}: layers that stay in float",
        [("", f"{choice.summary()}.")],
        [
            chart(choice, points, what, f"{title} {target.name}".replace(" ", "-")),
            Table("The networks", columns, rows),
            Table("Cost of int8 in each layer", ("layer", "from", "share of the error, %", "computed in"), costs),
        ],
    )


def chart(choice: Choice, points: list[Point], what: str, name: str) -> vega.Chart:
    """Accuracy against predicted cycles."""
    rows = [
        (len(p.kept), 100 * p.accuracy, p.cycles / 1e6, "chosen" if p == choice.chosen else "others") for p in points
    ]
    x = vega.quantitative("million_cycles", "M cycles predicted, 1 core", scale={"zero": False, "padding": 30})
    y = vega.quantitative("accuracy_percent", what, scale={"zero": False, "padding": 20})
    tips = {"layers_in_float": "layers in float", "accuracy_percent": f"{what}|.2f"}
    series = list(dict.fromkeys(row[3] for row in rows))
    marks = {"color": vega.colours("series", series), "shape": vega.shapes("series", series)}
    told = vega.tooltip(**tips, million_cycles="M cycles|,.4~r")
    spec = {
        "layer": [
            {"mark": "point", "encoding": {"x": x, "y": y, **marks, "tooltip": told}},
            {
                "mark": {"type": "text", "dy": -12},
                "encoding": {"x": x, "y": y, "text": {"field": "layers_in_float", "type": "quantitative"}},
            },
        ]
    }
    words = "Up and to the left is better. A number counts the layers that stay in float."
    columns = ("layers_in_float", "accuracy_percent", "million_cycles", "series")
    return vega.Chart("Accuracy and predicted cycles", f"{name}-precision", columns, rows, spec, words)
