"""Generic layers: any operator, by the loop nest that TVM makes of it.

The nest of each statement::

    parallel over all dimensions of the output but the last, as one loop
      for each vector of the last
        for each dimension that is reduced
          output = ..., one vector of `lanes` where the last dimension is a multiple of it

A statement that only one other reads, value by value, is inlined there. If the other dimensions are too few for all
cores, ``tasks`` shares the vectors of the last dimension too. Otherwise, values that do not depend on the last
dimension, such as the positions between which a resize interpolates, are computed once for all of it.

LLVM allocates the registers. There are no free choices, so there is no search.
"""

from __future__ import annotations

import re
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
    if widest < dtypes.of(layer.dtype).bytes:  # the layer copies values of a narrower dtype
        lanes *= dtypes.of(layer.dtype).bytes // widest
    tasks = "rows" if prod(layer.body.output[:-1]) >= SHARES * core.cpus else "vectors"
    return Space({"lanes": Choice((lanes,), lanes), "tasks": Choice((tasks,), tasks)}, lambda d: "")


def constants(layer: Layer) -> list[nest.Argument]:
    """The arguments that `pack` returns."""
    return [(name, shape, dtype) for name, (shape, dtype) in layer.constants.items()]


def pack(layer: Layer, d: Decisions, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The constants as they are."""
    return [np.ascontiguousarray(arrays[name], dtype=dtype) for name, (_, dtype) in layer.constants.items()]


def kernel(layer: Layer, d: Decisions):
    """The PrimFunc of a layer that carries its own loop nest.

    Raises
    ------
    TvmMobilenetError
        The layer was parsed from its name, so it has no loop nest.
    """
    import tvm
    from tvm import s_tir, tirx

    if layer.body.function is None:
        raise TvmMobilenetError(
            f"{layer.name}: its loop nest is in its model, not in its name", "build the model that it is from"
        )
    schedule = s_tir.Schedule(tvm.IRModule({nest.SYMBOL: layer.body.function}))
    kept = ()
    if layer.body.function.body.block.name_hint == "root":  # otherwise it is a scan, whose loops stay as TVM wrote them
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
    """Inline a statement into its readers, if TVM can: it must not be a reduction."""
    from tvm import s_tir

    try:
        schedule.compute_inline(block)
    except s_tir.ScheduleError:
        return


_SCALAR = r"\b(sinh|cosh)\("  # functions of which TVM knows no form for vectors


def _loops(schedule, block, lanes: int, rows: bool) -> None:
    """Make the outer loops of a statement one parallel loop, and the innermost a vector."""
    kinds = [int(variable.iter_type) for variable in schedule.get(block).iter_vars]
    loops = schedule.get_loops(block)
    if len(loops) != len(kinds):  # for example a single value
        return
    outer = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _SPATIAL]
    if not outer or kinds[: len(outer)] != [_SPATIAL] * len(outer):
        return
    reduced, extent = loops[len(outer) :], int(schedule.get(outer[-1]).extent)
    vectors = not re.search(_SCALAR, str(schedule.get(block)))
    if vectors and extent % lanes == 0 and (not reduced or len(schedule.get(block).writes) == 1):
        last, vector = schedule.split(outer.pop(), [None, lanes])
        schedule.reorder(*reduced, vector)
        schedule.vectorize(vector)
        outer.append(last)
    if rows and len(outer) > 1:
        outer.pop()
    schedule.parallel(schedule.fuse(*outer) if len(outer) > 1 else outer[0])
