"""Compile ``native.c`` for this machine with zig, once, and keep the result in the user's cache.

A Python function that is called for every block would take longer than the emulation itself.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import subprocess
from importlib import metadata, resources

import numpy as np

from tvm_mobilenet import packages
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.files import user_cache
from tvm_mobilenet.files.whole_file import replacing

_U64 = ctypes.c_uint64
_U64_POINTER = ctypes.POINTER(ctypes.c_uint64)


class CountsStruct(ctypes.Structure):
    """``Counts`` of native.c."""

    _fields_ = (
        ("base", _U64),
        ("end", _U64),
        ("entered", _U64_POINTER),
        ("left", _U64_POINTER),
        ("taken", _U64_POINTER),
        ("previous_end", _U64),
        ("executed_bytes", _U64),
        ("budget_bytes", _U64),
        ("low", _U64),
        ("high", _U64),
        ("exhausted", _U64),
        ("stop", ctypes.c_void_p),
        ("follow", ctypes.c_void_p),
    )


class LevelStruct(ctypes.Structure):
    """``Level`` of native.c."""

    _fields_ = (("sets", _U64), ("ways", _U64), ("lines", ctypes.c_void_p), ("fills", _U64), ("writebacks", _U64))


class MemoryStruct(ctypes.Structure):
    """``Memory`` of native.c."""

    _fields_ = (
        ("one", LevelStruct * 3),
        ("many", LevelStruct * 3),
        ("levels", _U64),
        ("shared", _U64),
        ("scratch", _U64),
        ("stride", _U64),
        ("slots", _U64),
        ("log", ctypes.c_void_p),
        ("logged", _U64),
        ("room", _U64),
    )


class ProgramStruct(ctypes.Structure):
    """``Program`` of native.c."""

    _fields_ = (
        ("slots", ctypes.c_void_p),
        ("accesses", ctypes.c_void_p),
        ("terms", ctypes.c_void_p),
        ("slot_count", _U64),
        ("access_count", _U64),
    )


TRANSLATE = ctypes.CFUNCTYPE(None, _U64)


class FollowStruct(ctypes.Structure):
    """``Follow`` of native.c."""

    _fields_ = (
        ("base", _U64),
        ("programs", ctypes.c_void_p),
        ("again", ctypes.c_void_p),
        ("memory", ctypes.c_void_p),
        ("read", ctypes.c_void_p),
        ("translate", TRANSLATE),
        ("block_end", _U64),
    )


class Counter:
    """Counts executed instructions and taken branches over a range of code addresses.

    Parameters
    ----------
    code : (int, int)
        Addresses from and to, multiples of 4.
    stop : int
        Address of ``uc_emu_stop``, called when the budget is used up.
    """

    def __init__(self, code: tuple[int, int], stop: int):
        self.base = code[0] & ~3
        n = (code[1] - self.base + 3) // 4 + 1
        self._arrays = [np.zeros(n, np.uint64) for _ in range(3)]
        pointers = [a.ctypes.data_as(_U64_POINTER) for a in self._arrays]
        self.struct = CountsStruct(self.base, self.base + 4 * (n - 1), *pointers)
        self.struct.low = n
        self.struct.stop = stop

    def arm(self, budget_instructions: int):
        """Set the number of instructions that may still execute."""
        self.struct.budget_bytes = self.struct.executed_bytes + 4 * budget_instructions
        self.struct.exhausted = 0
        self.struct.previous_end = 0

    def take(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the counts since the last take, and reset them.

        Returns
        -------
        first : int
            Address of the first instruction in the arrays.
        executed, taken : (n,) int64
            For each 4-byte instruction from ``first`` on: its executions, and for a branch how often it was taken.
        """
        low, high = self.struct.low, self.struct.high + 1
        entered, left, taken = (a[low:high] for a in self._arrays)
        executed = np.cumsum(entered.view(np.int64) - left.view(np.int64))
        result = self.base + 4 * low, executed[:-1], taken[:-1].astype(np.int64)
        for a in (entered, left, taken):
            a[:] = 0
        self.struct.low, self.struct.high = len(self._arrays[0]), 0
        return result if low < high else (self.base, np.zeros(0, np.int64), np.zeros(0, np.int64))


@functools.cache
def library() -> ctypes.CDLL:
    """``native.c``, compiled for this machine.

    Raises
    ------
    MissingDependencyError
        ziglang is not installed.
    BoardError
        It could not be compiled.
    """
    source = (resources.files(__package__) / "native.c").read_text(encoding="utf-8")
    try:
        version = metadata.version("ziglang")
    except metadata.PackageNotFoundError:
        raise packages.missing("the virtual board", ["ziglang"]) from None
    key = hashlib.sha256(f"{source}{version}{platform.platform()}".encode()).hexdigest()[:16]
    folder = user_cache.folder()
    path = folder / f"native-{key}.so"
    if not path.is_file():
        with replacing(path) as built:
            code = built.with_name("native.c")
            code.write_text(source, encoding="utf-8")
            options = ("-O2", "-shared", "-nostdlib", "-fPIC", "-fno-sanitize=all")
            command = packages.zig("the virtual board", "cc", *options, str(code), "-o", str(built))
            r = subprocess.run(command, capture_output=True, text=True, env=user_cache.zig_environment())
            if r.returncode:
                raise BoardError(
                    f"the emulator's counters did not compile: {r.stderr.strip()[-2000:]}",
                    "python -m ziglang cc --version must work; reinstall ziglang",
                )
    return ctypes.CDLL(str(path))
