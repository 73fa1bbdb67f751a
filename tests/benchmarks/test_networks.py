"""The table of networks that people bring: a line says what a file came to, and never that wrong numbers are right.

    TVM_MOBILENET_NETWORKS=FOLDER python -m pytest -m full -n 0 tests/benchmarks/test_networks.py

builds and verifies every file of a folder on this machine and on the virtual Raspberry Pi 4.
"""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx import helper as h
from tvm import relax

from benchmarks import networks
from tvm_mobilenet.frontend import onnx_operators

FOLDER = Path(os.environ.get("TVM_MOBILENET_NETWORKS", os.devnull))
FILES = sorted(p for p in FOLDER.iterdir() if p.suffix in networks.FILES) if FOLDER.is_dir() else []


def net(path, *nodes, **constants):
    graph = h.make_graph(
        list(nodes),
        "net",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def test_a_line_says_what_a_file_came_to(tmp_path, monkeypatch):
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = h.make_node("Conv", ["x", "w"], ["c"]), h.make_node("Abs", ["c"], ["y"])
    absolute = net(tmp_path / "abs.onnx", *nodes, w=weight)
    line = networks.row(absolute, "rpi4")
    assert tuple(line) == networks.COLUMNS and line["result"] == "verified"
    assert (line["layers"], line["generic"]) == ("3", "1") and 0 < float(line["share"]) < 100
    assert line["reference"].startswith("ONNX Runtime") and float(line["difference"]) < 1e-5

    def otherwise(bb, inputs, attrs, own):
        return relax.op.negative(inputs[0])

    monkeypatch.setitem(onnx_operators.CONVERTERS, "Abs", otherwise)
    assert networks.row(absolute, "host")["result"].startswith("wrong: y")

    noise = h.make_node("RandomNormalLike", ["x"], ["y"])
    refused = networks.row(net(tmp_path / "noise.onnx", noise), "host")
    assert refused["result"].startswith("refused: 1 operator is not supported")


@pytest.mark.parametrize(
    "file, cells",
    [
        ("torchvision-mobilenet_v2-dynamo-batch.onnx", ["mobilenet_v2", "torchvision", "dynamo-batch"]),
        ("timm-mobilenetv4_conv_small-opset17.onnx", ["mobilenetv4_conv_small", "timm", "opset17"]),
        ("keras-v3-small.tflite", ["v3-small", "keras", "tflite"]),
        ("paddle-ch_PP-OCRv4_det_infer.onnx", ["ch_PP-OCRv4_det_infer", "paddle", "onnx"]),
        ("mobilefacenet.pt2", ["mobilefacenet", "the paper", "pt2"]),
    ],
)
def test_a_file_is_a_line_of_the_page_with_both_targets(file, cells, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "TABLE", tmp_path / "networks.tsv")
    line = dict.fromkeys(networks.COLUMNS, "") | {"file": file, "layers": "9", "generic": "2", "reference": "PyTorch"}
    first = line | {"target": "host", "difference": "1.0e-05", "result": "verified"}
    second = line | {"target": "rpi4", "difference": "3.0e-05", "share": "1.5", "result": "wrong: y"}
    networks.keep({(file, one["target"]): one for one in (first, second)})
    due = [*cells, "9", "verified", "wrong: y", "3.0e-05", "PyTorch", "2, 1.5 %"]
    assert networks.page().splitlines()[-1] == f"| {' | '.join(due)} |"


@pytest.mark.full
def test_a_network_is_written_in_its_ways(tmp_path):
    networks.make(tmp_path, "mobilefacenet")
    assert {path.name for path in tmp_path.iterdir()} == {"mobilefacenet-opset13.onnx", "mobilefacenet.pt2"}
    session = onnxruntime.InferenceSession(tmp_path / "mobilefacenet-opset13.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.random.default_rng(0).standard_normal((1, 3, 112, 112)).astype(np.float32)})
    assert found.shape == (1, 128) and abs(np.linalg.norm(found) - 1) < 1e-5


@pytest.mark.full
def test_the_page_of_networks_is_of_the_recorded_table():
    assert networks.main(["check"]) == 0, "python -m benchmarks.networks write"


@pytest.mark.full
@pytest.mark.parametrize("target", ["host", "rpi4"])
@pytest.mark.parametrize("path", FILES, ids=[p.name for p in FILES])
def test_a_network_of_the_folder_is_verified(path, target):
    assert networks.row(path, target)["result"] == "verified"
