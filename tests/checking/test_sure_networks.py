"""Networks that are sure of their answer: their outputs hardly differ from photograph to photograph.

A trained classifier is like that, and so is a detector that sees nothing. Verification must accept them, find mistakes
in them all the same, and refuse a network whose output does not depend on its input at all.
"""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.planting import Copy, instructions, minus, with_executed
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.checking import tolerance
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import VerificationError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions

TARGET = targets.load("rpi4")
node = helper.make_node
SOFTMAX = [node("Softmax", ["d"], ["y"], axis=1)]
SIGMOID = [node("Sigmoid", ["d"], ["y"])]
RELU = [node("Relu", ["d"], ["y"])]
RELU6 = [node("Clip", ["d", "zero", "six"], ["y"])]
HARDSIGMOID = [node("HardSigmoid", ["d"], ["y"], alpha=1 / 6, beta=0.5)]
SPELLED_HARDSIGMOID = [
    node("Add", ["d", "three"], ["d3"]),
    node("Clip", ["d3", "zero", "six"], ["d6"]),
    node("Div", ["d6", "six"], ["y"]),
]
NOTHING = [node("Identity", ["d"], ["y"])]


def save(path, nodes, weights, outputs=("y",)):
    """A convolution, ReLU and pool of a 32 x 32 image: ``r`` (1, 8, 16, 16), ``f`` (1, 8); then ``nodes``."""
    w1 = (np.random.default_rng(0).standard_normal((8, 3, 3, 3)) / 5).astype(np.float32)
    stem = [
        node("Conv", ["x", "w1"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
    ]
    scalars = {"zero": np.float32(0), "three": np.float32(3), "six": np.float32(6)}
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in {"w1": w1, **scalars, **weights}.items()]
    graph = helper.make_graph(
        stem + nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 32, 32))],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)


def dense(bias, scale=0.2, name="d"):
    """A dense layer of ``f``: its node and its weights."""
    bias = np.asarray(bias, np.float32)
    weight = (np.random.default_rng(1).standard_normal((len(bias), 8)) * scale).astype(np.float32)
    return [node("Gemm", ["f", f"w{name}", f"b{name}"], [name], transB=1)], {f"w{name}": weight, f"b{name}": bias}


def dense_then(end, bias, scale=0.2):
    nodes, weights = dense(bias, scale)
    return nodes + end, weights


def feature_map_then(end, bias):
    weight = (np.random.default_rng(3).standard_normal((len(bias), 8, 1, 1)) * 0.3).astype(np.float32)
    return [node("Conv", ["r", "wd", "bd"], ["d"]), *end], {"wd": weight, "bd": np.float32(bias)}


def transposed_then(end, bias):
    """Twice the size: each pixel becomes four, which another layer moves to their places."""
    weight = (np.random.default_rng(3).standard_normal((8, 1, 2, 2)) * 0.3).astype(np.float32)
    nodes = [node("ConvTranspose", ["r", "wd", "bd"], ["d"], strides=[2, 2]), *end]
    return nodes, {"wd": weight, "bd": np.float32([bias])}


SURE = {
    "two classes, 0.99999": dense_then(SOFTMAX, [6, -6]),
    "two classes, 1.0 and 0.0": dense_then(SOFTMAX, [100, -100]),
    "twenty classes, one of them": dense_then(SOFTMAX, [30] + [0] * 19, 0.05),
    "sigmoids near 0 and 1": dense_then(SIGMOID, [12, -12]),
    "one sigmoid, 1.0": dense_then(SIGMOID, [30]),
    "one sigmoid, 1e-13": dense_then(SIGMOID, [-30]),
    "hard sigmoids at 0 and 1": dense_then(HARDSIGMOID, [6, -6]),
    "hard sigmoids spelled out": dense_then(SPELLED_HARDSIGMOID, [6, -6]),
    "one number, 0 to every photograph": dense_then(RELU, [-3]),
    "relu6 at 0 and 6": dense_then(RELU6, [60, -60, 60]),
    "one number near 100": dense_then(NOTHING, [100]),
    "one number": dense_then(NOTHING, [0]),
    "softmax of every position": feature_map_then(SOFTMAX, [8, -8, 0, 0]),
    "sigmoid of every position": feature_map_then(SIGMOID, [12, -12, 0]),
    "sigmoid of a transposed convolution, 1e-11": transposed_then(SIGMOID, -25),
    "zeros at every position": feature_map_then(RELU, [-20, -20, -20]),
}


SOME = (  # of every default run; the others where all tests are run
    "two classes, 0.99999",
    "one sigmoid, 1.0",
    "relu6 at 0 and 6",
    "zeros at every position",
)
KINDS = [pytest.param(name, marks=() if name in SOME else pytest.mark.full) for name in SURE]
PLANTED = [pytest.param(name, marks=() if name in SOME[1:3] else pytest.mark.full) for name in SURE]


@pytest.fixture(scope="module")
def built_for(tmp_path_factory):
    """Builds a network of this file once: what ``planting.with_executed`` gives."""
    known = {}

    def made(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("sure")
            save(folder / "m.onnx", *SURE[name])
            network = load_network(ModelOptions(model=str(folder / "m.onnx")))
            build.build(network.options, TARGET, output=folder / "built", network=network)
            known[name] = with_executed(network, folder / "built", TARGET)
        return known[name]

    return made


def last_sum(made) -> int:
    """The step of the last layer with weights."""
    return max(i for i, step in enumerate(made.steps) if Layer.parse(step.layer).weight_shape)


def with_layers(network, calls):
    """The network with other calls of its layers."""
    return dataclasses.replace(network, graph=dataclasses.replace(network.graph, calls=tuple(calls)))


@pytest.mark.parametrize("name, count", [pytest.param(*k.values, 1, marks=k.marks) for k in KINDS] + [(SOME[3], 3)])
def test_a_sure_network_is_accepted(built_for, name, count):
    made = built_for(name)
    result = verify.verify(made.folder, network=made.network, count=count)
    result.require()
    assert not result.outputs[0].constant and 0 <= result.outputs[0].relative < result.outputs[0].tolerance


@pytest.mark.parametrize("name", PLANTED)
def test_an_instruction_of_its_last_layer_that_subtracts_is_found(built_for, tmp_path, name):
    made = built_for(name)
    step = last_sum(made)
    found = instructions(made, step, "fmla") + instructions(made, step, "fmadd")
    copy = Copy(made, tmp_path / "copy")
    copy.word(found[len(found) // 2], minus)
    copy.named(step)


@pytest.mark.parametrize("name", PLANTED)
def test_a_weight_of_its_last_layer_one_percent_off_is_found(built_for, tmp_path, name):
    """In the module's constants, and imported wrongly: then constants and code agree, and only the outputs tell."""
    made = built_for(name)
    step = last_sum(made)
    copy = Copy(made, tmp_path / "copy")
    copy.weight(step, 0.01)
    copy.named(step)

    *_, last = [i for i, call in enumerate(made.network.layers) if call.weight is not None]
    weight = made.network.layers[last].weight.copy()
    weight.flat[np.abs(weight).argmax()] *= 1.01
    layers = [c.replace(weight=weight) if i == last else c for i, c in enumerate(made.network.layers)]
    wrong = with_layers(made.network, layers)
    build.build(wrong.options, TARGET, output=tmp_path / "wrong", network=wrong)
    result = verify.verify(tmp_path / "wrong", network=wrong, count=2)
    assert result.first_wrong is None and not result.outputs[0].ok
    with pytest.raises(VerificationError, match="imported wrongly"):
        result.require()


CONSTANT = {
    "weights of zero": dense_then(NOTHING, [1, 2], 0),
    "weights of nearly zero, behind a softmax": dense_then(SOFTMAX, [6, -6], 1e-12),
    "zeros": dense_then(RELU, [-6, -6], 0),
    "sixes": dense_then(RELU6, [60, 60], 0),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "sixes" else pytest.mark.full) for name in CONSTANT]
)
def test_a_network_that_does_not_depend_on_its_input_is_refused(tmp_path, name):
    save(tmp_path / "m.onnx", *CONSTANT[name])
    network = load_network(ModelOptions(model=str(tmp_path / "m.onnx")))
    build.build(network.options, TARGET, output=tmp_path / "built", network=network)
    photo, *_ = network.inputs(1)
    for inputs in ([photo], [photo] * 3, network.inputs(2)):
        with pytest.raises(VerificationError, match="same for every input") as refused:
            verify.verify(tmp_path / "built", network=network, inputs=inputs)
        assert "--weights" not in refused.value.hint, "a file brings its own"
        assert ("--mean and --std" in refused.value.hint) == (network.image is not None)
    with pytest.raises(VerificationError, match="same for every input"):
        build.build(network.options, TARGET, output=tmp_path / "b", network=network, bundle=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_of_several_outputs_one_may_be_constant_and_is_compared(tmp_path):
    (one, weights), (two, constant) = dense([0, 1, 2]), dense([1, 2], 0, "e")
    save(tmp_path / "m.onnx", one + two, {**weights, **constant}, ("d", "e"))
    network = load_network(ModelOptions(model=str(tmp_path / "m.onnx")))
    build.build(network.options, TARGET, output=tmp_path / "built", network=network)
    result = verify.verify(tmp_path / "built", network=network)
    result.require()
    assert [o.constant for o in result.outputs] == [False, True] and "same for every input" in result.summary()
    step = max(i for i, call in enumerate(network.layers) if call.weight is not None and not call.weight.any())
    layers = [c.replace(bias=c.bias * 1.001) if i == step else c for i, c in enumerate(network.layers)]
    wrong = with_layers(network, layers)
    build.build(wrong.options, TARGET, output=tmp_path / "wrong", network=wrong)
    assert [o.ok for o in verify.verify(tmp_path / "wrong", network=wrong).outputs] == [True, False]


def test_a_layer_that_gives_zeros_for_every_photograph_is_checked_by_itself(tmp_path):
    """Nothing of its sum shows in the network's outputs; the other branch keeps them moving."""
    nodes, weights = feature_map_then([node("Relu", ["d"], ["a"])], [-20, -20, -20, -20])
    weights["we"] = (np.random.default_rng(4).standard_normal((4, 4, 3, 3)) * 0.3).astype(np.float32)
    nodes += [node("Conv", ["a", "we"], ["e"], pads=[1, 1, 1, 1]), node("Add", ["e", "d"], ["y"])]
    save(tmp_path / "m.onnx", nodes, weights)
    network = load_network(ModelOptions(model=str(tmp_path / "m.onnx")))
    build.build(network.options, TARGET, output=tmp_path / "built", network=network)
    made = with_executed(network, tmp_path / "built", TARGET)
    verify.verify(made.folder, network=network).require()
    step = last_sum(made)
    copy = Copy(made, tmp_path / "copy")
    found = instructions(made, step, "fmla")
    copy.word(found[len(found) // 2], minus)
    copy.named(step)


def test_a_tolerance_is_carried_through_the_activation():
    z = np.array([0.0, 12.0, -12.0])
    allowed = tolerance.carried("sigmoid", z, np.full(3, 1e-3))
    assert allowed[0] == pytest.approx(2.5e-4, rel=0.01) and allowed[1] < 4e-7 and allowed[2] < 1e-8
    assert tolerance.carried("relu", np.array([-1.0, 1.0]), np.full(2, 1e-3)) == pytest.approx([0, 1e-3], abs=1e-6)
    assert relative(np.array([np.nan]), np.zeros(1), np.ones(1)) == float("inf")


@pytest.mark.parametrize("function", ["sigmoid", "silu"])
def test_a_sigmoid_of_huge_values_ends_where_reciprocals_of_kernels_do(function):
    """Saturated gates failed verification for 2**-125 in place of a smaller number."""
    values = np.array([-200.0, -1000.0])
    found = 2.0**-125 * np.abs(values) ** (function == "silu")
    assert (tolerance.carried(function, values, np.full(2, 1e-6)) > found).all()


def test_a_silu_may_lose_what_is_smaller_than_any_number_of_its_dtype():
    """Networks with values below -88 failed verification for outputs of 1e-37 that are 0; twenty times larger ones are
    still compared by their own size."""
    values = np.array([-90.0, -60.0, -20.0, 1.0])
    exact = values / (1 + np.exp(-values))
    allowed = tolerance.carried("silu", values, np.full(4, 1e-6))
    assert allowed[0] >= abs(exact[0]) and (allowed[1:] < 1e-5 * abs(exact[1:])).all()
