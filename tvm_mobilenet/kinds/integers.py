"""The constants of an integer layer's epilogue, by name: scales and zero points are data, not code.

``scale``  float32: the factor of a sum, one for each channel of a layer with weights or of a PReLU; for a conversion,
the scale
``below``  float32: the factors of sums below zero, for a PReLU
``ends``   int32: zero point of the data; zero point, lowest and highest value of the output; with a second operand also
its zero point, and zero point, lowest and highest value of the result
``added``  float32: the factors of the layer's own value and of the second operand, in the scale of the sum
``table``  int8: the output for each of the 256 inputs of an activation that is not a clamp, or is a layer of its own
``bias``   int32: for an average, the sum of a window's zero points, negative; for a mean, a single one

A mean has a ``scale`` for each number of values that a window may have inside the data.

A copy between int8 and uint8 has no constants, since it only adds or subtracts 128. ``pixels`` has only a table of 256
entries for each channel.
"""

from __future__ import annotations

from tvm_mobilenet.kinds.activation import PER_CHANNEL, of_sums

TABLE = 256


def constants_of(layer) -> dict[str, tuple[tuple[int, ...], str]]:
    """The shapes and dtypes of these constants, besides weight and bias."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    second = layer.second_shape is not None
    if layer.op in layer.declared.selects:
        return {}
    if layer.kind == "pool":
        factors = layer.kernel[0] * layer.kernel[1] if layer.op == "mean" else 1
        return {"bias": ((1,), "int32"), "scale": ((factors,), "float32"), "ends": ((4,), "int32")}
    if layer.op == "pixels":
        return {"table": ((layer.channels, TABLE), "int8")}
    if layer.weight_shape is not None:
        found["scale"] = ((layer.out_channels,), "float32")
    elif layer.activation == PER_CHANNEL:
        found["scale"] = ((layer.channels,), "float32")
    elif layer.op in ("mul", "scale", "rescale") or layer.input_dtype == "float32" or layer.output_dtype == "float32":
        found["scale"] = ((1,), "float32")
    if layer.activation == PER_CHANNEL:
        found["below"] = found["scale"]
    found["ends"] = ((8 if second else 4,), "int32")
    if layer.residual != "none" or layer.op in ("add", "sub"):
        found["added"] = ((2,), "float32")
    if not of_sums(layer.activation) or (layer.copies and layer.activation not in ("none", PER_CHANNEL)):
        found["table"] = ((TABLE,), "int8")
    return found
