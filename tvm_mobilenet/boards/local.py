"""This machine as a board: loads a module with TVM's runtime, runs its kernels and measures wall time.

The calls are those of the virtual board; costs are ``Seconds``. A faulty kernel crashes this process, so run untrusted
kernels on the virtual board or in a separate process.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tvm_mobilenet.boards.interface import KernelModule, Seconds
from tvm_mobilenet.errors import BoardError

_MINIMUM_SECONDS = 0.02  # total time of a measurement is at least this long
_MOST_REPEATS = 200


@dataclass
class LocalRun:
    """One kernel run on this machine.

    Attributes
    ----------
    outputs : list of ndarray
    seconds : Seconds
        The fastest of the repeats.
    samples : list of float
        Seconds of each repeat.
    """

    symbol: str
    seconds: Seconds
    repeats: int
    outputs: list[np.ndarray] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)

    sampled = False

    def cost(self, cores: int | None = None) -> Seconds:
        """The cost on the cores on which it ran."""
        return self.seconds


class LocalBoard:
    """This machine.

    Parameters
    ----------
    target : targets.Target
        ``host``, or one of this machine's architecture.

    Raises
    ------
    BoardError
        The target's code is for another architecture, or needs features that this machine's CPU lacks.
    """

    measures = has_agent = True

    def __init__(self, target):
        from tvm_mobilenet.boards import needs
        from tvm_mobilenet.targets import host

        here = host.architecture()
        if target.architecture != here:
            raise BoardError(
                f"target {target.name} is {target.architecture}, this machine {here}",
                "use the virtual board, or target host",
            )
        needs.check(target, host.flags(), "this machine")
        self.target, self.name = target, "local"

    def load(self, path) -> LocalModule:
        """The module of a linked shared object."""
        return LocalModule(path, self.target)

    def upload(self, path) -> str:
        """The path of a file on the board, which is its own path."""
        return str(path)

    def download(self, there: str, here) -> Path:
        """Copy a file of the board to this machine; it is there already."""
        return Path(there)

    def service(self, name: str, request: dict) -> dict:
        """The answer of a service (``services``), which runs in this process."""
        from tvm_mobilenet.boards.agent import services

        return services.call(name, request)

    def close(self) -> None:
        """Do nothing: this board holds no connection."""

    def __enter__(self) -> LocalBoard:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class LocalModule(KernelModule):
    """A loaded shared object; call its ``close``, or use it in a ``with``."""

    def __init__(self, path, target):
        import tvm

        if not Path(path).is_file():
            raise BoardError(f"{path} does not exist", "build the module first")
        try:
            self._module = tvm.runtime.load_module(str(path))
        except Exception as e:
            raise BoardError(f"{path} cannot be loaded here: {e}", f"build it with --target {target.name}") from None
        self.path, self.target = path, target
        self._blocks: list[np.ndarray] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Drop the module; TVM unloads it with its last reference."""
        self._module = None

    def _function(self, symbol: str):
        for module in (self._module, *self._module.imports):
            try:
                if function := module.get_function(symbol):
                    return function
            except (AttributeError, ValueError):
                continue
        raise BoardError(f"{self.path} has no kernel {symbol!r}")

    # ---- arrays that stay between calls, as on the virtual board

    def alloc(self, nbytes: int) -> int:
        """Address of ``nbytes`` of memory, 64-byte aligned, until ``close``."""
        block = np.zeros(nbytes + 64, np.uint8)
        self._blocks.append(block)
        start = block.ctypes.data
        return start + -start % 64

    @staticmethod
    def _view(address: int, shape, dtype) -> np.ndarray:
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * nbytes).from_address(address), dtype).reshape(shape)

    def write(self, address: int, array: np.ndarray):
        """Copies an array to an address."""
        self._view(address, array.shape, array.dtype)[...] = array

    def read(self, address: int, shape, dtype) -> np.ndarray:
        """A copy of the array at an address."""
        return self._view(address, shape, dtype).copy()

    def call_at(self, symbol: str, operands, tasks: str = "all", cores: int | None = None) -> LocalRun:
        """As ``call``, on memory from ``alloc``; each operand is ``(address, shape, dtype)``."""
        return self.call(symbol, [self._view(*operand) for operand in operands], tasks, cores)

    def call_on(self, symbol: str, args: list[np.ndarray], cores: tuple[int, ...]) -> list[LocalRun]:
        """As ``call``, measured with each of several numbers of threads in turn."""
        return [self.call(symbol, args, cores=count) for count in cores]

    def call(self, symbol: str, args: list[np.ndarray], tasks: str = "all", cores: int | None = None) -> LocalRun:
        """Run a kernel repeatedly and measure it; see ``VirtualModule.call``. ``sample`` has no effect: all tasks run.

        Raises
        ------
        BoardError
            There is no such kernel, or it reports an error.
        """
        import tvm

        function = self._function(symbol)
        self.check(symbol, ((a.shape, a.dtype) for a in args))
        if cores:
            tvm.get_global_func("runtime.config_threadpool")(1, cores)
        placed: dict[tuple, object] = {}
        tensors = []
        for a in args:
            key = (a.__array_interface__["data"][0], a.shape, a.dtype)  # one tensor may be read under two shapes
            if key not in placed:
                placed[key] = tvm.runtime.tensor(np.ascontiguousarray(a))
            tensors.append(placed[key])
        try:
            function(*tensors)
        except Exception as e:
            raise BoardError(f"kernel {symbol}: {e}") from None
        for a, t in zip(args, tensors, strict=True):
            if a.flags.writeable:
                a[...] = t.numpy()
        samples: list[float] = []
        while sum(samples) < _MINIMUM_SECONDS and len(samples) < _MOST_REPEATS:
            start = time.perf_counter()
            function(*tensors)
            samples.append(time.perf_counter() - start)
        return LocalRun(symbol, Seconds(min(samples)), len(samples), list(args[-1:]), samples)
