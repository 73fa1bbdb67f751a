"""TFLite's recurrent layers over sequences, and its Fourier transform, compute what LiteRT does."""

import numpy as np
import pytest

from tests.support.tflite_files import Net
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import tflite_run
from tvm_mobilenet.models.options import ModelOptions

BATCH, STEPS, SIZE, UNITS = 2, 3, 4, 3
NONE = -1
TANH = 4


class Layer:
    """The operands of a layer."""

    def __init__(self, net, major):
        self.net, self.rng = net, np.random.default_rng(5)
        self.shape = lambda n: (STEPS, BATCH, n) if major else (BATCH, STEPS, n)
        self.x = net.input(self.shape(SIZE))

    def weight(self, *shape) -> int:
        return self.net.constant((self.rng.standard_normal(shape) / 2).astype(np.float32))

    def state(self, size) -> int:
        made = self.net.value((BATCH, size))
        self.net.graph.tensors[made].isVariable = True
        return made

    def four(self, *shape, coupled=False) -> list[int]:
        return [NONE if coupled and not gate else self.weight(*shape) for gate in range(4)]


def lstm(coupled=False, peep=False, projection=0, norms=False, major=False, clip=0.0, activation=TANH):
    def make(net):
        layer, out = Layer(net, major), projection or UNITS
        cell = [NONE if coupled else layer.weight(UNITS), layer.weight(UNITS), layer.weight(UNITS)]
        given = [
            layer.x,
            *layer.four(UNITS, SIZE, coupled=coupled),
            *layer.four(UNITS, out, coupled=coupled),
            *(cell if peep else [NONE] * 3),
            *layer.four(UNITS, coupled=coupled),
            *([layer.weight(projection, UNITS), layer.weight(projection)] if projection else [NONE] * 2),
            *(layer.state(out), layer.state(UNITS)),
            *(layer.four(UNITS, coupled=coupled) if norms else [NONE] * 4),
        ]
        options = {"timeMajor": major, "fusedActivationFunction": activation, "cellClip": clip}
        options["projClip"] = clip if projection else 0.0
        kind = "UnidirectionalSequenceLSTM"
        return [net.op("UNIDIRECTIONAL_SEQUENCE_LSTM", given, net.value(layer.shape(out)), kind, **options)]

    return make


def both_ways(net, major, merge, name, kind, sides, rest, activation):
    layer = Layer(net, major)
    given = [layer.x, *sides(layer), *[NONE] * rest]
    outputs = [net.value(layer.shape(2 * UNITS))] if merge else [net.value(layer.shape(UNITS)) for _ in range(2)]
    options = {"timeMajor": major, "mergeOutputs": merge, "fusedActivationFunction": activation}
    made = net.op(name, given, outputs, kind, **options)
    return made if isinstance(made, list) else [made]


def two_lstms(major=False, merge=False):
    def side(layer):
        weights = [*layer.four(UNITS, SIZE), *layer.four(UNITS, UNITS), *[NONE] * 3, *layer.four(UNITS)]
        return [*weights, NONE, NONE]

    def sides(layer):
        return [*side(layer), *side(layer), *(layer.state(UNITS) for _ in range(4))]

    name, kind = "BIDIRECTIONAL_SEQUENCE_LSTM", "BidirectionalSequenceLSTM"
    return lambda net: both_ways(net, major, merge, name, kind, sides, 9, TANH)


def _one(layer):
    return [layer.weight(UNITS, SIZE), layer.weight(UNITS, UNITS), layer.weight(UNITS), layer.state(UNITS)]


def rnn(major=False, activation=1):
    def make(net):
        layer = Layer(net, major)
        options = {"timeMajor": major, "fusedActivationFunction": activation}
        given = [layer.x, *_one(layer)]
        return [net.op("UNIDIRECTIONAL_SEQUENCE_RNN", given, net.value(layer.shape(UNITS)), "SequenceRNN", **options)]

    return make


def two_rnns(major=False, merge=False):
    name, kind = "BIDIRECTIONAL_SEQUENCE_RNN", "BidirectionalSequenceRNN"
    return lambda net: both_ways(net, major, merge, name, kind, lambda layer: [*_one(layer), *_one(layer)], 3, 1)


def transformed(shape, sizes):
    """The three forms of what a transform gives."""
    out = (*shape[:-2], sizes[0], sizes[1] // 2 + 1)

    def make(net):
        x = net.input(shape)
        made = net.op("RFFT2D", [x, net.constant(np.array(sizes, np.int32))], net.value(out, "complex64"), "Rfft2d")
        return [net.op(name, [made], net.value(out)) for name in ("REAL", "IMAG", "COMPLEX_ABS")]

    return make


CASES = {
    "rnn": rnn(),
    "transform": transformed((2, 6, 10), (8, 8)),
    "lstm": lstm(),
    "two rnns": two_rnns(),
    "lstm, all of its parts": lstm(peep=True, projection=2, norms=True, major=True, clip=0.4),
    "lstm, coupled gates": lstm(coupled=True, peep=True),
    "lstm, normalised": lstm(norms=True),
    "lstm, relu": lstm(activation=1),
    "two lstms": two_lstms(),
    "two lstms, joined": two_lstms(major=True, merge=True),
    "rnn, tanh": rnn(major=True, activation=TANH),
    "two rnns, joined": two_rnns(major=True, merge=True),
    "transform of one image": transformed((8, 4), (8, 4)),
    "transform, filled up": transformed((3, 5, 6), (8, 16)),
}


def saved(path, make):
    net = Net()
    return net.save(path, *make(net))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.full] * (i > 1)) for i, n in enumerate(CASES)])
def test_layers_compute_what_litert_does(name, tmp_path, capsys):
    """In each run anew: the second of two runs with the same data gives the same."""
    path = saved(tmp_path / "net.tflite", CASES[name])
    made = load_network(ModelOptions(model=str(path)))
    assert ("begins with states of zeros" in capsys.readouterr().err) == ("transform" not in name)
    x = np.random.default_rng(1).standard_normal(made.signature.inputs[0].shape).astype(np.float32)
    for ours, due in zip(network_steps.outputs(made, [(x,)] * 2), tflite_run.outputs(path, [(x,)] * 2)[0], strict=True):
        for a, b in zip(ours, due, strict=True):
            assert a.shape == b.shape and b.std() > 0 and np.abs(a - b).max() <= 2e-6 * max(1, np.abs(b).max())


@pytest.mark.full
def test_a_transform_is_numpys(tmp_path):
    """Of sizes that LiteRT does not take."""
    path = saved(tmp_path / "net.tflite", transformed((2, 6, 7), (6, 7)))
    x = np.random.default_rng(2).standard_normal((2, 6, 7)).astype(np.float32)
    (found,) = network_steps.outputs(load_network(ModelOptions(model=str(path))), [(x,)])
    due = np.fft.rfft2(x)
    for a, b in zip(found, (due.real, due.imag, np.abs(due)), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(due).max()


def streaming(net):
    """A layer whose state is all that it sees of earlier runs."""
    x, state = net.input((1, 6)), net.value((1, 20))
    net.graph.tensors[state].isVariable = True
    given = [x, *(net.constant(np.ones(shape, np.float32)) for shape in ((4, 6), (4, 5), (2,))), state]
    return [net.op("SVDF", given, net.value((1, 2), name="heard"), "SVDF", rank=2)]


def shared(net):
    """A state that two layers read."""
    layer = Layer(net, False)
    operands = _one(layer)
    made = [
        net.op("UNIDIRECTIONAL_SEQUENCE_RNN", [layer.x, *operands], net.value(layer.shape(UNITS)), "SequenceRNN")
        for _ in range(2)
    ]
    return [net.op("ADD", made, net.value(layer.shape(UNITS)), "Add")]


def complex_sum(net):
    x = net.input((4, 4))
    sizes = net.constant(np.array([4, 4], np.int32))
    made = net.op("RFFT2D", [x, sizes], net.value((4, 3), "complex64"), "Rfft2d")
    return [net.op("REAL", [net.op("NEG", [made], net.value((4, 3), "complex64", name="turned"))], net.value((4, 3)))]


@pytest.mark.parametrize(
    "make, said",
    [
        (streaming, "SVDF at heard, .*keeps a state from one run to the next"),
        (shared, "keeps a state from one run to the next"),
        (complex_sum, "NEG at turned, .*complex numbers"),
    ],
)
def test_states_and_numbers_that_no_layer_has_are_refused(make, said, tmp_path):
    with pytest.raises(TvmMobilenetError, match=said):
        load_network(ModelOptions(model=str(saved(tmp_path / "net.tflite", make))))
