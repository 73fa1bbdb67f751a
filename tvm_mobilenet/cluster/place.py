"""The place of jobs by ``--workers``: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvm_mobilenet.cluster.workers import DaskWorkers
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.terminal.console import say
from tvm_mobilenet.tuning.workers import Workers

PROCESSES = 2  # the default
_ADDRESS = re.compile(r"(dask|dask\+tls)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_HERE = re.compile(r"localhost|127(\.\d+){3}|\[::1\]")


@dataclass(frozen=True)
class Place:
    """Processes of this machine, or a cluster.

    Parameters
    ----------
    processes : int
        Of this machine; 0: a cluster.
    address : str
        The scheduler's address in Dask's form.
    """

    processes: int = PROCESSES
    address: str = ""

    def __str__(self) -> str:
        return f"the workers of {self.address}" if self.address else f"{self.processes} processes here"

    def at_most(self, processes: int) -> Place:
        """The same place with at most this number of processes; a cluster does not change."""
        return self if self.address else Place(min(self.processes, processes))

    def pool(self, evaluate, timeout: float, debug: bool = False, threads: int = 1, alone: bool = False, cpu=False):
        """The pool that runs jobs there, a context: `Workers` or `DaskWorkers`.

        Parameters
        ----------
        evaluate : object
            Called with a job, in some process there.
        timeout : float
            Seconds that a job may take.
        threads : int
            Threads of a kernel, if it runs on its job's machine.
        alone : bool
            A job measures the machine that has it.
        cpu : bool
            A job runs code for this machine's CPU.

        Raises
        ------
        ClusterError
            The cluster cannot be reached, or none of its workers can take part.
        """
        if not self.address:
            return Workers(evaluate, self.processes, timeout, debug, threads)
        protocol, _, host = self.address.partition("://")
        if protocol == "tcp" and not _HERE.fullmatch(host.rpartition(":")[0]):
            say(f"note: what goes to {self.address} and back is neither encrypted nor signed: docs/guides/cluster.md")
        how = {"timeout": timeout, "debug": debug, "threads": threads, "alone": alone, "cpu": cpu or alone}
        return DaskWorkers(self.address, evaluate, **how, say=say)


def parse(where: int | str | Place) -> Place:
    """The place that a number of processes, or ``dask://host:8786``, names; ``dask+tls://`` is encrypted.

    Raises
    ------
    TvmMobilenetError
        It is neither.
    """
    if isinstance(where, Place):
        return where
    text = str(where).strip()
    if text.isdecimal() and int(text) > 0:
        return Place(int(text))
    found = _ADDRESS.fullmatch(text)
    if found and 0 < int(found[3]) < 65536:
        return Place(0, f"{'tls' if found[1] == 'dask+tls' else 'tcp'}://{found[2]}:{found[3]}")
    raise TvmMobilenetError(
        f"--workers {text!r} is neither a number of processes nor the address of a Dask scheduler",
        "try --workers 2, or --workers dask://host:8786: docs/guides/cluster.md",
    )
