"""The examples for a device, each as its first lines say: the same classes in C, C++ and Python, and of a camera."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import schemas
from tvm_mobilenet.models.preprocess import sample_images

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COMPILERS = {"c": ["gcc"], "cpp": ["g++", "-std=c++17"]}


def run(*command, **environment):
    command = [str(c) for c in command]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photograph as .ppm, whose lines end as Windows has them."""
    path = tmp_path_factory.mktemp("photo") / "photo.ppm"
    with Image.open(sample_images()[0]) as image:
        pixels = image.convert("RGB").tobytes()
        path.write_bytes(b"P6\r\n%d %d\r\n255\r\n" % image.size + pixels)
    return path


@pytest.fixture(scope="module")
def classes(host, photo):
    """What classify.py prints of it."""
    done = run(sys.executable, EXAMPLES / "classify.py", host.folder, photo)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["classify.c", "classify.cpp", "classify.py", "camera.py"])
def test_an_example_is_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


@pytest.mark.parametrize("language", COMPILERS)
def test_a_photograph_gets_the_same_classes_in_every_language(host, photo, classes, tmp_path, language):
    source, out = EXAMPLES / f"classify.{language}", tmp_path / "classify"
    strict = ["-Wall", "-Wextra", "-Werror", "-O1"]
    library = ["-I", host.folder, "-L", host.folder, "-lmobilenet", f"-Wl,-rpath,{host.folder}"]
    done = run(*COMPILERS[language], *strict, "-o", out, source, *library)
    if done.returncode and language == "cpp" and "No such file or directory" in done.stderr and "cstdio" in done.stderr:
        pytest.skip("needs apt-get install g++")
    assert done.returncode == 0, done.stderr
    done = run(out, host.folder, photo)
    assert (done.returncode, done.stdout) == (0, classes), done.stderr
    for change in (
        lambda d: d[:-1],
        lambda d: d + b".",
        lambda d: d.replace(b"255", b"254", 1),
        lambda d: b"P5" + d[2:],
    ):
        (tmp_path / "bad.ppm").write_bytes(change(photo.read_bytes()))
        done = run(out, host.folder, tmp_path / "bad.ppm")
        assert done.returncode in (1, 2) and not done.stdout and done.stderr, "a .ppm that is none was classified"


FAKES = {  # as these packages behave, with a photograph before the lens: blue comes first
    "picamera2": """
import numpy as np
class Picamera2:
    def __enter__(self): return self
    def __exit__(self, *_): print("closed")
    def create_video_configuration(self, main): return main
    def configure(self, main): assert main["format"] == "RGB888"
    def start(self): self.left = 3
    def capture_array(self):
        self.left -= 1
        if self.left < 0: raise KeyboardInterrupt
        return np.load(PATH)[..., ::-1]
""",
    "cv2": """
import numpy as np
class VideoCapture:
    def __init__(self, number): self.left = 3
    def read(self):
        self.left -= 1
        return (True, np.load(PATH)[..., ::-1]) if self.left >= 0 else (False, None)
    def release(self): print("closed")
""",
}


@pytest.mark.parametrize("source", ["folder", *FAKES])
def test_a_camera_shows_label_and_frames_a_second(host, photo, classes, tmp_path, source):
    """The label is the photograph's: red and blue are not exchanged. The camera is given back."""
    pixels, folder, modules = tmp_path / "pixels.npy", tmp_path / "frames", tmp_path / "modules"
    with Image.open(sample_images()[0]) as image:
        np.save(pixels, np.asarray(image.convert("RGB")))
    modules.mkdir()
    command = [sys.executable, EXAMPLES / "camera.py", host.folder]
    if source == "folder":
        folder.mkdir()
        for i in range(3):
            (folder / f"{i}.ppm").write_bytes(photo.read_bytes())
        command.append(folder)
    else:
        (modules / f"{source}.py").write_text(f"PATH = {str(pixels)!r}\n" + FAKES[source])
    done = run(*command, PYTHONPATH=str(modules))
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr, done.stderr
    number, name = re.match(r"class (\d+) .* %  (.*)", classes).groups()
    shown = [re.fullmatch(r" *(\d+\.\d) frames a second  class (\d+)  (.*)", line).groups() for line in lines[:3]]
    assert [(n, label) for _, n, label in shown] == [(number, name)] * 3
    assert float(shown[0][0]) == 0 and all(float(rate) > 0 for rate, *_ in shown[1:])
    assert lines[3:] == ([] if source == "folder" else ["closed"])


NOBODY = [  # a program's arguments behind the bundle, and what it says
    ("classify.py", ["nowhere.jpg"], "nowhere.jpg"),
    ("classify.py", ["notes.txt"], "notes.txt"),
    ("same_face.py", ["a.ppm", "nowhere.jpg"], "nowhere.jpg"),
    ("same_face.py", ["a.ppm", "a.ppm", "often"], "often"),
    ("detect.py", ["a.ppm"], "'boxes' is not an output of this network"),
    ("camera.py", ["nowhere"], "nowhere"),
]


@pytest.mark.parametrize("name, words, said", NOBODY)
def test_an_example_tells_mistakes_in_a_line(host, photo, tmp_path, name, words, said):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "a.ppm").write_bytes(photo.read_bytes())
    done = run(sys.executable, EXAMPLES / name, host.folder, *(tmp_path / w if "." in w else w for w in words))
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr and not done.stdout


@pytest.mark.parametrize("name", ["classify.py", "detect.py", "same_face.py", "camera.py"])
def test_an_archive_or_the_folder_above_is_no_bundle(host, tmp_path, name):
    """What a newcomer gives first; without arguments the first lines say what it takes."""
    (tmp_path / "net.tar.gz").write_bytes(b"")
    bundle = tmp_path / "net.tar.gz" if name == "classify.py" else host.folder.parent
    done = run(sys.executable, EXAMPLES / name, bundle, "a.jpg", "b.jpg")
    assert done.returncode == 1 and "tar -xf unpacks an archive" in done.stderr and done.stderr.count("\n") == 1
    bare = run(sys.executable, EXAMPLES / name)
    assert bare.returncode == 1 and f"python3 {name} BUNDLE" in bare.stderr and "Traceback" not in bare.stderr


def test_a_camera_skips_what_is_no_picture(host, photo, tmp_path):
    (tmp_path / "a.ppm").write_bytes(photo.read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    done = run(sys.executable, EXAMPLES / "camera.py", host.folder, tmp_path)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and "skipped: " in done.stderr, done.stderr


def test_a_board_without_a_camera_is_told_what_to_install(host, tmp_path):
    """The interpreter has neither package here, as on a bare system."""
    if any(__import__("importlib.util").util.find_spec(name) for name in FAKES):
        pytest.skip("this Python has picamera2 or OpenCV")
    done = run(sys.executable, EXAMPLES / "camera.py", host.folder)
    assert done.returncode == 1 and "apt-get install python3-picamera2" in done.stderr


# ---- mobilenet.py: arrays, batches, frames a second


def test_frames_come_in_either_order_of_colours_and_several_at_a_time(host, tmp_path):
    """Each gets the scores that it gets alone; frames a second are counted."""
    from tests.support import bundles

    mobilenet = bundles.python_interface()
    frames = np.random.default_rng(0).integers(0, 256, (4, 30, 40, 3), np.uint8)
    with mobilenet.Mobilenet(host.folder, threads=1) as net:
        alone = np.concatenate([net.run_image(frame) for frame in frames])
        np.testing.assert_array_equal(net.run_image(frames[..., ::-1], bgr=True), alone)
        np.testing.assert_array_equal(net.run_images(list(frames)), alone)
        assert not np.array_equal(net.run_image(frames[0], bgr=True), alone[:1])
        inputs = np.concatenate([net.preprocess(frame) for frame in frames])
        np.testing.assert_array_equal(net.run(inputs)[0], alone)
        assert net.run_images([]).shape == (0, 1000)
        assert [net.top(row, 1)[0].index for row in alone] == list(alone.argmax(1))
        Image.fromarray(frames[0]).save(tmp_path / "a.ppm")  # a file says itself which colour is which
        np.testing.assert_array_equal(net.run_image(tmp_path / "a.ppm", bgr=True), alone[:1])
        found = net.measure(frames, seconds=0.05)
        assert found["frames"] >= 1 and found["seconds"] >= 0.05
        assert np.isclose(found["frames_per_second"], found["frames"] / found["seconds"])
        for wrong, words in (
            ([], "no images"),
            (frames.astype(np.float32), "float32"),
            (frames[..., :2], "is not an image"),
        ):
            with pytest.raises(mobilenet.MobilenetError, match=words):
                net.measure(wrong)
    np.save(tmp_path / "several.npy", frames)
    np.save(tmp_path / "inputs.npy", inputs)
    answers = []
    for name in ("several.npy", "inputs.npy"):
        done = run(sys.executable, host.folder / "mobilenet.py", tmp_path / name, "--json", "--top", "2")
        answers.append([[c["class"] for c in one["classes"]] for one in json.loads(done.stdout)])
        assert schemas.refused("device", json.loads(done.stdout)) == ""
    assert answers[0] == answers[1] == [list(np.argsort(-row)[:2]) for row in alone]
    for flag, value in (("--seconds", "nan"), ("--seconds", "inf"), ("--seconds", "0"), ("--top", "0"), ("--top", "x")):
        done = run(sys.executable, host.folder / "mobilenet.py", "bench", tmp_path / "a.ppm", flag, value)
        assert done.returncode == 2 and f"{flag}: '{value}' is not a number" in done.stderr, done
    done = run(sys.executable, host.folder / "mobilenet.py", "bench", tmp_path / "a.ppm", "--seconds", "0.05", "--json")
    assert json.loads(done.stdout)["frames_per_second"] > 0, done
    schemas.require("device", json.loads(done.stdout), "")


def test_the_program_leaves_a_bundle_as_it_is(copy, photo):
    """A signed bundle has no file that was not signed; without a file beside it, the program says which."""
    before = sorted(p.name for p in copy.iterdir())
    assert run(sys.executable, copy / "mobilenet.py", photo).returncode == 0
    assert sorted(p.name for p in copy.iterdir()) == before
    (copy / "mobilenet_pictures.py").unlink()
    done = run(sys.executable, copy / "mobilenet.py", photo)
    assert done.returncode == 1 and done.stderr.endswith("mobilenet_pictures.py: No such file or directory\n"), done


def test_the_rate_of_frames_is_that_of_the_last_second(monkeypatch):
    from tests.support import bundles

    mobilenet = bundles.python_interface()
    clock = iter([*np.arange(0, 3, 0.1), *np.arange(3, 6, 0.5)])
    monkeypatch.setattr(mobilenet.time, "monotonic", lambda: next(clock))
    rate = mobilenet.FrameRate()
    shown = [rate.tick() for _ in range(36)]
    assert shown[0] == 0 and np.allclose(shown[1:30], 10) and np.isclose(shown[-1], 2)
