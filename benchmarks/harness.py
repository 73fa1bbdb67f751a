"""Execute and estimate programs by the harness that also runs the peers.

A harness is a folder with ``armcost.py``, which runs a command under qemu-aarch64 with ``tools/bbcost.so``, a plugin
that counts blocks and simulates caches, and estimates the blocks with llvm-mca 19. Bundles need ``sysroot-CPU`` too, an
aarch64 root with a C library and the ``/proc/cpuinfo`` of that core. Peers, and TVM's own runtime, need ``apy.sh``: an
aarch64 Python with their packages. For a float32 network a peer gets the files that ``bench --against`` writes. For
v1's other rows, and for TVM's own runtime, ``runners/`` holds the programs and ``models/`` the networks' files.

The estimate is the compute, with every access a hit in the first-level cache, of all code that one thread executes for
an inference, in kernels and outside. A run of one inference is subtracted from a run of three, which removes the
opening of the network. Misses and bytes from DRAM are counted separately and are not part of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CPU = {"rpi4": "cortex-a72", "rpi5": "neoverse-n1"}
INFERENCES = Path(__file__).with_name("peer_inferences.py")
NARROW = 7  # least multiply-adds for each instruction in a network narrower than float32


@dataclass(frozen=True)
class Run:
    """One inference in the harness.

    Parameters
    ----------
    floor : float
        Estimated cycles over those of the multiply-adds at the full rate of float32.
    l1_misses : float
        Millions of lines.
    dram_fills : float
        Megabytes.
    instructions : float
    products : float
        Multiply-adds for each multiplying instruction.
    """

    floor: float
    l1_misses: float
    dram_fills: float
    instructions: float
    products: float

    @property
    def figures(self) -> tuple[float, float, float]:
        """The figures for a table."""
        return self.floor, self.l1_misses, self.dram_fills


def missing(harness: Path, python: bool, peers: bool) -> list[str]:
    """The missing parts of the harness, to be reported before a build of minutes.

    Parameters
    ----------
    python : bool
        Whether Python will run there: for a peer, or TVM's own runtime.
    peers : bool
        Whether a peer uses the harness's own runner.
    """
    files = ["armcost.py", "tools/bbcost.so", *(f"sysroot-{cpu}" for cpu in CPU.values())]
    files += ["apy.sh", "runners"] * python + ["models"] * peers
    lacking = [f"{name} in {harness}" for name in files if not (harness / name).exists()]
    estimating = [os.environ.get(key, name) for key, name in (("LLVM_MC", "llvm-mc-19"), ("LLVM_MCA", "llvm-mca-19"))]
    return lacking + [name for name in ("qemu-aarch64", *estimating) if not shutil.which(name)]


def run(harness: Path, name: str, board: str, mult_adds: float, command: list[str]) -> Run:
    """Run a command, in which ``{n}`` is the number of inferences, on the core of a board.

    Raises
    ------
    SystemExit
        It failed.
    """
    environment = {**os.environ, "ARMCOST_WORK": str(harness)}
    environment.pop("PYTHONPATH", None)
    how = ["--name", name, "--cpu", CPU[board], "--macs", str(mult_adds), "--cache"]
    arguments = [sys.executable, "armcost.py", "run", *how, "--", *command]
    done = subprocess.run(arguments, cwd=harness, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} for {board} in {harness}: exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    found = json.loads((harness / "out" / f"{name}.{CPU[board]}.json").read_text(encoding="utf-8"))
    products = found["macs_executed"] / max(1.0, found["fma"])
    floor = found["cycles"] / found["bound"]
    return Run(floor, found["l1miss"] / 1e6, found["dram_mb"], found["instructions"], products)


def bundle(harness: Path, name: str, board: str, mult_adds: float, folder: Path) -> Run:
    """A bundle, by its own program on one thread."""
    program = f'exec setarch -R qemu-aarch64 -cpu $CPU -L {harness}/sysroot-$CPU $QEMU_EXTRA "$@"'
    command = [str(folder / "mobilenet"), "bench", "--threads", "1", "--runs", "{n}"]
    return run(harness, name, board, mult_adds, ["sh", "-c", program, "sh", *command])


def by_tvm(harness: Path, name: str, board: str, mult_adds: float, executable: Path) -> Run:
    """Run the same kernels in TVM's runtime, which plans memory itself."""
    return run(harness, name, board, mult_adds, ["./apy.sh", "runners/run_tvm.py", "{n}", str(executable)])


def peer_on(harness: Path, engine: str, board: str, mult_adds: float, folder: Path, name: str) -> Run:
    """A peer on the files of a float32 network, as ``peer_inferences.py`` runs it.

    Parameters
    ----------
    folder : path
        The folder that it reads.
    name : str
        Of the network.
    """
    command = ["./apy.sh", str(INFERENCES), "{n}", engine, str(folder)]
    return run(harness, f"{name}-{engine}", board, mult_adds, command)


def peer(harness: Path, runner: list[str], board: str, mult_adds: float, dtype: str) -> Run:
    """Run a peer again.

    Parameters
    ----------
    runner : list of str
        A file of ``runners`` and its arguments.
    dtype : str
        In which it computes.

    Raises
    ------
    SystemExit
        It failed, or its multiply-adds take four values each although a narrower dtype was requested.
    """
    name = "-".join([Path(part).stem for part in runner if part != "{n}"])
    found = run(harness, name, board, mult_adds, ["./apy.sh", f"runners/{runner[0]}", *runner[1:]])
    if dtype != "float32" and found.products < NARROW:
        raise SystemExit(f"{name} on {board}: {found.products:.1f} multiply-adds an instruction: it ran in float32")
    return found
