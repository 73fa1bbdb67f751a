"""From plain data to a target: the same checks for a TOML file and a build's ``plan.json``.

Every value has its field's type and is possible; unknown and missing keys are refused. An error gives the place, the
key and the value.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib

from tvm_mobilenet.targets import Cache, Core, Limits, Target, model_table

from tvm_mobilenet import dtypes
from tvm_mobilenet.errors import TvmMobilenetError, nearest
from tvm_mobilenet.files import reading

_NAME = re.compile(r"[^\W][^/\x00-\x1f\x7f]{0,99}")  # a file's name without suffix, which becomes part of other names
MOST_TOML = 1 << 20  # bytes of a file
MOST_MULTIPLY_ADDS = 4096  # a cycle
_TYPES = {
    "int": (int, "a whole number"),
    "int | None": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "float | None": ((int, float), "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "a string"),
    "dict": (dict, "a table"),
    "Cache": (Cache, "a table"),
    "Cache | None": (Cache, "a table"),
    "Core": (Core, "a table"),
    "Limits": (Limits, "a table"),
    "tuple[str, ...]": (tuple, "a list"),
}


def toml(path) -> dict:
    """The table of a TOML file; a target or core takes its name from its file's.

    Raises
    ------
    TvmMobilenetError
        The file cannot be read, or is not TOML.
    """
    try:
        data = tomllib.loads(reading.text(path, MOST_TOML))
    except (ValueError, RecursionError) as e:
        raise TvmMobilenetError(f"{path}: {e}", "it must be a TOML file") from None
    except OSError as e:
        raise TvmMobilenetError(f"{path}: {e.strerror}", "give a TOML file that can be read") from None
    for key in ("name", "file"):
        if key in data:
            raise TvmMobilenetError(f"{path}: unknown key {key!r}; the name is the file's")
    return data


def target(data: dict, where: str) -> Target:
    """A target from plain data; ``core`` is a `Core` or its data, and ``where`` names the data in errors."""
    data = dict(data)
    if isinstance(data.get("core"), dict):
        data["core"] = core(data["core"], f"{where}: [core]")
    if data.get("llvm_cpu") == "host" and isinstance(data.get("core"), Core):
        data["core"] = at_level(data["core"])
        data["llvm_cpu"] = data["core"].llvm_cpu
    if "llvm_attributes" in data:
        if not isinstance(data["llvm_attributes"], list):
            raise TvmMobilenetError(f"{where}: llvm_attributes = {data['llvm_attributes']!r} is not a list")
        data["llvm_attributes"] = tuple(data["llvm_attributes"])
    if isinstance(data.get("core"), Core) and data.get("llvm_cpu", "") in ("", data["core"].llvm_cpu):
        data["llvm_attributes"] = _with_those_of_level(data["core"], data.get("llvm_attributes", ()))
    return _make(Target, data, where)


def core(data: dict, where: str) -> Core:
    """A core from plain data; ``where`` names the data in errors."""
    data = dict(data)
    for level in ("l1d", "l2", "l3"):
        if isinstance(data.get(level), dict):
            data[level] = _make(Cache, data[level], f"{where}: [{level}]")
    if isinstance(data.get("limits"), dict):
        data["limits"] = _make(Limits, data["limits"], f"{where}: [limits]")
    if isinstance(data.get("rates"), dict):
        _check_rates(data["rates"], where)
    if odd := _odd(data.get("model", {}), "model"):
        raise TvmMobilenetError(f"{where}: {odd} is neither a number, a string, true or false, a list nor a table")
    if isinstance(data.get("model"), dict) and data["model"]:
        model_table.check(data["model"], f"{where}: [model]")
    made = _make(Core, data, where)
    return at_level(made) if made.llvm_cpu == "host" else made


def at_level(core: Core) -> Core:
    """A core with LLVM's CPU ``host``, with this machine's level in its name: tune records of levels never mix."""
    from tvm_mobilenet.targets import host

    level = host.level()
    if core.name.endswith(f"-{level.name}"):
        return core
    return dataclasses.replace(core, name=f"{core.name}-{level.name}", llvm_cpu=level.llvm_cpu)


def _with_those_of_level(core: Core, attributes: tuple) -> tuple:
    """The LLVM attributes of a target's core level that the target does not set itself, then the target's own."""
    from tvm_mobilenet.targets import host

    level = host.of_core(core)
    told = {str(attribute)[1:] for attribute in attributes}
    return (*(a for a in (level.attributes if level else ()) if a[1:] not in told), *attributes)


def _check_rates(rates: dict, where: str) -> None:
    """Refuse a table ``[rates]`` with a key that is no dtype of data, or a value that no core has."""
    known = [dtype for dtype in dtypes.OF_DATA if dtype != "float32"]
    for key, value in rates.items():
        if key not in known:
            near = nearest(key, known)
            why = f"; did you mean {near!r}?" if near else ""
            if key == "float32":
                why = "; the rate of float32 is fma_per_cycle"
            raise TvmMobilenetError(
                f"{where}: [rates]: unknown dtype {key!r} = {value!r}{why}",
                "dtypes: " + ", ".join(known),
            )
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TvmMobilenetError(f"{where}: [rates]: {key} = {value!r} is not a number", "multiply-adds a cycle")
        if not 1 / 64 <= value <= MOST_MULTIPLY_ADDS:
            raise TvmMobilenetError(
                f"{where}: [rates]: {key} = {value!r}: not between {1 / 64} and {MOST_MULTIPLY_ADDS}",
                "multiply-adds a cycle",
            )


def _odd(value: object, where: str) -> str:
    """The place of a value whose type JSON does not have, or the empty string."""
    if isinstance(value, dict):
        return next(filter(None, (_odd(v, f"{where}.{k}") for k, v in value.items())), "")
    if isinstance(value, list):
        return next(filter(None, (_odd(v, where) for v in value)), "")
    return "" if isinstance(value, (str, int, float)) else f"{where} = {value!r}"


def _make(cls, data: dict, where: str):
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in data.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            raise TvmMobilenetError(
                f"{where}: unknown key {key!r} = {value!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                "keys: " + ", ".join(f for f in fields if f not in ("name", "file")),
            )
        want, word = _TYPES[str(fields[key].type)]
        if not isinstance(value, want) or (isinstance(value, bool) and want is not bool):
            raise TvmMobilenetError(f"{where}: {key} = {value!r} is not {word}")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not 0 < value < float("inf"):
            raise TvmMobilenetError(f"{where}: {key} = {value!r} must be above zero and finite")
        if key == "name" and not _NAME.fullmatch(value):
            raise TvmMobilenetError(
                f"{where}: name = {value!r}",
                "it begins with a letter or digit, and has no / and 100 characters at most",
            )
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
