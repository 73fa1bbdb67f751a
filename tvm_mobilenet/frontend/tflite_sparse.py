"""Sparse tensors of a TFLite file, unpacked when it is read.

A tensor of n dimensions is a tree of levels, one a dimension, in any order; behind them may stand levels of the
dimensions of a block. A dense level has all places of its dimension below each place of the level before. A compressed
one has a list of places, and where the part of each place before begins in it. The stored values are the leaves in
order (TFLite's ``SparsityParameters``).
"""

from __future__ import annotations

import math

import numpy as np

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import tflite_schema as schema
from tvm_mobilenet.frontend.flatbuffer import Damaged, Table


def unpacked(table: Table, stored: np.ndarray, shape: tuple[int, ...], dtype: str, name: str) -> np.ndarray:
    """The whole tensor.

    Parameters
    ----------
    table : Table
        Its ``SparsityParameters``.
    stored : (n,) uint8
        The bytes of its values.

    Raises
    ------
    Damaged
        The levels do not fit the shape or the values.
    TvmMobilenetError
        The tensor is many times as large as its values.
    """
    dtype = np.dtype(dtype).newbyteorder("<")
    if len(stored) % dtype.itemsize:
        raise Damaged(f"{name}, sparse {dtype.name}, has {len(stored):,} bytes")
    values, elements = stored.view(dtype), math.prod(shape)
    limits.check_constant(elements * dtype.itemsize, len(stored), name)
    place, count = np.zeros(1, np.int64), 1
    for axis, step, size, level in _levels(table, shape, name):
        parents, below = _children(level, count, size, f"{name}: the level of dimension {axis}")
        place = place[parents] + below * step
        count = len(place)
        if count > elements:
            raise Damaged(f"{name} has more places than elements")
    if count != len(values):
        raise Damaged(f"{name} has {len(values):,} values for {count:,} places")
    whole = np.zeros(elements, dtype)
    whole[place] = values
    return whole.reshape(shape)


def _levels(table: Table, shape: tuple[int, ...], name: str) -> list[tuple]:
    """For each level its dimension, the step of a place in memory, its size and its table."""
    field, rank = schema.SPARSITY, len(shape)
    order, blocked = (table.array(field[f], np.int32).tolist() for f in ("traversal_order", "block_map"))
    tables = table.tables(field["dim_metadata"], 2 * limits.MOST_RANK, "levels of a sparse tensor")
    count = rank + len(blocked)
    if sorted(order) != list(range(count)) or len(tables) != count or len(set(blocked)) != len(blocked):
        raise Damaged(f"{name}: levels {order} with blocks of {blocked} for the shape {list(shape)}")
    if any(not 0 <= axis < rank for axis in blocked):
        raise Damaged(f"{name}: blocks of the dimensions {blocked}")
    blocks = {}
    for axis, level in zip(order, tables, strict=True):
        if axis >= rank:
            blocks[blocked[axis - rank]] = level.number(schema.DIMENSION["dense_size"], "i")
    if odd := [axis for axis, size in blocks.items() if size < 1 or shape[axis] % size]:
        raise Damaged(f"{name}: blocks of {blocks[odd[0]]} in the dimension {odd[0]} of {shape[odd[0]]}")
    levels = []
    for axis, level in zip(order, tables, strict=True):
        own = blocked[axis - rank] if axis >= rank else axis
        step, block = math.prod(shape[own + 1 :]), blocks.get(own, 1)
        levels.append((own, step, block, level) if axis >= rank else (own, step * block, shape[own] // block, level))
    return levels


def _children(level: Table, count: int, size: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """For each place of a level, the number of its parent and its index in the dimension."""
    field = schema.DIMENSION
    kind = level.number(field["format"], "b")
    if kind == schema.DENSE:
        if level.number(field["dense_size"], "i") != size:
            raise Damaged(f"{where} has {level.number(field['dense_size'], 'i')} places for {size}")
        return np.repeat(np.arange(count), size), np.tile(np.arange(size), count)
    if kind != schema.COMPRESSED:
        raise Damaged(f"{where} is of the format {kind}")
    starts, places = (_numbers(level, f"array_{what}", where) for what in ("segments", "indices"))
    if len(starts) != count + 1 or starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] != len(places):
        raise Damaged(f"{where}: {len(starts):,} starts of {len(places):,} places, below {count:,}")
    if len(places) and not 0 <= places.min() <= places.max() < size:
        raise Damaged(f"{where} has places out of {size}")
    return np.repeat(np.arange(count), np.diff(starts)), places


def _numbers(level: Table, name: str, where: str) -> np.ndarray:
    kind = level.number(schema.DIMENSION[f"{name}_type"], "B")
    held = level.table(schema.DIMENSION[name])
    if kind not in schema.INDEX_DTYPES or held is None:
        raise Damaged(f"{where} has no {name}")
    return held.array(0, schema.INDEX_DTYPES[kind]).astype(np.int64)
