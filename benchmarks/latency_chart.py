"""The chart of `benchmarks.latency` as SVG: bars by board, precision and cores, light and dark, legible on a phone.

One column, 440 units wide with letters of 13 to 15: a phone shows it at about three quarters of that. Each board has
its own scale, and each bar its number, so there is no axis.
"""

from __future__ import annotations

from html import escape
from itertools import groupby

from tvm_mobilenet import targets

WIDTH, MARGIN, NAMES, NUMBERS = 440, 14, 116, 44  # of the picture, around it, of engines' names, of numbers
PITCH, BAR = 20, 12  # from bar to bar, and its height
STYLE = """
  svg { --card: #ffffff; --ink: #1f2328; --faint: #59636e; --line: #d1d9e0; --ours: #0969da; --other: #a8b3bf;
        --board: #bc4c00; }
  @media (prefers-color-scheme: dark) { svg { --card: #0d1117; --ink: #f0f6fc; --faint: #9198a1; --line: #3d444d;
        --ours: #4493f8; --other: #656c76; --board: #f0883e; } }
  text { font: 13px system-ui, -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif; fill: var(--ink); }
  .title { font-size: 15px; font-weight: 600; } .faint { fill: var(--faint); } .end { text-anchor: end; }
  .us { font-weight: 600; } .ours { fill: var(--ours); } .other { fill: var(--other); } .board { fill: var(--board); }
  .error { stroke: var(--ink); stroke-opacity: .55; fill: none; } .rule { stroke: var(--line); }
"""


def draw(rows, over: tuple[float, float]) -> str:
    """The picture.

    Parameters
    ----------
    rows : list of latency.Row
        In the order in which they are drawn.
    over : (float, float)
        Smallest and largest board's time over a prediction: the ends of the error bars.
    """
    out = _head(over)
    y = 160.0
    for board, of_board in groupby(rows, lambda row: row.board):
        group = list(of_board)
        target = targets.load(board)
        y += 12
        out.append(f'<line class="rule" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y}" y2="{y}"/>')
        y += 24
        clock = f"{target.core.title}, {target.clock_hz / 1e9:g} GHz"
        out.append(f'<text class="title" x="{MARGIN}" y="{y}">{escape(target.title)}</text>')
        out.append(f'<text class="faint end" x="{WIDTH - MARGIN}" y="{y}">{escape(clock)}</text>')
        longest = max(max([row.predicted or 0, *row.published]) for row in group)
        most = max([longest, *((row.predicted or 0) * over[1] for row in group)])
        unit = (WIDTH - 2 * MARGIN - NAMES - NUMBERS) / most
        for (dtype, cores), some in groupby(group, lambda row: (row.dtype, row.cores)):
            y += 22
            words = f"{dtype}, {cores} core{'s' if cores > 1 else ''}"
            out.append(f'<text class="faint" x="{MARGIN}" y="{y}">{words}</text>')
            y += 5
            for row in some:
                out += _bar(row, y, unit, over)
                y += PITCH
    return "\n".join(_frame(out, y + MARGIN)) + "\n"


def _head(over: tuple[float, float]) -> list[str]:
    """Title and legend."""
    low, high = (f"{(f - 1) * 100:+.0f} %".replace("-", "\N{MINUS SIGN}") for f in over)
    lines = (
        "Bars and their numbers are predicted: each engine's machine",
        "code was executed under emulation and estimated. Nobody",
        "has measured ours on a board. Each board has its own scale.",
    )
    out = [f'<text class="title" x="{MARGIN}" y="28">MobileNet v1 1.0-224: milliseconds an image</text>']
    out += [f'<text class="faint" x="{MARGIN}" y="{49 + 17 * k}">{line}</text>' for k, line in enumerate(lines)]
    x, y = MARGIN, 112
    out += [f'<rect class="ours" x="{x}" y="{y - 10}" width="20" height="{BAR}"/>']
    out += [f'<text x="{x + 27}" y="{y}">ours</text>']
    out += [f'<rect class="other" x="{x + 76}" y="{y - 10}" width="20" height="{BAR}"/>']
    out += [f'<text x="{x + 103}" y="{y}">another engine</text>']
    out += [_diamond(x + 220, y - 4), f'<text x="{x + 232}" y="{y}">published for real boards</text>']
    out += [
        _whisker(x, x + 20, y + 18),
        f'<text x="{x + 27}" y="{y + 22}">boards against predictions: {low} to {high}</text>',
    ]
    out += [f'<text class="faint" x="{x + 27}" y="{y + 39}">(12 published times of Pi 3B+, Zero 2 W and Pi 4)</text>']
    return out


def _bar(row, y: float, unit: float, over: tuple[float, float]) -> list[str]:
    ours = row.engine == "tvm_mobilenet"
    start, middle = MARGIN + NAMES, y + PITCH / 2
    out = [f'<text class="{"us" if ours else ""}" x="{MARGIN}" y="{middle + 4.5}">{escape(row.engine)}</text>']
    if row.predicted is not None:
        length, kind = row.predicted * unit, "ours" if ours else "other"
        out.append(
            f'<rect class="{kind}" x="{start}" y="{middle - BAR / 2}" width="{length:.1f}" height="{BAR}" rx="2"/>'
        )
        out.append(_whisker(start + length * over[0], start + length * over[1], middle))
    out += [_diamond(start + ms * unit, middle) for ms in row.published]
    number = f"{row.predicted:.1f}" if row.predicted is not None else f"{min(row.published):.1f}"
    kind = "board" if row.predicted is None else ""
    out.append(f'<text class="{kind} end" x="{WIDTH - MARGIN}" y="{middle + 4.5}">{number}</text>')
    return out


def _whisker(x1: float, x2: float, y: float) -> str:
    return f'<path class="error" d="M{x1:.1f} {y - 3}v6M{x1:.1f} {y}H{x2:.1f}M{x2:.1f} {y - 3}v6"/>'


def _diamond(x: float, y: float) -> str:
    return f'<path class="board" d="M{x:.1f} {y - 6}l5 6l-5 6l-5 -6z"/>'


def _frame(inside: list[str], height: float) -> list[str]:
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="Predicted milliseconds by board">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height:g}" rx="6" style="fill: var(--card)"/>',
        *inside,
        "</svg>",
    ]
