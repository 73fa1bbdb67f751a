"""The best boxes of a detector: the one with the highest score, then the next that does not overlap it, and so on.

TVM's own operators sort by a call of its runtime, which no device has. `chosen` is a loop nest: for each of the boxes
that are wanted, it reads all scores for the highest, then lowers those of the boxes that overlap it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

op = relax.op
_NONE = float(np.finfo(np.float32).min)  # the score of a box that is out
_MOST_PLACES = 1 << 24  # float32 has all whole numbers up to this


@dataclass(frozen=True)
class Overlap:
    """Which boxes are left out beside a better one.

    Attributes
    ----------
    most : float
        The largest part of the area of two boxes that both may cover.
    excludes_most : bool
        Whether ``most`` itself is too much.
    sigma : float
        Above zero, scores of the others fall by ``exp(-part ** 2 / (2 * sigma))``.
    """

    most: float
    excludes_most: bool = False
    sigma: float = 0.0


def chosen(
    bb: relax.BlockBuilder,
    scores: relax.Expr,
    boxes: relax.Expr | None,
    count: int,
    least: float,
    overlap: Overlap | None = None,
) -> tuple[relax.Var, relax.Var, relax.Var]:
    """The best boxes of each class.

    Parameters
    ----------
    scores : (classes, n) float32
    boxes : (n, 4) float32 or None
        Two opposite corners. None: nothing is left out.
    count : int
        Boxes that are wanted of each class.
    least : float
        Only boxes with a score above it are chosen.

    Returns
    -------
    places : (classes, count) int64
        In order of their scores, of equal ones the first; zero for those that are missing.
    values : (classes, count) float32
        Their scores; zero for those that are missing.
    found : (classes,) int32
        How many there are.
    """
    classes, size = (int(d) for d in scores.ty.shape)
    if size > _MOST_PLACES or count < 1:
        raise ValueError(f"{count} of {size:,} boxes")
    given = [scores] if boxes is None else [scores, boxes]
    width = size + 2 * count + 1

    def nest(*tensors: te.Tensor) -> te.Tensor:
        return te.extern(
            [(classes, width)],
            list(tensors),
            lambda ins, outs: _loops(ins, outs[0], classes, size, count, least, overlap),
            name="best_boxes",
            dtype="float32",
        )

    made = bb.emit_te(nest, *given, primfunc_name_hint="best_boxes")

    def part(start: int, stop: int) -> relax.Var:
        return bb.emit(op.strided_slice(made, [1], [start], [stop]))

    places = bb.emit(op.astype(part(size, size + count), "int64"))
    found = bb.emit(op.astype(bb.emit(op.reshape(part(width - 1, width), (classes,))), "int32"))
    return places, part(size + count, width - 1), found


def _loops(ins, out, classes: int, size: int, count: int, least: float, overlap: Overlap | None):
    """A row of the output has the scores that are left, the places and scores that are chosen, and their number."""
    number = size + 2 * count
    threshold, none = tirx.const(least, "float32"), tirx.const(_NONE, "float32")
    with IRBuilder() as builder:
        scores, *others = map(T.buffer_proxy, ins)
        out = T.buffer_proxy(out)
        with T.seq_scope(), T.serial(0, classes) as c:
            out[c, number] = 0.0
            with T.serial(0, size) as i:
                out[c, i] = tirx.Select(scores[c, i] > threshold, scores[c, i], none)
            with T.serial(0, count) as k:
                place, value = size + k, size + count + k
                out[c, place] = 0.0
                out[c, value] = none
                with T.serial(0, size) as i, T.If(out[c, i] > out[c, value]), T.Then():
                    out[c, place] = i.astype("float32")
                    out[c, value] = out[c, i]
                with T.If(out[c, value] > none):
                    with T.Then():
                        out[c, number] = out[c, number] + 1.0
                        out[c, out[c, place].astype("int32")] = none
                        if overlap is not None:
                            best = out[c, place].astype("int32")
                            with T.serial(0, size) as i, T.If(out[c, i] > none), T.Then():
                                out[c, i] = _left(others[0], best, i, out[c, i], threshold, none, overlap)
                    with T.Else():
                        out[c, value] = 0.0
        return builder.get()


def _left(boxes, best, i, score, threshold, none, overlap: Overlap):
    """The score of a box beside a better one."""
    ends = []
    for at in (best, i):
        low = [tirx.min(boxes[at, axis], boxes[at, axis + 2]) for axis in (0, 1)]
        high = [tirx.max(boxes[at, axis], boxes[at, axis + 2]) for axis in (0, 1)]
        ends.append((low, high, (high[0] - low[0]) * (high[1] - low[1])))
    (low, high, area), (other_low, other_high, other_area) = ends
    zero = tirx.const(0.0, "float32")
    sides = [
        tirx.max(tirx.min(high[axis], other_high[axis]) - tirx.max(low[axis], other_low[axis]), zero) for axis in (0, 1)
    ]
    both = sides[0] * sides[1]
    known = tirx.all(area > zero, other_area > zero)
    part = tirx.Select(known, both / tirx.Select(known, area + other_area - both, tirx.const(1.0, "float32")), zero)
    most = tirx.const(overlap.most, "float32")
    if overlap.sigma > 0:
        score = score * tirx.exp(part * part * tirx.const(-0.5 / overlap.sigma, "float32"))
        score = tirx.Select(score > threshold, score, none)
    return tirx.Select(part >= most if overlap.excludes_most else part > most, none, score)
