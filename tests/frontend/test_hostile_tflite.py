"""A TFLite file comes from anybody: what it declares is held against limits before memory or time is spent on it."""

import struct
import time

import numpy as np
import pytest

from tests.frontend.test_tflite_quantized import network
from tests.support.memory import at_most, peak_below
from tests.support.tflite_files import Net
from tvm_mobilenet import frontend, passes
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import flatbuffer, tflite_graph

SHAPE = (1, 8, 8, 3)


def refused(path, words=".", **options):
    """What is said of a file that is refused within 2 GiB and a few seconds."""
    started = time.process_time()
    with at_most(2 << 30), peak_below(800 << 20), pytest.raises(TvmMobilenetError, match=words) as e:
        passes.run(frontend.load(path, **options))
    assert time.process_time() - started < 30 and e.value.hint
    return str(e.value)


def i(*values) -> np.ndarray:
    return np.array(values, np.int32)


def of_constants(name, shape, *constants, kind=None, dtype="float32", **options):
    """A graph that adds to its input what follows from constants."""

    def make(net):
        big = net.op(name, [net.constant(c) for c in constants], net.value(shape, dtype), kind, **options)
        return net.op("ADD", [net.input(SHAPE), big], net.value(shape), "Add")

    return make


def repeated(net):
    """A constant spread out again and again, by little each time."""
    made = net.constant(np.ones(1 << 10, np.float32))
    for _ in range(12):
        made = net.op("CONCATENATION", [made] * 4, net.value((1,)), "Concatenation", axis=0)
    return net.op("ADD", [net.input((1, 1)), made], net.value((1,)), "Add")


def shared(net):
    """A thousand constants that are the same megabyte."""
    x = net.input((1, 1 << 18))
    first = net.constant(np.ones((1, 1 << 18), np.float32))
    for _ in range(1000):
        other = net.value((1, 1 << 18))
        net.graph.tensors[other].buffer = net.graph.tensors[first].buffer
        x = net.op("MUL", [x, other], net.value((1, 1 << 18)), "Mul")
    return x


BOMBS = {
    "FILL": of_constants("FILL", (40_000, 40_000), i(40_000, 40_000), np.float32(1), kind="Fill"),
    "FILL, told to be small": of_constants("FILL", (1,), i(40_000, 40_000), np.float32(1), kind="Fill"),
    "BROADCAST_TO": of_constants("BROADCAST_TO", (1,), np.float32([1]), i(40_000, 40_000)),
    "MUL": of_constants("MUL", (1,), np.ones((40_000, 1), np.float32), np.ones((1, 40_000), np.float32), kind="Mul"),
    "GATHER": of_constants("GATHER", (1,), np.ones((1, 40_000), np.float32), np.zeros(40_000, np.int32), kind="Gather"),
    "CONCATENATION": repeated,
    "one constant a thousand times": shared,
    "TILE": lambda net: net.op("TILE", [net.input(SHAPE), net.constant(i(1, 9000, 9000, 1))], net.value((1,))),
    "PAD": lambda net: net.op(
        "PAD",
        [net.input(SHAPE), net.constant(i(0, 0, 1 << 20, 0, 1 << 20, 0, 0, 0).reshape(4, 2))],
        net.value((1,)),
        "Pad",
    ),
    "RESIZE_BILINEAR": lambda net: net.op(
        "RESIZE_BILINEAR", [net.input(SHAPE), net.constant(i(1 << 15, 1 << 15))], net.value((1,)), "ResizeBilinear"
    ),
    "an input": lambda net: net.op("RELU", [net.input((1, 1 << 16, 1 << 16, 3))], net.value((1,))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_fill_the_memory_is_refused(name, tmp_path):
    net = Net()
    path = net.save(tmp_path / "bomb.tflite", BOMBS[name](net))
    refused(path, "MiB|many times as large|makes the shape")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda net: net.op("RELU", [net.input(SHAPE)], net.value(SHAPE, name="n" * 5000)), None),
        (lambda net: net.op("RELU", [net.input((1,) * 40)], net.value((1,))), "40 dimensions"),
        (lambda net: net.op("RELU", [net.input((1, -3, 8, 3))], net.value((1,))), "the shape .1, -3"),
        (lambda net: net.op("RELU", [net.input(SHAPE)], 0), "written twice"),
        (lambda net: net.op("RELU", [net.value(SHAPE)], net.value(SHAPE)), "made by nothing|no inputs"),
        (lambda net: net.op("RELU", [net.input(SHAPE, "string")], net.value(SHAPE)), "is string"),
    ],
)
def test_what_no_network_has_is_refused(make, words, tmp_path):
    net = Net()
    path = net.save(tmp_path / "net.tflite", make(net))
    if words is None:  # a long name is cut
        assert len(tflite_graph.read(path).operators[0].place) <= limits.MOST_NAME
    else:
        refused(path, words)


def test_a_name_cannot_reach_the_terminal(tmp_path):
    net = Net()
    made = net.op("STABLEHLO_CASE", [net.input(SHAPE)], net.value(SHAPE, name="a\x1b[2Jb"))
    path = net.save(tmp_path / "net.tflite", made)
    assert "\x1b" not in refused(path, r"STABLEHLO_CASE at a\\x1b")


def test_a_file_that_is_cut_short_is_refused_wherever_it_ends(tmp_path):
    data = network(tmp_path / "whole.tflite", parts=()).read_bytes()
    path = tmp_path / "cut.tflite"
    for end in {0, 1, 7, 8, 12, *range(20, len(data) - 1, len(data) // 40)}:
        path.write_bytes(data[:end])
        refused(path, "cut short|empty|begin|damaged|bytes for")


def test_bytes_that_flip_are_refused_or_change_a_number(tmp_path):
    """Nothing but a message in plain words comes of a file that is damaged: no fault of Python's or of TVM's."""
    data, draw = network(tmp_path / "whole.tflite", parts=("gate", "pad")).read_bytes(), np.random.default_rng(5)
    path, said = tmp_path / "flipped.tflite", 0
    for _ in range(60):
        changed = bytearray(data)
        at = int(draw.integers(len(data) // 4)) * 4
        value = draw.choice([0, 0xFFFFFFFF, 0x7FFFFFFF, 1 << 31, 1 << 20, int(draw.integers(1 << 32))])
        changed[at : at + 4] = struct.pack("<I", int(value))
        path.write_bytes(changed)
        try:
            passes.run(frontend.load(path))
        except TvmMobilenetError as e:
            said += 1
            assert "\n    at" not in str(e) and len(str(e)) < 3000
    assert said > 20


@pytest.mark.parametrize("field", [1, 2, 4])
def test_a_vector_that_says_it_is_long_costs_nothing(field, tmp_path):
    """Operators' kinds, graphs or buffers: the length of the vector is beyond the file."""
    data = bytearray(network(tmp_path / "net.tflite", parts=()).read_bytes())
    model = flatbuffer.root(bytes(data), b"TFL3")
    start = model._start(field) - 4
    for length in (0xFFFFFFFF, 1 << 20):
        data[start : start + 4] = struct.pack("<I", length)
        (tmp_path / "net.tflite").write_bytes(data)
        refused(tmp_path / "net.tflite", "cut short|the limit is")


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"PK\x03\x04" + bytes(100), bytes(1000), b"\x10\0\0\0TFL3" + b"\xff" * 64]
)
def test_what_is_no_tflite_file_is_told_so(content, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    refused(path, "empty|not a whole TFLite file|is a zip archive")


def test_an_operator_that_lacks_its_operands_is_refused(tmp_path):
    """Also where the file is looked through for weights that are quantized alone."""
    net = Net()
    whole = net.op("DEQUANTIZE", [], net.value(SHAPE), "Dequantize")
    out = net.op("ADD", [net.input(SHAPE), whole], net.value(SHAPE), "Add")
    refused(net.save(tmp_path / "net.tflite", out), "DEQUANTIZE at t0, no tensors: it lacks operand 0")


def test_places_out_of_a_constant_are_refused(tmp_path):
    """As those out of a value are: TFLite's interpreter would refuse or read beyond it."""
    net = Net()
    table, places = net.constant(np.ones((4, 3), np.float32)), net.constant(i(9))
    taken = net.op("GATHER", [table, places], net.value((1, 3)), "Gather", axis=0, batchDims=0)
    out = net.op("ADD", [net.input(SHAPE), taken], net.value(SHAPE), "Add")
    refused(net.save(tmp_path / "net.tflite", out), "places out of 4")
