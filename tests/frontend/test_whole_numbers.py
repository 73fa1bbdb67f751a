"""Operators on whole numbers, as places, classes and masks are: they divide, clip and promote as floats do not."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx import helper as h
from torch import nn

from tests.support.layer_runner import assert_close, run_in_torch
from tvm_mobilenet import frontend, passes
from tvm_mobilenet.frontend import from_onnx

TORCH = {  # of two tensors of whole numbers
    "floor division": lambda i, j: i // 3,
    "by a negative number": lambda i, j: i // -3,
    "cut off": lambda i, j: torch.div(i, 3, rounding_mode="trunc"),
    "division": lambda i, j: i / 3,
    "by a tensor": lambda i, j: i // j.clamp(1, 5),
    "remainder": lambda i, j: i % 3 + i % j.clamp(1, 5),
    "fmod": lambda i, j: torch.fmod(i, 3),
    "signs": lambda i, j: i.abs() + i.sign() * 10 - (-j),
    "least": lambda i, j: torch.minimum(i, j) + torch.maximum(i, j) * 5,
    "clamps": lambda i, j: i.clamp(-3, 7) + i.clamp(min=0) + i.clamp(max=5) + i.clamp(0, 1),
    "relu": lambda i, j: i.relu() + i.clamp(0, 6),
    "powers": lambda i, j: i**2 + i**3,
    "bits": lambda i, j: (i & j) + (i | 3) + (i ^ j) + ~i,
    "reductions": lambda i, j: i.sum(1, keepdim=True) + i.amax(1, keepdim=True) - i.amin((1, 2), keepdim=True),
    "product": lambda i, j: i.clamp(-2, 2).prod(1),
    "times a fraction": lambda i, j: i * 0.5 + (j + 0.25),
    "to floats": lambda i, j: i.abs().sqrt() + i.clamp(max=2).exp() + j.sigmoid(),
    "compared with a fraction": lambda i, j: i < 1.5,
    "a table of constants": lambda i, j: i + torch.arange(6).clamp(1, 4) // 2 - torch.zeros(6).long(),
}


@pytest.mark.full
def test_pytorchs_whole_numbers_are_computed_as_pytorch_does():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)

        def forward(self, x):
            y = self.conv(x) * 10
            i, j = y.long(), (y.flip(1) * 0.7 + 1).long()
            return tuple(of(i, j).float() for of in TORCH.values())

    torch.manual_seed(0)
    x, model = torch.randn(1, 3, 8, 6), Net().eval()
    assert_close(passes.run(frontend.from_torch(model, x)), model, x)


ONNX = {  # ways to z of the whole numbers i and j
    "Div": [("Div", "i three")],
    "Div by some": [("Div", "i four")],
    "Mod": [("Mod", "i three")],
    "Mod of C": [("Mod", "i three", {"fmod": 1})],
    "Clip": [("Clip", "i low six")],
    "Clip to 0 and 6": [("Clip", "i zero six")],
    "Clip from 0": [("Clip", "i zero")],
    "Clip from -3": [("Clip", "i low")],
    "Clip to nothing": [("Clip", "i")],
    "Pow": [("Pow", "i three")],
    "Min and Max": [("Min", "i three"), ("Max", "z j")],
    "Sub": [("Sub", "i four")],
    "a constant's clip": [("Clip", "four three"), ("Mul", "z i")],
}


@pytest.mark.parametrize("dtype", [TensorProto.INT64, pytest.param(TensorProto.INT32, marks=pytest.mark.full)])
def test_onnx_whole_numbers_are_computed_as_onnx_runtime_does(dtype, tmp_path):
    nodes = [h.make_node("Mul", ["x", "ten"], ["m"]), h.make_node("Cast", ["m"], ["i"], to=dtype)]
    nodes += [h.make_node("Add", ["m", "ten"], ["n"]), h.make_node("Cast", ["n"], ["j"], to=dtype)]
    for k, steps in enumerate(ONNX.values()):
        for step, (operator, given, *attributes) in enumerate(steps):
            names = [f"z{k}_{step - 1}" if name == "z" else name for name in given.split()]
            nodes.append(h.make_node(operator, names, [f"z{k}_{step}"], **(attributes[0] if attributes else {})))
        nodes.append(h.make_node("Cast", [f"z{k}_{len(steps) - 1}"], [f"y{k}"], to=TensorProto.FLOAT))
    whole = h.tensor_dtype_to_np_dtype(dtype)
    constants = {"three": 3, "zero": 0, "six": 6, "low": -3, "four": np.arange(1, 5).reshape(4, 1, 1)}
    held = {name: np.asarray(value, whole) for name, value in constants.items()} | {"ten": np.float32(10)}
    graph = h.make_graph(
        nodes,
        "whole",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 8, 8))],
        [h.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, None) for k in range(len(ONNX))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    path = tmp_path / "whole.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), path)
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    due = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    found = run_in_torch(passes.run(from_onnx(path)), x)
    wrong = [name for name, y, d in zip(ONNX, found, due, strict=True) if y.shape != d.shape or (y != d).any()]
    assert not wrong
