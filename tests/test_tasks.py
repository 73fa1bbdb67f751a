"""Networks of tasks beyond classification: detectors' raw heads, segmentation, embeddings, text.

Each is built and verified on its machine code, and packed; the bundle tests itself, and its outputs have the names of
the file's. Weights are random but for those of the package ``rapidocr-onnxruntime``, which ships PaddleOCR's trained
ones (`tests.support.trained`).
"""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from tests.support import bundles, modules, task_networks, trained
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.models.preprocess import sample_images

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
pytestmark = pytest.mark.full


def run(*command):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=1200)


def made(name: str, target: str, path: Path | None = None, resolution=None):
    """A network built for a target, with its bundle: ``.network``, ``.built``, ``.bundle``, ``.file``."""
    root = modules.root()
    if path is None:
        path = modules.once(root / f"{name}.onnx", lambda file: task_networks.write(name, file))
    network = load_network(ModelOptions(model=str(path), resolution=resolution, resize="squash"))
    board, folder = targets.load(target), root / f"task-{name}-{target}"

    def make(folder: Path) -> None:
        build.build(network.options, board, output=folder / "built", network=network, bundle=folder / "bundle")

    modules.once(folder, make)
    return types.SimpleNamespace(network=network, built=folder / "built", bundle=folder / "bundle", file=path)


def require_right(task, target: str) -> None:
    """Machine code is right layer by layer, the bundle tests itself, and names its outputs as the file does."""
    result = verify.verify(task.built, board="local" if target == "host" else "virtual", network=task.network, count=1)
    result.require()
    session = onnxruntime.InferenceSession(task.file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert [compared.name for compared in result.outputs] == names
    runner = [] if target == "host" else bundles.emulator("aarch64")
    if runner is None:
        pytest.skip("needs apt-get install qemu-user libc6-arm64-cross")
    done = run(*runner, task.bundle / "mobilenet", "selftest", "--threads", 1)
    assert done.returncode == 0 and done.stdout.startswith("passed"), done
    about = run(*runner, task.bundle / "mobilenet", "info").stdout.splitlines()
    assert [line.split()[1] for line in about if line.startswith("output")] == names


@pytest.mark.parametrize(
    "name, target",
    [
        ("ssdlite", "host"),
        ("mobilefacenet", "host"),
        ("retinaface", "rpi4"),
        ("lraspp", "rpi4"),
        ("deeplabv3", "rpi4"),
    ],
)
def test_a_network_of_another_task_is_verified_and_tests_itself(name, target):
    require_right(made(name, target), target)


whole = pytest.mark.skipif("TVM_MOBILENET_MATRIX" not in os.environ, reason="the matrix: TVM_MOBILENET_MATRIX")


@pytest.mark.parametrize(
    "file, size, target",
    [
        ("ch_ppocr_mobile_v2.0_cls_infer", (48, 192), "host"),
        pytest.param("ch_ppocr_mobile_v2.0_cls_infer", (48, 192), "rpi4", marks=whole),
        pytest.param("ch_PP-OCRv4_det_infer", (64, 96), "host", marks=whole),
        pytest.param("ch_PP-OCRv4_det_infer", (64, 96), "rpi4", marks=whole),
    ],
)
def test_text_is_classified_and_found_at_a_size_that_a_flag_fixes(file, size, target):
    """PaddleOCR's files leave batch, height and width open; the classifier's have all one name, ``?``."""
    task = made(file, target, trained.ocr() / f"{file}.onnx", size)
    assert task.network.signature.inputs[0].shape == (1, 3, *size)
    require_right(task, target)


# ---- the examples, each beside a bundle as on a device


def outputs(task, photo: Path) -> dict[str, np.ndarray]:
    """What ONNX Runtime makes of a photograph, by name."""
    with bundles.python_interface().Mobilenet(task.bundle) as net:
        image = net.preprocess(photo)
        assert [name for name, *_ in net.inputs] == ["image"]
        found = net.run_named(image)
    session = onnxruntime.InferenceSession(task.file, providers=["CPUExecutionProvider"])
    due = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"image": image}), strict=True))
    assert found.keys() == due.keys()
    assert all(relative(found[name], due[name]) < 1e-4 for name in due)
    return due


def test_the_detector_draws_the_boxes_that_its_heads_mean():
    """Decoded and thinned out here once more, box by box, as the papers write it."""
    task, photo = made("ssdlite", "host"), sample_images()[0]
    found = outputs(task, photo)
    likely = np.exp(found["logits"][0]) / np.exp(found["logits"][0]).sum(1, keepdims=True)
    boxes = [box_of(i, step) for i, step in enumerate(found["boxes"][0])]
    least = float(np.sort(likely[:, 1:].ravel())[-41:-39].mean())  # between two scores, so that rounding decides none
    due = []
    for kind in (1, 2):
        for i in np.argsort(-likely[:, kind]):
            kept = [other for k, other in due if k == kind]
            if likely[i, kind] >= least and all(shared(boxes[i], boxes[other]) <= 0.55 for other in kept):
                due.append((kind, i))
    done = run(sys.executable, EXAMPLES / "detect.py", task.bundle, photo, least)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and 2 <= len(lines) == len(due) < 40, (done, due)
    for line, (kind, i) in zip(lines, due, strict=True):
        score, _, number, _, *sides = line.split()
        assert int(number) == kind and abs(float(score) - likely[i, kind]) < 2e-3
        assert np.abs(np.array(sides, float) - boxes[i]).max() < 2e-3


def box_of(i: int, step: np.ndarray) -> np.ndarray:
    """A prior's box: its place in the three maps, its shape, and the step that the network takes from there."""
    first, level = 0, 0
    for side in task_networks.SsdLite.levels:
        if i < first + 6 * side * side:
            break
        first, level = first + 6 * side * side, level + 1
    position, shape = divmod(i - first, 6)
    row, column = divmod(position, side)
    scale = (0.2, 0.575, 0.95, 1.0)[level : level + 2]
    height = width = scale[0] if shape != 1 else (scale[0] * scale[1]) ** 0.5
    if shape > 1:
        wide = (2, 0.5, 3, 1 / 3)[shape - 2] ** 0.5
        width, height = width * wide, height / wide
    width, height = min(width, 1), min(height, 1)
    x, y = (column + 0.5) / side + step[0] * 0.1 * width, (row + 0.5) / side + step[1] * 0.1 * height
    width, height = width * np.exp(step[2] * 0.2), height * np.exp(step[3] * 0.2)
    return np.clip([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 0, 1)


def shared(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_the_faces_of_two_photographs_have_the_cosine_of_their_embeddings(tmp_path):
    task = made("mobilefacenet", "host")
    assert not task.network.classes, "an embedding has no scores of classes"
    photo = sample_images()[0]
    with Image.open(photo) as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(tmp_path / "other.png")
    a, b = (outputs(task, path)["embedding"][0] for path in (photo, tmp_path / "other.png"))
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5) and a @ b < 0.999
    done = run(sys.executable, EXAMPLES / "same_face.py", task.bundle, photo, tmp_path / "other.png", a @ b + 0.01)
    cosine, persons = re.fullmatch(r"cosine (.*): (.*)\n", done.stdout).groups()
    assert float(cosine) == pytest.approx(a @ b, abs=1e-3) and persons == "two persons"
    done = run(sys.executable, EXAMPLES / "same_face.py", task.bundle, photo, photo)
    assert done.stdout == "cosine 1.0000: one person\n", done
