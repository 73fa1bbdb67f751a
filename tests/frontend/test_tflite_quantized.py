"""TFLite files of whole numbers: computed by their own scales, as LiteRT computes them, or refused in plain words."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.tflite_files import Net
from tvm_mobilenet.checking import given_layers, network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError, VerificationError
from tvm_mobilenet.frontend import tflite_run
from tvm_mobilenet.models.options import ModelOptions

SIZE, CHANNELS, OUT = 10, 5, 8
SHAPE = (1, SIZE, SIZE, CHANNELS)
FLOAT, ZERO = 0.02, 3  # of the input


class Quantized(Net):
    """A network of what people's have: SAME padding with stride 2, a depthwise layer, hard-swish, a residual, a gate, a
    pad, pools, a mean and a dense layer.

    Parameters
    ----------
    kind, weights : str
        Dtypes of activations and of weights.
    tensor : bool
        Weights have one scale, not one a channel.
    changed : dict
        Numbers in place of the network's own, by name.
    """

    def __init__(self, kind="int8", weights="int8", tensor=False, **changed):
        super().__init__()
        self.rng, self.kind, self.weights, self.tensor, self.changed = (
            np.random.default_rng(0),
            kind,
            weights,
            tensor,
            changed,
        )
        self.up = 128 if kind == "uint8" else 0  # what zero points are more than those of int8

    def own(self, name, default):
        return np.asarray(self.changed.get(name, default))

    def activation(self, shape, scale, zero, name="") -> int:
        found = float(self.own(f"{name}_out", scale)), int(self.own(f"{name}_point", zero)) + self.up
        return self.value(shape, self.kind, found)

    def same(self, x, shape) -> int:
        """A value with another's scale."""
        held = self.graph.tensors[x].quantization
        return self.value(shape, self.kind, (held.scale, held.zeroPoint))

    def layer(self, name, x, shape, scale, zero, kernel=(3, 3), depthwise=False, dense=False, **options) -> int:
        """A layer with weights; sums fill what they become."""
        out, channels = shape[-1], self.graph.tensors[x].shape[-1]
        low, high, point = (-127, 128, 0) if self.weights == "int8" else (0, 256, 117)
        one = self.tensor or dense
        steps = self.own(f"{name}_scale", 0.01 if one else self.rng.uniform(0.002, 0.01, out)).astype(np.float32)
        form = (out, channels) if dense else (1, *kernel, out) if depthwise else (out, *kernel, channels)
        data = self.own(f"{name}_weight", self.rng.integers(low, high, form)).astype(self.weights)
        bias = self.own(f"{name}_bias", self.rng.integers(-3000, 3000, out)).astype(np.int32)
        read = np.float32(self.graph.tensors[x].quantization.scale[0])
        w = self.constant(data, (steps, point, 3 if depthwise else 0))
        b = self.constant(bias, (steps * read, 0))
        made = self.activation(shape, scale, zero, name)
        if dense:
            return self.op("FULLY_CONNECTED", [x, w, b], made, "FullyConnected")
        held = self.graph.tensors[made].quantization
        del self.graph.tensors[made]  # the last one: `conv` makes it
        scales = held.scale, held.zeroPoint
        return self.conv(x, w, b, shape, scales, self.kind, depthwise, **options)


def network(path, parts=None, io="float32", **options):
    """A file of `Quantized`; ``parts``: which of its parts there are, all unless told; ``io``: dtype of its ends."""
    net, half = Quantized(**options), SIZE // 2
    parts = ALL if parts is None else parts
    scale = float(net.own("x_scale", FLOAT)), int(net.own("x_zero", ZERO)) + net.up
    if io == "float32":
        x = net.op("QUANTIZE", [net.input(SHAPE)], net.value(SHAPE, net.kind, scale), "Quantize")
    else:
        x = net.input(SHAPE, net.kind, scale)
    shape = (1, half, half, OUT)
    x = net.layer("stem", x, shape, 0.05, -7, strideH=2, strideW=2)
    if "hard-swish" in parts:
        x = net.op("HARD_SWISH", [x], net.activation(shape, 0.0347, -114))
    if "leaky ReLU" in parts:
        x = net.op("LEAKY_RELU", [x], net.activation(shape, 0.027, -91, "leaky"), "LeakyRelu", alpha=0.1)
    x = skip = net.layer("depthwise", x, shape, 0.0449, -128, depthwise=True, fusedActivationFunction=3)
    if "residual" in parts:
        x = net.layer("project", x, shape, 0.0613, 4, (1, 1))
        x = net.op("ADD", [x, skip], net.activation(shape, 0.0727, -20), "Add")
    axes = net.constant(np.array([1, 2], np.int32))
    if "gate" in parts:
        one = (1, 1, 1, OUT)
        g = net.op("MEAN", [x, axes], net.activation(one, 0.03, -20), "Reducer", keepDims=True)
        g = net.layer("gate", g, one, 0.03, 0, (1, 1))
        g = net.op("LOGISTIC", [g], net.activation(one, 1 / 256, -128))
        number = net.constant(np.array(127 + net.up).astype(net.kind), (0.9 / 127, net.up))
        g = net.op("MUL", [g, number], net.activation(one, 1 / 280, -128), "Mul")
        x = net.op("MUL", [x, g], net.activation(shape, 0.0513, -20), "Mul")
    if "pad" in parts:
        pads = net.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
        x = net.op("PAD", [x, pads], net.same(x, (1, half + 2, half + 2, OUT)), "Pad")
        x = net.layer("padded", x, (1, 3, 3, OUT), 0.09, -5, strideH=2, strideW=2, padding=1)
    for name in ("MAX_POOL_2D", "AVERAGE_POOL_2D") if "pools" in parts else ():
        size = net.graph.tensors[x].shape[1] - 1
        window = {"padding": 1, "strideH": 1, "strideW": 1, "filterHeight": 2, "filterWidth": 2}
        x = net.op(name, [x], net.same(x, (1, size, size, OUT)), "Pool2D", **window)
    x = net.op("MEAN", [x, axes], net.activation((1, OUT), 0.04, -9), "Reducer")
    y = net.layer("dense", x, (1, 6), 0.03, 11, dense=True)
    if io == "float32":
        y = net.op("DEQUANTIZE", [y], net.value((1, 6), name="y"), "Dequantize")
    return net.save(path, y)


ALL = ("hard-swish", "residual", "gate", "pad", "pools")


def loaded(path, **options):
    return load_network(ModelOptions(model=str(path), **options))


def batch(count=4, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)
    return [(one,) for one in x]


KINDS = {
    "int8": {},
    "int8 inputs and outputs": {"io": "int8"},
    "one scale a weight": {"tensor": True},
    "weights of -128": {"stem_weight": np.full((OUT, 3, 3, CHANNELS), -128), "stem_out": 3.0},
    "a channel of zeros": {"depthwise_weight": np.arange(9 * OUT).reshape(1, 3, 3, OUT) % OUT},
    "a leaky ReLU": {"parts": ("leaky ReLU",)},
    "a leaky ReLU of a coarse scale": {"parts": ("leaky ReLU",), "leaky_out": 3.0},
    "large biases": {"stem_bias": np.linspace(-(2**22), 2**22, OUT), "stem_out": 2.0},
    "uint8": {
        "kind": "uint8",
        "weights": "uint8",
        "tensor": True,
        "io": "uint8",
        "parts": ("residual", "pad", "pools"),
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_computes_what_litert_does(kind, tmp_path):
    """Given its numbers at most one output in a thousand differs, by a unit of its sums; all layers are in int8."""
    path = network(tmp_path / "q.tflite", **KINDS[kind])
    made = loaded(path)
    assert made.options.dtype == "int8" and made.quantized and network_steps.is_integral(made)
    stem = next(c.layer for c in made.layers if c.layer.kind == "conv")
    assert stem.input_row % 4 == 0, "dot products read whole quads"
    found = given_layers.differences(made, made.whole_numbers(batch()))
    given_layers.require(found)
    own = {c.name for c in made.layers if c.layer.kind in ("conv", "depthwise", "pointwise", "dense", "elementwise")}
    moves = {c.name for c in made.layers if c.layer.copies}
    assert own - moves <= {one.name for one in found}, "every layer was compared"
    total = sum(one.count for one in found if not one.averages)
    assert total <= 1e-3 * sum(one.size for one in found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_network_is_as_near_to_litert_as_that_is_to_itself(kind, tmp_path):
    path = network(tmp_path / "q.tflite", **KINDS[kind])
    made = loaded(path)
    xs = batch(16, seed=3)
    values, _, _ = tflite_run.outputs(path, xs)
    ours = np.array([one[0] for one in network_steps.outputs(made, xs)])
    theirs = np.array([one[0] for one in values])
    other = np.array([one[0] for one in tflite_run.outputs(path, xs, "BUILTIN_REF")[0]])
    assert theirs.std() > 0 and np.abs(ours - theirs).mean() <= 1.5 * np.abs(other - theirs).mean() + 1e-9
    assert (ours.argmax(-1) == theirs.argmax(-1)).mean() >= 15 / 16


def moved(path, scale=None):
    """Channels side by side, of one scale unless told, twice as large, and half of them: nothing is computed."""
    net, half = Quantized(), SIZE // 2
    x = net.op("QUANTIZE", [net.input(SHAPE)], net.value(SHAPE, "int8", (FLOAT, ZERO)), "Quantize")
    one = net.layer("stem", x, (1, half, half, OUT), 0.05, -7, strideH=2, strideW=2)
    other = net.layer("other", one, (1, half, half, OUT), scale or 0.05, -7, (1, 1))
    both = net.op("CONCATENATION", [one, other], net.same(one, (1, half, half, 2 * OUT)), "Concatenation", axis=3)
    size = net.constant(np.array([SIZE, SIZE], np.int32))
    large = net.same(one, (1, SIZE, SIZE, 2 * OUT))
    both = net.op("RESIZE_NEAREST_NEIGHBOR", [both, size], large, "ResizeNearestNeighbor")
    begin, extent = np.array([0, 1, 0, 4], np.int32), np.array([1, 8, 8, OUT], np.int32)
    given = [both, net.constant(begin), net.constant(extent)]
    cut = net.op("SLICE", given, net.same(one, (1, 8, 8, OUT)))
    y = net.layer("last", cut, (1, 8, 8, 6), 0.06, 3, (1, 1))
    y = net.op("DEQUANTIZE", [y], net.value((1, 8, 8, 6), name="y"), "Dequantize")
    return net.save(path, y)


def test_what_is_only_moved_moves_bytes_and_not_floats(tmp_path):
    """Four times the memory, and a conversion on either side, would stand between two layers in int8."""
    path = moved(tmp_path / "q.tflite")
    made = loaded(path)
    assert network_steps.is_integral(made)
    moves = [c.layer for c in made.layers if c.layer.body or c.layer.size]
    assert len(moves) == 3 and all(layer.output_dtype == "int8" for layer in moves)
    xs = batch(4, seed=3)
    theirs = tflite_run.outputs(path, xs)[0]
    for (ours,), (due,) in zip(network_steps.outputs(made, xs), theirs, strict=True):
        assert due.std() > 0 and (np.abs(ours - due) > 0.03).mean() <= 1e-3 and np.abs(ours - due).max() <= 0.0601
    other = loaded(moved(tmp_path / "other.tflite", scale=0.07))
    joined = next(c.layer for c in other.layers if c.layer.op == "concat")
    rescaled = [c.layer for c in other.layers if c.layer.op == "rescale"]
    assert joined.output_dtype == "int8" and len(rescaled) == 1, "one of two scales is converted, to the other"


@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_whole_numbers_go_in_and_out_where_the_user_asks_for_them(io, tmp_path):
    """The very numbers that LiteRT takes and gives, of a file whose inputs and outputs are whole numbers."""
    path = network(tmp_path / "q.tflite", io="int8", parts=("residual",))
    made = loaded(path, io=io)
    assert made.precision.io == io, "a build keeps it, and verify refuses another"
    up = 128 if io == "uint8" else 0
    x = np.random.default_rng(1).integers(-128, 128, SHAPE).astype(np.int8)
    (found,) = network_steps.outputs(made, [((x.astype(int) + up).astype(io),)])[0]
    real = (x.astype(np.float32) - ZERO) * np.float32(FLOAT)
    due = tflite_run.outputs(path, [(real,)])[0][0][0]
    unit = made.signature.outputs[0].encoding.step
    assert found.dtype == np.dtype(io)
    assert np.abs(made.signature.outputs[0].real(found) - due).max() <= 1.01 * unit


@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
def test_the_bytes_of_an_image_become_the_files_whole_numbers_one_by_one(io, tmp_path):
    """Else the network sees photographs darker, paler or, of bytes that are their own values, all as one."""
    net = Quantized(kind="uint8" if io == "uint8" else "int8")
    shape, scale = (1, 16, 16, 3), (0.037, 91 + net.up)
    if io == "float32":
        x = net.op("QUANTIZE", [net.input(shape)], net.value(shape, net.kind, scale), "Quantize")
    else:
        x = net.input(shape, net.kind, scale)
    y = net.layer("stem", x, (1, 8, 8, OUT), 0.05, -7, strideH=2, strideW=2)
    image = loaded(net.save(tmp_path / "q.tflite", y)).image
    every = np.arange(256).reshape(1, 16, 16, 1).repeat(3, 3)
    assert np.array_equal(np.rint(image.preprocess.normalise(every / 255) / 0.037) + 91 + 128, every)
    doubt = {"mean", "std"} & {*image.assumed}
    assert doubt == ({"mean", "std"} if io == "float32" else set()), "floats may be more than were seen"
    given = loaded(tmp_path / "q.tflite", mean=(0.25,) * 3, std=(0.5,) * 3).image
    assert given.preprocess.mean == (0.25,) * 3 and given.preprocess.std == (0.5,) * 3
    assert not {"mean", "std"} & {*given.assumed}


STEM = np.random.default_rng(9).integers(-100, 100, (OUT, 3, 3, CHANNELS))
BY_ONE = STEM.copy()
BY_ONE[2, 1, 1, 0] += 1
PLANTED = {  # what is changed of a file since it was built, and the layer that is named
    "a scale by 1 %": ({"depthwise_out": 0.04535}, "depthwise .* differs from the file's runtime"),
    "a zero point by one": ({"stem_point": -6}, "conv .* differs from the file's runtime"),
    "a weight by a unit": ({"stem_weight": BY_ONE}, "conv .* differs from the file's runtime"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_number_that_was_imported_wrongly_is_found_and_its_layer_named(what, tmp_path):
    changed, said = PLANTED[what]
    path = network(tmp_path / "q.tflite", parts=(), stem_weight=STEM)
    made = loaded(path)
    given_layers.require(given_layers.differences(made, made.whole_numbers(batch())))
    network(path, parts=(), **{"stem_weight": STEM, **changed})
    with pytest.raises(VerificationError, match=said):
        given_layers.require(given_layers.differences(made, made.whole_numbers(batch())))


ODD = {
    "the scale 0": {"x_scale": 0},
    "the scale -0.05": {"dense_out": -0.05},
    "the scale nan": {"stem_scale": np.where(np.arange(OUT) == 3, np.nan, 0.01)},
    "the scale inf": {"x_scale": np.inf},
    "the zero point 300 is out of int8's range": {"x_zero": 300},
    "3 scales and 3 zero points for 8 channels": {"stem_scale": np.full(3, 0.01)},
}


@pytest.mark.parametrize("said", ODD)
def test_scales_that_are_none_are_refused_in_plain_words(said, tmp_path):
    path = network(tmp_path / "q.tflite", parts=(), **ODD[said])
    with pytest.raises(TvmMobilenetError, match=said) as e:
        loaded(path)
    assert e.value.hint and "Error" not in str(e.value)


def floats(path, alone=False):
    """A convolution of floats, or what a converter makes of it without a representative data set."""
    net, rng = Net(), np.random.default_rng(0)
    x = net.input(SHAPE)
    weight = net.constant(rng.integers(-127, 128, (OUT, 3, 3, CHANNELS)).astype(np.int8), (np.full(OUT, 0.01), 0, 0))
    if alone:
        weight = net.op("DEQUANTIZE", [weight], net.value((OUT, 3, 3, CHANNELS)), "Dequantize")
    bias = net.constant(np.zeros(OUT, np.float32))
    return net.save(path, net.conv(x, weight, bias, (1, SIZE, SIZE, OUT)))


def wide(path):
    net = Net()
    x = net.op("QUANTIZE", [net.input(SHAPE)], net.value(SHAPE, "int64", (0.001, 0)), "Quantize")
    return net.save(path, net.op("DEQUANTIZE", [x], net.value(SHAPE), "Dequantize"))


def test_weights_alone_that_are_quantized_are_floats(tmp_path):
    """As they are between operators of LiteRT."""
    path = floats(tmp_path / "q.tflite", alone=True)
    made = loaded(path)
    assert not made.quantized
    for (ours,), (theirs,) in zip(
        network_steps.outputs(made, batch()), tflite_run.outputs(path, batch())[0], strict=True
    ):
        assert theirs.std() > 0 and np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda path: floats(path), "quantized dynamically.*--calibrate"),
        (wide, "activations are int64.*TFLITE_BUILTINS_INT8"),
    ],
)
def test_other_ways_of_quantizing_are_told_what_to_do(make, said, tmp_path):
    with pytest.raises(TvmMobilenetError) as e:
        loaded(make(tmp_path / "q.tflite"))
    import re

    assert re.search(said, f"{e.value} {e.value.hint}", re.S)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float16"},
        {"calibrate": ("photos",)},
        {"dtype": "int8", "calibration_method": "mse"},
        {"dtype": "int8", "quantization": Path("quantization.json")},
    ],
)
def test_flags_that_such_a_file_has_no_use_for_are_refused(options, tmp_path):
    path = network(tmp_path / "q.tflite", parts=())
    with pytest.raises(TvmMobilenetError, match="comes quantized"):
        loaded(path, **options)
    assert loaded(path, dtype="int8").options == loaded(path).options
