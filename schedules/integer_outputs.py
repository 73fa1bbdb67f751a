"""The outputs of a tile: its sums requantized to int8, sixteen at a time, and stored.

Rows whose width is not a multiple of sixteen share vectors: four rows of four columns make one vector, which is
requantized at once and stored row by row. If a row ends in one to three columns beyond a multiple of four, four are
computed, of padded sums, and these few are stored. One or two columns of many rows may share vectors without the
padding: `few_choice`. Each step of the epilogue is done for all vectors before the next step, so the registers of a
table are loaded once for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm_mobilenet.schedules import integer_constants, integers, nest, values
from tvm_mobilenet.schedules.choices import Choice

from tvm_mobilenet.kinds.activation import bounds
from tvm_mobilenet.layer import Layer

VECTOR = 16  # outputs that are computed at once
PIECES = (16, 8, 4, 1)  # numbers of outputs that a piece of a vector has, and numbers of lanes of a vector
LEAST = 4  # outputs of a vector of sums, of which a last piece stores fewer
WHOLE = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}  # dtype in which outputs are loaded and stored at once


@dataclass(frozen=True)
class Row:
    """Neighbouring outputs: ``sums(lane, count)`` gives their sums with bias, ``index(lane)`` their place in the
    output.
    """

    sums: Callable
    index: Callable


@dataclass(frozen=True)
class _Piece:
    """``count`` neighbouring outputs of a row from ``at`` on, of which the first ``stored`` belong to the layer. They
    are the first of ``read`` sums.
    """

    row: Row
    at: int
    count: int
    stored: int
    read: int

    @property
    def partial(self) -> bool:
        return self.stored < self.count

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The stored outputs of a partial piece as first output and length, which divides the first."""
        return [(self.stored // 2 * 2 - 2 * (size == 2), size) for size in (2, 1) if self.stored & size]

    @property
    def lanes(self):
        return _lanes(self.at, self.count)

    @property
    def alone(self) -> _Piece:
        """The piece with the stored outputs only."""
        return replace(self, count=self.stored)


def _lanes(first, count: int):
    return nest.Lanes(first, count) if count > 1 else first


def choices(layer: Layer, core) -> dict[str, Choice]:
    """The choices of a layer with weights that concern its outputs."""
    return integer_constants.lookup_choice(layer, core) | few_choice(layer, core)


def few_choice(layer: Layer, core) -> dict[str, Choice]:
    """The choice of what becomes of one or two columns beyond a multiple of four: ``shared`` vectors, or vectors of
    ``padded`` sums. To share takes instructions that join sums: they cost a Cortex-A53 and A72 what they save.
    """
    few = 0 < layer.out_channels % LEAST <= LEAST // 2 and layer.output_dtype == "int8"
    found = "shared", "padded"
    return {"few": Choice(found, found[0 if core.fma_per_cycle > 1 else 1])} if few else {}


def vectors(rows: int, width: int) -> int:
    """The number of vectors that the outputs of a tile fill."""
    whole, rest = divmod(width, VECTOR)
    by_size = Counter(size for size, _ in _pieces(rest, True))
    return rows * whole + sum(-(-rows * count // (VECTOR // size)) for size, count in by_size.items())


def moves(rows: int, width: int) -> int:
    """The number of pieces of a tile's outputs that are taken out of a vector to be stored."""
    return rows * len(_pieces(width % VECTOR, True))


def _pieces(width: int, padded: bool) -> list[tuple[int, int]]:
    """The sizes in which ``width`` neighbours are computed, and the numbers of them that are stored."""
    found = []
    while width:
        size = LEAST if padded and width < LEAST else next(c for c in PIECES if c <= width)
        found.append((size, min(size, width)))
        width -= found[-1][1]
    return found


def store(layer: Layer, f: nest.Kernel, rows: Sequence[Row], width: int, first, padded: bool) -> None:
    """Write ``width`` neighbouring channels from ``first`` on of some rows, through requantization, table and
    addition. ``padded``: there are sums, and constants, for a multiple of `LEAST` channels.
    """
    close = f.decisions.get("few") == "shared"
    made = [_Vector(layer, f, pieces, first) for pieces in _vectors(layer, rows, width, padded, close)]
    for vector in made:
        vector.requantize()
    if "table" in layer.constants:
        _look_up(f, made)
    for step in ("add", "write"):
        for vector in made:
            getattr(vector, step)()


def _look_up(f: nest.Kernel, made: Sequence[_Vector]) -> None:
    """Replace values by those of the layer's table. Its first quarter is read only if it has more than one value."""
    for vector in made:
        vector.look_up()
    by_tables = [vector for vector in made if integers.by_tables(f, vector.count)]
    if by_tables:
        with nest.when(f["lowest"][0] == values.const(integers.INT8[0], "int8")):
            for vector in by_tables:
                vector.look_up_first()


def _vectors(layer: Layer, rows: Sequence[Row], width: int, padded: bool, close: bool) -> list[list[_Piece]]:
    """The outputs as vectors of pieces; ``close``: whether few outputs of several rows share a vector."""
    if layer.output_layout == "NHWC" and layer.output_dtype == "int8":
        return _shared(rows, width, padded, close)
    pieces = _pieces(width, padded) if layer.output_layout == "NHWC" else [(1, 1)] * width
    return [[piece] for own in _each(rows, pieces) for piece in own]


def _each(rows: Sequence[Row], pieces: list[tuple[int, int]]) -> Iterator[list[_Piece]]:
    """The pieces of all rows, for each piece of a row."""
    at = 0
    for size, stored in pieces:
        yield [_Piece(row, at, size, stored, size) for row in rows]
        at += stored


def _shared(rows: Sequence[Row], width: int, padded: bool, close: bool) -> list[list[_Piece]]:
    """The outputs as vectors. Pieces of one size share vectors of sixteen lanes, as far as they go. If ``close``, one
    or two outputs share vectors of sixteen or eight lanes without the padding behind them.
    """
    by_size: dict[int, list[_Piece]] = {}
    found = []
    for own in _each(rows, _pieces(width, padded)):
        if close and own[0].partial and own[0].stored <= LEAST // 2:
            found, own = _close(own)
        if own:
            by_size.setdefault(own[0].count, []).extend(own)
    for size, pieces in by_size.items():
        most = 1 if size == 1 else VECTOR // size
        found += [part for at in range(0, len(pieces), most) for part in _halved(pieces[at : at + most])]
    return found


def _close(pieces: list[_Piece]) -> tuple[list[list[_Piece]], list[_Piece]]:
    """Vectors that hold the stored outputs of pieces alone, and the pieces that are left."""
    found = []
    while lanes := next((n for n in PIECES if pieces and LEAST < n <= len(pieces) * pieces[0].stored), 0):
        rows = lanes // pieces[0].stored
        found.append([piece.alone for piece in pieces[:rows]])
        pieces = pieces[rows:]
    return found, pieces


def _halved(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Pieces in vectors of 16, 8, 4 or 1 lanes, the numbers of lanes that have names."""
    found, size = [], pieces[0].count
    while pieces:
        most = next(c for c in PIECES if c <= len(pieces) * size) // size
        found.append(pieces[:most])
        pieces = pieces[most:]
    return found


class _Vector:
    """The outputs of one vector, from sums to memory."""

    def __init__(self, layer: Layer, f: nest.Kernel, pieces: list[_Piece], first):
        self.layer, self.f, self.pieces, self.first = layer, f, pieces, first
        self.each = pieces[0].count
        self.count = self.each * len(pieces)
        self.made = f.variables(1, self.count, layer.output_dtype) if self.count > 1 else None

    def _joined(self, of: Callable):
        """A value of each piece, side by side; ``of(piece)`` may have more lanes, which are left out."""
        found = [of(piece) for piece in self.pieces]
        if len(found) == 1:
            return found[0]
        have = values.lanes_of(found[0])
        return tirx.Shuffle(found, [n * have + lane for n in range(len(found)) for lane in range(min(have, self.each))])

    def _vectors(self, second: bool) -> integers.Constants | None:
        own = self.f.get("vectors")
        return own and integers.Constants(own, second, self.f.decisions.get("apart", "none") != "none")

    def requantize(self) -> None:
        layer, ends = self.layer, self.f["ends"]
        factor = self._joined(lambda piece: self.f["scale"][_lanes(piece.at, piece.read) + self.first])
        total = self._joined(lambda piece: piece.row.sums(piece.at, piece.read))
        if layer.output_dtype == "float32":
            self._keep(values.cast(integers.unshifted(total, layer.small, self.count), "float32") * factor)
            return
        slopes = self.f.get("below")
        below = slopes and self._joined(lambda piece: slopes[_lanes(piece.at, piece.read) + self.first])
        clamps = layer.activation != "none" and bounds(layer.activation) is not None  # a table includes its clamp
        clamped = clamps and layer.residual != "before"
        own = integers.Ends(ends[1], ends[2], ends[3], clamped, self._vectors(False))
        self._keep(integers.requantize(total, factor, own, layer.small, self.count, below))

    def look_up(self) -> None:
        value = self._value()
        if integers.by_tables(self.f, self.count):
            self.read = self.f.variables(1, self.count, "int8")
            self.read[0] = value
        self._keep(integers.looked_up(self.f, value, self.count))

    def look_up_first(self) -> None:
        self._keep(tirx.bitwise_or(self._value(), integers.of_first(self.f, self.read[0], self.count)))

    def add(self) -> None:
        if self.layer.residual == "none":
            return
        second = self._joined(lambda piece: self._loaded(piece))
        if len(self.pieces) > 1:
            second = integers.reinterpret(second, "int8", self.count)
        self._keep(integers.added(self._value(), second, self.f, self.layer, self.count, vectors=self._vectors(True)))

    def _loaded(self, piece: _Piece):
        """The second operand of a piece; if a vector has several pieces, each is loaded as one number."""
        if piece.partial:
            found = integers.filled(
                lambda first, count: self.f["second"][piece.row.index(_lanes(piece.at + first, count))],
                piece.stored,
                piece.count,
            )
        else:
            found = self.f["second"][piece.row.index(piece.lanes)]
        return found if len(self.pieces) == 1 else integers.reinterpret(found, WHOLE[self.each], 1)

    def write(self) -> None:
        whole = None
        if len(self.pieces) > 1:
            whole = integers.reinterpret(self._value(), WHOLE[self.each], len(self.pieces))
        for n, piece in enumerate(self.pieces):
            if piece.partial:
                self._write_partial(n, piece)
                continue
            made = self._value()
            if whole is not None:
                made = integers.reinterpret(tirx.Shuffle([whole], [n]), "int8", self.each)
            self.f["output"][piece.row.index(piece.lanes)] = made

    def _write_partial(self, n: int, piece: _Piece) -> None:
        out = self.f["output"]
        for first, count in piece.runs:
            at, value = n * self.each + first, self._value()
            if self.layer.output_dtype == "int8":
                few = integers.reinterpret(value, WHOLE[count], self.count // count)
                few = integers.reinterpret(tirx.Shuffle([few], [at // count]), "int8", count)
            else:
                few = tirx.Shuffle([value], list(range(at, at + count)))
            out[piece.row.index(_lanes(piece.at + first, count))] = few

    def _keep(self, value) -> None:
        if self.made is None:
            self._scalar = value
        else:
            self.made[0] = value

    def _value(self):
        return self._scalar if self.made is None else self.made[0]
