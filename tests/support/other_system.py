"""A Python process that finds what macOS or Windows have, on Linux: what is not there is taken away.

It shows that nothing asks for what such a system lacks. It does not show that the system works otherwise as Linux does.
"""

import asyncio  # noqa: F401  modules of Python that ask which system it is when they are imported
import builtins
import concurrent.futures.process  # noqa: F401
import ctypes
import ctypes.util
import importlib.metadata  # noqa: F401
import io
import multiprocessing.connection  # noqa: F401
import os
import platform
import select
import shutil  # noqa: F401
import signal
import socket
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401
import urllib.request  # noqa: F401

LINUX = {  # what Python has on Linux alone, of what this project could want
    os: "O_PATH O_DIRECT O_LARGEFILE O_NOATIME eventfd fdatasync getresuid getxattr memfd_create pidfd_open"
    " pipe2 posix_fadvise posix_fallocate sched_getaffinity sched_getscheduler sched_setaffinity setns setxattr splice"
    " unshare copy_file_range",
    select: "epoll POLLRDHUP",
    signal: "pidfd_send_signal sigtimedwait sigwaitinfo SIGPWR SIGRTMIN SIGRTMAX SIGSTKFLT SIGPOLL",
    socket: "AF_NETLINK AF_PACKET AF_VSOCK MSG_NOSIGNAL SOCK_CLOEXEC SOCK_NONBLOCK SO_BINDTODEVICE SO_MARK SO_PEERCRED"
    " TCP_KEEPIDLE TCP_QUICKACK TCP_USER_TIMEOUT",
}
POSIX = {  # what it has on systems other than Windows
    os: "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_NOCTTY O_SYNC chown fchmod fchown fork forkpty geteuid getgid"
    " getgroups getpgid getpriority getsid getuid killpg lchown major mkfifo mknod nice openpty pread preadv pwrite"
    " register_at_fork set_blocking setpgid setsid statvfs sync sysconf uname wait4 WIFSIGNALED WNOHANG WTERMSIG",
    select: "poll POLLIN POLLOUT POLLHUP POLLERR",
    signal: "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGXCPU SIG_BLOCK ITIMER_REAL alarm pthread_sigmask"
    " setitimer sigwait",
    socket: "AF_UNIX CMSG_SPACE SCM_RIGHTS recv_fds send_fds socketpair",
}
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "curses", "syslog", "readline")
OF_LIBC = ("prctl", "renameat2", "getauxval", "syscall", "__x86_get_cpuid_feature_leaf")  # that only Linux's has


def become(name: str) -> None:
    """Take away from this process what ``darwin`` or ``win32`` lacks; modules that must know better come first."""
    assert sys.platform == "linux" and name in ("darwin", "win32")
    for taken in (LINUX, POSIX) if name == "win32" else (LINUX,):
        for module, names in taken.items():
            for one in names.split():
                if hasattr(module, one):
                    delattr(module, one)
    if name == "win32":
        for module in MODULES:
            sys.modules[module] = None
    else:
        import fcntl

        del fcntl.F_SETPIPE_SZ
    sys.platform = name
    platform.system = lambda: {"darwin": "Darwin", "win32": "Windows"}[name]
    platform.machine = lambda: {"darwin": "arm64", "win32": "AMD64"}[name]
    ctypes.CDLL = _library(ctypes.CDLL, name)
    for module in (builtins, io):
        module.open = _without_proc(open)
    for call in ("open", "stat", "lstat", "listdir", "scandir", "access", "readlink"):
        setattr(os, call, _without_proc(getattr(os, call)))


def _without_proc(call):
    def hidden(path, *rest, **how):
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return call(path, *rest, **how)

    return hidden


def _library(real, name):
    class Library(real):
        def __init__(self, path, *rest, **how):
            if path is None and name == "win32":
                raise TypeError("bad argument type for built-in operation")
            super().__init__(path, *rest, **how)
            self._own = path is None

        def __getattr__(self, symbol):
            if self.__dict__.get("_own") and symbol in OF_LIBC:
                raise AttributeError(f"dlsym: symbol not found: {symbol}")
            return super().__getattr__(symbol)

    return Library
