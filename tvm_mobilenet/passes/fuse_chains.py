"""Layers to chains: which layers run as one kernel, row by row, so that what lies between them stays in cache.

A tensor between two layers costs a write and a read of DRAM when it is larger than the cache. Fusing pays there, as long
as the rows that the chain keeps and the weights it reads again for every row still fit. All of that is known from the
shapes and the core, so the rule is arithmetic on them and no table:

- an edge is worth fusing when its tensor takes a quarter of the L2 or more;
- what one task keeps between the parts takes at most its share of the L2: a quarter of a shared one (four cores work at
  once), half of a core's own;
- the pointwise weights of a chain, read once a row, take at most half of the L2.

Among all ways to cut a network into such chains, the one that writes the fewest bytes between them is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import Interface, LayerCall, uses


def fuse_chains(calls: Sequence[LayerCall], interface: Interface, core) -> list[LayerCall]:
    """The calls with chains in place of the layers that they take in.

    Parameters
    ----------
    calls, interface
        Of a module of layers.
    core : targets.Core
        Its L2 decides.
    """
    count = uses(list(calls), interface)
    # From the end: the cheapest way to cut what follows call i, and where its first chain ends.
    best: list[tuple[int, int]] = [(0, 0)] * (len(calls) + 1)
    for i in reversed(range(len(calls))):
        end, options = i + 1, [(_tensor_bytes(calls[i]) + best[i + 1][0], i + 1)]
        while end < len(calls) and _follows(calls[end - 1], calls[end], count, core, first=end - 1 == i):
            end += 1
            if _fits([c.layer for c in calls[i:end]], core):
                options.append((_tensor_bytes(calls[end - 1]) + best[end][0], end))
        best[i] = min(options)
    fused: list[LayerCall] = []
    i = 0
    while i < len(calls):
        end = best[i][1]
        fused.append(calls[i] if end == i + 1 else join(list(calls[i:end])))
        i = end
    return fused


def _tensor_bytes(call: LayerCall) -> int:
    return int(np.prod(call.layer.output_shape)) * 4


def _follows(last: LayerCall, call: LayerCall, count, core, first: bool) -> bool:
    """Whether a layer may stream from the one before it, and the tensor between them is worth it."""
    layer = call.layer
    if layer.kind not in ("depthwise", "pointwise") or not _streams(last.layer, first):
        return False
    if call.inputs[0] != last.output or count[last.output] != 1 or last.layer.residual != "none":
        return False
    if layer.batch != 1 or layer.input_layout != "NHWC" or layer.output_layout != "NHWC" or layer.dtype != "float32":
        return False
    return _tensor_bytes(last) >= core.l2.bytes // 4


def _fits(parts: list[Layer], core) -> bool:
    """Whether what a chain keeps and reads again fits, and its last part writes what it has to write anyway."""
    if parts[-1].kind == "depthwise" or all(part.kind == "pointwise" for part in parts):
        return False
    from tvm_mobilenet.schedules import chain as schedule

    weights = sum(int(np.prod(p.weight_shape)) for p in parts if p.kind == "pointwise") * 4
    scratch = schedule.scratch_floats(Layer.chain(tuple(parts))) * 4
    return weights <= core.l2.bytes // 2 and scratch <= core.l2.bytes // (4 if core.l2.shared else 2)


def _streams(layer: Layer, first: bool) -> bool:
    """Whether a chain can go on after this layer."""
    if layer.batch != 1 or layer.output_layout != "NHWC":
        return False
    if layer.kind == "conv":
        return first and layer.groups == 1
    return layer.kind in ("depthwise", "pointwise")


def join(chain: list[LayerCall]) -> LayerCall:
    """Calls, each of which reads only what the one before it writes, as one call of a chain."""
    last = chain[-1]
    return LayerCall(
        chain[0].name,
        Layer.chain(tuple(c.layer for c in chain)),
        f"{chain[0].source} … {last.source}",
        (chain[0].inputs[0], *last.inputs[1:]),
        tuple(c.weight for c in chain),
        tuple(c.bias for c in chain),
        last.output,
    )
