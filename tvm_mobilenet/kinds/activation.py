"""The activation of a layer, as one word: a plain one, or one with the numbers that it needs.

``relu``, ``relu6``, ``hardswish``, ``hardsigmoid``, ``sigmoid``, ``silu`` and ``none`` are as PyTorch has them.
``prelu`` multiplies values below zero by a slope of their channel, which is a constant of the layer (``slopes``).
``leaky0.1`` multiplies them by this number. ``clip-1,1`` is a clamp to these bounds, of which one may be infinite.
``hardswish0.2,0.5`` is x times the clamp of 0.2 x + 0.5 to 0 and 1.

Numbers are float32, in as few digits as give them back. An activation has one word only: ``clip0,6`` is ``relu6``.
"""

from __future__ import annotations

import math
import re

import numpy as np

PLAIN = ("none", "relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "silu")
PER_CHANNEL = "prelu"  # its slopes are a constant of the layer
NUMBERED = {"leaky": 1, "clip": 2, "hardswish": 2}  # activations with numbers, and how many
SLOPES = "slopes"  # the constant of PER_CHANNEL
WORD = rf"(?P<kind>{'|'.join(NUMBERED)})(?P<numbers>-?(?:[\d.]+|inf)(?:,-?(?:[\d.]+|inf))?)"  # of one with numbers
_BOUNDS = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
_HARD = 1 / 6, 0.5  # slope and offset of MobileNetV3's hard-swish


def named(kind: str, *numbers: float) -> str:
    """The word of an activation with numbers, which are rounded to float32.

    Raises
    ------
    ValueError
        There is no such activation: a number is NaN, a slope is infinite, or a lower bound is above the upper one.
    """
    numbers = tuple(float(np.float32(number)) for number in numbers)
    if any(map(math.isnan, numbers)) or (kind != "clip" and any(map(math.isinf, numbers))):
        raise ValueError(f"{kind} of {numbers}: its numbers must be finite")
    if kind == "leaky":
        plain = {0.0: "relu", 1.0: "none"}.get(numbers[0], "")
    elif kind == "clip":
        if not numbers[0] <= numbers[1] or numbers[0] == math.inf or numbers[1] == -math.inf:
            raise ValueError(f"a clamp from {numbers[0]:g} to {numbers[1]:g} has no values")
        plain = next((word for word, bounds in _BOUNDS.items() if bounds == numbers), "")
    else:
        plain = kind if all(map(np.isclose, numbers, _HARD, (1e-6, 1e-6), (0, 0))) else ""
    return plain or kind + ",".join(map(_text, numbers))


def _text(number: float) -> str:
    return np.format_float_positional(np.float32(number) + np.float32(0), trim="-")  # no zero is negative


def parsed(activation: str) -> tuple[str, tuple[float, ...]]:
    """The kind of an activation, and its numbers; none for a plain one."""
    found = re.fullmatch(WORD, activation)
    if found is None:
        return activation, ()
    return found["kind"], tuple(float(np.float32(number)) for number in found["numbers"].split(","))


def known(activation: str) -> bool:
    """Whether this is the word of an activation."""
    try:
        kind, numbers = parsed(activation)
        if not numbers:
            return activation in (*PLAIN, PER_CHANNEL)
        return NUMBERED[kind] == len(numbers) and named(kind, *numbers) == activation
    except ValueError:
        return False


def bounds(activation: str) -> tuple[float, float] | None:
    """The bounds of an activation that is a clamp, also of ``none``; None for others."""
    kind, numbers = parsed(activation)
    return numbers if kind == "clip" else _BOUNDS.get(activation)


def changes(activation: str, made_by: str) -> bool:
    """Whether an activation may change values that another has made: no clamp changes its own."""
    return activation != "none" and (activation != made_by or bounds(activation) is None)


def of_sums(activation: str) -> bool:
    """Whether an integer layer applies an activation to its sums, without a table: a clamp, or a PReLU."""
    return activation == PER_CHANNEL or bounds(activation) is not None


def definition(activation: str, y, slopes=None):
    """An activation in PyTorch, of a tensor with channels second. ``slopes``: one for each channel, of a PReLU."""
    import torch.nn.functional as F

    kind, numbers = parsed(activation)
    if kind == PER_CHANNEL:
        return F.prelu(y, slopes.to(y.dtype))
    if kind == "leaky":
        return F.leaky_relu(y, *numbers)
    if kind == "clip":
        return y.clamp(*numbers)
    if numbers:
        return y * (numbers[0] * y + numbers[1]).clamp(0.0, 1.0)
    return {"none": lambda y: y, "sigmoid": lambda y: y.sigmoid()}.get(kind, getattr(F, kind, None))(y)
