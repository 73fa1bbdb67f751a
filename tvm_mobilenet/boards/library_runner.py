"""Run a build by its own runtime, ``libmobilenet.so``, in this process or by a board's agent.

The runner has the calls of `plan_runner.PlanRunner`, which runs the same kernels by the same plan on the virtual board
and on TVM's own servers. `open_runner` chooses one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from tvm_mobilenet.boards import answers
from tvm_mobilenet.boards.interface import Seconds
from tvm_mobilenet.boards.local import LocalRun
from tvm_mobilenet.boards.plan_runner import PlanRun, PlanRunner, check_inputs
from tvm_mobilenet.compiler.module import PARAMETERS, PLAN
from tvm_mobilenet.compiler.plan import Step, Tensor
from tvm_mobilenet.files.temporary import TemporaryFolder

RUN_SECONDS, _LIMIT = 60.0, 10  # the limit of one kernel; a run may take this many times that
_PASSES = range(1, 1000)  # allowed passes over the network in one run


@contextlib.contextmanager
def open_runner(board, module) -> Iterator[PlanRunner | LibraryRunner]:
    """The runner of a built module on an opened board, with the calls of a `PlanRunner`.

    Parameters
    ----------
    board : VirtualBoard, LocalBoard or RemoteBoard
    module : built.BuiltModule
    """
    if board.measures and board.has_agent and module.runtime:
        with LibraryRunner(board, module) as runner:
            yield runner
    else:
        with board.load(module.library) as loaded:
            yield PlanRunner(loaded, module.plan, module.parameters())


class LibraryRunner:
    """A built module in its own runtime, on this machine or by the agent of a board.

    The output of each step is returned and kept here in a copy of the arena, so that `read` finds a step's operands
    while the caller watches the step.
    """

    def __init__(self, board, module):
        self._board, self._plan = board, module.plan
        self._files = {"library": board.upload(module.runtime), "parameters": board.upload(module.folder / PARAMETERS)}
        self._files["plan"] = board.upload(module.folder / PLAN)
        self._parameters = module.parameters()
        self._arena = np.zeros(max(1, module.plan.arena_bytes), np.uint8)
        ports = (*module.plan.inputs, *module.plan.outputs)
        self._ports = {(t.space, t.index): np.zeros(t.shape, t.dtype) for _, t in ports}
        self._folder = TemporaryFolder()

    def __enter__(self) -> LibraryRunner:
        return self

    def __exit__(self, *_) -> None:
        self._folder.close()

    def _view(self, tensor: Tensor) -> np.ndarray:
        if tensor.space in ("arena", "parameters"):
            space = self._arena if tensor.space == "arena" else self._parameters
            return space[tensor.offset : tensor.offset + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
        return self._ports[tensor.space, tensor.index].reshape(tensor.shape)

    def read(self, tensor: Tensor) -> np.ndarray:
        """A copy of a tensor as it is now."""
        return self._view(tensor).copy()

    def write(self, tensor: Tensor, array: np.ndarray) -> None:
        """Overwrite a tensor for a step that is called alone."""
        self._view(tensor)[...] = np.ascontiguousarray(array, tensor.dtype)

    def call(self, step: Step, cores: int | None = None, memory: bool = False) -> LocalRun:
        """Run one step alone on the present contents of its operands."""
        number = self._plan.steps.index(step)
        given = {str(i): self._view(t) for i, t in enumerate(step.operands[:-1]) if t.space != "parameters"}
        wanted = {"0": _kind_of(step.operands[-1]), "seconds": (_PASSES, 1)}
        answer = self._ask(given, wanted, threads=cores or self._board.target.cores, step=number)
        self.write(step.operands[-1], answer["0"])
        return _run_of(step, answer["seconds"][:, 0], answer["0"])

    def run(
        self,
        *inputs: np.ndarray,
        cores: int | None = None,
        memory: bool = False,
        watch: Callable[[Step, object, LibraryRunner], None] | None = None,
    ) -> PlanRun:
        """Run all steps, as `PlanRunner.run`, and time each in its place."""
        check_inputs(self._plan, inputs)
        for array, (_, tensor) in zip(inputs, self._plan.inputs, strict=True):
            self.write(tensor, array)
        given = {str(i): array for i, array in enumerate(inputs)}
        steps = self._plan.steps
        wanted = {"seconds": (_PASSES, len(steps))}
        wanted |= {f"output{i}": _kind_of(tensor) for i, (_, tensor) in enumerate(self._plan.outputs)}
        wanted |= {str(i): _kind_of(step.operands[-1]) for i, step in enumerate(steps)} if watch else {}
        answer = self._ask(given, wanted, threads=cores or self._board.target.cores, watched=watch is not None)
        kernels = []
        for i, step in enumerate(self._plan.steps):
            kernels.append(_run_of(step, answer["seconds"][:, i], answer.get(str(i))))
            if watch:
                self.write(step.operands[-1], answer[str(i)])
                watch(step, kernels[-1], self)
        outputs = [answer[f"output{i}"] for i in range(len(self._plan.outputs))]
        for array, (_, tensor) in zip(outputs, self._plan.outputs, strict=True):
            self.write(tensor, array)
        return PlanRun(outputs, kernels)

    def _ask(self, given: dict[str, np.ndarray], wanted: dict[str, tuple], **request) -> dict[str, np.ndarray]:
        path = self._folder.path / "given.npz"
        np.savez(path, **given)
        there = self._board.upload(path)
        request["limit_seconds"] = _LIMIT * getattr(self._board, "seconds", RUN_SECONDS)
        found = self._board.service("run_steps", {**self._files, "given": there, **request})["path"]
        answer = self._board.download(found, self._folder.path / "found.npz")
        shapes = {name: (kind, "float64") if name == "seconds" else kind for name, kind in wanted.items()}
        found = answers.arrays(answer, shapes, self._board.name)
        for times in found["seconds"]:
            answers.seconds(times.tolist(), self._board.name, "the times of a run")
        return found


def _kind_of(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    return tuple(tensor.shape), tensor.dtype


def _run_of(step: Step, seconds: np.ndarray, output: np.ndarray | None) -> LocalRun:
    outputs = [] if output is None else [output]
    return LocalRun(step.symbol, Seconds(float(seconds.min())), len(seconds), outputs, [float(s) for s in seconds])
