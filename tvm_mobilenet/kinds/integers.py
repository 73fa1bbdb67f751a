"""The constants with which integer layers end, by name: what is scale and zero point is data, not code.

``scale``  float32: what a sum is multiplied by, one a channel of a layer with weights; of a conversion the scale itself
``ends``   int32: zero point of the data, zero point, lowest and highest value of the output; where a second operand is
           added or multiplied, its zero point, and zero point, lowest and highest value of the sum
``added``  float32: the factors of the layer's own value and of the second operand in the scale of the sum
``table``  int8: the output for each of the 256 values before an activation that is no clamp, or stands by itself
``bias``   int32: of an average, what the zero points of a window make

A copy between int8 and uint8 needs none: the value of a byte is 128 more. ``pixels`` has a table of 256 for each
channel, and nothing else.
"""

from __future__ import annotations

CLAMPS = ("none", "relu", "relu6")  # activations that need no table
TABLE = 256


def constants_of(layer) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and dtypes, beside weight and bias."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    second = layer.second_shape is not None
    if layer.kind == "pool":
        return (
            {"bias": ((1,), "int32"), "scale": ((1,), "float32"), "ends": ((4,), "int32")} if layer.op == "avg" else {}
        )
    if layer.op == "pixels":
        return {"table": ((layer.channels, TABLE), "int8")}
    if layer.weight_shape is not None:
        found["scale"] = ((layer.out_channels,), "float32")
    elif layer.op in ("mul", "scale") or layer.input_dtype == "float32" or layer.output_dtype == "float32":
        found["scale"] = ((1,), "float32")
    found["ends"] = ((8 if second else 4,), "int32")
    if layer.residual != "none" or layer.op in ("add", "sub"):
        found["added"] = ((2,), "float32")
    if layer.activation not in CLAMPS or (layer.copies and layer.activation != "none"):
        found["table"] = ((TABLE,), "int8")
    return found
