"""TVM's executable of a build against the build's own plan: the same kernels on the same constants, so the same bits.

The plan's outputs are compared with the model. What they are is therefore right, and the executable, which has its own
copy of the constants and its own order of calls, must give exactly them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.boards import executable_run
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.errors import VerificationError

_FEWEST_SECONDS, _TIMES = 60.0, 20  # a run may take so long, or so many times what the plan's took


@dataclass(frozen=True)
class ExecutableCheck:
    """What TVM's executable of a build gave.

    Attributes
    ----------
    file : str
    where : str
        What ran its kernels, for people.
    inputs : int
    output : str
        The first that differs from the plan's; empty: none does.
    relative : float
        By how much, of its standard deviation.
    """

    file: str
    where: str
    inputs: int
    output: str = ""
    relative: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.output

    def __str__(self) -> str:
        found = "the plan's outputs in every bit"
        if not self.ok:
            found = f"another {self.output} than the plan: it differs by {self.relative:.2e} of its standard deviation"
        count = f"{self.inputs} input{'s' * (self.inputs > 1)}"
        return f"{self.file}, run by TVM's virtual machine {self.where} on {count}, gives {found}"

    def require(self) -> None:
        """Raise a VerificationError unless it gave the plan's outputs."""
        if not self.ok:
            raise VerificationError(
                f"the TVM executable {self}", "build it again with --tvm; if it stays, report the model and the target"
            )


def check(board, module, inputs: list, values: list[list[np.ndarray]], seconds: float) -> ExecutableCheck | None:
    """Run a build's executable on inputs whose outputs are known.

    Parameters
    ----------
    board : board
        Opened.
    module : built.BuiltModule
    inputs : list of tuples of ndarray
    values : list of lists of ndarray
        What the plan gave.
    seconds : float
        That it took.

    Returns
    -------
    ExecutableCheck or None
        None: the build has no executable, or nothing here runs its target's code.

    Raises
    ------
    BoardError
        It crashes, hangs, or is none.
    """
    if not module.has_executable or not executable_run.can_run(board):
        return None
    found = executable_run.outputs(board, module, inputs, max(_FEWEST_SECONDS, _TIMES * seconds))
    where = "there" if executable_run.runs_there(board) else "with its kernels on the virtual board"
    known = ExecutableCheck(module.executable.name, where, len(inputs))
    for one, right in zip(found, values, strict=True):
        for (name, _), got, due in zip(module.plan.outputs, one, right, strict=True):
            if not np.array_equal(got, due, equal_nan=due.dtype.kind == "f"):
                return ExecutableCheck(known.file, where, len(inputs), name, relative(got, due))
    return known


def run_once(module, network, target) -> ExecutableCheck | None:
    """Run a new build's executable and its plan on one input, on this machine or the virtual board, and compare them.

    Returns
    -------
    ExecutableCheck or None
        As `check` does.

    Raises
    ------
    VerificationError
        They differ.
    BoardError
        One of them crashes or hangs.
    """
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.boards.library_runner import open_runner

    if not target.is_host and not target.core.model:
        return None
    inputs = network.inputs(1)
    with open_board("local" if target.is_host else "virtual", target) as board:
        start = time.monotonic()
        with open_runner(board, module) as runner:
            values = [runner.run(*x).outputs for x in inputs]
        found = check(board, module, inputs, values, time.monotonic() - start)
    if found is not None:
        found.require()
    return found
