"""The order in which an in-order core issues the instructions of a depthwise strip: ``Issue`` simulates that core.

It fills cycle after cycle of the whole strip with the first instructions that may issue, whichever taps the borders
leave out. fmla issue in the order of the data that they read; if the first still waits, one of the next few issues.
Loads run as far ahead as there are registers. A vector load may not issue four cycles after an fmla, so loads stand
four cycles behind one another, and a chain of them begins behind a move, a clamp or a cycle in which nothing is ready.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import groupby, product

# These describe the pipeline that the loop is written for (targets/cores/cortex-a53.toml). Its code is the same on
# whichever core runs it.
WINDOW = 12  # number of fmla, from the first that waits, among which one may issue
SOON = 10  # accumulators are opened, and data is requested, this many fmla ahead
LATENCY = {"fmla": 8, "chain": 4, "clamp": 4, "lower": 4, "upper": 3, "insert": 3, "move": 1}
NEVER = 1 << 30  # later than every cycle
STUCK = 64  # cycles without an instruction after which the search gives up
TEMPORARIES = ("x13", "x14", "x15")
LOWER, UPPER, PLACE, TURNS = "x9", "x10", "x11", "x12"  # offsets of the columns at hand, turns left


@dataclass(frozen=True)
class Strip:
    """A strip of outputs. ``rows[i]`` and ``columns[j]`` are the taps that a row and a column of outputs reads,
    ``clamps`` the clamp instructions of its activation.
    """

    rows: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]
    stride: tuple[int, int]
    clamps: tuple[str, ...]

    @functools.cached_property
    def taps(self) -> list[tuple[int, int]]:
        return sorted({(kh, kw) for rows in self.rows for columns in self.columns for kh in rows for kw in columns})

    @functools.cached_property
    def input_rows(self) -> list[int]:
        """Rows of the input that the strip reads, from the start of its first window."""
        return sorted({i * self.stride[0] + kh for i, taps in enumerate(self.rows) for kh in taps})

    @property
    def first_column(self) -> int:
        return min(j * self.stride[1] + kw for j, taps in enumerate(self.columns) for kw in taps)

    @property
    def alive(self) -> int:
        """Columns of outputs that one column of input contributes to."""
        return -(-len({kw for _, kw in self.taps}) // self.stride[1])

    @property
    def resident(self) -> int:
        """Registers of taps, bias and bounds."""
        return len(self.taps) + 1 + len(self.clamps)

    @property
    def name(self) -> str:
        def taps(axis):
            return "_".join(f"{len(list(run))}x{''.join(map(str, k))}" for k, run in groupby(axis))

        return f"s{self.stride[0]}{self.stride[1]}_r{taps(self.rows)}_c{taps(self.columns)}_{len(self.clamps)}"


@dataclass(frozen=True)
class Instruction:
    """An instruction: its ``kind``, and the ``column`` of the input that it belongs to."""

    kind: str
    text: str
    column: int | None = None


Cycle = tuple[Instruction, ...]


class Issue:
    """A strip's instructions, cycle by cycle, with accumulators for ``sets`` columns and ``ring`` registers of data.

    Outputs are numbered along columns, loads in the order of their issue. Both use the registers of their kind in
    rotation.
    """

    def __init__(self, strip: Strip, sets: int, ring: int):
        self.strip, self.ring, self.accumulators = strip, ring, sets * len(strip.rows)
        (sh, sw), rows = strip.stride, len(strip.rows)
        readers: dict[tuple[int, int], list] = {}
        for (i, taps_h), (j, taps_w) in product(enumerate(strip.rows), enumerate(strip.columns)):
            for kh, kw in product(taps_h, taps_w):
                readers.setdefault((j * sw + kw, i * sh + kh), []).append((j * rows + i, (kh, kw)))
        self.loads = sorted(readers)  # (column, row)
        self.products = [(n, *use) for n, at in enumerate(self.loads) for use in sorted(readers[at])]
        self.unread = [len(readers[at]) for at in self.loads]  # fmla that each load still has to serve
        self.missing = [0] * (rows * len(strip.columns))  # fmla that each output still needs
        self.begins = [NEVER] * len(self.missing)  # the first fmla of this output or of a later one
        for at, (_, output, _) in enumerate(self.products):
            self.missing[output] += 1
            self.begins[: output + 1] = [min(at, begin) for begin in self.begins[: output + 1]]
        self.lower_at, self.upper_at = [NEVER] * len(self.loads), [NEVER] * len(self.loads)
        # The cycle from which on data may be read, an accumulator added to, clamped (with the number of clamps so far),
        # stored.
        self.full, self.open = [NEVER] * len(self.loads), [NEVER] * len(self.missing)
        self.clamping: dict[int, tuple[int, int]] = {}
        self.clamped = [NEVER] * len(self.missing)
        self.lowers = self.uppers = self.inserts = self.moves = self.stores = self.head = 0  # index of the next of each
        self.issued = [False] * len(self.products)
        self.columns = {LOWER: self.loads[0][0], UPPER: self.loads[0][0], PLACE: 0}  # columns that the offsets point to
        self.kinds: list[str] = []  # for each cycle, the kind of instruction that has fmla's units
        self.at: list[int] = []  # the column of input that its next fmla reads

    def run(self) -> list[Cycle]:
        found = []
        while self.stores < len(self.missing):
            self.now = len(found)
            self.at.append(self.loads[self.products[min(self.head, len(self.products) - 1)][0]][0])
            first = next(filter(None, (step() for step in self._order())), None)
            self.kinds.append(first.kind if first else "")
            loads = self.kinds[-1] in ("lower", "insert")
            beside = (self._insert, self._advance) if loads else (self._advance, self._upper, self._store)
            second = next(filter(None, (step() for step in beside)), None)
            found.append(tuple(filter(None, (first, second))))
            if not any(found[-STUCK:]):
                raise RuntimeError(f"no order found for {self.strip}")
        return found

    def _order(self):
        """The steps that may take this cycle from fmla, the most urgent first."""
        if self.now < 4 or self.kinds[self.now - 4] != "fmla":  # a vector load may issue
            return self._lower, self._clamp, self._move, self._fmla, self._insert
        soon = self.products[min(self.head + SOON, len(self.products) - 1)][0]
        if self._may_load() and self.lowers <= soon and set(self.kinds[-3:]) == {"fmla"}:
            return self._clamp, self._move, self._fmla, self._insert  # then a vector load may issue in four cycles
        return self._fmla, self._clamp, self._move, self._insert

    # ---- steps: each issues its next instruction in this cycle, if it can

    def _lower(self) -> Instruction | None:
        if not self._may_load():
            return None
        n, (column, row) = self.lowers, self.loads[self.lowers]
        self.lower_at[n] = self.now
        self.lowers += 1
        return Instruction("lower", f"ldr d{self._data(n)}, [{self._input(row)}, {LOWER}]", column)

    def _may_load(self) -> bool:
        n = self.lowers
        room = n < len(self.loads) and (n < self.ring or not self.unread[n - self.ring])
        return room and self.loads[n][0] == self.columns[LOWER]

    def _upper(self) -> Instruction | None:
        n = self.uppers
        room = n < min(len(self.loads), self.inserts + len(TEMPORARIES), self.lowers + 2)
        if not room or self.loads[n][0] != self.columns[UPPER]:
            return None
        column, row = self.loads[n]
        self.upper_at[n] = self.now
        self.uppers += 1
        return Instruction("upper", f"ldr {self._temporary(n)}, [{self._input(row)}, {UPPER}]", column)

    def _insert(self) -> Instruction | None:
        n = self.inserts
        ready = n < self.uppers and max(self.lower_at[n] + LATENCY["lower"], self.upper_at[n] + LATENCY["upper"])
        if n >= self.uppers or ready > self.now:
            return None
        self.full[n] = self.now + LATENCY["insert"]
        self.inserts += 1
        return Instruction("insert", f"ins v{self._data(n)}.d[1], {self._temporary(n)}", self.loads[n][0])

    def _fmla(self) -> Instruction | None:
        for at in range(self.head, min(self.head + WINDOW, len(self.products))):
            load, output, tap = self.products[at]
            if not self.issued[at] and max(self.full[load], self.open[output]) <= self.now:
                break
        else:
            return None
        self.issued[at] = True
        while self.head < len(self.products) and self.issued[self.head]:
            self.head += 1
        self.unread[load] -= 1
        self.missing[output] -= 1
        self.open[output] = self.now + LATENCY["chain"]
        if not self.missing[output]:
            self._finish(output, 0, self.now + LATENCY["fmla"])
        text = f"fmla v{self._sum(output)}.4s, v{self._data(load)}.4s, v{self.strip.taps.index(tap)}.4s"
        return Instruction("fmla", text, self.loads[load][0])

    def _finish(self, output: int, clamps: int, at: int) -> None:
        """Note the cycle from which on an output may be clamped again or stored, after so many clamps."""
        self.clamping.pop(output, None)
        if clamps < len(self.strip.clamps):
            self.clamping[output] = clamps, at
        else:
            self.clamped[output] = at

    def _clamp(self) -> Instruction | None:
        for output, (clamps, at) in self.clamping.items():
            if at <= self.now:
                self._finish(output, clamps + 1, self.now + LATENCY["clamp"])
                value, bound = f"v{self._sum(output)}.4s", f"v{len(self.strip.taps) + 1 + clamps}.4s"
                text = f"{self.strip.clamps[clamps]} {value}, {value}, {bound}"
                return Instruction("clamp", text, self._column(output))
        return None

    def _move(self) -> Instruction | None:
        n = self.moves
        room = n < min(len(self.missing), self.stores + self.accumulators)
        if not room or self.begins[n] >= self.head + SOON:
            return None
        self.open[n] = self.now + LATENCY["move"]
        self.moves += 1
        return Instruction("move", f"mov v{self._sum(n)}.16b, v{len(self.strip.taps)}.16b", self._column(n))

    def _store(self) -> Instruction | None:
        n = self.stores
        if n == len(self.missing) or self.clamped[n] > self.now or self._column(n) != self.columns[PLACE]:
            return None
        self.stores += 1
        row = n % len(self.strip.rows)
        at = self.strip.resident + len(self.strip.input_rows) + row
        return Instruction("store", f"str q{self._sum(n)}, [${at}, {PLACE}]", self._column(n))

    def _advance(self) -> Instruction | None:
        """Move an offset on to the column that the next access through it needs."""
        pitch = self.strip.resident + len(self.strip.input_rows) + len(self.strip.rows)
        for offset, n in ((LOWER, self.lowers), (UPPER, self.uppers)):
            if n < len(self.loads) and self.loads[n][0] > self.columns[offset]:
                self.columns[offset] += 1
                return Instruction("advance", f"add {offset}, {offset}, ${pitch}")
        if self.stores < len(self.missing) and self._column(self.stores) > self.columns[PLACE]:
            self.columns[PLACE] += self.strip.stride[1]
            return Instruction("advance", f"add {PLACE}, {PLACE}, ${pitch + 1}")
        return None

    # ---- names

    def _column(self, output: int) -> int:
        return output // len(self.strip.rows) * self.strip.stride[1]

    def _sum(self, output: int) -> int:
        return self.strip.resident + output % self.accumulators

    def _data(self, load: int) -> int:
        return self.strip.resident + self.accumulators + load % self.ring

    def _input(self, row: int) -> str:
        return f"${self.strip.resident + self.strip.input_rows.index(row)}"

    def _temporary(self, load: int) -> str:
        return TEMPORARIES[load % len(TEMPORARIES)]
