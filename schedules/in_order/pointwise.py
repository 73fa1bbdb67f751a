"""The dual-issue loop of a product, as assembly: loads placed so that no fmla waits for them.

An in-order core of the Cortex-A53's kind (core.vector_load_bytes = 8) moves 64 bits a cycle into a vector register, and
issues no fmla in that cycle. Two instructions are free: a 64-bit load into an integer register beside an fmla, and its
insert into the upper half of a vector register beside the next vector load. A 128-bit operand then costs one cycle in
place of two (ncnn, docs/developer-guide/arm-a53-a55-dual-issue.md; XNNPACK's cortex-a53 kernels do the same):

    ldr d (operand n), ins (upper half of n - 1) | fmla, ldr x (upper half of n) | fmla | fmla | ldr d (n + 1), ins ...

A vector load must not issue four cycles after an fmla, when that fmla enters the adder. So loads issue every fourth
cycle: four cycles before a load there is another load and no fmla. Four cycles before the first load of such a run, a
cycle is left free of fmla. An iteration of the loop, called a turn, is two steps of k. With 7 rows and 3 vectors it has
42 fmla, 6 loads of weights and 4 of data (two rows share a register), in 53 cycles.

LLVM does not keep such pairs together. So this module writes the loop as a function of LLVM IR whose body is inline
assembly. The schedule's code calls it by name, and LLVM inlines it. Accumulators stay in registers from the bias to the
epilogue, both of which are ordinary TIR. Nothing has to be linked, since the loop is part of the kernel's module.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import nest

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

# These describe the pipeline that the loop is written for. Its code is the same on whichever core runs it.
STEP = 2  # k in a turn: a 64-bit load holds two
GROUP = 3  # fmla between one load and the next
READY = 5  # fmla between an operand's load and its first use: an insert 4 cycles after the load, 3 cycles of latency
NOP = "nop"
LOOPS = ("tir", "dual_issue")  # who writes an inner loop: LLVM, from TIR, or this module
VECTOR_BYTES, REGISTERS = 16, 32  # of AArch64's NEON
DTYPE = dtypes.of("float32")  # all operands are fmla's .4s
SIZE, LANES = DTYPE.bytes, VECTOR_BYTES // DTYPE.bytes
LONGEST_OFFSET = 32760  # bytes from a 64-bit load's base register


def pairs(core, layer: Layer) -> bool:
    """Whether a core has this loop's instructions and gains by them, and the layer is of their dtype."""
    neon = core.architecture == "aarch64" and core.vector_bytes == VECTOR_BYTES and core.vector_registers == REGISTERS
    return neon and layer.dtype == DTYPE.name and core.in_order and core.vector_load_bytes < core.vector_bytes


def fits(rows: int, width: int, depth: int, row_pitch: int) -> bool:
    """Whether there is such a loop for a tile, and it pays: whole vectors, enough registers, offsets within reach."""
    return (
        width % LANES == 0
        and depth % STEP == 0
        and depth >= 2 * STEP
        and row_pitch % 2 == 0
        and registers(rows, width) <= REGISTERS
        and ((rows - 1) * row_pitch + 2 * STEP) * SIZE <= LONGEST_OFFSET
        and cycles(rows, width) <= 1.5 * rows * (width // LANES)
        and bool(_plan(rows, width // LANES))
    )


def registers(rows: int, width: int) -> int:
    """Vector registers of the loop: accumulators, two steps of weights, a register for every two rows of data."""
    vectors = width // LANES
    return rows * vectors + STEP * vectors + -(-rows // 2)


def cycles(rows: int, width: int) -> float:
    """Cycles of one step of k."""
    vectors = width // LANES
    loads = STEP * vectors + -(-rows // 2)
    return max(STEP * rows * vectors + loads + 1, (GROUP + 1) * (loads + 1)) / STEP


def multiply(acc: nest.Tile, depth: int, data, weight, row_pitch: int) -> None:
    """Add data(i, k) * weight(k, lane), for all k below ``depth``, to acc(i, lane).

    ``data(0, 0)`` and ``weight(0, 0)`` are elements of tensors in memory. Rows of data are ``row_pitch`` apart, and the
    weights of successive k are contiguous.
    """
    name, code = _function(acc.rows, acc.width // LANES, row_pitch * SIZE)
    call(
        name,
        code,
        tirx.address_of(acc.tensors[0].flat[0]),
        tirx.address_of(data(0, 0)),
        tirx.address_of(weight(0, 0)),
        tirx.const(depth // STEP - 1, "int64"),
    )


def call(name: str, code: str, *arguments) -> None:
    """Call a function of LLVM IR, which becomes part of the kernel's module."""
    with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", code):
        T.evaluate(tirx.call_extern("void", name, *arguments))


def assembly(text: str, constraints: list[str]) -> str:
    """Lines of assembly as an operand of an LLVM call."""
    escaped = text.replace("\n", "\\0A\\09")
    return f'asm sideeffect "{escaped}", "{",".join(constraints)}"'


@dataclass(frozen=True)
class _Operand:
    """A register of weights (``step``, ``vector``) or of data (rows 2 ``pair`` and the next), with its uses."""

    weights: bool
    index: int  # step * vectors + vector, or the pair of rows
    first: int  # position of its first use among the fmla of a turn
    last: int
    whole: bool  # whether it has an upper half


@dataclass(frozen=True)
class _Load:
    """An operand's load before the fmla at ``position``, for this turn (0) or the next (1)."""

    operand: _Operand
    position: int
    turn: int


def _products(rows: int, vectors: int) -> list[tuple[int, int, int]]:
    """The fmla of a turn in order, (step, row, vector). A register of data is free again after its two rows."""
    return [
        (step, row, vector)
        for step in range(STEP)
        for pair in range(0, rows, 2)
        for vector in range(vectors)
        for row in range(pair, min(pair + 2, rows))
    ]


@functools.cache
def _plan(rows: int, vectors: int) -> tuple[int, tuple[_Load, ...]]:
    """The loads of a turn: the position of the free cycle before them, and each load.

    It tries every start of the run, and takes the one where operands are ready longest before their use.
    """
    products = _products(rows, vectors)
    count = len(products)

    def operand(weights, index, whole, uses):
        found = [i for i, product in enumerate(products) if uses(*product)]
        return _Operand(weights, index, found[0], found[-1], whole)

    operands = [
        operand(True, s * vectors + v, True, lambda step, _, vector, s=s, v=v: (step, vector) == (s, v))
        for s in range(STEP)
        for v in range(vectors)
    ]
    operands += [
        operand(False, p, 2 * p + 1 < rows, lambda _, row, __, p=p: row // 2 == p) for p in range(-(-rows // 2))
    ]
    group = min(GROUP, count / (len(operands) + 1))
    for ready in range(READY, -1, -1):
        for start in range(count):
            slots = [(start + int(group * (i + 1))) % count for i in range(len(operands))]
            if count - 1 in slots or count - 2 in slots:
                continue  # the pointers advance there
            if found := _matching(operands, slots, start, count, ready):
                return start, tuple(found)
    return ()


def _matching(operands, slots, start, count, ready) -> list[_Load] | None:
    """An operand for each load slot, such that each register is free when it is loaded and full when it is used."""

    def turn(o: _Operand, n: int) -> int | None:
        """The turn for which slot n may load an operand: 0 for this turn, 1 for the next, None for neither."""
        at = slots[n]
        done = slots[n + 1] if n + 1 < len(slots) else start  # position of the insert of its upper half
        wait = (done - at) % count if o.whole else 0
        if at + wait + ready <= o.first:
            return 0
        return 1 if o.last < at and at + wait + ready <= count + o.first else None

    taken: dict[int, int] = {}  # slot to operand

    def place(o: int, seen: set[int]) -> bool:
        for n in range(len(slots)):
            if n not in seen and turn(operands[o], n) is not None:
                seen.add(n)
                if n not in taken or place(taken[n], seen):
                    taken[n] = o
                    return True
        return False

    if not all(place(o, set()) for o in range(len(operands))):
        return None
    return [_Load(operands[taken[n]], slots[n], turn(operands[taken[n]], n)) for n in range(len(slots))]


class _Loop:
    """The assembly of a tile's loop. ``a``, ``w``, ``n`` are the operands of the asm: data, weights, turns."""

    def __init__(self, rows: int, vectors: int, row_bytes: int):
        self.rows, self.vectors, self.row_bytes = rows, vectors, row_bytes
        self.products = _products(rows, vectors)
        self.start, self.loads = _plan(rows, vectors)
        first = rows * vectors
        self.a, self.w, self.n = f"${first}", f"${first + 1}", f"${first + 2}"
        self.temporaries = ("x16", "x17")
        self.lines: list[str] = []

    def register(self, o: _Operand) -> int:
        return self.rows * self.vectors + o.index + (0 if o.weights else STEP * self.vectors)

    def halves(self, o: _Operand, turn: int) -> tuple[str, str]:
        """The addresses of an operand's two halves, for the current turn (0) or the next (1)."""
        if o.weights:
            at = (turn * STEP * self.vectors + o.index) * VECTOR_BYTES
            return f"[{self.w}, #{at}]", f"[{self.w}, #{at + VECTOR_BYTES // 2}]"
        at = 2 * o.index * self.row_bytes + turn * STEP * SIZE
        return f"[{self.a}, #{at}]", f"[{self.a}, #{at + self.row_bytes}]"

    def text(self) -> str:
        self._begin()
        self.lines.append("1:")
        self._turn(last=False)
        self.lines.append("2:")
        self._turn(last=True)
        return "\n".join(self.lines)

    def _begin(self) -> None:
        """Load the operands that the first turn expects; a pending upper half waits in its integer register."""
        pending = self._pending()
        for n, load in enumerate(self.loads):
            if load.turn == 0:
                continue
            register, (lower, upper) = self.register(load.operand), self.halves(load.operand, 0)
            waits = n in pending
            if load.operand.weights and not waits:
                self.lines.append(f"ldr q{register}, {lower}")
                continue
            self.lines.append(f"ldr d{register}, {lower}")
            if load.operand.whole:
                temporary = self.temporaries[n % 2] if waits else "x15"
                self.lines.append(f"ldr {temporary}, {upper}")
                if not waits:
                    self.lines.append(f"ins v{register}.d[1], {temporary}")
        self.lines.append(f"cbz {self.n}, 2f")

    def _pending(self) -> set[int]:
        """Loads of a turn whose upper half the next turn inserts."""
        found = set()
        for n, load in enumerate(self.loads):
            done = self.loads[n + 1].position if n + 1 < len(self.loads) else self.start
            if load.operand.whole and done <= load.position:
                found.add(n)
        return found

    def _turn(self, last: bool) -> None:
        """Two steps of k, cycle by cycle. The last turn loads nothing for a next one, and leaves no cycle free."""
        count, loads = len(self.products), len(self.loads)
        slots = {self.start: None} | {load.position: n for n, load in enumerate(self.loads)}
        crowded = count < GROUP * (loads + 1)  # too few fmla stand between loads: free cycles replace them
        # A pointer advances after its last load. Like every integer instruction, this pairs with an fmla.
        ends = {w: max(x.position for x in self.loads if x.operand.weights == w) for w in (True, False)}
        control: dict[int, list[str]] = {}
        control.setdefault(ends[False] + 1, []).append(f"add {self.a}, {self.a}, #{STEP * SIZE}")
        control.setdefault(ends[True] + 1, []).append(f"add {self.w}, {self.w}, #{STEP * self.vectors * VECTOR_BYTES}")
        control[min(ends.values()) + 1].append(f"subs {self.n}, {self.n}, #1")
        cycles: list[list[str]] = []
        beside: list[str] = []  # integer instructions that wait for an fmla to pair with
        distance = GROUP
        for position, product in enumerate(self.products):
            if position in slots:
                n = slots[position]
                if crowded and not last:
                    cycles += [[NOP, NOP] for _ in range(GROUP - distance)]
                cycle = [] if n is None else self._lower(n, beside, last)
                cycle += self._upper(loads - 1 if n is None else n - 1, last)
                if cycle or not last:
                    cycles.append(cycle or [NOP, NOP])
                distance = 0
            distance += 1
            if not last:
                beside += control.get(position, [])
            cycles.append([self._fmla(*product), *beside[:1]])
            del beside[:1]
        if not last:
            free = len(cycles[-1]) == 1 and not beside
            cycles = [*cycles[:-1], [*cycles[-1], "b.ne 1b"]] if free else [*cycles, [*beside, "b.ne 1b"]]
        for cycle, after in zip(cycles, [*cycles[1:], [""]], strict=True):
            # An instruction without a partner would pair with the first nop of a free cycle.
            self.lines += [*cycle, NOP] if len(cycle) == 1 and after[0] == NOP else cycle

    def _lower(self, n: int, beside: list[str], last: bool) -> list[str]:
        """Load n. The load of its upper half, into an integer register, goes beside the next fmla."""
        load = self.loads[n]
        if last and load.turn == 1:
            return []
        lower, upper = self.halves(load.operand, load.turn)
        if load.operand.whole:
            beside.append(f"ldr {self.temporaries[n % 2]}, {upper}")
        return [f"ldr d{self.register(load.operand)}, {lower}"]

    def _upper(self, n: int, last: bool) -> list[str]:
        """The insert of the upper half of load n."""
        if n < 0 or not self.loads[n].operand.whole or (last and self.loads[n].turn == 1 and n not in self._pending()):
            return []
        return [f"ins v{self.register(self.loads[n].operand)}.d[1], {self.temporaries[n % 2]}"]

    def _fmla(self, step: int, row: int, vector: int) -> str:
        weights = self.rows * self.vectors + step * self.vectors + vector
        data = self.rows * self.vectors + STEP * self.vectors + row // 2
        return f"fmla v{row * self.vectors + vector}.4s, v{weights}.4s, v{data}.s[{2 * (row % 2) + step}]"


@functools.cache
def _function(rows: int, vectors: int, row_bytes: int) -> tuple[str, str]:
    """The name of a tile's loop, and its LLVM IR. Its arguments: accumulators, data, weights, number of turns - 1."""
    name = f"mobilenet_product_{rows}x{vectors * LANES}_{row_bytes}"
    count, used = rows * vectors, registers(rows, vectors * LANES)
    loop = _Loop(rows, vectors, row_bytes)
    vector, integer = f"<{LANES} x float>", "i64"
    outputs = [f"={{v{i}}}" for i in range(count)] + ["=&r"] * 3
    clobbers = [f"~{{v{i}}}" for i in range(count, used)]
    clobbers += [f"~{{{x}}}" for x in ("x15", *loop.temporaries, "cc", "memory")]
    body = assembly(loop.text(), [*outputs, *(str(i) for i in range(count + 3)), *clobbers])
    kind = "{ " + ", ".join([vector] * count + [integer] * 3) + " }"
    arguments = "ptr %acc, ptr %data, ptr %weight, i64 %turns"
    lines = [f"define linkonce_odr hidden void @{name}({arguments}) alwaysinline nounwind {{"]
    for i in range(count):
        lines.append(f"  %p{i} = getelementptr i8, ptr %acc, i64 {VECTOR_BYTES * i}")
        lines.append(f"  %a{i} = load {vector}, ptr %p{i}, align {SIZE}")
    lines += [f"  %{n}.at = ptrtoint ptr %{n} to i64" for n in ("data", "weight")]
    passed = [f"{vector} %a{i}" for i in range(count)] + ["i64 %data.at", "i64 %weight.at", "i64 %turns"]
    lines.append(f"  %r = call {kind} {body}({', '.join(passed)})")
    for i in range(count):
        lines += [f"  %r{i} = extractvalue {kind} %r, {i}", f"  store {vector} %r{i}, ptr %p{i}, align {SIZE}"]
    return name, "\n".join([*lines, "  ret void", "}", ""])
