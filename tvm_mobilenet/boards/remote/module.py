"""A module on a board, with the calls of a local one. The board needs only TVM's own RPC server.

Memory from ``alloc`` is on this machine, and each operand of a call is a tensor on the board; a kernel takes no pointer
into the middle of one. A tensor stays on the board until its memory is overwritten. So parameters travel once, and of a
plan's activations only each kernel's output travels, which a check reads anyway.
"""

from __future__ import annotations

import bisect
import math
import re

import numpy as np

from tvm_mobilenet.boards import answers
from tvm_mobilenet.boards.interface import KernelModule, Seconds
from tvm_mobilenet.boards.local import LocalRun
from tvm_mobilenet.boards.remote.session import Lost
from tvm_mobilenet.errors import BoardError

RUN_SECONDS = 60.0  # for the first run of a kernel, and for measuring it
REPEATS = 5
REPEAT_SECONDS = 0.01  # each repeat takes at least this long
_ALIGNMENT = 64
_GAP = 1 << 12  # between blocks: no tensor reaches from one into the next


class RemoteModule(KernelModule):
    """A loaded shared object on a board; call its ``close``, or use it in a ``with``.

    Parameters
    ----------
    board : RemoteBoard
    path : path
        The path of the linked shared object on this machine; it is uploaded.
    seconds : float
        Time limit of a kernel, and of its measurement; beyond it the session ends.

    Raises
    ------
    BoardError
        It cannot be loaded there.
    """

    def __init__(self, board, path, seconds: float = RUN_SECONDS):
        self._board, self.path, self.target, self._seconds = board, path, board.target, seconds
        self._session = board.session
        self._starts: list[int] = []
        self._blocks: list[np.ndarray] = []
        self._placed: dict[tuple, object] = {}  # (address, shape, dtype) to a current tensor on the board
        self._next = 1 << 20
        self._symbols: set[str] = set()  # symbols of kernels that were found there
        self._threads = 0  # the last number set
        self._module = None
        self._session.drop_at_end(self)
        self._module = load_library(board, board.upload(path), path)

    def __enter__(self) -> RemoteModule:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory on the board; TVM unloads a module with its last reference."""
        if not self._session.over:
            self._session.do("freeing memory", self.forget)

    def forget(self) -> None:
        """Drop the objects of the session."""
        self._placed.clear()
        self._module = None

    def _do(self, what: str, call, *args, seconds: float = 0.0):
        return self._session.do(what, call, *args, seconds=seconds or self._seconds)

    # ---- arrays that stay

    def alloc(self, nbytes: int) -> int:
        """An address of ``nbytes`` of memory until ``close``, valid for this module only."""
        address = self._next
        self._next += (nbytes + _GAP + _ALIGNMENT) // _ALIGNMENT * _ALIGNMENT
        self._starts.append(address)
        self._blocks.append(np.zeros(nbytes, np.uint8))
        return address

    def _view(self, address: int, shape, dtype) -> np.ndarray:
        at = bisect.bisect_right(self._starts, address) - 1
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        begin = address - self._starts[at] if at >= 0 else -1
        if begin < 0 or begin + nbytes > self._blocks[at].size:
            raise BoardError(f"{nbytes} bytes at {address:#x} were not allocated", "memory comes from alloc")
        return self._blocks[at][begin : begin + nbytes].view(dtype).reshape(shape)

    def write(self, address: int, array: np.ndarray) -> None:
        """Copies an array to an address."""
        self._view(address, array.shape, array.dtype)[...] = array
        self._outdate(address, array.nbytes)

    def read(self, address: int, shape, dtype) -> np.ndarray:
        """A copy of the array at an address."""
        return self._view(address, shape, dtype).copy()

    def _outdate(self, address: int, nbytes: int, but: tuple | None = None) -> None:
        def overlaps(key: tuple) -> bool:
            begin, shape, dtype = key
            return begin < address + nbytes and address < begin + math.prod(shape) * np.dtype(dtype).itemsize

        old = [key for key in self._placed if key != but and overlaps(key)]
        if old:
            self._do("freeing memory", lambda: [self._placed.pop(key) for key in old] and None)

    # ---- calls

    def call_at(self, symbol: str, operands, tasks: str = "all", cores: int | None = None) -> LocalRun:
        """As ``call``, on memory from ``alloc``; each operand is ``(address, shape, dtype)``, and the last is the
        output."""
        self.check(symbol, ((shape, np.dtype(dtype)) for _, shape, dtype in operands))
        keys = [(address, tuple(shape), np.dtype(dtype).str) for address, shape, dtype in operands]
        *_, output = keys
        tensors = [self._place(key, self._view(*key)) for key in keys]
        samples, repeats = self._run(symbol, tensors, cores)
        self._view(*output)[...] = self._do("downloading a result", tensors[-1].numpy)
        self._outdate(output[0], self._view(*output).nbytes, but=output)
        return LocalRun(symbol, Seconds(min(samples)), repeats, [self._view(*output)], samples)

    def _place(self, key: tuple, values: np.ndarray):
        if key not in self._placed:
            self._placed[key] = self._sent(values)
        return self._placed[key]

    def _sent(self, values: np.ndarray):
        def send():
            import tvm

            return tvm.runtime.tensor(np.ascontiguousarray(values), self._session.rpc.cpu())

        return self._do(f"uploading {values.nbytes:,} bytes", send, seconds=10 * RUN_SECONDS)

    def call(self, symbol: str, args: list[np.ndarray], tasks: str = "all", cores: int | None = None) -> LocalRun:
        """Run a kernel repeatedly and measure it; its last argument is the output. ``sample`` has no effect: all tasks
        run.

        Raises
        ------
        BoardError
            There is no such kernel, or it reports an error.
        Lost
            It crashed the board's process, or never returned.
        """
        return self.call_on(symbol, args, (cores,))[0]

    def call_on(self, symbol: str, args: list[np.ndarray], cores: tuple[int | None, ...]) -> list[LocalRun]:
        """As ``call``, measured with each of several numbers of threads in turn."""
        self.check(symbol, ((a.shape, a.dtype) for a in args))
        tensors = [self._sent(a) for a in args]
        try:
            runs = [self._run(symbol, tensors, count) for count in cores]
            args[-1][...] = self._do("downloading a result", tensors[-1].numpy)
        finally:
            self._session.drop(tensors.clear)
        return [LocalRun(symbol, Seconds(min(samples)), repeats, list(args[-1:]), samples) for samples, repeats in runs]

    def _run(self, symbol: str, tensors: list, cores: int | None) -> tuple[list[float], int]:
        """Run once, then measure: return the seconds of each repeat, and the number of all runs.

        TVM's evaluator makes one run before it measures. Over a slow link each request costs time, so there are few.
        """

        def measured(number: int, repeat: int) -> list[float]:
            evaluate = self._module.time_evaluator(symbol, self._session.rpc.cpu(), number=number, repeat=repeat)
            return answers.seconds(evaluate(*tensors).results, self._board.where, f"running {symbol}")

        if symbol not in self._symbols:
            self._do(f"looking for kernel {symbol}", self._find, symbol)
        if cores and cores != self._threads:
            self._do("setting threads", self._use, cores)
        once = min(self._do(f"running kernel {symbol}", measured, 1, 1))
        number = max(1, math.ceil(REPEAT_SECONDS / max(once, 1e-7)))
        repeat = REPEATS if once < self._seconds / (4 * REPEATS) else 1
        return self._do(f"measuring kernel {symbol}", measured, number, repeat), 3 + number * repeat

    def _find(self, symbol: str) -> None:
        try:
            self._module.get_function(symbol)
        except AttributeError:
            raise BoardError(f"{self.path} has no kernel {symbol!r}", "build the module again") from None
        self._symbols.add(symbol)

    def _use(self, threads: int) -> None:
        self._session.rpc.get_function("runtime.config_threadpool")(1, threads)
        self._threads = threads


def load_library(board, there: str, path):
    """TVM's module of an uploaded shared object, ``path`` on this machine.

    Raises
    ------
    BoardError
        It cannot be loaded there.
    """
    try:
        return board.session.do("loading the module", board.session.rpc.load_module, there)
    except Lost:
        raise
    except BoardError as e:
        if re.search("wrong ELF class|cannot open shared object|invalid ELF", e.message):
            raise BoardError(
                f"{board.where}: {path} cannot be loaded there: it is built for {board.target.architecture}",
                "build with the --target of this board",
            ) from None
        raise
