"""Charts as Vega-Lite specifications, and the package that draws them.

Altair writes the same format. The package ``vl-convert-python`` (extra ``report``) holds Vega, Vega-Lite and Vega-Embed
and needs no network: `script` takes their JavaScript from it for pages, `svg` draws a chart for a notebook, where no
script runs.

Colours are CSS variables, so one drawing serves light and dark mode; their fallbacks are the colours of light mode.
They are Okabe and Ito's, darkened for a white background. No chart distinguishes two items by colour alone without an
order or a legend.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from tvm_mobilenet import packages
from tvm_mobilenet.errors import MissingDependencyError
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.files.user_cache import Collection

KEPT = Collection("scripts", 8 << 20)  # 0.8 MB for each version of the package
LIGHT = {  # colours of page.css, which also has those of dark mode
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
STILL_WIDTH, SMALL_HEIGHT = 560, 90  # pixels: width of a chart in a notebook, height of one of many small charts
ROW = 19  # height in pixels of a bar with its name
LABEL = 38  # characters of the name
BAR = {"type": "bar", "height": 12}  # pixels


@dataclass(frozen=True)
class Chart:
    """A chart with the numbers behind it.

    Attributes
    ----------
    name : str
        The name of the downloaded file of its numbers, without suffix.
    columns, rows : sequences
        The numbers. A name in ``columns`` is a field of the specification.
    spec : dict
        Vega-Lite without data, size and configuration.
    words : str
        An explanation of the chart.
    each : str
        A column: one small chart for each of its values, under that value as its title.
    height : int
        Height in pixels, unless ``spec`` has one.
    wide : bool
        Whether it is as wide as the page, while others stand side by side.
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
        """The complete specification without its data, for pages, as wide as its container."""
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
        """The numbers in Vega-Lite's form."""
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
    "axisX": {"labelBound": 10},  # pixels: a label that exceeds the chart by more is omitted
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
    """The JavaScript of Vega, Vega-Lite and Vega-Embed with their dependencies, as ``vegaEmbed``; it is joined once for
    each version of the package.
    """
    with TemporaryFolder() as folder:
        path, key = folder / "vega.js", f"vega-{version('vl-convert-python')}"
        if not KEPT.take(key, path):
            import vl_convert

            path.write_text(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"), encoding="utf-8")
            KEPT.keep(key, path)
        return path.read_text(encoding="utf-8")


@functools.cache
def notice() -> str:
    """The versions of the drawing libraries."""
    import vl_convert

    versions = (
        vl_convert.get_vega_version(),
        vl_convert.get_vegalite_versions()[-1],
        vl_convert.get_vega_embed_version(),
    )
    return "Vega {}, Vega-Lite {}, Vega-Embed {}".format(*versions)


def svg(chart: Chart) -> str:
    """A chart as SVG for a notebook; empty without the package."""
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
    """A channel of shapes for known names."""
    marks = [SHAPES[(i + i // len(COLOURS)) % len(SHAPES)] for i in range(len(domain))]
    return nominal(field, scale={"domain": list(domain), "range": marks})


def counted(count: int, what: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{count} {what}{'s' * (count != 1)}"


def tooltip(**fields: str) -> list[dict]:
    """The tooltip of a mark: the titles of fields, each ``title`` or ``title|format``."""
    found = []
    for field, text in fields.items():
        title, _, number = text.partition("|")
        found.append({"field": field, "title": title, **({"format": number} if number else {})})
    return found
