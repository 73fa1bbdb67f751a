"""A check of a core's table ``[model]``, which the cost model reads: types, and limits of real cores.

A core's file, or a ``plan.json`` that contains its data, may come from an untrusted source. The cost model
(``boards.cost.pipeline``) defines the meaning of the table. This module only checks that each value is possible: a
latency of a million cycles, or a port that is busy for as long, would make the model simulate for years.
"""

from __future__ import annotations

from tvm_mobilenet.errors import TvmMobilenetError

_MOST_CYCLES = 512  # for one instruction; a division of vectors takes 60
_MOST_UOPS = 64  # of one instruction
_MOST_CALL = 1e6  # cycles of a function outside the kernels
_MOST_MEMORY = 1e9  # bytes or cycles
_EXAMPLE = "see targets/cores/cortex-a72.toml"
_COUNTS = ("latency", "forward", "busy", "slots")  # fields of a class


def check(model: object, where: str) -> None:
    """Refuse a table that no core has.

    Parameters
    ----------
    model : object
        Plain data.
    where : str
        Names the table in errors.

    Raises
    ------
    TvmMobilenetError
        A value is impossible; the message gives place, key and value.
    """
    for name, row in _table(model, "classes", where).items():
        _check_class(row, f"{where}.classes.{_short(name)}")
    for name, pair in _table(model, "calls", where).items():
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_number(v, _MOST_CALL) for v in pair):
            raise _error(f"{where}.calls.{_short(name)}", pair, "cycles of a call and of a byte")
    if "default" not in _table(model, "calls", where) and "calls" in model:
        raise TvmMobilenetError(f"{where}.calls: missing default", _EXAMPLE)
    for name, value in _table(model, "memory", where).items():
        if not _is_number(value, _MOST_MEMORY) or ("bytes" in str(name) and not value):
            raise _error(f"{where}.memory.{_short(name)}", value, f"a number above 0 and up to {_MOST_MEMORY:.0f}")
    if not isinstance(model.get("emulated_cpu", ""), str):
        raise _error(f"{where}.emulated_cpu", model["emulated_cpu"], "a string")


def _table(model: object, key: str, where: str) -> dict:
    if not isinstance(model, dict):
        raise _error(where, model, "a table")
    found = model.get(key, {})
    if not isinstance(found, dict):
        raise _error(f"{where}.{key}", found, "a table")
    return found


def _check_class(row: object, where: str) -> None:
    if not isinstance(row, dict):
        raise _error(where, row, "a table")
    uops = row.get("uops", [])
    if not isinstance(uops, list) or len(uops) > _MOST_UOPS or not all(isinstance(u, str) for u in uops):
        raise _error(f"{where}.uops", uops, f"a list of {_MOST_UOPS} names of units at most")
    for key in _COUNTS:
        value = row.get(key, 0)
        if type(value) is not int or not 0 <= value <= _MOST_CYCLES:
            raise _error(f"{where}.{key}", value, f"a whole number from 0 to {_MOST_CYCLES}")


def _is_number(value: object, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most


def _short(value: object) -> str:
    return str(value)[:60]


def _error(where: str, value: object, wanted: str) -> TvmMobilenetError:
    return TvmMobilenetError(f"{where} = {_short(repr(value))} is not {wanted}", _EXAMPLE)
