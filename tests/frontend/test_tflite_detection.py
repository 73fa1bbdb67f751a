"""The operators that choose boxes compute what LiteRT does, in Python and as machine code."""

import numpy as np
import pytest
from flatbuffers import flexbuffers

from tests.support.tflite_files import Net
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.boards.local import LocalBoard
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import flatbuffer, flexbuffer, tflite_run
from tvm_mobilenet.models.options import ModelOptions

N = 40  # boxes
OPTIONS = {
    "max_detections": 9,
    "max_classes_per_detection": 1,
    "detections_per_class": 5,
    "num_classes": 4,
    "use_regular_nms": False,
    "nms_score_threshold": 0.4,
    "nms_iou_threshold": 0.4,
    "y_scale": 10.0,
    "x_scale": 10.0,
    "h_scale": 5.0,
    "w_scale": 5.0,
}


def draw(*shape) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def suppression(version, count=12, most=0.4, least=0.1, sigma=0.0):
    def make(net):
        boxes, scores = net.input((N, 4), name="boxes"), net.input((N,), name="scores")
        boxes, scores = (net.op("LOGISTIC", [v], net.value(s)) for v, s in ((boxes, (N, 4)), (scores, (N,))))
        numbers = [np.int32(count), np.float32(most), np.float32(least), np.float32(sigma)][: version - 1]
        outputs = [net.value((count,), "int32"), net.value((count,)), net.value((), "int32")]
        given = [boxes, scores, *map(net.constant, numbers)]
        return net.op(f"NON_MAX_SUPPRESSION_V{version}", given, outputs if version == 5 else outputs[::2])

    return make


def written(options) -> bytes:
    builder = flexbuffers.Builder()
    with builder.Map():
        for key, value in options.items():
            {bool: builder.Bool, int: builder.Int, float: builder.Float}[type(value)](key, value)
    return bytes(builder.Finish())


def detector(background=1, **given):
    def make(net):
        options = OPTIONS | given
        columns, count = options["num_classes"] + background, options["max_detections"]
        boxes, scores = net.input((1, N, 4), name="boxes"), net.input((1, N, columns), name="scores")
        scores = net.op("LOGISTIC", [scores], net.value((1, N, columns)))
        anchors = np.abs(draw(N, 4)) * 0.2 + [0.3, 0.3, 0.1, 0.1]
        outputs = [net.value((1, count, 4)), net.value((1, count)), net.value((1, count)), net.value((1,))]
        made = net.op("CUSTOM", [boxes, scores, net.constant(anchors.astype(np.float32))], outputs)
        net.model.operatorCodes[-1].customCode = "TFLite_Detection_PostProcess"
        net.graph.operators[-1].customOptions = np.frombuffer(written(options), np.uint8)
        return made

    return make


CASES = {
    "detector": detector(),
    "V5, soft": suppression(5, 30, 0.6, 0.2, 0.5),
    "detector, each class": detector(use_regular_nms=True),
    "V4": suppression(4),
    "V4, few above the least score": suppression(4, 30, 0.5, 0.7),
    "V5": suppression(5),
    "detector, few": detector(nms_score_threshold=0.93),
    "detector, each class, more than there are": detector(0, use_regular_nms=True, max_detections=30),
    "detector, more than anchors": detector(max_detections=50, nms_iou_threshold=1.0, nms_score_threshold=0.0),
}


def saved(path, make):
    net = Net()
    return net.save(path, *make(net))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.full] * (i > 0)) for i, n in enumerate(CASES)])
def test_the_boxes_are_those_of_litert(name, tmp_path):
    path = saved(tmp_path / "net.tflite", CASES[name])
    made = load_network(ModelOptions(model=str(path)))
    xs = [tuple(2 * draw(*port.shape) * (1 + n) for port in made.signature.inputs) for n in range(2)]
    due = tflite_run.outputs(path, xs)[0]
    for ours, theirs in zip(network_steps.outputs(made, xs), due, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape and np.abs(a - b).max() <= 1e-5
        assert theirs[0].std() > 0 and theirs[-1] > 1


@pytest.mark.full
@pytest.mark.parametrize("name", list(CASES)[:3])
def test_their_machine_code_verifies(name, tmp_path):
    options, target = ModelOptions(model=str(saved(tmp_path / "net.tflite", CASES[name]))), targets.load("host")
    build.build(options, target, output=tmp_path / "out")
    inputs = [tuple(2 * draw(*port.shape) for port in load_network(options).signature.inputs)]
    found = verify.verify(tmp_path / "out", board=LocalBoard(target), inputs=inputs)
    found.require()
    assert found.reference.startswith("LiteRT")


@pytest.mark.parametrize(
    "given, said", [({"max_classes_per_detection": 2}, "2 classes of each box"), ({"num_classes": 9}, "for 9 classes")]
)
def test_other_detectors_are_refused(given, said, tmp_path):
    make = detector(-4 if "num_classes" in given else 1, **given)
    with pytest.raises(TvmMobilenetError, match=f"CUSTOM_TFLite_Detection_PostProcess .*{said}"):
        load_network(ModelOptions(model=str(saved(tmp_path / "net.tflite", make))))


def test_options_that_are_damaged_are_refused():
    """Cut short, or with a byte changed: a message, or other numbers, never another error."""
    whole = written(OPTIONS)
    assert flexbuffer.numbers(whole) == pytest.approx(OPTIONS)
    rng = np.random.default_rng(0)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] = rng.integers(256)
        for data in (whole[:at], whole[at:], bytes(changed)):
            try:
                flexbuffer.numbers(data)
            except flatbuffer.Damaged:
                continue
