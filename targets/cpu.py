"""The optional features of the CPU that this process runs on."""

from __future__ import annotations

import ctypes
import platform
import re
from pathlib import Path

# Linux, arch/arm64/include/uapi/asm/hwcap.h
HWCAP_AARCH64 = {
    0: "fp",
    1: "asimd",
    3: "aes",
    4: "pmull",
    5: "sha1",
    6: "sha2",
    7: "crc32",
    8: "atomics",
    9: "fphp",
    10: "asimdhp",
    12: "asimdrdm",
    14: "fcma",
    15: "lrcpc",
    17: "sha3",
    20: "asimddp",
    22: "sve",
    23: "asimdfhm",
}
HWCAP2_AARCH64 = {1: "sve2", 13: "i8mm", 14: "bf16"}
# Intel's manual, volume 2A, CPUID: leaf 1, leaf 7 and leaf 80000001 as glibc numbers them; eax, ebx, ecx, edx
CPUID_X86_64 = {
    (0, 2): {
        0: "pni",
        9: "ssse3",
        12: "fma",
        13: "cx16",
        19: "sse4_1",
        20: "sse4_2",
        22: "movbe",
        23: "popcnt",
        26: "xsave",
        28: "avx",
        29: "f16c",
    },
    (1, 1): {
        3: "bmi1",
        5: "avx2",
        8: "bmi2",
        16: "avx512f",
        17: "avx512dq",
        28: "avx512cd",
        30: "avx512bw",
        31: "avx512vl",
    },
    (1, 2): {11: "avx512_vnni"},
    (1, 3): {23: "avx512_fp16"},
    (2, 2): {0: "lahf_lm", 5: "abm"},
}
_AT_HWCAP, _AT_HWCAP2 = 16, 26


def features(root: Path = Path("/")) -> list[str]:
    """The CPU's optional features, by the names of /proc/cpuinfo, sorted; ``root`` is ``/`` for this machine."""
    if platform.machine() == "aarch64" and Path("/") == root:  # right in emulators too
        try:
            getauxval = ctypes.CDLL(None).getauxval
            getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
            words = getauxval(_AT_HWCAP), getauxval(_AT_HWCAP2)
            return sorted(
                name
                for word, names in zip(words, (HWCAP_AARCH64, HWCAP2_AARCH64), strict=True)
                for bit, name in names.items()
                if word >> bit & 1
            )
        except (OSError, AttributeError):
            pass
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    if found or platform.machine() != "x86_64" or Path("/") != root:
        return sorted(found[1].split()) if found else []
    return _cpuid()  # no /proc here


def _cpuid() -> list[str]:
    """The usable features of ``CPUID_X86_64``, by glibc 2.33 or later (sys/platform/x86.h); empty without it."""
    try:
        leaf = ctypes.CDLL(None).__x86_get_cpuid_feature_leaf
    except (OSError, AttributeError):
        return []
    leaf.restype, leaf.argtypes = ctypes.POINTER(ctypes.c_uint * 8), [ctypes.c_uint]
    return sorted(
        name
        for (number, register), names in CPUID_X86_64.items()
        for bit, name in names.items()
        if leaf(number).contents[4 + register] >> bit & 1  # four words of the CPU, then those that the system permits
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
