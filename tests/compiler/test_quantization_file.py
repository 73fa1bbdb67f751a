"""``quantization.json``: the same network again, words for what does not fit it; inputs from files of arrays."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tvm_mobilenet.cli.notices import notices
from tvm_mobilenet.compiler import calibration_inputs, kept_float, quantization, quantization_file
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.models.preprocess import sample_images
from tvm_mobilenet.passes.mixed import Kept
from tvm_mobilenet.passes.quantize import Quantization

OPTIONS = ModelOptions(model="v1", alpha=0.25, resolution=32, classes=10, dtype="int8")


@pytest.fixture(scope="module")
def network():
    return load_network(OPTIONS)


@pytest.fixture
def file(network, tmp_path):
    path = tmp_path / quantization_file.FILE
    path.write_text(quantization_file.text_of(network.precision, network.original))
    return path


def test_a_file_gives_the_same_network_again(network, file):
    again = load_network(replace(OPTIONS, quantization=file))
    assert again.precision == network.precision
    for one, other in zip(again.layers, network.layers, strict=True):
        assert one.layer == other.layer and all(np.array_equal(other.constants[n], a) for n, a in one.constants.items())
    assert json.loads(file.read_text())["layers"].keys() == {call.name for call in network.original.calls}


def test_a_file_of_other_weights_is_refused(network, file):
    """Its factors and shifts are made of weights: with others a network computes something else, untold."""
    call, graph = network.original.calls[4], network.original
    for changed, refused in (
        (call.weight * np.float32(1 + 2.0**-21), False),  # as another CPU may fold it
        (call.weight * np.float32(1.001), True),
        (-call.weight, True),
        (call.weight[::-1], True),
    ):
        calls = tuple(one.replace(weight=changed) if one is call else one for one in graph.calls)
        if refused:
            with pytest.raises(TvmMobilenetError, match=rf"other weights: {call.name}\.weight"):
                quantization_file.read(file, replace(graph, calls=calls))
        else:
            assert quantization_file.read(file, replace(graph, calls=calls)) == network.precision


def test_what_a_file_says_is_told_as_such(network, file):
    data = json.loads(file.read_text())
    data["layers"]["layer_004"]["cosine"] = 0.7
    file.write_text(json.dumps(data))
    read = quantization_file.read(file, network.original)
    assert f"from {file}, which says, found on" in read.summary()
    assert any(told.endswith(f"so says {file}") for told in notices(replace(network, precision=read)))
    assert str(file.parent) not in quantization_file.text_of(read, network.original)


@pytest.mark.parametrize("made, own", [("float32", "float16"), ("float16", "float32")])
def test_layers_in_float_get_the_float_of_this_target(network, file, made, own):
    """A file made for a target without float16 does not leave another without it."""
    data = json.loads(file.read_text())
    data["kept"] = [{"layer": "layer_003", "source": "", "dtype": made, "why": "named"}]
    file.write_text(json.dumps(data))
    start = replace(network, graph=network.original, options=replace(OPTIONS, quantization=file, keep_dtype=own))
    decided = kept_float.decide(start, quantization.decide(start))
    assert [(kept.layer, kept.dtype) for kept in decided.kept] == [("layer_003", own)]


def change(key: str, value, name: str | None = None, field: str | None = None):
    """An edit of a file: of the first entry of a table, or of that with a name."""

    def edit(data: dict) -> None:
        table = data[key]
        if field is None and name is not None:
            table[name] = value
        elif field is None:
            table[next(iter(table))] = value
        else:
            table[name or next(iter(table))][field] = value

    return edit


@pytest.mark.parametrize(
    "edit, words",
    [
        (change("scales", -0.1, field="step"), ("scales of input_0", "-0.1", "above 0")),
        (change("scales", float("nan"), field="step"), ("NaN is not a number",)),
        (change("scales", 0, field="step"), ("step 0",)),
        (change("scales", 1.5, field="zero"), ("zero 1.5", "-128 to 127")),
        (change("scales", 128, "layer_003", "zero"), ("scales of layer_003", "128")),
        (change("scales", {"step": 1.0, "zero": 0}, "layer_999"), ("layer_999", "no such value")),
        (change("shifts", [0.0] * 3), ("3 numbers", "channels")),
        (change("weights", [1.0], "layer_003.weight"), ("weights of layer_003.weight", "[1.0]")),
        (lambda data: data.update(kept=[{"layer": "layer_999"}]), ("kept 'layer_999'", "no such layer")),
        (change("factors", [0.0] + [1.0] * 7, "layer_000"), ("channel 0", "not a factor")),
        (lambda data: data["scales"].pop("layer_005"), ("scales of layer_005 are missing",)),
        (lambda data: data.pop("inner"), ("inner is missing",)),
        (lambda data: data.update(dtype="float16"), ("'float16'", "'int8'")),
        (lambda data: data.update(scales=[]), ("scales is not an object",)),
    ],
)
def test_a_file_that_was_edited_is_refused_in_words(network, file, edit, words):
    data = json.loads(file.read_text())
    edit(data)
    file.write_text(json.dumps(data))
    with pytest.raises(TvmMobilenetError) as error:
        quantization_file.read(file, network.original)
    assert str(file) in error.value.message and all(word in error.value.message for word in words), error.value.message


def test_a_file_of_another_network_is_refused_with_the_first_layer_that_differs(network, file):
    other = load_network(replace(OPTIONS, alpha=0.5, dtype="float32"))
    with pytest.raises(TvmMobilenetError, match=r"layer_000 is conv .* n16 .*, the file has conv .* n8"):
        quantization_file.read(file, other.graph)
    for text in ("", "[]", '{"dtype": "int8"', "\x00"):
        file.write_text(text)
        with pytest.raises(TvmMobilenetError, match=r"is not a quantization\.json"):
            quantization_file.read(file, network.original)
    with pytest.raises(TvmMobilenetError, match="no such file"):
        quantization_file.read(file.parent / "none.json", network.original)


def test_a_layer_that_collapses_is_told_with_figures(network):
    layers = dict(network.precision.layers)
    layers["layer_004"] = replace(layers["layer_004"], cosine=0.7, signal_to_noise=2.5, clipped=0.25)
    told = " ".join(notices(replace(network, precision=replace(network.precision, layers=layers))))
    assert all(word in told for word in ("layer_004", "cosine 0.700", "2.5 dB", "25.0% clipped")), told
    assert "the weights are seeded" in told and "calibrate on" not in told, told
    kept = (Kept("layer_004", layers["layer_004"].source, "float32", "named by --keep-float"),)
    floats = replace(network.precision, layers=layers, kept=kept)
    assert "layer_004" not in " ".join(notices(replace(network, precision=floats))), "float leaves all of it"
    trained = replace(
        network, precision=replace(network.precision, layers=layers), model=replace(network.model, seeded=False)
    )
    assert "calibrate on images like those" in " ".join(notices(trained))
    layers = {name: replace(one, cosine=0.96) for name, one in layers.items()}
    told = " ".join(notices(replace(network, precision=replace(network.precision, layers=layers))))
    assert "loses most of the signal" not in told and "scales are not from your data" in told


@pytest.mark.full
def test_each_method_is_kept_with_what_it_does(network):
    forced = load_network(replace(OPTIONS, calibration_method="minmax"))
    assert {one.range for one in forced.precision.layers.values()} == {"minmax", ""}
    assert "ranges by minmax" in forced.precision.summary() and forced.precision != network.precision
    assert Quantization.from_data(json.loads(json.dumps(forced.precision.to_data()))) == forced.precision
    assert all(one.clipped == 0 for one in forced.precision.layers.values())


def test_arrays_become_inputs(network, tmp_path):
    image = network.inputs(1)[0][0]
    batch = np.concatenate([image, image * 0.5, image * 0.25])
    np.save(tmp_path / "batch.npy", batch)
    np.savez(tmp_path / "bytes.npz", a=np.zeros((2, 40, 50, 3), np.uint8), b=np.full((32, 32), 255, np.uint8))
    found, told = calibration_inputs.given_inputs(network, [str(tmp_path)])
    assert len(found) == 6 and told == "6 inputs of 2 array files of --calibrate"
    assert all(np.array_equal(x, one[None]) for (x,), one in zip(found, batch, strict=False))
    assert found[3][0].min() == network.image.preprocess.bounds[0] and found[5][0].max() == 1.0
    many = calibration_inputs.given_inputs(network, [str(tmp_path / "batch.npy"), str(tmp_path)])
    assert len(many[0]) == 9, "a file that is named counts beside its folder"
    own = load_network(replace(OPTIONS, calibrate=(str(tmp_path / "batch.npy"),)))
    assert own.precision.images == "3 inputs of 1 array files of --calibrate" != network.precision.images


def test_arrays_that_are_hardly_inputs_are_told(network, tmp_path):
    path, image = tmp_path / "x.npy", network.inputs(1)[0][0]
    np.save(path, np.zeros_like(image))
    with pytest.warns(UserWarning, match=rf"--calibrate {path}: every value of x is 0"):
        calibration_inputs.given_inputs(network, [str(path)])
    np.save(path, (image + 1) * 128)
    with pytest.warns(
        UserWarning, match=r"holds numbers from .* to 2\d\d.*; images have -1 to 1 when they are normalised"
    ):
        calibration_inputs.given_inputs(network, [str(path)])


def test_a_folder_stands_for_all_below_it(network, tmp_path, monkeypatch):
    """ImageNet has a folder for each class: all take part, though not all images, and the next build takes the same."""
    photograph = sample_images()[0]
    for name in ("n1/a.JPG", "n1/b.jpg", "n2/deep/c.jpg", "n3/d.jpg", "n3/e.jpg", "n3/f.jpg", ".hidden/g.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(photograph)
    (tmp_path / "n1" / ".thumbnail.jpg").write_bytes(b"")
    (tmp_path / "n1" / "notes.txt").write_text("no image")
    (tmp_path / "n4").symlink_to(tmp_path / "n2")  # seen already, by another name
    (tmp_path / "n2" / "loop").symlink_to(tmp_path)
    named, inside = calibration_inputs.files([str(tmp_path)])
    assert named == []
    assert [p.relative_to(tmp_path).as_posix() for p in inside] == [
        "n1/a.JPG", "n1/b.jpg", "n2/deep/c.jpg", "n3/d.jpg", "n3/e.jpg", "n3/f.jpg",
    ]  # fmt: skip
    monkeypatch.setattr(calibration_inputs, "SAMPLE", 3)
    read = []
    load = calibration_inputs.load_image
    monkeypatch.setattr(calibration_inputs, "load_image", lambda path, how: read.append(path.name) or load(path, how))
    found, told = calibration_inputs.given_inputs(network, [str(tmp_path)])
    assert read == ["a.JPG", "c.jpg", "e.jpg"] and len(found) == 3
    assert told == "3 images of --calibrate, evenly spread over 6 files"
    (tmp_path / "empty").mkdir()
    with pytest.raises(TvmMobilenetError, match="no image is in it or in a folder below it"):
        calibration_inputs.files([str(tmp_path / "empty")])


@pytest.mark.parametrize(
    "array, words",
    [
        (np.zeros((3, 3, 16, 16), np.float32), ("(3, 3, 16, 16)", "(N, 3, 32, 32)")),
        (np.zeros((0, 3, 32, 32), np.float32), ("(0, 3, 32, 32)",)),
        (np.full((1, 3, 32, 32), np.nan, np.float32), ("infinities or NaN",)),
        (np.array(["a"]), ("not numbers",)),
        (np.array([{}], object), ("cannot be read as arrays",)),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_words(network, tmp_path, array, words):
    np.savez(tmp_path / "x.npz", name=array)
    with pytest.raises(TvmMobilenetError) as error:
        calibration_inputs.given_inputs(network, [str(tmp_path / "x.npz")])
    assert all(word in error.value.message for word in ("x.npz", *words)), error.value.message


def test_networks_of_several_inputs_take_arrays_by_name(network, tmp_path):
    """Nothing but the ports of a network without images is looked at."""
    port = network.signature.inputs[0]
    shapes = {"a": (1, 8), "b": (1, 4)}
    ports = tuple(replace(port, name=name, shape=shape, value=name) for name, shape in shapes.items())
    two = replace(
        network,
        model=None,
        original=None,
        graph=replace(network.graph, signature=replace(network.signature, inputs=ports)),
    )
    assert two.image is None
    path = tmp_path / "two.npz"
    np.savez(path, a=np.ones((5, 8)), b=np.zeros((5, 4)))
    with pytest.warns(UserWarning, match="every value of a is 1, and of b 0"):
        calibration_inputs.given_inputs(two, [str(path)])
    np.savez(path, a=np.ones((5, 8)), b=np.arange(20.0).reshape(5, 4))
    found, _ = calibration_inputs.given_inputs(two, [str(path)])
    assert [x.shape for x in found[0]] == [(1, 8), (1, 4)] and len(found) == 5 and found[0][0].dtype == np.float32
    for arrays, words in (
        ({"a": np.ones((5, 8))}, "takes a, b"),
        ({"a": np.ones((5, 8)), "b": np.ones((4, 4))}, "4 of b"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(TvmMobilenetError, match=words):
            calibration_inputs.given_inputs(two, [str(path)])
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(TvmMobilenetError, match="takes no images"):
        calibration_inputs.given_inputs(two, [str(tmp_path / "x.jpg")])


def test_figures_of_values_whose_squares_leave_float32_are_numbers():
    """A bias of 3e38 gave a file with NaN, which no verb opens."""
    huge = np.full(4, 3e38, np.float32)
    assert quantization._dot(huge, huge) == pytest.approx(4 * 9e76) and quantization._dot(huge[:1], huge[1:2] * 0) == 0
    assert quantization._dot(np.ones(4, np.float32), np.ones(4, np.float32)) == 4
