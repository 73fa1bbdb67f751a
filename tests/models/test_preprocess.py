"""An image becomes the network's input as the checkpoint's authors made it, or is refused with a reason."""

import json

import numpy as np
import pytest
from PIL import Image

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import registry
from tvm_mobilenet.models.labels import read_labels
from tvm_mobilenet.models.preprocess import Preprocess, evaluation_batch, load_image, sample_images

RAW = Preprocess((64, 96), mean=0, std=1)  # pixels in 0..1


def test_photographs_are_shipped_with_their_attribution():
    text = (sample_images()[0].parent / "ATTRIBUTION.txt").read_text()
    for path in sample_images():
        assert path.stat().st_size < 250_000 and path.name in text
    assert "creativecommons.org/licenses/by/2.0" in text


@pytest.mark.parametrize("name", registry.names())
def test_models_own_defaults(name):
    preprocess = registry.find(name).preprocess(96)
    low, high = (0 - np.array(preprocess.mean)) / preprocess.std, (1 - np.array(preprocess.mean)) / preprocess.std
    for path in sample_images():
        x = load_image(path, preprocess)
        assert x.shape == (1, 3, 96, 96) and x.dtype == np.float32 and x.flags.c_contiguous
        for channel in range(3):
            assert low[channel] - 1e-6 <= x[0, channel].min() < x[0, channel].max() <= high[channel] + 1e-6
        assert x.std() > 0.2


def test_scale_crop_order_and_layout(tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = (255, 128, 0)  # the centre square
    Image.fromarray(pixels).save(tmp_path / "a.png")
    p = Preprocess((50, 50), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=1.0)
    x = load_image(tmp_path / "a.png", p)
    np.testing.assert_allclose(x[0, :, 25, 25], [1, 128 / 127.5 - 1, -1], atol=1e-6)
    assert (x[0, 0] > 0.5).mean() > 0.97  # exactly the centre: nothing of the black sides but the seam
    assert (load_image(tmp_path / "a.png", p.replace(crop=0.5))[0, 0] > 0.9).all()  # the centre of the centre
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", p.replace(layout="NHWC")), x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_other_colour_modes(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (70, 110)).save(tmp_path / f"a.{suffix}")
    assert load_image(tmp_path / f"a.{suffix}", RAW).shape == (1, 3, 64, 96)


def test_exif_orientation_is_honoured(tmp_path):
    image = Image.fromarray(np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] * 4, 64, 1).repeat(3, 2))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    x = load_image(tmp_path / "a.png", Preprocess((64, 64), 0, 1, 1.0))
    assert x[0, 0, 0].mean() > 0.9 > 0.1 > x[0, 0, -1].mean()


def test_arrays(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3)).astype(np.uint8)
    np.save(tmp_path / "image.npy", image)
    Image.fromarray(image).save(tmp_path / "image.png")
    same = load_image(tmp_path / "image.npy", RAW)
    np.testing.assert_array_equal(same, load_image(tmp_path / "image.png", RAW))
    for shape in ((3, 64, 96), (4, 3, 64, 96)):
        array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        np.save(tmp_path / "input.npy", array)
        x = load_image(tmp_path / "input.npy", RAW)
        assert x.shape == (shape[0] if len(shape) == 4 else 1, 3, 64, 96) and x.dtype == np.float32
        np.testing.assert_allclose(x.reshape(shape), array, rtol=1e-6)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 3, 32, 32), np.float32),
        np.zeros((1, 64, 96, 3), np.float32),
        np.full((3, 64, 96), np.nan, np.float32),
        np.zeros((0, 3, 64, 96), np.float32),
        np.array(["a"]),
        np.zeros((3, 64, 96), complex),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(TvmMobilenetError, match=r"a\.npy"):
        load_image(tmp_path / "a.npy", RAW)


@pytest.mark.parametrize("name", ["a.jpg", "a.npy", "missing.png"])
def test_files_that_are_no_images(tmp_path, name):
    if "missing" not in name:
        (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(TvmMobilenetError, match=name):
        load_image(tmp_path / name, RAW)


@pytest.mark.parametrize(
    "changes",
    [
        {"std": (0.5, 0, 0.5)},
        {"mean": (1, 2)},
        {"mean": (0, 0, float("inf"))},
        {"crop": 0},
        {"crop": 1.1},
        {"layout": "CHWN"},
        {"interpolation": "lanczos7"},
        {"size": (0, 3)},
    ],
)
def test_impossible_preprocessing_names_the_field(changes):
    with pytest.raises(TvmMobilenetError, match=next(iter(changes))):
        Preprocess(**{"size": (64, 96), **changes})


def test_evaluation_batch():
    batch = evaluation_batch(RAW, 6)
    assert batch.shape == (6, 3, 64, 96) and batch.dtype == np.float32
    np.testing.assert_array_equal(batch[:1], load_image(sample_images()[0], RAW))
    np.testing.assert_array_equal(batch, evaluation_batch(RAW, 6))
    np.testing.assert_array_equal(batch[:2], evaluation_batch(RAW, 2))
    for i in range(6):
        for j in range(i):
            assert np.abs(batch[i] - batch[j]).mean() > 0.02
    spec = registry.create("v1", 0.25, 32, preprocess={"mean": 0.0, "std": 1.0})
    assert evaluation_batch(spec, 1).shape == spec.input_shape and evaluation_batch(spec, 1).min() >= 0
    with pytest.raises(TvmMobilenetError):
        evaluation_batch(RAW, 0)


def test_labels(tmp_path):
    (tmp_path / "a.txt").write_text("cat\ndog\n\n")
    (tmp_path / "a.json").write_text(json.dumps({"0": ["n01", "cat"], "1": ["n02", "dog"]}))
    assert read_labels(tmp_path / "a.txt", 2) == read_labels(tmp_path / "a.json", 2) == ("cat", "dog")
    (tmp_path / "bad.json").write_text('{"1": "cat"}')
    (tmp_path / "latin.txt").write_bytes("H\xfctte\n".encode("latin-1"))
    (tmp_path / "number.json").write_text("3")
    (tmp_path / "numbers.json").write_text("[1, 2]")
    (tmp_path / "cut.json").write_text('["cat",')
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert read_labels(tmp_path / "bom.txt", 2) == ("cat", "dog")
    wrong = [("a.txt", 3), ("missing.txt", 2), ("bad.json", 1), ("latin.txt", 1), ("number.json", 1), ("cut.json", 1)]
    for path, n in [*wrong, ("numbers.json", 2), (".", 1)]:
        with pytest.raises(TvmMobilenetError, match=path) as caught:
            read_labels(tmp_path / path, n)
        assert "Error" not in str(caught.value) and caught.value.hint
    assert registry.create("v1", 0.25, 32, 2, labels=tmp_path / "a.txt").labels == ("cat", "dog")
