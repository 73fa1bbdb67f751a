"""Dask schedulers and workers as processes of their own, as users start them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # that starting may take on a busy machine


class Started:
    """A process and what it says."""

    def __init__(self, log: Path, *command: str, **environment: str):
        self.log = log
        paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=file,
                stderr=file,
                env={**os.environ, "PYTHONPATH": paths, **environment},
                process_group=0,
            )

    def said(self, pattern: str) -> str:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if found := re.search(pattern, self.log.read_text()):
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"{pattern} in\n{self.log.read_text()}")

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


class Cluster:
    """A scheduler and its workers; use it as a context.

    Parameters
    ----------
    protocol : str
        ``tls`` needs certificates in ``environment``, as Dask reads them.
    environment : str
        Of all its processes, by name.
    """

    def __init__(self, protocol: str = "tcp", **environment: str):
        self._protocol, self._environment = protocol, environment
        self._folder = tempfile.TemporaryDirectory(prefix="cluster")
        self.folder = Path(self._folder.name)
        self.workers: dict[str, Started] = {}
        self.scheduler = self._start_scheduler("0")
        self.port = self.scheduler.said(rf"Scheduler at:\s+{protocol}://[\d.]+:(\d+)")
        self.address = f"{protocol}://127.0.0.1:{self.port}"

    def _start_scheduler(self, port: str) -> Started:
        where = ["--host", "127.0.0.1", "--port", port, "--protocol", self._protocol, "--no-dashboard"]
        return Started(self.folder / "scheduler", "distributed.cli.dask_scheduler", *where, **self._environment)

    def restart_scheduler(self) -> None:
        self.scheduler.kill()
        self.scheduler = self._start_scheduler(self.port)

    def worker(self, name: str, *flags: str, threads: int = 1, **environment: str) -> Started:
        """A worker without a nanny, so that it is one process."""
        flags = ("--no-nanny", "--no-dashboard", "--nthreads", str(threads), "--name", name, *flags)
        flags, environment = (*flags, "--protocol", self._protocol), {**self._environment, **environment}
        folder = ("--local-directory", str(self.folder))
        command = ("distributed.cli.dask_worker", self.address, "--host", "127.0.0.1", *folder, *flags)
        self.workers[name] = Started(self.folder / name, *command, **environment)
        return self.workers[name]

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_) -> None:
        for one in (*self.workers.values(), self.scheduler):
            one.signal(signal.SIGCONT)
            one.kill()
        self._folder.cleanup()
