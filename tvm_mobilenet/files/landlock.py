"""Let a process give up rights irrevocably: Linux's Landlock, by its three system calls.

It needs neither root nor configuration. Kernels from 5.13 on may have it; `version` tells which. Open files and
connections stay open, so a process that has them can give up all other rights.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from tvm_mobilenet.system import is_linux

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # numbers of the system calls, the same on every architecture
_ASK_VERSION, _PATH_BENEATH, _PR_SET_NO_NEW_PRIVS = 1, 1, 38  # linux/landlock.h, linux/prctl.h
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15  # the rights of one file; others are a folder's
_READING = READ_FILE | READ_DIR
# How many rights on files, on TCP ports and on processes outside each version knows.
_FILES = {1: 13, 2: 14, 3: 15, 4: 15}
_PORTS_SINCE, _SCOPES_SINCE = 4, 6


def version() -> int:
    """The version of Landlock in this kernel; 0: none."""
    if not is_linux():  # on other systems these numbers are other calls
        return 0
    return max(0, _libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_ASK_VERSION)))


def confine(readable: Iterable[str | Path] = (), writable: Iterable[str | Path] = ()) -> int:
    """Let this thread, and those that it starts, open files only beneath these paths, and run no program.

    Where the kernel can, it may also open no TCP connection (from version 4 on), and signal no process outside (from
    version 6 on). Call it while the process has one thread.

    Parameters
    ----------
    readable, writable : paths
        Folders or files; ``writable`` may be read too.

    Returns
    -------
    int
        The version of Landlock; 0: there is none, and no right was given up.

    Raises
    ------
    OSError
        The kernel has Landlock and refuses.
    """
    if not (known := version()):
        return 0
    libc = _libc()
    files = (1 << _FILES.get(known, 16)) - 1
    ports = 3 if known >= _PORTS_SINCE else 0
    scopes = 3 if known >= _SCOPES_SINCE else 0
    attributes = struct.pack("=QQQ", files, ports, scopes)
    size = 8 if known < _PORTS_SINCE else 16 if known < _SCOPES_SINCE else 24
    rules = _checked(libc.syscall(_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint(0)))
    try:
        for paths, rights in ((readable, _READING), (writable, files & ~EXECUTE)):
            for path in paths:
                allowed = rights if os.path.isdir(path) else rights & _OF_A_FILE
                beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    rule = struct.pack("=Qi", allowed, beneath)
                    _checked(libc.syscall(_ADD, rules, _PATH_BENEATH, rule, ctypes.c_uint(0)))
                finally:
                    os.close(beneath)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT, rules, ctypes.c_uint(0)))
    finally:
        os.close(rules)
    return known


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
