"""What a network takes is never guessed silently: the graph says it, the user does, or it is announced as assumed."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tvm_mobilenet.cli import notices, options
from tvm_mobilenet.cli.arguments import VerbParser
from tvm_mobilenet.compiler import tables
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import labels, registry
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.models.preprocess import FIELDS


def exported(tmp_path, shape, *layers, name: str = "net") -> str:
    """A .pt2 of some layers."""
    torch.manual_seed(0)
    path = tmp_path / f"{name}.pt2"
    torch.export.save(torch.export.export(nn.Sequential(*layers).eval(), (torch.zeros(shape),)), path)
    return str(path)


def classifier(channels: int, classes: int, *end) -> tuple:
    return (
        nn.Conv2d(channels, 4, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
        *end,
    )


class Last(nn.Module):
    """Channels last: what TensorFlow's exporters write before the first convolution."""

    def forward(self, x):
        return x.permute(0, 3, 1, 2)


class Half(nn.Module):
    def forward(self, x):
        return x * 0.5


def onnx_file(tmp_path, shape, channels: int, *before) -> str:
    """Some nodes from ``x`` to ``a``, then a convolution of so many channels, a pool, and two classes."""
    draw = np.random.default_rng(0)
    weights = {
        "w": draw.standard_normal((4, channels, 1, 1)).astype(np.float32),
        "v": draw.standard_normal((2, 4)).astype(np.float32),
    }
    node = helper.make_node
    before = before or [node("Relu", ["x"], ["a"])]
    nodes = [*before, node("Conv", ["a", "w"], ["c"]), node("GlobalAveragePool", ["c"], ["p"])]
    nodes += [node("Flatten", ["p"], ["f"]), node("Gemm", ["f", "v"], ["y"], transB=1)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return str(path)


TRANSPOSE = helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2])


@pytest.mark.parametrize(
    ("shape", "channels", "before", "layout", "size"),
    [
        ((1, 3, 16, 24), 3, (), "NCHW", (16, 24)),
        ((1, 16, 24, 3), 3, (TRANSPOSE,), "NHWC", (16, 24)),
        ((1, 16, 24, 1), 1, (TRANSPOSE,), "NHWC", (16, 24)),
        ((1, 1, 16, 24), 1, (), "NCHW", (16, 24)),
        ((1, 3, 16, 3), 3, (), "NCHW", (16, 3)),  # three channels first and last: the convolution says which
        ((1, 3, 16, 3), 3, (TRANSPOSE,), "NHWC", (3, 16)),
        ((1, 1, 16, 3), 3, (TRANSPOSE,), "NHWC", (1, 16)),
        ((2, 16, 24, 3), 3, (TRANSPOSE,), "NHWC", (16, 24)),
    ],
)
def test_layout_is_read_off_the_graph(tmp_path, shape, channels, before, layout, size):
    network = load_network(ModelOptions(model=onnx_file(tmp_path, shape, channels, *before)))
    image = network.image
    assert (image.preprocess.layout, image.preprocess.size, image.preprocess.channels) == (layout, size, channels)
    assert "layout" not in image.assumed and image.preprocess.input_shape[1:] == shape[1:]
    assert network.inputs(1)[0][0].shape == shape
    said = " ".join(notices.notices(network))
    assert ("NHWC" in said) == (layout == "NHWC") and (layout == "NCHW" or str(shape) in said)


@pytest.mark.parametrize("before", [(Last(),), (Half(), Last()), (Last(), Half(), nn.ZeroPad2d(1))])
def test_layout_behind_arithmetic_and_pads(tmp_path, before):
    from tvm_mobilenet.frontend import from_pt2
    from tvm_mobilenet.models.images import channel_axis

    model = exported(tmp_path, (1, 16, 24, 3), *before, *classifier(3, 2))
    assert channel_axis(from_pt2(model)) == 3


@pytest.mark.parametrize(("zero", "behind"), [(np.int8(3), True), (np.uint8(131), True), (np.int8(3), False)])
def test_an_input_that_is_quantized_says_how_bytes_become_it(tmp_path, zero, behind):
    """Also behind a permutation; scales of what is computed first are not the input's."""
    from tvm_mobilenet.frontend import from_onnx
    from tvm_mobilenet.models.images import bytes_of

    node, arrays = helper.make_node, {"s": np.float32(0.02), "z": zero}
    before = [node("Constant", [], [k], value=numpy_helper.from_array(np.array(v), k)) for k, v in arrays.items()]
    first = node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]) if behind else node("Sqrt", ["x"], ["t"])
    before += [first, node("QuantizeLinear", ["t", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["a"])]
    shape = (1, 16, 24, 3) if behind else (1, 3, 16, 24)
    found = bytes_of(from_onnx(onnx_file(tmp_path, shape, 3, *before)))
    if not behind:
        assert found is None
    else:
        assert (found.mean, found.std) == pytest.approx((131 / 255, 1 / 5.1)) and not found.known


def test_a_graph_of_products_alone(tmp_path):
    """Nothing in it reads channels: the shape says it, and where that fits both ways it is assumed, and said."""
    flat = [nn.Flatten(), nn.Linear(8 * 8 * 3, 2)]
    nhwc = load_network(ModelOptions(model=exported(tmp_path, (1, 8, 8, 3), *flat)))
    assert nhwc.image.preprocess.layout == "NHWC" and "layout" not in nhwc.image.assumed
    flat = [nn.Flatten(), nn.Linear(3 * 8 * 3, 2)]
    model = exported(tmp_path, (1, 3, 8, 3), *flat)
    both = load_network(ModelOptions(model=model))
    assert both.image.preprocess.layout == "NCHW" and "layout" in both.image.assumed
    assert "--layout" in " ".join(notices.notices(both))
    told = load_network(ModelOptions(model=model, layout="NHWC"))
    assert told.image.preprocess.size == (3, 8) and "layout" not in told.image.assumed


@pytest.mark.parametrize(
    ("shape", "channels", "before", "layout"),
    [((1, 16, 24, 3), 3, (TRANSPOSE,), "NCHW"), ((1, 3, 16, 24), 3, (), "NHWC"), ((1, 1, 8, 8), 1, (), "NHWC")],
)
def test_a_layout_that_contradicts_the_graph_is_refused(tmp_path, shape, channels, before, layout):
    model = onnx_file(tmp_path, shape, channels, *before)
    other = "NCHW" if layout == "NHWC" else "NHWC"
    with pytest.raises(TvmMobilenetError, match=rf"--layout {layout}.*reads as {other}"):
        load_network(ModelOptions(model=model, layout=layout))


def test_a_layout_that_the_registrys_networks_have_not_is_refused():
    """At once, before weights are made."""
    with pytest.raises(TvmMobilenetError, match="--layout NHWC"):
        load_network(ModelOptions(layout="NHWC"))


@pytest.mark.parametrize("shape", [(1, 7, 16, 16), (1, 2, 16, 16), (1, 4, 3, 3), (1, 16)])
def test_a_network_that_takes_no_images(tmp_path, shape):
    """It is said when it is built; flags for images are refused with what to do."""
    layers = classifier(shape[1], 2) if len(shape) == 4 else [nn.Linear(16, 2)]
    model = exported(tmp_path, shape, *layers)
    network = load_network(ModelOptions(model=model))
    assert network.image is None and network.inputs(2)[1][0].shape == shape
    assert any("takes no images" in sentence and str(shape) in sentence for sentence in notices.notices(network))
    with pytest.raises(TvmMobilenetError, match="--std"):
        load_network(ModelOptions(model=model, std=(0.5,)))
    for flag in ({"mean": (0.5,)}, {"crop": 1.0}, {"resize": "squash"}, {"layout": "NCHW"}, {"input": tmp_path}):
        name = next(iter(flag)).replace("_", "-")
        with pytest.raises(TvmMobilenetError, match=rf"--{name}: net.pt2 takes .* not an image") as caught:
            _ = dataclasses.replace(network, options=ModelOptions(model=model, **flag)).image
        assert "leave out" in caught.value.hint


def test_a_network_of_several_inputs_takes_no_images(tmp_path):
    """And that is why, not that its channels are none of an image's."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(*classifier(3, 2))

        def forward(self, x, y):
            return self.net(x + y)

    given = (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    torch.export.save(torch.export.export(Two().eval(), given), tmp_path / "two.pt2")
    (sentence,) = notices.notices(load_network(ModelOptions(model=str(tmp_path / "two.pt2"))))
    assert sentence == "two.pt2 takes no images but arrays: its inputs are x (1, 3, 16, 16), y (1, 3, 16, 16)"


# ---- what is assumed


def test_a_files_preprocessing_is_assumed_and_said(tmp_path):
    """Each field that no flag gives, in the sentence and in the data."""
    model = exported(tmp_path, (1, 3, 32, 32), *classifier(3, 2))
    network = load_network(ModelOptions(model=model))
    assert set(network.image.assumed) == set(FIELDS) - {"layout"}
    (sentence,) = notices.notices(network)
    for words in ("assumed", "net.pt2", "mean 0.5", "std 0.5", "resize shortest", "crop 0.875", "bilinear", "RGB"):
        assert words in sentence
    for field in network.image.assumed:
        assert f"--{field.replace('_', '-')}" in sentence
    given = {"mean": (0.1, 0.2, 0.3), "std": (1.0,), "resize": "squash", "interpolation": "bicubic"}
    some = dataclasses.replace(network, options=ModelOptions(model=model, **given))
    assert some.image.assumed == ("crop", "channel_order")
    assert "--mean" not in notices.notices(some)[0]
    p, data = some.image.preprocess, some.image.to_data()
    assert (p.mean, p.std, p.crop, p.interpolation, p.resize) == ((0.1, 0.2, 0.3), (1.0,) * 3, 1.0, "bicubic", "squash")
    assert data["assumed"] == ["crop", "channel_order"] and json.loads(json.dumps(data))["channels"] == 3
    more = ModelOptions(model=model, **given, crop=0.9, channel_order="BGR")
    whole = dataclasses.replace(network, options=more)
    assert whole.image.assumed == () and notices.notices(whole) == []


def test_one_channel(tmp_path):
    model = exported(tmp_path, (1, 1, 28, 28), *classifier(1, 10))
    network = load_network(ModelOptions(model=model, mean=(0.1307,), std=(0.3081,)))
    assert network.image.preprocess.mean == (0.1307,) and "channel_order" not in network.image.assumed
    assert network.inputs(1)[0][0].shape == (1, 1, 28, 28)
    for flag, words in (
        ({"mean": (0.1, 0.2, 0.3)}, "mean .* one number"),
        ({"channel_order": "RGB"}, "--channel-order"),
    ):
        with pytest.raises(TvmMobilenetError, match=words):
            _ = dataclasses.replace(network, options=ModelOptions(model=model, **flag)).image


def checkpoint(tmp_path, classes: int = 1000):
    module = registry.create("v2", 0.35, 32, classes).module
    path = tmp_path / "v2.pth"
    torch.save(module.state_dict(), path)
    return ModelOptions(model="v2", alpha=0.35, resolution=32, classes=classes, weights=path)


def test_a_checkpoints_preprocessing_is_assumed_and_seeded_weights_are_said(tmp_path):
    """Seeded weights were calibrated on the registry's preprocessing; a checkpoint may have been trained on another."""
    own = checkpoint(tmp_path)
    trained = load_network(own)
    assert not trained.seeded and set(trained.image.assumed) == set(FIELDS) - {"layout"}
    assert trained.image.preprocess.mean == (0.485, 0.456, 0.406)
    said = notices.notices(trained)
    assert len(said) == 2 and "0.485,0.456,0.406" in said[0] and "ImageNet" in said[1] and "BSD 3-Clause" in said[1]
    assert len(trained.labels) == 1000 and trained.labels[281] == "tabby"
    model = dataclasses.replace(trained.model, seeded=True, assumed=())
    seeded = dataclasses.replace(trained, options=dataclasses.replace(own, weights=None), model=model)
    assert seeded.seeded and seeded.image.assumed == () and seeded.labels == ()
    assert notices.notices(seeded) == [notices.SEEDED] and "seeded random numbers" in notices.SEEDED


# ---- labels and scores


def test_imagenets_names():
    """In ImageNet's order, each once; background first where TensorFlow puts it; their licence is there."""
    names = labels.imagenet_labels(1000)
    assert len(set(names)) == 1000 and all(name == name.strip() and name for name in names)
    known = {0: "tench", 1: "goldfish", 208: "Labrador retriever", 281: "tabby", 340: "zebra", 999: "toilet tissue"}
    assert {i: names[i] for i in known} == known
    assert labels.imagenet_labels(1001) == ("background", *names)
    assert labels.imagenet_labels(999) == labels.imagenet_labels(2) == ()
    assert "Copyright (c) Soumith Chintala 2016" in labels.licence() and "torchvision" in labels.licence()
    assert "torchvision" in labels._data("ATTRIBUTION.txt")


def test_labels_that_do_not_fit_are_refused_before_anything_slow(tmp_path):
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    two = ModelOptions(model=exported(tmp_path, (1, 3, 16, 16), *classifier(3, 2)), labels=tmp_path / "two.txt")
    assert load_network(two).labels == ("cat", "dog")
    three = exported(tmp_path, (1, 3, 16, 16), *classifier(3, 3), name="three")
    with pytest.raises(TvmMobilenetError, match=r"two\.txt has 2 names, the model 3 classes"):
        load_network(dataclasses.replace(two, model=three))
    maps = exported(tmp_path, (1, 3, 16, 16), nn.Conv2d(3, 4, 3), name="maps")
    with pytest.raises(TvmMobilenetError, match="does not classify"):
        load_network(dataclasses.replace(two, model=maps))
    for flags, words in (({"features": True}, "does not classify"), ({"classes": 3}, "2 names, the model 3 classes")):
        with pytest.raises(TvmMobilenetError, match=words):
            load_network(ModelOptions(labels=tmp_path / "two.txt", **flags))


@pytest.mark.parametrize(
    ("classes", "end", "kind"),
    [
        (5, (), "logits"),
        (5, (nn.Softmax(1),), "softmax"),
        (5, (nn.Sigmoid(),), "sigmoid"),
        (2, (nn.ReLU6(),), "logits"),
        (1, (), "value"),
        (1, (nn.Sigmoid(),), "sigmoid"),
        (1, (nn.Softmax(1),), "value"),
    ],
)
def test_what_scores_are_is_read_off_the_last_layer(tmp_path, classes, end, kind):
    """A softmax is never taken twice; the same once layers run as fused blocks."""
    network = load_network(ModelOptions(model=exported(tmp_path, (1, 3, 16, 16), *classifier(3, classes, *end))))
    assert network.scores == kind
    values = network.reference(network.inputs(1))[0][0][0][0].astype(np.float64)
    best = labels.best_classes(values, kind)
    assert [b.index for b in best] == list(np.argsort(-values, kind="stable")) and best[0].score == values.max()
    if kind == "value":
        assert best[0].probability is None and str(best[0]) == f"output 0 {values[0]:.2f}"
    elif kind == "logits":
        expected = torch.from_numpy(values).softmax(0).numpy()
        np.testing.assert_allclose([b.probability for b in best], expected[[b.index for b in best]])
    else:
        assert all(b.probability == b.score for b in best)


def test_best_classes_of_any_numbers():
    """Large logits overflow nothing; names stand beside numbers."""
    best = labels.best_classes(np.array([1000.0, -1000.0, 999.0]), "logits", ("a", "b", "c"), 2)
    assert [b.index for b in best] == [0, 2] and str(best[0]) == "class 0 (a) 1000.00, 73.1%"


# ---- flags


def test_flags_say_it_all():
    """Parsed, kept in a build's data, and read back."""
    parser = VerbParser("build", "")
    options.add_model_options(parser)
    line = "--mean 0.1,0.2,0.3 --std 0.5 --resize squash --crop 0.9 --interpolation nearest --layout NHWC"
    read = options.model_options(parser.parse_args([*line.split(), "--channel-order", "BGR"]))
    assert (read.mean, read.std, read.resize, read.crop) == ((0.1, 0.2, 0.3), (0.5,), "squash", 0.9)
    assert (read.interpolation, read.layout, read.channel_order) == ("nearest", "NHWC", "BGR")
    assert ModelOptions.from_data(json.loads(json.dumps(dataclasses.asdict(read)))) == read
    for wrong in ("--crop 0", "--crop 1.5", "--resize longest", "--interpolation lanczos", "--mean 1,2"):
        with pytest.raises(SystemExit) as caught:
            parser.parse_args(wrong.split())
        assert caught.value.code == 2


def test_a_bundle_says_in_words_how_images_become_inputs(tmp_path):
    model = exported(tmp_path, (1, 1, 28, 20), *classifier(1, 10))
    words = tables._in_words(load_network(ModelOptions(model=model, resize="squash")).image)
    assert words.startswith("20 x 28 grey, mean 0.5, std 0.5, resize squash, crop 1, interpolation bilinear")
    assert words.endswith("assumed: mean, std, crop, interpolation") and "order" not in words
    assert tables._in_words(None) == "takes no images"
