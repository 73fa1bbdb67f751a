"""The functions that a kernel imports, as the virtual board provides them.

TVM's runtime gives a module workspace and parallel launches; libc gives it memcpy and memset, libm the functions of
single values. Their results are put into emulated memory. Their code is not part of the module, so each call is
recorded as a ``RuntimeCall``, whose cost the core model estimates.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.boards.virtual.emulator import SCRATCH, SCRATCH_BYTES, SCRATCH_SLOTS

_FLOAT_FUNCTIONS = {
    "exp": np.exp,
    "tanh": np.tanh,
    "log": np.log,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "rint": np.rint,
    "fabs": np.abs,
    "log2": np.log2,
    "exp2": np.exp2,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "log10": np.log10,
    "trunc": np.trunc,
    "nearbyint": np.rint,
    "erf": np.vectorize(math.erf),
}
_FLOAT_FUNCTIONS_2 = {"pow": np.power, "fmax": np.fmax, "fmin": np.fmin, "fmod": np.fmod, "atan2": np.arctan2}

_PAGE = 4096


@dataclass(frozen=True)
class RuntimeCall:
    """A function outside of the module that one part of a kernel called: its name, the number of calls, the bytes
    moved."""

    name: str
    calls: int
    bytes: int = 0


class KernelError(Exception):
    """The kernel itself reports an error, with this text."""


def provided(workspace, launch, record) -> dict:
    """The handlers by name.

    In one piece: a list of small handlers that share these parameters.

    Parameters
    ----------
    workspace : Workspace
        The memory from which ``TVMBackendAllocWorkspace`` takes.
    launch : callable
        ``launch(emulator, function, data, tasks) -> int`` runs a parallel region.
    record : callable
        ``record(name, nbytes)`` notes a call for the core model.
    """

    def allocate(e):
        high = 2 if e.image.pointer_bytes == 4 else None  # a 64-bit size lies in r2 and r3
        e.set_result(workspace.take(e, e.argument(2) if high is None else e.argument(2) | e.argument(3) << 32))
        record("TVMBackendAllocWorkspace", 0)

    def free(e):
        pointer = e.argument(2)
        workspace.give_back(e, pointer)
        e.set_result(0)
        record("TVMBackendFreeWorkspace", 0)

    def parallel(e):
        tasks = e.argument(2) & 0xFFFFFFFF
        e.set_result(launch(e, e.argument(0), e.argument(1), tasks))

    def move(e):
        target, source, n = e.argument(0), e.argument(1), e.argument(2)
        e.uc.mem_write(target, bytes(e.uc.mem_read(source, n)))
        if e.caches:
            e.caches.touch(source, n, False)
            e.caches.touch(target, n, True)
        e.set_result(target)
        record("memcpy", n)

    def fill(e):
        target, value, n = e.argument(0), e.argument(1), e.argument(2)
        e.uc.mem_write(target, bytes([value & 255]) * n)
        if e.caches:
            e.caches.touch(target, n, True)
        e.set_result(target)
        record("memset", n)

    def raised(e):
        kind, parts, n = e.argument(0), e.argument(1), e.argument(2)
        step = e.image.pointer_bytes
        text = "".join(e.text(p) for i in range(min(n, 64)) if (p := e.pointer(parts + step * i)))
        raise KernelError(f"{e.text(kind)}: {text}")

    handlers = {
        "__TVMBackendAllocWorkspace": allocate,
        "__TVMBackendFreeWorkspace": free,
        "__TVMBackendParallelLaunch": parallel,
        "TVMBackendAllocWorkspace": allocate,
        "TVMBackendFreeWorkspace": free,
        "TVMBackendParallelLaunch": parallel,
        "memcpy": move,
        "memmove": move,
        "memset": fill,
        "TVMFFIErrorSetRaisedFromCStrParts": raised,
        "__aeabi_memcpy": move,
        "__aeabi_memcpy4": move,
        "__aeabi_memcpy8": move,
    }
    for name, function in _FLOAT_FUNCTIONS.items():
        handlers[name] = _float(name, function, 1, True, record)
        handlers[name + "f"] = _float(name + "f", function, 1, False, record)
    for name, function in _FLOAT_FUNCTIONS_2.items():
        handlers[name] = _float(name, function, 2, True, record)
        handlers[name + "f"] = _float(name + "f", function, 2, False, record)
    for name, signed, rest in (
        ("__divsi3", True, False),
        ("__udivsi3", False, False),
        ("__modsi3", True, True),
        ("__umodsi3", False, True),
    ):
        handlers[name] = _divide(name, signed, rest, record)
    return handlers


def _float(name, function, operands, double, record):
    form, bits = ("<d", "<Q") if double else ("<f", "<I")
    kind = np.float64 if double else np.float32

    def handler(e):
        x = [kind(struct.unpack(form, struct.pack(bits, e.float_register(i, double)))[0]) for i in range(operands)]
        with np.errstate(all="ignore"):
            y = kind(function(*x))
        e.set_float_register(struct.unpack(bits, struct.pack(form, y))[0], double)
        record(name, 0)

    return handler


def _divide(name, signed, rest, record):
    def handler(e):
        a, b = (e.argument(i) & 0xFFFFFFFF for i in (0, 1))
        if signed:
            a, b = ((x ^ 1 << 31) - (1 << 31) for x in (a, b))
        q = 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        e.set_result(a - q * b if rest else q)
        record(name, 0)

    return handler


class Workspace:
    """Scratch memory of the tasks: one stack of pages for each thread. It records its peak.

    A thread's kernels and tasks thus get the same addresses again and again, as from TVM's pool of each thread.
    """

    def __init__(self):
        self._live: dict[int, int] = {}
        self.peak = self.thread = 0

    def take(self, e, nbytes: int) -> int:
        base = SCRATCH + SCRATCH_BYTES * (self.thread % SCRATCH_SLOTS)
        address = max((a + n for a, n in self._live.items()), default=base)
        size = -(-max(nbytes, 1) // _PAGE) * _PAGE
        if address + size > base + SCRATCH_BYTES:
            raise MemoryError(f"a thread's scratch memory of {SCRATCH_BYTES} bytes does not hold {nbytes} more")
        self._live[address] = size
        self.peak = max(self.peak, sum(self._live.values()))
        return address

    def give_back(self, e, address: int):
        self._live.pop(address, None)

    def reset(self, thread: int = 0):
        self._live.clear()
        self.peak, self.thread = 0, thread
