"""The dual-issue loop of int8 products, as assembly: long multiplies with loads beside them.

An int16 holds the sum of ``Layer.group`` products. A turn takes eight k for each of them, for up to four rows and four
columns. A cell is the work for one output: long multiplies into a register of int16, then ``sadalp`` into four sums of
int32. For four products a cell takes four cycles and ``sadalp`` two more, so 16 cells take 96 cycles for 512
multiply-adds, 5.33 a cycle. Loads come on top, as in `in_order.pointwise`: an operand of 128 bits takes one cycle,
since ``ldr d`` issues with the insert of the operand before, and ``ldr x`` of its upper half beside a multiply::

    ldr d (operand n), ins (upper half of n - 1) | smlal, ldr x (upper half of n) | smlal2 | ldr d (n + 1), ins ...

The first multiply of a cell does not accumulate, so the next multiply waits the full latency for its result. Cells
therefore begin ``ahead`` of their turn, and add to int32 one cell late. The first turn sets the sums, the others add to
them. The last turn loads nothing for a next one, so the loop never reads past its operands.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from tvm import tirx
from tvm_mobilenet.schedules import nest
from tvm_mobilenet.schedules.in_order import pointwise as inorder

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

# These describe the pipeline that the loop is written for. Its code is the same on whichever core runs it.
LATENCY = 4  # cycles until another instruction has the result of a long multiply
GAP = 3  # vector instructions between one load and the next, if there is time
READY = 3  # vector instructions between an operand's upper half and its first use
ROWS, COLUMNS = 4, 4  # of a tile
SETS = 2  # columns whose weights are in registers at a time
DATA, WEIGHTS, TURNS, TEMPORARIES = "x9", "x10", "x11", ("x12", "x13", "x14")
BYTES = inorder.VECTOR_BYTES


def pairs(core, layer: Layer) -> bool:
    """Whether a core has this loop's instructions and gains by them, and the layer sums products in int16."""
    neon = core.architecture == "aarch64" and core.vector_bytes == BYTES
    narrow = core.in_order and core.vector_load_bytes < core.vector_bytes
    return neon and narrow and dtypes.of(layer.dtype).integer and layer.group in (2, 4)


def fits(rows: int, width: int, depth: int, group: int, row_pitch: int) -> bool:
    """Whether there is such a loop for a tile: enough registers, offsets within reach, and at least one turn."""
    return (
        rows <= ROWS
        and width <= COLUMNS
        and depth >= 8 * group
        and row_pitch % 8 == 0
        and (rows - 1) * row_pitch + 16 * group <= inorder.LONGEST_OFFSET
        and _Tile(rows, width, group).sound
    )


def multiply(acc: nest.Tile, rows: int, width: int, turns: int, group: int, data, weight, row_pitch: int) -> None:
    """Set acc(i, 4 j .. 4 j + 3) to four partial sums of data(i, k) * weight(j, k), over ``turns`` times 8 ``group`` k.

    ``data`` and ``weight`` are the first element of each. Rows of data are ``row_pitch`` bytes apart.
    `integer_products` packs the weights.
    """
    name, code = _function(rows, width, turns, group, row_pitch)
    inorder.call(
        name,
        code,
        *(tirx.address_of(tensor.flat[0]) for tensor in acc.tensors),
        tirx.address_of(data),
        tirx.address_of(weight),
    )


@dataclass(frozen=True)
class _Operand:
    """The ``vector``-th vector of a turn, of a column's weights or a row's data, with its first and last use."""

    weights: bool
    index: int
    vector: int
    first: int
    last: int


@dataclass(frozen=True)
class _Load:
    """An operand's load before the vector instruction at ``position``, for this turn (0) or the next (1). Its upper
    half is inserted at ``later``, which may be in the next turn.
    """

    operand: _Operand
    position: int
    turn: int
    insert: int
    later: bool


@dataclass(frozen=True)
class _Tile:
    """The vector instructions of a turn, and the places of its loads."""

    rows: int
    width: int
    group: int

    @property
    def vectors(self) -> int:
        """Vectors of an operand in a turn."""
        return self.group // 2

    @property
    def ahead(self) -> int:
        """Cells that begin before the current one continues, so that it does not wait."""
        return -(-LATENCY // self.group)

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(row, column) of each cell, in order."""
        return [(i, j) for j in range(self.width) for i in range(self.rows)]

    @functools.cached_property
    def order(self) -> list[tuple[int, int]]:
        """(cell, step) pairs. Step 0 begins a cell, the last but one ends its products, the last adds them to int32."""
        count, found = len(self.cells), [(c, 0) for c in range(min(self.ahead, len(self.cells)))]
        for cell in range(count):
            if cell + self.ahead < count:
                found.append((cell + self.ahead, 0))
            found += [(cell, step) for step in range(1, self.group)]
            if cell:
                found.append((cell - 1, self.group))
        return [*found, (count - 1, self.group)]

    @functools.cached_property
    def operands(self) -> list[_Operand]:
        found = []
        for weights, axis, extent in ((True, 1, self.width), (False, 0, self.rows)):
            for index in range(extent):
                for vector in range(self.vectors):
                    uses = [
                        at
                        for at, (cell, step) in enumerate(self.order)
                        if self.cells[cell][axis] == index and step // 2 == vector and step < self.group
                    ]
                    found.append(_Operand(weights, index, vector, uses[0], uses[-1]))
        return found

    def register(self, o: _Operand) -> int:
        first = self.rows * self.width
        if o.weights:
            return first + self.rows * self.vectors + o.index % SETS * self.vectors + o.vector
        return first + o.index * self.vectors + o.vector

    def temporary(self, cell: int) -> int:
        """The register of a cell's int16."""
        first = self.rows * self.width + (self.rows + SETS) * self.vectors
        return first + cell % (self.ahead + 2)

    @functools.cached_property
    def loads(self) -> list[_Load]:
        """Each operand's load, as soon as its register is free, the most urgent first. Loads are `GAP` instructions
        apart unless one is needed at once. The upper half follows with the next load, or by itself if that load comes
        late.
        """
        count = len(self.order)
        last: dict[int, list[_Operand]] = {}  # by register: the operands that it holds in a turn
        for o in self.operands:
            last.setdefault(self.register(o), []).append(o)
        opens = {}  # first use of the next turn's operand
        for o in self.operands:
            before = [p.last + (count if p.first < o.first else 0) for p in last[self.register(o)] if p is not o]
            opens[o] = max([o.last, *before]) + 1
        placed: list[tuple[int, _Operand]] = []
        waiting, at = set(self.operands), 0
        while waiting:
            free = sorted((o for o in waiting if opens[o] <= at), key=lambda o: o.first)
            if free and (free[0].first + count <= at or not placed or at >= placed[-1][0] + GAP):
                placed.append((at, free[0]))
                waiting.remove(free[0])
            else:
                at += 1
        found = []
        for n, (at, o) in enumerate(placed):
            after = placed[n + 1][0] if n + 1 < len(placed) else placed[0][0] + count
            needed = o.first + count
            insert = after if after + READY <= needed else max(min(at + GAP, needed), min(after, needed - READY))
            insert = max(at + 1, min(insert, needed))
            found.append(_Load(o, at % count, 1 - at // count, insert % count, insert // count > at // count))
        return sorted(found, key=lambda load: load.position)

    @functools.cached_property
    def sound(self) -> bool:
        """Whether each operand is complete before its first use, and no integer register holds two upper halves."""
        count, loads = len(self.order), self.loads
        for n, load in enumerate(loads):
            insert = load.insert + (count if load.later else 0)
            again = (m for m in range(n + 1, n + 1 + len(loads)) if _temporary(m % len(loads)) == _temporary(n))
            after = next(loads[m % len(loads)].position + count * (m // len(loads)) for m in again)
            if not load.position < insert <= min(after, load.operand.first + count * load.turn):
                return False
        return True

    @functools.cached_property
    def advance(self) -> int:
        """The position from which on the pointers are those of the next turn; no load's upper half is at this
        position.
        """
        taken = {load.position for load in self.loads}
        third = len(self.order) // 3
        places = range(third, len(self.order) - 2)
        return next((at for at in places if not taken & {at - 1, at, at + 1, at + 2}), len(self.order))


class _Loop:
    """The assembly of a tile's loop."""

    def __init__(self, tile: _Tile, row_pitch: int):
        self.tile, self.row_pitch = tile, row_pitch
        self.lines: list[str] = []

    def text(self, turns: int) -> str:
        for n, load in enumerate(self.tile.loads):
            if load.turn:
                self._load(n, load, whole=not load.later)
        if turns > 2:
            self.lines.append(f"mov {TURNS}, #{turns - 2}")
        self._turn(first=True, last=turns == 1)
        if turns > 2:
            self.lines.append("1:")
            self._turn(loops=True)
        if turns > 1:
            self._turn(last=True)
        return "\n".join(self.lines)

    def _load(self, n: int, load: _Load, whole: bool) -> None:
        """Load an operand of the first turn; if the turn itself inserts the upper half, that half waits in its
        register.
        """
        register, (lower, upper) = self.tile.register(load.operand), self._halves(load.operand, 0)
        if whole:
            self.lines.append(f"ldr q{register}, {lower}")
        else:
            self.lines += [f"ldr d{register}, {lower}", f"ldr {_temporary(n)}, {upper}"]

    def _halves(self, o: _Operand, turn: int) -> tuple[str, str]:
        """The addresses of an operand's two halves, ``turn`` turns on."""
        tile = self.tile
        if o.weights:
            at = turn * tile.width * tile.vectors * BYTES + (o.vector * tile.width + o.index) * BYTES
            return f"[{WEIGHTS}, #{at}]", f"[{WEIGHTS}, #{at + BYTES // 2}]"
        at = o.index * self.row_pitch + (turn * tile.vectors + o.vector) * BYTES
        return f"[{DATA}, #{at}]", f"[{DATA}, #{at + BYTES // 2}]"

    def _turn(self, first: bool = False, last: bool = False, loops: bool = False) -> None:
        """Eight k for each product of an int16. With ``loops`` the turn counts and branches."""
        tile, beside = self.tile, []  # integer instructions, each to stand beside a vector instruction
        for position, (cell, step) in enumerate(tile.order):
            if position == tile.advance:
                beside += self._control(loops)
            inserted = [
                f"ins v{tile.register(load.operand)}.d[1], {_temporary(n)}"
                for n, load in enumerate(tile.loads)
                if load.insert == position and (load.later or not (last and load.turn))
            ]
            for n, load in enumerate(tile.loads):
                if load.position != position or (last and load.turn):
                    continue
                lower, upper = self._halves(load.operand, load.turn - (position >= tile.advance))
                self.lines += [*beside, f"ldr d{tile.register(load.operand)}, {lower}", *inserted[:1]]
                del inserted[:1]
                beside = [f"ldr {_temporary(n)}, {upper}"]
            self.lines += [*inserted, self._instruction(cell, step, first)]
            if beside:
                self.lines.append(beside.pop(0))
        self.lines += beside
        if tile.advance == len(tile.order):
            self.lines += self._control(loops)
        if loops:
            self.lines.append("b.ne 1b")

    def _control(self, loops: bool) -> list[str]:
        """The instructions that advance the pointers and count."""
        tile = self.tile
        return [
            f"add {DATA}, {DATA}, #{tile.vectors * BYTES}",
            f"add {WEIGHTS}, {WEIGHTS}, #{tile.vectors * tile.width * BYTES}",
            *([f"subs {TURNS}, {TURNS}, #1"] if loops else []),
        ]

    def _instruction(self, cell: int, step: int, first: bool) -> str:
        tile = self.tile
        (i, j), short = tile.cells[cell], tile.temporary(cell)
        if step == tile.group:
            return f"{'saddlp' if first else 'sadalp'} v{i * tile.width + j}.4s, v{short}.8h"
        data, weight = (
            next(
                tile.register(o)
                for o in tile.operands
                if o.weights == weights and o.vector == step // 2 and o.index == index
            )
            for weights, index in ((False, i), (True, j))
        )
        upper, lanes = ("2", "16b") if step % 2 else ("", "8b")
        return f"{'smlal' if step else 'smull'}{upper} v{short}.8h, v{data}.{lanes}, v{weight}.{lanes}"


def _temporary(n: int) -> str:
    """The integer register that passes the upper half of load n."""
    return TEMPORARIES[n % len(TEMPORARIES)]


@functools.cache
def _function(rows: int, width: int, turns: int, group: int, row_pitch: int) -> tuple[str, str]:
    """The name of a tile's loop, and its LLVM IR. The arguments are sums, data, weights."""
    name = f"mobilenet_integers_{rows}x{width}_{group}_{turns}_{row_pitch}"
    tile, count = _Tile(rows, width, group), rows * width
    used = 1 + max(tile.temporary(c) for c in range(tile.ahead + 2))
    outputs = [f"={{v{i}}}" for i in range(count)]
    clobbers = [f"~{{v{i}}}" for i in range(count, used)]
    clobbers += [f"~{{{x}}}" for x in (DATA, WEIGHTS, TURNS, *TEMPORARIES, "cc", "memory")]
    text = f"mov {DATA}, ${count}\nmov {WEIGHTS}, ${count + 1}\n" + _Loop(tile, row_pitch).text(turns)
    body = inorder.assembly(text, [*outputs, "r", "r", *clobbers])
    vector = "<4 x i32>"
    kind = "{ " + ", ".join([vector] * count) + " }" if count > 1 else vector
    lines = [
        f"define linkonce_odr hidden void @{name}(ptr %acc, ptr %data, ptr %weight) alwaysinline nounwind {{",
        *(f"  %{n}.at = ptrtoint ptr %{n} to i64" for n in ("data", "weight")),
        f"  %r = call {kind} {body}(i64 %data.at, i64 %weight.at)",
    ]
    for i in range(count):
        made = f"%r{i}" if count > 1 else "%r"
        lines.append(f"  %p{i} = getelementptr i8, ptr %acc, i64 {BYTES * i}")
        lines += [f"  %r{i} = extractvalue {kind} %r, {i}"] * (count > 1)
        lines.append(f"  store {vector} {made}, ptr %p{i}, align 4")
    return name, "\n".join([*lines, "  ret void", "}", ""])
