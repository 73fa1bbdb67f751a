"""One candidate: a layer with decisions, built for a target, executed on a board, checked and priced.

The very machine code is executed: the kernel is compiled and linked as it will ship, its result is compared with the
layer's definition in PyTorch, and only then its cost counts. Of large layers a board may run a sample of the
kernel's parallel tasks while searching, and the rows that those wrote are compared; ``whole`` runs and compares all.

A predicted cost is the whole model's: arithmetic, and what all loads and stores take through the caches of the core,
which at first hold what the layer before has just written. ``arithmetic`` is kept beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.boards.comparison import require_right

LAYERS_KEPT = 4  # operands and reference of so many layers stay in memory


@dataclass(frozen=True)
class Candidate:
    """A layer by name, and decisions; ``whole`` to run all of the kernel's tasks."""

    layer: str
    decisions: dict
    whole: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a candidate that computes the right thing costs, and by how much of the output's spread it is off.

    Of a predicted cost, ``arithmetic``: what it would be if every load hit the first-level cache; ``memory``: what the
    traffic takes at all levels, one after another; ``balance``: the arithmetic of all cores over an even share of it.
    """

    cost: float
    unit: str
    predicted: bool
    difference: float
    cost_all_cores: float | None = None
    arithmetic: float | None = None
    memory: float | None = None
    balance: float | None = None


class Operands:
    """Random operands and the reference's result, of the last few layers asked for."""

    def __init__(self):
        self._known: OrderedDict = OrderedDict()

    def arguments(self, layer, decisions: dict) -> tuple[list[np.ndarray], np.ndarray]:
        """The arguments of a layer's kernel, the output all not-a-number, and what should be in it then."""
        from tvm_mobilenet.checking import reference

        if layer not in self._known:
            operands = reference.random_arguments(layer)
            self._known[layer] = operands, reference.reference(layer, *map(operands.get, _OPERANDS))
            if len(self._known) > LAYERS_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(layer)
        operands, expected = self._known[layer]
        arguments = reference.kernel_arguments(layer, decisions, operands)
        arguments[-1].fill(np.nan if np.issubdtype(arguments[-1].dtype, np.floating) else 0)
        return arguments, expected


class Evaluate:
    """Builds, runs, checks and prices candidates on one board; made in the searching process, called in the workers.

    Parameters
    ----------
    target : targets.Target
        What is built for.
    board : str
        As ``boards.open_board`` takes it.
    linker : str, optional
        As ``compiler.codegen.compile_kernels`` takes it.
    """

    def __init__(self, target, board: str = "virtual", linker: str | None = None):
        self.target, self.board, self.linker = target, board, linker

    def prepare(self) -> None:
        """Import what takes seconds, and open the board."""
        import tvm  # noqa: F401

        from tvm_mobilenet import boards

        try:
            import torch

            torch.set_num_threads(1)  # one process a core already
        except ImportError:
            pass
        self._board = boards.open_board(self.board, self.target)
        self._operands = Operands()

    def __call__(self, candidate: Candidate) -> Outcome:
        from tvm_mobilenet import schedules
        from tvm_mobilenet.compiler import codegen
        from tvm_mobilenet.layer import Layer
        from tvm_mobilenet.schedules import nest

        layer = Layer.parse(candidate.layer)
        arguments, expected = self._operands.arguments(layer, candidate.decisions)
        kernel = schedules.kernel(layer, candidate.decisions)
        with tempfile.TemporaryDirectory(prefix="candidate-") as folder:
            library = os.path.join(folder, "kernel.so")
            codegen.compile_kernels({nest.SYMBOL: kernel}, self.target, library, self.linker)
            with self._board.load(library) as module:
                follow = {} if self._board.measures else {"memory": True}
                run = module.call(nest.SYMBOL, arguments, tasks="all" if candidate.whole else "sample", **follow)
                cost, all_cores = run.cost(1), run.cost()
        difference = require_right(run.outputs[-1], expected, sample=not candidate.whole)
        # A measurement here is one of a single thread (workers.py); a prediction is made for any number of cores.
        if not cost.predicted:
            return Outcome(float(cost.value), cost.unit, cost.predicted, difference)
        arithmetic, cores = run.arithmetic_on(1).value, self.target.cores
        balance = cores * run.arithmetic_on(cores).value / arithmetic
        return Outcome(
            float(cost.value),
            cost.unit,
            cost.predicted,
            difference,
            float(all_cores.value),
            arithmetic,
            traffic_cycles(run, self.target),
            balance,
        )


def traffic_cycles(run, target) -> float:
    """What a `KernelRun` moves on one core, in cycles of each level's own bandwidth, added up."""
    from tvm_mobilenet.boards.cost.memory_time import rates

    one = rates(target.core, target).one
    return sum(moved / rate for moved, rate in zip(run.traffic.bytes, one, strict=True))


_OPERANDS = ("data", "weight", "bias", "second")
