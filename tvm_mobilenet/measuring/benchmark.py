"""The record of a benchmark: measured or predicted times and their conditions, written and read as JSON.

The document is versioned: ``schema`` names the version. A reader refuses another version and missing fields, so that a
comparison never uses a misread file. Times are seconds of one run. docs/guides/benchmark.md lists all fields.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.files import json_text, reading
from tvm_mobilenet.files.whole_file import write_whole
from tvm_mobilenet.measuring.conditions import Mark
from tvm_mobilenet.measuring.statistics import Statistics
from tvm_mobilenet.terminal.console import plain_data

SCHEMA = "tvm_mobilenet.bench/1"


@dataclass(frozen=True)
class LayerTime:
    """One kernel call: ``name`` of its step, ``layer`` that it computes, median and minimum of its passes."""

    name: str
    layer: str
    p50: float
    min: float


@dataclass(frozen=True)
class Row:
    """The network on a number of threads.

    Attributes
    ----------
    time : Statistics
        The time of a run, over the samples.
    number, repeat : int
        The chosen numbers of runs in a sample, and of samples; 0 if predicted.
    warm_up : dict
        ``runs``, ``seconds``, ``first_seconds``, ``steady``.
    load_seconds : float or None
        Time to load the module and place its parameters.
    rss_initial, rss_loaded, rss_peak : int or None
        Resident bytes of the process: with the runtime, with the network, at the end.
    samples : list of float
        The raw samples, in their order in time.
    states : list of dict
        States of the board after warm-up and between rounds: ``boards.agent.facts.state``.
    marks : list of Mark
        Reasons to doubt the row, with their remedies.
    """

    threads: int
    time: Statistics
    number: int = 0
    repeat: int = 0
    warm_up: dict = field(default_factory=dict)
    load_seconds: float | None = None
    rss_initial: int | None = None
    rss_loaded: int | None = None
    rss_peak: int | None = None
    layers: list[LayerTime] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)
    states: list[dict] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


@dataclass(frozen=True)
class Peer:
    """Another engine beside ours on the same weights, input and threads.

    Attributes
    ----------
    ratio : float or None
        Its time over ours: above one, ours is faster. The median over rounds in which both took turns.
    ratio_low, ratio_high : float or None
        The quartiles of those rounds.
    difference : float or None
        Largest difference of its outputs from ours, over their standard deviation.
    missing : str
        The reason for a missing result: the command that installs the engine, or the engine's message.
    kernels : str
        The dtype in which its layers ran, as found from their results; empty for an engine without a choice.
    """

    engine: str
    threads: int
    version: str = ""
    time: Statistics | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    difference: float | None = None
    rss_peak: int | None = None
    missing: str = ""
    kernels: str = ""


@dataclass(frozen=True)
class Benchmark:
    """The result of one run of ``bench``.

    Attributes
    ----------
    predicted : bool
        True if the virtual board predicted it, false if it was measured.
    module : dict
        ``folder``, ``sha256`` of the library, ``bytes``, ``arena_bytes``, ``scratch_bytes``, ``parameters_bytes``.
    environment : dict
        ``board``: as ``boards.agent.facts.facts`` gives it. ``client``: versions, system and settings of this side.
    upload : dict or None
        ``bytes`` and ``seconds``, if files were sent to a board.
    """

    model: dict
    target: str
    board: str
    predicted: bool
    created: str
    module: dict
    environment: dict
    rows: list[Row]
    peers: list[Peer] = field(default_factory=list)
    upload: dict | None = None
    options: dict = field(default_factory=dict)
    schema: str = SCHEMA

    @property
    def how(self) -> str:
        return "predicted" if self.predicted else "measured"


def write(result: Benchmark, path: str | Path) -> None:
    """Write a benchmark's JSON document, whole or not at all.

    Raises
    ------
    TvmMobilenetError
        The file cannot be written.
    """
    write_whole(path, json.dumps(plain_data(result), indent=1) + "\n", "--record")


def read(path: str | Path) -> Benchmark:
    """The benchmark of a file that ``bench --json`` or ``--output`` wrote.

    Raises
    ------
    TvmMobilenetError
        The file cannot be read, is not a benchmark, or has another version.
    """
    try:
        data = json_text.parse(reading.text(path))
    except OSError as e:
        why = f"cannot read {path}: {e.strerror}"
        raise TvmMobilenetError(why, "give a file that `bench --record` wrote") from None
    except ValueError as e:
        raise TvmMobilenetError(
            f"{path} is not a benchmark: {reason(e)}", "give a file that `bench --record` wrote"
        ) from None
    return from_data(data, str(path))


def from_data(data: object, where: str = "benchmark") -> Benchmark:
    """The benchmark from plain data; ``where`` names it in errors."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = f"its schema is {data.get('schema')!r}" if isinstance(data, dict) else "it is not a JSON object"
        raise TvmMobilenetError(
            f"{where} is not a benchmark of this version: {found}, this reads {SCHEMA!r}",
            "give a file that `bench --record` wrote, or run bench again",
        )
    try:
        return _make(Benchmark, data, "")
    except (TypeError, ValueError, KeyError) as e:
        raise TvmMobilenetError(f"{where}: {e.args[0]}", "give a file that `bench --record` wrote") from None


_KINDS = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float), "dict": (dict,), "list": (list,)}


def _check(cls, name: str, value: object, annotation: str, path: str) -> None:
    """Refuse a field of another type than its class declares, and impossible times."""
    kinds = [k.partition("[")[0] for k in annotation.split(" | ")]
    allowed = tuple(t for k in kinds for t in _KINDS.get(k, (dict,)))  # types that are not listed are dataclasses
    if value is None and "None" in kinds:
        return
    if not isinstance(value, allowed) or (isinstance(value, bool) and "bool" not in kinds):
        raise TypeError(f"{path}{name} = {value!r:.60} is not {annotation}")
    if cls not in (Statistics, LayerTime) or not isinstance(value, (int, float)):
        return
    if not math.isfinite(value) or value < 0 or (value == 0 and cls is Statistics and name == "p50"):
        raise ValueError(f"{path}{name} = {value!r}: no run takes that long")


_NESTED = {
    (Benchmark, "rows"): Row,
    (Benchmark, "peers"): Peer,
    (Row, "time"): Statistics,
    (Row, "layers"): LayerTime,
    (Row, "marks"): Mark,
    (Peer, "time"): Statistics,
}


def _make(cls, data: object, path: str):
    """A dataclass from plain data, with nested dataclasses; unknown and missing keys are errors with their path."""
    if not isinstance(data, dict):
        raise TypeError(f"{path or cls.__name__} is {type(data).__name__}, not an object")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := set(data) - set(fields):
        raise KeyError(f"unknown field {path}{sorted(unknown)[0]}")
    needed = {
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := needed - set(data):
        raise KeyError(f"no field {path}{sorted(missing)[0]}")
    values = {}
    for name, value in data.items():
        _check(cls, name, value, fields[name].type, path)
        inner = _NESTED.get((cls, name))
        if inner and isinstance(value, list):
            value = [_make(inner, v, f"{path}{name}[{i}].") for i, v in enumerate(value)]
        elif inner and value is not None:
            value = _make(inner, value, f"{path}{name}.")
        values[name] = value
    return cls(**values)
