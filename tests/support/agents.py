"""Real agents, trackers and servers of TVM's for tests, and kernels that misbehave."""

import contextlib
import functools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tvm_mobilenet.boards.agent.folder import PREFIX

ARM64 = Path(
    os.environ.get("TVM_MOBILENET_ARM64")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tvm_mobilenet" / "arm64-python"
)  # .ci/arm64-python makes it

_WITHOUT_TORCH = Path(__file__).with_name("without_torch")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("TVM_MOBILENET_CI"),
    reason="file systems and network namespaces are made by root",
)


def free_port() -> int:
    """A port below those that the system gives to connections: until a server has it, none of them takes it."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", random.SystemRandom().randrange(max(1024, lowest - 10_000), lowest)))
            return s.getsockname()[1]


def runs(pid: int) -> bool:
    """Whether a process does; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, what: str, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


_WATCH = """
import contextlib, os, signal, sys
alive = set()
for line in sys.stdin:
    what, number = line.split()
    (alive.add if what == "begins" else alive.discard)(int(number))
for number in alive:
    with contextlib.suppress(OSError):
        os.kill(number, signal.SIGKILL)
"""


@functools.cache
def _watcher() -> subprocess.Popen:
    """Ends what tests started when this process ends without doing so: killed, say."""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", _WATCH], stdin=subprocess.PIPE, bufsize=0, start_new_session=True
    )


def _tell(what: str, number: int) -> None:
    """A process begins or is over; a negative number: a process group."""
    _watcher().stdin.write(f"{what} {number}\n".encode())


class Agent:
    """``python -m tvm_mobilenet.agent`` in a process of its own; ``url`` is where."""

    def __init__(
        self, *options, python=(sys.executable,), module=("-m", "tvm_mobilenet.agent"), tmp=None, prefix=(), start=True
    ):
        self.temporary = tmp or tempfile.mkdtemp(prefix="agent-test-")
        self._own = tmp is None
        self._command = [*prefix, *map(str, python), *module, *options]
        self.process = None
        self.log = ""
        if start:
            self.start()

    def start(self):
        port = [] if "--port" in self._command else ["--port", "0"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [*self._command, *port],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            text=True,
        )
        _tell("begins", self.process.pid)
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("rpc://"), self.read_log()
        self.port = int(re.search(r":(\d+)", self.url)[1])
        return self

    def read_log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        _tell("over", self.process.pid)

    def stop(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(120)
        if self.process.poll() is None:
            self.kill()
        self.process.stdout.close()

    def children(self) -> list[int]:
        """Processes of the sessions."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def measuring(self) -> list[int]:
        """The processes in which the sessions measure."""
        found = []
        for session in self.children():
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{session}/task/{session}/children").read_text().split())
        return found

    def leftovers(self) -> list[str]:
        """Files and folders of sessions."""
        return sorted(str(p) for p in Path(self.temporary).glob(f"{PREFIX}*/*"))

    def is_clean(self, seconds: float = 300.0) -> bool:
        """Whether no session's process and file is left; one that was just closed is given a moment."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.children() and not self.leftovers():
                return True
            time.sleep(0.05)
        return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()
        _tell("over", self.process.pid)  # it may have ended by itself
        if self._own:
            shutil.rmtree(self.temporary, ignore_errors=True)


def without_torch() -> dict[str, str]:
    """The environment of a process that imports TVM and cannot import PyTorch, which takes three times as long."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(_WITHOUT_TORCH), os.environ["PYTHONPATH"]))}


@contextlib.contextmanager
def server_of_tvm(module: str, *options, port: int = 0):
    """``python -m tvm.exec.rpc_server``, ``rpc_tracker`` or ``rpc_proxy``, unchanged; its port.

    With ``--through-proxy`` the port is the proxy's, which listens before and after.
    """
    port = port or free_port()
    command = [
        sys.executable,
        "-m",
        f"tvm.exec.{module}",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--port-end",
        str(port + 1),
        *options,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0, env=without_torch()
    )
    _tell("begins", -process.pid)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
            assert process.poll() is None
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _tell("over", -process.pid)
        for _ in range(0 if "--through-proxy" in options else 2000):  # its own process, which listens, dies a bit later
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                time.sleep(0.05)
                continue
            break


KERNELS = r"""
#include <stdint.h>
#define KERNEL(name) int __tvm_ffi_##name(void* self, const void* args, int n, void* result)
typedef struct { void* data; int32_t device, id, ndim, dtype; int64_t *shape, *strides; uint64_t offset; } Tensor;
typedef struct { int32_t type; int32_t padding; Tensor* tensor; } Any;
static char* data(const void* args, int i) { /* a tensor object has its DLTensor behind a header of 24 bytes */
  const Any* any = (const Any*)args + i;
  Tensor* t = any->type == 7 ? any->tensor : (Tensor*)((char*)any->tensor + 24);
  return t->data;
}
KERNEL(fine) { *(float*)data(args, n - 1) = 42; return 0; }
KERNEL(endless) { for (volatile int i = 0;; i++) {} }
KERNEL(crash) { *(volatile int*)0 = 1; return 0; }
"""


def compile_kernels(folder, compiler: str = "gcc") -> Path:
    """A library of kernels that misbehave."""
    source, library = Path(folder) / "kernels.c", Path(folder) / "kernels.so"
    source.write_text(KERNELS)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library
