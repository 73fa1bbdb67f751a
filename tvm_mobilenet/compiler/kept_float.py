"""The layers of an int8 network that stay in float, named by the user or chosen by a search, and their float dtype.

They compute in float16 if the target has it, and if their values and weights stay in its range; otherwise in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.compiler import calibration
from tvm_mobilenet.models.options import FLOAT32
from tvm_mobilenet.passes import chosen_layers, equalize, precision, quantize
from tvm_mobilenet.passes.mixed import Kept
from tvm_mobilenet.passes.quantize import Quantization

FLAG = "--keep-float"


def decide(network, decided: Quantization) -> Quantization:
    """A quantization that keeps in float the layers that the options name, or else those of its file. The options give
    the float dtype, since the file may be of a build for another target.

    Raises
    ------
    TvmMobilenetError
        A name matches no layer.
    """
    if not network.options.keep_float:
        # decisions for float16 keep no layers, and have no file
        own = isinstance(decided, Quantization) and decided.file
        return keeping(network, decided, {one.layer: one.why for one in decided.kept}) if own else decided
    return keeping(network, decided, dict.fromkeys(named(network, decided), f"named by {FLAG}"))


def check(network) -> None:
    """Refuse names that match no layer, before images run. Names with blanks, which give a layer's shape, are looked up
    later, when the int8 shapes are known.

    Raises
    ------
    TvmMobilenetError
        A name matches no layer.
    """
    names = [name for name in (network.options.keep_float or "").split(",") if name and " " not in name]
    if names:
        _calls(network, quantize.ASSUMED, ",".join(names))


def named(network, decided: Quantization) -> tuple[str, ...]:
    """The calls that ``--keep-float`` names, by their names in float32 or in int8."""
    return _calls(network, decided, network.options.keep_float)


def _calls(network, decided: Quantization, names: str) -> tuple[str, ...]:
    calls = network.graph.calls
    narrow = quantize.run(network.graph, decided).calls
    found = chosen_layers.chosen((*calls, *narrow), names, FLAG, "layer", decided.dtype)
    return tuple(call.name for call in calls if call.name in found)


def keeping(
    network, decided: Quantization, why: Mapping[str, str], floats: Mapping[str, str] | None = None
) -> Quantization:
    """A quantization that keeps these calls in float, each with the reason.

    Parameters
    ----------
    network : Network
        The network in float32, whose options give the float dtype.
    floats : mapping, optional
        The result of `floats_of`, if it is known.
    """
    chosen = [call for call in network.graph.calls if call.name in why and quantize.integral(call.layer)]
    if floats is None:
        floats = floats_of(network, decided) if chosen else {}
    return replace(decided, kept=tuple(Kept(c.name, c.source, floats[c.name], why[c.name]) for c in chosen))


def floats_of(network, decided: Quantization) -> dict[str, str]:
    """The dtype of each call if it stays in float. Images are run to find it.

    Parameters
    ----------
    network : Network
        The network in float32, whose options give the dtype of those that stay in its range.
    """
    dtype = network.options.keep_dtype
    wide = beyond(network, decided, dtype)
    return {call.name: FLOAT32 if call.name in wide else dtype for call in network.graph.calls}


def beyond(network, decided: Quantization, dtype: str) -> set[str]:
    """The calls whose values or constants may leave a dtype's range; ``network`` is in float32."""
    if dtype == FLOAT32:
        return set()
    graph, limit = equalize.run(network.graph, decided.factors), precision.limit_of(dtype)
    inputs, _ = calibration.images_of(network, network.options)
    largest, values = calibration.measure(graph, inputs, limit)
    above = {value for value, most in values.items() if not most <= limit}
    return {
        call.name
        for found, call in zip(largest, graph.calls, strict=True)
        if not found.value <= limit
        or above.intersection((*call.inputs, call.output))
        or any(np.abs(a).max(initial=0.0) > -dtypes.of(dtype).lowest for a in call.constants.values())
    }
