"""Layers of float32 in another dtype: the choice of layers that compute in it, and the conversions around them.

A value has one dtype, and a layer reads and writes values in the dtypes that they have (``Layer.reads``, ``writes``):

- the network's inputs and outputs have the dtype of ``--io``, by default float32;
- three kinds of values are float32: those that may leave the dtype's range, those that a layer without that dtype reads
  or writes, and those between float32 layers only; so are the scores that a last softmax reads;
- all other values have the dtype.

A generic layer that moves values from one layer in the dtype to another moves values of the dtype (`passes.moved`).

A residual has the dtype of the output that it joins, a second operand that of the data. If a value has another dtype, a
copying layer converts it once for all such readers. The dense layer that makes a network's scores sums in the wide
dtype, and so do the layers that ``--accumulate`` names.

Constants are stored in the dtype. A constant outside its range is an error that names layer and channel.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from tvm_mobilenet import dtypes, schedules
from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes import chosen_layers, ends, moved, quantize, quantize_given
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, copying

HEADROOM = 4  # other images may give larger values, so the limit is a quarter of a dtype's range
LOST = 1 / 64  # share of a channel's weights; if a dtype drops more, the user is told


@dataclass(frozen=True)
class LargestSum:
    """The largest magnitude of a partial sum of a layer, over the images of a calibration.

    Attributes
    ----------
    layer, source : str
        The call's name in the float32 graph, and its origin.
    value : float
        The largest of all partial sums, inputs and outputs of the layer.
    exact : bool
        False: an upper bound, the sum of the magnitudes of all terms.
    """

    layer: str
    source: str
    value: float
    exact: bool


@dataclass(frozen=True)
class Precision:
    """The decisions about a network's dtypes, made once when it is built.

    Attributes
    ----------
    dtype, io : str
        The dtype of the layers, and of inputs and outputs.
    sums : tuple of str
        Calls that sum in the wide dtype of ``dtype``.
    wide : tuple of str
        Calls that stay in float32, since they may leave the range of ``dtype``.
    values : tuple of str
        Values that stay in float32.
    largest : tuple of LargestSum
        One for each call, in order.
    images : str
        A description of the images that the sums come from.
    """

    dtype: str
    io: str = "float32"
    sums: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    largest: tuple[LargestSum, ...] = ()
    images: str = ""

    def to_data(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)

    def applied(self, graph: LayerGraph) -> LayerGraph:
        """A float32 graph with these decisions applied."""
        return run(graph, self)

    def summary(self) -> str:
        """For people: the size of the sums, and the layers that stay in float32 because of it."""
        if not self.largest:
            return ""
        most = max(self.largest, key=lambda one: one.value)
        told = f"largest partial sum {_sum(most)} of {most.source or most.layer}, on {self.images}"
        if not self.wide:
            return f"{told}; no layer is above {limit_of(self.dtype):,.0f}"
        known = {one.layer: one for one in self.largest}
        kept = [f"{known[name].source or name} ({_sum(known[name])})" for name in self.wide]
        return (
            f"{told}; in float32, as their values reach above {limit_of(self.dtype):,.0f}: {', '.join(kept[:5])}"
            + f" and {len(kept) - 5} more" * (len(kept) > 5)
        )

    @classmethod
    def from_data(cls, data: dict) -> Precision:
        """The decisions from plain data, as a build keeps it.

        Raises
        ------
        ValueError
            The data does not have the form that ``to_data`` gives.
        """
        try:
            lists = {name: tuple(map(str, _list(data[name]))) for name in ("sums", "wide", "values")}
            largest = tuple(
                LargestSum(str(one["layer"]), str(one["source"]), float(one["value"]), bool(one["exact"]))
                for one in _list(data["largest"])
            )
            return cls(**{**data, **lists, "largest": largest})
        except (KeyError, TypeError) as e:
            raise ValueError(f"no decisions about dtypes: {reason(e)}") from None


def _list(found: object) -> list:
    if not isinstance(found, list):
        raise TypeError(f"{found!r} is not a list")
    return found


def limit_of(dtype: str) -> float:
    """The magnitude above which a layer does not compute in a dtype: 16,384 for float16."""
    return 2.0 ** math.ceil(math.log2(-dtypes.of(dtype).lowest)) / HEADROOM


def _sum(one: LargestSum) -> str:
    return f"{'' if one.exact else 'at most '}{one.value:,.6g}"


def run(graph: LayerGraph, precision: Precision) -> LayerGraph:
    """The graph with its float32 layers in a dtype, and conversions where necessary.

    Calls keep their names. A conversion has the name of its value, such as ``layer_007_f32``.

    Raises
    ------
    TvmMobilenetError
        A weight or bias is outside the dtype's range.
    """
    narrow = {c.name for c in graph.calls if c.name not in precision.wide and _computed(c.layer, precision.dtype)}
    moving = _moving(graph, narrow, precision)
    narrow |= moving
    held = _dtypes_of_values(graph, narrow, precision)
    ports = [*graph.signature.inputs, *graph.signature.outputs]
    io = precision.io if precision.io == precision.dtype else "float32"  # `ends` handles integers
    held |= {p.value: io for p in ports if p.dtype == "float32"}
    wide_sums = {*precision.sums, *(c.name for c in _scores(graph) if c.layer.declared.images)}
    made: list[LayerCall] = []
    converted: dict[tuple[str, str], str] = {}

    def in_dtype(value: str, dtype: str, shape: tuple[int, ...]) -> str:
        """A value of that dtype: itself, or a copy."""
        if held[value] == dtype:
            return value
        if (value, dtype) not in converted:
            copy = _conversion(f"{value}_{dtypes.of(dtype).token}", value, held[value], dtype, shape)
            made.append(copy)
            converted[value, dtype] = copy.output
        return converted[value, dtype]

    for call in graph.calls:
        layer = call.layer
        if _is_whole(layer):  # values at its boundary are float32
            made.append(call)
            continue
        if call.name in moving:
            layer = layer.body.narrow(precision.dtype)
            call = call.replace(layer=layer)
        if layer.body is not None or layer.dtype != "float32":  # the dtype of its loop nest is fixed
            due = zip(call.inputs, layer.operand_dtypes, layer.operand_buffers, strict=True)
            inputs = [in_dtype(*operand) for operand in due]
            due = held[call.output]
            own = call.output if due == layer.output_dtype else f"{call.output}_{dtypes.of(layer.output_dtype).token}"
            made.append(call.replace(inputs=tuple(inputs), output=own))
            if own != call.output:
                conversion = _conversion(call.output, own, layer.output_dtype, due, layer.output_shape)
                made.append(replace(conversion, name=f"{call.name}_{dtypes.of(due).token}"))
            continue
        layer = _in_dtypes(layer, call.name in narrow, held[call.inputs[0]], held[call.output], precision.dtype)
        if call.name in wide_sums and layer.weight_shape and layer.dtype == precision.dtype:
            layer = layer.replace(sums=dtypes.of(layer.dtype).wide)
        data, *second = call.inputs
        second = [in_dtype(v, layer.second_dtype, layer.second_shape) for v in second]
        made.append(stored(call, layer).replace(inputs=(data, *second)))
    signature = graph.signature
    sides = {
        side: tuple(replace(p, dtype=held.get(p.value, p.dtype)) for p in getattr(signature, side))
        for side in ("inputs", "outputs")
    }
    return LayerGraph(tuple(made), replace(signature, **sides))


def without_images(graph: LayerGraph, options) -> LayerGraph:
    """The graph in the dtype of options, as if no value could leave that dtype's range. It serves for costs, which do
    not depend on values.

    Parameters
    ----------
    options : models.options.ModelOptions
    """
    scales, image = None, ends.assumed_image(graph)
    if options.dtype == "float32":
        pass
    elif dtypes.of(options.dtype).integer:
        known = quantize_given.found(graph) or quantize.ASSUMED
        scales = known.scales
        graph = quantize.run(ends.wanted(graph, options.dtype, options.io), known)
    else:
        sums = chosen_layers.named(graph, options.accumulate) if options.accumulate else ()
        graph = run(graph, Precision(options.dtype, options.io, sums))
    return ends.run(graph, options.io, scales, image)


def stored(call: LayerCall, layer: Layer) -> LayerCall:
    """A call with another ``layer``, and its constants in the dtypes of that layer.

    Raises
    ------
    TvmMobilenetError
        A finite constant is not finite in that dtype.
    """
    for name, (_, dtype) in layer.constants.items():
        array = call.constants[name]
        with np.errstate(over="ignore"):
            out = np.isfinite(array) & ~np.isfinite(array.astype(dtype))
        if out.any():
            at = tuple(int(i) for i in np.argwhere(out)[0])
            channels = sorted({int(i[0]) for i in np.argwhere(out)})
            others = f" and {len(channels) - 1} more channels" * (len(channels) > 1)
            raise TvmMobilenetError(
                f"{call.source or call.name}: its folded {name} of channel {at[0]}{others} is {array[at]:.6g}, outside "
                f"the range of {dtype}, which ends at {-dtypes.of(dtype).lowest:g}",
                "build with --dtype float32; or look at the channel's batch norm in the checkpoint: a variance near "
                "zero makes such weights, and a channel whose output is always zero can be set to zero",
            )
    return call.replace(layer=layer, **call.constants)


def lost(graph: LayerGraph, narrowed: LayerGraph) -> list[str]:
    """Warnings about channels whose weights are too small for a dtype.

    A channel is reported if the dtype drops more than `LOST` of its weights, by their norm, and that is more than the
    rounding of its bias.
    """
    found, after = [], {call.name: call for call in narrowed.calls}
    for call in graph.calls:
        now = after[call.name]
        if call.weight is None or now.layer.dtype == call.layer.dtype:
            continue
        was = call.weight.reshape(len(call.weight), -1).astype(np.float64)
        dropped = np.where(np.abs(was) < dtypes.of(now.layer.dtype).smallest, was - now.weight.reshape(was.shape), 0.0)
        off, norm = np.linalg.norm(dropped, axis=1), np.linalg.norm(was, axis=1)
        matters = (off > LOST * norm) & (off > dtypes.of(now.layer.dtype).rounding * np.abs(call.bias))
        if matters.any():
            channels = np.flatnonzero(matters)
            worst = channels[(off[channels] / norm[channels]).argmax()]
            found.append(
                f"{call.source or call.name}: the weights of {len(channels)} of {len(was)} channels are too small for "
                f"{now.layer.dtype}; of channel {worst} it drops {off[worst] / norm[worst]:.0%}"
            )
    return found


def _is_whole(layer: Layer) -> bool:
    """Whether a layer computes in integers, in an int8 network that keeps other layers in float."""
    return layer.body is None and dtypes.of(layer.dtype).integer


def _computed(layer: Layer, dtype: str) -> bool:
    """Whether a float32 layer can compute in a dtype."""
    return layer.dtype == "float32" and layer.body is None and dtype in schedules.implemented(layer.kind)


def _moving(graph: LayerGraph, narrow: set[str], precision: Precision) -> set[str]:
    """The layers that move values of the dtype: those whose output has it."""
    outputs = {port.value for port in graph.signature.outputs}
    left = {c.output: c.name for c in graph.calls if c.name not in precision.wide and c.output not in outputs}
    names = moved.between(graph, lambda call: call.name in narrow)
    found, before = {value: name for value, name in left.items() if name in names}, None
    while found != before:  # one that moves float32 has operands in float32
        held = _dtypes_of_values(graph, narrow | set(found.values()), precision)
        found, before = {v: name for v, name in found.items() if held[v] == precision.dtype}, found
    return set(found.values())


def _dtypes_of_values(graph: LayerGraph, narrow: set[str], precision: Precision) -> dict[str, str]:
    """The dtype of each value that a layer writes."""
    readers = graph.calls_reading()
    scores = {call.inputs[0] for call in _scores(graph) if not call.layer.weight_shape}
    held = {port.value: port.dtype for port in graph.signature.inputs}
    for call in graph.calls:
        around = [call, *readers.get(call.output, ())]
        fixed = [c for c in around if (c.layer.body is not None and c.name not in narrow) or _is_whole(c.layer)]
        if call.layer.output_dtype != "float32":
            held[call.output] = call.layer.output_dtype
        elif call.output in (*precision.values, *scores) or fixed or not any(c.name in narrow for c in around):
            held[call.output] = "float32"
        else:
            held[call.output] = precision.dtype
    return held


def _scores(graph: LayerGraph) -> list[LayerCall]:
    """The calls that make outputs: a last softmax, plain copies, and the layer whose output these read."""
    makers, found = {call.output: call for call in graph.calls}, []
    for port in graph.signature.outputs:
        call = makers.get(port.value)
        while call is not None:
            found.append(call)
            copy = call.layer.copies and call.layer.activation == "none"
            call = makers.get(call.inputs[0]) if copy or call.layer.declared.function == "softmax" else None
    return found


def _in_dtypes(layer: Layer, narrow: bool, reads: str, writes: str, dtype: str) -> Layer:
    """A float32 layer that reads and writes these dtypes, and computes in ``dtype`` if it is narrow.

    A layer without weights between two float32 values has nothing to gain and stays as it is.
    """
    plain = layer.weight_shape is None and reads == writes == "float32"
    own = dtype if narrow and not plain else layer.dtype
    return layer.replace(dtype=own, reads="" if reads == own else reads, writes="" if writes == own else writes)


def _conversion(name: str, value: str, before: str, after: str, shape: tuple[int, ...]) -> LayerCall:
    """The copy of a value in another dtype, with one position for each row of its last dimension."""
    narrow = after if dtypes.of(after).bytes < dtypes.of(before).bytes else before
    layer = copying(shape, narrow).replace(
        reads="" if before == narrow else before, writes="" if after == narrow else after
    )
    return LayerCall(name, layer, f"{value} as {after}", (value,), {}, name)
