"""The CPU features that a target's code may use, by the names of the device's kernel."""

from __future__ import annotations

# LLVM's name of a feature, and the kernel's
_FEATURES = {
    "aarch64": {
        "neon": ("asimd",),
        "fullfp16": ("fphp", "asimdhp"),
        "dotprod": ("asimddp",),
        "fp16fml": ("asimdfhm",),
        "lse": ("atomics",),
        "rdm": ("asimdrdm",),
        "rcpc": ("lrcpc",),
        "complxnum": ("fcma",),
        "sve": ("sve",),
        "i8mm": ("i8mm",),
        "bf16": ("bf16",),
    },
    "armv7": {
        "neon": ("neon",),
        "vfp4": ("vfpv4",),
        "hwdiv-arm": ("idiva",),
        "fullfp16": ("fphp", "asimdhp"),
        "dotprod": ("asimddp",),
    },
    "x86_64": {
        n: (n.replace(".", "_"),)
        for n in (
            *("ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi2"),
            *("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vnni", "avx512fp16"),
        )
    },
}


# LLVM's name of the feature without which it silently computes a dtype in another one
_NEEDED = {
    "float16": {"aarch64": "fullfp16", "armv7": "fullfp16", "x86_64": "avx512fp16"},
}
# LLVM's CPUs of shipped cores that have a feature, so that a list of targets need not import tvm
_CPUS = {"fullfp16": ("cortex-a76",)}


def needed(target, dtype: str) -> str:
    """LLVM's name of the feature that a target's code needs to compute a dtype; empty if none."""
    return _NEEDED.get(dtype, {}).get(target.architecture, "")


def allows(target, dtype: str) -> bool:
    """Whether a target's code may have instructions of a dtype."""
    feature = needed(target, dtype)
    if not feature:
        return True
    if not any(attribute.startswith("-") for attribute in target.llvm_attributes):
        if f"+{feature}" in target.llvm_attributes:
            return True
        if (target.llvm_cpu or target.core.llvm_cpu) in _CPUS.get(feature, ()):
            return True
    return _has(target)(feature)


def _has(target):
    import tvm

    has, llvm = tvm.get_global_func("target.target_has_feature"), tvm.target.Target(target.llvm_target())
    return lambda feature: bool(has(feature, llvm))


def checked(target) -> list[str]:
    """The features that a target's code may use, and that a build requires of the CPU when it is opened, by LLVM's
    names.

    LLVM's Cortex-A53 and A72 include instructions for AES, SHA and CRC, which a Raspberry Pi may lack. They are not in
    the list, and no code may use them.
    """
    has = _has(target)
    return [feature for feature in _FEATURES[target.architecture] if has(feature)]


def allowed(target) -> list[str]:
    """The features that a target's code may contain, by LLVM's names: the checked ones, and ARMv8's floating point in
    32-bit code, which the Linux kernel does not report.
    """
    has = _has(target)
    told = [feature for feature in ("fp-armv8",) if target.architecture == "armv7" and has(feature)]
    return checked(target) + told


def features(target) -> list[str]:
    """The features that a CPU must have, by the names of the device's kernel."""
    names = _FEATURES[target.architecture]
    return [name for feature in checked(target) for name in names[feature]]
