"""Count the execution of an AArch64 process under qemu-user, in the form of the virtual board's counts.

``executed.c`` is a plugin of qemu that counts blocks, taken branches and traffic by thread between two marks of the
process. From its output ``read`` makes, for each slice of a pass and each thread, the ``Counts`` of ``kernel_run`` and
images of the code, so that ``CoreModel.estimate`` estimates them like a kernel of the virtual board. Functions outside
of a module are executed code here; the virtual board has a table of their costs.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tvm_mobilenet.boards.cost.core_model import CoreModel
from tvm_mobilenet.boards.virtual.elf import Image
from tvm_mobilenet.boards.virtual.kernel_run import Counts
from tvm_mobilenet.boards.virtual.memory import Traffic

SOURCE = Path(__file__).with_suffix(".c")
MARK = 0x7E570000  # getpgid(MARK + 1) begins, + 2 begins another pass, + 3 ends
_APART = 1 << 16  # bytes without executed code between two images


@dataclass
class Slice:
    """One thread in one slice of time: executions by block, as ``(address, instructions) -> [times, taken]``."""

    blocks: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=lambda: Traffic((0.0, 0.0), (0.0, 0.0)))


@dataclass
class Execution:
    """The counts: ``slices[number][thread]``, for all passes between the marks together.

    Parameters
    ----------
    words : dict
        From address to instruction, for all executed instructions.
    gave_up : int
        Number of times that a thread stopped waiting for the slowest.
    """

    words: dict[int, int]
    slices: dict[int, dict[int, Slice]]
    gave_up: int

    def __post_init__(self):
        self.images = _images(self.words)

    def instructions(self, part: Slice) -> int:
        return sum(n * times for (_, n), (times, _) in part.blocks.items())

    def counts(self, part: Slice) -> list[tuple[Image, Counts]]:
        """The counts of each image, in the virtual board's form."""
        found = []
        for image in self.images:
            size = len(image.memory) // 4
            inside = {k: v for k, v in part.blocks.items() if image.code[0] <= k[0] < image.code[1]}
            if not inside:
                continue
            change, taken = np.zeros(size + 1, np.int64), np.zeros(size, np.int64)
            for (address, n), (times, jumps) in inside.items():
                first = (address - image.base) // 4
                change[first] += times
                change[first + n] -= times
                taken[first + n - 1] += jumps
            found.append((image, Counts(image.base, np.cumsum(change)[:-1], taken)))
        return found

    def cycles(self, part: Slice, core) -> float:
        """Compute cycles of a slice by the core model."""
        model = CoreModel.of(core)
        return sum(model.estimate(image, counts).cycles for image, counts in self.counts(part))


def _images(words: dict[int, int]) -> list[Image]:
    addresses = np.array(sorted(words), np.int64)
    images = []
    for run in np.split(addresses, np.flatnonzero(np.diff(addresses) > _APART) + 1):
        if len(run):
            base, end = int(run[0]), int(run[-1]) + 4
            memory = bytearray(end - base)
            for a in run.tolist():
                memory[a - base : a - base + 4] = words[a].to_bytes(4, "little")
            images.append(Image("", "aarch64", base, memory, (base, end), {}, ()))
    return images


def read(path: Path) -> Execution:
    """Read the plugin's output.

    Raises
    ------
    SystemExit
        The counts do not reach the end of the process, or an address held two different instructions.
    """
    words: dict[int, int] = {}
    slices: dict[int, dict[int, Slice]] = defaultdict(dict)
    gave_up, part = None, Slice()
    with path.open(encoding="ascii") as file:
        for line in file:
            kind, *rest = line.split()
            if kind == "b":
                for k, word in enumerate(rest[2:]):
                    at, found = int(rest[0], 16) + 4 * k, int(word, 16)
                    if words.setdefault(at, found) != found:
                        raise SystemExit(
                            f"{path}: at {at:#x} is {found:08x} and was {words[at]:08x}: two codes, one place"
                        )
            elif kind == "s":
                thread, number, *moved = map(int, rest)
                part = slices[number].setdefault(thread, Slice())
                part.traffic += Traffic((float(moved[0]), float(moved[2])), (float(moved[1]), float(moved[3])))
            elif kind == "e":
                times = part.blocks.setdefault((int(rest[0], 16), int(rest[1])), [0, 0])
                times[0] += int(rest[2])
                times[1] += int(rest[3])
            elif kind == "t":
                gave_up = int(rest[1])
    if gave_up is None:
        raise SystemExit(f"{path}: no last line: the process was ended before its time")
    return Execution(words, dict(slices), gave_up)


def plugin(folder: Path) -> Path:
    """``executed.c``, compiled for this machine."""
    built = folder / "executed.so"
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-O2",
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        "-fno-sanitize=all",
        "-Wl,-z,lazy",
        str(SOURCE),
        "-o",
        str(built),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{SOURCE.name} did not compile: {done.stderr.strip()[-1500:]}")
    return built


def run(built: Path, core, emulator: list[str], command: list[str], output: Path, slice_length: int, **how) -> str:
    """Run ``command`` under ``emulator``, qemu-aarch64 with its options; return its standard output.

    The caches are those of ``core``. ``how``: arguments of ``subprocess.run``.
    """
    caches = ",".join(f"l{k}={c.bytes}:{c.ways}" for k, c in ((1, core.l1d), (2, core.l2)))
    counting = ["-plugin", f"{built},out={output},slice={slice_length},{caches}"]
    done = subprocess.run([*emulator, *counting, *command], capture_output=True, text=True, **how)
    if done.returncode:
        raise SystemExit(f"{command}: exit code {done.returncode}: {(done.stderr + done.stdout).strip()[-1500:]}")
    return done.stdout
