"""`--keep-float`: layers of an int8 network that stay in float, what lies between, and that all of it is right."""

from dataclasses import replace

import pytest

from tests.support import modules, quantized_files
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.compiler import kept_float, model_files, quantization
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.evaluation import kernels
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.passes import precision
from tvm_mobilenet.passes.quantize import Quantization


def options(names: str | None, dtype: str = "float16") -> ModelOptions:
    return replace(modules.tiny_options(), dtype="int8", keep_float=names, keep_dtype=dtype)


@pytest.fixture(scope="module")
def plain():
    """The network of five layers: conv, depthwise, pointwise, pool, dense."""
    network = load_network(options(None))
    assert [call.layer.kind for call in network.original.calls] == ["conv", "depthwise", "pointwise", "pool", "dense"]
    return network


def kept(plain, names: str, dtype: str = "float16") -> list[str]:
    """The calls of the network that keeps these in float, each with its dtypes."""
    start = replace(plain, graph=plain.original, options=options(names, dtype))
    graph = kept_float.decide(start, plain.precision).applied(plain.original)
    return [f"{c.name} {c.layer.input_dtype}>{c.layer.dtype}>{c.layer.output_dtype}" for c in graph.calls]


def test_a_layer_in_float_has_conversions_around_it(plain):
    assert kept(plain, "layer_001", "float32") == [
        "input_0_i8 float32>int8>int8",
        "layer_000 int8>int8>int8",
        "layer_000_f32 int8>int8>float32",
        "layer_001 float32>float32>float32",
        "layer_001_i8 float32>int8>int8",
        "layer_002 int8>int8>int8",
        "layer_003 int8>int8>int8",
        "layer_004 int8>int8>float32",
    ]


def test_neighbours_in_float16_share_values_of_float16(plain):
    found = kept(plain, "layer_001,layer_002")
    assert "layer_001 float32>float16>float16" in found and "layer_002 float16>float16>float32" in found
    assert sum("int8>int8>float32" in line for line in found) == 2, "one conversion before them, and the scores"


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        ("layer_00[12]", {1, 2}),
        ("depthwise*", {1}),
        ("dense m1 n16 k64 f32", {4}),  # as a build in float32 prints it
        ("*k64 i8*", {4}),  # as one in int8 does
        ("layer_000,pool*", {0, 3}),
    ],
)
def test_layers_are_named_as_they_are_printed(plain, names, layers):
    found = kept_float.named(replace(plain, graph=plain.original, options=options(names)), plain.precision)
    assert {int(name.removeprefix("layer_")) for name in found} == layers
    source = plain.original.calls[1].source
    assert kept_float.named(replace(plain, graph=plain.original, options=options(source)), plain.precision) == (
        "layer_001",
    )


def test_a_name_of_no_layer_is_refused(plain):
    with pytest.raises(TvmMobilenetError, match=r"--keep-float: no layer is called 'layer_0O1'\n.*layer_001"):
        kept(plain, "layer_0O1")


def test_a_name_of_no_layer_is_refused_before_images_run(monkeypatch):
    """Calibration takes a minute; what names a layer's shape in int8 is known after it, and not refused before."""

    class Ran(Exception):
        pass

    def run(network):
        raise Ran

    monkeypatch.setattr(quantization, "decide", run)
    for names, error in (
        ("layer_0O1", TvmMobilenetError),
        ("layer_001,dens?", TvmMobilenetError),
        ("layer_001,dens*", Ran),
        ("*k64 i8*", Ran),
    ):
        with pytest.raises(error):
            load_network(options(names))


def test_what_leaves_the_range_of_float16_stays_in_float32(plain, monkeypatch):
    monkeypatch.setattr(precision, "HEADROOM", 1e8)
    assert "layer_001 float32>float32>float32" in kept(plain, "layer_001")


@pytest.mark.parametrize("target", ["rpi5", pytest.param("rpi4", marks=pytest.mark.full)])
def test_it_is_built_verified_and_opened_again(target, tmp_path):
    target = targets.load(target)
    dtype = "float16" if target.computes("float16") else "float32"
    network = load_network(options("layer_001,layer_002", dtype))
    build.build(network.options, target, output=tmp_path, network=network)
    result = verify.verify(tmp_path, network=network)
    result.require()
    assert len(result.layers) == len(network.layers) > 6, "conversions are layers like any other"
    again = model_files.from_build(built.read(tmp_path))
    assert again.decided == network.precision and again.keep_float == "layer_001,layer_002"
    assert [k.dtype for k in again.decided.kept] == [dtype] * 2 and load_network(
        again
    ).graph.counts == network.graph.counts
    place = kernels.place_of(target, kernels.dtypes_of(network))
    assert place == ("host" if dtype == "float32" or targets.load("host").computes(dtype) else "virtual") or (
        targets.load("host").architecture == target.architecture
    )
    assert Quantization.from_data(network.precision.to_data() | {"kept": []}).kept == ()


def test_layers_of_a_network_that_comes_quantized_stay_in_float_too(tmp_path):
    """What they write is rounded as the file says; all calls have names of their own, by which a build finds them."""
    source = quantized_files.floating(tmp_path / "float.onnx", "v1", 0.25, 32)
    file = quantized_files.quantized(tmp_path / "int8.onnx", source, 32)
    given = ModelOptions(model=str(file), keep_float="layer_00[2-4]", keep_dtype="float32")
    network = load_network(given)
    names = [call.name for call in network.layers]
    assert len(set(names)) == len(names) and {k.layer for k in network.precision.kept} >= {"layer_003"}
    kinds = {call.name: call.layer.dtype for call in network.layers}
    assert kinds["layer_003"] == "float32" and kinds["layer_005"] == "int8"


@pytest.mark.full
@pytest.mark.parametrize("target, family", [("rpi5", "v1"), ("rpi4", "v2"), ("rpi5", "v3-small")])
def test_every_other_layer_of_each_family(family, target, tmp_path):
    """Residuals, squeeze-and-excite and tables between int8 and float."""
    target = targets.load(target)
    size = {"resolution": 32, "alpha": 0.25, "classes": 10} if family == "v1" else {"resolution": 64, "alpha": 0.35}
    dtype = "float16" if target.computes("float16") else "float32"
    given = ModelOptions(model=family, dtype="int8", keep_float="*[02468]", keep_dtype=dtype, **size)
    network = load_network(given)
    build.build(given, target, output=tmp_path, network=network)
    verify.verify(tmp_path, network=network, count=1).require()
