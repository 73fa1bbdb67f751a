"""ONNX's operators: each builds, and computes what ONNX Runtime does; what has no layer is refused by name."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx import helper as h
from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

from benchmarks import operators
from benchmarks.operator_cases import CASES, write
from benchmarks.rare_operator_cases import RARE
from tests.frontend.test_onnx_forms import FORMS
from tests.support.layer_runner import run_in_torch
from tests.support.shares import share
from tvm_mobilenet import build, passes, targets, verify
from tvm_mobilenet.compiler import pipeline, port_tables
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import from_onnx
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.runtime.instance import Instance

AT_ONCE = 25
BY_NAME = {case.name: case for case in CASES}
FEW = (  # one of each way to a layer: own converters, TIR of the importer's, int64 and bool, several nests, a scan
    "Celu",
    "LpNormalization axis 1",
    "Max and Min: relu6",
    "Resize linear, half_pixel, sizes",
    "Resize nearest, ceil",
    "Pad wrap",
    "Pad reflect",
    "Pad with 2",
    "Where of a comparison",
    "Gather channels",
    "Gather one channel",
    "Cast to int64 and back",
    "ArgMax axis 1",
    "CumSum axis 1",
    "GlobalMaxPool",
    "AveragePool padded",
    "ConvTranspose depthwise",
    "Reshape channel shuffle",
)


def verified(cases, folder):
    folder.mkdir(exist_ok=True)
    write(cases, folder / "net.onnx")
    build.build(ModelOptions(model=str(folder / "net.onnx")), targets.load("rpi4"), output=folder / "out")
    found = verify.verify(folder / "out")
    assert found.ok and len(found.outputs) == len(cases)
    return found


def test_operators_compute_what_onnx_runtime_does(tmp_path):
    found = verified([BY_NAME[name] for name in FEW], tmp_path)
    assert sum(check.layer.startswith("generic ") for check in found.layers) > len(FEW)


def test_no_input_of_twice_the_size_makes_a_case_of_what_is_no_number(tmp_path):
    """Verification compares numbers: what overflows or leaves a domain by chance passes on one machine only."""
    draw = np.random.default_rng(0)
    for first in range(0, len(CASES), AT_ONCE):
        write(CASES[first : first + AT_ONCE], tmp_path / "net.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
        for _ in range(50):
            x = (8 * draw.standard_normal((1, 3, 8, 8))).astype(np.float32)
            for case, y in zip(CASES[first : first + AT_ONCE], session.run(None, {"x": x}), strict=True):
                assert np.isfinite(y).all(), case.name


@pytest.mark.full
@pytest.mark.parametrize("first", range(0, len(CASES), AT_ONCE))
def test_every_operator_computes_what_onnx_runtime_does(first, tmp_path):
    verified(CASES[first : first + AT_ONCE], tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("opset", sorted({case.opset for case in RARE}))
def test_every_rare_operator_computes_what_onnx_runtime_does(opset, tmp_path):
    cases = [case for case in RARE if case.opset == opset]
    for i in share(range(0, len(cases), AT_ONCE), 2):
        verified(cases[i : i + AT_ONCE], tmp_path / str(i))


OF_OPEN_SHAPE = {"AllClassNMS", "NonMaxSuppression", "NonZero", "Unique"}  # how many values they return depends on data
WITHOUT_REFERENCE = {"MatMulInteger16"}  # ONNX Runtime does not compute it on a CPU


def test_every_operator_that_tvms_importer_knows_has_a_case():
    """What TVM adds, or a table loses, is named here."""
    compared = {node.op_type for case in (*CASES, *RARE) for node in case.nodes} | {one[0] for one in FORMS.values()}
    assert set(_get_convert_map()) - compared == OF_OPEN_SHAPE | WITHOUT_REFERENCE


@pytest.mark.parametrize("operator, inputs", [("NonZero", "x"), ("Unique", "x"), ("NonMaxSuppression", "x x")])
def test_an_operator_of_open_shape_is_refused_by_name(operator, inputs, tmp_path):
    node = h.make_node(operator, inputs.split(), ["y"], "look")
    with pytest.raises(TvmMobilenetError, match=f"{operator} at look is not supported.*depends? on data"):
        from_onnx(model_of(tmp_path / "net.onnx", node, shape=(1, 3, 4), opset=13))


@pytest.mark.full
def test_the_page_of_operators_is_of_today():
    assert operators.main(["check"]) == 0, "python -m benchmarks.operators write"


def model_of(path, *nodes, constants=(), outputs=("y",), shape=(1, 3, 8, 8), opset=13):
    graph = h.make_graph(
        list(nodes),
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [h.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants],
    )
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=8), str(path))
    return path


def test_what_is_a_number_of_some_inputs_only_is_verified_on_these(tmp_path):
    """Negative noise has no root, and large noise no product: noise of one's own is no reason to refuse a network."""
    path = model_of(
        tmp_path / "net.onnx",
        h.make_node("Mul", ["x", "k"], ["m"]),
        h.make_node("Sqrt", ["m"], ["y"]),
        h.make_node("ReduceProd", ["m"], ["z"], axes=[1, 2, 3]),
        constants=[("k", np.float32(8))],
        outputs=("y", "z"),
    )
    build.build(ModelOptions(model=str(path)), targets.load("host"), output=tmp_path / "out")
    draw = np.random.default_rng(0)
    inputs = [(draw.uniform(0.1, 0.15, (1, 3, 8, 8)).astype(np.float32),) for _ in range(2)]
    assert verify.verify(tmp_path / "out", board="local", inputs=inputs).ok


@pytest.mark.parametrize(
    "node, constants, words",
    [
        (
            h.make_node("TopK", ["x", "k"], ["y", "i"], "top", sorted=0),
            [("k", np.array([2], np.int64))],
            "TopK at top.*order",
        ),
        (
            h.make_node("TopK", ["x", "k"], ["y", "i"], "top", axis=1),
            [("k", np.array([4], np.int64))],
            "TopK at top.*takes 4 of 3 values",
        ),
        (h.make_node("RandomUniformLike", ["x"], ["y"], "noise"), [], "at noise.*random"),
        (h.make_node("Dropout", ["x", "", "t"], ["y"], "drop"), [("t", np.array(True))], "at drop.*random"),
        (
            h.make_node("Conv", ["x", "w"], ["y"], "cut", pads=[-1, -1, 0, 0]),
            [("w", np.ones((4, 3, 3, 3), np.float32))],
            r"nn.conv2d at cut.*negative pads \[-1, -1, 0, 0\]",
        ),
    ],
)
def test_what_has_no_layer_is_refused_by_name(node, constants, words, tmp_path):
    with pytest.raises(TvmMobilenetError, match=words):
        passes.run(from_onnx(model_of(tmp_path / "net.onnx", node, constants=constants)))


def test_outputs_may_be_inputs_and_one_value_in_several_shapes(tmp_path):
    """Each has memory of its own, which a kernel must write."""
    path = model_of(
        tmp_path / "net.onnx",
        h.make_node("GlobalAveragePool", ["x"], ["mean"]),
        h.make_node("Flatten", ["mean"], ["row"]),
        h.make_node("Flatten", ["x"], ["all"]),
        h.make_node("Identity", ["i"], ["same"]),
        h.make_node("Slice", ["x", "zero", "zero", "one"], ["none"]),
        h.make_node("Concat", ["none", "x", "mean"], ["whole"], axis=2),
        constants=[("zero", np.array([0], np.int64)), ("one", np.array([2], np.int64))],
        outputs=("x", "mean", "row", "all", "whole"),
        shape=(1, 3, 4, 1),
    )
    model = onnx.load(path)
    model.graph.input.append(h.make_tensor_value_info("i", TensorProto.INT64, (1, 3)))
    model.graph.output.append(h.make_tensor_value_info("same", TensorProto.INT64, (1, 3)))
    onnx.save(model, path)
    build.build(ModelOptions(model=str(path)), targets.load("host"), output=tmp_path / "out")
    found = verify.verify(tmp_path / "out", board="local")
    assert found.ok and [o.name for o in found.outputs] == ["x", "mean", "row", "all", "whole", "same"]


@pytest.mark.parametrize("target", ["host", pytest.param("rpi4", marks=pytest.mark.full)])
def test_outputs_that_depend_on_no_input_are_written(target, tmp_path):
    """Anchors, class numbers, sizes: of any dtype and rank, also if they only follow from shapes."""
    constants = {
        "anchors": np.arange(12, dtype=np.float32).reshape(3, 4),
        "labels": np.array([1 << 40, -2]),
        "mask": np.array([[True], [False]]),
        "number": np.float32(0.5),
    }
    nodes = h.make_node("Relu", ["x"], ["y"]), h.make_node("Shape", ["y"], ["shape"])
    path = model_of(tmp_path / "net.onnx", *nodes, constants=constants.items(), outputs=("y", *constants, "shape"))
    model, types = onnx.load(path), {"labels": TensorProto.INT64, "mask": TensorProto.BOOL, "shape": TensorProto.INT64}
    for port in model.graph.output:
        port.type.tensor_type.elem_type = types.get(port.name, TensorProto.FLOAT)
    onnx.save(model, path)
    build.build(ModelOptions(model=str(path)), targets.load(target), output=tmp_path / "out")
    found = verify.verify(tmp_path / "out", **({"board": "local"} if target == "host" else {}))
    assert found.ok and [o.name for o in found.outputs] == ["y", *constants, "shape"]
    if target == "host":
        with Instance(tmp_path / "out" / "libmobilenet.so", tmp_path / "out" / "parameters.bin") as net:
            net.run()
            for value, output in zip((*constants.values(), [1, 3, 8, 8]), net.outputs[1:], strict=True):
                assert np.array_equal(output, value)


@pytest.mark.parametrize(
    "where", ["half_pixel", *(pytest.param(w, marks=pytest.mark.full) for w in ("pytorch_half_pixel", "asymmetric"))]
)
def test_a_resize_by_scales_that_make_no_whole_sizes_has_onnx_runtimes_positions(where, tmp_path):
    """As PyTorch exports ``scale_factor=1.7``."""
    roundings = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]
    how = [{"mode": "linear"}, *({"mode": "nearest", "nearest_mode": rounding} for rounding in roundings)]
    cases = [(scales, one) for scales in ("up", "down") for one in how]
    nodes = [
        h.make_node("Resize", ["x", "", scales], [f"y{i}"], coordinate_transformation_mode=where, **one)
        for i, (scales, one) in enumerate(cases)
    ]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 10, 7))],
        [h.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, 2, f"h{i}", f"w{i}"]) for i in range(len(cases))],
        [
            onnx.numpy_helper.from_array(np.array([1, 1, *of], np.float32), name)
            for name, of in (("up", (1.7, 1.33)), ("down", (0.55, 0.71)))
        ],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    x = np.random.default_rng(0).standard_normal((1, 2, 10, 7)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = run_in_torch(passes.run(from_onnx(tmp_path / "net.onnx")), x)
    for y, expected in zip(found, session.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 19, 22])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_no_window_of_a_pool_begins_after_the_data(operator, opset, tmp_path):
    """With ``ceil_mode`` ONNX's shape inference counts such a window in some opsets, ONNX Runtime never does. A
    convolution reads the pool.
    """
    cases = [
        (2, 2, (0, 0, 1, 1)),
        (2, 2, (0, 1, 1, 0)),
        (3, 2, (1, 1, 1, 1)),
        (3, 3, (0, 1, 1, 0)),
        (2, 3, (1, 1, 1, 1)),
    ]
    nodes = []
    for i, (kernel, stride, pads) in enumerate(cases):
        how = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads, "ceil_mode": 1}
        nodes += [h.make_node(operator, ["x"], [f"p{i}"], **how), h.make_node("Conv", [f"p{i}", "k"], [f"y{i}"])]
    x = np.random.default_rng(0).standard_normal((1, 3, 7, 5)).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((4, 3, 1, 1)).astype(np.float32)
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [h.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, 4, f"h{i}", f"w{i}"]) for i in range(len(cases))],
        [onnx.numpy_helper.from_array(weight, "k")],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = run_in_torch(passes.run(from_onnx(tmp_path / "net.onnx")), x)
    for y, expected in zip(found, session.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(y, expected, atol=1e-5)


def test_resizes_that_tvm_does_not_know_have_onnx_runtimes_weights(tmp_path):
    """Cubic by scales, with a filter, of channels, of three axes, and of one aspect ratio."""
    ways = [
        ("scales", {"mode": "cubic"}),
        ("less", {"mode": "cubic", "cubic_coeff_a": -0.5, "coordinate_transformation_mode": "pytorch_half_pixel"}),
        ("scales", {"mode": "cubic", "exclude_outside": 1, "coordinate_transformation_mode": "asymmetric"}),
        ("less", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
        ("less", {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}),
        ("small", {"mode": "linear", "antialias": 1}),
        ("small", {"mode": "cubic", "antialias": 1}),
        ("all", {"mode": "nearest"}),
        ("channels", {"mode": "linear"}),
        ("pair", {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}),
        ("pair", {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"}),
    ]
    scales = {"scales": (1, 1, 1.7, 1.3), "less": (1, 1, 0.6, 0.7), "all": (1, 2, 2, 2), "channels": (1, 2, 1, 1)}
    sizes = {"small": (1, 3, 5, 3), "pair": (12, 20)}
    nodes = [
        h.make_node("Resize", ["x", "", name] if name in scales else ["x", "", "", name], [f"y{i}"], **how)
        for i, (name, how) in enumerate(ways)
    ]
    constants = [(name, np.array(value, np.float32)) for name, value in scales.items()]
    constants += [(name, np.array(value)) for name, value in sizes.items()]
    outputs = [f"y{i}" for i in range(len(ways))]
    path = model_of(tmp_path / "net.onnx", *nodes, constants=constants, outputs=outputs)
    model = onnx.load(path)
    model.opset_import[0].version = 19
    onnx.save(model, path)
    computes_what_onnx_runtime_does(path, np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))


@pytest.mark.parametrize("step, count", [(1, 1), (-1, 2)])
def test_a_slice_of_all_of_a_tensor_is_no_layer(step, count, tmp_path):
    """GhostNet has one behind each of its concatenations; backwards it is none."""
    ends = (0, 8) if step > 0 else (-1, -9)
    constants = [(name, np.array([value], np.int64)) for name, value in zip("sead", (*ends, 2, step), strict=True)]
    nodes = h.make_node("Tan", ["x"], ["t"]), h.make_node("Slice", ["t", *"sead"], ["y"])
    graph = passes.run(from_onnx(model_of(tmp_path / "net.onnx", *nodes, constants=constants)))
    assert len(graph.calls) == count


def test_many_of_a_kind_are_told_once_with_their_count(tmp_path):
    nodes = [h.make_node("RandomNormalLike", ["x"], [f"y{i}"], f"noise{i}") for i in range(7)]
    nodes.append(h.make_node("Conv", ["y0", "w"], ["y7"]))
    path = model_of(
        tmp_path / "net.onnx",
        *nodes,
        constants=[("w", np.ones((4, 3, 3, 3), np.float32))],
        outputs=[f"y{i}" for i in range(8)],
    )
    with pytest.raises(
        TvmMobilenetError, match=r"7 operators.*\n    RandomNormalLike at noise0, .* and 6 more: [^\n]*\n"
    ) as refused:
        passes.run(from_onnx(path))
    assert refused.value.hint.startswith("replace them in the model")


def computes_what_onnx_runtime_does(path, x):
    due = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    for y, expected in zip(run_in_torch(passes.run(from_onnx(path)), x), due, strict=True):
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_odd_forms_of_operators_compute_what_onnx_runtime_does(tmp_path):
    """Bounds that are computed or exchanged, places of the largest values, exponents of another dtype, float64, one
    number as an index.
    """
    nodes = [
        h.make_node("LayerNormalization", ["x", "scales"], ["normal", "middle", "inverse"], epsilon=0.1),
        h.make_node("Clip", ["x", "one", "zero"], ["exchanged"]),
        h.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        h.make_node("Clip", ["x", "mean"], ["computed"]),
        h.make_node("TopK", ["x", "k"], ["largest", "places"], axis=1),
        h.make_node("TopK", ["x", "k"], ["smallest", "unread"], largest=0),
        h.make_node("Pow", ["x", "k"], ["squares"]),
        h.make_node("Shrink", ["x"], ["shrunk"], lambd=0.3, bias=0.1),
        h.make_node("ArgMax", ["x"], ["best"], axis=1, keepdims=0),
        h.make_node("OneHot", ["best", "depth", "values"], ["hot"], axis=1),
        h.make_node("Less", ["x", "zero"], ["below"]),
        h.make_node("Less", ["x", "one"], ["near"]),
        h.make_node("Equal", ["below", "near"], ["alike"]),
        h.make_node("Where", ["alike", "x", "one"], ["where alike"]),
        h.make_node("Cast", ["x"], ["long"], to=TensorProto.DOUBLE),
        h.make_node("Mul", ["long", "third"], ["part"]),
        h.make_node("Cast", ["part"], ["short"], to=TensorProto.FLOAT),
        h.make_node("Conv", ["x", "w"], ["c"]),
        h.make_node("Sub", ["c", "ends"], ["more dimensions"]),
        h.make_node("Dropout", ["x", "", "off"], ["kept"]),
        h.make_node("Abs", ["kept"], ["absolute"]),
        h.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT32),
        h.make_node("Clip", ["whole", "two", "minus two"], ["all minus two"]),
        h.make_node("Cast", ["all minus two"], ["exchanged whole"], to=TensorProto.FLOAT),
        h.make_node("Shrink", ["long"], ["less"], lambd=0.3, bias=0.1),
        h.make_node("Cast", ["less"], ["long shrunk"], to=TensorProto.FLOAT),
        h.make_node("Cast", ["mean"], ["number"], to=TensorProto.INT64),
        h.make_node("Gather", ["x", "number"], ["by a number"], axis=-1),
    ]
    path = model_of(
        tmp_path / "net.onnx",
        *nodes,
        constants=[
            *((name, np.float32(value)) for name, value in (("one", 1), ("zero", 0))),
            *((name, np.array(value)) for name, value in (("k", [2]), ("depth", 3), ("off", False))),
            ("values", np.array([0, 1], np.float32)),
            ("scales", np.arange(8, dtype=np.float32)),
            *((name, np.int32(value)) for name, value in (("two", 2), ("minus two", -2))),
            ("third", np.float64(1 / 3)),
            ("w", np.ones((4, 3, 1, 1), np.float32)),
            ("ends", np.ones((2, 1, 1, 1, 1), np.float32)),
        ],
        outputs=(
            "more dimensions",
            "exchanged",
            "computed",
            "largest",
            "smallest",
            "squares",
            "shrunk",
            "hot",
            "absolute",
            "where alike",
            "short",
            "exchanged whole",
            "long shrunk",
            "by a number",
            "normal",
            "middle",
            "inverse",
        ),
        opset=17,
    )
    computes_what_onnx_runtime_does(path, np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))


@pytest.mark.full
def test_rare_forms_of_operators_compute_what_onnx_runtime_does(tmp_path):
    """Values at positions that are negative, repeated or fewer than the data's, places of maxima, sequences."""
    nodes = [
        h.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        h.make_node("TopK", ["x", "two"], ["largest", "places"], axis=1),
        h.make_node("Abs", ["x"], ["absolute"]),
        h.make_node("Cast", ["absolute"], ["whole"], to=TensorProto.INT32),
        h.make_node("Pow", ["whole", "half"], ["roots"]),
        h.make_node("Cast", ["roots"], ["whole roots"], to=TensorProto.FLOAT),
        h.make_node("ScatterElements", ["x", "corner", "new"], ["scattered in a corner"], axis=1),
        h.make_node("ScatterND", ["x", "rows", "updates"], ["sums of rows"], reduction="add"),
        h.make_node("GatherND", ["x", "places of rows"], ["batches"], batch_dims=1),
        h.make_node("GatherElements", ["x", "places"], ["by rank"], axis=1),
        h.make_node("Pad", ["x", "pads", "mean"], ["by a mean"]),
        h.make_node("Compress", ["x", "chosen"], ["compressed"], axis=1),
        h.make_node("MaxPool", ["x"], ["pooled", "where"], kernel_shape=[2, 3], strides=[2, 2], pads=[0, 1, 0, 0]),
        h.make_node("MaxPool", ["x"], ["halves", "where halves"], kernel_shape=[2, 2], strides=[2, 2]),
        h.make_node("MaxUnpool", ["halves", "where halves"], ["unpooled"], kernel_shape=[2, 2], strides=[2, 2]),
        h.make_node("Cast", ["where"], ["where pooled"], to=TensorProto.FLOAT),
        h.make_node("SequenceConstruct", ["x", "halves"], ["pair"]),
        h.make_node("SequenceAt", ["pair", "one more"], ["second"]),
    ]
    path = model_of(
        tmp_path / "net.onnx",
        *nodes,
        constants=[
            ("two", np.array([2])),
            ("half", np.float32(1.5)),
            ("corner", np.arange(40).reshape(1, 2, 4, 5) % 4 - 1),
            ("new", np.arange(40, dtype=np.float32).reshape(1, 2, 4, 5)),
            ("rows", np.array([[0, -1], [0, 0], [0, 0]])),
            ("updates", np.arange(192, dtype=np.float32).reshape(3, 8, 8)),
            ("places of rows", np.array([[[1, 2], [-3, 0]]])),
            ("pads", np.array([0, 0, 1, -1, 0, 0, 2, 3])),
            ("chosen", np.array([True, False, True])),
            ("one more", np.array(1)),
        ],
        outputs=(
            "whole roots",
            "scattered in a corner",
            "sums of rows",
            "batches",
            "by rank",
            "by a mean",
            "compressed",
            "where pooled",
            "unpooled",
            "second",
        ),
        opset=17,
    )
    computes_what_onnx_runtime_does(path, np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))


def layers_of_sequences():
    """Each kind of layer, way and state: nodes, constants and names of outputs."""
    draw, nodes, constants, names = np.random.default_rng(0), [], [], []
    cases = {
        "lstm": ("LSTM", 4, {"direction": "bidirectional"}),
        "gru": ("GRU", 3, {}),
        "linear": ("GRU", 3, {"linear_before_reset": 1, "direction": "bidirectional", "clip": 0.5}),
        "rnn": ("RNN", 1, {"activations": ["Relu"]}),
    }
    for name, (kind, gates, how) in cases.items():
        ways = 1 + (how.get("direction") == "bidirectional")
        shapes = {"w": (ways, gates * 5, 8), "r": (ways, gates * 5, 5), "b": (ways, 2 * gates * 5), "h": (ways, 8, 5)}
        constants += [(name + k, draw.standard_normal(s).astype(np.float32)) for k, s in shapes.items()]
        inputs = ["sequence", *(name + k for k in "wrb"), "", *([name + "h"] if ways > 1 else [])]
        outputs = [f"{name} {i}" for i in range(2 + (kind == "LSTM"))]
        nodes.append(h.make_node(kind, inputs, outputs, hidden_size=5, **how))
        names += outputs
    return [h.make_node("Squeeze", ["x", "zero"], ["sequence"]), *nodes], [*constants, ("zero", np.array([0]))], names


@pytest.mark.full
def test_layers_of_sequences_are_written_out_and_verified(tmp_path):
    nodes, constants, outputs = layers_of_sequences()
    path = model_of(tmp_path / "net.onnx", *nodes, constants=constants, outputs=outputs)
    build.build(ModelOptions(model=str(path)), targets.load("rpi4"), output=tmp_path / "out")
    assert verify.verify(tmp_path / "out").ok


def test_attention_of_opset_23_computes_what_onnx_runtime_does(tmp_path):
    """With heads in a dimension of their own or side by side, shared keys, masks of numbers and of truths."""
    cut = [("a", np.array([0])), ("b", np.array([1])), ("axis", np.array([1]))]
    nodes = [
        h.make_node("Slice", ["x", "a", "b", "axis"], ["one"]),
        h.make_node("Reshape", ["x", "rows"], ["flat"]),
        h.make_node("Attention", ["x", "one", "one", "mask"], ["shared"]),
        h.make_node("Attention", ["x", "x", "x"], ["causal"], is_causal=1, scale=0.3),
        h.make_node("Attention", ["flat", "flat", "flat", "truths"], ["side"], q_num_heads=3, kv_num_heads=3),
    ]
    constants = [*cut, ("rows", np.array([1, 8, 24])), ("mask", np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8))]
    constants += [("truths", np.tri(8, dtype=bool))]
    path = model_of(tmp_path / "net.onnx", *nodes, constants=constants, outputs=("shared", "causal", "side"))
    model = onnx.load(path)
    model.opset_import[0].version, model.ir_version = 23, 10
    onnx.save(model, path)
    computes_what_onnx_runtime_does(path, np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))


def test_sparse_constants_are_dense_ones(tmp_path):
    """By places in all of a tensor, or in each dimension."""
    values, flat = (
        h.make_tensor("k", TensorProto.FLOAT, [2], [1.5, 2.5]),
        h.make_tensor("i", TensorProto.INT64, [2], [1, 2]),
    )
    pairs = h.make_tensor("j", TensorProto.INT64, [2, 2], [0, 3, 7, 0])
    nodes = [
        h.make_node("Constant", [], ["s"], sparse_value=h.make_sparse_tensor(values, pairs, [8, 8])),
        h.make_node("Add", ["x", "s"], ["z"]),
        h.make_node("Mul", ["z", "k"], ["y"]),
    ]
    path = model_of(tmp_path / "net.onnx", *nodes)
    model = onnx.load(path)
    model.graph.sparse_initializer.append(h.make_sparse_tensor(values, flat, [3, 1, 1]))
    onnx.save(model, path)
    computes_what_onnx_runtime_does(path, np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))
    flat.int64_data[0] = 3
    model.graph.sparse_initializer[0].indices.CopyFrom(flat)
    onnx.save(model, path)
    with pytest.raises(TvmMobilenetError, match="k is sparse, and damaged"):
        from_onnx(path)


def test_a_fault_of_ours_is_not_called_one_of_the_file(tmp_path, monkeypatch):
    def fault(model):
        raise KeyError("ours")

    monkeypatch.setattr("tvm_mobilenet.frontend.onnx_widened.widen", fault)
    with pytest.raises(TvmMobilenetError, match=r"cannot be imported: .*ours") as told:
        from_onnx(model_of(tmp_path / "net.onnx", h.make_node("Relu", ["x"], ["y"])))
    assert "not a whole" not in str(told.value)


def sub(name, *nodes, outputs=("a",)):
    return h.make_graph(list(nodes), name, [], [h.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs])


def test_an_if_of_a_shape_is_the_branch_that_runs(tmp_path):
    """PyTorch writes one for a squeeze. Both branches name their values alike, and read what stands around them."""
    same = h.make_node("Identity", ["near"], ["a"])
    inner = h.make_node(
        "If",
        ["square"],
        ["a"],
        then_branch=sub("yes", h.make_node("Mul", ["near", "near"], ["b"]), outputs=("b",)),
        else_branch=sub("no", h.make_node("Identity", ["near"], ["b"]), outputs=("b",)),
    )
    nodes = [
        h.make_node("Abs", ["x"], ["n"]),
        h.make_node("Identity", ["n"], ["near"]),
        h.make_node("Shape", ["x"], ["shape"]),
        h.make_node("Gather", ["shape", "three"], ["width"]),
        h.make_node("Equal", ["width", "eight"], ["square"]),
        h.make_node("Less", ["width", "eight"], ["small"]),
        *(
            h.make_node("If", ["small"], [y], then_branch=sub("yes", same), else_branch=sub("no", inner))
            for y in ("y", "z")
        ),
    ]
    constants = [("three", np.array(3)), ("eight", np.array(8))]
    path = model_of(tmp_path / "net.onnx", *nodes, constants=constants, outputs=("y", "z"))
    computes_what_onnx_runtime_does(path, np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))


def test_functions_of_a_file_are_inlined_and_nodes_out_of_order_are_moved(tmp_path):
    path = model_of(
        tmp_path / "net.onnx", h.make_node("Neg", ["s"], ["y"]), h.make_node("HS", ["x"], ["s"], domain="own")
    )
    model = onnx.load(path)
    body = [h.make_node("HardSigmoid", ["a"], ["g"], alpha=1 / 6), h.make_node("Mul", ["a", "g"], ["b"])]
    opset = h.make_opsetid("", 13)
    model.functions.append(h.make_function("own", "HS", ["a"], ["b"], body, [opset]))
    model.opset_import.append(h.make_opsetid("own", 1))
    onnx.save(model, path)
    computes_what_onnx_runtime_does(path, np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))

    calls = [h.make_node("F9", ["x"], ["y"], domain="own")]
    del model.graph.node[:], model.functions[:]
    model.graph.node.extend(calls)
    for i in range(10):  # each calls the one before ten times
        names = ["a", *(f"t{j}" for j in range(9)), "b"]
        kind = {"op_type": f"F{i - 1}", "domain": "own"} if i else {"op_type": "Abs"}
        steps = [h.make_node(inputs=[a], outputs=[b], **kind) for a, b in itertools.pairwise(names)]
        model.functions.append(h.make_function("own", f"F{i}", ["a"], ["b"], steps, [opset, h.make_opsetid("own", 1)]))
    onnx.save(model, path)
    with pytest.raises(TvmMobilenetError, match="with its functions the graph has more than"):
        from_onnx(path)


@pytest.mark.parametrize(
    "nodes, words",
    [
        ([h.make_node("NonZero", ["x"], ["y"], "where")], "NonZero at where is not supported: the shape of its output"),
        (
            [h.make_node("Abs", ["x"], ["y"]), h.make_node("Neg", ["x"], ["y"], "again")],
            "y .made by Neg again. is made",
        ),
        (
            [
                h.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
                h.make_node("Less", ["m", "m"], ["c"]),
                h.make_node("If", ["c"], ["y"], "fork", then_branch=sub("t", outputs=("x",)), else_branch=sub("e")),
            ],
            "If at fork is not supported: what it runs depends on data",
        ),
    ],
)
def test_what_depends_on_data_and_what_is_made_twice_is_named(nodes, words, tmp_path):
    with pytest.raises(TvmMobilenetError, match=words):
        from_onnx(model_of(tmp_path / "net.onnx", *nodes))


def test_inputs_of_any_rank_and_dtype_are_built_and_verified(tmp_path):
    """A mask, indices, a signal, one number: as in files that are more than a classifier. A bad index reads inside."""
    shapes = {"b": ("BOOL", (1, 1, 4)), "i": ("INT64", (2, 2)), "n": ("INT32", (5,)), "s": ("FLOAT", (1, 3, 4))}
    shapes["d"] = ("DOUBLE", (1, 2))
    nodes = [
        h.make_node("Where", ["b", "s", "half"], ["masked"]),
        h.make_node("Gather", ["table", "i"], ["rows"]),
        h.make_node("Cast", ["n"], ["numbers"], to=TensorProto.FLOAT),
        h.make_node("Conv", ["s", "w"], ["signal"]),
        h.make_node("Mul", ["d", "d"], ["squares"]),
    ]
    draw = np.random.default_rng(0)
    table, weight = (draw.standard_normal(shape).astype(np.float32) for shape in ((8, 3), (2, 3, 3)))
    path = model_of(
        tmp_path / "net.onnx",
        *nodes,
        constants=[("half", np.float32(0.5)), ("table", table), ("w", weight)],
        outputs=("masked", "rows", "numbers", "signal", "squares"),
    )
    model = onnx.load(path)
    del model.graph.input[:]
    model.graph.input.extend(
        h.make_tensor_value_info(name, getattr(TensorProto, dtype), shape) for name, (dtype, shape) in shapes.items()
    )
    model.graph.output[-1].type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(model, path)
    build.build(ModelOptions(model=str(path)), targets.load("host"), output=tmp_path / "out")
    assert verify.verify(tmp_path / "out", board="local").ok
    with Instance(tmp_path / "out" / "libmobilenet.so", tmp_path / "out" / "parameters.bin") as net:
        net.inputs[1][...] = [[-1, 7], [8, 1 << 40]]
        net.run()
        assert (net.outputs[1] == table[-1]).all()


def test_an_input_of_bytes_is_the_bytes_of_an_image(tmp_path):
    """As TensorFlow's detectors take it. Mean and std would else turn it into numbers that no byte holds."""
    nodes = [
        h.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        h.make_node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]),
        h.make_node("Conv", ["t", "w"], ["y"]),
    ]
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    path = model_of(tmp_path / "net.onnx", *nodes, constants=[("w", weight)], shape=(1, 16, 16, 3))
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(model, path)
    network = load_network(ModelOptions(model=str(path)))
    ((image,),) = network.inputs(1)
    assert image.dtype == np.uint8 and int(image.max()) - int(image.min()) > 100
    found = port_tables.of(network, pipeline.compile(network, targets.load("host")).plan)["input"]
    assert found["values"] == [*range(256)] * 3 and found["bytes"] == 1


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_files_of_old_opsets_are_converted(opset, tmp_path):
    """ONNX's converter leaves a resize its default positions, which are others in opset 11."""
    resize = {
        7: h.make_node("Upsample", ["p"], ["y"], mode="linear", scales=[1.0, 1.0, 2.0, 2.0]),
        9: h.make_node("Upsample", ["p", "s"], ["y"], mode="linear"),
        10: h.make_node("Resize", ["p", "s"], ["y"], mode="linear"),
    }[opset]
    nodes = h.make_node("Clip", ["x"], ["c"], min=0.0, max=1.0), h.make_node("Pad", ["c"], ["p"], pads=[0, 0, 1, 1] * 2)
    path = model_of(tmp_path / "net.onnx", *nodes, resize, constants=[("s", np.array([1, 1, 2, 2], np.float32))])
    model = onnx.load(path)
    model.opset_import[0].version = opset
    onnx.save(model, path)
    graph = passes.run(from_onnx(path))
    assert [call.layer.op for call in graph.calls if call.layer.size] == ["asymmetric"]


def test_pads_and_normalisation_of_nhwc_move_before_the_transpose(tmp_path):
    """As TensorFlow's exporters write them: no copy is left between the input and the first convolution's data."""
    draw = np.random.default_rng(0)
    path = model_of(
        tmp_path / "net.onnx",
        h.make_node("Mul", ["x", "a"], ["m"]),
        h.make_node("Add", ["m", "b"], ["n"]),
        h.make_node("Pad", ["n", "p"], ["q"]),
        h.make_node("Transpose", ["q"], ["t"], perm=[0, 3, 1, 2]),
        h.make_node("Conv", ["t", "w"], ["y"], strides=[2, 2]),
        constants=[
            ("a", np.float32(1 / 127.5)),
            ("b", np.array([-1, -0.5, 0.25], np.float32)),
            ("p", np.array([0, 0, 0, 0, 0, 1, 1, 0], np.int64)),
            ("w", draw.standard_normal((4, 3, 3, 3)).astype(np.float32)),
        ],
        shape=(1, 16, 16, 3),
    )
    graph = passes.run(from_onnx(path))
    assert [call.layer.kind for call in graph.calls] == ["depthwise", "conv"]
    assert graph.calls[1].layer.padding == (0, 0, 1, 1)
    build.build(ModelOptions(model=str(path)), targets.load("rpi4"), output=tmp_path / "out")
    assert verify.verify(tmp_path / "out").ok
