"""Confine this process irrevocably: no network, no other program, no change of a file, bounded memory and CPU time.

Two mechanisms of Linux do this, called through ctypes if the kernel has them: a seccomp filter refuses system calls,
Landlock refuses files and TCP. Neither needs root, and neither can be revoked. Each alone refuses to execute, write and
connect. On a kernel with neither, only the limits on memory and time remain; `confine` reports this.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tvm_mobilenet.files import landlock, syscalls
from tvm_mobilenet.system import is_linux, resource

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of the filter
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets of what a filter reads
_X32 = 0x40000000  # a second set of numbers on x86-64
_CLONE_THREAD = 0x10000
_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX of fcntl


def confine(readable: Iterable[str | Path], memory: int, cpu_seconds: int) -> list[str]:
    """Confine this process and the threads that it will start. It must have one thread.

    Parameters
    ----------
    readable : paths
        Paths that may still be opened for reading, with all below them; open files stay open. Needs Landlock.
    memory : int
        Bytes of address space beyond the present ones.
    cpu_seconds : int
        CPU seconds after which the process is ended.

    Returns
    -------
    list of str
        The active mechanisms: ``limits``, and ``seccomp``, ``landlock`` if the kernel has them.
    """
    _limit(memory, cpu_seconds)
    found = ["limits"]
    if not is_linux():
        return found
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return found
    if _landlock(readable):
        found.append("landlock")
    if _seccomp(libc):
        found.append("seccomp")
    return found


def die_with_parent() -> None:
    """Have the kernel end this process when the thread that started it ends."""
    if is_linux():
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def own_packages() -> list[str]:
    """The folders from which a process of this Python reads modules and libraries, for ``readable``."""
    import numpy

    here = Path(__file__).parents[1]
    found = [sys.prefix, sys.base_prefix, Path(os.__file__).parent, Path(numpy.__file__).parents[1], here]
    for name in ("torch", "sympy"):  # only modules that are imported already
        if name in sys.modules:
            found.append(Path(sys.modules[name].__file__).parents[1])
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
    system += ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/etc/localtime")
    kept = [str(Path(p).resolve()) for p in found]
    home = str(Path.home().resolve())
    return [*(p for p in dict.fromkeys(kept) if p not in ("/", "/usr", home)), *system]


def _limit(memory: int, cpu_seconds: int) -> None:
    wanted = {resource.RLIMIT_CPU: cpu_seconds, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    if is_linux():  # macOS accepts this limit but does not enforce it
        with open("/proc/self/statm", encoding="ascii") as file:
            wanted[resource.RLIMIT_AS] = int(file.read().split()[0]) * resource.getpagesize() + memory
    for name, most in wanted.items():
        hard = resource.getrlimit(name)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (most, most))


def _landlock(readable: Iterable[str | Path]) -> bool:
    """Allow only files below ``readable``, and only for reading; no TCP, no signals to other processes."""
    with contextlib.suppress(OSError):
        return landlock.confine(path for path in readable if os.path.exists(path)) > 0
    return False


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _seccomp(libc) -> bool:
    """Refuse the system calls of `syscalls`, in this thread and those that it starts."""
    architecture = platform.machine()
    if architecture not in syscalls.NUMBERS or sys.maxsize < 1 << 32 or sys.byteorder != "little":
        return False
    code = b"".join(struct.pack("=HBBI", *i) for i in _filter(architecture, os.getpid()))
    program = _Program(len(code) // 8, code)
    return libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0) == 0


def _filter(architecture: str, pid: int) -> list[tuple[int, int, int, int]]:
    """The instructions ``(code, jump if so, jump if not, value)`` of the filter; each check stands by itself."""
    numbers = syscalls.NUMBERS[architecture]
    refuse = (_RETURN, 0, 0, _REFUSE | errno.EPERM)
    unknown = (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)  # libc then takes the older call
    allow = (_RETURN, 0, 0, _ALLOW)
    load_number = (_LOAD, 0, 0, _NUMBER)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[architecture]),
        (_RETURN, 0, 0, _KILL),
        load_number,
    ]
    if architecture == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), refuse]
    for name in (*syscalls.NETWORK, *syscalls.PROGRAMS, *syscalls.WRITES, *syscalls.KERNEL):
        if name in numbers:
            code += [(_EQUAL, 0, 1, numbers[name]), refuse]
    if "ioctl" in numbers:  # no terminal, no device
        code += [(_EQUAL, 0, 1, numbers["ioctl"]), (_RETURN, 0, 0, _REFUSE | errno.ENOTTY)]
    for name in ("clone3", "openat2"):
        code += [(_EQUAL, 0, 1, numbers[name]), unknown]

    def only(name: str, argument: int, test: Sequence[tuple[int, int, int, int]]) -> None:
        """A call whose argument decides: ``test`` follows the load of its low half."""
        if name in numbers:
            body = [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), *test]
            code.extend([(_EQUAL, 0, len(body), numbers[name]), *body])

    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    only("clone", 0, [(_ANY_BIT, 0, 1, _CLONE_THREAD), allow, refuse])
    only("open", 1, [(_ANY_BIT, 0, 1, writing), refuse, allow])
    only("openat", 2, [(_ANY_BIT, 0, 1, writing), refuse, allow])
    only("tgkill", 0, [(_EQUAL, 0, 1, pid), allow, refuse])
    only("prctl", 0, [(_EQUAL, 0, 1, _PR_SET_PDEATHSIG), refuse, allow])
    high = (_LOAD, 0, 0, _ARGUMENTS + 8 * 2 + 4)  # both halves of a pointer count
    only("prlimit64", 2, [(_EQUAL, 0, 2, 0), high, (_EQUAL, 1, 0, 0), refuse, allow])
    # the receiver of a descriptor's signal, and the signal
    own = [step for command in _OWNERS for step in ((_EQUAL, 0, 1, command), refuse)]
    only("fcntl", 1, [*own, allow])
    return [*code, allow]
