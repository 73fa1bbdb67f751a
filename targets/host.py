"""This machine as a core: its level, found once, and all that follows from it; without importing tvm.

A level is what a compiler may use of a CPU. It sets LLVM's CPU, the vectors' size and their number together, and it is
the core's name, so tune records of different levels never mix and a build says what it needs. Unless
``TVM_MOBILENET_HOST_CPU`` names a lower one, the highest level that this machine has is used.

Levels of x86-64 are those of its psABI (version 1.0, table 3.1), which LLVM has as CPUs, and ``x86-64-v4-fp16``, which
adds half-precision arithmetic. Arm has none: ``armv8-a`` is what every AArch64 core has, ``armv8.2-a`` what a
Cortex-A76 adds. Rates are those of the common cores with the same vectors, DRAM as a Cortex-A76 streams it; nothing is
predicted for the host, it measures.
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
    """What a compiler may use of a CPU.

    Attributes
    ----------
    name : str
        Of the level, and of the host's core.
    llvm_cpu : str
        LLVM's CPU that uses this and no more.
    flags : tuple of str
        What the CPU must have, as ``targets.cpu.features`` names it; those of lower levels included.
    fma_per_cycle : float
        Vector multiply-adds a cycle; half as many where a multiply-add is two instructions.
    computes : tuple of str
        Dtypes other than float32 that it has arithmetic for.
    attributes : tuple of str
        What LLVM must be told beside its CPU, as a target's ``llvm_attributes``.
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
    """Of this machine, as targets name it, if it runs what is built for them; else its own name, such as ``riscv64`` or
    ``arm64 Darwin``, of a system that loads no library of Linux."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine) if is_linux() else f"{machine} {platform.system()}"


def flags() -> set[str]:
    """What this machine's CPU has, as the kernel names it; empty where nothing tells."""
    return set(cpu.features())


def machine() -> Level:
    """The highest level that this machine has; the lowest of its architecture where its flags cannot be read.

    Raises
    ------
    TvmMobilenetError
        The architecture is none that code is built for.
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
    """The level whose name a core has or ends with, and whose CPU for LLVM; None for a core of a board."""
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
        plausible = sets > 0 and not rest and not int(line) & (int(line) - 1)  # virtual machines tell odd things
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
    """How many CPUs a list of the kernel's names, such as ``0-3,64-67``."""
    ends = [part.split("-") for part in numbers.split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)
