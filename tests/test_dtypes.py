"""Element types: each row says what numpy says of its name, and what layers name is there."""

import numpy as np
import pytest

from tvm_mobilenet import dtypes, targets
from tvm_mobilenet.layer import ImpossibleLayerError, Layer


@pytest.mark.parametrize("dtype", dtypes.DTYPES.values(), ids=dtypes.DTYPES)
def test_a_row_says_what_numpy_says(dtype):
    known = np.dtype(dtype.name)
    assert dtypes.of(dtype.name) is dtype and dtype.bytes == known.itemsize
    facts = np.finfo(known) if known.kind == "f" else np.iinfo(known) if known.kind != "b" else None
    assert dtype.lowest == (facts.min if facts else False)
    if known.kind == "f":
        assert dtype.rounding == facts.eps / 2 and dtype.smallest == facts.tiny
    else:
        assert dtype.rounding == dtype.smallest == 0
    assert dtypes.of(dtypes.of(dtype.accumulator).accumulator).name == dtype.accumulator, "sums are summed in their own"
    assert dtypes.of(dtype.accumulator).bytes >= dtype.bytes and dtype.bias in dtypes.DTYPES


def test_names_and_tokens_are_told_apart():
    tokens = [dtype.token for dtype in dtypes.DTYPES.values()]
    assert len(set(tokens)) == len(tokens) and set(dtypes.BY_TOKEN) <= set(tokens)
    with pytest.raises(ValueError, match=r"'float8'.*float32"):
        dtypes.of("float8")


@pytest.mark.parametrize("dtype", dtypes.OF_DATA)
def test_a_layer_and_a_core_read_the_row(dtype):
    layer = Layer.parse("pointwise m49 n64 k32 f32 relu6").replace(dtype=dtype)
    row, core = dtypes.of(dtype), targets.load("rpi4").core
    assert Layer.parse(layer.name) == layer and row.token in layer.name.split()
    assert layer.bytes == row.bytes and core.lanes(dtype) == core.vector_bytes // row.bytes
    assert (layer.input_dtype, layer.weight_dtype, layer.output_dtype) == (dtype,) * 3
    assert (layer.accumulator_dtype, layer.bias_dtype) == (row.accumulator, row.bias)


def test_integers_are_summed_and_biased_in_32_bits():
    layer = Layer.parse("pointwise m49 n64 k32 i8")
    assert (layer.accumulator_dtype, layer.bias_dtype, layer.output_dtype) == ("int32", "int32", "int8")


@pytest.mark.parametrize(
    "name, dtypes_",
    [
        ("conv 8x8x3 n32 3x3 nchw f16 reads_f32 relu6", ("float32", "float16", "float16")),
        ("dense m1 n1000 k1024 f16 writes_f32 sums_f32", ("float16", "float32", "float32")),
        ("pointwise m49 n8 k8 f32 reads_f16 writes_f16 add", ("float16", "float32", "float16")),
        ("pool 7x7x8 avg 7x7 f16", ("float16", "float32", "float16")),
        ("softmax 1x1x8 f16 writes_f32", ("float16", "float32", "float32")),
    ],
)
def test_a_layer_may_read_sum_and_write_other_dtypes(name, dtypes_):
    layer = Layer.parse(name)
    assert layer.name == name
    assert (layer.input_dtype, layer.accumulator_dtype, layer.output_dtype) == dtypes_
    assert layer.second_dtype == layer.output_dtype or layer.residual == "none"


@pytest.mark.parametrize(
    "name", ["dense m1 n8 k8 f16 reads_f16", "dense m1 n8 k8 f32 sums_f16", "dense m1 n8 k8 i8 sums_f32"]
)
def test_a_dtype_that_says_nothing_or_too_little_is_refused(name):
    with pytest.raises(ImpossibleLayerError, match=r"layer: (reads|sums) = "):
        Layer.parse(name)


def test_data_has_no_dtype_of_sums():
    with pytest.raises(ImpossibleLayerError, match="dtype = 'int32'"):
        Layer.parse("pointwise m49 n64 k32 f32").replace(dtype="int32")
