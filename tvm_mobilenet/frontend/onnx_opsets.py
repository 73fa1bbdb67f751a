"""Files of ONNX's opsets before 11, converted to it.

ONNX's own converter leaves one thing out: a Resize of opset 10, and an Upsample, take the value at ``i / scale``, which
is no longer the default.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from tvm_mobilenet.errors import TvmMobilenetError, reason

OLDEST = 11


def of(model: onnx.ModelProto) -> int:
    """The opset of a model's standard operators."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def converted(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with opset `OLDEST` or a later one. ``path`` is for messages.

    Raises
    ------
    TvmMobilenetError
        ONNX cannot convert it.
    """
    opset = of(model)
    if opset >= OLDEST:
        return model
    try:
        new = onnx.version_converter.convert_version(model, OLDEST)
    except Exception as e:  # an invalid graph can fail in a hundred places
        raise TvmMobilenetError(
            f"{path}: opset {opset}; {OLDEST} and newer are supported, and ONNX cannot convert it: {reason(e)[:200]}",
            f"export it again with opset {OLDEST + 2}",
        ) from e
    for node in new.graph.node:
        given = {attribute.name for attribute in node.attribute}
        if node.op_type == "Resize" and "coordinate_transformation_mode" not in given:
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
    return new
