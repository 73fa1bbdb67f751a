"""A whole network as its kernels compute it, where these round once at each step: what a device has to compute too.

Against the model's framework, float16 says how much its rounding changes, and little of mistakes. Computed step by step
(`checking.stepped`), layer after layer, every value of the network is known, on every CPU the same.
"""

from __future__ import annotations

import numpy as np

from tvm_mobilenet.checking import reference, stepped


def is_exact(network) -> bool:
    """Whether all that the network computes is known to the last digit: no layer has an exponential or a division in a
    dtype that rounds step by step, and no layer but the last ones is of another dtype."""
    return network.options.dtype != "float32" and all(
        stepped.allowed(call.layer).get("units") == 0 or (call.layer.declared.function and call is network.layers[-1])
        for call in network.layers
    )


def outputs(network, batch: list[tuple[np.ndarray, ...]]) -> list[list[np.ndarray]]:
    """The outputs of a network for each of the inputs, of the outputs' dtypes.

    Parameters
    ----------
    network : Network
    batch : list of tuples of ndarray
        Of the inputs' dtypes.
    """
    return [_run(network, inputs) for inputs in batch]


def _run(network, inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    ports = network.signature
    values = {port.value: x for port, x in zip(ports.inputs, inputs, strict=True)}
    left = network.graph.readers()
    for call in network.layers:
        layer = call.layer
        shapes = layer.body.operands if layer.body else (layer.input_shape, layer.second_shape)
        data, *others = (values[value].reshape(shape) for value, shape in zip(call.inputs, shapes, strict=False))
        found = stepped.expected(layer, data=data, **reference.operands_of(call, others))
        values[call.output] = found.astype(layer.output_dtype)
        for value in call.inputs:
            left[value] -= 1
            if not left[value]:
                del values[value]
    return [values[port.value].reshape(port.shape) for port in ports.outputs]
