"""The page of a profile: the roofline, layers in order, and the arena over time."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet.compiler.plan import Plan
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.measuring.layer_profile import Profile
from tvm_mobilenet.measuring.roofline import CEILINGS, Ceilings, ceilings, operand_bytes
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.report import vega
from tvm_mobilenet.report.page import Page, Table
from tvm_mobilenet.terminal.titles import short_titles

KIB = 1 << 10
GIGA = 1e9


def page(result: Profile, module, target) -> Page:
    """The page of a profile of a built module on a target."""
    title = f"{ModelOptions.from_data(result.model).title} on {result.target}, layer by layer"
    threads = vega.counted(result.threads, "thread")
    least = sum(x.roofline.seconds for x in result.layers)
    summary = [
        ("board", f"{result.board}, {result.how} on {threads}"),
        ("whole", f"{result.seconds * 1e3:.4g} ms, {result.seconds / least:.2f} x the roofline"),
    ]
    most = ceilings(module.plan, target, result.threads, result.environment["board"].get("clock_hz"))
    parts = [roofline_chart(result, module.plan, most), memory_chart(result, module.plan), layers_chart(result)]
    return Page(title, summary, [*(part for part in parts if part), _table(result)], result.notes)


def layers_chart(result: Profile) -> vega.Chart:
    """Layers in order: milliseconds, split into compute and memory if predicted, else coloured by the ceiling that
    binds."""
    split = result.is_predicted and all(x.predicted_compute is not None for x in result.layers)
    rows = []
    for x, name in zip(result.layers, names_of(result), strict=True):
        compute = x.predicted_compute if split else None
        memory = max(0.0, x.seconds - compute) if split else None
        times = (x.seconds, x.roofline.seconds, compute, memory, None if result.is_predicted else x.predicted)
        rows.append((name, *(None if t is None else t * 1e3 for t in times), x.binds))
    columns = ("layer", "ms", "roofline_ms", "compute_ms", "memory_ms", "predicted_ms", "binds")
    parts = ["compute", "memory"] if split else [b for b in CEILINGS if any(r[-1] == b for r in rows)]
    beside = not result.is_predicted and all(x.predicted is not None for x in result.layers)
    ticks = {"roofline": vega.INK} | ({"predicted": vega.COLOURS[7]} if beside else {})
    scale = {"domain": [*parts, *ticks], "range": [*vega.COLOURS[: len(parts)], *ticks.values()]}
    colour = {"type": "nominal", "title": None, "sort": None, "scale": scale}
    x, y = vega.quantitative("ms", f"ms {result.how}", stack="zero"), vega.names("layer")
    tips = {"layer": "layer", "ms": "ms|.3~r", "roofline_ms": "roofline, ms|.3~r"}
    tips |= {"compute_ms": "compute, ms|.3~r", "memory_ms": "memory, ms|.3~r"} if split else {"binds": "bound by"}
    told = vega.tooltip(**tips, **({"predicted_ms": "predicted, ms|.3~r"} if beside else {}))
    bar = {"mark": vega.BAR}
    if split:
        fold = [{"fold": ["compute_ms", "memory_ms"], "as": ["field", "part_ms"]}]
        bar["transform"] = [*fold, {"calculate": "replace(datum.field, '_ms', '')", "as": "part"}]
    seconds = {**x, "field": "part_ms" if split else "ms"}
    colours = {**colour, "field": "part" if split else "binds"}
    bar["encoding"] = {"x": seconds, "y": y, "color": colours, "tooltip": told}
    marks = [
        {
            "mark": {"type": "tick", "thickness": 2, "height": vega.ROW - 4},
            "encoding": {
                "x": vega.quantitative(f"{name}_ms", x["title"]),
                "y": y,
                "color": {**colour, "datum": name},
                "tooltip": told,
            },
        }
        for name in ticks
    ]
    words = "Layers in the order in which they run. "
    words += "Bars are compute and memory cycles, stacked" if split else "Colours tell which ceiling is the lowest"
    words += ". The tick is the roofline, a lower bound of the layer's time."
    spec = {"height": vega.ROW * len(rows), "layer": [bar, *marks]}
    return vega.Chart("Layers in order", f"{_slug(result)}-layers", columns, rows, spec, words, wide=True)


def roofline_chart(result: Profile, plan: Plan, most: Ceilings) -> vega.Chart | None:
    """Multiply-adds a second against multiply-adds a byte, under the target's ceilings."""
    rows = []
    for x, step, name in zip(result.layers, plan.steps, names_of(result), strict=True):
        if x.mult_adds and x.seconds:
            rate = x.mult_adds / x.seconds / GIGA
            rows.append((name, x.kind, x.mult_adds / operand_bytes(step), rate, x.seconds * 1e3, x.binds))
    if not rows:
        return None
    kinds = list(dict.fromkeys(row[1] for row in rows))
    first, last = min(row[2] for row in rows) / 2, max(row[2] for row in rows) * 2
    lines, names = [], []
    top = max(most.macs.values()) / GIGA
    for dtype, macs in most.macs.items():
        lines += [(f"peak {dtype}", at, macs / GIGA) for at in (first, last)]
        names.append((f"peak, {dtype}", last, macs / GIGA, "right", -8))
    for name, rate in (("L1 fill", most.cache), ("DRAM", most.dram)):
        if rate:
            end = min(last, top * GIGA / rate)
            if end > first:
                lines += [(name, at, at * rate / GIGA) for at in (first, end)]
                names.append((f"{name}, {rate / GIGA:.3g} GB/s", first, first * rate / GIGA, "left", 14))
    log = {"type": "log", "nice": False}
    low = min(*(row[3] for row in rows), *(rate for _, _, rate in lines)) / 1.6
    x = vega.quantitative("macs_a_byte", "multiply-adds a byte of operands", scale={**log, "domain": [first, last]})
    y = vega.quantitative("gmacs", f"G multiply-adds a second, {result.how}", scale={**log, "domain": [low, top * 1.6]})
    fields = ("ceiling", "macs_a_byte", "gmacs")
    ceiling = {
        "data": {"values": [dict(zip(fields, line, strict=True)) for line in lines]},
        "mark": {"type": "line", "stroke": vega.INK, "strokeWidth": 1.4},
        "encoding": {"x": x, "y": y, "detail": {"field": "ceiling"}},
    }
    labels = [
        {
            "data": {"values": [{"ceiling": name, "macs_a_byte": at, "gmacs": rate}]},
            "mark": {"type": "text", "align": side, "dy": down, "dx": 8 if side == "left" else -2},
            "encoding": {"x": x, "y": y, "text": {"field": "ceiling"}},
        }
        for name, at, rate, side, down in names
    ]
    tips = {"layer": "layer", "kind": "kind", "macs_a_byte": "multiply-adds a byte|.3~r", "gmacs": "G a second|.3~r"}
    points = {
        "mark": "point",
        "encoding": {
            "x": x,
            "y": y,
            "color": vega.colours("kind", kinds),
            "shape": vega.shapes("kind", kinds),
            "tooltip": vega.tooltip(**tips, ms="ms|.3~r", binds="bound by"),
        },
    }
    words = (
        "A layer on a ceiling cannot be faster. Level line: the peak rate of multiply-adds. Sloped lines: the rate if "
        "each operand moves once, into the L1 or from DRAM; DRAM bounds operands that no cache keeps."
    )
    columns = ("layer", "kind", "macs_a_byte", "gmacs", "ms", "binds")
    spec = {"layer": [ceiling, *labels, points]}
    return vega.Chart("Roofline", f"{_slug(result)}-roofline", columns, rows, spec, words, height=360)


@dataclass(frozen=True)
class Life:
    """A tensor in the arena: the step that writes it, its place, and the last step that reads it."""

    step: int
    offset: int
    nbytes: int
    last: int


def lives(plan: Plan) -> list[Life]:
    """The tensors of a plan's arena, in the order in which they are written."""
    now: dict[int, Life] = {}
    found: list[Life] = []
    for i, step in enumerate(plan.steps):
        *reads, written = step.operands
        for tensor in reads:
            if tensor.space == "arena" and tensor.offset in now:
                old = now[tensor.offset]
                now[tensor.offset] = Life(old.step, old.offset, old.nbytes, i)
        if written.space != "arena":
            continue
        old = now.get(written.offset)
        if old and old.nbytes == written.nbytes and Layer.parse(step.layer).output_place.part:
            now[written.offset] = Life(old.step, old.offset, old.nbytes, i)  # the next part of one tensor
            continue
        found += [old] if old else []
        now[written.offset] = Life(i, written.offset, written.nbytes, i)
    return sorted([*found, *now.values()], key=lambda life: life.step)


def memory_chart(result: Profile, plan: Plan) -> vega.Chart | None:
    """The arena over time: each tensor from the step that writes it to the last that reads it."""
    tensors, names = lives(plan), names_of(result)
    if not tensors:
        return None
    alive = [sum(t.nbytes for t in tensors if t.step <= i <= t.last) for i in range(len(plan.steps))]
    peak = alive.index(max(alive))
    rows = [
        (
            names[t.step],
            t.step,
            t.last + 1,
            t.offset / KIB,
            (t.offset + t.nbytes) / KIB,
            t.nbytes / KIB,
            "at the peak" if t.step <= peak <= t.last else "other steps",
        )
        for t in tensors
    ]
    columns = ("layer", "first_step", "end_step", "from_kib", "to_kib", "kib", "alive")
    x = vega.quantitative("first_step", "step", axis={"tickMinStep": 1, "grid": False})
    y = vega.quantitative("from_kib", "offset in the arena, KiB")
    tips = {"layer": "written by", "first_step": "from step", "end_step": "until step", "kib": "KiB|,.4~r"}
    boxes = {
        "mark": {"type": "rect", "stroke": "var(--paper, #ffffff)", "strokeWidth": 1},
        "encoding": {
            "x": x,
            "x2": {"field": "end_step"},
            "y": y,
            "y2": {"field": "to_kib"},
            "color": vega.colours("alive", ["at the peak", "other steps"]),
            "tooltip": vega.tooltip(**tips),
        },
    }
    boxes["encoding"]["color"]["scale"]["range"] = [vega.COLOURS[1], vega.COLOURS[0]]
    whole = {
        "mark": {"type": "rule", "strokeDash": [5, 4]},
        "encoding": {"y": {"datum": plan.arena_bytes / KIB, "type": "quantitative"}},
    }
    words = (
        "Each box is a tensor between layers, from the step that writes it to the last that reads it. At step "
        f"{peak} most is alive, {max(alive) / KIB:,.0f} KiB; the arena, dashed, has {plan.arena_bytes / KIB:,.0f} KiB."
    )
    title = "Memory plan over time"
    spec = {"layer": [boxes, whole]}
    return vega.Chart(title, f"{_slug(result)}-memory", columns, rows, spec, words, height=360)


def names_of(result: Profile) -> list[str]:
    """Names for the kernel calls: their place and their layers."""
    short = short_titles([x.layer for x in result.layers], vega.LABEL)
    return [f"{x.position} {name}" for x, name in zip(result.layers, short, strict=True)]


def _table(result: Profile) -> Table:
    beside = not result.is_predicted and all(x.predicted is not None for x in result.layers)
    columns = ["layer", "what", "ms", "share %", "GFLOPS", "x roofline", *(["predicted ms"] if beside else [])]
    rows = [
        (
            x.name,
            x.layer,
            x.seconds * 1e3,
            100 * x.share,
            x.gflops,
            x.multiple,
            *((x.predicted * 1e3,) if beside else ()),
            x.binds,
            x.source,
            " ".join(f"{k}={v}" for k, v in x.decisions.items()),
        )
        for x in result.layers
    ]
    return Table("The layers", (*columns, "binds", "from", "decisions"), rows, decimals=True)


def _slug(result: Profile) -> str:
    return f"{ModelOptions.from_data(result.model).slug}-{result.target}"
