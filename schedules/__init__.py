"""Schedules: what is computed for each kind of layer, and how.

A kind of layer is one module here, with three functions that all take the same decision record (a plain dict such as
``{"tile_m": 7, "tile_n": 8, …}``):

``decisions(layer, core) -> Space``       its free choices, with candidates and defaults computed from the core
``pack(layer, decisions, weight, bias)``  the constants as the kernel wants them, numpy in, numpy out
``kernel(layer, decisions) -> PrimFunc``  the loop nest; arguments: data, packed constants, second operand if the layer
                                          has one, output

The same decisions always give the same TIR, whoever asks: search, replay of a log, or an untuned build.
"""

from __future__ import annotations

import functools
import importlib
import json

from tvm_mobilenet.layer import Layer

_MODULES = {
    "pointwise": "pointwise",
    "dense": "pointwise",
    "conv": "conv",
    "depthwise": "depthwise",
    "pool": "pool",
    "elementwise": "elementwise",
    "softmax": "softmax",
    "chain": "fused_block",
}


def of(layer: Layer):
    """The schedule module of a layer's kind."""
    return importlib.import_module(f"{__package__}.{_MODULES[layer.kind]}")


@functools.lru_cache(maxsize=4096)
def _space(layer: Layer, core):
    return of(layer).decisions(layer, core)


def space(layer: Layer, core):
    """The ``Space`` of decisions of a layer on a core."""
    return _space(layer, core)


def kernel(layer: Layer, decisions: dict):
    """The PrimFunc of a layer under these decisions; built once a process."""
    return _kernel(layer, json.dumps(decisions, sort_keys=True))


@functools.lru_cache(maxsize=512)
def _kernel(layer: Layer, decisions: str):
    return of(layer).kernel(layer, json.loads(decisions))


def pack(layer: Layer, decisions: dict, weight, bias) -> list:
    """The constants of a layer, float arrays as PyTorch has them, in the order and layout its kernel takes them.

    Of a chain, ``weight`` and ``bias`` are tuples with those of its parts.
    """
    return of(layer).pack(layer, decisions, weight, bias) if layer.weight_shape else []
