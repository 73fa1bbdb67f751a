"""What a target's code may use of a CPU, in the words of the device's kernel."""

from __future__ import annotations

# LLVM's name of a feature, and what the kernel calls it
_FEATURES = {
    "aarch64": {
        "neon": ("asimd",),
        "fullfp16": ("fphp", "asimdhp"),
        "dotprod": ("asimddp",),
        "sve": ("sve",),
        "i8mm": ("i8mm",),
        "bf16": ("bf16",),
    },
    "armv7": {"neon": ("neon",), "vfp4": ("vfpv4",), "hwdiv-arm": ("idiva",)},
    "x86_64": {
        n: (n.replace(".", "_"),)
        for n in (
            *("ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi2"),
            *("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vnni"),
        )
    },
}


# LLVM's name of the feature without which it computes a dtype by another one
_NEEDED = {
    "float16": {"aarch64": "fullfp16", "armv7": "fullfp16", "x86_64": "avx512fp16"},
    "int8": {"aarch64": "neon", "armv7": "neon"},
}


def allows(target, dtype: str) -> bool:
    """Whether a target's code may have instructions of a dtype."""
    needed = _NEEDED.get(dtype, {}).get(target.architecture)
    if dtype not in _NEEDED:
        return True
    return needed is not None and _has(target)(needed)


def _has(target):
    import tvm

    has, llvm = tvm.get_global_func("target.target_has_feature"), tvm.target.Target(target.llvm_target())
    return lambda feature: bool(has(feature, llvm))


def features(target) -> list[str]:
    """What a CPU must have, as the device's kernel names it."""
    has = _has(target)
    return [n for feature, names in _FEATURES[target.architecture].items() if has(feature) for n in names]
