"""Words that files of earlier versions use for what has the field's own name today: they are read, never written."""

from __future__ import annotations

_FUSED, _CHAIN = "fused ", "chain "
DECISIONS = {"strips": "row_tiles", "bands": "column_tiles"}
NOTICE = "a tune log has fused blocks under their old name, chain: they are read as before"
FLAGS = {"--prices": "--estimates"}


def layer_name(name: str) -> str:
    """A layer's name of today: a fused block was called a chain."""
    return _FUSED + name.removeprefix(_CHAIN) if name.startswith(_CHAIN) else name


def decisions(found: dict) -> dict:
    """Decisions under their names of today; the same object where nothing changes."""
    return {DECISIONS.get(name, name): value for name, value in found.items()} if DECISIONS.keys() & found else found
