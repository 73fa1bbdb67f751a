"""Boards and cores as data: one TOML file for each board here, one for each core in ``cores/``.

``load("rpi4")`` or ``load("path/to/my.toml")`` gives a frozen ``Target``. Unknown keys and impossible values are errors
that give file, key and value. A schedule reads fields such as ``target.core.vector_registers``; it never asks for the
name of the board. A build stores its target's facts (``stored``), and ``reading`` checks them like those of a file.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path

from tvm_mobilenet.targets.limits import Limits

from tvm_mobilenet import dtypes
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.reading import refusal

ARCHITECTURES = ("aarch64", "armv7", "x86_64")
_HOST = "host"
_TRIPLES = {"aarch64": ("aarch64", "arm64"), "armv7": ("arm",), "x86_64": ("x86_64",)}


@dataclass(frozen=True, kw_only=True)
class Cache:
    """One level of cache. It is ``shared`` by all CPUs or by ``cpus`` of them, or each CPU has its own."""

    bytes: int
    ways: int
    line: int = 64
    shared: bool = False
    cpus: int | None = None

    def problem(self) -> str:
        """``key = value: why`` of an impossible value, or the empty string."""
        if self.line & (self.line - 1):
            return f"line = {self.line}: not a power of two"
        if self.bytes % (self.ways * self.line):
            return f"bytes = {self.bytes}: not a multiple of {self.ways} ways of {self.line} bytes"
        return ""


@dataclass(frozen=True, kw_only=True)
class Core:
    """The facts of one CPU core that schedules and the cost model read. Rates are per cycle, latencies in cycles."""

    name: str
    title: str
    architecture: str
    llvm_cpu: str
    in_order: bool
    issue_width: int
    vector_registers: int
    vector_bytes: int
    fma_per_cycle: float  # vector fused multiply-adds a cycle
    fma_latency: int
    fma_accumulate_latency: int  # from accumulator to accumulator, with forwarding
    vector_load_bytes: int = 16  # moved into a vector register by one cycle of a load
    dot_products: bool = False  # whether it has dot products of four bytes per lane
    l2_line_cycles: float = 5.0  # for 64 bytes: latency that overlap and prefetching leave
    dram_line_cycles: float | None = None  # for 64 bytes, as one core streams; by default from the target
    l1d: Cache
    l2: Cache
    l3: Cache | None = None
    limits: Limits = field(default_factory=Limits)
    cpus: int = 1  # CPUs that share a kernel's tasks; set by the target
    rates: dict = field(default_factory=dict, compare=False, hash=False)  # multiply-adds a cycle of other dtypes
    model: dict = field(default_factory=dict, compare=False, hash=False)  # read only by the cost model

    def lanes(self, dtype: str) -> int:
        """The number of values in a vector register."""
        return self.vector_bytes // dtypes.of(dtype).bytes

    def macs_per_cycle(self, dtype: str) -> float:
        """Multiply-adds a cycle at the arithmetic floor."""
        return self.rates.get(dtype, self.fma_per_cycle * self.lanes(dtype))

    def computes(self, dtype: str) -> bool:
        """Whether it has arithmetic of a dtype: float32, and the dtypes in ``rates``."""
        return dtype == "float32" or dtype in self.rates

    def sharers(self, cache: Cache) -> int:
        """The number of CPUs that have their data in one cache of a level at the same time."""
        return min(self.cpus, cache.cpus or self.cpus) if cache.shared else 1

    def problem(self) -> str:
        """``key = value: why`` of an impossible value, or the empty string."""
        if self.architecture not in ARCHITECTURES:
            return f"architecture = {self.architecture!r}: known are {', '.join(ARCHITECTURES)}"
        if not self.llvm_cpu:
            return "llvm_cpu = '': the name of a CPU as LLVM has it, or generic"
        if self.vector_bytes not in (8, 16, 32, 64):
            return f"vector_bytes = {self.vector_bytes}: 8, 16, 32 or 64"
        if self.vector_load_bytes not in (8, 16, 32, 64):
            return f"vector_load_bytes = {self.vector_load_bytes}: 8, 16, 32 or 64"
        for key, least, most in (("vector_registers", 16, 64), ("issue_width", 1, 64), ("fma_latency", 1, 1000)):
            if not least <= getattr(self, key) <= most:
                return f"{key} = {getattr(self, key)}: not between {least} and {most}"
        if self.fma_per_cycle < 1 / 64:
            return f"fma_per_cycle = {self.fma_per_cycle}: below one in 64 cycles"
        if self.fma_accumulate_latency > self.fma_latency:
            return f"fma_accumulate_latency = {self.fma_accumulate_latency}: above fma_latency = {self.fma_latency}"
        if self.fma_per_cycle > self.issue_width:
            return f"fma_per_cycle = {self.fma_per_cycle}: above issue_width = {self.issue_width}"
        emulated = self.model.get("emulated_cpu", "")
        if emulated in _EARLIER_CPUS:
            found = [("[rates] float16", "float16" in self.rates), ("dot_products", self.dot_products)]
            for key in (key for key, has in found if has):
                return (
                    f"[model] emulated_cpu = {emulated!r}: that CPU is of before ARMv8.2-A and has no such "
                    f"instructions as {key} says; take {key} out, or if the core has them set emulated_cpu = 'MAX'"
                )
        return ""


_EARLIER_CPUS = ("A53", "A57", "A72", "A7", "A8", "A9", "A15")  # the emulator's CPUs without half precision and sdot


@dataclass(frozen=True, kw_only=True)
class Target:
    """A board: its core, its number of cores, and the options of code for it."""

    name: str
    title: str
    core: Core
    cores: int
    clock_hz: float
    memory_bytes: int
    dram_bytes_per_second: float  # one core, streaming
    dram_bytes_per_second_all: float  # all cores together
    llvm_triple: str
    llvm_cpu: str = ""  # the core's own unless given: `generic` for code without optional features
    llvm_attributes: tuple[str, ...] = ()
    llvm_float_abi: str = ""  # `hard` or `soft`; TVM passes floats in integer registers on 32-bit Arm unless told
    link_triple: str = ""  # zig's name of machine, system and glibc
    rpc_key: str = ""
    file: str = field(default="", compare=False)  # the absolute path of a user's TOML file; not a fact of the board

    def __post_init__(self):
        # Schedules get only the core.
        from tvm_mobilenet.targets import memory

        line = self.core.dram_line_cycles or memory.streamed_line_cycles(self)
        object.__setattr__(self, "core", replace(self.core, cpus=self.cores, dram_line_cycles=line))

    @property
    def architecture(self) -> str:
        return self.core.architecture

    def computes(self, dtype: str) -> bool:
        """Whether its core has arithmetic of a dtype, and its code may use it."""
        from tvm_mobilenet.targets import features

        return self.core.computes(dtype) and features.allows(self, dtype)

    @property
    def is_host(self) -> bool:
        """Whether it is this machine."""
        return self.llvm_triple == _HOST

    def facts(self) -> dict:
        """All facts that a cost depends on, with the core's in a nested dict. Equal boards have equal facts, wherever
        they were read.

        Facts that only defaults read are left out.
        """
        data = asdict(self)
        del data["file"]
        core = data["core"]
        for name in ("l2_line_cycles", "dram_line_cycles", "limits", "rates", "cpus"):
            del core[name]
        for level in ("l1d", "l2", "l3"):
            if core[level]:
                del core[level]["cpus"]
        return data

    def llvm_target(self) -> dict:
        """The dict that ``tvm.target.Target`` takes. For the host this imports tvm, to get LLVM's triple."""
        triple, cpu = self.llvm_triple, self.llvm_cpu or self.core.llvm_cpu
        if triple == _HOST:
            import tvm

            triple = str(tvm.get_global_func("target.llvm_get_system_triple")())
        d = {"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": self.cores}
        if self.llvm_float_abi:
            d["mfloat-abi"] = self.llvm_float_abi
        if self.llvm_attributes:
            d["mattr"] = list(self.llvm_attributes)
        return d

    def problem(self) -> str:
        """``key = value: why`` of an impossible value, or the empty string."""
        if self.cores > 1024:
            return f"cores = {self.cores}: above 1024"
        if not 1e7 <= self.clock_hz <= 1e10:
            return f"clock_hz = {self.clock_hz}: not between 1e7 and 1e10; the unit is hertz"
        if self.dram_bytes_per_second > self.dram_bytes_per_second_all:
            return (
                f"dram_bytes_per_second = {self.dram_bytes_per_second}: one core moves more than all together, "
                f"{self.dram_bytes_per_second_all}"
            )
        if bad := [a for a in self.llvm_attributes if not isinstance(a, str) or a[:1] not in ("+", "-")]:
            return f"llvm_attributes: {bad[0]!r} begins with neither + nor -"
        if self.llvm_float_abi not in ("", "hard", "soft"):
            return f"llvm_float_abi = {self.llvm_float_abi!r}: hard or soft"
        if not self.is_host:
            for key, triple in (("llvm_triple", self.llvm_triple), ("link_triple", self.link_triple)):
                if triple and not triple.startswith(_TRIPLES[self.architecture]):
                    return f"{key} = {triple!r}: not a triple of the core's architecture, {self.architecture}"
        return ""


def names() -> list[str]:
    """The boards that ship, sorted."""
    return sorted(
        p.name.removesuffix(".toml") for p in resources.files(__package__).iterdir() if p.name.endswith(".toml")
    )


def computing(dtype: str) -> list[str]:
    """The shipped boards that compute a dtype, sorted; this machine only if it can be a host."""
    found = []
    for name in names():
        with contextlib.suppress(TvmMobilenetError):  # of the host, whatever its variable holds
            if load(name).computes(dtype):
                found.append(name)
    return found


def require(target: Target, dtype: str) -> None:
    """Refuse a target that does not compute a dtype, since LLVM would silently convert each value to another one.

    Raises
    ------
    TvmMobilenetError
        Its core has no arithmetic of the dtype, its core's file has no rate for it, or its code may not use it. The
        hint gives the change to a user's own file, and the shipped targets that compute the dtype.
    """
    from tvm_mobilenet.targets import features, host

    if target.computes(dtype):
        return
    core, needed, hints = target.core, features.needed(target, dtype), []
    if core.computes(dtype):
        cpu = target.llvm_cpu or core.llvm_cpu
        also = f" with llvm_attributes = {list(target.llvm_attributes)}" if target.llvm_attributes else ""
        why = f"its code may not use {dtype} arithmetic: llvm_cpu = {cpu!r}{also} does not allow {needed}"
        if target.file:
            hints.append(f'add "+{needed}" to llvm_attributes in {target.file}')
    elif target.file and features.allows(target, dtype):
        why = f"the file of its core, {core.name}, has no rate of {dtype}"
        hints.append(
            f"if the core has {dtype} arithmetic, add multiply-adds a cycle to its file: [rates] {dtype} = 16.0"
        )
    else:
        why = f"{core.title} has no {dtype} arithmetic"
        if target.is_host and (own := host.machine()) != host.of_core(core) and dtype in own.computes:
            hints.append(f"this machine has it: set {host.VARIABLE}={own.name}")
    able = computing(dtype)
    hints.append(f"targets that compute {dtype}: {', '.join(able)}" if able else f"no shipped target computes {dtype}")
    raise TvmMobilenetError(f"target {target.name}: {why}", "; ".join(hints))


def load(name: str) -> Target:
    """The target of a shipped name or of a TOML file's path.

    A user's file may have the name of a shipped board or core. If its facts differ, a hash of them is added to the
    name, so that builds, tune records and logs of the two stay apart.

    Raises
    ------
    TvmMobilenetError
        Unknown name (the nearest is suggested), missing file, unknown key, impossible value; for the host, a level that
        this machine lacks.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if why := refusal(path):
            raise TvmMobilenetError(f"target file {name!r}: {why}", "give the path of a target's TOML file")
        own = _load(path, path.parent)
        return replace(_distinct(own, names(), load), file=os.path.abspath(path))
    if name in names():
        return (_shipped if name == _HOST else _shipped_once)(name)
    near = difflib.get_close_matches(name, names(), 1, 0.4)
    raise TvmMobilenetError(
        f"unknown target {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        "targets: " + ", ".join(names()) + ", or the path of a .toml file",
    )


def _shipped(name: str) -> Target:
    folder = resources.files(__package__)
    return _load(folder / f"{name}.toml", folder)


_shipped_once = functools.cache(_shipped)  # reading takes 3 ms; a variable changes the target of this machine


def _load(path, folder) -> Target:
    from tvm_mobilenet.targets import reading

    data = reading.toml(path)
    data["core"] = _load_core(data.get("core"), folder, path)
    if data["core"] is _HOST:
        from tvm_mobilenet.targets import host

        data["core"] = reading.core(host.core_data(), "this machine")
        data["cores"] = host.cores()
        data.setdefault("link_triple", f"{data['core'].architecture}-linux-gnu.2.28")
        if data.get("llvm_cpu") == _HOST:
            del data["llvm_cpu"]
    return reading.target({**data, "name": Path(path.name).stem}, str(path))


def _load_core(core, folder, target_path) -> Core | str:
    """The core of a shipped file or of one beside the target's; ``host`` gives that of this machine."""
    from tvm_mobilenet.targets import reading

    if not isinstance(core, str):
        raise TvmMobilenetError(f"{target_path}: core = {core!r} is not the name of a core or the path of its file")
    if core == _HOST:
        return _HOST
    cores = resources.files(__package__) / "cores"
    shipped = sorted(p.name.removesuffix(".toml") for p in cores.iterdir() if p.name.endswith(".toml"))
    path = Path(str(folder)) / core if core.endswith(".toml") else cores / f"{core}.toml"
    if not path.is_file():
        raise TvmMobilenetError(
            f"{target_path}: core = {core!r} does not exist",
            f"cores: {', '.join(shipped)}, or the path of a .toml file beside the target's",
        )
    data = reading.toml(path)
    if "cpus" in data:
        raise TvmMobilenetError(f"{path}: cpus = {data['cpus']!r}: a target says how many, as cores", "leave it out")
    made = reading.core({**data, "name": Path(path.name).stem}, str(path))
    if not core.endswith(".toml"):
        return made

    from tvm_mobilenet.targets import host

    levels = [level.name for known in host.LEVELS.values() for level in known]
    return _distinct(
        made, [*shipped, *levels, _HOST], lambda name: _load_core(name, cores, target_path) if name in shipped else None
    )


def _distinct(own, taken, load):
    """A user's target or core under a name that no different one in ``taken`` has; ``load`` loads one by name."""
    import hashlib

    if own.name not in taken:
        return own
    with contextlib.suppress(TvmMobilenetError):  # of the host, whatever its variable holds
        other = load(own.name)
        if other is not None and asdict(other) == asdict(own):
            return own
    digest = hashlib.sha256(repr(asdict(own)).encode()).hexdigest()[:8]
    return replace(own, name=f"{own.name}-{digest}")
