"""Run a plan on a board's module: parameters and arena are placed once, then every step is one kernel call.

It uses the calls that the virtual and the local module have: ``alloc``, ``write``, ``read``, ``call_at``, ``expect``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.compiler.plan import Plan, Step, Tensor
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer


@dataclass(frozen=True)
class PlanRun:
    """Outputs in the model's order, and the cost of each kernel call."""

    outputs: list[np.ndarray]
    kernels: list

    def cost(self, cores: int):
        """The sum of all kernel calls on this number of cores, a ``Measurement``."""
        each = [k.cost(cores) for k in self.kernels]
        return type(each[0])(sum(c.value for c in each))

    @property
    def compute(self) -> float:
        """Predicted compute cycles of one core, with every access a hit in the first-level cache."""
        return sum(k.compute_on(1).value for k in self.kernels)


def signatures(plan: Plan) -> dict[str, list[tuple[tuple[int, ...], str]]]:
    """Shape and dtype of every operand of each kernel of a plan."""
    return {step.symbol: [(t.shape, t.dtype) for t in step.operands] for step in plan.steps}


def check_inputs(plan: Plan, inputs: Sequence[np.ndarray]) -> None:
    """Refuse inputs that do not fit the model.

    Raises
    ------
    TvmMobilenetError
        Number, shape or dtype differ; or a value is infinite, NaN, or too large for the layers that read it.
    """
    if len(inputs) != len(plan.inputs):
        raise TvmMobilenetError(f"{len(inputs)} inputs for a model that takes {len(plan.inputs)}")
    for array, (name, tensor) in zip(inputs, plan.inputs, strict=True):
        if array.shape != tensor.shape or str(array.dtype) != tensor.dtype:
            raise TvmMobilenetError(
                f"input {name}: {array.dtype} {array.shape}, the model takes {tensor.dtype} {tensor.shape}"
            )
        if array.dtype.kind != "f" or not array.size:
            continue
        most, end = float(np.abs(array).max()), _end(plan, tensor)
        if not most <= end:
            found = "NaN" if np.isnan(most) else f"{most:g}"
            why = f": beyond {end:g} the sums of the layers that read it may overflow" * bool(np.isfinite(most))
            raise TvmMobilenetError(f"input {name} holds {found}{why}", "give finite numbers that are smaller")


def _end(plan: Plan, port: Tensor) -> float:
    """The largest magnitude that an input may have, for all layers that read it."""
    reading = (s.layer for s in plan.steps if any((t.space, t.index) == (port.space, port.index) for t in s.operands))
    own = {dtypes.of((layer.parts or (layer,))[0].dtype) for layer in map(Layer.parse, reading)}
    return min(dtype.input_end for dtype in (*own, dtypes.of("float32")) if not dtype.integer)


class PlanRunner:
    """A plan, its parameters and its arena in a module's memory.

    Parameters
    ----------
    module : VirtualModule or LocalModule
    plan : Plan
    parameters : ndarray
        ``(plan.parameters_bytes,)`` uint8.
    """

    def __init__(self, module, plan: Plan, parameters: np.ndarray):
        self._module, self._plan = module, plan
        module.expect(signatures(plan))
        self._base = {
            "parameters": module.alloc(max(1, plan.parameters_bytes)),
            "arena": module.alloc(max(1, plan.arena_bytes)),
        }
        if plan.parameters_bytes:
            module.write(self._base["parameters"], parameters)
        self._ports = {(t.space, t.index): module.alloc(t.nbytes) for _, t in (*plan.inputs, *plan.outputs)}

    def _address(self, tensor: Tensor) -> int:
        if tensor.space in self._base:
            return self._base[tensor.space] + tensor.offset
        return self._ports[tensor.space, tensor.index]

    def read(self, tensor: Tensor) -> np.ndarray:
        """A copy of a tensor as it is now."""
        return self._module.read(self._address(tensor), tensor.shape, tensor.dtype)

    def write(self, tensor: Tensor, array: np.ndarray) -> None:
        """Overwrite a tensor."""
        self._module.write(self._address(tensor), np.ascontiguousarray(array, tensor.dtype))

    def call(self, step: Step, cores: int | None = None, memory: bool = False):
        """Run one step on the present contents of its operands; ``cores`` and ``memory`` as for `run`."""
        operands = [(self._address(t), t.shape, t.dtype) for t in step.operands]
        return self._module.call_at(step.symbol, operands, cores=cores, **({"memory": True} if memory else {}))

    def run(
        self,
        *inputs: np.ndarray,
        cores: int | None = None,
        memory: bool = False,
        watch: Callable[[Step, object, PlanRunner], None] | None = None,
    ) -> PlanRun:
        """Run all steps.

        Parameters
        ----------
        inputs : ndarray
            In the model's order, of the plan's shapes.
        cores : int, optional
            Number of cores that share a parallel region; all of the target's by default.
        memory : bool
            On the virtual board only: follow loads and stores through the caches, whose state persists between steps
            and between runs.
        watch : callable, optional
            ``watch(step, kernel run, self)`` after every step, while its operands are still in place.

        Raises
        ------
        TvmMobilenetError
            Inputs of another number, shape or dtype.
        BoardError
            A kernel accessed memory outside of its operands.
        """
        check_inputs(self._plan, inputs)
        for array, (_, tensor) in zip(inputs, self._plan.inputs, strict=True):
            self.write(tensor, array)
        kernels = []
        for step in self._plan.steps:
            kernels.append(self.call(step, cores, memory))
            if watch:
                watch(step, kernels[-1], self)
        return PlanRun([self.read(t) for _, t in self._plan.outputs], kernels)


def run_and_estimate(runner: PlanRunner, board, inputs, cores: int, watch=None) -> tuple:
    """Run a plan once in its order; return the run, its cost on one core and its cost on ``cores``.

    A prediction follows memory from call to call, starts with empty caches, and gives costs for any number of cores. A
    measurement holds for one number of cores, so the plan runs again for the other.
    """
    run = runner.run(*inputs, cores=1 if board.measures else None, memory=not board.measures, watch=watch)
    every = runner.run(*inputs, cores=cores) if board.measures else run
    return run, run.cost(1), every.cost(cores)
