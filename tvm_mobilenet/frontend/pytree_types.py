"""Stand-ins for dataclasses that a saved program returns, and that are unknown here.

`torch.export` saves the name of such a class and of its fields, but needs the class itself to read the file. A stand-in
with these names is enough, since a network's outputs are read from it by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from torch.utils import _pytree as pytree


class _StandIn:
    """Values by name, in place of a missing class."""

    def __init__(self, values: list, context: object):
        self.values, self.context = list(values), context


def register_unknown(program: dict) -> None:
    """Register a stand-in for every class that a program's inputs and outputs name and torch does not know.

    Parameters
    ----------
    program : dict
        The JSON of a saved ExportedProgram.
    """
    for text in _specs(program):
        for name in _types(json.loads(text)):
            if name not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
                _register(name)


def _specs(data: object) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            if key in ("in_spec", "out_spec") and isinstance(value, str):
                yield value
            else:
                yield from _specs(value)
    elif isinstance(data, list):
        for value in data:
            yield from _specs(value)


def _types(spec: object) -> Iterator[str]:
    if isinstance(spec, list):
        for part in spec:
            yield from _types(part)
    elif isinstance(spec, dict):
        if isinstance(spec.get("type"), str):
            yield spec["type"]
        yield from _types(spec.get("children_spec"))


def _register(name: str) -> None:
    own = type(name.rpartition(".")[2] or name, (_StandIn,), {})
    pytree.register_pytree_node(
        own,
        lambda instance: (instance.values, instance.context),
        lambda values, context: own(list(values), context),
        serialized_type_name=name,
        to_dumpable_context=lambda context: context,
        from_dumpable_context=lambda context: context,
        flatten_with_keys_fn=lambda instance: (
            list(zip(_keys(instance.context, len(instance.values)), instance.values, strict=True)),
            instance.context,
        ),
    )


def _keys(context: object, count: int) -> list:
    """The names of the fields of a dataclass or mapping; numbers if there are none."""
    if isinstance(context, str):
        context = json.loads(context)
    nested = context[0] if isinstance(context, list) and context and isinstance(context[0], list) else context
    if isinstance(nested, list) and len(nested) == count and all(isinstance(n, str) for n in nested):
        return [pytree.MappingKey(n) for n in nested]
    return [pytree.SequenceKey(i) for i in range(count)]
