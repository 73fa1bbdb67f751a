"""Boards and cores as data: one board a TOML file here, one core a TOML file in ``cores/``.

``load("rpi4")`` or ``load("path/to/my.toml")`` gives a frozen ``Target``; unknown keys and impossible values are
refused with file, key and value. A schedule reads ``target.core.vector_registers``; it never asks which board it is
on.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import BYTES

ARCHITECTURES = ("aarch64", "armv7", "x86_64")
_HOST = "host"
_TRIPLES = {"aarch64": ("aarch64", "arm64"), "armv7": ("arm",), "x86_64": ("x86_64",)}


@dataclass(frozen=True, kw_only=True)
class Cache:
    """One level of cache; ``shared`` by all cores or one a core."""

    bytes: int
    ways: int
    line: int = 64
    shared: bool = False

    def problem(self) -> str:
        """``key = value: why`` of an impossible value, or the empty string."""
        if self.line & (self.line - 1):
            return f"line = {self.line}: not a power of two"
        if self.bytes % (self.ways * self.line):
            return f"bytes = {self.bytes}: not a multiple of {self.ways} ways of {self.line} bytes"
        return ""


@dataclass(frozen=True, kw_only=True)
class Core:
    """The facts of one CPU core that schedules and the core model read. Rates are a cycle, latencies in cycles."""

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
    vector_load_bytes: int = 16  # that one cycle of a load moves into a vector register
    l2_line_cycles: float = 5.0  # for 64 bytes, of their latency what overlap and prefetching leave
    dram_line_cycles: float = 13.0  # for 64 bytes, as one core streams
    l1d: Cache
    l2: Cache
    l3: Cache | None = None
    cpus: int = 1  # that share a kernel's tasks; a target says how many it has
    model: dict = field(default_factory=dict, compare=False, hash=False)  # what the core model alone reads

    def lanes(self, dtype: str = "float32") -> int:
        """How many values a vector register holds."""
        return self.vector_bytes // BYTES[dtype]

    def macs_per_cycle(self, dtype: str = "float32") -> float:
        """Multiply-adds a cycle at the arithmetic floor."""
        return self.fma_per_cycle * self.lanes(dtype)

    def sharers(self, cache: Cache) -> int:
        """How many CPUs have their data in one cache of a level at the same time."""
        return self.cpus if cache.shared else 1

    def problem(self) -> str:
        """``key = value: why`` of an impossible value, or the empty string."""
        if self.architecture not in ARCHITECTURES:
            return f"architecture = {self.architecture!r}: known are {', '.join(ARCHITECTURES)}"
        if self.vector_bytes not in (8, 16, 32, 64):
            return f"vector_bytes = {self.vector_bytes}: 8, 16, 32 or 64"
        if self.vector_load_bytes not in (8, 16, 32, 64):
            return f"vector_load_bytes = {self.vector_load_bytes}: 8, 16, 32 or 64"
        if self.fma_accumulate_latency > self.fma_latency:
            return f"fma_accumulate_latency = {self.fma_accumulate_latency}: above fma_latency = {self.fma_latency}"
        if self.fma_per_cycle > self.issue_width:
            return f"fma_per_cycle = {self.fma_per_cycle}: above issue_width = {self.issue_width}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A board: its core, how many of them, and how code is built for it."""

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

    def __post_init__(self):
        # Schedules get the core alone.
        object.__setattr__(self, "core", dataclasses.replace(self.core, cpus=self.cores))

    @property
    def architecture(self) -> str:
        return self.core.architecture

    @property
    def is_host(self) -> bool:
        """Whether it is this machine."""
        return self.llvm_triple == _HOST

    def facts(self) -> dict:
        """All fields, the core's as a dict in it, without what only defaults read: no cost depends on that."""
        data = dataclasses.asdict(self)
        for name in ("l2_line_cycles", "dram_line_cycles", "cpus"):
            del data["core"][name]
        return data

    def llvm_target(self) -> dict:
        """The dict that ``tvm.target.Target`` takes. For the host this imports tvm, to ask LLVM what the host is."""
        triple, cpu = self.llvm_triple, self.llvm_cpu or self.core.llvm_cpu
        if _HOST in (triple, cpu):
            import tvm

            if triple == _HOST:
                triple = str(tvm.get_global_func("target.llvm_get_system_triple")())
            if cpu == _HOST:
                cpu = str(tvm.get_global_func("target.llvm_get_system_cpu")())
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


def table_rows() -> list[tuple[str, ...]]:
    """What ``--target list`` prints: a heading, then one row a board, all strings."""
    rows = [("target", "board", "core", "cores", "GHz", "memory", "code")]
    for target in map(load, names()):
        host = target.is_host
        rows.append(
            (
                target.name,
                target.title,
                target.core.name if not host else target.core.architecture,
                str(target.cores),
                "" if host else f"{target.clock_hz / 1e9:.1f}",
                "" if host else f"{target.memory_bytes / 2**30:.3g} GiB",
                "this machine's" if host else f"{target.architecture}, {target.llvm_cpu or target.core.llvm_cpu}",
            )
        )
    return rows


def load(name: str) -> Target:
    """The target of a shipped name or of a TOML file's path.

    Raises
    ------
    TvmMobilenetError
        Unknown name (the nearest is suggested), missing file, unknown key, impossible value.
    """
    if name.endswith(".toml"):
        path = Path(name)
        folder = path.parent
        if not path.is_file():
            raise TvmMobilenetError(f"target file {name!r} does not exist", "give the path of a target's TOML file")
    elif name in names():
        folder = resources.files(__package__)
        path = folder / f"{name}.toml"
    else:
        near = difflib.get_close_matches(name, names(), 1, 0.4)
        raise TvmMobilenetError(
            f"unknown target {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            "targets: " + ", ".join(names()) + ", or the path of a .toml file",
        )
    data = _read(path)
    if "name" in data:
        raise TvmMobilenetError(f"{path}: unknown key 'name'; the name of a target is its file's")
    data["name"] = Path(name).name.removesuffix(".toml")
    data["core"] = _load_core(data.get("core"), folder, path)
    if data["core"].name == _HOST:
        from tvm_mobilenet.targets import host

        data["cores"] = host.cores()
        data.setdefault("link_triple", f"{data['core'].architecture}-linux-gnu.2.28")
    if "llvm_attributes" in data:
        if not isinstance(data["llvm_attributes"], list):
            raise TvmMobilenetError(f"{path}: llvm_attributes = {data['llvm_attributes']!r} is not a list")
        data["llvm_attributes"] = tuple(data["llvm_attributes"])
    return _make(Target, data, str(path))


def _load_core(core, folder, target_path) -> Core:
    if not isinstance(core, str):
        raise TvmMobilenetError(f"{target_path}: core = {core!r} is not the name of a core or the path of its file")
    if core == _HOST:
        from tvm_mobilenet.targets import host

        path, data = "this machine", host.core_data()
    else:
        cores = resources.files(__package__) / "cores"
        path = Path(str(folder)) / core if core.endswith(".toml") else cores / f"{core}.toml"
        if not path.is_file():
            shipped = sorted(p.name.removesuffix(".toml") for p in cores.iterdir() if p.name.endswith(".toml"))
            raise TvmMobilenetError(
                f"{target_path}: core = {core!r} does not exist",
                f"cores: {', '.join(shipped)}, or the path of a .toml file beside the target's",
            )
        data = _read(path)
        if "cpus" in data:
            raise TvmMobilenetError(
                f"{path}: cpus = {data['cpus']!r}: a target says how many, as cores", "leave it out"
            )
    data["name"] = Path(core).name.removesuffix(".toml")
    for level in ("l1d", "l2", "l3"):
        if isinstance(data.get(level), dict):
            data[level] = _make(Cache, data[level], f"{path}: [{level}]")
    return _make(Core, data, str(path))


def _read(path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise TvmMobilenetError(f"{path}: {e}", "it must be a TOML file") from None


_TYPES = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "dict": dict,
    "Cache": Cache,
    "Cache | None": Cache,
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "dict": "a table",
    "Cache": "a table",
    "Cache | None": "a table",
}


def _make(cls, data: dict, where: str):
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in data.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            raise TvmMobilenetError(
                f"{where}: unknown key {key!r} = {value!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                "keys: " + ", ".join(f for f in fields if f != "name"),
            )
        kind = str(fields[key].type)
        want = _TYPES.get(kind)
        if want and (not isinstance(value, want) or (isinstance(value, bool) and want is not bool)):
            raise TvmMobilenetError(f"{where}: {key} = {value!r} is not {_WORDS[kind]}")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not 0 < value < float("inf"):
            raise TvmMobilenetError(f"{where}: {key} = {value!r} must be above zero and finite")
    missing = [
        f.name
        for f in fields.values()
        if f.name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise TvmMobilenetError(f"{where}: missing " + ", ".join(missing))
    made = cls(**data)
    if problem := made.problem():
        raise TvmMobilenetError(f"{where}: {problem}")
    return made
