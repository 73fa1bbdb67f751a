"""This machine as a core: its level, found once, and the facts that follow from it; without importing tvm.

A level is the set of CPU features that a compiler may use. It determines LLVM's CPU and the size and number of vectors.
It is also the core's name, so tune records of different levels never mix, and a build records its requirements. The
default is the highest level of this machine, unless ``TVM_MOBILENET_HOST_CPU`` names a lower one.

Levels of x86-64 are those of its psABI (version 1.0, table 3.1), which LLVM has as CPUs, and ``x86-64-v4-fp16``, which
adds half-precision arithmetic. Arm defines no levels: ``armv8-a`` has the features of every AArch64 core, ``armv8.2-a``
adds those of a Cortex-A76. Rates are those of common cores with the same vectors, and DRAM rates those of a Cortex-A76.
They only choose defaults: the host is measured, not predicted.
"""

from __future__ import annotations

import difflib
import os
import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet.targets import cpu

from tvm_mobilenet import dtypes
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.system import is_linux

VARIABLE = "TVM_MOBILENET_HOST_CPU"
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "armv7", "armv8l": "armv7"}


@dataclass(frozen=True, kw_only=True)
class Level:
    """A set of CPU features that a compiler may use.

    Attributes
    ----------
    name : str
        The name of the level, and of the host's core.
    llvm_cpu : str
        LLVM's CPU with exactly these features.
    flags : tuple of str
        Features that the CPU must have, by the names of ``targets.cpu.features``, including those of lower levels.
    fma_per_cycle : float
        Vector multiply-adds a cycle; half as many if a multiply-add takes two instructions.
    computes : tuple of str
        Dtypes other than float32 that it has arithmetic for.
    attributes : tuple of str
        LLVM attributes in addition to its CPU, as a target's ``llvm_attributes``.
    """

    name: str
    llvm_cpu: str
    vector_bytes: int
    vector_registers: int
    flags: tuple[str, ...] = ()
    fma_per_cycle: float = 2.0
    computes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    def lacks(self, flags: Collection[str]) -> list[str]:
        """Which of its flags are not among a CPU's."""
        return [flag for flag in self.flags if flag not in flags]


_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2")
_V3 = (*_V2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_V4_FP16 = (*_V4, "avx512_fp16")
_A76 = ("asimd", "crc32", "atomics", "asimdrdm", "fphp", "asimdhp", "asimddp", "lrcpc")
LEVELS = {  # ascending
    "x86_64": (
        *(
            Level(name=name, llvm_cpu=name, vector_bytes=b, vector_registers=n, flags=flags, fma_per_cycle=rate)
            for name, b, n, flags, rate in (
                ("x86-64", 16, 16, (), 1.0),
                ("x86-64-v2", 16, 16, _V2, 1.0),
                ("x86-64-v3", 32, 16, _V3, 2.0),
                ("x86-64-v4", 64, 32, _V4, 2.0),
            )
        ),
        Level(
            name="x86-64-v4-fp16",
            llvm_cpu="x86-64-v4",
            vector_bytes=64,
            vector_registers=32,
            flags=_V4_FP16,
            computes=("float16",),
            attributes=("+avx512fp16",),
        ),
    ),
    "aarch64": (
        Level(name="armv8-a", llvm_cpu="cortex-a72", vector_bytes=16, vector_registers=32),
        Level(
            name="armv8.2-a",
            llvm_cpu="cortex-a76",
            vector_bytes=16,
            vector_registers=32,
            flags=_A76,
            computes=("float16",),
        ),
    ),
    "armv7": (Level(name="armv7-a", llvm_cpu="cortex-a7", vector_bytes=16, vector_registers=16),),
}


def architecture() -> str:
    """The architecture of this machine, by the targets' names if it can run code for them. Otherwise its own name, such
    as ``riscv64``, or ``arm64 Darwin`` for a system that cannot load libraries of Linux.
    """
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine) if is_linux() else f"{machine} {platform.system()}"


def flags() -> set[str]:
    """The features of this machine's CPU, by the kernel's names; empty if they are unknown."""
    return set(cpu.features())


def machine() -> Level:
    """The highest level of this machine; the lowest of its architecture if its flags cannot be read.

    Raises
    ------
    TvmMobilenetError
        No code can be built for this architecture.
    """
    if architecture() not in LEVELS:
        raise TvmMobilenetError(
            f"this machine is {architecture()}: no host target",
            f"build for a board with --target; hosts are {', '.join(LEVELS)} with Linux",
        )
    has = flags()
    return [level for level in LEVELS[architecture()] if not level.lacks(has)][-1]


def level() -> Level:
    """The level that the host is built for: the one in ``TVM_MOBILENET_HOST_CPU``, else the machine's own.

    Raises
    ------
    TvmMobilenetError
        The variable holds no level of this architecture, or one that the machine lacks.
    """
    own, name = machine(), os.environ.get(VARIABLE, "")
    if not name:
        return own
    has, here = flags(), LEVELS[architecture()]
    offered = ", ".join(one.name for one in here if not one.lacks(has))
    wanted = next((one for one in here if one.name == name), None)
    if wanted is None:
        near = difflib.get_close_matches(name, [one.name for one in here], 1)
        others = [arch for arch, levels in LEVELS.items() if any(one.name == name for one in levels)]
        why = f"a level of {others[0]}, and this machine is {architecture()}" if others else "not a level"
        raise TvmMobilenetError(
            f"{VARIABLE}={name}: {why}" + (f"; did you mean {near[0]!r}?" if near else ""),
            f"accepted are {', '.join(one.name for one in here)}; this machine has {own.name}",
        )
    if missing := wanted.lacks(has):
        why = f"it lacks {', '.join(missing)}" if has else "nothing tells the flags of its CPU, /proc/cpuinfo neither"
        raise TvmMobilenetError(
            f"{VARIABLE}={name}: this machine has {own.name}; {why}", f"set it to one of {offered}, or unset it"
        )
    return wanted


def of_llvm_cpu(cpu: str) -> Level | None:
    """The lowest level that is this CPU for LLVM, or None."""
    return next((one for levels in LEVELS.values() for one in levels if one.llvm_cpu == cpu), None)


def of_core(core) -> Level | None:
    """The level with the name and LLVM CPU of a core, or with the end of its name; None for a board's core."""
    return next(
        (
            one
            for one in LEVELS.get(core.architecture, ())
            if f"-{core.name}".endswith(f"-{one.name}") and core.llvm_cpu == one.llvm_cpu
        ),
        None,
    )


def cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def core_data() -> dict:
    """The table of a core's TOML file, and its name, for the core of this machine at its level."""
    chosen = level()
    data = {
        "name": chosen.name,
        "title": f"the {architecture()} core of this machine at {chosen.name}",
        "architecture": architecture(),
        "llvm_cpu": chosen.llvm_cpu,
        "in_order": False,
        "issue_width": 4,
        "vector_registers": chosen.vector_registers,
        "vector_bytes": chosen.vector_bytes,
        "vector_load_bytes": chosen.vector_bytes,
        "fma_per_cycle": chosen.fma_per_cycle,
        "fma_latency": 4,
        "fma_accumulate_latency": 4,
        "dram_line_cycles": 13.0,
        "rates": {
            dtype: chosen.fma_per_cycle * (chosen.vector_bytes // dtypes.of(dtype).bytes) for dtype in chosen.computes
        }
        | {"int8": chosen.fma_per_cycle * (chosen.vector_bytes // dtypes.of(dtypes.of("int8").accumulator).bytes)},
        "l1d": {"bytes": 32768, "ways": 8},
        "l2": {"bytes": 524288, "ways": 8},
    }
    data.update(_caches())
    return data


def _caches() -> dict:
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size, ways, line, shared = (
                (folder / name).read_text(encoding="utf-8").strip()
                for name in ("level", "type", "size", "ways_of_associativity", "coherency_line_size", "shared_cpu_list")
            )
            nbytes = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1], 0)
            sets, rest = divmod(nbytes, int(ways) * int(line))
            sharers = _count(shared)
        except (OSError, ValueError, ZeroDivisionError):
            continue
        plausible = sets > 0 and not rest and not int(line) & (int(line) - 1)  # not in some virtual machines
        if plausible and kind != "Instruction" and level in "123":
            found["l1d" if level == "1" else f"l{level}"] = {
                "bytes": nbytes,
                "ways": int(ways),
                "line": int(line),
                "shared": sharers > 1,
                "cpus": sharers,
            }
    return found


def _count(numbers: str) -> int:
    """The number of CPUs in a list as the kernel writes it, such as ``0-3,64-67``."""
    ends = [part.split("-") for part in numbers.split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)
