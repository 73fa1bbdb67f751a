"""The errors a user can cause, and the exit code of each.

Every verb ends with one of these codes: 0 done, 2 usage, 3 a package or tool is missing, 4 the board or the
cluster, 5 verification failed, 6 slower than asked. A traceback is printed only with ``--debug``.
"""

from __future__ import annotations

import difflib
import errno
import math
import os
from collections.abc import Iterable


def reason(error: BaseException) -> str:
    """The reason of a failure, as part of a sentence: the system's own words for a file, without names of Python
    classes.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]!r}" if error.args else "something is missing in it"
    if isinstance(error, UnicodeDecodeError):
        return "it is not text"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "it is damaged").rstrip(":")


_REMEDIES = {
    errno.ENOSPC: "make room there, or write elsewhere",
    errno.EDQUOT: "the quota is used up: make room there, or write elsewhere",
    errno.EIO: "the disk has an error: write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EFBIG: "raise the limit of a file's size: ulimit -f unlimited",
    errno.EMFILE: "raise the limit of open files: ulimit -n 1024",
    errno.ENFILE: "the system has too many open files: close other programs",
    errno.ENOMEM: "close other programs, or raise the limit of memory: ulimit -v unlimited",
    errno.EAGAIN: "the system has too many processes: close other programs, or raise the limit: ulimit -u",
}
_MEMORY_WORDS = ("bad_alloc", "can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
_MAPPED = 900 << 20  # bytes that an import of TVM 0.27 with its LLVM maps: 915 MiB on x86-64
_STARTING = 96 << 20, 16 << 20  # bytes that NumPy maps: for itself, and for each CPU
# Each limit that is raised if the system allows it: how much a process needs, and the words and code of its lack.
_LIMITS = (
    ("RLIMIT_NOFILE", 64, "open files are all that this process may have", errno.EMFILE),  # a build needs half as many
    ("RLIMIT_FSIZE", 4 << 20, "bytes are all that this process may write to a file", errno.EFBIG),  # else LLVM ends it
)


def remedy(error: OSError, otherwise: str = "") -> str:
    """The remedy for a lack of a system resource: disk, memory, descriptors, processes."""
    return _REMEDIES.get(error.errno, otherwise)


def without_memory(error: BaseException) -> TvmMobilenetError | None:
    """The error of a process with too little memory; None if this error has another cause.

    A library that could not be mapped can raise any error, so the memory left below the limit counts as evidence too.
    """
    words = str(error).lower()
    known = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    known = known or any(word in words for word in _MEMORY_WORDS)
    return _no_memory() if known or _room() < _MAPPED else None


def require_memory() -> None:
    """Make sure that TVM can be loaded. If it cannot be mapped, its loader ends the process, or leaves it half loaded.

    Raises
    ------
    TvmMobilenetError
        This process may have too little memory.
    """
    if _room() < _MAPPED:
        raise _no_memory()


def require_to_start() -> None:
    """Make sure that a verb can begin, before it imports libraries that could end the process.

    Libraries of NumPy and PyTorch end the process if they cannot be loaded. This also raises a soft limit of open
    files.

    Raises
    ------
    TvmMobilenetError
        The working directory is gone, or this process may have too few open files, too small files or too little
        memory.
    """
    try:
        os.getcwd()
    except OSError as e:
        raise TvmMobilenetError(f"there is no working directory: {reason(e)}", "cd to a folder that exists") from None
    _require_limits()
    if _room() < _STARTING[0] + _STARTING[1] * (os.cpu_count() or 1):
        raise _no_memory()


def _require_limits() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    for name, least, words, code in _LIMITS:
        limit = getattr(resource, name)
        soft, hard = resource.getrlimit(limit)
        most = math.inf if hard == resource.RLIM_INFINITY else hard
        if soft != resource.RLIM_INFINITY and soft < least:
            if most < least:
                raise TvmMobilenetError(f"{most:,} {words}", _REMEDIES[code])
            resource.setrlimit(limit, (least, hard))


def _no_memory() -> TvmMobilenetError:
    limit = _limit()
    told = "" if limit == math.inf else f": {limit >> 20:,} MiB are all that this process may have"
    return TvmMobilenetError(f"there is not enough memory{told}", _REMEDIES[errno.ENOMEM])


def _room() -> float:
    """Bytes of address space that this process may still use."""
    limit = _limit()
    if limit == math.inf:
        return math.inf
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return limit - int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:  # not Linux
        return math.inf


def _limit() -> float:
    """The limit of this process's address space in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


class TvmMobilenetError(Exception):
    """An error that the user can correct.

    Parameters
    ----------
    message : str
        The problem, its place, and the value received.
    hint : str
        The remedy.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class MissingDependencyError(TvmMobilenetError):
    """A package or a tool is not installed; the hint is the command that installs it."""

    exit_code = 3


class BoardError(TvmMobilenetError):
    """A board could not be reached, or a program on it failed."""

    exit_code = 4


class ClusterError(TvmMobilenetError):
    """A cluster could not be reached, or none of its workers can take part."""

    exit_code = 4


class VerificationError(TvmMobilenetError):
    """The machine code and the reference differ, or a bundle differs from the signed one."""

    exit_code = 5


class RegressionError(TvmMobilenetError):
    """A measurement is slower than asked."""

    exit_code = 6


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known word that is most similar to another; empty if none is similar."""
    return next(iter(difflib.get_close_matches(word, list(known), 1, cutoff)), "")
