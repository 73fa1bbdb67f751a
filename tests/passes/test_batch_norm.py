"""Statistics of a batch norm that no training counts are named as what they are, not as NaN or wrong code later."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.options import ModelOptions


def save_onnx(path, variance):
    weights = {
        "w": np.ones((4, 3, 3, 3), np.float32),
        **{name: np.ones(4, np.float32) for name in ("gamma", "beta", "mean")},
        "variance": np.float32(variance),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["y"], name="the_norm"),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (1, 3, 8, 8)), ("y", None))]
    constants = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)


def save_pt2(path, variance):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    net[1].running_var.copy_(torch.tensor(variance))
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), path)


@pytest.mark.parametrize("save", [save_onnx, save_pt2])
def test_a_negative_variance_is_named(tmp_path, save):
    path = tmp_path / f"m.{save.__name__.removeprefix('save_')}"
    save(path, [1, 1, -2, -3])
    with pytest.raises(TvmMobilenetError, match=r"variance of channel 2 and 1 more channels is -2: a variance is not"):
        load_network(ModelOptions(model=str(path)))
    save(path, [1, 1, 0, 1])
    load_network(ModelOptions(model=str(path)))
