"""ONNX files in float16 and bfloat16: they are the networks that they would be in float32."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.support.layer_runner import run_in_torch
from tvm_mobilenet import build, frontend, passes, targets, verify
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.dtypes import of
from tvm_mobilenet.models import registry
from tvm_mobilenet.models.options import ModelOptions

N = helper.make_node
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def draw(*shape):
    values = np.random.default_rng(len(shape)).standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
    return values.astype(np.float16)


def near(path, layers, x):
    """Whether the layers compute what ONNX Runtime does, which rounds each value to float16."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    fed = x.astype(np.float16) if given.type == "tensor(float16)" else x
    expected = session.run(None, {given.name: fed})
    found = run_in_torch(layers, x)
    assert all(y.dtype == np.float32 for y in found) and len(found) == len(expected)
    for y, e in zip(found, expected, strict=True):
        assert y.shape == e.shape and relative(y, e.astype(np.float32)) <= 8 * of("float16").rounding


def form(name):
    """Nodes that read ``c``, of float16, and make ``y``; constants, output's dtype, functions."""
    tensor = numpy_helper.from_array(np.array([0.75], np.float16))
    one = {
        "casts around a resize": [
            N("Cast", ["c"], ["f"], to=FLOAT),
            N("Resize", ["f", "", "s"], ["r"], mode="linear"),
            N("Cast", ["r"], ["h"], to=HALF),
            N("Relu", ["h"], ["y"]),
        ],
        "constants in nodes": [
            N("ConstantOfShape", ["n"], ["k"], value=tensor),
            N("Constant", [], ["q"], value=numpy_helper.from_array(draw(8, 1, 1))),
            N("Mul", ["c", "k"], ["m"]),
            N("Add", ["m", "q"], ["y"]),
        ],
        "a constant that is cast": [
            N("Cast", ["g"], ["k"], to=HALF),
            N("CastLike", ["g", "c"], ["l"]),
            N("Add", ["c", "k"], ["a"]),
            N("Mul", ["a", "l"], ["y"]),
        ],
        "float32 at the end": [N("Clip", ["c", "low", "high"], ["k"]), N("Cast", ["k"], ["y"], to=FLOAT)],
        "a function": [N("Doubled", ["c"], ["y"], domain="own")],
        "a branch": [
            N(
                "If",
                ["yes"],
                ["b"],
                then_branch=helper.make_graph(
                    [N("Add", ["c", "inner"], ["t"])],
                    "then",
                    [],
                    [helper.make_tensor_value_info("t", HALF, None)],
                    [numpy_helper.from_array(draw(8, 1, 1), "inner")],
                ),
                else_branch=helper.make_graph(
                    [N("Neg", ["c"], ["e"])], "else", [], [helper.make_tensor_value_info("e", HALF, None)]
                ),
            ),
            N("Relu", ["b"], ["y"]),
        ],
    }
    constants = {
        "s": np.array([1, 1, 2, 2], np.float32),
        "n": np.array([1], np.int64),
        "g": np.array([0.3], np.float32),
        "low": np.array(-0.5, np.float16),
        "high": np.array(0.5, np.float16),
        "yes": np.array(True),
    }
    read = {i for node in one[name] for i in node.input}
    doubled = helper.make_function(
        "own",
        "Doubled",
        ["a"],
        ["z"],
        [
            N("Constant", [], ["two"], value=numpy_helper.from_array(np.array(2, np.float16))),
            N("Mul", ["a", "two"], ["z"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    kept = {k: v for k, v in constants.items() if k in read}
    return one[name], kept, FLOAT if name == "float32 at the end" else HALF, [doubled] if name == "a function" else []


def file_of(path, nodes, constants, out=HALF, functions=(), given=HALF):
    first = [N("Conv", ["x", "w"], ["c"], "stem")]
    if given == FLOAT:
        first = [N("Cast", ["x"], ["x16"], to=HALF), N("Conv", ["x16", "w"], ["c"], "stem")]
    model = helper.make_model(
        helper.make_graph(
            [*first, *nodes],
            "g",
            [helper.make_tensor_value_info("x", given, (1, 4, 6, 6))],
            [helper.make_tensor_value_info("y", out, None)],
            [numpy_helper.from_array(v, k) for k, v in {"w": draw(8, 4, 3, 3), **constants}.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
        functions=list(functions),
        ir_version=8,
    )
    onnx.save(model, path)
    return path


X = np.random.default_rng(7).standard_normal((1, 4, 6, 6)).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("given", [HALF, FLOAT])
@pytest.mark.parametrize(
    "name",
    [
        "casts around a resize",
        "constants in nodes",
        "a constant that is cast",
        "float32 at the end",
        "a function",
        "a branch",
    ],
)
def test_float16_in_a_file_is_computed_in_float32(name, given, tmp_path):
    path = file_of(tmp_path / "m.onnx", *form(name), given)
    layers = passes.run(frontend.load(path))
    assert not any("astype" in call.layer.name for call in layers.calls)
    near(path, layers, X)


def test_bfloat16_weights_keep_their_values(tmp_path):
    """ONNX Runtime does not run bfloat16 on CPUs, so the weights themselves are compared."""
    path = file_of(tmp_path / "m.onnx", [N("Relu", ["c"], ["y"])], {})
    model = onnx.load(path)
    half = numpy_helper.to_array(model.graph.initializer[0])
    values = torch.from_numpy(half.copy()).bfloat16()
    model.graph.initializer[0].CopyFrom(
        TensorProto(
            name="w",
            data_type=TensorProto.BFLOAT16,
            dims=half.shape,
            raw_data=values.view(torch.int16).numpy().tobytes(),
        )
    )
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.elem_type = TensorProto.BFLOAT16
    onnx.save(model, path)
    found = run_in_torch(passes.run(frontend.load(path)), X)[0]
    due = torch.conv2d(torch.from_numpy(X), values.float()).relu().numpy()
    assert relative(found, due) <= 1e-6


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float16", marks=pytest.mark.full)])
def test_a_file_in_float16_is_verified_in_each_dtype(dtype, tmp_path):
    path = file_of(tmp_path / "m.onnx", *form("casts around a resize"))
    build.build(ModelOptions(model=str(path), dtype=dtype), targets.load("rpi5"), output=tmp_path / "out")
    found = verify.verify(tmp_path / "out")
    assert found.ok and found.outputs[0].relative > 0


@pytest.mark.full
@pytest.mark.parametrize("keep", [False, True])
def test_what_a_converter_to_float16_writes_is_the_network_that_it_was(keep, tmp_path):
    convert = pytest.importorskip("onnxruntime.transformers.float16").convert_float_to_float16
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).half().float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = registry.create("v3-small", 0.25, 32, 7).module
        torch.onnx.export(module, (x,), str(tmp_path / "f.onnx"), dynamo=False, opset_version=17)
    blocked = {"op_block_list": ["HardSwish", "GlobalAveragePool"]} if keep else {}
    whole = onnx.load(tmp_path / "f.onnx")
    onnx.save(convert(whole, keep_io_types=keep, **blocked), tmp_path / "h.onnx")
    half = passes.run(frontend.load(tmp_path / "h.onnx"))
    same = passes.run(frontend.load(tmp_path / "f.onnx"))
    assert [call.layer for call in half.calls] == [call.layer for call in same.calls]
    near(tmp_path / "h.onnx", half, x.numpy())
