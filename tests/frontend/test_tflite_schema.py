"""What is read of TFLite's schema is as the schema has it that LiteRT brings."""

import re

import numpy as np
import pytest

from tvm_mobilenet.frontend import flatbuffer
from tvm_mobilenet.frontend import tflite_schema as ours

FORMS = {"b": np.int8, "i": np.int32, "I": np.uint32, "q": np.int64, "f": np.float32, "?": np.bool_}
NAMES = {
    "multiplier": "depth_multiplier",
    "activation": "fused_activation_function",
    "half_pixel": "half_pixel_centers",
}
NAMES |= {
    "dilation_w": "dilation_w_factor",
    "dilation_h": "dilation_h_factor",
    "dilation_d": "dilation_d_factor",
    "filter_w": "filter_width",
}
NAMES |= {"dilation_d": "dilation_d_factor"}
NAMES |= {"filter_h": "filter_height", "adj_x": "adj_x", "adj_y": "adj_y", "in_type": "in_data_type"}
NAMES |= {"out_type": "out_data_type", "new_shape": "new_shape", "diagonal": "diagonal_recurrent_tensors"}
BODIES = {"Call": "subgraph", "CallOnce": "init_subgraph_index", "StableHLOComposite": "decomposition_subgraph_index"}
BODIES |= {"StablehloScatter": "update_computation_subgraph_index", "StablehloSort": "comparator_subgraph_index"}


@pytest.fixture(scope="module")
def schema():
    return pytest.importorskip("ai_edge_litert.schema_py_generated")


def named(values) -> dict[int, str]:
    return {v: k for k, v in vars(values).items() if isinstance(v, int)}


def test_numbers_of_operators_types_and_options(schema):
    theirs = named(schema.BuiltinOperator)
    assert all(theirs[number] == name for number, name in ours.OPERATORS.items())
    types = named(schema.TensorType)
    assert all(types[number].lower() == name for number, name in ours.TYPES.items())
    activations = named(schema.ActivationFunctionType)
    assert tuple(activations[i] for i in range(len(activations))) == ours.ACTIVATIONS
    assert (schema.Padding.SAME, schema.Padding.VALID) == (ours.SAME, ours.VALID)
    unions = [named(schema.BuiltinOptions), named(schema.BuiltinOptions2)]
    assert all(unions[one.second][one.number] == name for name, one in ours.OPTIONS.items())
    dimensions = schema.DimensionType
    assert (dimensions.DENSE, dimensions.SPARSE_CSR) == (ours.DENSE, ours.COMPRESSED)
    vectors = named(schema.SparseIndexVector)
    assert {k: vectors[k].removesuffix("Vector").lower() for k in ours.INDEX_DTYPES} == ours.INDEX_DTYPES
    assert set(ours.OPTIONS_OF) <= set(ours.OPERATORS.values()) and set(ours.OPTIONS_OF.values()) == set(ours.OPTIONS)


@pytest.mark.parametrize("name", ours.OPTIONS)
def test_options_are_read_as_they_are_written(name, schema):
    """Each field alone is set, and found by its number."""
    import flatbuffers

    for field, (number, form, default) in ours.OPTIONS[name].fields.items():
        made = getattr(schema, f"{name}T")()
        theirs = BODIES.get(name.removesuffix("Options"), "body_subgraph_index") if field == "body" else field
        camel = re.sub(r"_(\w)", lambda m: m[1].upper(), NAMES.get(theirs, theirs))
        before = getattr(made, camel)
        value = [3, 5] if form.startswith("[") else True if form == "?" else 3.0 if form == "f" else 3
        value = {"s": "name", "[?": [True, False]}.get(form, value)
        assert form.startswith("[") or form == "s" or FORMS[form](before) == FORMS[form](default), field
        setattr(made, camel, value)
        builder = flatbuffers.Builder(256)
        builder.Finish(made.Pack(builder), b"TEST")
        table = flatbuffer.root(bytes(builder.Output()), b"TEST")
        if form == "s":
            assert table.text(number, 9) == value, field
        elif form.startswith("["):
            assert table.array(number, FORMS[form[1]]).tolist() == value
        else:
            assert table.number(number, form, default) == value, field


@pytest.mark.parametrize(
    "name, fields",
    [
        ("Model", ours.MODEL),
        ("SubGraph", ours.SUBGRAPH),
        ("SignatureDef", ours.SIGNATURE_DEF),
        ("Tensor", ours.TENSOR),
        ("QuantizationParameters", ours.QUANTIZATION),
        ("Operator", ours.OPERATOR),
        ("SparsityParameters", ours.SPARSITY),
        ("DimensionMetadata", ours.DIMENSION),
        ("OperatorCode", ours.OPERATOR_CODE),
        ("Buffer", ours.BUFFER),
    ],
)
def test_fields_of_tables_have_the_schemas_numbers(name, fields, schema):
    """The generated code has a function a field, which adds it by its number."""
    import inspect

    for field, number in fields.items():
        camel = "".join(part[:1].upper() + part[1:] for part in field.split("_"))
        add = getattr(schema, f"{name}Add{camel}")
        assert re.search(rf"Slot\({number},", inspect.getsource(add)), f"{name}.{field}"
