"""A bundle of people's own networks: a picture becomes the same input there as here, and classes say what they are."""

import re
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image
from torch import nn

from tests.models.test_images import classifier, exported
from tests.models.test_preprocess_pixels import picture
from tests.support import bundles
from tvm_mobilenet import build, targets
from tvm_mobilenet.bundle import pack as bundle
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.models.preprocess import load_image, sample_images


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)


def made(folder, model: str, **changes):
    """A bundle of a .pt2 for this machine, and what its build said."""
    options = ModelOptions(model=model, **changes)
    network = load_network(options)
    build.build(options, targets.load("host"), output=folder / "built", network=network, bundle=folder / "bundle")
    return types.SimpleNamespace(network=network, folder=folder / "bundle", bundle=bundle.read(folder / "bundle"))


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """One channel, not square, channels last, ends in a softmax, two classes with names."""
    folder = tmp_path_factory.mktemp("grey")
    (folder / "names.txt").write_text("no person\nperson\n")
    last = nn.Softmax(1)
    model = exported(folder, (1, 1, 20, 28), *classifier(1, 2, last))
    return made(folder, model, labels=folder / "names.txt", mean=(0.1307,), std=(0.3081,), crop=0.9)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Blue first, squashed, one output behind a sigmoid."""
    folder = tmp_path_factory.mktemp("single")
    model = exported(folder, (1, 3, 24, 16), *classifier(3, 1, nn.Sigmoid()))
    return made(folder, model, resize="squash", interpolation="bicubic", channel_order="BGR")


PICTURES = [(20, 28), (61, 37), (1, 1), (1, 90), (300, 2), (97, 200)]


@pytest.mark.parametrize("name", ["grey", "single"])
def test_three_ways_to_the_same_input(request, tmp_path, name):
    """Files as verification reads them, arrays and files through the library; colours and grey, 8 and 16 bits."""
    one = request.getfixturevalue(name)
    preprocess = one.network.image.preprocess
    with bundles.python_interface().Mobilenet(one.folder) as net:
        for number, shape in enumerate(PICTURES):
            colours = picture(*shape, number)
            level = colours[..., 0]
            Image.fromarray(colours).save(tmp_path / "a.png")
            Image.fromarray(level).save(tmp_path / "grey.png")
            Image.fromarray(level).save(tmp_path / "grey.pgm")
            Image.fromarray(colours).save(tmp_path / "a.jpg")
            Image.fromarray(level).save(tmp_path / "grey.jpg")
            Image.fromarray(level.astype(np.uint16) * 257).save(tmp_path / "deep.png")
            np.save(tmp_path / "a.npy", colours)
            np.save(tmp_path / "flat.npy", level)
            np.save(tmp_path / "one.npy", level[..., None])
            names = ("a.png", "grey.png", "grey.pgm", "a.jpg", "grey.jpg", "deep.png", "a.npy", "flat.npy", "one.npy")
            inputs = {}
            for file in names:
                inputs[file] = load_image(tmp_path / file, preprocess)
                np.testing.assert_array_equal(net.preprocess(tmp_path / file), inputs[file], err_msg=f"{file} {shape}")
            for file in ("grey.pgm", "deep.png", "flat.npy", "one.npy"):
                np.testing.assert_array_equal(inputs[file], inputs["grey.png"])
            np.testing.assert_array_equal(inputs["a.npy"], inputs["a.png"])
            np.testing.assert_array_equal(net.preprocess(Image.open(tmp_path / "grey.png")), inputs["grey.png"])
            if preprocess.channels == 1:
                by_hand = np.asarray(Image.fromarray(colours).convert("L"))
                np.save(tmp_path / "hand.npy", by_hand)
                np.testing.assert_array_equal(inputs["a.png"], load_image(tmp_path / "hand.npy", preprocess))


def test_a_float_picture_is_refused_alike(grey, tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(Exception, match="32 bits"):
        load_image(tmp_path / "f.tiff", grey.network.image.preprocess)
    with bundles.python_interface().Mobilenet(grey.folder) as net:
        for image in (tmp_path / "f.tiff", Image.open(tmp_path / "f.tiff")):
            with pytest.raises(Exception, match="32 bits"):
                net.preprocess(image)


def test_a_network_that_ends_in_a_softmax(grey, tmp_path):
    """Its scores are the probabilities; numbers and names stand beside them, by the program and by Python."""
    photo = sample_images()[0]
    values = grey.network.reference([(load_image(photo, grey.network.image.preprocess),)])[0][0][0][0]
    expected = sorted(zip(values.tolist(), ("class 0  no person", "class 1  person"), strict=True), reverse=True)
    with Image.open(photo) as image:
        image.convert("RGB").save(tmp_path / "a.ppm")
        image.convert("L").save(tmp_path / "a.pgm")
    outputs = [run(grey.folder / "mobilenet", "classify", tmp_path / file) for file in ("a.ppm", "a.pgm")]
    outputs.append(run(sys.executable, grey.folder / "mobilenet.py", photo))
    for done in outputs:
        assert done.returncode == 0 and done.stderr == "", done
        found = [re.fullmatch(r" *(\S+) +(\S+) %  (.*)", line).groups() for line in done.stdout.splitlines()]
        assert [name for *_, name in found] == [name for _, name in expected]
        for (score, share, _), (value, _) in zip(found, expected, strict=True):
            assert abs(float(score) - value) < 2e-4 and abs(float(share) - 100 * value) < 2e-2
    with bundles.python_interface().Mobilenet(grey.folder) as net:
        assert (net.scores, net.seeded, net.labels_source) == ("softmax", False, "given with --labels")
        assert [label for label, _ in net.classify(photo)] == [name.split("  ")[1] for _, name in expected]
        assert len(net.top(values, 99)) == 2 and net.top(values, 0) == net.top(values, -1) == []


def test_a_network_of_one_output(single):
    """No class, no softmax of one number; a sigmoid's value is a probability."""
    done = run(sys.executable, single.folder / "mobilenet.py", sample_images()[0])
    assert done.returncode == 0 and re.fullmatch(r" *0\.\d+ +\d+\.\d\d %  output 0\n", done.stdout), done
    with bundles.python_interface().Mobilenet(single.folder) as net:
        (best,) = net.top(np.array([[0.25]], np.float32))
    assert (best.index, best.label, best.score, best.probability) == (0, "", 0.25, 0.25)


def test_the_manifest_and_the_program_say_what_is_assumed(grey, single):
    m = grey.bundle.manifest
    assert m["preprocess"] == {
        "size": [20, 28],
        "channels": 1,
        "mean": [0.1307],
        "std": [0.3081],
        "resize": "shortest",
        "crop": 0.9,
        "interpolation": "bilinear",
        "layout": "NCHW",
        "channel_order": "RGB",
        "assumed": ["resize", "interpolation"],
    }
    assert (m["seeded"], m["scores"], m["classes"], m["labels_source"]) == (False, "softmax", 2, "given with --labels")
    said = run(grey.folder / "mobilenet", "info").stdout
    assert re.search(r"^image +28 x 20 grey, mean 0.1307, .*; assumed: resize, interpolation$", said, re.M), said
    assert re.search(r"^classes +2, scores: softmax$", said, re.M) and "seeded" not in said
    m = single.bundle.manifest
    assert m["preprocess"]["assumed"] == ["mean", "std", "crop"] and m["preprocess"]["crop"] == 1.0
    assert (m["scores"], m["labels"], m["labels_source"]) == ("sigmoid", None, None)
    assert "24 BGR" in run(single.folder / "mobilenet", "info").stdout


@pytest.mark.full
def test_a_network_that_takes_no_images(tmp_path):
    """Its bundle says so, and takes arrays."""
    one = made(tmp_path, exported(tmp_path, (1, 7, 16, 16), *classifier(7, 3)))
    assert one.bundle.manifest["preprocess"] is None
    assert re.search(r"^image +takes no images$", run(one.folder / "mobilenet", "info").stdout, re.M)
    x = one.network.inputs(1)[0][0]
    np.save(tmp_path / "x.npy", x)
    Image.fromarray(picture(4, 4)).save(tmp_path / "x.ppm")
    done = run(one.folder / "mobilenet", "classify", tmp_path / "x.npy")
    expected = one.network.reference([(x,)])[0][0][0][0]
    assert done.returncode == 0 and f"class {expected.argmax()}" in done.stdout.splitlines()[0]
    done = run(one.folder / "mobilenet", "classify", tmp_path / "x.ppm")
    assert done.returncode == 1 and "takes no images: give its input as a .npy" in done.stderr


@pytest.mark.full
@pytest.mark.parametrize("classes", [1000, 1001])
def test_imagenets_names_travel_with_their_licence(tmp_path, classes):
    """For weights that are trained; TensorFlow's background comes first."""
    one = made(tmp_path, exported(tmp_path, (1, 3, 16, 16), *classifier(3, classes)))
    names = one.bundle.files["labels.txt"].decode().splitlines()
    assert len(names) == classes and names[classes - 1000] == "tench" and names[0] in ("tench", "background")
    assert b"Copyright (c) Soumith Chintala" in one.bundle.files["imagenet_labels.LICENSE.txt"]
    assert "torchvision" in one.bundle.manifest["labels_source"] and "assumed" in one.bundle.manifest["labels_source"]
    assert "torchvision" in run(one.folder / "mobilenet", "info").stdout
    assert run(one.folder / "mobilenet", "selftest").returncode == 0


def test_python_without_numpy_says_what_it_needs():
    done = subprocess.run(
        [sys.executable, "-S", bundles.RUNTIME / "mobilenet.py", "x.jpg"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "needs numpy" in done.stderr and "Traceback" not in done.stderr
