"""Kinds of layers: one module here declares one kind and registers it; nobody else lists them.

A kind says which geometry its layers may have, what its names tell, what it computes by PyTorch, which module of
``schedules`` computes it, and what passes may do with it. `of` finds it by its name. Everything here is plain data and
functions of a layer; torch is imported by those who call them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of layer.

    Parameters
    ----------
    name : str
        The first word of its layers' names.
    short : str
        The same in tables that are too narrow.
    schedule : str
        The module of ``schedules`` that computes it.
    ops : tuple of str or None
        What ``Layer.op`` may be; None: any word.
    identity : str
        The op under which it only copies its data, through the activation.
    unary : tuple of str
        Ops without a second operand.
    with_rows : str
        Of ``pixels``: the kind that computes the same and knows rows and columns.
    groups : str
        What ``Layer.groups`` is: ``one``, ``channels`` or ``any``.
    keeps_channels : bool
        Its output has the channels of its data; else names tell how many, ``n``.
    windowed : bool
        Names tell its kernel.
    pixels : bool
        A matrix product, which knows a number of pixels, ``m``, and no rows and columns.
    images : bool
        Of ``pixels``: each row is a whole image.
    has_parts : bool
        Several layers in one kernel, named by its parts.
    has_body : bool
        Each layer carries a loop nest of its own and any number of operands, ``Layer.body`` (`kinds.generic`).
    epilogue : bool
        It can apply an activation.
    writes_nchw : bool
        It can write its output as NCHW, as the network's own outputs may be.
    pitched : bool
        Its tensors may have a row pitch.
    wide : bool
        Its sums are of the wide dtype of its data's.
    streams : str
        Whether a fused block may have it as a part: ``no``, ``first`` or ``anywhere``.
    function : str
        What it applies to its sum in place of the layer's activation.
    weight_shape : callable or None
        The shape of the weight of one of its layers, as PyTorch has it; None: it has none.
    formula : callable
        ``formula(layer, cost)``: multiply-adds by the papers, ``cost`` being `models.cost`.
    patterns : dict of str to callable
        By the name of one of Relax's operators, such as ``nn.conv2d``: ``pattern(make, call)`` makes the layer of a
        call and gives its tensor, or None where another kind does; ``make`` is `passes.channels_last.ChannelsLast`.
    reference : callable
        ``reference(layer, x, weight, bias, second)``: the sum before residual and activation, of float64 tensors with
        channels second. The padding is the kind's own to apply.
    stepped : callable or None
        ``stepped(layer, x, weight, bias, second, steps)``: the same in its kernel's order, by ``steps``, a
        `checking.stepped.Steps`, which rounds; of float64 arrays, channels last. None: there is no order.
    """

    name: str
    short: str = ""
    schedule: str
    ops: tuple[str, ...] | None = ("",)
    identity: str = ""
    unary: tuple[str, ...] = ()
    with_rows: str = ""
    groups: str = "one"
    keeps_channels: bool = True
    windowed: bool = False
    pixels: bool = False
    images: bool = False
    has_parts: bool = False
    has_body: bool = False
    epilogue: bool = True
    writes_nchw: bool = False
    pitched: bool = False
    wide: bool = False
    streams: str = "no"
    function: str = ""
    weight_shape: Callable | None = None
    formula: Callable = lambda layer, cost: 0
    patterns: dict[str, Callable] = field(default_factory=dict)
    reference: Callable | None = None
    stepped: Callable | None = None


_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Make a kind known; called once by its module.

    Raises
    ------
    ValueError
        Another one has this name.
    """
    if _KINDS.get(kind.name, kind) != kind:
        raise ValueError(f"two kinds of layers are called {kind.name!r}")
    _KINDS[kind.name] = kind
    return kind


def of(name: str) -> Kind:
    """The kind of this name.

    Raises
    ------
    KeyError
        There is none.
    """
    return _KINDS[name]


def known(name: str) -> bool:
    """Whether a kind has this name."""
    return name in _KINDS


def every() -> Iterator[Kind]:
    """All kinds, by name."""
    return (_KINDS[name] for name in sorted(_KINDS))


def patterns(operator: str) -> list[Callable]:
    """What kinds have to say of one of Relax's operators, by the kinds' names."""
    return [kind.patterns[operator] for kind in every() if operator in kind.patterns]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
