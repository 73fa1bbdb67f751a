"""A target as a build stores it: its facts and its core's, as plain data, and a comparison with its file today.

A build runs on the board that it was made for. When the build is opened, its target's file may have changed, moved or
gone, and the host may be another machine. So ``plan.json`` stores the facts, and these are used.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tvm_mobilenet.targets import Target, host, reading

from tvm_mobilenet import targets
from tvm_mobilenet.errors import TvmMobilenetError

SHOWN = 3  # differences that a message lists
_RATES = "core.rates."  # rates of a dtype that the build does not know are ignored


def to_data(target: Target) -> dict:
    """A target and its core as JSON data, without fields that are not set or follow from others."""
    data = _present(dataclasses.asdict(target))
    del data["core"]["cpus"]
    return data


def from_data(data: object, where: str) -> Target:
    """The target of ``to_data``; ``where`` names the data in errors.

    The number of the host's CPUs is read again, since the host measures where it runs.

    Raises
    ------
    TvmMobilenetError
        Unknown or missing keys, impossible values, as ``targets.load`` raises them.
    """
    if not isinstance(data, dict):
        raise TvmMobilenetError(f"{where}: target is not a table", "build it again")
    try:
        target = reading.target(data, f"{where}: target")
    except TvmMobilenetError as e:
        raise TvmMobilenetError(e.message, f"{e.hint}; or build it again" if e.hint else "build it again") from None
    return dataclasses.replace(target, cores=host.cores()) if _is_this_machine(target) else target


def changes(target: Target) -> str:
    """The differences of a build's target from today's target of the same name or file; empty if there are none."""
    path = target.file
    if path and not Path(path).is_file():
        return ""
    if not path and target.name not in targets.names():
        return ""
    try:
        now = targets.load(path or target.name)
    except TvmMobilenetError as e:
        return "" if _is_this_machine(target) else f"that cannot be read: {e.message}"
    then, now = _flat(to_data(target)), _flat(to_data(now))
    skipped = {"file", *(("cores", "core.title") if _is_this_machine(target) else ("name", "core.name"))}
    differing = [
        key
        for key in {**then, **now}
        if key not in skipped and then.get(key) != now.get(key) and (key in then or not key.startswith(_RATES))
    ]
    if "core.name" in differing:  # the other differences follow from it
        differing = ["core.name"]
    told = [f"{key} was {then.get(key, 'not set')!r}, is {now.get(key, 'not set')!r}" for key in differing[:SHOWN]]
    more = len(differing) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _is_this_machine(target: Target) -> bool:
    """Whether it is the target ``host``, or a user's file with the core ``host``."""
    return target.is_host and any(target.core.name == level.name for level in host.LEVELS.get(target.architecture, ()))


def _present(value: object) -> object:
    if isinstance(value, dict):
        return {k: _present(v) for k, v in value.items() if v is not None and v != ""}
    return [_present(v) for v in value] if isinstance(value, (list, tuple)) else value


def _flat(data: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in data.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
