"""Generic layers: any operator, by the loop nest that TVM makes of it.

The nest, of each of its statements::

    parallel over all dimensions of the output but the last, as one loop
      for each vector of the last
        for each dimension that is reduced
          output = ..., one vector of `lanes` where the last dimension is a multiple of it

What only another statement reads value by value is computed there. Where the other dimensions are too few for all
cores, vectors of the last are shared too, ``tasks``; else what depends on them alone, such as the places between which
a resize interpolates, is computed once for all of the last dimension.

Register budget: LLVM's. There is nothing to choose, so nothing to search.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from tvm_mobilenet.schedules import nest
from tvm_mobilenet.schedules.choices import SHARES, Choice, Decisions, Space
from tvm_mobilenet.schedules.registers import sum_lanes

from tvm_mobilenet import dtypes
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer

DTYPES = ("float32",)
_SPATIAL = 0  # the type of an iteration variable over the output's values; others are reduced


def decisions(layer: Layer, core) -> Space:
    widest = max((dtypes.of(d).bytes for d in layer.body.dtypes), default=dtypes.of(layer.dtype).bytes)
    lanes = sum_lanes(layer, core)
    if widest < dtypes.of(layer.dtype).bytes:  # it moves narrow values
        lanes *= dtypes.of(layer.dtype).bytes // widest
    tasks = "rows" if prod(layer.body.output[:-1]) >= SHARES * core.cpus else "vectors"
    return Space({"lanes": Choice((lanes,), lanes), "tasks": Choice((tasks,), tasks)}, lambda d: "")


def constants(layer: Layer) -> list[nest.Argument]:
    """What `pack` gives."""
    return [(name, shape, dtype) for name, (shape, dtype) in layer.constants.items()]


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The constants as they are."""
    return [np.ascontiguousarray(arrays[name], dtype=dtype) for name, (_, dtype) in layer.constants.items()]


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of a layer that carries its nest.

    Raises
    ------
    TvmMobilenetError
        The layer was read from its name.
    """
    import tvm
    from tvm import s_tir, tirx

    if layer.body.function is None:
        raise TvmMobilenetError(
            f"{layer.name}: its loop nest is in its model, not in its name", "build the model that it is from"
        )
    schedule = s_tir.Schedule(tvm.IRModule({nest.SYMBOL: layer.body.function}))
    kept = ()
    if layer.body.function.body.block.name_hint == "root":  # else a scan, whose loops TVM wrote as they are
        root = schedule.get_sblock("root", nest.SYMBOL)
        for block in schedule.get_child_blocks(root)[:-1]:
            _inline(schedule, block)
        for block in schedule.get_child_blocks(root):
            _loops(schedule, block, d["lanes"], d["tasks"] == "rows")
        kept = schedule.get(root).alloc_buffers
    scratch = sum(prod(map(int, b.shape)) * dtypes.of(str(b.dtype)).bytes for b in kept)
    plain = [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.StmtSimplify(),
    ]
    lowered = tvm.transform.Sequential(plain)(schedule.mod)[nest.SYMBOL]
    return lowered.with_attrs({"tirx.noalias": True, "global_symbol": nest.SYMBOL, "scratch_bytes": scratch})


def _inline(schedule, block) -> None:
    """A statement into those that read it, where TVM can: it reduces nothing."""
    from tvm import s_tir

    try:
        schedule.compute_inline(block)
    except s_tir.ScheduleError:
        return


def _loops(schedule, block, lanes: int, rows: bool) -> None:
    """The outer loops of a statement as one parallel loop, the innermost as a vector."""
    kinds = [int(variable.iter_type) for variable in schedule.get(block).iter_vars]
    loops = schedule.get_loops(block)
    outer = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _SPATIAL]
    if not outer or len(loops) != len(kinds) or kinds[: len(outer)] != [_SPATIAL] * len(outer):
        return
    reduced, extent = loops[len(outer) :], int(schedule.get(outer[-1]).extent)
    if extent % lanes == 0 and (not reduced or len(schedule.get(block).writes) == 1):
        last, vector = schedule.split(outer.pop(), [None, lanes])
        schedule.reorder(*reduced, vector)
        schedule.vectorize(vector)
        outer.append(last)
    if rows and len(outer) > 1:
        outer.pop()
    schedule.parallel(schedule.fuse(*outer) if len(outer) > 1 else outer[0])
