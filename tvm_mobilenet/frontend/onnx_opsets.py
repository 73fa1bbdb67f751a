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
_ROI_CHANGED = 16  # RoiAlign's positions
NEWEST = 23  # whose attributes TVM's importer and converters of ours read


def of(model: onnx.ModelProto) -> int:
    """The opset of a model's standard operators."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def check(model: onnx.ModelProto, path: Path) -> None:
    """Refuse an opset that the installed onnx does not know, and nodes that lack what their opset requires of them.

    TVM's importer takes defaults for both, which need not be meant.

    Raises
    ------
    TvmMobilenetError
        The message names the node and what it lacks.
    """
    opset, newest = of(model), onnx.defs.onnx_opset_version()
    if opset > newest:
        raise TvmMobilenetError(
            f"{path}: opset {opset}; onnx {onnx.__version__}, which is installed, knows opsets up to {newest}",
            f"export it again with opset_version={newest} or an older one, or install a newer onnx",
        )
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, "")
        except onnx.defs.SchemaError:
            continue  # it came with a later opset: it is reported as an operator without a layer
        given = {attribute.name for attribute in node.attribute}
        changed = {a.name for a in node.attribute if not _is_default(a, schema)}
        if opset > NEWEST and (newer := changed - known_attributes(node.op_type, opset)):
            raise TvmMobilenetError(
                f"{path}: {node.op_type} at {node.name or ', '.join(node.output)} has {', '.join(sorted(newer))}, of "
                f"opset {opset}, which no layer computes; opsets up to {NEWEST} are known",
                f"export the model again with opset_version={NEWEST}",
            )
        lacks = [f"its attribute {a.name}" for a in schema.attributes.values() if a.required and a.name not in given]
        if len(node.input) < schema.min_input:
            lacks.append(f"{schema.min_input - len(node.input)} of its {schema.min_input} inputs")
        if lacks:
            raise TvmMobilenetError(
                f"{path}: {node.op_type} at {node.name or ', '.join(node.output)} lacks {lacks[0]}, which opset "
                f"{opset} requires",
                "mend the program that wrote it: onnx.checker.check_model names such nodes too",
            )


def _is_default(attribute: onnx.AttributeProto, schema: onnx.defs.OpSchema) -> bool:
    own = schema.attributes.get(attribute.name)
    if own is None or not own.default_value.type:
        return False
    return helper.get_attribute_value(attribute) == helper.get_attribute_value(own.default_value)


def known_attributes(operator: str, opset: int) -> set[str]:
    """The names of attributes of an operator that converters read: of later opsets than `NEWEST` those that it had."""
    try:
        return set(onnx.defs.get_schema(operator, min(opset, NEWEST), "").attributes)
    except onnx.defs.SchemaError:  # it is newer: it has a layer, or is reported as an operator without one
        return set(onnx.defs.get_schema(operator, opset, "").attributes)


def converted(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with opset `OLDEST` or a later one. ``path`` is for messages.

    Raises
    ------
    TvmMobilenetError
        ONNX cannot convert it.
    """
    opset = of(model)
    _with_old_defaults(model, opset)
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


def _with_old_defaults(model: onnx.ModelProto, opset: int) -> None:
    """Write down an attribute whose default has changed since, in place."""
    for node in model.graph.node if opset < _ROI_CHANGED else ():
        name = "coordinate_transformation_mode"
        if node.op_type == "RoiAlign" and not any(a.name == name for a in node.attribute):
            node.attribute.append(helper.make_attribute(name, "output_half_pixel"))
