"""The runner of built candidates on an open board, virtual, local or remote: it compares their result, then takes their
cost.

The runner executes the machine code and compares its result with the expected one, from `checking.stepped.expected`. In
a search, a virtual board may run only a sample of a large layer's parallel tasks, and the rows that these wrote are
compared; ``whole`` runs and compares all.

A predicted cost includes compute cycles and the memory cycles of all loads and stores through the core's caches. At the
start the caches hold the output of the previous layer. ``compute`` is recorded beside the cost.
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

LAYERS_KEPT = 4  # number of layers whose operands and reference stay in memory


class Runner:
    """Runs libraries, checks their results and returns their costs. Several threads may call it.

    ``one_thread``: measure on one thread only, because other processes measure on the same machine.
    """

    def __init__(self, one_thread: bool = False):
        self._one_thread, self._lock = one_thread, threading.Lock()
        self._known: OrderedDict = OrderedDict()

    def arguments(self, layer, decisions: dict) -> tuple[list[np.ndarray], np.ndarray]:
        """Random arguments of a layer's kernel, with the output all NaN, and the expected output."""
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
        """The cost of a library on a board, on one core and on all.

        Raises
        ------
        WrongResult
            The result is wrong.
        BoardError
            The kernel crashed, hung or reported an error; `Lost` if that ended the session.
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
            else:  # one run gives the cost on any number of cores
                whole = candidate.whole or arguments[-1].dtype.kind != "f"  # no integer value means "not written"
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
    """The parts of a prediction."""
    from tvm_mobilenet.targets.memory import rates

    compute, cores = run.compute_on(1).value, target.cores
    moved = zip(run.traffic.bytes, rates(target.core, target).one, strict=True)
    return {
        "compute": compute,
        "memory": sum(amount / rate for amount, rate in moved),
        "balance": cores * run.compute_on(cores).value / compute,
    }


class OnBoard:
    """An open board in each worker; the object is made in the parent and called in the workers.

    Parameters are those of ``boards.open_board`` and ``compiler.codegen.compile_kernels``.
    """

    def __init__(self, target, board: str = "virtual", linker: str | None = None):
        self.target, self.board, self.linker = target, board, linker

    def prepare(self) -> None:
        """Import modules that take seconds to load, and open the board."""
        import tvm  # noqa: F401

        from tvm_mobilenet import boards

        with contextlib.suppress(ImportError):
            import torch

            torch.set_num_threads(1)  # there is already one process per core
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
        """The result of `pack` for a candidate; a ValueError describes malformed data."""
        return Outcome(**typed(Outcome, data))
