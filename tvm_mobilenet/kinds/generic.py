"""Generic layers: one operator that no other kind computes, carried along as the loop nest that TVM makes of it.

Such a layer has no free choices, no epilogue and no row pitch. Its tensors lie dense, in the order of their dimensions.
Its name tells operator, shapes and a hash of the nest: ``generic concat 1x3x8x8 1x5x8x8 to 1x8x8x8 f32 #0123456789ab``.
What is read back from a name is equal to the layer, but has no nest, so it can be shown, not built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds import Kind, register

DIGEST = 12  # characters of a nest's hash


@dataclass(frozen=True)
class Body:
    """What a generic layer computes.

    Parameters
    ----------
    operands : tuple of tuples of int
        Shapes of the tensors that it reads, in order.
    constants : tuple of tuples of int
        Shapes of its constants.
    output : tuple of int
    digest : str
        Of the nest, without names.
    function : tirx.PrimFunc, optional
        The nest: first operand, constants, other operands, output.
    reference : callable, optional
        ``reference(*operands, *constants)``, float64 arrays: the output in float64.
    """

    operands: tuple[tuple[int, ...], ...]
    constants: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    digest: str
    function: object = field(default=None, compare=False, repr=False)
    reference: Callable | None = field(default=None, compare=False, repr=False)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"


def name_of(layer) -> str:
    """The name of a generic layer."""
    body = layer.body
    shapes = [*map(_text, body.operands), *("c" + _text(shape) for shape in body.constants)]
    words = [layer.kind, layer.op, *shapes, "to", _text(body.output), dtypes.of(layer.dtype).token, f"#{body.digest}"]
    return " ".join(words)


def fields_of(name: str) -> dict:
    """The fields of a generic layer by its name, its body without a nest.

    Raises
    ------
    ValueError
        It is none.
    """
    shape = r"\d+(?:x\d+)*"
    pattern = rf"generic (\w+)((?: c?{shape})*) to ({shape}) (\w+) #([0-9a-f]+)"
    found = re.fullmatch(pattern, name)
    if not found or found[4] not in dtypes.BY_TOKEN:
        raise ValueError(f"layer name {name!r}: no operator, shapes, dtype and hash of a generic layer")

    def read(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split("x")))

    words = found[2].split()
    body = Body(
        tuple(read(word) for word in words if word[0] != "c"),
        tuple(read(word[1:]) for word in words if word[0] == "c"),
        read(found[3]),
        found[5],
    )
    return fields(found[1], body, dtypes.BY_TOKEN[found[4]].name)


def fields(op: str, body: Body, dtype: str) -> dict:
    """The fields of the generic layer of an operator: one position with as many channels as there are values."""
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
