"""Arithmetic of integer layers as TIR expressions: requantization, additions of two scales, table lookups.

A sum becomes an output by ``q = clamp(rint(float32(sum) * factor) + zero)``, with one rounding, ties to even. A fused
multiply-add with `MAGIC` does that, since around `MAGIC` a float32 holds only integers. If all sums of a layer are
small (``Layer.small``), they start from the bits of `MAGIC`. The bits of a sum, read as a float, are then `MAGIC` +
sum, so no conversion is needed; the result fits 16 bits, and narrowing saturates. Larger sums are converted to float
and clamped as floats.

All expressions use operations that LLVM knows for any target. Saturating adds and narrowing become one instruction if
the target has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import nest, values

from tvm_mobilenet.layer import Layer

MAGIC = 12582912.0  # 1.5 * 2**23: the float32 numbers around it are the integers
BITS = int(np.float32(MAGIC).view(np.int32))
INT8 = (-128, 127)


def _like(value, dtype: str, count: int) -> str:
    return dtype if count == 1 else f"{dtype}x{count}"


def reinterpret(value, dtype: str, count: int):
    """The bits of ``count`` lanes as values of another dtype of the same size."""
    return tirx.reinterpret(_like(value, dtype, count), value)


def const(value, dtype: str, count: int):
    """A constant in ``count`` lanes."""
    return values.broadcast(values.const(value, dtype), count)


def filled(piece, have: int, count: int):
    """``count`` values, of which only the first ``have`` may be read; the others are zero.

    ``piece(first, count)`` reads some of them at once.
    """
    if have == count:
        return piece(0, count)
    words, at = [], 0  # numbers of four bytes: LLVM takes shuffles of shorter vectors apart, byte by byte
    while have - at >= WORDS:
        size = WORDS << ((have - at) // WORDS).bit_length() - 1
        words.append(reinterpret(piece(at, size), "int32", size // WORDS))
        at += size
    if at < have:
        words.append(_word([(i, n, piece(at + i, n)) for i, n in ((0, 2), (have - at & 2, 1)) if have - at & n]))
    known = sum(map(values.lanes_of, words))
    words += [const(0, "int32", 1)] * (count // WORDS - known)
    whole = words[0] if len(words) == 1 else tirx.Shuffle(words, list(range(count // WORDS)))
    return reinterpret(whole, "int8", count)


def _word(parts: list[tuple[int, int, object]]):
    """An int32 of less than four bytes, given as first byte, number and value; the other bytes are zero."""
    found = None
    for first, count, value in parts:
        unsigned = tirx.reinterpret("uint16" if count == 2 else "uint8", value).astype("int32")
        placed = unsigned << values.const(8 * first, "int32") if first else unsigned
        found = placed if found is None else found + placed
    return found


def fused(left, right, total, count: int):
    """``left * right + total`` in float32, rounded once."""
    return tirx.call_llvm_pure_intrin(_like(total, "float32", count), "llvm.fma", left, right, total)


@dataclass(frozen=True)
class Ends:
    """The last constants of a requantization: zero point and bounds, read from a layer's constants as scalars of int32.

    ``clamped``: whether low and high are narrower than the dtype. ``vectors``: for small sums, a `Constants` whose
    vectors are read from memory instead of scalars that are broadcast to all lanes.
    """

    zero: object
    low: object
    high: object
    clamped: bool
    vectors: Constants | None = None

    def lanes(self, name: str, dtype: str, count: int):
        """One of the constants in ``count`` lanes of a narrow dtype."""
        if self.vectors is None or count not in (8, 16):
            return values.broadcast(values.cast(getattr(self, name), dtype), count)
        return self.vectors.lanes(name, dtype, count)

    def magic(self, count: int):
        """`MAGIC` in ``count`` lanes."""
        if self.vectors is None or count not in (8, 16):
            return const(MAGIC, "float32", count)
        return self.vectors.magic(count)


WORDS = 4  # int32 in a vector of sixteen bytes
NAMES = ("zero", "low", "high")  # one vector each for an output


@dataclass(frozen=True)
class Constants:
    """Vectors of a layer's constants in memory, packed by `integer_constants`: `MAGIC` in sixteen lanes, then zero
    point, lowest and highest value of the layer's own output, and of the sum with a second operand.

    ``second``: whether to use those of the sum. ``loaded``: whether to load `MAGIC` again for each use. The
    multiply-add overwrites it, and a load takes no time of a vector pipe, but a move does.
    """

    tensor: nest.Tensor
    second: bool
    loaded: bool

    def lanes(self, name: str, dtype: str, count: int):
        """Zero point, lowest or highest value in ``count`` lanes of int16 or int8."""
        first = 16 + (WORDS * len(NAMES) if self.second else 0) + WORDS * NAMES.index(name)
        have = 16 if dtype == "int8" else 8
        vector = reinterpret(self.tensor[nest.Lanes(first, WORDS)], dtype, have)
        return vector if have == count else tirx.Shuffle([vector] * max(1, count // have), list(range(count)))

    def magic(self, count: int):
        """`MAGIC` in ``count`` lanes, loaded from memory if ``loaded``."""
        if not self.loaded:
            return const(MAGIC, "float32", count)
        return reinterpret(self.tensor.row(0)[nest.Lanes(0, count)], "float32", count)


def requantize(total, factor, ends: Ends, small: bool, count: int, below=None):
    """int8 from ``count`` sums in int32, which start from `BITS` if they are small. ``factor``: float32, one for each
    lane. ``below``: those of sums below zero, if they differ.
    """
    real = values.cast(total, "float32")
    if small:
        real = reinterpret(total, "float32", count) - const(MAGIC, "float32", count)
    if below is not None:
        factor = tirx.Select(real < const(0.0, "float32", count), below, factor)
    return narrowed(fused(real, factor, ends.magic(count), count), ends, small, count)


def narrowed(rounded, ends: Ends, small: bool, count: int):
    """int8 from ``count`` whole numbers on top of `MAGIC`. ``small``: all of them fit an int16."""
    if not small:
        low, high = (
            values.broadcast(values.cast(v - ends.zero, "float32") + MAGIC, count) for v in (ends.low, ends.high)
        )
        rounded = T.min(T.max(rounded, low), high)
        whole = reinterpret(rounded, "int32", count) + values.broadcast(ends.zero - BITS, count)
        return values.cast(whole, "int8")
    half = values.cast(reinterpret(rounded, "int32", count), "int16")  # the low half
    zero = ends.lanes("zero", "int16", count)
    half = tirx.call_llvm_pure_intrin(_like(half, "int16", count), "llvm.sadd.sat", half, zero)
    narrow = values.cast(clamp(half, *INT8, "int16", count), "int8")
    if not ends.clamped:
        return narrow
    return T.min(T.max(narrow, ends.lanes("low", "int8", count)), ends.lanes("high", "int8", count))


def floating(value, zero, count: int):
    """``value - zero`` in float32, exact for integers below 2**22. It uses an addition if a conversion would take
    longer.

    ``zero``: an int32 scalar, or a number.
    """
    bits = values.cast(value, "int32") + const(BITS, "int32", count)
    offset = values.const(MAGIC, "float32") if isinstance(zero, int) else values.cast(zero, "float32") + MAGIC
    return reinterpret(bits, "float32", count) - values.broadcast(offset, count)


def clamp(value, low: int, high: int, dtype: str, count: int):
    """``count`` values clamped to two constants."""
    return T.min(T.max(value, const(low, dtype, count)), const(high, dtype, count))


def addp(a, b):
    """Sums of neighbours in two vectors of four."""
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.addp", a, b)


def eighth(vector, index: int, lanes: int):
    """Eight neighbouring lanes of a vector."""
    return vector if lanes == 8 else tirx.Shuffle([vector], list(range(8 * index, 8 * index + 8)))


def unshifted(total, small: bool, count: int):
    """The sums themselves: small ones without `BITS`."""
    return total - const(BITS, "int32", count) if small else total


def added(left, right, f, layer: Layer, count: int, own: int = 1, sign: int = 1, vectors: Constants | None = None):
    """The sum of two int8 values of different scales.

    ``rint(fma(left - zero, factor, fl32((right - zero) * factor)))``.
    """
    factors, ends = f["added"], f["ends"]
    a, b = (floating(value, ends[zero], count) for value, zero in ((left, own), (right, 4)))
    one, two = (values.broadcast(factors[i], count) for i in (0, 1))
    right = b * two if sign > 0 else const(0.0, "float32", count) - b * two
    rounded = fused(a, one, right, count) + const(MAGIC, "float32", count)
    clamped = layer.activation != "none" and layer.residual != "after"
    return narrowed(rounded, Ends(ends[5], ends[6], ends[7], clamped, vectors), layer.small, count)


BYTES = 256  # entries of a table
TABLE = 64  # bytes of the four registers that one instruction looks up


def looked_up(f, value, count: int):
    """The values of a table of 256 for int8 indices; the first entry belongs to the lowest index.

    In a kernel that has ``lowest``, lower indices are raised to it. If it lies above the table's first quarter, all
    entries of that quarter equal its own. If it does not, an index in the first quarter gives zero here, and `of_first`
    adds the entry.
    """
    if by_tables(f, count):
        first = f.get("lowest")
        value = value if first is None else T.max(value, first[nest.Lanes(0, count)])
        return of_tables(f["table"], value + const(INT8[0], "int8", count), count, 0 if first is None else TABLE)
    return f["table"][values.cast(value, "int32") + const(-INT8[0], "int32", count)]


def of_first(f, value, count: int):
    """The table's first quarter, which `looked_up` leaves out; zero for other values."""
    return of_tables(f["table"], value + const(INT8[0], "int8", count), count, 0, TABLE)


def by_tables(f, count: int) -> bool:
    """Whether ``count`` values are looked up by instructions for tables."""
    return f.decisions.get("lookup") == "tables" and count in (8, 16)


def lowest(table: np.ndarray) -> int:
    """The lowest int8 index for which a table of 256 has to be read. It is the first after the table's first quarter if
    the whole quarter has that index's entry, else the lowest int8.
    """
    return INT8[0] + TABLE if (table[:TABLE] == table[TABLE]).all() else INT8[0]


def of_tables(table, at, count: int, first: int = 0, last: int = BYTES):
    """The entries of a table of 256 at unsigned byte indices, held in int8. Indices outside of ``first`` and ``last``
    give zero: a lookup instruction gives zero for an index outside its quarter, so no quarter waits for another.
    """
    found = None
    for start in range(first, last, TABLE):
        quarter = [table[nest.Lanes(start + i, 16)] for i in range(0, TABLE, 16)]
        index = at - const(start if start < 128 else start - 256, "int8", count)
        part = tirx.call_llvm_pure_intrin(f"int8x{count}", "llvm.aarch64.neon.tbl4", *quarter, index)
        found = part if found is None else tirx.bitwise_or(found, part)
    return found
