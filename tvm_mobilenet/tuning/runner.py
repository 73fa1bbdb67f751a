"""Runs built candidates on an open board, virtual, local or remote: their result is compared, then their cost counts.

The very machine code is executed, and its result compared with what the layer should compute, which is for
`checking.stepped.expected` to say. Of large layers a virtual board may run a sample of the kernel's parallel tasks
while searching, and the rows that those wrote are compared; ``whole`` runs and compares all.

A predicted cost is the whole model's: compute cycles, and what all loads and stores take through the core's caches,
which at first hold what the layer before has just written. ``compute`` is kept beside it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from dataclasses import asdict

import numpy as np

from tvm_mobilenet.boards.comparison import require_right
from tvm_mobilenet.tune_logs.journal import typed
from tvm_mobilenet.tuning.builder import Builder, Built
from tvm_mobilenet.tuning.candidate import Candidate, Outcome

LAYERS_KEPT = 4  # operands and reference of so many layers stay in memory


class Runner:
    """Runs libraries, checks what they compute and says what they cost; its calls may come from several threads.

    ``one_thread``: it measures on one thread alone, because others measure on the same machine.
    """

    def __init__(self, one_thread: bool = False):
        self._one_thread, self._lock = one_thread, threading.Lock()
        self._known: OrderedDict = OrderedDict()

    def arguments(self, layer, decisions: dict) -> tuple[list[np.ndarray], np.ndarray]:
        """Random arguments of a layer's kernel, the output all not-a-number, and what should be in it then."""
        from tvm_mobilenet.checking import reference, stepped

        with self._lock:
            if layer not in self._known:
                operands = reference.random_arguments(layer)
                self._known[layer] = operands, stepped.expected(layer, **operands)
                if len(self._known) > LAYERS_KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(layer)
            operands, expected = self._known[layer]
        arguments = reference.kernel_arguments(layer, decisions, operands)
        arguments[-1].fill(np.nan if np.issubdtype(arguments[-1].dtype, np.floating) else reference.UNREAD)
        return arguments, expected

    def run(self, built: Built, board) -> Outcome:
        """What a library costs on a board, on one core and on all.

        Raises
        ------
        WrongResult
            It computes something else.
        BoardError
            It ran wild or reports an error; `Lost` where that ended the session.
        """
        from tvm_mobilenet.checking import stepped
        from tvm_mobilenet.schedules import nest

        candidate, cores = built.candidate, board.target.cores
        counts = (1,) if board.measures and (self._one_thread or cores == 1) else (1, cores)
        arguments, expected = self.arguments(built.layer, candidate.decisions)
        with board.load(built.library) as module:
            module.expect({nest.SYMBOL: built.takes})
            if board.measures:
                runs = module.call_on(nest.SYMBOL, arguments, counts)
            else:  # one run, whose cost is known on any number of cores
                whole = candidate.whole or arguments[-1].dtype.kind != "f"  # of integers none says "not written"
                tasks = "all" if whole else "sample"
                runs = [module.call(nest.SYMBOL, arguments, tasks, memory=True)] * len(counts)
        allowed = stepped.allowed(built.layer)
        found = built.layer.output_place.view(runs[0].outputs[-1])
        difference = require_right(found, expected, sample=runs[0].sampled, **allowed)
        cost, *every = (run.cost(count) for run, count in zip(runs, counts, strict=True))
        parts = _parts(runs[0], board.target) if cost.predicted else {}
        all_cores = float(every[0].value) if every else None
        return Outcome(float(cost.value), cost.unit, cost.predicted, difference, all_cores, **parts, code=built.code)


def _parts(run, target) -> dict[str, float]:
    """What a prediction is made of."""
    from tvm_mobilenet.targets.memory import rates

    compute, cores = run.compute_on(1).value, target.cores
    moved = zip(run.traffic.bytes, rates(target.core, target).one, strict=True)
    return {
        "compute": compute,
        "memory": sum(amount / rate for amount, rate in moved),
        "balance": cores * run.compute_on(cores).value / compute,
    }


class OnBoard:
    """Has an open board in each worker; made in the parent, called in the workers.

    Parameters are those of ``boards.open_board`` and ``compiler.codegen.compile_kernels``.
    """

    def __init__(self, target, board: str = "virtual", linker: str | None = None):
        self.target, self.board, self.linker = target, board, linker

    def prepare(self) -> None:
        """Import what takes seconds, and open the board."""
        import tvm  # noqa: F401

        from tvm_mobilenet import boards

        with contextlib.suppress(ImportError):
            import torch

            torch.set_num_threads(1)  # one process a core already
        self.opened = boards.open_board(self.board, self.target)


class Evaluate(OnBoard):
    """Builds and runs candidates, both in one process."""

    def prepare(self) -> None:
        super().prepare()
        self.builder, self._runner = Builder(self.target, self.linker), Runner(one_thread=True)

    def __call__(self, candidate: Candidate) -> Outcome:
        built = self.builder.build(candidate)
        try:
            return self._runner.run(built, self.opened)
        finally:
            built.remove()

    def pack(self, outcome: Outcome) -> dict:
        """An outcome as plain data."""
        return asdict(outcome)

    def unpack(self, candidate: Candidate, data: object, folder) -> Outcome:
        """What `pack` made of a candidate's outcome; a ValueError says what it is instead."""
        return Outcome(**typed(Outcome, data))
