"""The prepared kernel calls of a plan: operands are views of one arena and one block of parameters.

The module needs only TVM's runtime. As in a bundle, nothing is copied between calls.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import numpy as np

from tvm_mobilenet.compiler.plan import ALIGNMENT, read_plan
from tvm_mobilenet.errors import BoardError


class PlanCalls:
    """A plan's kernels with their operands.

    Parameters
    ----------
    module, plan, parameters : path
        The files of a built module.
    inputs : list of ndarray
    """

    def __init__(self, module: str, plan: str, parameters: str, inputs: list[np.ndarray]):
        import tvm

        self.plan = read_plan(plan)
        library = tvm.runtime.load_module(module)
        spaces = {"arena": _block(self.plan.arena_bytes), "parameters": _block(self.plan.parameters_bytes)}
        data = np.fromfile(parameters, np.uint8) if self.plan.parameters_bytes else np.zeros(0, np.uint8)
        if data.size != self.plan.parameters_bytes:
            raise BoardError(
                f"{parameters}: {data.size} bytes, the plan has {self.plan.parameters_bytes}", "build the module again"
            )
        spaces["parameters"][: data.size] = data
        ports = {(t.space, t.index): _block(t.nbytes) for _, t in (*self.plan.inputs, *self.plan.outputs)}
        for (_, t), values in zip(self.plan.inputs, inputs, strict=True):
            ports[t.space, t.index].view(t.dtype)[:] = values.astype(t.dtype).ravel()

        def view(t):
            space = spaces[t.space] if t.space in spaces else ports[t.space, t.index]
            return tvm.runtime.from_dlpack(space[t.offset : t.offset + t.nbytes].view(t.dtype).reshape(t.shape))

        self._keep = spaces, ports, library
        self._outputs = [ports[t.space, t.index].view(t.dtype).reshape(t.shape) for _, t in self.plan.outputs]
        self._calls = [
            (_kernel(library, s.symbol, Path(module)), [view(t) for t in s.operands]) for s in self.plan.steps
        ]
        self._empty = tvm.get_global_func("runtime.NumThreads")

    def run(self) -> None:
        """Make all calls once."""
        for kernel, operands in self._calls:
            kernel(*operands)

    def outputs(self) -> list[np.ndarray]:
        """Outputs of the last run, in the model's order."""
        return [output.copy() for output in self._outputs]

    def timed(self, passes: int) -> tuple[list[list[int]], list[list[int]]]:
        """When each call of each pass began, and how long it took: nanoseconds."""
        clock, starts, durations = time.perf_counter_ns, [], []
        for _ in range(passes):
            began, took = [], []
            for kernel, operands in self._calls:
                start = clock()
                kernel(*operands)
                took.append(clock() - start)
                began.append(start)
            starts.append(began)
            durations.append(took)
        return starts, durations

    def overhead(self) -> float:
        """Seconds that the timing of an empty call shows."""
        clock, took = time.perf_counter_ns, []
        for _ in range(1000):
            start = clock()
            self._empty()
            took.append(clock() - start)
        return median(took) / 1e9


def _kernel(library, symbol: str, path: Path):
    for module in (library, *library.imports):
        try:
            if function := module.get_function(symbol):
                return function
        except (AttributeError, ValueError):
            continue
    raise BoardError(f"{path} has no kernel {symbol!r}", "module and plan were not built together: build again")


def _block(nbytes: int) -> np.ndarray:
    """Zeros at an address that is aligned for any vector load."""
    block = np.zeros(max(1, nbytes) + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + max(1, nbytes)]
