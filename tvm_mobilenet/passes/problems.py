"""What cannot become layers, told once for each kind of trouble, with the way out that applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """An operator without a layer.

    Attributes
    ----------
    operator : str
        As Relax or the model's format calls it.
    where : str
        In the user's model.
    shapes : str
        Of its tensors.
    why : str
    at : int
        Its place among all operators.
    """

    operator: str
    where: str
    shapes: str
    why: str
    at: int


def told(problems: Sequence[Problem], products: int) -> tuple[str, str]:
    """A message and a hint.

    Parameters
    ----------
    problems : sequence of Problem
        In the order of the model, at least one.
    products : int
        The place of the last convolution or matrix product.
    """
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for one in problems:
        kinds.setdefault((one.operator, one.why), []).append(one)
    lines = []
    for (operator, why), found in kinds.items():
        first, more = found[0], f" and {len(found) - 1} more" * (len(found) > 1)
        lines.append(f"{operator} at {first.where}, {first.shapes}{more}: {why}")
    count = len(problems)
    message = f"{count} operator{'s are' if count > 1 else ' is'} not supported:\n    " + "\n    ".join(lines)
    if problems[0].at > products:
        return message, "cut the model before them (export a backbone), or replace them in the model"
    hint = "replace them in the model, for convolutions follow them; docs/reference/operators.md lists what there is"
    return message, hint
