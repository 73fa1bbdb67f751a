"""Kinds of layers: each module here declares and registers one kind. There is no other list of kinds.

A kind declares the geometry of its layers, the fields in their names, their computation in PyTorch, the module of
``schedules`` that computes them, and the permissions of passes. `of` finds a kind by its name. This package has only
plain data and functions of a layer; their callers import torch.
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
        The same, for narrow tables.
    schedule : str
        The module of ``schedules`` that computes it.
    ops : tuple of str or None
        The permitted values of ``Layer.op``; None for any word.
    identity : str
        The op that only copies data, through the activation.
    unary : tuple of str
        Ops without a second operand.
    selects : tuple of str
        Ops whose outputs are values of the data, such as a maximum.
    with_rows : str
        For a kind with ``pixels``: the kind with the same computation that knows rows and columns.
    groups : str
        The permitted ``Layer.groups``: ``one``, ``channels`` or ``any``.
    keeps_channels : bool
        Whether its output has the channels of its data; if not, names give their number, ``n``.
    keeps_data : bool
        Whether its output has the channels of its data first, then as many that it computes; activation and residual
        apply to both.
    windowed : bool
        Whether names give the size of its window.
    resizes : bool
        Whether its output has a height and width of its own, ``Layer.size``.
    pixels : bool
        Whether it is a matrix product, which knows a number of pixels, ``m``, but no rows and columns.
    images : bool
        For a kind with ``pixels``: whether each row is a whole image.
    has_parts : bool
        Whether it has several layers in one kernel, and its parts make its name.
    has_body : bool
        Whether each layer carries a loop nest of its own and any number of operands, ``Layer.body`` (`kinds.generic`).
    epilogue : bool
        Whether it can apply an activation.
    writes_nchw : bool
        Whether it can write its output as NCHW, the layout that a network's output may have.
    pitched : bool
        Whether its tensors may have a row pitch.
    wide : bool
        Whether its sums have the wide dtype of its data's dtype.
    streams : str
        The place that it may have in a fused block: ``no``, ``first`` or ``anywhere``.
    function : str
        The function that it applies to its sum in place of the layer's activation.
    weight_shape : callable or None
        The shape of a layer's weight, as in PyTorch; None if it has no weight.
    formula : callable
        ``formula(layer, cost)``: the multiply-adds by the papers' formulas; ``cost`` is `models.cost`.
    patterns : dict of str to callable
        For each Relax operator, such as ``nn.conv2d``: ``pattern(make, call)`` makes the layer of a call and returns
        its tensor, or None if the call is not of this kind. ``make`` is a `passes.channels_last.ChannelsLast`.
    reference : callable
        ``reference(layer, x, weight, bias, second)``: the sum before residual and activation, of float64 tensors with
        channels second. The function applies the padding itself.
    stepped : callable or None
        ``stepped(layer, x, weight, bias, second, steps)``: the same in the order of its kernel, on float64 arrays with
        channels last; ``steps``, a `checking.stepped.Steps`, rounds. None if the kernel has no fixed order.
    """

    name: str
    short: str = ""
    schedule: str
    ops: tuple[str, ...] | None = ("",)
    identity: str = ""
    unary: tuple[str, ...] = ()
    selects: tuple[str, ...] = ()
    with_rows: str = ""
    groups: str = "one"
    keeps_channels: bool = True
    keeps_data: bool = False
    windowed: bool = False
    resizes: bool = False
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

    def moves(self, layer) -> bool:
        """Whether each output of a layer of this kind is a value of its data."""
        return layer.activation == "none" and (layer.copies or layer.op in self.selects)


_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Register a kind; its module calls this once.

    Raises
    ------
    ValueError
        Another kind has this name.
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
    """The patterns of all kinds for a Relax operator, in the order of the kinds' names."""
    return [kind.patterns[operator] for kind in every() if operator in kind.patterns]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
