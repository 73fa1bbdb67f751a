"""A build's own library, ``libmobilenet.so``, executed on the virtual board: tables, runtime and kernels as they ship.

`board.VirtualModule` calls kernels by the plan. Here the library's own C code calls them from its own tables, as on a
device: it opens the weights, checks them and runs. It runs in one thread, as on a device with one CPU. This module
provides the functions of libc; the weights are the only file that the library can see.
"""

from __future__ import annotations

import struct

import numpy as np
from unicorn import arm64_const as a64
from unicorn import arm_const as a32

from tvm_mobilenet.boards.virtual.board import BUDGET_INSTRUCTIONS
from tvm_mobilenet.boards.virtual.emulator import Emulator, Fault
from tvm_mobilenet.boards.virtual.imports import KernelError, Workspace, provided
from tvm_mobilenet.compiler.module import PARAMETERS
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.runtime.mobilenet import _Options

_WEIGHTS = b"/weights"  # the only file that the library can open
_DESCRIPTOR = 3
_OPTIONS = _Options(1, 1, 1, -1, 1)  # one thread, no images, no spinning, bound to no CPU
# Struct stat: offsets of mode and size, format of the latter.
_STATUS = {"aarch64": (16, 48, "<Q"), "armv7": (16, 44, "<I")}
_REGULAR = 0o100644
_THREAD_POINTER = 16  # bytes between it and thread-local storage, AArch64
_FAILED = (1 << 64) - 1
_REMEDY = "build it again; if it stays, report the model and the target"


class EmulatedLibrary:
    """An open network; call its ``close``, or use it in a ``with``.

    Parameters
    ----------
    module : built.BuiltModule
    target : targets.Target
    budget : int
        Number of instructions after which a run is stopped as endless.

    Raises
    ------
    BoardError
        The file is no such library, its code fails, or it refuses the weights.
    """

    def __init__(self, module, target, budget: int = BUDGET_INSTRUCTIONS):
        self._path, self._plan, self._budget = module.runtime, module.plan, budget
        self._data, self._read, self._words = (module.folder / PARAMETERS).read_bytes(), 0, ""
        cpu = target.core.model.get("emulated_cpu", "MAX")
        self._emulator = e = Emulator(self._path, self._libc(), target.architecture, cpu)
        self._tls = e.allocate(_THREAD_POINTER + len(e.image.tls))
        e.view(self._tls + _THREAD_POINTER, len(e.image.tls))[:] = np.frombuffer(bytes(e.image.tls), np.uint8)
        if target.architecture == "aarch64":
            e.uc.reg_write(a64.UC_ARM64_REG_TPIDR_EL0, self._tls)
        else:
            e.uc.reg_write(a32.UC_ARM_REG_C13_C0_3, self._tls)
        try:
            name, options, opened = (self._placed(d) for d in (_WEIGHTS, bytes(_OPTIONS), bytes(8)))
            self._call("mobilenet_open_weights", name, options, opened)
            self._handle = e.pointer(opened)
            ports = [t for _, t in (*self._plan.inputs, *self._plan.outputs)]
            self._buffers = [e.allocate(max(1, t.nbytes)) for t in ports]
            pointers = np.array(self._buffers, f"<u{e.image.pointer_bytes}")
            count = len(self._plan.inputs)
            self._in, self._out = (self._placed(p.tobytes()) for p in (pointers[:count], pointers[count:]))
        except BaseException:
            e.close()
            raise

    def __enter__(self) -> EmulatedLibrary:
        return self

    def __exit__(self, *_) -> None:
        self._emulator.close()

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs that the library computes from a network's inputs.

        Raises
        ------
        BoardError
            The code fails, or reports an error.
        """
        count, e = len(self._plan.inputs), self._emulator
        for array, address in zip(inputs, self._buffers[:count], strict=True):
            e.view(address, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._call("mobilenet_run", self._handle, self._in, self._out)
        found = []
        for (_, t), address in zip(self._plan.outputs, self._buffers[count:], strict=True):
            found.append(e.view(address, t.nbytes).copy().view(t.dtype).reshape(t.shape))
        return found

    def _placed(self, data: bytes) -> int:
        address = self._emulator.allocate(len(data) + 1)
        self._emulator.view(address, len(data))[:] = np.frombuffer(data, np.uint8)
        return address

    def _call(self, function: str, *arguments: int) -> None:
        e = self._emulator
        address = e.image.symbols.get(function)
        if address is None:
            raise BoardError(f"{self._path} has no function {function}", _REMEDY)
        self._words = ""
        try:
            code = e.call(address, list(arguments), self._budget) & 0xFFFFFFFF
        except (Fault, KernelError) as fault:
            where = e.image.function_at(getattr(fault, "address", 0))[0] or "its runtime"
            raise BoardError(f"{self._path}: {function}, in {where}: {fault}", _REMEDY) from None
        if code:
            raise BoardError(f"{self._path}: {function} returns {code}: {self._words}".rstrip(": "), _REMEDY)

    # ---- functions of libc

    def _libc(self) -> dict:
        """Handlers by name. In one piece: a list of small handlers. A function without a handler returns 0,
        as a free lock does."""
        workspace = Workspace()
        handlers = _Default(provided(workspace, lambda *_: 1, lambda *_: None))

        def returning(value):
            return lambda e: e.set_result(value(e) if callable(value) else value)

        def bytes_at(e, i: int, n: int) -> bytes:
            return bytes(e.uc.mem_read(e.argument(i), n))

        def length(e, i: int) -> int:
            return len(e.text(e.argument(i), 1 << 16).encode(errors="replace"))

        def compare(e) -> int:
            a, b = (bytes_at(e, i, e.argument(2)) for i in (0, 1))
            return (a > b) - (a < b)

        def compare_text(e) -> int:
            a, b = (e.text(e.argument(i)) for i in (0, 1))
            return (a > b) - (a < b)

        def find(e) -> int:
            at = bytes_at(e, 0, e.argument(2)).find(e.argument(1) & 255)
            return e.argument(0) + at if at >= 0 else 0

        def find_text(e) -> int:
            at = (e.text(e.argument(0)) + "\0").find(chr(e.argument(1) & 255))
            return e.argument(0) + at if at >= 0 else 0

        def span(e) -> int:
            text, stops = e.text(e.argument(0)), e.text(e.argument(1))
            return next((i for i, c in enumerate(text) if c in stops), len(text))

        def copied(e) -> int:
            return self._placed(bytes_at(e, 0, length(e, 0)) + b"\0")

        def aligned(e) -> int:
            e.uc.mem_write(e.argument(0), e.allocate(e.argument(2)).to_bytes(e.image.pointer_bytes, "little"))
            return 0

        def said(e) -> int:
            """The text of an error, without the values that its format would insert."""
            self._words = e.text(e.argument(2))
            if e.argument(1):
                e.uc.mem_write(e.argument(0), b"\0")
            return len(self._words)

        def opened(e) -> int:
            self._read = 0
            return _DESCRIPTOR if e.text(e.argument(1)).encode() == _WEIGHTS else _FAILED

        def status(place: int):
            def handler(e) -> int:
                mode, size, form = _STATUS[e.image.architecture]
                e.uc.mem_write(e.argument(place) + mode, struct.pack("<I", _REGULAR))
                e.uc.mem_write(e.argument(place) + size, struct.pack(form, len(self._data)))
                return 0

            return handler

        def read(e) -> int:
            part = self._data[self._read : self._read + e.argument(2)]
            e.uc.mem_write(e.argument(1), part)
            self._read += len(part)
            return len(part)

        def mapped(e) -> int:
            if e.image.pointer_bytes == 8:
                descriptor, offset = e.argument(4), e.argument(5)
            else:  # the fifth and the sixth argument are on the stack
                descriptor, offset = struct.unpack("<II", e.uc.mem_read(e.uc.reg_read(a32.UC_ARM_REG_SP), 8))
            e.heap_next += -e.heap_next % 4096
            address, n = e.allocate(e.argument(1)), e.argument(1)
            if descriptor & 0xFFFFFFFF == _DESCRIPTOR:
                part = self._data[offset : offset + n]
                e.view(address, len(part))[:] = np.frombuffer(part, np.uint8)
            return address

        def thread_local(e) -> int:
            return e.pointer(e.argument(0) + e.image.pointer_bytes)

        values = {
            "malloc": lambda e: e.allocate(max(1, e.argument(0))),
            "calloc": lambda e: e.allocate(max(1, e.argument(0) * e.argument(1))),  # memory is never reused, so zero
            "aligned_alloc": lambda e: e.allocate(max(1, e.argument(1))),
            "posix_memalign": aligned, "strdup": copied, "strlen": lambda e: length(e, 0), "strcmp": compare_text,
            "strchr": find_text, "strcspn": span, "memchr": find, "memcmp": compare, "bcmp": compare,
            "vsnprintf": said, "openat": opened, "openat64": opened, "__fxstat": status(2), "__fxstat64": status(2),
            "fstat": status(1), "fstat64": status(1), "read": read, "mmap": mapped, "mmap64": mapped,
            "getauxval": _FAILED, "sysconf": 4096, "syscall": _FAILED, "__sched_cpucount": 1, "getpid": 1,
            "pthread_create": 11, "__errno_location": lambda e: e.allocate(8), "strerror": lambda e: e.allocate(8),
            "__tlsdesc": lambda e: thread_local(e) + _THREAD_POINTER,
            "__tls_get_addr": lambda e: self._tls + _THREAD_POINTER + thread_local(e),
        }  # fmt: skip
        handlers.update({name: returning(value) for name, value in values.items()})
        return handlers


class _Default(dict):
    """Handlers by name, with a default for all other names."""

    def get(self, name, default=None):
        return super().get(name) or (lambda e: e.set_result(0))
