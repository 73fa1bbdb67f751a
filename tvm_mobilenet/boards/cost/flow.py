"""Split executions of instructions into traces: loops and straight lines.

Counts of instructions and of taken branches give the weight of every edge between basic blocks. That flow is split
exactly. Loops are taken first, the innermost before the others, each as its path from the header back to the header
with the number of iterations. The rest are straight lines. Every execution of every instruction is in exactly one
trace.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.boards.cost.instructions import Instruction


@dataclass(frozen=True)
class Trace:
    """Instructions that execute one after another.

    Parameters
    ----------
    instructions : tuple of Instruction
    count : int
        Times the whole trace executed.
    loop : bool
        Whether its end jumps back to its beginning.
    """

    instructions: tuple[Instruction, ...]
    count: int
    loop: bool


@dataclass
class _Block:
    instructions: list[Instruction]
    left: int  # executions that are not in a trace yet
    edges: dict[int, int]  # from successor's address to executions that are not in a trace yet


def traces(listing: dict[int, Instruction], first: int, executed: np.ndarray, taken: np.ndarray) -> list[Trace]:
    """Split one task's execution into traces.

    Parameters
    ----------
    listing : dict
        From address to instruction, for all executed instructions.
    first : int
        Address of ``executed[0]``.
    executed, taken : (n,) int
        As ``Counts`` has them.
    """
    blocks = _blocks(listing, first, executed, taken)
    found: list[Trace] = []
    back = sorted(
        ((a, t) for a, b in blocks.items() for t in b.edges if t <= a and t in blocks),
        key=lambda e: (e[0] - e[1], e[0]),
    )
    for latch, header in back:
        while (path := _path(blocks, header, latch)) is not None:
            count = min(
                [
                    blocks[latch].edges[header],
                    *(blocks[a].left for a in path),
                    *(blocks[a].edges[b] for a, b in itertools.pairwise(path)),
                ]
            )
            blocks[latch].edges[header] -= count
            _take(blocks, path, count)
            found.append(_trace(blocks, path, count, True))
    for start in sorted(blocks):
        while blocks[start].left > 0:
            path = [start]
            while True:
                edges = blocks[path[-1]].edges
                after = [(n, t) for t, n in edges.items() if n > 0 and t in blocks and blocks[t].left and t > path[-1]]
                if not after:
                    break
                path.append(max(after)[1])
            count = min([*(blocks[a].left for a in path), *(blocks[a].edges[b] for a, b in itertools.pairwise(path))])
            _take(blocks, path, count)
            found.append(_trace(blocks, path, count, False))
    return found


def _blocks(listing, first, executed, taken) -> dict[int, _Block]:
    where = np.flatnonzero(executed)
    targets = {i.target for i in listing.values() if i.target >= 0}
    blocks: dict[int, _Block] = {}
    current: _Block | None = None
    before = None
    for k in where:
        address = first + 4 * int(k)
        i = listing[address]
        n = int(executed[k])
        if current is None or address != before + 4 or address in targets or n != current.left:
            if current is not None and address == before + 4:
                _fall_through(current, address)
            current = blocks[address] = _Block([], n, {})
        current.instructions.append(i)
        before = address
        if i.branch:
            jumped = int(taken[k])
            if i.branch in ("always", "cond") and i.target >= 0:
                jumped = n if i.branch == "always" else jumped
                current.edges[i.target] = jumped
            stays = {"always": 0, "indirect": 0, "call": n}.get(i.branch, n - jumped)
            if stays:
                current.edges[address + 4] = current.edges.get(address + 4, 0) + stays
            current = None
    return blocks


def _fall_through(block: _Block, address: int):
    last = block.instructions[-1]
    if not last.branch:
        block.edges[address] = block.left


def _path(blocks, header, latch) -> list[int] | None:
    """The most frequent path from header to latch through addresses between them."""
    if blocks[latch].edges.get(header, 0) <= 0:
        return None
    path = [header]
    while path[-1] != latch:
        edges = blocks[path[-1]].edges
        after = [
            (n, t) for t, n in edges.items() if n > 0 and path[-1] < t <= latch and t in blocks and blocks[t].left > 0
        ]
        if not after:
            return None
        path.append(max(after)[1])
    return path if all(blocks[a].left > 0 for a in path) else None


def _take(blocks, path, count):
    for a in path:
        blocks[a].left -= count
    for a, b in itertools.pairwise(path):
        blocks[a].edges[b] -= count


def _trace(blocks, path, count, loop) -> Trace:
    return Trace(tuple(i for a in path for i in blocks[a].instructions), count, loop)
