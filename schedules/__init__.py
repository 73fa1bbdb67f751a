"""Schedules: the computation of each kind of layer as a loop nest.

Each kind of layer has one module here, with three functions that all take the same decision record (a plain dict such
as ``{"tile_m": 7, "tile_n": 8, …}``):

``decisions(layer, core) -> Space``       its free choices, with candidates and defaults computed from the core
``pack(layer, decisions, arrays)``        the constants as the kernel wants them, numpy in, numpy out
``kernel(layer, decisions) -> PrimFunc``  the loop nest; arguments: data, packed constants, second operand if the layer
                                          has one, output

``DTYPES`` lists the dtypes of the layers that a module computes. ``READS`` and ``WRITES`` list further dtypes of their
data and output. The functions of this package refuse every other dtype.

The same decisions always give the same TIR, in a search, in the replay of a log and in an untuned build.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping

from tvm_mobilenet import kinds
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer


class NoScheduleError(TvmMobilenetError, ValueError):
    """No schedule computes a layer of this kind in this dtype."""


def of(layer: Layer):
    """The schedule module of a layer's kind."""
    return _module(layer.kind)


def _module(kind: str):
    return importlib.import_module(f"{__package__}.{kinds.of(kind).schedule}")


def implemented(kind: str) -> tuple[str, ...]:
    """The dtypes in which layers of a kind are computed."""
    return _module(kind).DTYPES


def require(layer: Layer) -> None:
    """Refuse a layer if its kind has no schedule for its dtype.

    Raises
    ------
    NoScheduleError
        The message names the kind, the dtype and the implemented dtypes.
    """
    for one in (layer, *layer.parts):
        known, module = implemented(one.kind), _module(one.kind)
        ends = ((one.input_dtype, "READS"), (one.output_dtype, "WRITES"))
        for dtype, more in (*(() if one.body is not None else ends), (one.dtype, "")):
            if dtype not in (*known, *getattr(module, more, ())):
                raise NoScheduleError(
                    f"{layer.name}: no schedule computes {one.kind} layers in {dtype}",
                    f"implemented for {one.kind}: {', '.join(known)}; give a model of that dtype",
                )


@functools.lru_cache(maxsize=4096)
def _space(layer: Layer, core):
    require(layer)
    return of(layer).decisions(layer, core)


def space(layer: Layer, core):
    """The ``Space`` of decisions for a layer on a core.

    Raises
    ------
    NoScheduleError
        The kind of the layer is not implemented in its dtype. `kernel` and `pack` raise this error too.
    """
    return _space(layer, core)


def kernel(layer: Layer, decisions: dict):
    """The PrimFunc of a layer under these decisions; each process builds it once."""
    return _kernel(layer, json.dumps(decisions, sort_keys=True))


@functools.lru_cache(maxsize=512)
def _kernel(layer: Layer, decisions: str):
    require(layer)
    return of(layer).kernel(layer, json.loads(decisions))


def pack(layer: Layer, decisions: dict, arrays: Mapping) -> list:
    """The constants of a layer, in the order and layout of its kernel's arguments.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        The constants that ``layer.constants`` names and describes, in PyTorch's layouts.
    """
    require(layer)
    return of(layer).pack(layer, decisions, arrays) if layer.constants else []
