"""Operators that cannot become layers, reported once for each kind of problem, with the applicable remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """An operator without a layer.

    Attributes
    ----------
    operator : str
        Its name in Relax or in the model's format.
    where : str
        Its place in the user's model.
    shapes : str
        The shapes of its tensors.
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
    """The message and the hint of an error.

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
    hint = "replace them in the model, since convolutions follow; docs/reference/operators.md lists the supported ones"
    return message, hint
