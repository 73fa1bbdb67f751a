"""One picture gives the same pixels everywhere: in Pillow, in Python here, in C on the device, to the bit."""

import functools
import itertools
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from tests.support import bundles
from tvm_mobilenet import targets
from tvm_mobilenet.compiler import codegen, library
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.preprocess import Preprocess, grey
from tvm_mobilenet.models.resize import INTERPOLATIONS, RESIZES, resize_and_crop, scaled_size

WIDTH_FIRST = int(PIL.__version__.split(".")[0]) < 13  # older Pillows resize the width first, whatever the proportions
# Height and width of pictures, and of networks: up, down, one pixel, thin, much taller than wide.
PICTURES = [
    (1, 1),
    (1, 7),
    (300, 1),
    (2, 3),
    (37, 61),
    (61, 37),
    (64, 64),
    (73, 73),
    (240, 5),
    (5, 240),
    (230, 31),
    (97, 128),
]
NETWORKS = [(1, 1), (32, 32), (24, 56), (56, 24), (1, 9)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, half of it black and white: sums that leave 0..255 are clipped there."""
    draw = np.random.default_rng(seed)
    noise = draw.integers(0, 256, (height, width, 3), np.uint8)
    return np.where(draw.random((height, width, 1)) < 0.5, noise, noise // 128 * 255).astype(np.uint8)


def by_pillow(pixels: np.ndarray, size, crop: float, resize: str, interpolation: str) -> np.ndarray:
    """What Pillow makes of a whole picture, resized and cut."""
    height, width = scaled_size(pixels.shape[:2], size, crop, resize)
    grey_only = pixels.shape[2] == 1
    image = Image.fromarray(pixels[..., 0] if grey_only else pixels)
    image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    image = image.crop((left, top, left + size[1], top + size[0]))
    return np.asarray(image).reshape(*size, -1)


def comparable(picture_size, size, crop: float, resize: str) -> bool:
    """Whether this Pillow takes the sides in the order that is defined, and the whole picture is no giant."""
    (height, width), scaled = picture_size, scaled_size(picture_size, size, crop, resize)
    height_first = height > scaled[0] and height - scaled[0] > 2 * (width - scaled[1])
    return scaled[0] * scaled[1] < 4_000_000 and not (WIDTH_FIRST and height_first)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("resize", RESIZES)
def test_pixels_are_pillows(resize, interpolation):
    """Odd sizes, both ways of resizing, colours and grey."""
    tried = 0
    for (at, shape), size, crop in itertools.product(enumerate(PICTURES), NETWORKS, (1.0, 0.875, 0.3)):
        if not comparable(shape, size, crop, resize):
            continue
        pixels = picture(*shape, at)[..., : 1 if at % 2 else 3]
        found = resize_and_crop(pixels, size, crop, resize, interpolation)
        np.testing.assert_array_equal(
            found, by_pillow(pixels, size, crop, resize, interpolation), err_msg=f"{shape} {size} {crop}"
        )
        tried += 1
    assert tried > 100


side = st.integers(1, 120)


@given(st.tuples(side, side), st.tuples(side, side), st.floats(0.2, 1), st.sampled_from(RESIZES), st.integers(0, 9))
@example((1, 120), (7, 5), 1.0, "shortest", 0)
def test_any_size_is_pillows(shape, size, crop, resize, seed):
    if not comparable(shape, size, crop, resize):
        return
    pixels = picture(*shape, seed)
    for interpolation in INTERPOLATIONS:
        found = resize_and_crop(pixels, size, crop, resize, interpolation)
        np.testing.assert_array_equal(found, by_pillow(pixels, size, crop, resize, interpolation))


def test_squash_is_torchvisions_resize_of_two_sides():
    """``Resize((224, 224))``: the whole picture, its proportions lost, nothing cut."""
    pixels = picture(61, 97)
    whole = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR)
    p = Preprocess((224, 224), 0, 1, crop=1.0, resize="squash")
    np.testing.assert_array_equal(p.pixels(pixels), np.asarray(whole))


def test_shortest_is_torchvisions_resize_and_centre_crop():
    """``Resize(256), CenterCrop(224)``, where the longer side comes out whole: else it may differ by a pixel."""
    pixels = picture(128, 192)
    whole = Image.fromarray(pixels).resize((384, 256), Image.Resampling.BILINEAR).crop((80, 16, 304, 240))
    np.testing.assert_array_equal(Preprocess((224, 224), 0, 1).pixels(pixels), np.asarray(whole))


def test_grey_is_pillows():
    """ITU-R 601, for every red, green and blue in steps of 5 and at their ends."""
    steps = np.array([*range(0, 255, 5), 255], np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, len(steps), 3)
    np.testing.assert_array_equal(grey(colours)[..., 0], np.asarray(Image.fromarray(colours).convert("L")))
    level = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(grey(np.stack([level] * 3, -1)[None])[0, :, 0], level)


def test_a_picture_that_would_grow_without_end_is_refused():
    """Not after gigabytes of work."""
    pixels = np.zeros((1, 60_000, 3), np.uint8)
    with pytest.raises(TvmMobilenetError, match="60000 x 1 is too narrow"):
        resize_and_crop(pixels, (512, 512), 1.0, "shortest", "bilinear")
    assert resize_and_crop(pixels, (512, 512), 1.0, "squash", "bilinear").shape == (512, 512, 3)
    assert resize_and_crop(pixels[:, :5000], (64, 64), 0.875, "shortest", "nearest").shape == (64, 64, 3)


# ---- C against Python


CASES = [
    (shape, Preprocess(size, crop=crop, resize=resize, interpolation=interpolation, **more), batch, slack)
    for number, (shape, size, resize, interpolation) in enumerate(
        itertools.product(PICTURES, NETWORKS, RESIZES, INTERPOLATIONS)
    )
    for crop in [(1.0, 0.875, 0.3)[number % 3]]
    for batch, slack in [(1 + number % 2, number % 3)]
    for more in [
        (
            {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
            {"channels": 1, "mean": 0.1307, "std": 0.3081, "layout": "NHWC"},
            {"channel_order": "BGR", "mean": (0.4, 0.5, 0.6), "layout": "NHWC"},
            {"channels": 1},
            {"channel_order": "BGR", "std": (0.2, 0.3, 0.4)},
        )[number % 5]
    ]
]


def compiled(folder: Path, command: list[str]) -> Path:
    """``tests/support/c/pixels.c`` with the runtime's own image.c."""
    out = folder / "pixels"
    sources = [bundles.C_TESTS / "pixels.c", bundles.RUNTIME / "image.c"]
    done = subprocess.run(
        [*command, "-Wall", "-Wextra", "-Werror", "-I", bundles.RUNTIME, "-o", out, *sources, "-lm"],
        capture_output=True,
        text=True,
    )
    if "cannot find" in done.stderr and "clang_rt" in done.stderr:
        pytest.skip("clang's sanitizers are not installed: apt-get install libclang-rt-dev")
    assert done.returncode == 0, done.stderr
    return out


def ask(command: list[str], cases, most=(400, 400)) -> list[np.ndarray | None]:
    """What C makes of each case; None for what it refuses."""
    text, sizes = [], []
    for at, (shape, p, batch, slack) in enumerate(cases):
        pixels = picture(*shape, at)
        stride = 3 * shape[1] + slack if slack else 0
        rows = np.zeros((shape[0], stride or 3 * shape[1]), np.uint8)
        rows[:, : 3 * shape[1]] = pixels.reshape(shape[0], -1)
        network = (*p.size, p.layout == "NHWC", batch, INTERPOLATIONS.index(p.interpolation), p.channels)
        network = (*network, p.resize == "squash", p.channel_order == "BGR")
        text.append(struct.pack("14i", *network, *most, shape[1], shape[0], stride, 0))
        mean, std = (tuple(v) + (0.0,) * (3 - len(v)) for v in (p.mean, p.std))
        text += [struct.pack("7d", p.crop, *mean, *std), rows.tobytes()]
        sizes.append((batch, *p.input_shape[1:]))
    done = subprocess.run(command, input=b"".join(text), capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    found, values = [], np.frombuffer(done.stdout, np.float32)
    for size in sizes:
        refused = np.isnan(values[0])
        count = 1 if refused else int(np.prod(size))
        found.append(None if refused else values[:count].reshape(size))
        values = values[count:]
    assert not len(values)
    return found


def expect(cases, found) -> None:
    for at, ((shape, p, batch, _), x) in enumerate(zip(cases, found, strict=True)):
        expected = p.normalise(p.pixels(picture(*shape, at)) / 255.0)
        np.testing.assert_array_equal(x, np.repeat(expected, batch, 0), err_msg=f"{shape} {p}")


def compiler(target: str) -> list[str]:
    return codegen.linker_command(targets.load(target), None)


@functools.cache
def program():
    """The program for this machine, in a folder that lives as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="tvm_mobilenet_test_")
    return compiled(Path(folder.name), [*compiler("host"), *library.FLAGS]), folder


def test_c_gives_the_same_pixels():
    """As compiled for a bundle: every picture, network, way of resizing; grey and BGR; rows with gaps; batches."""
    expect(CASES, ask([str(program()[0])], CASES))


@pytest.mark.parametrize("architecture", ["aarch64", pytest.param("armv7", marks=pytest.mark.full)])
def test_c_on_arm_gives_the_same_pixels(tmp_path, architecture):
    """ARM has fused multiply-adds, with which the last digit of a weight would be another."""
    emulator = bundles.emulator(architecture)
    if emulator is None:
        pytest.skip("needs apt-get install qemu-user libc6-arm64-cross libc6-armhf-cross")
    built = compiled(tmp_path, [*compiler({"aarch64": "arm"}.get(architecture, architecture)), *library.FLAGS])
    expect(CASES, ask([*emulator, str(built)], CASES))


@pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed: apt-get install clang")
def test_c_keeps_within_its_memory(tmp_path):
    """Under sanitizers, with no room but what it was told to have: pictures of just that size are taken."""
    built = str(compiled(tmp_path, ["clang", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]))
    cases = [
        (shape, Preprocess(size, crop=crop, resize=resize, interpolation=interpolation), 1, 0)
        for shape in PICTURES
        for size in [(1, 1), (3, 2), (24, 56)]
        for crop in (1.0, 0.9, 0.875, 0.3)
        for resize in RESIZES
        for interpolation in INTERPOLATIONS
    ]
    for shape in PICTURES:
        own = [case for case in cases if case[0] == shape]
        expect(own, ask([built], own, most=(shape[1], shape[0])))


def test_both_refuse_the_same():
    """A picture so narrow that it would grow without end."""
    p = Preprocess((512, 512), crop=1.0)
    cases = [((1, 60_000), p, 1, 0), ((1, 60_000), p.replace(resize="squash"), 1, 0), ((1, 300), p, 1, 0)]
    found = ask([str(program()[0])], cases, most=(65_535, 65_535))
    assert found[0] is None
    for at in (1, 2):
        (shape, p, _, _) = cases[at]
        np.testing.assert_array_equal(found[at], p.normalise(p.pixels(picture(*shape, at)) / 255.0))
    with pytest.raises(TvmMobilenetError):
        cases[0][1].pixels(picture(1, 60_000))
