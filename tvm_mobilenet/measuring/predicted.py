"""The virtual board's predictions for every kernel call of a built module, for several numbers of cores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class StepTime(NamedTuple):
    """Predicted seconds of one kernel call, and its seconds if every access hit the first-level cache."""

    seconds: float
    compute: float


def predict(module, target, threads: Sequence[int], clock_hz: float | None = None) -> dict[int, list[StepTime]]:
    """Predicted times of each step of the plan, by number of threads.

    Parameters
    ----------
    module : built.BuiltModule
    target : targets.Target
        Its core must have a model.
    clock_hz : float, optional
        The core's clock, if it differs from the target's.

    Raises
    ------
    BoardError
        The target has no virtual board, or a kernel crashed or did not end.
    """
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.boards.plan_runner import PlanRunner
    from tvm_mobilenet.compiler.plan import input_values, inputs_of

    with open_board("virtual", target).load(module.library) as loaded:
        runner = PlanRunner(loaded, module.plan, module.parameters())
        runs = runner.run(*input_values(inputs_of(module.plan)), cores=max(threads), memory=True).kernels
        hertz = clock_hz or target.clock_hz
        return {
            n: [StepTime(run.cost(n).value / hertz, run.compute_on(n).value / hertz) for run in runs] for n in threads
        }
