"""ONNX files: what PyTorch's two exporters write, what TensorFlow's write, and what is no model."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.support.layer_runner import run_in_torch
from tvm_mobilenet import frontend, passes
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import registry

RNG = np.random.default_rng(0)


def check(path, x, batch=1):
    """The layers of a file, after comparing them with onnxruntime."""
    layers = passes.run(frontend.load(path, batch=batch))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: x})
    found = run_in_torch(layers, x)
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape and relative(f, e) <= 1e-4
    return layers.calls


def weights(*shape):
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)


def graph(path, nodes, constants, x_shape=(1, 3, 16, 16), opset=11, outputs=("y",)):
    """An ONNX file of these nodes."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
            [numpy_helper.from_array(v, k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    model.ir_version = 7
    onnx.save(model, path)
    return path


def small_graph(path, **options):
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["y"], "relu")]
    return graph(path, nodes, {"w": weights(4, 3, 3, 3)}, **options)


# ---- PyTorch's exporters


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("v1", {"dynamo": True}, marks=pytest.mark.full),
        ("v3-small", {"dynamo": False, "opset_version": 13, "training": torch.onnx.TrainingMode.PRESERVE}),
        pytest.param("v2", {"dynamo": False, "opset_version": 11}, marks=pytest.mark.full),
        pytest.param("v3-small", {"dynamo": True, "opset_version": 20}, marks=pytest.mark.full),
    ],
    ids=lambda v: "-".join(str(i) for i in v.values()) if isinstance(v, dict) else v,
)
def test_the_registrys_models_exported_by_pytorch_are_the_same_layers(tmp_path, name, options):
    spec = registry.create(name, alpha=0.25, resolution=32, num_classes=7)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(spec.module, (x,), path, do_constant_folding=False, verbose=False, **options)
    calls = check(path, x.numpy())
    direct = passes.run(frontend.from_torch(spec.module, x)).calls
    assert [c.layer for c in calls] == [c.layer for c in direct]
    for a, b in zip(calls, direct, strict=True):
        if a.weight is not None:
            np.testing.assert_allclose(a.weight, b.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_dynamic_batch_is_fixed(tmp_path, batch):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    path, x = tmp_path / "model.onnx", torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), path, dynamo=False, dynamic_axes={"x": {0: "n"}}, input_names=["x"])
    calls = check(path, RNG.standard_normal((batch, 3, 8, 8)).astype(np.float32), batch)
    assert calls[0].layer.batch == batch and len(calls) == 2


def test_several_outputs_and_sources(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "stem/conv"),
        helper.make_node("Relu", ["c"], ["y"], "stem/relu"),
        helper.make_node("GlobalAveragePool", ["y"], ["z"], "pool"),
    ]
    path = graph(tmp_path / "m.onnx", nodes, {"w": weights(4, 3, 3, 3)}, outputs=("y", "z"))
    calls = check(path, weights(1, 3, 16, 16))
    assert [port.name for port in passes.run(frontend.from_onnx(path)).signature.outputs] == ["y", "z"]
    assert calls[0].source == "stem/conv"


# ---- TensorFlow's exporters


@pytest.mark.parametrize("separate_pad", [False, True])
@pytest.mark.parametrize("nhwc_input", [False, True])
def test_files_as_tensorflows_exporters_write_them(tmp_path, separate_pad, nhwc_input):
    """Asymmetric pads of stride-2 layers, batch norm unfolded, NHWC at the ends with transposes."""
    nodes, constants = [], {}

    def add(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def constant(name, value):
        constants[name] = np.asarray(value)
        return name

    def conv(x, name, n, c, k, stride, groups=1):
        pads = [0, 0, 1, 1] if stride == 2 else [k // 2] * 4
        if separate_pad and stride == 2:
            x = add("Pad", [x, constant(name + "_pads", np.array([0, 0, 0, 0, 0, 0, 1, 1]))], name + "_pad")
            pads = [0] * 4
        attributes = {"strides": [stride] * 2, "pads": pads, "group": groups, "kernel_shape": [k, k]}
        x = add("Conv", [x, constant(name + "_w", weights(n, c // groups, k, k))], name, **attributes)
        norm = [constant(f"{name}_{i}", np.abs(weights(n)) + (i in "gv")) for i in "gbmv"]
        x = add("BatchNormalization", [x, *norm], name + "_bn", epsilon=1e-3)
        bounds = [constant("zero", np.float32(0)), constant("six", np.float32(6))]
        return add("Clip", [x, *bounds], name + "_relu6")

    x = add("Transpose", ["x"], "nchw", perm=[0, 3, 1, 2]) if nhwc_input else "x"
    x = conv(x, "stem", 8, 3, 3, 2)
    x = conv(x, "dw", 8, 8, 3, 2, groups=8)
    x = conv(x, "pw", 12, 8, 1, 1)
    x = add("Transpose", [x], "nhwc", perm=[0, 2, 3, 1])
    x = add("ReduceMean", [x], "mean", axes=[1, 2], keepdims=0)
    x = add("MatMul", [x, constant("fc", weights(12, 5))], "matmul")
    x = add("Add", [constant("fc_b", weights(5)), x], "bias")
    add("Softmax", [x], "y", axis=1)
    shape = (1, 16, 16, 3) if nhwc_input else (1, 3, 16, 16)
    path = graph(tmp_path / "tf.onnx", nodes, constants, shape)
    names = [c.layer.name for c in check(path, weights(*shape))]
    layout = "" if nhwc_input else "nchw "
    assert names == [
        f"conv 16x16x3 n8 3x3 s2 p0,0,1,1 {layout}f32 relu6",
        "depthwise 8x8x8 3x3 s2 p0,0,1,1 f32 relu6",
        "pointwise m16 n12 k8 f32 relu6",
        "pool 4x4x12 avg 4x4 f32",
        "dense m1 n5 k12 f32",
        "softmax 1x1x5 f32",
    ]


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(tmp_path, auto_pad):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv", strides=[2, 2], auto_pad=auto_pad)]
    (call, *_) = check(graph(tmp_path / "m.onnx", nodes, {"w": weights(4, 3, 3, 3)}), weights(1, 3, 16, 16))
    expected = {"SAME_UPPER": (0, 0, 1, 1), "SAME_LOWER": (1, 1, 0, 0), "VALID": (0, 0, 0, 0)}[auto_pad]
    assert call.layer.padding == expected


@pytest.mark.parametrize(("opset", "op"), [(11, "HardSigmoid"), (14, "HardSwish"), (13, "Clip")])
def test_activations_as_onnx_writes_them(tmp_path, opset, op):
    if op == "HardSigmoid":
        tail = [helper.make_node("HardSigmoid", ["c"], ["s"], alpha=1 / 6), helper.make_node("Mul", ["c", "s"], ["y"])]
    elif op == "HardSwish":
        tail = [helper.make_node("HardSwish", ["c"], ["y"])]
    else:
        tail = [helper.make_node("Add", ["c", "three"], ["a"]), helper.make_node("Clip", ["a", "zero", "six"], ["b"]),
                helper.make_node("Mul", ["c", "b"], ["d"]), helper.make_node("Div", ["d", "six"], ["y"])]  # fmt: skip
    constants = {"w": weights(4, 3, 3, 3), "zero": np.float32(0), "six": np.float32(6), "three": np.float32(3)}
    path = graph(
        tmp_path / "m.onnx", [helper.make_node("Conv", ["x", "w"], ["c"]), *tail], constants, opset=max(opset, 11)
    )
    calls = check(path, 3 * weights(1, 3, 16, 16))
    assert [c.layer.activation for c in calls] == ["hardswish"]


def test_shapes_computed_in_the_graph(tmp_path):
    """Flatten as older exporters write it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n"], ["n1"], axes=[0]),
        helper.make_node("Concat", ["n1", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["c", "target"], ["f"]),
        helper.make_node("Gemm", ["f", "fc", "b"], ["y"], transB=1),
    ]
    constants = {"w": weights(4, 3, 3, 3), "zero": np.int64(0), "minus": np.array([-1]), "fc": weights(5, 784),
                 "b": weights(5)}  # fmt: skip
    path = graph(tmp_path / "m.onnx", nodes, constants, x_shape=("N", 3, 16, 16))
    assert [c.layer.kind for c in check(path, weights(2, 3, 16, 16), batch=2)] == ["conv", "dense"]


# ---- what is refused


def test_all_unsupported_operators_are_listed(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "stem"),
        helper.make_node("Concat", ["c", "c"], ["d"], "join", axis=1),
        helper.make_node("Resize", ["d", "", "scales"], ["e"], "grow"),
        helper.make_node("RandomNormalLike", ["e"], ["f"], "sum"),
        helper.make_node("Tanh", ["f"], ["g"], "bend"),
        helper.make_node("RandomNormalLike", ["g"], ["y"], "again"),
    ]
    constants = {"w": weights(4, 3, 3, 3), "scales": np.array([1, 1, 2, 2], np.float32)}
    with pytest.raises(TvmMobilenetError) as e:
        passes.run(frontend.from_onnx(graph(tmp_path / "m.onnx", nodes, constants)))
    for part in ("2 operators are", "at sum", "and 1 more", "[1, 8, 28, 28]"):
        assert part in str(e.value), str(e.value)


def test_files_that_are_no_model_are_refused(tmp_path):
    whole = small_graph(tmp_path / "whole.onnx").read_bytes()
    for name, content, message in [
        ("empty.onnx", b"", "is empty"),
        ("text.onnx", b"hello, I am a text file, and no model at all", "not an ONNX model|not a whole"),
        ("cut.onnx", whole[: len(whole) // 2], "not a whole|not an ONNX"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TvmMobilenetError, match=message):
            frontend.load(tmp_path / name)
    with pytest.raises(TvmMobilenetError, match="no such file"):
        frontend.load(tmp_path / "missing.onnx")


def test_external_data_that_is_missing_is_named(tmp_path):
    model = onnx.load(small_graph(tmp_path / "whole.onnx"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    with pytest.raises(TvmMobilenetError, match=r"m\.data"):
        frontend.load(tmp_path / "m.onnx")


def test_an_input_of_open_size_is_refused(tmp_path):
    with pytest.raises(TvmMobilenetError, match="not fixed"):
        frontend.load(small_graph(tmp_path / "m.onnx", x_shape=(1, 3, "h", "w")))


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Concat", ["x", "x"], ["y"], "join"), "Concat at join lacks its attribute axis"),
        (helper.make_node("MaxPool", ["x"], ["y"], "pool"), "MaxPool at pool lacks its attribute kernel_shape"),
        (helper.make_node("Cast", ["x"], ["y"]), "Cast at y lacks its attribute to"),
        (helper.make_node("Conv", ["x"], ["y"], "conv"), "Conv at conv lacks 1 of its 2 inputs"),
    ],
)
def test_what_a_node_lacks_is_named(node, words, tmp_path):
    with pytest.raises(TvmMobilenetError, match=words):
        frontend.load(graph(tmp_path / "m.onnx", [node], {}))


def test_an_opset_that_onnx_does_not_know_is_refused(tmp_path):
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(TvmMobilenetError, match=f"opset {newest + 1}; onnx .* up to {newest}"):
        frontend.load(small_graph(tmp_path / "m.onnx", opset=newest + 1))


def test_missing_initialisers_are_named(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "stem"),
        helper.make_node("Conv", ["c", "w2"], ["y"], "second"),
    ]
    with pytest.raises(TvmMobilenetError, match=r"w2 \(read by Conv second\)"):
        frontend.load(graph(tmp_path / "m.onnx", nodes, {"w": weights(4, 3, 3, 3)}))
