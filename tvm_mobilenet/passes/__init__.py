"""Relax to Relax: from an imported graph to layers.

``run(mod)`` applies `PASSES` in order. After it, ``main`` is nothing but calls of layers, one private function each,
with free views between them; `layers_of` lists them.

    simplify         one spelling for what exporters write in many
    activations      hard-swish and the others by name
    fold_pad         explicit pads into the operator that reads them
    channels_last    operators to layers, NHWC, no transposes
    fold_batch_norm  scale and shift into the weights
    fuse_epilogue    activation, residual add and output layout into the layer before
"""

from __future__ import annotations

import tvm

from tvm_mobilenet.passes import activations, channels_last, fold_batch_norm, fold_pad, fuse_epilogue, simplify
from tvm_mobilenet.passes.layer_graph import Interface, LayerCall, Port, read

PASSES = (simplify.run, activations.run, fold_pad.run, channels_last.run, fold_batch_norm.run, fuse_epilogue.run)

__all__ = ["PASSES", "Interface", "LayerCall", "Port", "interface_of", "layers_of", "run"]


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """An imported module as a module of layers.

    Raises
    ------
    TvmMobilenetError
        Names every unsupported operator, with its place and shapes.
    """
    names = (mod["main"].attrs or {}).get("outputs")
    for step in PASSES:
        mod = step(mod)
    if names:
        mod["main"] = mod["main"].with_attr("outputs", names)
    return mod


def layers_of(mod: tvm.IRModule) -> list[LayerCall]:
    """The layers of a module that went through `run`, in execution order."""
    return read(mod)[0]


def interface_of(mod: tvm.IRModule) -> Interface:
    """What ``main`` takes and returns, and the values behind it."""
    return read(mod)[1]
