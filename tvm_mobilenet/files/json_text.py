"""JSON that somebody else may have written: what is wrong with it is a ValueError, whatever it is."""

from __future__ import annotations

import json


def parse(text: str) -> object:
    """The value of a JSON text; NaN and infinities, which JSON does not have, are refused too.

    Raises
    ------
    ValueError
        It is no JSON, or nested deeper than Python reads.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"no JSON at character {e.pos + 1}: {e.msg}") from None


def _refuse(constant: str):
    raise ValueError(f"{constant} is no number")
