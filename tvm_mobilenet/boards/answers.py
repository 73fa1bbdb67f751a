"""Checks of the answers of boards and trackers before use: text without control characters, finite numbers, types.

A board may report false times, which no check can notice. But numbers are numbers, lists have elements of the right
type, and an array has the requested shape before memory is allocated for it.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.files import archives, json_text
from tvm_mobilenet.files.shapes import COUNT, FAR, FLAG, NUMBER, TEXT, TIME, Either, Maybe, is_number, wrong

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_REMEDY = "is this your board, and its agent of this version? The answer was not used"
_DEEPEST = 20
_LONGEST = 4 << 20  # characters of a service's answer; 2,000 runs of 60 layers take half of it


def plain(text: str) -> str:
    """A board's text made safe for a terminal: spaces replace control characters."""
    return _CONTROL.sub(" ", text)


# ---- numbers


def seconds(values: Sequence, where: str, what: str) -> list[float]:
    """Times that a board measured: at least one, all finite, none below zero.

    Raises
    ------
    BoardError
    """
    found = list(values)
    if not found or not all(is_number(value) and value >= 0 for value in found):
        told = next((v for v in found if not (is_number(v) and v >= 0)), "none")
        raise BoardError(f"{where}: {what}: {plain(str(told))[:60]} is not a time", _REMEDY)
    return [float(value) for value in found]


# ---- services

_STATE = {
    "temperature_c?": Maybe(NUMBER), "clock_hz?": Maybe(TIME), "clock_limit_hz?": Maybe(TIME), "governor?": TEXT,
    "load?": Maybe(TIME), "throttled?": [TEXT], "throttled_since_boot?": [TEXT], "throttle_events?": Maybe(COUNT),
    "throttling_from?": TEXT,
}  # fmt: skip
_PING = {"versions": {str: TEXT}, "architecture": TEXT, "features": [TEXT], "python": TEXT, "pid": COUNT,
         "services": [TEXT]}  # fmt: skip
_MEASURED = {
    "version": TEXT, "load_seconds": TIME, "number": COUNT, "rounds": [[TIME]], "difference": Maybe(NUMBER),
    "warm_up": {"runs": COUNT, "seconds": TIME, "first_seconds": TIME, "steady": FLAG},
    "rss_initial": Maybe(COUNT), "rss_loaded": Maybe(COUNT), "rss_peak": Maybe(COUNT),
}  # fmt: skip
SHAPES: dict[str, object] = {
    "ping": _PING,
    "threads": {"cpus": [COUNT], "threads": COUNT},
    "state": _STATE,
    "facts": {
        "model": TEXT, "hostname": TEXT, "architecture": TEXT, "cpu": TEXT, "cores": COUNT, "features": [TEXT],
        "clock_hz": Maybe(TIME), "governor": TEXT, "memory_bytes": Maybe(COUNT), "memory_available_bytes": Maybe(COUNT),
        "disk_free_bytes": COUNT, "kernel": TEXT, "system": TEXT, "python": TEXT, "versions": {str: TEXT},
        "state": _STATE,
    },
    "measure": {
        "threads": COUNT, "contenders": [Either({"missing": TEXT}, {"failed": TEXT}, _MEASURED)], "states": [_STATE],
    },
    "measure_layers": {
        "threads": COUNT, "seconds": [[TIME]], "starts": [[NUMBER]], "overhead_seconds": TIME, "steady": FLAG,
        "state": _STATE,
    },
    "run_steps": {"path": TEXT},
    "run_by_tvm": {"path": TEXT},
    "check_timing": {"ours": [TIME], "time_evaluator": [TIME], "number": COUNT, "repeat": COUNT},
}  # fmt: skip


def parsed(text: str, where: str) -> dict:
    """The JSON object in a text. Its texts have no control characters, and its numbers are finite.

    Raises
    ------
    BoardError
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"it has {len(text):,} characters, {_LONGEST:,} are read")
        found = _plain_data(json_text.parse(text), 0)
    except ValueError as e:
        raise BoardError(f"{where}: its answer cannot be read: {plain(str(e))[:200]}", _REMEDY) from None
    if not isinstance(found, dict):
        raise BoardError(f"{where}: its answer is not an object", _REMEDY)
    return found


def _plain_data(value: object, depth: int):
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        return {plain(k): _plain_data(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain_data(v, depth + 1) for v in value]
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, (int, float)) and not -FAR < value < FAR:
        raise ValueError("a number of too many digits")
    return value


def check(name: str, answer: dict, where: str) -> dict:
    """The answer of a service, if it has the form of that service's answers.

    Raises
    ------
    BoardError
        It names the place in the answer.
    """
    if name in SHAPES and (found := wrong(answer, SHAPES[name], name)):
        raise BoardError(f"{where}: {found[:400]}", _REMEDY)
    return answer


# ---- arrays


def arrays(path: str | Path, wanted: Mapping[str, tuple[tuple[int | range, ...], str]], where: str) -> dict:
    """The arrays of an ``.npz`` that a board wrote.

    Parameters
    ----------
    wanted : mapping
        For each name the shape, with a range for an axis that may vary, and the dtype.

    Returns
    -------
    dict
        From name to ndarray.

    Raises
    ------
    BoardError
        The file is no ``.npz``, or an array is missing, compressed, or has another shape or dtype.
    """
    import numpy as np

    found = {}
    try:
        with open(path, "rb") as file, archives.opened(file) as archive:
            for name, (shape, dtype) in wanted.items():
                info = archive.getinfo(f"{name}.npy")
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{name} is compressed")
                with archive.open(info) as member:
                    version = np.lib.format.read_magic(member)
                    if version != (1, 0):
                        raise ValueError(f"{name} is of version {version}")
                    there, fortran, kind = np.lib.format.read_array_header_1_0(member)
                    fits = len(there) == len(shape) and all(
                        n in s if isinstance(s, range) else n == s for n, s in zip(there, shape, strict=True)
                    )
                    if not fits or kind != np.dtype(dtype) or fortran:
                        raise ValueError(f"{name} is {kind} {there}, not {dtype} {shape}")
                    size = math.prod(there) * kind.itemsize
                    data = member.read(size + 1)
                    if len(data) != size:
                        raise ValueError(f"{name} has {len(data):,} bytes, not {size:,}")
                    found[name] = np.frombuffer(bytearray(data), kind).reshape(there)
    except (OSError, ValueError, KeyError, SyntaxError, zipfile.BadZipFile, NotImplementedError, EOFError) as e:
        raise BoardError(f"{where}: its result cannot be read: {plain(str(e))[:200]}", _REMEDY) from None
    return found
