"""Names that files of earlier versions use, and today's names for them. Old names are read, never written."""

from __future__ import annotations

_FUSED, _CHAIN = "fused ", "chain "
DECISIONS = {"strips": "row_tiles", "bands": "column_tiles"}
LOOPS = {"paired": "dual_issue"}  # values of the decision `loop`; in a fused block, of its part 0: `0.loop`
# Fields of JSON documents, also written.
KEYS = {"arithmetic": "compute", "gate": "tolerance"}
NOTICE = "a tune log calls fused blocks by their old name, chain; its records are still read"
FLAGS = {"--prices": "--estimates", "--jobs": "--workers"}


def layer_name(name: str) -> str:
    """A layer's name today; a fused block was called a chain."""
    return _FUSED + name.removeprefix(_CHAIN) if name.startswith(_CHAIN) else name


def decisions(found: dict) -> dict:
    """Decisions under today's names; the same object if nothing changes."""
    new = {DECISIONS.get(name, name): _value(name, value) for name, value in found.items()}
    return found if new == found else new


def _value(name: str, value: object) -> object:
    loop = name.rpartition(".")[2] == "loop" and isinstance(value, str)
    return LOOPS.get(value, value) if loop else value


def keys(data: dict) -> dict:
    """The fields of a JSON object under today's names."""
    return {KEYS.get(name, name): value for name, value in data.items()}


def with_old_keys(data: object) -> object:
    """A JSON document that holds every renamed field under both names."""
    if isinstance(data, list):
        return [with_old_keys(one) for one in data]
    if not isinstance(data, dict):
        return data
    found = {name: with_old_keys(value) for name, value in data.items()}
    return found | {old: found[new] for old, new in KEYS.items() if new in found and old not in found}
