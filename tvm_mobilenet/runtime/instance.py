"""A built network in this process: ``libmobilenet.so`` with its weights, run whole or step by step through ctypes.

Checks and measurements on a real CPU use it, so they run the code that ships: kernels, plan, threads and memory are the
library's own. It needs neither TVM nor a bundle.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_void_p
from pathlib import Path

import numpy as np

from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.runtime.mobilenet import _Info, _Options, _pointers, _port

_ALIGNMENT = 64  # bytes: the library uses buffers with this alignment without a copy


class Instance:
    """An open network; call its ``close``, or use it in a ``with``.

    Parameters
    ----------
    library, weights : path
        ``libmobilenet.so`` and ``parameters.bin`` of a build, or ``weights.bin`` of a bundle.
    threads : int
        Number of threads; 0: one for each CPU that this process may use.

    Attributes
    ----------
    inputs, outputs : list of ndarray
        The buffers that each run reads and writes.

    Raises
    ------
    BoardError
        The library cannot be loaded on this machine, or the weights do not belong to it.
    """

    def __init__(self, library: str | Path, weights: str | Path, threads: int = 0):
        self._handle = None
        try:
            self._lib = lib = ctypes.CDLL(str(Path(library).resolve()))
            lib.mobilenet_open_weights.argtypes = [c_char_p, c_void_p, c_void_p]
        except (OSError, AttributeError) as e:
            raise BoardError(f"{library} cannot be loaded here: {e}", "build it with this machine's --target") from None
        lib.mobilenet_last_error.restype = c_char_p
        lib.mobilenet_describe.restype, lib.mobilenet_describe.argtypes = POINTER(_Info), [c_void_p]
        lib.mobilenet_run_steps.argtypes = [c_void_p, c_void_p, c_void_p, c_int, c_int]
        lib.mobilenet_operand.restype, lib.mobilenet_operand.argtypes = c_void_p, [c_void_p, c_int, c_int]
        lib.mobilenet_steps.argtypes = [c_void_p]
        lib.mobilenet_times.argtypes = [c_void_p, c_void_p]
        lib.mobilenet_set_threads.argtypes = [c_void_p, c_int]
        lib.mobilenet_close.restype, lib.mobilenet_close.argtypes = None, [c_void_p]
        handle, options = c_void_p(), _Options(threads, 1, 1)
        self._require(lib.mobilenet_open_weights(os.fsencode(weights), byref(options), byref(handle)))
        self._handle = handle
        info = lib.mobilenet_describe(handle).contents
        self.inputs = [_buffer(*_port(info.input[i])[1:]) for i in range(info.inputs)]
        self.outputs = [_buffer(*_port(info.output[i])[1:]) for i in range(info.outputs)]
        self._in, self._out = _pointers(self.inputs), _pointers(self.outputs)
        self.steps = lib.mobilenet_steps(handle)

    def __enter__(self) -> Instance:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Free all memory and end all threads."""
        handle, self._handle = self._handle, None
        if handle:
            self._lib.mobilenet_close(handle)

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Set the inputs of the next runs: arrays of the model's shapes and dtypes."""
        for buffer, values in zip(self.inputs, inputs, strict=True):
            if values.shape != buffer.shape or values.dtype != buffer.dtype:
                raise BoardError(
                    f"input {values.dtype} {values.shape}, the model takes {buffer.dtype} {buffer.shape}",
                    "module and plan were not built together: build again",
                )
            buffer[...] = values

    def run(self, first: int = 0, last: int | None = None) -> None:
        """Run all steps, or those from ``first`` to before ``last``, on the present contents of memory."""
        last = self.steps if last is None else last
        self._require(self._lib.mobilenet_run_steps(self._handle, self._in, self._out, first, last))

    def timed(self, passes: int) -> np.ndarray:
        """The start of each step in each pass, and the end of the last: (passes, steps + 1) int64, nanoseconds."""
        times = np.zeros((passes, self.steps + 1), np.int64)
        for row in times:
            self._require(self._lib.mobilenet_times(self._handle, row.ctypes.data))
            try:
                self.run()
            finally:
                self._lib.mobilenet_times(self._handle, None)
        return times

    def operand(self, step: int, number: int, shape: Sequence[int], dtype) -> np.ndarray:
        """An operand of a step in memory, the output last; the step reads values that are written into it."""
        address = self._lib.mobilenet_operand(self._handle, step, number)
        if not address:
            raise BoardError(f"step {step} has no operand {number}, or nothing ran yet", "build the module again")
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * nbytes).from_address(address), dtype).reshape(shape)

    def set_threads(self, threads: int) -> None:
        """Set the number of threads from now on."""
        self._require(self._lib.mobilenet_set_threads(self._handle, threads))

    def _require(self, code: int) -> None:
        if code:
            said = self._lib.mobilenet_last_error().decode(errors="replace")
            raise BoardError(said, "build the module again for this machine's CPU")


def _buffer(shape: tuple[int, ...], dtype) -> np.ndarray:
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    block = np.zeros(nbytes + _ALIGNMENT, np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    return block[start : start + nbytes].view(dtype).reshape(shape)
