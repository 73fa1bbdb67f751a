"""ONNX files that come quantized (QDQ): computed by their own whole numbers, or refused in plain words."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support import quantized_files
from tvm_mobilenet.checking import given_layers, network_steps
from tvm_mobilenet.checking.reference import network_outputs
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError, VerificationError
from tvm_mobilenet.models.options import ModelOptions

CHANNELS, OUT = 4, 8


def network(path, **changed):
    """A file with one convolution: its image, weights, bias and output are quantized.

    Parameters
    ----------
    changed : dict
        Arrays in place of those by name; ``skip``: names of nodes to leave out, ``axis``: of the weight.
    """
    rng = np.random.default_rng(0)
    skip, axis = changed.pop("skip", ()), changed.pop("axis", 0)
    arrays = {
        "x_scale": np.array(0.02, np.float32),
        "x_zero": np.array(3, np.int8),
        "w": rng.integers(-127, 128, (OUT, CHANNELS, 3, 3)).astype(np.int8),
        "w_scale": rng.uniform(0.002, 0.01, OUT).astype(np.float32),
        "w_zero": np.zeros(OUT, np.int8),
        "b": rng.integers(-3000, 3000, OUT).astype(np.int32),
        "y_scale": np.array(0.05, np.float32),
        "y_zero": np.array(-7, np.int8),
    }
    arrays |= {k: np.asarray(v) for k, v in changed.items()}
    if "b_scale" not in arrays:
        arrays["b_scale"] = (arrays["x_scale"] * arrays["w_scale"]).astype(np.float32)
    arrays.setdefault("b_zero", np.zeros(arrays["b_scale"].shape, np.int32))
    arrays.setdefault("z_scale", arrays["y_scale"])
    nodes = [
        ("QuantizeLinear", ["x", "x_scale", "x_zero"], "xq", {}),
        ("DequantizeLinear", ["xq", "x_scale", "x_zero"], "xd", {}),
        ("DequantizeLinear", ["w", "w_scale", "w_zero"], "wd", {"axis": axis} if arrays["w_scale"].ndim else {}),
        ("DequantizeLinear", ["b", "b_scale", "b_zero"], "bd", {"axis": 0} if arrays["b_scale"].ndim else {}),
        ("Conv", ["xd", "wd", "bd"], "c", {"pads": [1, 1, 1, 1]}),
        ("QuantizeLinear", ["c", "y_scale", "y_zero"], "yq", {}),
        ("DequantizeLinear", ["yq", "z_scale", "y_zero"], "y", {}),
    ]
    names, made = {}, []
    for op, inputs, output, attributes in nodes:
        inputs = [names.get(i, i) for i in inputs]
        if output in skip:
            names[output] = inputs[0]
        else:
            made.append(helper.make_node(op, inputs, [output], output, **attributes))
    made[-1].output[0] = "y"
    kind = TensorProto.INT8 if "y" in skip and "yq" not in skip else TensorProto.FLOAT
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 6, 6])],
        [helper.make_tensor_value_info("y", kind, [1, OUT, 6, 6])],
        [numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def loaded(path, **options):
    return load_network(ModelOptions(model=str(path), **options))


def in_numpy(path, x: np.ndarray) -> np.ndarray:
    """What the file says, in exact numbers; a unit either way where a sum lies between two."""
    given = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in onnx.load(path).graph.initializer}
    dtype = {i.name: numpy_helper.to_array(i).dtype for i in onnx.load(path).graph.initializer}
    ends = np.iinfo(dtype["x_zero"])
    q = np.clip(np.rint(x / np.float32(given["x_scale"])) + given["x_zero"], ends.min, ends.max) - given["x_zero"]
    each = [-1, 1, 1, 1] if given["w_scale"].ndim else [1] * 4
    w = given["w"] - given["w_zero"].reshape(each)
    padded = np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    total = np.einsum("bchwij,ncij->bnhw", windows, w) + given["b"].reshape(1, -1, 1, 1)
    factor = (given["x_scale"] * given["w_scale"] / given["y_scale"]) * np.ones(OUT)
    ends = np.iinfo(dtype["y_zero"])
    y = np.clip(np.rint(total * factor.reshape(1, -1, 1, 1)) + given["y_zero"], ends.min, ends.max)
    return (y - given["y_zero"]) * given["y_scale"]


U8 = {"x_zero": np.array(140, np.uint8), "y_zero": np.array(121, np.uint8)}
SCALES = np.linspace(0.002, 0.01, OUT, dtype=np.float32)
KINDS = {
    "int8 by channel": {},
    "int8 by tensor": {"w_scale": np.float32(0.005), "w_zero": np.int8(0)},
    "uint8 activations": U8,
    "weights of -128": {"w": np.full((OUT, CHANNELS, 3, 3), -128, np.int8), "y_scale": np.float32(3.0)},
    "weights with zero points": {"w_zero": np.arange(-100, 100, 25, dtype=np.int8)},
    "uint8 weights": {
        **U8,
        "w": np.random.default_rng(1).integers(0, 256, (OUT, CHANNELS, 3, 3)).astype(np.uint8),
        "w_scale": np.float32(0.004),
        "w_zero": np.uint8(17),
    },
    "a channel of zeros": {"w": np.arange(OUT * CHANNELS * 9).reshape(OUT, CHANNELS, 3, 3).astype(np.int8) % 5 * 0},
    "large biases": {"b": np.linspace(-(2**22), 2**22, OUT).astype(np.int32), "y_scale": np.float32(2.0)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_files_own_whole_numbers_are_computed(kind, tmp_path):
    path = network(tmp_path / "q.onnx", **KINDS[kind])
    made = loaded(path)
    assert made.options.dtype == "int8" and made.quantized and network_steps.is_integral(made)
    rng = np.random.default_rng(5)
    for spread in (1.0, 100.0):  # the second clips nearly all of it
        x = (spread * rng.standard_normal((1, CHANNELS, 6, 6))).astype(np.float32)
        (found,) = network_steps.outputs(made, [(x,)])[0]
        unit = float(numpy_helper.to_array(next(i for i in onnx.load(path).graph.initializer if i.name == "y_scale")))
        off = np.rint(np.abs(found - in_numpy(path, x)) / unit)
        assert off.max() <= 1 and (off > 0).sum() <= 1, "but for a sum that lies between two units"
    call = next(c for c in made.layers if c.weight is not None)
    whole = numpy_helper.to_array(next(i for i in onnx.load(path).graph.initializer if i.name == "w")).astype(int)
    zero = numpy_helper.to_array(next(i for i in onnx.load(path).graph.initializer if i.name == "w_zero")).astype(int)
    assert np.array_equal(call.weight, whole - zero.reshape([-1, 1, 1, 1] if zero.ndim else ()))


ODD = {
    "the scale 0": {"x_scale": np.float32(0)},
    "the scale -0.05": {"y_scale": np.float32(-0.05)},
    "the scale nan": {"w_scale": np.where(np.arange(OUT) == 3, np.nan, SCALES).astype(np.float32)},
    "the scale inf": {"x_scale": np.float32(np.inf)},
    "the scale 1e-38": {"y_scale": np.float32(1e-38)},
    "output channels are axis 0": {
        "w": np.ones((OUT, OUT // 2, 3, 3), np.int8),
        "w_scale": np.ones(OUT // 2, np.float32),
        "w_zero": np.zeros(OUT // 2, np.int8),
        "axis": 1,
        "b_scale": np.ones(OUT, np.float32),
    },
    "axis 7 of data": {"axis": 7},
    "3 scales and 3 zero points for 8 channels": {
        "w_scale": SCALES[:3],
        "w_zero": np.zeros(3, np.int8),
        "b_scale": SCALES,
    },
    "8 scales and 2 zero points": {"w_zero": np.zeros(2, np.int8)},
    "the zero point is uint8, the data int8": {"w_zero": np.zeros(OUT, np.uint8)},
    "int16": {"x_zero": np.array(3, np.int16)},
    "a dequantize between them is missing": {"skip": ("xd",)},
    "an output of this network holds integers": {"skip": ("y",)},
    "an activation with a scale a channel": {
        "x_scale": np.full(CHANNELS, 0.02, np.float32),
        "x_zero": np.zeros(CHANNELS, np.int8),
        "b_scale": SCALES,
    },
    "another scale or zero point than the quantize": {"z_scale": np.float32(0.06)},
}


def test_a_network_whose_weights_alone_are_integers_is_one_of_floats(tmp_path):
    path = network(tmp_path / "q.onnx", skip=("xq", "xd", "yq", "y"))
    made = loaded(path)
    assert not made.quantized and {call.layer.dtype for call in made.layers} == {"float32"}
    inputs = made.inputs(2)
    for (ours,), (theirs,) in zip(network_outputs(made, inputs), made.reference(inputs)[0], strict=True):
        assert theirs.std() > 0 and np.abs(ours - theirs).max() <= 1e-5 * theirs.std()


@pytest.mark.parametrize("said", ODD)
def test_what_is_odd_is_refused_in_plain_words(said, tmp_path):
    path = network(tmp_path / "q.onnx", **ODD[said])
    with pytest.raises(TvmMobilenetError, match=said) as e:
        loaded(path)
    assert e.value.hint and "Error" not in str(e.value) and "\n" not in str(e.value).strip().partition("\n  ")[0]


@pytest.mark.parametrize(
    "operator, domain, said",
    [
        ("ConvInteger", "", "dynamically.*--calibrate"),
        ("MatMulNBits", "com.microsoft", "weights only.*--calibrate"),
        ("QLinearConv", "", "QOperator.*QDQ"),
        ("QGemm", "com.microsoft", "QOperator.*QDQ"),
    ],
)
def test_other_ways_of_quantizing_are_told_what_to_do(operator, domain, said, tmp_path):
    model = onnx.load(network(tmp_path / "q.onnx"))
    model.graph.node[4].op_type, model.graph.node[4].domain = operator, domain
    model.opset_import.extend([helper.make_opsetid("com.microsoft", 1)])
    onnx.save(model, tmp_path / "q.onnx")
    with pytest.raises(TvmMobilenetError) as e:
        loaded(tmp_path / "q.onnx")
    assert re.search(said, f"{e.value} {e.value.hint}", re.S)


def test_onnx_runtimes_own_domain_is_read_too(tmp_path):
    model = onnx.load(network(tmp_path / "q.onnx"))
    for node in model.graph.node:
        node.domain = "com.microsoft" if "Linear" in node.op_type else ""
    model.opset_import.extend([helper.make_opsetid("com.microsoft", 1)])
    onnx.save(model, tmp_path / "q.onnx")
    assert network_steps.is_integral(loaded(tmp_path / "q.onnx"))


def test_what_float_computes_is_rounded_as_the_file_says_and_read_in_float(tmp_path):
    """As a last softmax of a quantized network is: each of the three values has a name of its own."""
    path = network(tmp_path / "net.onnx")
    model = onnx.load(path)
    zero, scale = np.array(-128, np.int8), np.array(1 / 255, np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(zero, "s_zero"), numpy_helper.from_array(scale, "s_scale")])
    model.graph.node.extend(
        [
            helper.make_node("Softmax", ["y"], ["s"], "soft", axis=1),
            helper.make_node("QuantizeLinear", ["s", "s_scale", "s_zero"], ["sq"]),
            helper.make_node("DequantizeLinear", ["sq", "s_scale", "s_zero"], ["z"]),
        ]
    )
    model.graph.output[0].name = "z"
    onnx.save(model, path)
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, 6, 6)).astype(np.float32)
    found = loaded(path)
    ((z,),) = network_steps.outputs(found, [(x,)])
    runtime = pytest.importorskip("onnxruntime")
    as_written = runtime.SessionOptions()
    as_written.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (due,) = runtime.InferenceSession(str(path), as_written).run(None, {"x": x})
    assert z.std() > 0 and np.abs(z - due).max() <= 1.01 / 255 and (np.abs(z - due) > 1e-6).mean() < 0.01
    assert found.scores in ("softmax", "value")


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float16"},
        {"calibrate": ("photos",)},
        {"dtype": "int8", "calibration_method": "mse"},
        {"dtype": "int8", "quantization": Path("quantization.json")},
    ],
)
def test_flags_that_such_a_file_has_no_use_for_are_refused(options, tmp_path):
    path = network(tmp_path / "q.onnx")
    with pytest.raises(TvmMobilenetError, match="comes quantized"):
        loaded(path, **options)
    assert loaded(path, dtype="int8").options == loaded(path).options


# ---- whole networks, as ONNX Runtime quantizes them

FAMILIES = {"v1": ("v1", 0.25), "v2": ("v2", 0.35), "v3-small": ("v3-small", 1.0)}
WAYS = {
    "s8": {},
    "u8": {"signed": False, "per_channel": False},
    "u8u8": {"signed": False, "weights": False, "per_channel": False},
}
FEW = [("v1", "s8"), ("v2", "u8u8")]
ALL = [(f, w) for f in FAMILIES for w in WAYS]


@pytest.mark.parametrize("family, way", [p if p in FEW else pytest.param(*p, marks=pytest.mark.full) for p in ALL])
def test_each_layer_computes_what_onnx_runtime_does(family, way, tmp_path):
    """Given its numbers at most one output in ten thousand differs, by one unit; all layers are in int8."""
    size = 32
    source = quantized_files.floating(tmp_path / "f.onnx", *FAMILIES[family], size)
    path = quantized_files.quantized(tmp_path / "q.onnx", source, size, **WAYS[way])
    made = loaded(path)
    assert network_steps.is_integral(made)
    batch = [(x[None],) for x in quantized_files.images(4, size, seed=7)]
    found = given_layers.differences(made, made.whole_numbers(batch))
    weighted = [c for c in made.layers if c.weight is not None]
    assert {c.name for c in weighted} <= {one.name for one in found}, "every layer with weights was compared"
    given_layers.require(found)
    assert max(one.units for one in found) <= 1
    assert all(one.count <= max(1, 1e-4 * one.size) for one in found)
    assert sum(one.count for one in found) <= 1e-4 * sum(one.size for one in found)


def test_a_scale_that_is_off_is_found_and_its_layer_named(tmp_path):
    path = network(tmp_path / "q.onnx")
    made = loaded(path)
    pytest.importorskip("onnxruntime")
    batch = [(x,) for x in np.random.default_rng(0).standard_normal((2, 1, CHANNELS, 6, 6)).astype(np.float32)]
    numbers = made.whole_numbers(batch)
    given_layers.require(given_layers.differences(made, numbers))
    network(path, y_scale=np.float32(0.055))
    with pytest.raises(VerificationError, match=r"layer_001, conv .* \(from c\), differs from the file's runtime"):
        given_layers.require(given_layers.differences(made, made.whole_numbers(batch)))
