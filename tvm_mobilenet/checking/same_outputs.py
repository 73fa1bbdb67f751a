"""The files of a build that the plan's run did not use: each is run as well, and must give the same outputs.

The outputs of that run were compared with the model, so they are right. The other files have the same kernels, but
their own order of calls, tables and copy of the constants. Their outputs must be equal to the bit.

=================  =====================================  =========================================
the plan's run     on the virtual board                   on this machine, or a board with the agent
=================  =====================================  =========================================
uses               ``kernels.so``                         ``libmobilenet.so``
also runs          ``libmobilenet.so``, ``model.so``      ``kernels.so`` (here alone), ``model.so``
=================  =====================================  =========================================
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.errors import VerificationError

_FEWEST_SECONDS, _TIMES = 60.0, 20  # limits of a run: seconds, or times the plan's run


@dataclass(frozen=True)
class SameOutputs:
    """The result of one file.

    Attributes
    ----------
    file : str
    how : str
        A description of the way it was run.
    inputs : int
    output : str
        The first output that differs from the plan's; empty if none does.
    relative : float
        The difference over the output's standard deviation.
    """

    file: str
    how: str
    inputs: int
    output: str = ""
    relative: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.output

    def __str__(self) -> str:
        found = "the same outputs in every bit"
        if not self.ok:
            found = f"another {self.output} than the plan: it differs by {self.relative:.2e} of its standard deviation"
        return f"{self.file}, {self.how}, on {self.inputs} input{'s' * (self.inputs > 1)}: {found}"

    def require(self) -> None:
        """Raise a VerificationError unless it gave the plan's outputs."""
        if not self.ok:
            raise VerificationError(str(self), "build it again; if it stays, report the model and the target")


def check(board, module, inputs: list, values: list[list[np.ndarray]], seconds: float) -> list[SameOutputs]:
    """Run a build's other files on inputs whose outputs are known.

    Parameters
    ----------
    board : board
        Opened.
    module : built.BuiltModule
    inputs : list of tuples of ndarray
    values : list of lists of ndarray
        The outputs of the plan's run.
    seconds : float
        The time of the plan's run.

    Raises
    ------
    BoardError
        A file crashes, hangs, or cannot be loaded.
    """
    from tvm_mobilenet.boards import tvm_run

    found = []
    if not board.measures and module.runtime and module.build:
        from tvm_mobilenet.boards.virtual.library import EmulatedLibrary

        with EmulatedLibrary(module, board.target) as library:
            given = [library.run(*x) for x in inputs]
        found.append(_compared(module.runtime.name, "executed on the virtual board", module.plan, given, values))
    limit = max(_FEWEST_SECONDS, _TIMES * seconds)
    for name, (how, given) in tvm_run.outputs(board, module, inputs, limit).items():
        found.append(_compared(name, how, module.plan, given, values))
    return found


def _compared(file: str, how: str, plan, given: list, values: list) -> SameOutputs:
    for one, right in zip(given, values, strict=True):
        for (name, _), got, due in zip(plan.outputs, one, right, strict=True):
            if not np.array_equal(got, due, equal_nan=due.dtype.kind == "f"):
                return SameOutputs(file, how, len(given), name, relative(got, due))
    return SameOutputs(file, how, len(given))


def run_once(module, network, target) -> list[SameOutputs]:
    """Run a new build by its plan and its other files on one input, here or on the virtual board, and compare them.

    Returns
    -------
    list of SameOutputs
        Empty if nothing here can run the target's code.

    Raises
    ------
    VerificationError
        They differ.
    BoardError
        One of them crashes or hangs.
    """
    from tvm_mobilenet.boards import open_board, own
    from tvm_mobilenet.boards.library_runner import open_runner

    if not target.is_host and not target.core.model:
        return []
    inputs = network.inputs(1)
    with open_board(own(target), target) as board:
        start = time.monotonic()
        with open_runner(board, module) as runner:
            values = [runner.run(*x).outputs for x in inputs]
        found = check(board, module, inputs, values, time.monotonic() - start)
    for one in found:
        one.require()
    return found
