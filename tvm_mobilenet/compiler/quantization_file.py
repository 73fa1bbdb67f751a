"""``quantization.json`` of a build: every scale, factor and shift of an int8 network, and the accuracy of each layer.

It is readable text with one line for each value, and the same bytes on every CPU. ``--quantization FILE`` uses it again
for the same layers with the same weights. A value that does not fit is an error that gives its name and value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.files import json_text, reading
from tvm_mobilenet.files.reading import refusal
from tvm_mobilenet.files.shapes import is_number
from tvm_mobilenet.passes.layer_graph import LayerGraph
from tvm_mobilenet.passes.quantize import DTYPE, Quantization
from tvm_mobilenet.passes.whole_weights import HIGH, LOW

FILE = "quantization.json"
LARGEST = 1e30  # largest step, factor or shift
MOST_BYTES = 1 << 28
SAME_WEIGHTS = 1e-5  # of their magnitude: many times the effect of a CPU's rounding, and of the digits left out


def text_of(quantization: Quantization, graph: LayerGraph | None) -> str:
    """The file's text.

    Parameters
    ----------
    graph : LayerGraph, optional
        The graph in float32, whose layers the file names.
    """
    data = quantization.to_data()
    if graph is not None:
        data = {"network": fingerprint(graph), "weights": weights_of(graph), **data}
    lines = []
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            rows = [f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in value.items()]
            lines.append(f" {json.dumps(key)}: {{\n" + ",\n".join(rows) + "\n }")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def fingerprint(graph: LayerGraph) -> str:
    """A hash of a graph's layers and their connections; `weights_of` covers its weights."""
    told = [(call.name, call.layer.name, call.inputs, call.output) for call in graph.calls]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def weights_of(graph: LayerGraph) -> dict[str, list[float]]:
    """For each constant, such as ``layer_003.weight``, its magnitude and its component along a fixed direction.

    Each has six digits. Other weights differ in them. The same weights, folded on another CPU, may differ in the last
    digit, so a hash would not do.
    """
    found = {}
    for call in graph.calls:
        for name, array in call.constants.items():
            values = array.astype(np.float64).ravel()
            size = float(np.sqrt(np.square(values).sum()))
            along = np.arange(1, values.size + 1, dtype=np.uint64) * 2654435761 % 2**32 / 2.0**31 - 1  # like noise
            part = float((values * along).sum()) / size if size else 0.0
            found[f"{call.name}.{name}"] = [float(f"{size:.6g}"), round(part, 6)]
    return found


def parsed(path: Path) -> dict:
    """The data of a file.

    Raises
    ------
    ValueError
        The content is not a JSON object.
    OSError
        It cannot be read.
    """
    data = json_text.parse(reading.text(path, MOST_BYTES), unique=True)
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    return data


def read(path: str | Path, graph: LayerGraph) -> Quantization:
    """The quantization in ``--quantization FILE``, for a float32 graph.

    Raises
    ------
    TvmMobilenetError
        The file cannot be read, belongs to another network, or has an impossible value.
    """
    flag = f"--quantization {path}"
    if why := refusal(path):
        raise TvmMobilenetError(f"{flag}: {why}", f"give the {FILE} of a build")
    try:
        data = parsed(Path(path))
        if data.get("dtype") != DTYPE:
            raise ValueError(f"dtype is {data.get('dtype')!r}, not {DTYPE!r}")
    except (OSError, ValueError, UnicodeDecodeError) as e:
        raise TvmMobilenetError(f"{flag} is not a {FILE}: {reason(e)}", f"give the {FILE} of a build") from None
    if "network" in data and data["network"] != fingerprint(graph):
        raise TvmMobilenetError(
            f"{flag} is of another network: {_difference(data, graph)}",
            "give that of a build of this network at this width, resolution and batch, or leave out --quantization",
        )
    try:
        if other := _other_weights(data.get("weights", {}), graph):
            raise TvmMobilenetError(
                f"{flag} is of other weights: {other} is another array, its scales fit those that the file was made of",
                "build with these weights without --quantization; to take the scales all the same delete the file's "
                '"weights"',
            )
        _check(data, graph)
        return replace(Quantization.from_data(data), file=str(path))
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        what = f"{e.args[0]} is missing" if isinstance(e, KeyError) else reason(e)
        raise TvmMobilenetError(f"{flag}: {what}", "correct it, or leave out --quantization") from None


def _difference(data: dict, graph: LayerGraph) -> str:
    """The first layer that differs."""
    kept = data.get("layers")
    kept = kept if isinstance(kept, dict) else {}
    for call in graph.calls:
        known = kept.get(call.name)
        if not isinstance(known, dict) or known.get("layer") != call.layer.name:
            there = known.get("layer") if isinstance(known, dict) else "nothing"
            return f"{call.name} is {call.layer.name}, the file has {there}"
    return (
        f"it has {len(kept)} layers, the network {len(graph.calls)}"
        if len(kept) != len(graph.calls)
        else ("its layers are connected otherwise")
    )


def _other_weights(told: dict, graph: LayerGraph) -> str:
    """The first constant that differs from the one in the file; empty if none does, or the file has none."""
    if not isinstance(told, dict):
        raise ValueError("weights is not an object")
    for name, (size, part) in weights_of(graph).items() if told else ():
        one = told.get(name)
        if not isinstance(one, list) or len(one) != 2 or not all(map(is_number, one)):
            raise ValueError(f"weights of {name}: {json.dumps(one)[:80]} is not a magnitude and part")
        if abs(one[0] - size) > SAME_WEIGHTS * size or abs(one[1] - part) > SAME_WEIGHTS:
            return name
    return ""


def _check(data: dict, graph: LayerGraph) -> None:
    """Refuse impossible scales, and names and sizes that do not match the graph."""
    calls = {call.name: call for call in graph.calls}
    makers = {call.output: call for call in graph.calls}
    values = set(graph.readers())
    for key, known in (("scales", values), ("inner", set(calls)), ("shifts", set(calls)), ("factors", set(makers))):
        table = data[key] if key != "factors" else data.get(key, {})
        if not isinstance(table, dict):
            raise ValueError(f"{key} is not an object")
        if odd := sorted(set(table) - known):
            raise ValueError(f"{key} of {odd[0]}: the network has no such {'value' if known is values else 'layer'}")
        for name, one in table.items():
            if key in ("scales", "inner"):
                _check_scale(f"{key} of {name}", one)
            else:
                owner = (calls if key == "shifts" else makers)[name]
                _check_numbers(f"{key} of {name}", one, owner.layer.out_channels, key == "factors")
    if missing := sorted(values - set(data["scales"])):
        raise ValueError(f"scales of {missing[0]} are missing")
    for one in data.get("kept", ()):
        if one["layer"] not in calls:
            raise ValueError(f"kept {one['layer']!r}: the network has no such layer")


def _check_scale(what: str, scale: object) -> None:
    if not isinstance(scale, dict) or set(scale) != {"step", "zero"}:
        raise ValueError(f"{what}: {json.dumps(scale)[:80]} is not a step and zero")
    step, zero = scale["step"], scale["zero"]
    if not is_number(step) or not 0 < step <= LARGEST or step < 1 / LARGEST:
        raise ValueError(f"{what}: step {step!r} is not a number above 0, up to {LARGEST:g}")
    if type(zero) is not int or not LOW <= zero <= HIGH:
        raise ValueError(f"{what}: zero {zero!r} is not a whole number from {LOW} to {HIGH}")


def _check_numbers(what: str, numbers: object, count: int, positive: bool) -> None:
    if not isinstance(numbers, list) or len(numbers) != count:
        there = len(numbers) if isinstance(numbers, list) else json.dumps(numbers)[:40]
        raise ValueError(f"{what}: {there} numbers, the layer has {count} channels")
    for i, x in enumerate(numbers):
        if not is_number(x) or abs(x) > LARGEST or (positive and x < 1 / LARGEST):
            raise ValueError(f"{what}: {x!r} of channel {i} is not a {'factor' if positive else 'finite number'}")
