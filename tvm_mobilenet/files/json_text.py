"""Parse untrusted JSON: every fault is a ValueError."""

from __future__ import annotations

import json


def parse(text: str, unique: bool = False) -> object:
    """The value of a JSON text; NaN and infinities, which JSON does not have, are refused too.

    Parameters
    ----------
    unique : bool
        Refuse an object that has a key twice: readers differ on which one counts.

    Raises
    ------
    ValueError
        It is no JSON, or nested deeper than Python reads.
    """
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"no JSON at character {e.pos + 1}: {e.msg}") from None


def _refuse(constant: str):
    raise ValueError(f"{constant} is not a number")


def _unique(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found
