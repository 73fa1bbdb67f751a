"""From an imported graph to layers: Relax to Relax, then, from `channels_last` on, lists of layers to lists of layers.

``run(mod)`` applies `RELAX_PASSES`, `channels_last` and `LAYER_PASSES` in order. The result is a `LayerGraph`.

- ``given_scales``: a network that comes quantized becomes float32 with marks;
- ``simplify``: patterns of the exporters become one canonical form;
- ``attention``: PyTorch's decomposed attention becomes that of ONNX files;
- ``kinks``: PReLUs that are written with other operators;
- ``transposed_conv``: transposed convolutions become convolutions;
- ``activations``: hard-swish and the others get their names;
- ``fold_pad``: explicit pads go into the operator that reads them;
- ``channels_last``: operators become layers, NHWC, without transposes;
- ``fold_batch_norm``: scale and shift go into the weights;
- ``marks``: the scales of a network that comes quantized, at their layers;
- ``fuse_epilogue``: activation, residual add and output layout go into the layer before.

``compiler/pipeline.py`` continues with the steps that depend on the target.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm

from tvm_mobilenet.passes import (
    activations,
    attention,
    channels_last,
    fold_batch_norm,
    fold_pad,
    fuse_epilogue,
    given_scales,
    kinks,
    marks,
    simplify,
    transposed_conv,
)
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, Port, Signature

RELAX_PASSES = (given_scales, simplify, attention, kinks, transposed_conv, activations, fold_pad)
LAYER_PASSES = (fold_batch_norm, marks, fuse_epilogue)
OF_SOME = (given_scales, attention, kinks, transposed_conv, marks)  # these return their input if they change nothing

__all__ = ["LAYER_PASSES", "RELAX_PASSES", "LayerCall", "LayerGraph", "Port", "Signature", "run"]


def run(
    mod: tvm.IRModule, watch: Callable[[str, object], None] = lambda phase, what: None, integer: bool = False
) -> LayerGraph:
    """An imported module as layers.

    Parameters
    ----------
    integer : bool
        Whether the layers are to become int8.
    watch : callable
        Called after each pass with its name, such as ``fold_pad``, and its result; not after a pass of `OF_SOME` that
        had nothing to do.

    Raises
    ------
    TvmMobilenetError
        Some operators are not supported; the message names each with its place and shapes.
    """
    made = mod
    for step in (*RELAX_PASSES, channels_last, *LAYER_PASSES):
        before, made = made, step.run(made, integer) if step is fuse_epilogue else step.run(made)
        if made is before and step in OF_SOME:
            continue
        watch(step.__name__.rpartition(".")[2], made)
    return made
