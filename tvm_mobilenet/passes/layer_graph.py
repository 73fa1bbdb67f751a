"""A network as layers, the plain data that every pass from `channels_last` on takes and returns.

A `LayerGraph` is the calls of its layers in execution order, and what the network takes and returns. Values have names:
a layer names the value it reads, whatever shape it reads it in. Nothing here knows Relax; `compiler.lower` writes it
once, at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.encoding import Pixels, Whole


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer.

    Parameters
    ----------
    name : str
        Unique in the graph, such as ``layer_007``.
    layer : Layer
        What is computed.
    source : str
        Where the layer comes from in the user's model: module path, parameter or ONNX node.
    inputs : tuple of str
        Values: the data, and the residual or second operand if there is one.
    constants : dict of str to ndarray
        Of the names, shapes and dtypes of ``layer.constants``.
    output : str
        The value written, of ``layer.output_shape``.
    parts : tuple of LayerCall
        Of a fused block: the calls that it stands for; of a copy that `compiler.views` made, that of what it moves.
    marks : passes.marks.Marks or None
        Of a network that comes quantized: its scales. `quantize` reads them.
    into : str
        The value of which the output is a part: calls with the same one write one tensor together (`compiler.views`).
    """

    name: str
    layer: Layer
    source: str
    inputs: tuple[str, ...]
    constants: dict[str, np.ndarray]
    output: str
    parts: tuple[LayerCall, ...] = ()
    marks: object | None = None
    into: str = ""

    def replace(self, **changes) -> LayerCall:
        """The call with other fields, or with other constants by their names, of a fused block as `weight` has them.

        Constants are stored in the dtypes that its layer says.
        """
        layer = changes.get("layer", self.layer)
        own = {name: changes.pop(name) for name in ("weight", "bias", *layer.constants) if name in changes}
        if layer.parts:
            own = {f"{i}.{name}": array for name, arrays in own.items() for i, array in enumerate(arrays)}
        own = {n: np.ascontiguousarray(a, dtype=layer.constants[n][1]) for n, a in own.items()}
        return replace(self, **({"constants": {**self.constants, **own}} if own else {}), **changes)

    @property
    def weight(self) -> np.ndarray | tuple | None:
        """``layer.weight_shape``; of a fused block, a tuple of those of its parts; None where there is none."""
        return self._constant("weight")

    @property
    def bias(self) -> np.ndarray | tuple | None:
        """``(out_channels,)``; of a fused block, a tuple of those of its parts; None where there is none."""
        return self._constant("bias")

    @property
    def originals(self) -> tuple[LayerCall, ...]:
        """The calls that it stands for: its parts, or itself."""
        return self.parts or (self,)

    def _constant(self, name: str) -> np.ndarray | tuple | None:
        if self.layer.parts:
            return tuple(self.constants.get(f"{i}.{name}") for i in range(len(self.layer.parts)))
        return self.constants.get(name)


@dataclass(frozen=True)
class Port:
    """An input or output of ``main``: its name, shape, dtype, and the value behind it; of whole numbers also what they
    stand for."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    value: str
    encoding: Whole | Pixels | None = None

    def real(self, values: np.ndarray) -> np.ndarray:
        """What values of the port stand for: float32, or the values themselves."""
        return values if self.encoding is None else self.encoding.real(values)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Floats as values of the port, the nearest there are."""
        return np.asarray(values).astype(self.dtype) if self.encoding is None else self.encoding.stored(values)


@dataclass(frozen=True)
class Signature:
    """What ``main`` takes and returns; ``tuple_output`` says whether it returns a tuple."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    tuple_output: bool


@dataclass(frozen=True)
class LayerGraph:
    """A network as layers.

    Parameters
    ----------
    calls : tuple of LayerCall
        In execution order.
    signature : Signature

    Raises
    ------
    ValueError
        Two calls write one value, or one writes an input.
    """

    calls: tuple[LayerCall, ...]
    signature: Signature

    def __post_init__(self):
        written = Counter([*(port.value for port in self.signature.inputs), *(call.output for call in self.calls)])
        if twice := [value for value, count in written.items() if count > 1]:
            raise ValueError(f"values that are written twice: {', '.join(twice)}")

    @property
    def counts(self) -> dict[Layer, int]:
        """How often each distinct layer occurs, in execution order."""
        return dict(Counter(call.layer for call in self.calls))

    def readers(self) -> Counter[str]:
        """How often each value is read, by layers and by the outputs."""
        return Counter([v for c in self.calls for v in c.inputs] + [p.value for p in self.signature.outputs])

    def in_order(self, start: int = 0) -> Iterator[tuple[LayerCall, list[str]]]:
        """The calls from a place on, each with the values that nobody reads after it: whoever holds values may drop
        these."""
        left = self.readers()
        for call in self.calls[start:]:
            left.subtract(call.inputs)
            yield call, [value for value in dict.fromkeys(call.inputs) if not left[value]]

    def with_calls(self, calls: Iterable[LayerCall]) -> LayerGraph:
        """These calls in place of the graph's; they and their values are named by their places, ``layer_007``."""
        calls = tuple(calls)
        names = {call.output: f"layer_{i:03d}" for i, call in enumerate(calls)}

        def named(call: LayerCall) -> LayerCall:
            name = names[call.output]
            return call.replace(name=name, output=name, inputs=tuple(names.get(v, v) for v in call.inputs))

        outputs = tuple(replace(p, value=names.get(p.value, p.value)) for p in self.signature.outputs)
        return LayerGraph(tuple(map(named, calls)), replace(self.signature, outputs=outputs))
