"""The decisions about a network's int8, as data: scales, factors and shifts, and their effect on each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from tvm_mobilenet.passes.layer_graph import LayerGraph
from tvm_mobilenet.passes.whole_weights import HIGH, LOW

DTYPE = "int8"


@dataclass(frozen=True)
class Scale:
    """The scale of a value, which is ``(q - zero) * step``."""

    step: float
    zero: int

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest number that it represents."""
        return (LOW - self.zero) * self.step, (HIGH - self.zero) * self.step

    def of(self, values: np.ndarray) -> np.ndarray:
        """Values as int8, returned as integers of no particular dtype."""
        return np.clip(np.rint(values / self.step) + self.zero, LOW, HIGH)


@dataclass(frozen=True)
class Quality:
    """The effect of quantization on one layer, measured on images.

    Attributes
    ----------
    source, layer : str
        Its origin in the model, and its name.
    range : str
        The method that found the range of its output; empty if its output is not int8.
    signal_to_noise : float
        Its float32 output over the difference, in dB; the difference includes all layers before it.
    cosine : float
        The cosine similarity of its output and the float32 output.
    clipped : float
        The share of its output outside the range.
    """

    source: str
    layer: str
    range: str
    signal_to_noise: float
    cosine: float
    clipped: float


@dataclass(frozen=True)
class Quantization:
    """The decisions about a network's int8, made once when it is built.

    Attributes
    ----------
    scales : dict of str to Scale
        The scale of each value that an int8 layer reads or writes.
    inner : dict of str to Scale
        For each call with a fused table or addition: the scale of the value before it.
    shifts : dict of str to tuple of float
        For each call: corrections to the biases of its output channels, since rounded weights shift the mean of its
        sums.
    images : str
        A description of the images that were used.
    io : str
        The dtype of the network's inputs and outputs.
    kept : tuple of mixed.Kept
        Calls that stay in float.
    given : bool
        Whether the network came quantized. Its weights are then those of the file, even if products must then be summed
        in a slower way, and values without a scale stay in float32.
    factors : dict of str to tuple of float
        For each equalized value, the factor of each channel over its float32 value (`passes.equalize`).
    method : str
        The method that found the ranges.
    layers : dict of str to Quality
        For each call of the float32 graph.
    file : str
        The file of ``--quantization`` that these decisions were read from; it is not part of the data.
    """

    scales: Mapping[str, Scale]
    inner: Mapping[str, Scale]
    shifts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    images: str = ""
    io: str = "float32"
    kept: tuple = ()
    given: bool = False
    factors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    method: str = ""
    layers: Mapping[str, Quality] = field(default_factory=dict)
    file: str = field(default="", compare=False)

    dtype, wide, largest = DTYPE, (), ()  # the fields of a `precision.Precision`

    def summary(self) -> str:
        """One line for people."""
        found = "that come with the network" if self.given else f"found on {self.images}"
        source = f" from {self.file}, which says" * bool(self.file)
        told = f"scales of {len(self.scales)} values{source}, {found}"
        if ways := Counter(one.range for one in self.layers.values() if one.range):
            told += "; ranges by " + ", ".join(f"{way} {count}" for way, count in sorted(ways.items()))
        told += f"; channels of {len(self.factors)} equalized" * bool(self.factors)
        if self.kept:
            floats = " and ".join(sorted({kept.dtype for kept in self.kept}))
            told += f"; {len(self.kept)} layer{'s' * (len(self.kept) > 1)} in {floats}"
        return told

    def applied(self, graph: LayerGraph) -> LayerGraph:
        """A float32 graph with these decisions applied."""
        from tvm_mobilenet.passes import mixed

        return mixed.run(graph, self)

    def to_data(self) -> dict:
        """Plain data for JSON."""
        return {"dtype": DTYPE, **{name: value for name, value in asdict(self).items() if name != "file"}}

    @classmethod
    def from_data(cls, data: Mapping) -> Quantization:
        """The decisions from plain data."""
        scales = {name: {v: Scale(**s) for v, s in data[name].items()} for name in ("scales", "inner")}
        from tvm_mobilenet.passes.mixed import Kept

        each = {key: {n: tuple(v) for n, v in data.get(key, {}).items()} for key in ("shifts", "factors")}
        layers = {name: Quality(**one) for name, one in data.get("layers", {}).items()}
        told = {"images": data["images"], "io": data["io"], "method": data.get("method", "")}
        own = {"kept": tuple(Kept(**one) for one in data.get("kept", ())), "given": data.get("given", False)}
        return cls(**scales, **each, **told, layers=layers, **own)


class _Any(dict):
    """The same scale for every value."""

    def __missing__(self, value: str) -> Scale:
        return Scale(1 / 32, 0)

    def get(self, value: str, default=None) -> Scale:
        return self[value]


ASSUMED = Quantization(_Any(), _Any(), images="none: costs do not depend on scales")
