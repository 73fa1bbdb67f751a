"""Attributes and operands of ONNX operators that TVM's importer ignores, lacks or reads differently: each form here was
once computed wrongly, or refused without a reason.
"""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnx import helper as h
from onnx.reference import ReferenceEvaluator

from tests.support.layer_runner import run_in_torch
from tvm_mobilenet import build, passes, targets, verify
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import from_onnx
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.runtime.instance import Instance

SHAPE = (1, 4, 6, 5)
RNG = np.random.default_rng(5)


def f(*shape) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def i(*values) -> np.ndarray:
    return np.array(values, np.int64)


def form(operator, *constants, opset=20, outputs=("y",), reads="x", **attributes):
    """One node that reads the data and constants; "" among them is an operand that is left out."""
    return operator, constants, opset, outputs, reads, attributes


TWICE = {"strides": [2, 2]}
CEIL = {"kernel_shape": [3, 2], "ceil_mode": 1, **TWICE}
CROP = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 3.0}
REGIONS = np.array([[0, 1, 9, 12], [3, 2, 12, 9]], np.float32)
ROI = {"output_height": 3, "output_width": 2, "spatial_scale": 0.5}
FORMS = {
    "infinities of one sign": form("IsInf", detect_negative=0),
    "no infinities": form("IsInf", detect_negative=0, detect_positive=0),
    "a norm of windows beyond the data": form("LpPool", **CEIL),
    "a norm of padded windows beyond the data": form("LpPool", p=3, pads=[1, 1, 1, 1], **CEIL),
    "a norm of windows, SAME_LOWER": form("LpPool", kernel_shape=[3, 3], auto_pad="SAME_LOWER", **TWICE),
    "maxima and their places by columns": form(
        "MaxPool", outputs=("y", "places"), storage_order=1, kernel_shape=[3, 2], pads=[0, 1, 1, 0], **TWICE
    ),
    "a part of some axes": form("Resize", np.array([0.1, 0.2, 0.9, 1.2], np.float32), "", i(7, 4), axes=[3, 2], **CROP),
    "a part of some axes, linear": form(
        "Resize", np.array([0.2, 0.1, 0.8, 0.7], np.float32), "", i(3, 1), axes=[2, 3], mode="linear", **CROP
    ),
    "regions by half a pixel": form("RoiAlign", REGIONS, i(0, 0), **ROI),
    "regions of old opsets": form("RoiAlign", REGIONS, i(0, 0), opset=13, **ROI),
    "largest parts of regions": form("RoiAlign", REGIONS, i(0, 0), mode="max", sampling_ratio=2, **ROI),
    "largest parts of regions of old opsets": form("RoiAlign", REGIONS, i(0, 0), opset=13, mode="max", **ROI),
    "a mask of what is kept": form("Dropout", outputs=("y", "mask")),
    "a norm of all": form("RMSNormalization", f(*SHAPE), axis=0, opset=23),
    "how many values": form("Size"),
    "columns of an image": form("Col2Im", i(6, 5), i(2, 2), strides=[2, 1], pads=[0, 0, 0, 1], reads="columns"),
    "deformed windows": form(
        "DeformConv", f(2, 2, 2, 2), f(1, 16, 5, 4), f(2), f(1, 8, 5, 4), group=2, offset_group=2, opset=19
    ),
    "a shape that is cut and padded": form("CenterCropPad", i(3, 8), axes=[3, 2]),
    "a rotation by position": form("RotaryEmbedding", f(9, 2), f(9, 2), i(*range(6))[None], reads="even", opset=23),
    **{
        f"{name} of no axes": form(name, noop_with_empty_axes=1)
        for name in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceSum", "ReduceLogSumExp")
    },
    "a logarithm of no axes": form("ReduceLogSum", noop_with_empty_axes=1, reads="positive"),
}
ATTENTION = {
    "rows of which nothing is kept": {"mask": np.array([[1, 0, 1, 1, 0, 1], *[[0] * 6] * 4, [1] * 6], bool)},
    "rows of which nothing is kept before": {"mask": np.eye(6, k=1, dtype=bool), "is_causal": 1},
    "a cap": {"softcap": 0.5},
}


def model_of(forms):
    """One model of all forms of an opset, that reads ``x``."""
    opset = forms[0][2]
    constants = {"even shape": i(1, 4, 6, 4), "starts": i(0), "ends": i(4), "axis": i(3), "flat": i(1, 8, 15)}
    nodes = [
        h.make_node("Abs", ["x"], ["positive"]),
        h.make_node("Slice", ["x", "starts", "ends", "axis"], ["even"]),
        h.make_node("Reshape", ["x", "flat"], ["columns"]),
    ]
    outputs = []
    for n, (operator, given, _, made, reads, attributes) in enumerate(forms):
        names = ["" if isinstance(c, str) else f"k{n} {j}" for j, c in enumerate(given)]
        constants |= {name: c for name, c in zip(names, given, strict=True) if name}
        written = [f"{name}{n}" for name in made]
        nodes.append(h.make_node(operator, [reads, *names], written, **attributes))
        outputs += written
    read = {name for node in nodes[3:] for name in node.input}
    return h.make_model(
        h.make_graph(
            [node for node in nodes if node.op_type not in ("Abs", "Slice", "Reshape") or node.output[0] in read],
            "g",
            [h.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
            [h.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(np.asarray(c), name) for name, c in constants.items()],
        ),
        opset_imports=[h.make_opsetid("", opset)],
        ir_version=10,
    )


def saved(model, path):
    """A model with the dtypes of its outputs."""
    found = onnx.shape_inference.infer_shapes(model)
    for port, known in zip(model.graph.output, found.graph.output, strict=True):
        port.type.tensor_type.elem_type = known.type.tensor_type.elem_type
    onnx.save(model, path)
    return path


FEW = (  # one of each way: converters of ours, loop nests, ONNX's own definitions
    "infinities of one sign",
    "a norm of windows beyond the data",
    "ReduceSumSquare of no axes",
    "how many values",
    "a shape that is cut and padded",
)


@pytest.mark.parametrize("chosen", [FEW, pytest.param(tuple(FORMS), marks=pytest.mark.full)], ids=["few", "all"])
def test_forms_compute_what_onnx_runtime_does(chosen, tmp_path):
    x = f(*SHAPE)
    x[0, 0, 0, :2] = np.inf, -np.inf
    for opset, names in itertools.groupby(sorted(chosen, key=lambda n: FORMS[n][2]), key=lambda n: FORMS[n][2]):
        names = list(names)
        path = saved(model_of([FORMS[name] for name in names]), tmp_path / f"{opset}.onnx")
        told, graph = [name for name in names for _ in FORMS[name][3]], passes.run(from_onnx(path))
        for given in (f(*SHAPE), x):
            due = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": given})
            for name, y, expected in zip(told, run_in_torch(graph, given), due, strict=True):
                if given is x and not name.endswith(("sign", "no infinities")):
                    continue
                assert y.shape == expected.shape, name
                np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "case", [name if name == "a cap" else pytest.param(name, marks=pytest.mark.full) for name in ATTENTION]
)
def test_attention_keeps_what_its_mask_says(case, tmp_path):
    attributes = dict(ATTENTION[case])
    mask = attributes.pop("mask", None)
    names = ["x", "x", "x", *([] if mask is None else ["mask"])]
    graph = h.make_graph(
        [h.make_node("Attention", names, ["y"], **attributes)],
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [] if mask is None else [numpy_helper.from_array(mask, "mask")],
    )
    model, x = h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=10), f(*SHAPE)
    onnx.save(model, tmp_path / "net.onnx")
    due = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    (found,) = run_in_torch(passes.run(from_onnx(tmp_path / "net.onnx")), x)
    np.testing.assert_allclose(found, due[0], rtol=1e-4, atol=1e-5)


def test_products_so_far_and_computed_norms(tmp_path):
    """A batch norm whose numbers are an input's, and an operator that ONNX Runtime does not have yet."""
    graph = h.make_graph(
        [
            h.make_node("CumProd", ["x", "axis"], ["so far"], exclusive=1, reverse=1),
            h.make_node("Abs", ["n"], ["v"]),
            h.make_node("BatchNormalization", ["x", "n", "n", "n", "v"], ["normal"], epsilon=0.1),
        ],
        "g",
        [h.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", SHAPE), ("n", (4,)))],
        [h.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("so far", "normal")],
        [numpy_helper.from_array(np.int64(-1), "axis")],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 26)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx")
    inputs = {"x": f(*SHAPE), "n": f(4)}
    found = run_in_torch(passes.run(from_onnx(tmp_path / "net.onnx")), *inputs.values())
    for y, due in zip(found, ReferenceEvaluator(model).run(None, inputs), strict=True):
        np.testing.assert_allclose(y, due, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [0, pytest.param(1, marks=pytest.mark.full)])
def test_an_lstm_may_see_its_cell_within_bounds(layout, tmp_path):
    """Peepholes, a clip, other activations, and coupled gates; ONNX Runtime knows no other layout."""
    sizes = {"w": (1, 20, 4), "r": (1, 20, 5), "b": (1, 40), "p": (1, 15)}
    how = {"hidden_size": 5, "clip": 0.6, "activations": ["Tanh", "Relu", "Sigmoid"], "input_forget": 1}
    nodes = [
        h.make_node("LSTM", ["x", "w", "r", "b", "", "", "", "p"], ["y", "h", "c"], **how),
        h.make_node("LSTM", ["x", "w", "r", "b"], ["z"], hidden_size=5),
    ]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3, 4))],
        [h.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yhcz"],
        [numpy_helper.from_array(f(*shape), name) for name, shape in sizes.items()],
    )
    model, x = h.make_model(graph, opset_imports=[h.make_opsetid("", 14)], ir_version=8), f(2, 3, 4)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    due = session.run(None, {"x": x})
    if layout:
        for node in model.graph.node:
            node.attribute.append(h.make_attribute("layout", 1))
        model.graph.input[0].CopyFrom(h.make_tensor_value_info("x", TensorProto.FLOAT, (3, 2, 4)))
        x, due = x.swapaxes(0, 1), [np.moveaxis(y, -2, 0) for y in due]
    onnx.save(model, tmp_path / "net.onnx")
    for y, expected in zip(run_in_torch(passes.run(from_onnx(tmp_path / "net.onnx")), x), due, strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "outputs, attributes, words",
    [
        (["y"], {"left_window_size": 2, "right_window_size": 0}, r"has left_window_size.* opsets up to 23"),
        (
            ["y", "", "", "shares"],
            {"qk_matmul_output_mode": 3, "is_causal": 1},
            r"has a mask and qk_matmul_output_mode",
        ),
    ],
)
def test_what_no_attention_computes_is_named(tmp_path, outputs, attributes, words):
    """Whoever ignores it computes something else."""
    node = h.make_node("Attention", ["x", "x", "x"], outputs, "look", **attributes)
    graph = h.make_graph(
        [node],
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
    )
    path = tmp_path / "net.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 27)], ir_version=10), path)
    with pytest.raises(TvmMobilenetError, match=rf"Attention at look {words}"):
        from_onnx(path)


def test_a_mask_of_infinities_is_built_and_verified(tmp_path):
    """It is no weight: a softmax makes zeros of it."""
    nodes = [h.make_node("Where", ["keep", "x", "lowest"], ["scores"]), h.make_node("Softmax", ["scores"], ["y"])]
    constants = {"keep": np.tri(6, 5, dtype=bool), "lowest": np.float32(-np.inf)}
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(np.asarray(c), name) for name, c in constants.items()],
    )
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=10), tmp_path / "net.onnx")
    build.build(ModelOptions(model=str(tmp_path / "net.onnx")), targets.load("host"), output=tmp_path / "out")
    assert verify.verify(tmp_path / "out", board="local").ok


def test_plain_integers_of_a_byte_are_no_quantized_values(tmp_path):
    """They have no scales; a sum leaves the range as any integer's does."""
    nodes = [
        h.make_node("Add", ["x", "x"], ["twice"]),
        h.make_node("Max", ["x", "x"], ["most"]),
        h.make_node("Clip", ["x"], ["same"]),
    ]
    ports = [h.make_tensor_value_info(name, TensorProto.INT8, SHAPE) for name in ("x", "twice", "most", "same")]
    model = h.make_model(
        h.make_graph(nodes, "g", ports[:1], ports[1:]), opset_imports=[h.make_opsetid("", 14)], ir_version=10
    )
    onnx.save(model, tmp_path / "net.onnx")
    build.build(ModelOptions(model=str(tmp_path / "net.onnx")), targets.load("host"), output=tmp_path / "out")
    x = RNG.integers(-128, 128, SHAPE).astype(np.int8)
    with Instance(tmp_path / "out" / "libmobilenet.so", tmp_path / "out" / "parameters.bin") as net:
        net.set_inputs([x])
        net.run()
        for due, y in zip((x + x, x, x), net.outputs, strict=True):
            np.testing.assert_array_equal(y, due)


def test_tensors_without_values_are_inputs_and_outputs(tmp_path):
    """What they make is known: nothing, or the sum of nothing."""
    nodes = [
        h.make_node("Split", ["x", "sizes"], ["a", "none", "b"], axis=1),
        h.make_node("Concat", ["b", "none", "a"], ["turned"], axis=1),
        h.make_node("ReduceSum", ["e", "axis"], ["zeros"]),
        h.make_node("Add", ["turned", "zeros"], ["y"]),
        h.make_node("Relu", ["e"], ["nothing"]),
    ]
    inputs = {"x": f(2, 3, 4), "e": np.zeros((2, 0, 4), np.float32)}
    outputs = {"y": (2, 3, 4), "none": (2, 0, 4), "zeros": (2, 1, 4), "nothing": (2, 0, 4), "e": (2, 0, 4)}
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()],
        [h.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(i(1, 0, 2), "sizes"), numpy_helper.from_array(i(1), "axis")],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx")
    build.build(ModelOptions(model=str(tmp_path / "net.onnx")), targets.load("host"), output=tmp_path / "out")
    with Instance(tmp_path / "out" / "libmobilenet.so", tmp_path / "out" / "parameters.bin") as net:
        net.set_inputs(list(inputs.values()))
        net.run()
        for due, y in zip(ReferenceEvaluator(model).run(None, inputs), net.outputs, strict=True):
            np.testing.assert_array_equal(y, due)


def test_a_remainder_of_an_infinite_divisor_is_a_number(tmp_path):
    ports = [h.make_tensor_value_info(name, TensorProto.FLOAT, (4,)) for name in ("x", "d", "y")]
    graph = h.make_graph([h.make_node("Mod", ["x", "d"], ["y"])], "g", ports[:2], ports[2:])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=10), tmp_path / "net.onnx")
    x, divisor = np.float32([3, -3, 7, -7]), np.float32([np.inf, np.inf, -np.inf, 4])
    (y,) = run_in_torch(passes.run(from_onnx(tmp_path / "net.onnx")), x, divisor)
    np.testing.assert_array_equal(y, np.float32([3, np.inf, -np.inf, 1]))
