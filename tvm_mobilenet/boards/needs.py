"""Check that a CPU has the features that a target's code uses. An illegal instruction would only kill the process."""

from __future__ import annotations

from collections.abc import Iterable

from tvm_mobilenet.errors import BoardError


def missing(target, flags: Iterable[str]) -> list[str]:
    """The features that the code may use and a CPU lacks.

    Parameters
    ----------
    target : targets.Target
    flags : iterable of str
        The CPU's features, as ``targets.cpu.features`` names them.
    """
    from tvm_mobilenet.targets import features, host

    has = {_plain(flag) for flag in flags}
    level = host.of_llvm_cpu(target.llvm_cpu or target.core.llvm_cpu)
    wanted = list(level.flags) if level else []
    if level is None or target.llvm_attributes:
        wanted += features.features(target)
    return [flag for flag in dict.fromkeys(wanted) if _plain(flag) not in has]


def check(target, flags: Iterable[str], where: str) -> None:
    """Refuse to run code on a CPU that lacks its features; ``where`` names the machine.

    Raises
    ------
    BoardError
        The CPU lacks features; the message names them. If the CPU's features are unknown, nothing is refused.
    """
    flags = list(flags)
    if flags and (lacking := missing(target, flags)):
        from tvm_mobilenet.targets import host

        levels = host.LEVELS.get(target.architecture, ())
        has = next((level.name for level in reversed(levels) if not level.lacks(flags)), "")
        needed = target.core.name if any(target.core.name == level.name for level in levels) else target.name
        raise BoardError(
            f"the code is built for {needed}; {where}{f' has {has}, it' if has else ''} lacks {', '.join(lacking)}",
            f"build it again with {host.VARIABLE}={has}"
            if has and target.is_host
            else "build with the --target of that board",
        )


def _plain(flag: str) -> str:
    return flag.replace(".", "").replace("_", "")  # x86 kernels write avx512_vnni
