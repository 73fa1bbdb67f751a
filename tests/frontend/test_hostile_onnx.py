# ruff: noqa: E501
"""An ONNX file comes from anybody: what it declares is held against limits before memory or time is spent on it."""

import contextlib
import os
import time

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from tests.support.memory import at_most, peak_below
from tvm_mobilenet import frontend, passes
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import onnx_file, onnx_wire

node = helper.make_node
RNG = np.random.default_rng(0)


def saved(path, nodes, constants=(), shape=(1, 3, 8, 8), output="y", **fields):
    """A graph whose last node gives ``y``."""
    constants = {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32), **dict(constants)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for field, value in fields.items():
        getattr(model, field).extend(value)
    onnx.save(model, path)
    return path


def refused(path, words=".", **options):
    """What is said of a file that is refused within 2 GiB and a few seconds."""
    started = time.process_time()
    with at_most(2 << 30), peak_below(800 << 20), pytest.raises(TvmMobilenetError, match=words) as e:
        frontend.load(path, **options)
    assert "memory" not in str(e.value).lower() or "allocate" not in str(e.value).lower()
    assert time.process_time() - started < 30
    return str(e.value)


BIG = np.array([40_000, 40_000], np.int64)
LAST = node("Add", ["x", "big"], ["y"])
BOMBS = {  # operators of constants, each with constants that make it huge
    "ConstantOfShape": ([node("ConstantOfShape", ["s"], ["big"])], {"s": BIG}),
    "ConstantOfShape in a Constant": ([node("Constant", [], ["s"], value_ints=[1 << 31, 1 << 31]), node("ConstantOfShape", ["s"], ["big"])], {}),
    "Expand": ([node("Expand", ["a", "s"], ["big"])], {"a": np.float32([1]), "s": BIG}),
    "Tile": ([node("Tile", ["a", "s"], ["big"])], {"a": np.float32([[1]]), "s": BIG}),
    "Range": ([node("Range", ["a", "b", "c"], ["big"])], {"a": np.float32(0), "b": np.float32(3e9), "c": np.float32(1)}),
    "Range of small steps": ([node("Range", ["a", "b", "c"], ["big"])], {"a": np.float32(0), "b": np.float32(1), "c": np.float32(1e-9)}),
    "Range that inference counts": ([node("Range", ["a", "b", "c"], ["r"]), node("Cast", ["r"], ["big"], to=1)], {"a": np.int64(0), "b": np.int64(1 << 40), "c": np.int64(1)}),
    "sparse Constant": ([node("Constant", [], ["big"], sparse_value=helper.make_sparse_tensor(numpy_helper.from_array(np.float32([1]), "v"), numpy_helper.from_array(np.array([0]), "i"), [1 << 33]))], {}),
    "texts": ([node("ConstantOfShape", ["s"], ["z"]), node("Cast", ["z"], ["t"], to=TensorProto.STRING), node("Cast", ["t"], ["big"], to=1)], {"s": np.array([8_000_000])}),
    "Pad": ([node("Pad", ["a", "s"], ["big"])], {"a": np.float32([[1]]), "s": np.array([0, 0, 40_000, 40_000])}),
    "Pad with negative widths": ([node("Pad", ["a", "s"], ["big"])], {"a": np.zeros((1, 9), np.float32), "s": np.array([40_000, 40_000, 40_000, -9])}),
    "broadcast": ([node("Add", ["a", "b"], ["big"])], {"a": np.zeros((40_000, 1), np.float32), "b": np.zeros(40_000, np.float32)}),
    "Where": ([node("Where", ["c", "a", "b"], ["big"])], {"c": np.zeros((1, 30_000, 1), bool), "a": np.zeros((30_000, 1, 1), np.float32), "b": np.zeros(9, np.float32)}),
    "MatMul": ([node("MatMul", ["a", "b"], ["big"])], {"a": np.zeros((40_000, 1), np.float32), "b": np.zeros((1, 40_000), np.float32)}),
    "Gemm": ([node("Gemm", ["a", "b"], ["big"])], {"a": np.zeros((40_000, 1), np.float32), "b": np.zeros((1, 40_000), np.float32)}),
    "Gather": ([node("Gather", ["a", "i"], ["big"])], {"a": np.zeros((2, 40_000), np.float32), "i": np.zeros(40_000, np.int64)}),
    "GatherND": ([node("GatherND", ["a", "i"], ["big"])], {"a": np.zeros((2, 40_000), np.float32), "i": np.zeros((40_000, 1), np.int64)}),
    "OneHot": ([node("OneHot", ["i", "d", "v"], ["big"])], {"i": np.zeros(40_000, np.int64), "d": np.array([40_000]), "v": np.float32([0, 1])}),
    "EyeLike": ([node("ConstantOfShape", ["s"], ["z"]), node("EyeLike", ["z"], ["big"])], {"s": BIG}),
    "RandomNormal": ([node("RandomNormal", [], ["big"], shape=[40_000, 40_000])], {}),
    "HannWindow": ([node("HannWindow", ["n"], ["big"])], {"n": np.array(3_000_000_000)}),
    "Resize": ([node("Resize", ["a", "", "s"], ["big"])], {"a": np.zeros((1, 1, 2, 2), np.float32), "s": np.float32([1, 1, 20_000, 20_000])}),
    "many Tiles": ([node("Tile", ["a" if not i else f"t{i - 1}", "s"], [f"t{i}"]) for i in range(30)] + [node("Identity", ["t29"], ["big"])], {"a": np.float32([1]), "s": np.array([4])}),
    "many constants": ([node("ConstantOfShape", ["s"], [f"z{i}"]) for i in range(400)] + [node("Sum", [f"z{i}" for i in range(400)], ["big"])], {"s": np.array([4 << 20])}),
    "Concat of itself": ([node("Concat", [("a" if not i else f"c{i - 1}")] * 8, [f"c{i}"], axis=0) for i in range(12)] + [node("Identity", ["c11"], ["big"])], {"a": np.float32([1])}),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_constant_of_gigabytes_is_refused(tmp_path, kind):
    nodes, constants = BOMBS[kind]
    said = refused(saved(tmp_path / "m.onnx", [*nodes, LAST], constants))
    assert "m.onnx" in said or "MiB" in said


DATA = {  # the same with the network's input
    "Expand": ([node("Expand", ["x", "s"], ["y"])], {"s": np.array([1, 3, 8, 8 * 10**8])}, (1, 3, 8, 1)),
    "Tile": ([node("Tile", ["x", "s"], ["y"])], {"s": np.array([1, 1, 40_000, 40_000])}, (1, 3, 8, 8)),
    "Pad": ([node("Pad", ["x", "s"], ["y"])], {"s": np.array([0, 0, 40_000, 40_000, 0, 0, 0, 0])}, (1, 3, 8, 8)),
    "Resize": ([node("Resize", ["x", "", "s"], ["y"])], {"s": np.float32([1, 1, 9_000, 9_000])}, (1, 3, 8, 8)),
    "ConvTranspose": ([node("ConvTranspose", ["x", "k"], ["y"], strides=[30_000, 30_000])], {"k": np.zeros((3, 4, 3, 3), np.float32)}, (1, 3, 8, 8)),
    "padded Conv": ([node("Conv", ["x", "w"], ["y"], pads=[40_000] * 4)], {}, (1, 3, 8, 8)),
    "input": ([node("Conv", ["x", "w"], ["y"])], {}, (1, 3, 100_000, 100_000)),
    "input beyond 64 bits": ([node("Conv", ["x", "w"], ["y"])], {}, (1, 3, 1 << 62, 1 << 62)),
}  # fmt: skip


@pytest.mark.parametrize("kind", DATA)
def test_a_value_of_gigabytes_is_refused(tmp_path, kind):
    nodes, constants, shape = DATA[kind]
    refused(saved(tmp_path / "m.onnx", nodes, constants, shape))


@pytest.mark.parametrize("count", [20_000, 200_000])
def test_a_graph_of_thousands_of_nodes_is_refused_at_once(tmp_path, count):
    nodes = [node("Relu", ["x" if not i else f"r{i - 1}"], [f"r{i}"]) for i in range(count)]
    started = time.process_time()
    path = saved(tmp_path / "m.onnx", nodes, output=f"r{count - 1}")
    making = time.process_time() - started
    refused(path, "more than (5,000 nodes|400,000 parts)")
    assert time.process_time() - started - making < 5


def message(number: int, data: bytes) -> bytes:
    """A field of a serialized message."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    return bytes([value & 127]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


MANY = 3_000_000
PARTS = {  # two bytes each, of which a parser makes a hundred
    "nodes": message(7, b"\x0a\0" * MANY), "attributes": message(7, message(1, b"\x2a\0" * MANY)),
    "names of inputs": message(7, message(1, b"\x0a\0" * MANY)), "metadata": b"\x72\0" * MANY,
    "numbers": message(7, message(5, b"\x08\1" * MANY)), "opsets": b"\x42\0" * MANY,
}  # fmt: skip


@pytest.mark.parametrize("kind", PARTS)
def test_parts_are_counted_before_they_are_parsed(tmp_path, kind):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08" + PARTS[kind])
    with peak_below(160 << 20):
        assert "parts" in refused(path)


def test_what_is_counted_is_what_the_parser_takes(tmp_path):
    """Damaged at any byte, a file that the count takes is parsed or refused in words, and a whole one is taken."""
    path = saved(tmp_path / "m.onnx", [node("Conv", ["x", "w"], ["y"])])
    data = path.read_bytes()
    onnx_wire.check_parts(data, onnx.ModelProto.DESCRIPTOR)
    for at in range(len(data)):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 0x85]) + data[at + 1 :]):
            try:
                onnx.ModelProto.FromString(changed)
            except DecodeError:
                continue
            with contextlib.suppress(ValueError):  # groups, which no ONNX file has
                onnx_wire.check_parts(changed, onnx.ModelProto.DESCRIPTOR)


def test_nodes_of_inner_graphs_count(tmp_path):
    inner = helper.make_graph(
        [node("Relu", ["x"], [f"r{i}"]) for i in range(6_000)], "b", [], [helper.make_tensor_value_info("r1", 1, None)]
    )
    chosen = node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    refused(saved(tmp_path / "m.onnx", [chosen], {"c": np.array(True)}), "more than 5,000 nodes")


def test_long_names_are_refused(tmp_path):
    long = "n" * 200_000
    refused(saved(tmp_path / "m.onnx", [node("Conv", ["x", "w"], [long]), node("Relu", [long], ["y"])]), "200,000 char")
    refused(saved(tmp_path / "m.onnx", [node("Conv", ["x", "w"], ["y"], long)]), "a name has 200,000 characters")
    refused(saved(tmp_path / "m.onnx", [node("Conv", ["x", "w"], ["y"])], shape=(long, 3, 8, 8)), "a name has 200,000")


@pytest.mark.parametrize("through", ["", "If"])
def test_functions_that_call_themselves_are_refused(through, tmp_path):
    call = node("F", ["a"], ["b"], domain="own")
    if through:
        branch = helper.make_graph([call], "g", [], [helper.make_tensor_value_info("b", 1, None)])
        call = node("If", ["a"], ["b"], then_branch=branch, else_branch=branch)
    again = helper.make_function("own", "F", ["a"], ["b"], [call], [helper.make_opsetid("own", 1)])
    path = saved(
        tmp_path / "m.onnx",
        [node("F", ["x"], ["y"], domain="own")],
        functions=[again],
        opset_import=[helper.make_opsetid("own", 1)],
    )
    refused(path, "calls itself")


def test_sparse_initialisers_are_refused(tmp_path):
    path = saved(tmp_path / "m.onnx", [node("Conv", ["x", "w"], ["y"])])
    model = onnx.load(path)
    values = numpy_helper.from_array(np.float32([1]), "huge")
    indices = numpy_helper.from_array(np.array([0]), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 40]))
    onnx.save(model, path)
    refused(path, "sparse")


@pytest.mark.parametrize(
    "place",
    ["../secret", "/etc/passwd", "a/../../secret", "link", "folder/secret", "", "missing", "model.onnx\0", "pipe"],
)
def test_external_data_stay_in_the_models_folder(tmp_path, place):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    path = saved(folder / "m.onnx", [node("Conv", ["x", "w"], ["y"])])
    model = onnx.load(path)
    (weights,) = model.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=place)
    path.write_bytes(model.SerializeToString())
    refused(path, "outside of the model's folder|not a file")


@pytest.mark.parametrize(
    ("offset", "length"), [("0", "999999999999"), ("999999999999", "4"), ("-5", "4"), ("x", "y"), ("0", "-7")]
)
def test_external_data_beyond_their_file_are_refused(tmp_path, offset, length):
    path = saved(tmp_path / "m.onnx", [node("Conv", ["x", "w"], ["y"])])
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert frontend.load(path)["main"]
    model = onnx.load(path, load_external_data=False)
    del model.graph.initializer[0].external_data[1:]
    for key, value in (("offset", offset), ("length", length)):
        model.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    refused(path, "too short")


BROKEN = {  # each breaks one rule of ONNX
    "no outputs": [node("Relu", ["x"], []), node("Relu", ["x"], ["y"])],
    "no inputs": [node("Shape", [], ["s"]), node("Relu", ["x"], ["y"])],
    "stride 0": [node("Conv", ["x", "w"], ["y"], strides=[0, 0], auto_pad="SAME_UPPER")],
    "group 0": [node("Conv", ["x", "w"], ["y"], group=0)],
    "perm outside": [node("Transpose", ["x"], ["t"], perm=[0, 7, 8, 9]), node("Conv", ["t", "w"], ["y"])],
    "perm is text": [node("Transpose", ["x"], ["t"], perm="abc"), node("Conv", ["t", "w"], ["y"])],
    "group is text": [node("Conv", ["x", "w"], ["y"], group="abc")],
    "kernel of other rank": [node("Conv", ["x", "w"], ["y"], kernel_shape=[3] * 50)],
    "unknown operator": [node("NoSuchThing", ["x"], ["y"])],
    "a loop": [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])],
    "made twice": [node("Relu", ["x"], ["y"]), node("Relu", ["y"], ["y"])],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_graph_that_breaks_a_rule_ends_in_a_message_or_is_imported(tmp_path, kind):
    path = saved(tmp_path / "m.onnx", BROKEN[kind])
    try:
        frontend.load(path)
    except TvmMobilenetError as e:
        assert (e.exit_code == 2 and "m.onnx" in str(e)) or "not supported" in str(e)


def test_control_characters_of_names_are_written_out(tmp_path):
    path = saved(
        tmp_path / "m.onnx", [node("Conv", ["x", "w"], ["y\x1b[2J"], "conv\x1b]0;owned\x07\n")], output="y\x1b[2J"
    )
    main = frontend.load(path)["main"]
    texts = [*main.attrs["outputs"], *main.attrs["sources"].values()]
    assert texts and all(str(t).isprintable() for t in texts)
    with pytest.raises(TvmMobilenetError) as e:
        onnx_file.from_onnx(saved(tmp_path / "n.onnx", [node("Conv", ["a\x1b[2J", "w"], ["y"])]))
    assert "n.onnx" in str(e.value)


def test_nothing_of_a_graph_is_printed(tmp_path, capfd):
    path = saved(tmp_path / "m.onnx", [node("Conv", ["x", "w"], ["c"]), node("No\x1b[2J", ["c"], ["y"])])
    with pytest.raises(TvmMobilenetError):
        passes.run(frontend.load(path))
    out, err = capfd.readouterr()
    assert not out and err.replace("\n", "").isprintable()
