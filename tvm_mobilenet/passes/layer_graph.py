"""A network as layers, the plain data that every pass from `channels_last` on takes and returns.

A `LayerGraph` has the calls of its layers in execution order, and the signature of the network. Values have names: a
layer names the value that it reads, in whatever shape. This module does not use Relax; `compiler.lower` writes Relax
once, at the end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.encoding import Pixels, Whole

INDICES = ("int32", "int64")  # dtypes of inputs that often hold places in a table


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer.

    Parameters
    ----------
    name : str
        Unique in the graph, such as ``layer_007``.
    layer : Layer
        The computation.
    source : str
        The origin of the layer in the user's model: module path, parameter or ONNX node.
    inputs : tuple of str
        The values that it reads: the data, and the residual or second operand if there is one.
    constants : dict of str to ndarray
        With the names, shapes and dtypes of ``layer.constants``.
    output : str
        The value that it writes, of shape ``layer.output_shape``.
    parts : tuple of LayerCall
        For a fused block, the calls that it replaces. For a copy that `compiler.views` made, the call whose values it
        moves.
    marks : passes.marks.Marks or None
        The scales of a network that comes quantized. `quantize` reads them.
    into : str
        The value that the output is a part of. Calls with the same ``into`` write one tensor together
        (`compiler.views`).
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
        """The call with other fields, or with other constants by their names; for a fused block these are tuples, as in
        `weight`.

        Constants are stored in the dtypes of its layer.
        """
        layer = changes.get("layer", self.layer)
        own = {name: changes.pop(name) for name in ("weight", "bias", *layer.constants) if name in changes}
        if layer.parts:
            own = {f"{i}.{name}": array for name, arrays in own.items() for i, array in enumerate(arrays)}
        own = {n: np.ascontiguousarray(a, dtype=layer.constants[n][1]) for n, a in own.items()}
        return replace(self, **({"constants": {**self.constants, **own}} if own else {}), **changes)

    @property
    def weight(self) -> np.ndarray | tuple | None:
        """Of shape ``layer.weight_shape``; for a fused block, a tuple with one for each part; None if there is none."""
        return self._constant("weight")

    @property
    def bias(self) -> np.ndarray | tuple | None:
        """Of shape ``(out_channels,)``; for a fused block, a tuple with one for each part; None if there is none."""
        return self._constant("bias")

    @property
    def originals(self) -> tuple[LayerCall, ...]:
        """The calls that it replaces: its parts, or itself."""
        return self.parts or (self,)

    def _constant(self, name: str) -> np.ndarray | tuple | None:
        if self.layer.parts:
            return tuple(self.constants.get(f"{i}.{name}") for i in range(len(self.layer.parts)))
        return self.constants.get(name)


def copying(shape: tuple[int, ...], dtype: str = "float32") -> Layer:
    """The layer that copies a tensor, with one position for each row of its last dimension."""
    channels = shape[-1] if shape else 1
    positions = math.prod(shape) // channels
    layer = Layer(kind="elementwise", op="none", height=positions, channels=channels, out_channels=channels)
    return layer.replace(dtype=dtype)


@dataclass(frozen=True)
class Port:
    """An input or output of ``main``: its name, shape, dtype, the value behind it, and for integers their encoding."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    value: str
    encoding: Whole | Pixels | None = None

    def real(self, values: np.ndarray) -> np.ndarray:
        """The real values of the port's values: float32 if it has an encoding, else the values themselves."""
        return values if self.encoding is None else self.encoding.real(values)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Float values in the port's dtype, rounded to the nearest."""
        if self.encoding is not None:
            return self.encoding.stored(values)
        values = np.asarray(values)
        if np.dtype(self.dtype).kind in "iu":
            ends = np.iinfo(self.dtype)
            values = np.rint(np.asarray(values, np.float64)).clip(ends.min, ends.max)
        return values.astype(self.dtype)

    def noise(self, draw: np.random.Generator, scale: float = 1.0, change=np.asarray) -> np.ndarray:
        """Random values in the port's dtype, normal ones of a magnitude; 0 and 1 for a dtype of indices, which larger
        ones may leave no value to read.
        """
        if self.dtype in INDICES:
            return draw.integers(0, 2, self.shape).astype(self.dtype)
        return self.stored(scale * change(draw.standard_normal(self.shape)))


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of ``main``; ``tuple_output`` says whether it returns a tuple."""

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
        """The number of occurrences of each distinct layer, in execution order."""
        return dict(Counter(call.layer for call in self.calls))

    def readers(self) -> Counter[str]:
        """The number of readers of each value, layers and outputs together."""
        return Counter([v for c in self.calls for v in c.inputs] + [p.value for p in self.signature.outputs])

    def calls_reading(self) -> dict[str, list[LayerCall]]:
        """The calls that read each value, in order."""
        found: dict[str, list[LayerCall]] = {}
        for call in self.calls:
            for value in dict.fromkeys(call.inputs):
                found.setdefault(value, []).append(call)
        return found

    def in_order(self, start: int = 0) -> Iterator[tuple[LayerCall, list[str]]]:
        """The calls from a place on, each with the values that it reads last, which a caller may then free."""
        left = self.readers()
        for call in self.calls[start:]:
            left.subtract(call.inputs)
            yield call, [value for value in dict.fromkeys(call.inputs) if not left[value]]

    def with_calls(self, calls: Iterable[LayerCall]) -> LayerGraph:
        """The graph with these calls. They and their values are named by their places, such as ``layer_007``."""
        calls = tuple(calls)
        names = {call.output: f"layer_{i:03d}" for i, call in enumerate(calls)}

        def named(call: LayerCall) -> LayerCall:
            name = names[call.output]
            return call.replace(name=name, output=name, inputs=tuple(names.get(v, v) for v in call.inputs))

        outputs = tuple(replace(p, value=names.get(p.value, p.value)) for p in self.signature.outputs)
        return LayerGraph(tuple(map(named, calls)), replace(self.signature, outputs=outputs))
