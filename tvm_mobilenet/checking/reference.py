"""The expected result of a layer: its definition in PyTorch, in float64, with no regard to speed.

This module does not use tiles, packing or schedules, so it cannot repeat a mistake in them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np

from tvm_mobilenet import dtypes, kinds
from tvm_mobilenet.boards.comparison import deviation_of
from tvm_mobilenet.checking import integers
from tvm_mobilenet.kinds import activation
from tvm_mobilenet.kinds.places import Place
from tvm_mobilenet.kinds.windows import computed
from tvm_mobilenet.layer import Layer

UNREAD = 85  # fills memory that no kernel may read, for integers
FLOAT = "float32"
ROUNDING = 2.0**-20  # a share of an output's standard deviation; a build may differ by a few hundred times as much


def reference(
    layer: Layer,
    data: np.ndarray,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    second: np.ndarray | None = None,
    activated: bool = True,
    constants: Sequence[np.ndarray] | Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """The layer's output in float64.

    Parameters
    ----------
    data : ``layer.input_shape`` float, or as it lies in memory, ``layer.input_buffer``
    weight : ``layer.weight_shape`` float, for the kinds that have one; of a fused block, a tuple of them
    bias : (out_channels,) float; of a fused block, a tuple of them
    second : the residual or second operand, if the layer has one: ``layer.output_shape``, or (batch, 1, 1, channels)
        for ``scale``; or as it lies in memory
    activated : bool
        If false, return the value before the activation (a softmax's input), without a residual that is added after it.
    constants : sequence or mapping of ndarray, optional
        The constants of a generic layer, whose ``second`` is a tuple if it has more than two operands. For other
        layers, by name, those besides weight and bias: the ``slopes`` of a PReLU, and the ``pixels`` of a layer that
        reads bytes; data that is already float is used unchanged.

    Returns
    -------
    ndarray
        ``layer.output_shape`` float64
    """
    if layer.body is not None:
        others = second if isinstance(second, tuple) else () if second is None else (second,)
        return layer.body.reference(data, *others, *(constants or ()))
    data = layer.input_place.view(real(layer, data, constants))
    if second is not None:
        second = layer.second_place.view(second)
    if layer.parts:
        last, *operands, own = last_part(layer, data, weight, bias, second, constants)
        return reference(last, *operands, activated, own)
    import torch

    def tensor(a):
        return torch.from_numpy(np.ascontiguousarray(a)).double()

    x = tensor(data)
    x = x if layer.input_layout == "NCHW" else x.permute(0, 3, 1, 2)
    operand = None
    if second is not None and layer.residual == "none":
        operand = tensor(second)
        operand = operand if layer.input_layout == "NCHW" and layer.op != "scale" else operand.permute(0, 3, 1, 2)
    weights = [None if array is None else tensor(array) for array in (weight, bias)]
    y = kinds.of(layer.kind).reference(layer, x, *weights, operand)
    residual = None
    if layer.residual != "none":
        residual = tensor(second)
        residual = residual if layer.output_layout == "NCHW" else residual.permute(0, 3, 1, 2)
    if layer.residual == "before":
        y = y + residual
    if activated:
        y = _applied(final_function(layer), y, slopes_of(layer, constants))
        if layer.residual == "after":
            y = y + residual
    y = y if layer.output_layout == "NCHW" else y.permute(0, 2, 3, 1)
    return y.contiguous().numpy()


def real(layer: Layer, data: np.ndarray, constants) -> np.ndarray:
    """A layer's data; for a layer that reads pixels, the float32 values of its bytes, each rounded once."""
    if not layer.reads_pixels or data.dtype != np.uint8:
        return data
    channel = 1 if layer.input_layout == "NCHW" else 3
    factor, offset = (
        row.astype(np.float64).reshape([-1 if axis == channel else 1 for axis in range(4)])
        for row in constants[_pixels(layer)]
    )
    return (layer.input_place.view(data) * factor + offset).astype(np.float32)  # exact before it is rounded


def _pixels(layer: Layer) -> str:
    return next(name for name in layer.constants if name.rpartition(".")[2] == "pixels")


def _applied(function: str, y, slopes: np.ndarray | None):
    """An activation, or ``softmax``, of a tensor with channels second."""
    import torch

    if function == "softmax":
        return y.softmax(1)
    return activation.definition(function, y, None if slopes is None else torch.from_numpy(slopes))


def slopes_of(layer: Layer, constants: Mapping | None) -> np.ndarray | None:
    """The slopes of a layer's PReLU among its constants; None if it has no PReLU."""
    return constants[activation.SLOPES] if layer.activation == activation.PER_CHANNEL else None


def of_part(constants: Mapping | None, i: int) -> dict[str, np.ndarray]:
    """The constants of one part of a fused block, by the names of the part."""
    own = f"{i}."
    return {name.removeprefix(own): array for name, array in (constants or {}).items() if name.startswith(own)}


def final_function(layer: Layer) -> str:
    """The function that a layer, or a fused block's last part, applies to its sum: an activation, ``softmax`` or
    ``none``.
    """
    last = layer.parts[-1] if layer.parts else layer
    return last.declared.function or last.activation


def apply(function: str, values: np.ndarray, axis: int = -1, slopes: np.ndarray | None = None) -> np.ndarray:
    """An activation, or ``softmax``, of float64 values whose channels are this axis. ``slopes``: of a PReLU."""
    import torch

    moved = torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, axis, 0)[None])).double()
    return np.moveaxis(_applied(function, moved, slopes)[0].numpy(), 0, axis)


def last_part(layer: Layer, data: np.ndarray, weight, bias, second, constants: Mapping | None = None) -> tuple:
    """The last layer of a fused block, and its data, weight, bias, residual and other constants."""
    made = []
    for i, part in enumerate(layer.parts[:-1]):
        own = of_part(constants, i)
        data = reference(part, data.reshape(part.input_shape), weight[i], bias[i], constants=own)
        made.append(data)
    last, own = layer.parts[-1], of_part(constants, len(layer.parts) - 1)
    second = made[-last.back].reshape(last.output_shape) if last.back else second
    return last, data.reshape(last.input_shape), weight[-1], bias[-1], second, own


def network_outputs(network, batch: list[tuple[np.ndarray, ...]]) -> list[list[np.ndarray]]:
    """The outputs of a network in float64, rounded so coarsely that every machine finds the same bits.

    The order of a float64 sum, and with it its last digits, changes with the CPU and the number of threads;
    ``ROUNDING`` of the standard deviation is a million times larger. PyTorch computes a network of the registry. A
    network from a file may have operators without float64, so its layers are computed here, and
    `checking.machine_check` compares them with the framework in float32.

    Parameters
    ----------
    network : Network
    batch : list of tuples of ndarray
        The network's inputs.

    Returns
    -------
    list of lists of ndarray
        The outputs for each of the inputs, of the dtypes of the network's outputs.
    """
    batch, ports = network.real(batch), network.signature.outputs
    if network.model is None:
        found = [_run_layers(network, x) for x in batch]
    else:
        import torch
        from torch.utils._pytree import tree_leaves

        module = copy.deepcopy(network.model.module).double()
        with torch.no_grad():
            raw = [module(*(torch.from_numpy(a).double() for a in x)) for x in batch]
        found = [[t.numpy() for t in tree_leaves(y)] for y in raw]
    return [
        [p.stored(rounded(y, FLOAT)) if p.encoding else rounded(y, p.dtype) for y, p in zip(ys, ports, strict=True)]
        for ys in found
    ]


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values rounded to multiples of a power of two near ``ROUNDING`` of their standard deviation, in a dtype."""
    step = math.ldexp(1.0, math.frexp(deviation_of(values) * ROUNDING)[1])
    return (np.round(values / step) * step).astype(dtype)


def _run_layers(network, inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    graph = network.original or network.graph
    ports = graph.signature
    values = {port.value: x for port, x in zip(ports.inputs, inputs, strict=True)}
    for call in graph.calls:
        layer = call.layer
        shapes = layer.body.operands if layer.body else (layer.input_shape, layer.second_shape)
        data, *others = (values[value].reshape(shape) for value, shape in zip(call.inputs, shapes, strict=False))
        values[call.output] = reference(layer, data, **operands_of(call, others))
    return [values[port.value].reshape(port.shape) for port in ports.outputs]


def integral(layer: Layer) -> bool:
    """Whether a layer computes in integers."""
    return all(dtypes.of(part.dtype).integer for part in layer.parts or (layer,))


def whole(layer: Layer) -> bool:
    """Whether a layer is exact: it computes in integers, or moves bytes."""
    return integral(layer) or (layer.body is not None and layer.output_dtype == "int8")


def operands_of(call, others) -> dict:
    """The operands of a call's layer besides its data, as `reference` and related functions take them."""
    second = (tuple(others) if call.layer.body else others[0]) if others else None
    if integral(call.layer):
        return {"second": second, "constants": dict(call.constants)}
    if call.layer.body:
        return {"second": second, "constants": tuple(call.constants.values())}
    more = {n: a for n, a in call.constants.items() if n.rpartition(".")[2] not in ("weight", "bias")}
    own = {"weight": call.weight, "bias": call.bias, "second": second}
    return own | ({"constants": more} if more else {})


def random_arguments(layer: Layer, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded operands of a layer that keep its output at about unit variance: data, weight, bias, second."""
    rng = np.random.default_rng(seed)
    if integral(layer):
        return integers.random_operands(layer, rng)
    if layer.parts:
        parts = [random_arguments(part, seed + i) for i, part in enumerate(layer.parts)]
        joined = {name: tuple(p[name] for p in parts) for name in ("weight", "bias")}
        given = {f"{i}.{name}": a for i, p in enumerate(parts) for name, a in p.get("constants", {}).items()}
        return {
            "data": parts[0]["data"],
            **joined,
            **({"constants": given} if given else {}),
            **({"second": parts[-1]["second"]} if layer.second_shape else {}),
        }
    arguments = {"data": rng.standard_normal(layer.input_shape)}
    if layer.weight_shape:
        fan_in = layer.channels // layer.groups * layer.kernel[0] * layer.kernel[1]
        arguments["weight"] = rng.standard_normal(layer.weight_shape) / np.sqrt(fan_in)
        arguments["bias"] = rng.standard_normal(computed(layer))
    if layer.second_shape:
        draw = rng.random if layer.op == "scale" else rng.standard_normal
        arguments["second"] = draw(layer.second_shape)
    if layer.reads_pixels:
        arguments["data"] = rng.integers(0, 256, layer.input_shape)
    dtype = {"data": layer.input_dtype, "second": layer.second_dtype, **{n: d for n, (_, d) in layer.constants.items()}}
    made = {name: a.astype(dtype[name]) for name, a in arguments.items()}
    more = {}
    if layer.reads_pixels:
        factor = (0.5 + rng.random(layer.channels)) / 128
        more["pixels"] = np.stack([factor, -128 * factor]).astype(np.float32)
    if activation.SLOPES in dtype:
        more[activation.SLOPES] = (2 * rng.standard_normal(layer.out_channels)).astype(dtype[activation.SLOPES])
    return made | ({"constants": more} if more else {})


def kernel_arguments(layer: Layer, decisions: dict, arguments: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Operands as a kernel takes them, constants packed, a zeroed output last."""
    from tvm_mobilenet import schedules

    second = [in_buffer(arguments["second"], layer.second_place)] if "second" in arguments else []
    packed = schedules.pack(layer, decisions, constants_of(layer, arguments))
    data = in_buffer(arguments["data"], layer.input_place)
    return [data, *packed, *second, np.zeros(layer.output_buffer, layer.output_dtype)]


def constants_of(layer: Layer, arguments: dict) -> dict[str, np.ndarray]:
    """Of a layer's operands those that are constants, by the names of ``layer.constants``."""
    given = arguments.get("constants", {})

    def found(name: str) -> np.ndarray:
        if name in given:
            return given[name]
        part, _, own = name.rpartition(".")
        return arguments[own][int(part)] if part else arguments[own]

    return {name: found(name) for name in layer.constants}


def in_buffer(array: np.ndarray, place: Place) -> np.ndarray:
    """An array in its place in memory. The surrounding memory is NaN, since no kernel may read it."""
    if array.shape == place.buffer:
        return array
    buffer = np.full(place.buffer, np.nan if array.dtype.kind == "f" else UNREAD, array.dtype)
    place.view(buffer)[...] = array
    return buffer
