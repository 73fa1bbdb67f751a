"""The dual-issue loop of a depthwise layer, as assembly. `in_order.pointwise` explains the pipeline of these cores.

A strip is up to four rows of outputs of one vector of channels. The loop slides along them with its taps in registers::

    for each column of the input under the strip
      for each row: one load, then an fmla into every output whose window covers it
      outputs that have all their taps: clamps, and a store beside an fmla

Each value is loaded once, in halves: ``ldr d``, ``ldr x`` beside an fmla, ``ins`` beside the next ``ldr d``. Three
things then take a cycle from fmla: one such load, one move of the bias, and the clamps. 3x3 with ReLU6 takes 54 cycles
for the 36 fmla of a column of four outputs at stride 1 (1.50 each), 66 at stride 2 (1.83); one row alone 15 and 18 for
9.

No vector load may issue four cycles after an fmla, so loads stand four cycles behind one another, and a chain of them
begins behind a move, a clamp or a cycle in which nothing is ready. `in_order.issue` finds such an order, cycle by
cycle. After some columns the cycles repeat, and the repeated cycles become the loop.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from tvm import tirx
from tvm_mobilenet.schedules import values
from tvm_mobilenet.schedules.choices import divisors
from tvm_mobilenet.schedules.in_order import pointwise as inorder
from tvm_mobilenet.schedules.in_order.issue import LOWER, PLACE, TEMPORARIES, TURNS, UPPER, Cycle, Issue, Strip

CLAMPS = {"none": (), "relu": ("fmaxnm",), "relu6": ("fmaxnm", "fminnm")}
# These depend on AArch64's registers and on how the loop is found, not on a core.
RINGS = (3, 4, 5, 6, 8, 9)  # registers of data: one in use, one to be filled, one or more on their way
POINTERS = 18  # integer registers that rows of input and output may take
TURN, LONG = 12, 36  # columns: a turn divides TURN; a strip longer than LONG is planned without some turns
CODE = 0.1  # weight of a cycle of code size beside a cycle of execution
UNITS = {  # V: of the two halves of vectors, L: loads and stores
    **dict.fromkeys(("fmla", "clamp", "move"), "VV"),
    **{"lower": "VL", "insert": "V", "upper": "L", "store": "L", "advance": ""},
}
NOP = "nop"


def refuse(strip: Strip) -> str:
    """The reason why a strip has no such loop, or the empty string."""
    need = strip.resident + strip.alive * len(strip.rows) + RINGS[0]
    if need > 32:
        return f"a strip of {len(strip.rows)} rows needs {need} registers"
    pointers = len(strip.input_rows) + len(strip.rows)
    if pointers > POINTERS:
        return f"a strip of {len(strip.rows)} rows needs {pointers} pointers"
    return "" if all(strip.rows) and all(strip.columns) else "outputs that read only padding"


def cycles(strip: Strip) -> float:
    """Cycles of a strip: those of its instructions, and those to fill the pipes, load the taps and drain."""
    sums = len(strip.rows) * len(strip.columns)
    fmla = sum(map(len, strip.rows)) * sum(map(len, strip.columns))
    columns = {j * strip.stride[1] + kw for j, taps in enumerate(strip.columns) for kw in taps}
    return fmla + len(strip.input_rows) * len(columns) + sums * (1 + len(strip.clamps)) + 2 * len(strip.taps) + 40


def filter_strip(strip: Strip, data, weight, bias, out, pitches: tuple[int, int]) -> None:
    """Compute a strip and write its row i from ``out(i)`` on, with a column every ``pitches[1]`` bytes.

    ``data(y, x)`` is an element of the input, with y and x counted from the start of the first window and columns
    ``pitches[0]`` bytes apart. ``weight(kh, kw)`` is the vector of a tap, ``bias`` the vector of the biases.
    """
    name, code = _function(strip)
    bounds = (values.broadcast(values.const(b, inorder.DTYPE.name), inorder.LANES) for b in _bounds(strip))
    vectors = [*(weight(*tap) for tap in strip.taps), bias, *bounds]
    elements = [*(data(y, strip.first_column) for y in strip.input_rows), *map(out, range(len(strip.rows)))]
    inorder.call(name, code, *vectors, *map(tirx.address_of, elements), *(tirx.const(p, "int64") for p in pitches))


def _bounds(strip: Strip) -> tuple[float, ...]:
    return (0.0, 6.0)[: len(strip.clamps)]


@dataclass(frozen=True)
class _Plan:
    """The cycles of a strip. Those from ``start`` to ``stop`` are one turn of a loop that runs ``turns`` times."""

    cycles: list[Cycle]
    start: int = 0
    stop: int = 0
    turns: int = 1

    @property
    def cost(self) -> float:
        return len(self.cycles) * (1 + CODE) + (self.stop - self.start) * (self.turns - 1)


@functools.cache
def _plan(strip: Strip) -> _Plan:
    """The better of two plans, with few registers of data and with many: they differ in how soon their cycles
    repeat.
    """
    left_out = max(0, len(strip.columns) - LONG + TURN - 1) // TURN * TURN
    middle = len(strip.columns) // 2
    short = replace(strip, columns=strip.columns[: middle - left_out // 2] + strip.columns[middle + left_out // 2 :])
    issues = [
        Issue(short, sets, ring)
        for sets in range(strip.alive, strip.alive + 3)
        for ring in RINGS
        if strip.resident + sets * len(strip.rows) + ring <= 32
    ]
    return min((plan for issue in issues for plan in _looped(issue, left_out)), key=lambda plan: plan.cost)


def _looped(issue: Issue, left_out: int) -> list[_Plan]:
    """A strip's cycles, with the repeated ones as a loop. The loop also runs for the columns that were left out."""
    cycles, rows = issue.run(), len(issue.strip.rows)
    numbers: dict[tuple, int] = {}  # cycles are equal if they do the same, relative to the column of the fmla
    keys = [
        tuple((i.text, None if i.column is None else i.column - at) for i in cycle)
        for cycle, at in zip(cycles, issue.at, strict=True)
    ]
    same = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    stores = np.array([bool(cycle) and cycle[-1].kind == "store" for cycle in cycles])
    fmla = np.array([bool(cycle) and cycle[0].kind == "fmla" for cycle in cycles])
    taps = sum(map(len, issue.strip.rows)) * max(map(len, issue.strip.columns))  # fmla of a column of outputs
    at = np.flatnonzero(stores)[::rows]
    found = [] if left_out else [_Plan(cycles)]
    for length in sorted({int(n) for columns in divisors(TURN) for n in at[columns:] - at[:-columns]}):
        differ = np.flatnonzero(np.append(same[:-length] != same[length:], True))
        starts = np.append(0, differ[:-1] + 1)
        longest = int((differ - starts).argmax())
        first, last = int(starts[longest]), int(differ[longest]) + length
        columns = int(stores[first : first + length].sum()) // rows
        if not columns or left_out % columns or fmla[first : first + length].sum() != columns * taps:
            continue  # these repeated cycles cannot be a turn of the loop
        for start in range(first, min(first + length, last - 2 * length + 1)):
            stop, turns = start + length, (last - start) // length
            if _control(cycles[start:stop]) is not None:
                left = cycles[:stop] + cycles[start + turns * length :]
                found.append(_Plan(left, start, stop, turns + left_out // columns))
                break
    return found


def _control(turn: list[Cycle]) -> int | None:
    """The position beside an fmla at which the turn can count, if it can branch beside its last fmla."""
    alone = [at for at, cycle in enumerate(turn) if len(cycle) == 1 and UNITS[cycle[0].kind] == "VV"]
    return alone[-2] if len(alone) > 1 and alone[-1] == len(turn) - 1 else None


def _text(plan: _Plan) -> str:
    """The assembly of a plan. An instruction that is alone in its cycle gets a nop if the next instruction would join
    it.
    """
    lines = [f"mov {LOWER}, #0", f"mov {UPPER}, #8", f"mov {PLACE}, #0", f"mov {TURNS}, #{plan.turns}"]
    last_load = max(at for at, cycle in enumerate(plan.cycles) if cycle and cycle[0].kind == "lower")
    count = plan.start + _control(plan.cycles[plan.start : plan.stop]) if plan.stop else None
    for at, (cycle, after) in enumerate(zip(plan.cycles, [*plan.cycles[1:], ()], strict=True)):
        issued = [i.text for i in cycle]
        if plan.stop and at == plan.start:
            lines.append("1:")
        if at == count:
            issued.append(f"subs {TURNS}, {TURNS}, #1")
        elif at == plan.stop - 1:
            issued.append("b.ne 1b")
        if at < last_load:
            issued += [NOP] * (2 - len(issued) if _joins(cycle, after) else 0)
        lines += issued
    return "\n".join(lines)


def _joins(cycle: Cycle, after: Cycle) -> bool:
    """Whether the instruction after a cycle could issue in it: the first of the next cycle, or a nop in its place."""
    units = "".join(UNITS[i.kind] for i in (*cycle, *after[:1]))
    return not after or (units.count("V") <= 2 and units.count("L") <= 1)


@functools.cache
def _function(strip: Strip) -> tuple[str, str]:
    """The name of a strip's loop, and its LLVM IR. The arguments are taps, bias, bounds, rows of input, rows of output,
    pitches.
    """
    vectors, pointers = strip.resident, len(strip.input_rows) + len(strip.rows)
    constraints = [f"{{v{n}}}" for n in range(vectors)] + ["r"] * (pointers + 2)
    constraints += [f"~{{v{n}}}" for n in range(vectors, 32)]
    constraints += [f"~{{{x}}}" for x in (LOWER, UPPER, PLACE, TURNS, *TEMPORARIES, "cc", "memory")]
    values = [f"<{inorder.LANES} x float> %v{n}" for n in range(vectors)]
    arguments = [*values, *(f"ptr %p{n}" for n in range(pointers)), "i64 %in", "i64 %out"]
    passed = [*values, *(f"i64 %a{n}" for n in range(pointers)), "i64 %in", "i64 %out"]
    name = f"mobilenet_strip_{strip.name}"
    lines = [
        f"define linkonce_odr hidden void @{name}({', '.join(arguments)}) alwaysinline nounwind {{",
        *(f"  %a{n} = ptrtoint ptr %p{n} to i64" for n in range(pointers)),
        f"  call void {inorder.assembly(_text(_plan(strip)), constraints)}({', '.join(passed)})",
    ]
    return name, "\n".join([*lines, "  ret void", "}", ""])
