"""This machine as a core: what a schedule reads, found from /proc and /sys without importing tvm.

Rates are those of the common cores with the same vector width; nothing is predicted for the host, it measures.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64", "armv7l": "armv7"}


def cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def core_data() -> dict:
    """The table of a core's TOML file, for the core of this machine."""
    machine = platform.machine().lower()
    architecture = _ARCHITECTURES.get(machine, machine)
    flags = _cpu_flags()
    if architecture == "x86_64":
        wide = "avx512f" in flags
        registers, nbytes = (32, 64) if wide else (16, 32 if "avx2" in flags or "avx" in flags else 16)
    else:
        registers, nbytes = (32, 16) if architecture == "aarch64" else (16, 16)
    data = {
        "title": f"the {architecture} core of this machine",
        "architecture": architecture,
        "llvm_cpu": "host",
        "in_order": False,
        "issue_width": 4,
        "vector_registers": registers,
        "vector_bytes": nbytes,
        "fma_per_cycle": 2.0,
        "fma_latency": 4,
        "fma_accumulate_latency": 4,
        "l1d": {"bytes": 32768, "ways": 8},
        "l2": {"bytes": 524288, "ways": 8},
    }
    data.update(_caches())
    return data


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    m = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(m[1].split()) if m else set()


def _caches() -> dict:
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size, ways, line, shared = (
                (folder / name).read_text(encoding="utf-8").strip()
                for name in ("level", "type", "size", "ways_of_associativity", "coherency_line_size", "shared_cpu_list")
            )
            nbytes = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1], 0)
            cache = {"bytes": nbytes, "ways": max(int(ways), 1), "line": int(line), "shared": shared != "0"}
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and level in "123":
            found["l1d" if level == "1" else f"l{level}"] = cache
    return found
