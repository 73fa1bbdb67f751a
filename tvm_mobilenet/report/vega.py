"""Charts as Vega-Lite specifications, and the package that draws them.

Vega-Lite is what Altair writes. The package ``vl-convert-python`` (extra ``report``) holds Vega, Vega-Lite and
Vega-Embed and needs no network: `script` takes their JavaScript from it for pages, `svg` draws a chart where no script
runs, in a notebook.

Colours are CSS variables, with those of light mode for whoever knows no variables, so one drawing serves light and
dark. They are Okabe and Ito's, darkened for white paper, and no chart tells two things by colour alone that stand
neither in order nor in a legend.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_mobilenet import packages
from tvm_mobilenet.errors import MissingDependencyError

LIGHT = {  # of page.css, which has those of dark mode as well
    "ink": "#1f2328",
    "quiet": "#59636e",
    "line": "#d1d9e0",
    "c1": "#0b66a8",
    "c2": "#c4651a",
    "c3": "#1b7f5c",
    "c4": "#a3407f",
    "c5": "#6a5fb0",
    "c6": "#8a6d00",
    "c7": "#2a8fb8",
    "c8": "#6b6b6b",
}
INK, QUIET, LINE, *COLOURS = (f"var(--{name}, {value})" for name, value in LIGHT.items())
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
STILL_WIDTH, SMALL_HEIGHT = 560, 90  # pixels: of a chart in a notebook, of one of many small ones
ROW = 19  # pixels of a bar with its name
LABEL = 38  # characters of such a name
BAR = {"type": "bar", "height": 12}  # pixels, of such a row


@dataclass(frozen=True)
class Chart:
    """A chart with the numbers behind it.

    Attributes
    ----------
    name : str
        Of the file that its numbers are downloaded as, without its ending.
    columns, rows : sequences
        The numbers. A name in ``columns`` is a field of the specification.
    spec : dict
        Vega-Lite without data, size and configuration.
    words : str
        What it shows and how to read it.
    each : str
        A column: one small chart for each of its values, under that value as its title.
    height : int
        Pixels, where ``spec`` does not say.
    wide : bool
        As wide as the page, where others stand side by side.
    """

    title: str
    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence]
    spec: dict
    words: str = ""
    each: str = ""
    height: int = 320
    wide: bool = False

    def specification(self) -> dict:
        """The whole, without its data: for pages, as wide as what it stands in."""
        height = {} if "height" in self.spec else {"height": SMALL_HEIGHT if self.each else self.height}
        return {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "description": f"{self.title}. {self.words}",
            "width": "container",
            "config": CONFIG,
            **height,
            **self.spec,
        }

    def values(self) -> list[dict]:
        """The numbers as Vega-Lite takes them."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


CONFIG = {
    "font": "system-ui, sans-serif",
    "background": None,
    "padding": {"left": 4, "right": 14, "top": 4, "bottom": 4},
    "view": {"stroke": None},
    "axis": {
        "labelColor": QUIET,
        "titleColor": INK,
        "gridColor": LINE,
        "domainColor": LINE,
        "tickColor": LINE,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelOverlap": "greedy",
        "labelSeparation": 6,
    },
    "axisX": {"labelBound": 10},  # pixels: a label that needs more beyond the chart is left out
    "axisY": {
        "titleAlign": "left",
        "titleAngle": 0,
        "titleAnchor": "end",
        "titleX": 0,
        "titleY": -10,
        "titleBaseline": "bottom",
    },
    "legend": {
        "labelColor": INK,
        "titleColor": INK,
        "title": None,
        "orient": "bottom",
        "direction": "horizontal",
        "labelFontSize": 12,
        "symbolStrokeColor": QUIET,
        "symbolOpacity": 1,
    },
    "text": {"fill": INK, "fontSize": 12},
    "rule": {"stroke": QUIET},
    "line": {"stroke": COLOURS[0], "strokeWidth": 2},
    "bar": {"fill": COLOURS[0]},
    "rect": {"fill": COLOURS[0]},
    "tick": {"fill": INK},
    "point": {"filled": True, "size": 70, "opacity": 0.9},
}


def require(what: str) -> None:
    """Make sure that charts can be drawn, before anything slow begins.

    Raises
    ------
    MissingDependencyError
        The package is not installed.
    """
    packages.require(what, *packages.for_pages(True))


@functools.cache
def script() -> str:
    """The JavaScript that draws: Vega, Vega-Lite and Vega-Embed with what they use, as ``vegaEmbed``."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


@functools.cache
def notice() -> str:
    """What was drawn with."""
    import vl_convert

    versions = (
        vl_convert.get_vega_version(),
        vl_convert.get_vegalite_versions()[-1],
        vl_convert.get_vega_embed_version(),
    )
    return "Vega {}, Vega-Lite {}, Vega-Embed {}".format(*versions)


def svg(chart: Chart) -> str:
    """A chart as it stands, for a notebook; empty without the package."""
    try:
        require("a chart")
    except MissingDependencyError:
        return ""
    import vl_convert

    spec = {**chart.specification(), "width": STILL_WIDTH, "data": {"values": chart.values()}}
    return vl_convert.vegalite_to_svg(json.dumps(spec))


def quantitative(field: str, title: str | None, **more) -> dict:
    """A channel of numbers."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def nominal(field: str, title: str | None = None, **more) -> dict:
    """A channel of names, in the order of the numbers."""
    return {"field": field, "type": "nominal", "title": title, "sort": None, **more}


def names(field: str) -> dict:
    """The vertical channel of bars with names beside them."""
    return nominal(
        field, axis={"labelColor": INK, "grid": False, "ticks": False, "domain": False, "labelOverlap": False}
    )


def colours(field: str, domain: Sequence[str], first: int = 0) -> dict:
    """A channel of colours for known names."""
    shades = [COLOURS[(first + i) % len(COLOURS)] for i in range(len(domain))]
    return nominal(field, scale={"domain": list(domain), "range": shades})


def shapes(field: str, domain: Sequence[str]) -> dict:
    """The same of shapes."""
    marks = [SHAPES[(i + i // len(COLOURS)) % len(SHAPES)] for i in range(len(domain))]
    return nominal(field, scale={"domain": list(domain), "range": marks})


def counted(count: int, what: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{count} {what}{'s' * (count != 1)}"


def tooltip(**fields: str) -> list[dict]:
    """What a mark says when it is pointed at: the titles of fields, each ``title`` or ``title|format``."""
    found = []
    for field, text in fields.items():
        title, _, number = text.partition("|")
        found.append({"field": field, "title": title, **({"format": number} if number else {})})
    return found
