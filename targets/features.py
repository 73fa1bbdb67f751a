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


def features(target) -> list[str]:
    """What a CPU must have, as the device's kernel names it."""
    import tvm

    has = tvm.get_global_func("target.target_has_feature")
    llvm = tvm.target.Target(target.llvm_target())
    return [n for feature, names in _FEATURES[target.architecture].items() if has(feature, llvm) for n in names]
