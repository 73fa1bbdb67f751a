"""What is decided of a network's int8, as data: scales, factors and shifts, and what they do to each layer."""

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
    """Of a value: ``(q - zero) * step``."""

    step: float
    zero: int

    def of(self, values: np.ndarray) -> np.ndarray:
        """Values as int8, as integers of no particular dtype."""
        return np.clip(np.rint(values / self.step) + self.zero, LOW, HIGH)


@dataclass(frozen=True)
class Quality:
    """What quantizing does to one layer, on images.

    Attributes
    ----------
    source, layer : str
        Where it comes from, and its line.
    range : str
        How the range of its output was found; empty: its output is no int8.
    signal_to_noise : float
        dB of its output in float32 above the difference, of this layer and all before it.
    cosine : float
        Of its output and that in float32.
    clipped : float
        The share of its output beyond the range.
    """

    source: str
    layer: str
    range: str
    signal_to_noise: float
    cosine: float
    clipped: float


@dataclass(frozen=True)
class Quantization:
    """What is decided of a network's int8: once, when it is built.

    Attributes
    ----------
    scales : dict of str to Scale
        Of each value that a layer of int8 reads or writes.
    inner : dict of str to Scale
        By call: of the value before a table or an addition that is fused into it.
    shifts : dict of str to tuple of float
        By call: what is added to the biases of its output channels, since rounded weights shift the mean of its sums.
    images : str
        On which they were found, in words.
    io : str
        Of the network's inputs and outputs.
    kept : tuple of mixed.Kept
        Calls that stay in float.
    given : bool
        The network came quantized: weights are those of its file, whatever follows for how products are summed, and
        values without a scale stay in float32.
    factors : dict of str to tuple of float
        Of values that have so many times, channel by channel, what they have in float32 (`passes.equalize`).
    method : str
        How ranges were found.
    layers : dict of str to Quality
        By call of the graph in float32.
    file : str
        Of ``--quantization``, from which all this was read; it is no part of the data.
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

    dtype, wide, largest = DTYPE, (), ()  # as a `precision.Precision` has them

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
        """A graph in float32 as it says."""
        from tvm_mobilenet.passes import mixed

        return mixed.run(graph, self)

    def to_data(self) -> dict:
        """Plain data for JSON."""
        return {"dtype": DTYPE, **{name: value for name, value in asdict(self).items() if name != "file"}}

    @classmethod
    def from_data(cls, data: Mapping) -> Quantization:
        """Of plain data."""
        scales = {name: {v: Scale(**s) for v, s in data[name].items()} for name in ("scales", "inner")}
        from tvm_mobilenet.passes.mixed import Kept

        each = {key: {n: tuple(v) for n, v in data.get(key, {}).items()} for key in ("shifts", "factors")}
        layers = {name: Quality(**one) for name, one in data.get("layers", {}).items()}
        told = {"images": data["images"], "io": data["io"], "method": data.get("method", "")}
        own = {"kept": tuple(Kept(**one) for one in data.get("kept", ())), "given": data.get("given", False)}
        return cls(**scales, **each, **told, layers=layers, **own)


class _Any(dict):
    """The same scale for whatever value."""

    def __missing__(self, value: str) -> Scale:
        return Scale(1 / 32, 0)

    def get(self, value: str, default=None) -> Scale:
        return self[value]


ASSUMED = Quantization(_Any(), _Any(), images="none: costs do not depend on scales")
