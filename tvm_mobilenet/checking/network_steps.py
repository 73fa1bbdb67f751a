"""The exact outputs of a whole network whose kernels round once at each step; a device has to compute the same.

A comparison of float16 with the model's framework measures its rounding, and hides mistakes. Step by step
(`checking.stepped`), layer after layer, every value of the network is defined, and is the same on every CPU.
"""

from __future__ import annotations

import numpy as np

from tvm_mobilenet.checking import reference, stepped
from tvm_mobilenet.errors import VerificationError


def is_exact(network) -> bool:
    """Whether all values of the network are defined to the last digit: no layer has an exponential or a division in a
    dtype that rounds step by step, and only the last layers have another dtype.
    """
    return network.options.dtype != "float32" and all(
        stepped.allowed(call.layer).get("units") == 0 or (call.layer.declared.function and call is network.layers[-1])
        for call in network.layers
    )


def is_integral(network) -> bool:
    """Whether all layers compute in integers, or move them."""
    return all(reference.whole(call.layer) for call in network.layers)


def outputs(network, batch: list[tuple[np.ndarray, ...]], off: float = 0.0) -> list[list[np.ndarray]]:
    """The outputs of a network for each of the inputs, of the outputs' dtypes.

    Parameters
    ----------
    network : Network
    batch : list of tuples of ndarray
        Inputs in the dtypes of the network's inputs.
    off : float
        A relative change of the outputs of float32 layers, alternately up and down. It shows the effect that a CPU's
        own rounding there may have on later layers.
    """
    return [_run(network, inputs, off) for inputs in batch]


def require_equal(network, batch: list, values: list) -> None:
    """Check that the outputs of an integer network equal the definition of its layers, value for value.

    Raises
    ------
    VerificationError
        They are not.
    """
    if not is_integral(network):
        return
    for found, right in zip(values, outputs(network, batch), strict=True):
        for port, one, due in zip(network.signature.outputs, found, right, strict=True):
            if not np.array_equal(one, due):
                raise VerificationError(
                    f"output {port.name}: {int((one != due).sum())} of {due.size} values are not what the layers "
                    "compute",
                    "build again; if it stays, report the network and its options",
                )


def _run(network, inputs: tuple[np.ndarray, ...], off: float) -> list[np.ndarray]:
    ports = network.signature
    values = {port.value: x for port, x in zip(ports.inputs, inputs, strict=True)}
    for call, spent in network.graph.in_order():
        layer = call.layer
        shapes = layer.body.operands if layer.body else (layer.input_shape, layer.second_shape)
        data, *others = (values[value].reshape(shape) for value, shape in zip(call.inputs, shapes, strict=False))
        found = stepped.expected(layer, data=data, **reference.operands_of(call, others))
        if off and layer.dtype == "float32":
            found = found * (1 + off * (1 - 2 * (np.arange(found.size).reshape(found.shape) % 2)))
        values[call.output] = found.astype(layer.output_dtype)
        for value in spent:
            del values[value]
    return [values[port.value].reshape(port.shape) for port in ports.outputs]
