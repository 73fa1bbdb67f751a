"""The tools to write a loop nest: a PrimFunc as a `with` block, tiles of accumulators, tensors and the epilogue.

A schedule writes its loops in TIR as they run: `with nest.serial(n) as i:` is a loop of the kernel, a Python `for` is
unrolled code. Each variant of a tile is generated with its own constant sizes, so remainders and borders cost nothing
in inner loops. All indices into accumulators are constants, so LLVM keeps every accumulator in a register. Accumulators
have scope `global` and lie in buffers below 1 KiB, because TVM puts larger ones on the heap (shown by running it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import values
from tvm_mobilenet.schedules.choices import Choice, Decisions

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.places import Place
from tvm_mobilenet.layer import Layer

SYMBOL = "kernel"
VECTOR_BYTES = 16  # default size of a vector: NEON's
BUFFER_BYTES = 1023  # largest buffer of accumulators; a larger tile has several


def serial(extent: int):
    """A loop of the kernel."""
    return T.serial(0, extent)


def parallel(extent: int):
    """Iterations that the cores share: one parallel region of the kernel. A single iteration stays a plain loop."""
    return T.parallel(0, extent) if extent > 1 else T.serial(0, 1)


def named(value, name: str):
    """Bind an expression to a variable, so that the many indices made from it stay short and quick to simplify."""
    return T.Bind(value, var=tirx.Var(name, "int32"))


@contextmanager
def span(start, stop):
    """A loop from start up to stop; both are expressions.

    Its TIR loop begins at zero, because TVM's CanonicalizeLoop shifts the inner bounds of nested loops wrongly if they
    begin elsewhere.
    """
    with T.serial(0, stop - start) as i:
        yield start + i


@contextmanager
def when(condition):
    """Code that runs only if a condition on loop variables holds."""
    with T.If(condition), T.Then():
        yield


def either(condition, then, otherwise) -> None:
    """One of two pieces of code, chosen by a condition on loop variables."""
    if isinstance(condition, bool):
        (then if condition else otherwise)()
        return
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()


def switch(index, counts: Sequence[int], body) -> None:
    """``body(n, i)`` for the n-th of several runs of iterations. ``index`` counts through all runs, i through each."""
    start = 0
    ends = []
    for count in counts:
        ends.append((start, start + count))
        start += count

    def choose(n: int) -> None:
        if n == len(counts) - 1:
            body(n, index - ends[n][0])
        else:
            either(index < ends[n][1], lambda: body(n, index - ends[n][0]), lambda: choose(n + 1))

    choose(0)


def unrolled(extent: int, by: int, step) -> None:
    """``step(i)`` for i below extent. Each turn of the loop has ``by`` of them; the remainder follows the loop."""
    turns, rest = divmod(extent, by)
    if turns:
        with serial(turns) as turn:
            for u in range(by):
                step(turn * by + u)
    for u in range(rest):
        step(turns * by + u)


@dataclass(frozen=True)
class Lanes:
    """``count`` neighbouring indices from ``first`` on, read or written as one vector."""

    first: object
    count: int

    def __add__(self, other):
        return Lanes(self.first + other, self.count)

    __radd__ = __add__


_OPAQUE = """define linkonce_odr hidden i32 @mobilenet_opaque(i32 %value) alwaysinline nounwind {
  %same = call i32 asm "", "=r,0"(i32 %value)
  ret i32 %same
}
"""


def opaque(value):
    """The same value, as a variable whose origin LLVM does not know.

    If LLVM knows it, it does two things that cost time. First, it addresses all rows of a tile by offsets from one
    register. These are too large for instructions that load or store a pair of registers; on the A76 the store of a
    pair keeps the vector pipes busy for half as long as two stores. Second, it replaces equal loads by moves between
    registers; on the A76 a move takes a vector pipe and a load does not.
    """
    with T.attr(values.const(0, "int32"), "pragma_import_llvm", _OPAQUE):
        return named(tirx.call_extern("int32", "mobilenet_opaque", value), "at")


def apart_choice(core, ends: bool = True, inner: bool = True) -> Choice:
    """The choice of which rows of a tile are loaded or stored at an `opaque` address: ``none``, ``ends`` (biases and
    outputs), or ``all`` (partial sums and depthwise tiles too). ``ends`` and ``inner`` say whether a kind of layer has
    the second and the third.

    The default is ``all`` on cores with two fmla a cycle, because there moves and stores take a vector pipe from the
    fmla. On other out-of-order cores it is ``ends``; ``all`` costs the A72 0.1 %. Dual-issue loops lose time with
    either.
    """
    candidates = ("none", *(("ends",) if ends else ()), *(("all",) if inner else ()))
    if core.in_order:
        return Choice(candidates, "none")
    return Choice(candidates, candidates[-1] if core.fma_per_cycle > 1 else candidates[int(ends)])


class Tensor:
    """A tensor in memory, row-major, read and written by its indices; one of them may be ``Lanes``.

    It is stored as a flat buffer, and a vector is a ramp, not a loop. TVM takes seconds to lower a thousand small
    vectorised loops, but a few milliseconds for a thousand ramps.
    """

    def __init__(self, flat, shape: Sequence[int], start=0):
        self.flat, self.shape, self.start = flat, tuple(shape), start

    @property
    def dtype(self) -> str:
        """The dtype of an element."""
        return str(self.flat.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes from one index of the last axis but one to the next."""
        return self.shape[-1] * dtypes.of(self.dtype).bytes

    def _offset(self, index):
        offset, stride, vector = self.start, math.prod(self.shape), None
        for i, extent in zip(index if isinstance(index, tuple) else (index,), self.shape, strict=True):
            stride //= extent
            if isinstance(i, Lanes):
                vector = (stride, i.count)
                i = i.first
            offset = offset + i * stride
        return offset if vector is None or vector[1] == 1 else tirx.Ramp(offset, *vector)

    def row(self, index) -> Tensor:
        """The elements from an index on, as they lie in memory; the address of the first is `opaque`."""
        return Tensor(self.flat, (math.prod(self.shape),), opaque(self._offset(index)))

    def reshaped(self, shape: Sequence[int]) -> Tensor:
        """The same elements by other indices."""
        return Tensor(self.flat, shape, self.start)

    def __getitem__(self, index):
        return self.flat[self._offset(index)]

    def __setitem__(self, index, value) -> None:
        T.buffer_store(self.flat, value, [self._offset(index)])


class Kernel:
    """A PrimFunc under construction: ``with Kernel(...) as k: ...`` and then ``k.prim_func``.

    ``arguments`` is a list as `arguments` returns it, the data first. ``decisions`` say how many lanes of the data a
    vector has, see `core_choices`.
    """

    def __init__(self, arguments: Sequence[Argument], decisions: Decisions):
        self._arguments = arguments
        lanes = decisions.get("vector")
        self.vector_bytes = lanes * dtypes.of(arguments[0][2]).bytes if lanes else VECTOR_BYTES
        self.tensors: dict[str, Tensor] = {}
        self.decisions = decisions
        self.scratch_bytes = 0

    def __enter__(self) -> Kernel:
        self._builder = IRBuilder()
        self._builder.__enter__()
        self._function = T.prim_func(s_tir=True)
        self._function.__enter__()
        T.func_name(SYMBOL)
        T.func_attr({"tirx.noalias": True, "global_symbol": SYMBOL})
        places = [(name, p if isinstance(p, Place) else Place(p), dtype) for name, p, dtype in self._arguments]
        arguments = [T.arg(name, T.buffer(place.buffer, dtype)) for name, place, dtype in places]
        for argument, (name, place, dtype) in zip(arguments, places, strict=True):
            flat = T.decl_buffer((math.prod(place.buffer),), dtype, data=argument.data)
            self.tensors[name] = Tensor(flat, (*place.shape[:-1], place.row), place.start)
        return self

    def __exit__(self, *failure):
        self._function.__exit__(*failure)
        self._builder.__exit__(*failure)
        if failure[0] is None:
            self.prim_func = self._builder.get().with_attr("scratch_bytes", self.scratch_bytes)

    def lanes(self, dtype: str) -> int:
        """The number of values of a dtype in a vector."""
        return self.vector_bytes // dtypes.of(dtype).bytes

    def scratch(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Memory that belongs to one task of a parallel region while the task runs."""
        size = math.prod(shape)
        self.scratch_bytes += size * dtypes.of(dtype).bytes
        return Tensor(T.alloc_buffer((size,), dtype), shape)

    def tile(self, rows: int, width: int, dtype: str) -> Tile:
        """``rows`` x ``width`` accumulators."""
        return Tile(rows, width, self.lanes(dtype), dtype)

    def variables(self, count: int, lanes: int, dtype: str) -> Variables:
        """``count`` vectors of ``lanes`` values, to be held in registers."""
        return Variables(Tensor(T.alloc_buffer((count * lanes,), dtype), (count, lanes)))

    def write(self, tensor: Tensor, value, width: int, index) -> None:
        """``tensor[index(lane)] = value(lane)`` for ``width`` contiguous lanes."""
        for first, count in pieces(width, self.lanes(tensor.dtype)):
            tensor[index(Lanes(first, count))] = values.cast(value(Lanes(first, count)), tensor.dtype)

    def store(
        self,
        layer: Layer,
        out: Tensor,
        value,
        width: int,
        index,
        second: Tensor | None = None,
        at_second=None,
        apart: bool = False,
        slopes: Tensor | None = None,
    ) -> None:
        """Write ``width`` neighbouring channels through the epilogue.

        ``value(lane)`` is the input of the epilogue, ``index(lane)`` its place in the output, ``at_second(lane)`` the
        place of the residual (``index`` unless given). ``apart``: store at an `opaque` address. ``slopes``: those of a
        PReLU, one for each channel.
        """
        together = layer.output_layout == "NHWC"
        channel = 3 if together else 1
        lanes = self.lanes(layer.accumulator_dtype)
        apart = apart and together and width > lanes
        row = out.row(index(0)) if apart else out

        def element(lane):
            place = lane if apart else index(lane)
            row[place] = values.epilogue(
                layer,
                value(lane),
                lambda: second[(at_second or index)(lane)],
                out.dtype,
                lambda: slopes[index(lane)[channel]],
                self.decisions.get("quotient", ""),
            )

        for first, count in pieces(width, lanes) if together else [(v, 1) for v in range(width)]:
            element(Lanes(first, count) if count > 1 else first)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(name)


def core_choices(layer: Layer, core) -> dict[str, Choice]:
    """Decisions that follow from the core, with one candidate each, since a kernel is made from a layer and its
    decisions alone: the lanes of a ``vector`` of the data, unless it is NEON's, and ``quotient``: ``steps`` where
    `values.reciprocal` takes less time than a division.
    """
    lanes, classes = core.lanes(layer.input_dtype), core.model.get("classes", {})
    found = {} if core.vector_bytes == VECTOR_BYTES else {"vector": Choice((lanes,), lanes)}
    divided = any(part.activation in values.DIVIDED for part in layer.parts or (layer,)) and layer.dtype == "float32"
    if divided and classes.get("fdiv_q", {}).get("busy", 0) > values.STEPS:
        found["quotient"] = Choice(("steps",), "steps")
    return found


def pieces(width: int, vector: int) -> list[tuple[int, int]]:
    """Vectors that cover ``width`` lanes, as (first lane, lanes). LLVM splits vectors longer than a register."""
    if width in (vector, 2 * vector, 4 * vector):
        return [(0, width)]
    return [(v, min(vector, width - v)) for v in range(0, width, vector)]


@dataclass(frozen=True)
class Variables:
    """Vectors in registers, by their numbers."""

    tensor: Tensor

    def __getitem__(self, index: int):
        return self.tensor[index, Lanes(0, self.tensor.shape[1])]

    def __setitem__(self, index: int, value) -> None:
        self.tensor[index, Lanes(0, self.tensor.shape[1])] = value


class Tile:
    """``rows`` x ``width`` accumulators in vectors of ``vector`` lanes, to be held in registers."""

    def __init__(self, rows: int, width: int, vector: int, dtype: str):
        self.rows, self.width, self.vector, self.dtype = rows, width, vector, dtype
        self._each = max(1, BUFFER_BYTES // (width * dtypes.of(dtype).bytes))  # rows in each buffer
        if width * dtypes.of(dtype).bytes > BUFFER_BYTES:
            raise ValueError(f"{width} accumulators in a row exceed {BUFFER_BYTES} bytes and would leave the registers")
        counts = [min(self._each, rows - first) for first in range(0, rows, self._each)]
        self.tensors = [Tensor(T.alloc_buffer((count * width,), dtype), (count, width)) for count in counts]

    def set(self, value) -> None:
        """Set each accumulator to ``value(row, lane)``."""
        for row in range(self.rows):
            self.set_row(row, lambda lane, row=row: value(row, lane))

    def set_rows(self, tensor: Tensor, first, apart: bool = False) -> None:
        """Set each row of accumulators to the elements of a tensor from ``first`` on. ``apart``: load them for each
        row, from an `opaque` address.
        """
        for row in range(self.rows):
            at, place = (tensor.row(first), 0) if apart else (tensor, first)
            self.set_row(row, lambda lane, at=at, place=place: at[place + lane])

    def set_row(self, row: int, value) -> None:
        tensor, place = self._row(row)
        for first, count in pieces(self.width, self.vector):
            tensor[place, Lanes(first, count)] = values.broadcast(
                values.cast(value(Lanes(first, count)), self.dtype), count
            )

    def add_product(self, row: int, left, right) -> None:
        """Add left(lane) * right(lane) to a row of accumulators."""
        self.set_row(
            row, lambda lane: values.multiply_add(self[row, lane], left(lane), right(lane), self.dtype, lane.count)
        )

    def _row(self, row: int) -> tuple[Tensor, int]:
        return self.tensors[row // self._each], row % self._each

    def __getitem__(self, index):
        row, lane = index
        tensor, place = self._row(row)
        return tensor[place, lane]

    def __setitem__(self, index, value) -> None:
        row, lane = index
        tensor, place = self._row(row)
        tensor[place, lane] = value


def at(layout: str, b, h, w, c) -> tuple:
    """The indices of a position in a tensor of this layout."""
    return (b, h, w, c) if layout == "NHWC" else (b, c, h, w)


Argument = tuple[str, tuple[int, ...] | Place, str]  # name, shape or place, and dtype


def arguments(layer: Layer, constants: Sequence[Argument]) -> list[Argument]:
    """A kernel's arguments: data, packed constants, second operand if any, output."""
    second = [("second", layer.second_place, layer.second_dtype)] if layer.second_place else []
    return [
        ("data", layer.input_place, layer.input_dtype),
        *constants,
        *second,
        ("output", layer.output_place, layer.output_dtype),
    ]
