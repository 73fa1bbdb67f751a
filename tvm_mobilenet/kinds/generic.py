"""Generic layers: one operator that no other kind computes, carried along as the loop nest that TVM makes of it.

Such a layer has no free choices, no epilogue and no row pitch. Its tensors lie dense, in the order of their dimensions.
Its name gives operator, shapes and a hash of the nest: ``generic concat 1x3x8x8 1x5x8x8 to 1x8x8x8 f32 #0123456789ab``.
A layer parsed from its name is equal to the original, but has no nest, so it can be shown, not built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds import Kind, register

DIGEST = 12  # characters of a nest's hash


@dataclass(frozen=True)
class View:
    """A layer that only joins or cuts tensors; `compiler.views` can then avoid moving their values.

    Parameters
    ----------
    axis : int
        The axis along which it joins its operands, or cuts its only one.
    begin : int or None
        The first index of a cut; None if it joins.
    """

    axis: int
    begin: int | None = None


@dataclass(frozen=True)
class Body:
    """The computation of a generic layer.

    Parameters
    ----------
    operands : tuple of tuples of int
        Shapes of the tensors that it reads, in order.
    constants : tuple of tuples of int
        Shapes of its constants.
    output : tuple of int
    dtypes : tuple of str
        The dtypes of operands, constants and output, in order; empty if all have the layer's dtype.
    digest : str
        A hash of the nest without names.
    function : tirx.PrimFunc, optional
        The nest: first operand, constants, other operands, output.
    reference : callable, optional
        ``reference(*operands, *constants)``, float64 arrays: the output in float64.
    narrow : callable, optional
        ``narrow(dtype)``: the layer that moves values of another dtype in the same way; only for operators that compute
        nothing.
    view : View, optional
        Given for a concatenation or a slice.
    """

    operands: tuple[tuple[int, ...], ...]
    constants: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    digest: str
    dtypes: tuple[str, ...] = ()
    function: object = field(default=None, compare=False, repr=False)
    reference: Callable | None = field(default=None, compare=False, repr=False)
    narrow: Callable | None = field(default=None, compare=False, repr=False)
    view: View | None = field(default=None, compare=False, repr=False)


def _text(shape: tuple[int, ...], dtype: str = "") -> str:
    """``1x8x8x3``, or ``1x8x8x3_i64`` if its dtype differs from the layer's."""
    return ("x".join(map(str, shape)) or "1") + (f"_{dtypes.of(dtype).token}" if dtype else "")


def name_of(layer) -> str:
    """The name of a generic layer."""
    body = layer.body
    count = len(body.operands) + len(body.constants) + 1
    others = ["" if dtype == layer.dtype else dtype for dtype in body.dtypes or (layer.dtype,) * count]
    shapes = [_text(*each) for each in zip((*body.operands, *body.constants, body.output), others, strict=True)]
    given, constants = shapes[: len(body.operands)], ["c" + text for text in shapes[len(body.operands) : -1]]
    words = [layer.kind, layer.op, *given, *constants, "to", shapes[-1], dtypes.of(layer.dtype).token]
    return " ".join([*words, f"#{body.digest}"])


def fields_of(name: str) -> dict:
    """The fields of a generic layer from its name; its body has no nest.

    Raises
    ------
    ValueError
        It is not the name of a generic layer.
    """
    shape = rf"\d+(?:x\d+)*(?:_(?:{'|'.join(dtypes.BY_TOKEN)}))?"
    pattern = rf"generic (\w+)((?: c?{shape})*) to ({shape}) (\w+) #([0-9a-f]+)"
    found = re.fullmatch(pattern, name)
    if not found or found[4] not in dtypes.BY_TOKEN:
        raise ValueError(f"layer name {name!r}: no operator, shapes, dtype and hash of a generic layer")

    own = dtypes.BY_TOKEN[found[4]].name
    read: list[tuple[int, ...]] = []
    held: list[str] = []
    words = found[2].split()
    for word in (*words, found[3]):
        sizes, _, token = word.removeprefix("c").partition("_")
        read.append(tuple(map(int, sizes.split("x"))))
        held.append(dtypes.BY_TOKEN[token].name if token else own)
    count = sum(word[0] != "c" for word in words)
    others = tuple(held) if set(held) != {own} else ()
    return fields(found[1], Body(tuple(read[:count]), tuple(read[count:-1]), read[-1], found[5], others), own)


def fields(op: str, body: Body, dtype: str) -> dict:
    """The fields of an operator's generic layer: one position with as many channels as there are values."""
    from math import prod

    return {
        "kind": "generic",
        "height": 1,
        "channels": max(1, prod(body.operands[0])),
        "out_channels": max(1, prod(body.output)),
        "op": op,
        "dtype": dtype,
        "body": body,
    }


register(Kind(name="generic", schedule="generic", ops=None, keeps_channels=False, has_body=True, epilogue=False))
