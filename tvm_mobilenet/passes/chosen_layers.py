"""Layers that a flag names: by name, place in the model, module, geometry, or a pattern of these."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from tvm_mobilenet.errors import TvmMobilenetError, nearest
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph


def named(graph: LayerGraph, wanted: str) -> tuple[str, ...]:
    """The calls that ``--accumulate`` names.

    Parameters
    ----------
    wanted : str
        ``float32`` for all calls with weights. ``float32:NAME,NAME`` for calls by name, by source, or by the module of
        the source, such as ``features.3``.

    Raises
    ------
    TvmMobilenetError
        A name matches no layer with weights; the message suggests the nearest name.
    """
    _, colon, names = wanted.partition(":")
    calls = [call for call in graph.calls if call.layer.weight_shape]
    if not colon:
        return tuple(call.name for call in calls)
    return chosen(calls, names, f"--accumulate {wanted}", "layer with weights", "float16")


def chosen(calls: Sequence[LayerCall], names: str, flag: str, what: str, dtype: str) -> tuple[str, ...]:
    """The calls that a flag names.

    Parameters
    ----------
    names : str
        Separated by commas: names of calls (``layer_007``), sources (``features.3.conv.0``), modules (``features.3``),
        layers (``depthwise 14x14x512 3x3``), and patterns of all of these (``layer_00?``, ``dense*``).
    flag, what, dtype : str
        For the message: the flag as given, the kind of thing that it names, and the dtype of builds that have it.

    Raises
    ------
    TvmMobilenetError
        A name matches no call; the message suggests the nearest name.
    """
    found: list[str] = []
    for name in names.split(","):
        here = [c.name for c in calls if _is_named(c, name)]
        if not here:
            near = nearest(name, [n for c in calls for n in (c.name, c.source)], 0.5)
            raise TvmMobilenetError(
                f"{flag}: no {what} is called {name!r}",
                (f"did you mean {near}? " if near else "") + f"`build --dtype {dtype} --json` lists them",
            )
        found += here
    return tuple(dict.fromkeys(found))


def _is_named(call: LayerCall, name: str) -> bool:
    if name == call.name or f"{call.source}.".startswith(f"{name}."):
        return True
    return any(fnmatchcase(given, name) for given in (call.name, call.source, call.layer.name))
