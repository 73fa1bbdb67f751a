"""Sizes that a file leaves open are fixed by --batch and --resolution, or the flag is refused: never another size."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.export import Dim

from tests.support.layer_runner import run_in_torch
from tvm_mobilenet import build, frontend, passes, verify
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import sizes
from tvm_mobilenet.models.options import ModelOptions

RNG = np.random.default_rng(0)


def weights(*shape):
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)


def onnx_file(path, shape, last=False, channels=3, depthwise=False):
    """Convolution, a reshape to positions and back whose targets the graph computes, pool, classifier."""
    node, constants = helper.make_node, {}

    def constant(name, value):
        constants[name] = np.asarray(value)
        return name

    x, nodes = "x", []
    if last:
        nodes.append(node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]))
        x = "nchw"
    nodes.append(node("Mul", [x, constant("scale", np.float32(0.5))], ["scaled"]))
    first = weights(6, 1 if depthwise else channels, 3, 3)
    groups = channels if depthwise else 1
    nodes.append(
        node("Conv", ["scaled", constant("w", first)], ["c"], "conv", pads=[1] * 4, strides=[2, 2], group=groups)
    )
    nodes.append(node("Relu", ["c"], ["r"]))
    nodes.append(node("Shape", ["r"], ["s"]))
    for i, part in enumerate("nchw"):
        nodes.append(node("Gather", ["s", constant(f"i{i}", np.array([i]))], [f"s{part}"], axis=0))
    nodes.append(node("Mul", ["sh", "sw"], ["positions"]))
    nodes.append(node("Concat", ["sn", "sc", "positions"], ["flat_shape"], axis=0))
    nodes.append(node("Reshape", ["r", "flat_shape"], ["flat"]))
    nodes.append(node("Concat", ["sn", "sc", "sh", "sw"], ["whole_shape"], axis=0))
    nodes.append(node("Reshape", ["flat", "whole_shape"], ["whole"]))
    nodes.append(node("GlobalAveragePool", ["whole"], ["p"]))
    nodes.append(node("Flatten", ["p"], ["f"]))
    nodes.append(node("Gemm", ["f", constant("fc", weights(5, 6)), constant("b", weights(5))], ["y"], transB=1))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def compared(path, shape, **options):
    """The layers of a file that takes ``shape``, after comparing them with its own framework."""
    layers = passes.run(frontend.load(path, **options))
    assert layers.signature.inputs[0].shape == shape
    x = RNG.standard_normal(shape).astype(np.float32)
    if path.suffix == ".onnx":
        expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    else:
        expected = torch.export.load(path).module()(torch.from_numpy(x)).detach().numpy()
    (found,) = run_in_torch(layers, x)
    assert found.shape == expected.shape and relative(found, expected) <= 1e-4
    return layers.calls


# ---- ONNX


@pytest.mark.parametrize(
    ("shape", "options", "fixed"),
    [
        (("N", 3, 32, 32), {}, (1, 3, 32, 32)),
        (("N", 3, 32, 32), {"batch": 3}, (3, 3, 32, 32)),
        ((2, 3, "height", "any name, of any kind"), {"size": (32, 48)}, (2, 3, 32, 48)),
        (("unk__1", 3, "unk__2", "unk__3"), {"size": (33, 31), "batch": 2}, (2, 3, 33, 31)),
        ((None, 3, None, None), {"size": (32, 32)}, (1, 3, 32, 32)),
        (("a", "b", "c", "d"), {"size": (24, 40), "batch": 2}, (2, 3, 24, 40)),
        (None, {"size": (24, 40), "batch": 2}, (2, 3, 24, 40)),
        ((-1, 3, -1, -1), {"size": (24, 24)}, (1, 3, 24, 24)),
        ((1, 3, 32, "w"), {"size": (32, 56)}, (1, 3, 32, 56)),
        ((1, 3, 32, 32), {"size": (32, 32), "batch": 1}, (1, 3, 32, 32)),
        ((1, 3, "s", "s"), {"size": (40, 40)}, (1, 3, 40, 40)),
        ((1, 3, "8*h", "8*w"), {"size": (40, 24)}, (1, 3, 40, 24)),
        (("?", 3, "?", "?"), {"size": (24, 40)}, (1, 3, 24, 40)),  # as Paddle's converter leaves them without a name
    ],
)
def test_an_onnx_file_is_fixed_and_computes_the_same(tmp_path, shape, options, fixed):
    calls = compared(onnx_file(tmp_path / "m.onnx", shape), fixed, **options)
    assert [c.layer.kind for c in calls[-2:]] == ["pool", "dense"] and calls[0].layer.batch == fixed[0]


@pytest.mark.parametrize(
    ("shape", "channels", "fixed"),
    [
        (("N", "h", "w", 3), 3, (2, 24, 40, 3)),
        (("N", "h", "w", 1), 1, (2, 24, 40, 1)),
        (("N", None, None, None), 6, (2, 24, 40, 6)),
        (None, 3, (2, 24, 40, 3)),
        (("N", 24, "w", 3), 3, (2, 24, 40, 3)),
    ],
)
def test_height_and_width_are_where_the_graph_has_them(tmp_path, shape, channels, fixed):
    """Channels last: the transpose before the first convolution tells, whatever ``--layout`` says."""
    path = onnx_file(tmp_path / "m.onnx", shape, last=True, channels=channels, depthwise=channels == 6)
    compared(path, fixed, size=(24, 40), batch=2)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((1, 3, 32, 32), {"batch": 4}, r"--batch 4: .* is for 1x3x32x32.*\n.*leave out --batch"),
        ((4, 3, 32, 32), {"batch": 1}, r"--batch 1: .* is for 4x3x32x32"),
        ((1, 3, 32, 32), {"size": (64, 64)}, r"--resolution 64: .* is for 1x3x32x32.*\n.*leave out --resolution"),
        (("N", 3, 32, 32), {"size": (64, 64)}, r"--resolution 64: .*height or width that is fixed"),
        ((1, 3, 32, "w"), {"size": (48, 56)}, r"--resolution 48x56: .* is for 1x3x32x'w'"),
        ((1, 3, "h", "w"), {}, r"not fixed: \(1, 3, 'h', 'w'\).*\n.*--resolution 224"),
        (None, {}, r"not fixed: \(1, 3, '\?', '\?'\)"),
        ((1, 3, "s", "s"), {"size": (40, 48)}, "'s', also stands for a dimension that is 40"),
        (("s", 3, "s", "w"), {"size": (40, 48), "batch": 2}, "'s', also stands for a dimension that is 2"),
        ((1, 3, "8*h", "8*w"), {"size": (40, 28)}, "the width of 'x' in .* can be 1 or more, a multiple of 8, not 28"),
    ],
)
def test_another_size_than_asked_for_is_never_built(tmp_path, shape, options, words):
    with pytest.raises(TvmMobilenetError, match=words) as e:
        frontend.load(onnx_file(tmp_path / "m.onnx", shape), **options)
    assert e.value.exit_code == 2 and str(tmp_path / "m.onnx") in str(e.value)


def test_a_size_at_which_the_graph_does_not_work_is_refused(tmp_path):
    """The classifier has weights for one size of map: the file says 'any', and means one."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "fc"], ["y"], "classifier", transB=1),
    ]
    constants = {"w": weights(4, 3, 3, 3), "fc": weights(5, 4 * 6 * 6)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, "h", "w"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    compared(path, (1, 3, 8, 8), size=(8, 8))
    with pytest.raises(TvmMobilenetError, match="classifier"):
        passes.run(frontend.load(path, size=(16, 16)))


# ---- .pt2


class Net(nn.Module):
    """Layers whose shapes are computed from the input's."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.depthwise(self.stem(x))
        n, c, h, w = x.shape
        x = x.reshape(n, c, h * w).reshape(n, c, h, w)
        return self.fc(self.pool(x).flatten(1))


def pt2_file(path, dynamic, shape=(4, 3, 32, 32), last=False):
    class Last(Net):
        def forward(self, x):
            return self.fc(self.pool(self.depthwise(self.stem(x.permute(0, 3, 1, 2)))).flatten(1))

    torch.manual_seed(0)
    model = (Last() if last else Net()).eval()
    torch.export.save(torch.export.export(model, (torch.zeros(shape),), dynamic_shapes=(dynamic,)), path)
    return path


SIDES = {2: Dim("h", min=32, max=256), 3: Dim("w", min=32, max=256)}


@pytest.mark.parametrize(
    ("dynamic", "options", "fixed"),
    [
        ({0: Dim("batch")}, {}, (1, 3, 32, 32)),
        ({0: Dim("batch", min=2, max=8)}, {"batch": 8}, (8, 3, 32, 32)),
        (SIDES, {"size": (96, 64)}, (4, 3, 96, 64)),
        ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}, {"size": (33, 47)}, (1, 3, 33, 47)),
        ({0: Dim("b"), 2: 8 * Dim("h8"), 3: 8 * Dim("w8")}, {"batch": 2, "size": (64, 40)}, (2, 3, 64, 40)),
    ],
    ids=["batch", "batch in a range", "sides", "auto", "multiples"],
)
def test_a_program_is_fixed_and_computes_the_same(tmp_path, dynamic, options, fixed):
    calls = compared(pt2_file(tmp_path / "m.pt2", dynamic), fixed, **options)
    assert [c.source for c in calls] == ["stem.0", "depthwise", "pool", "fc"], "places in the model are kept"


def test_a_program_with_channels_last_is_fixed(tmp_path):
    path = pt2_file(tmp_path / "m.pt2", {1: SIDES[2], 2: SIDES[3]}, (1, 32, 32, 3), last=True)
    compared(path, (1, 48, 40, 3), size=(48, 40))


@pytest.mark.parametrize(
    ("dynamic", "options", "words"),
    [
        (None, {"batch": 2}, "--batch 2: .* is for 4x3x32x32"),
        (None, {"size": (64, 64)}, "--resolution 64: .* is for 4x3x32x32"),
        ({0: Dim("batch", min=2, max=8)}, {"batch": 9}, "--batch 9: the batch of 'x' in .* can be 1 to 8, not 9"),
        (SIDES, {}, "not fixed"),
        (SIDES, {"size": (64, 512)}, "--resolution 64x512: the width of 'x' in .* can be 32 to 256, not 512"),
        (SIDES, {"size": (16, 64)}, "the height of 'x' in .* can be 32 to 256, not 16"),
        ({2: 8 * Dim("h8"), 3: 8 * Dim("w8")}, {"size": (60, 64)}, "can be 1 or more, a multiple of 8, not 60"),
        ({2: SIDES[2], 3: SIDES[2]}, {"size": (64, 32)}, "also stands for a dimension that is 64"),
    ],
)
def test_sizes_that_a_program_does_not_allow_are_refused(tmp_path, dynamic, options, words):
    with pytest.raises(TvmMobilenetError, match=words):
        frontend.load(pt2_file(tmp_path / "m.pt2", dynamic), **options)


def test_several_inputs_share_batch_and_size():
    """An input of features keeps its size; where no input can take a flag, it is refused."""
    free = sizes.Free
    image, features = sizes.Input("x", (free("n"), 3, free("h"), free("w"))), sizes.Input("v", (free("n"), 16))
    assert sizes.fix([image, features], 2, (32, 48), "f") == [[2, 3, 32, 48], [2, 16]]
    anchors = sizes.Input("a", (1, 3, 8, 8))
    assert sizes.fix([image, anchors], 2, (32, 48), "f") == [[2, 3, 32, 48], [1, 3, 8, 8]]
    with pytest.raises(TvmMobilenetError, match="--resolution 64: f is for 2x16"):
        sizes.fix([sizes.Input("v", (2, 16))], None, (64, 64), "f")
    with pytest.raises(TvmMobilenetError, match="export the model with that dimension fixed"):
        sizes.fix([sizes.Input("v", (2, free("k")))], None, None, "f")


# ---- from the flag to the machine code


@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=pytest.mark.full), "pt2"])
def test_built_at_the_size_asked_for_and_verified_again(tmp_path, kind, capsys):
    path = tmp_path / f"net.{kind}"
    if kind == "onnx":
        onnx_file(path, ("N", 3, "H", "W"))
    else:
        pt2_file(path, {0: Dim("batch"), **SIDES})
    argv = ["--model", str(path), "--target", "rpi4", "--batch", "2", "--resolution", "32x48"]
    assert build.main([*argv, "--output", str(tmp_path / "out")]) == 0
    assert f"net.{kind} 32x48 for rpi4" in capsys.readouterr().out
    assert verify.main([str(tmp_path / "out"), "--inputs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    stored = json.loads((tmp_path / "out" / "plan.json").read_text())["info"]["model"]
    assert ModelOptions.from_data(stored) == ModelOptions(model=str(path), batch=2, resolution=(32, 48))


def test_a_network_by_name_need_not_be_square():
    network = load_network(ModelOptions(alpha=0.25, resolution=(32, 64), classes=7))
    assert network.signature.inputs[0].shape == (1, 3, 32, 64) and network.options.title == "v1 0.25-32x64"
    (image,) = network.inputs(1)
    found = run_in_torch(network.graph, *image)[0]
    expected = network.reference([image])[0][0][0]
    assert relative(found, expected) <= 1e-4


def test_a_build_of_an_older_version_is_read_as_it_was_built():
    """It holds the registry's values for a file too, which had no effect then."""
    old = {"model": "net.onnx", "alpha": 1.0, "resolution": 224, "classes": 1000, "seed": 0, "batch": 1}
    assert ModelOptions.from_data(old) == ModelOptions(model="net.onnx")
    assert ModelOptions.from_data({**old, "model": "v1", "alpha": 0.5}) == ModelOptions(alpha=0.5)
