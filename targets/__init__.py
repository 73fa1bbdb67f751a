"""Boards and cores as data: one board a TOML file here, one core a TOML file in ``cores/``.

``load("rpi4")`` or ``load("path/to/my.toml")`` gives a frozen ``Target``; unknown keys and impossible values are refused
with file, key and value. A schedule reads ``target.core.vector_registers``; it never asks which board it is on.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError

ARCHITECTURES = ("aarch64", "armv7", "x86_64")


@dataclass(frozen=True, kw_only=True)
class Cache:
    """One level of cache; ``shared`` by all cores or one a core."""

    bytes: int
    ways: int
    line: int = 64
    shared: bool = False


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
    l1d: Cache
    l2: Cache
    l3: Cache | None = None
    model: dict = field(default_factory=dict, compare=False, hash=False)  # what the core model alone reads

    def macs_per_cycle(self, dtype: str = "float32") -> float:
        """Multiply-adds a cycle at the arithmetic floor."""
        lanes = self.vector_bytes // {"float32": 4, "float16": 2, "int8": 1}[dtype]
        return self.fma_per_cycle * lanes


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
    link_triple: str = ""  # zig's name of machine, system and glibc; empty: the host's own compiler
    rpc_key: str = ""

    @property
    def architecture(self) -> str:
        return self.core.architecture

    def llvm_target(self) -> dict:
        """The dict that ``tvm.target.Target`` takes."""
        d = {"kind": "llvm", "mtriple": self.llvm_triple, "mcpu": self.llvm_cpu or self.core.llvm_cpu,
             "num-cores": self.cores}
        if self.llvm_attributes:
            d["mattr"] = list(self.llvm_attributes)
        return d


def names() -> list[str]:
    """The boards that ship, sorted."""
    return sorted(p.name.removesuffix(".toml") for p in resources.files(__package__).iterdir()
                  if p.name.endswith(".toml"))


def load(name: str) -> Target:
    """The target of a shipped name or of a TOML file's path.

    Raises
    ------
    TvmMobilenetError
        Unknown name (the nearest is suggested), missing file, unknown key, impossible value.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise TvmMobilenetError(f"target file {name!r} does not exist", "give the path of a target's TOML file")
        folder = path.parent
    elif name in names():
        folder = resources.files(__package__)
        path = folder / f"{name}.toml"
    else:
        near = difflib.get_close_matches(name, names(), 1, 0.4)
        raise TvmMobilenetError(f"unknown target {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                                "targets: " + ", ".join(names()))
    data = _read(path)
    data["name"] = name.removesuffix(".toml").split("/")[-1]
    core = data.get("core")
    if not isinstance(core, str):
        raise TvmMobilenetError(f"{path}: core = {core!r} is not the name of a core or the path of its TOML file")
    core_path = Path(str(folder)) / core if core.endswith(".toml") else \
        resources.files(__package__) / "cores" / f"{core}.toml"
    if not core_path.is_file():
        raise TvmMobilenetError(f"{path}: core = {core!r} does not exist", f"looked for {core_path}")
    core_data = _read(core_path)
    core_data["name"] = core.removesuffix(".toml").split("/")[-1]
    for level in ("l1d", "l2", "l3"):
        if level in core_data:
            core_data[level] = _make(Cache, core_data[level], f"{core_path}: [{level}]")
    data["core"] = _make(Core, core_data, str(core_path))
    if "llvm_attributes" in data:
        data["llvm_attributes"] = tuple(data["llvm_attributes"])
    target = _make(Target, data, str(path))
    if target.architecture not in ARCHITECTURES:
        raise TvmMobilenetError(f"{core_path}: architecture = {target.architecture!r}",
                                "known: " + ", ".join(ARCHITECTURES))
    return target


def _read(path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as e:
        raise TvmMobilenetError(f"{path}: {e}") from None


_TYPES = {"int": int, "float": (int, float), "bool": bool, "str": str, "dict": dict}


def _make(cls, data: dict, where: str):
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in data.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            raise TvmMobilenetError(f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        want = _TYPES.get(str(fields[key].type))
        if want and (not isinstance(value, want) or (isinstance(value, bool) and want is not bool)):
            raise TvmMobilenetError(f"{where}: {key} = {value!r} is not of type {fields[key].type}")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value <= 0:
            raise TvmMobilenetError(f"{where}: {key} = {value!r} must be above zero")
    missing = [f.name for f in fields.values() if f.name not in data
               and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing:
        raise TvmMobilenetError(f"{where}: missing " + ", ".join(missing))
    return cls(**data)
