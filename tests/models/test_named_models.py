"""Networks of timm and torchvision by their names, and what a program of the user's makes."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import fake_packages
from tests.support.torchvision_operators import define
from tvm_mobilenet import __main__ as command
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.compiler import model_files
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.compiler.tables import labels_source
from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError
from tvm_mobilenet.models.options import ModelOptions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def importable(monkeypatch, tmp_path):
    """A folder that is imported from, for one test; what it hides is there again afterwards."""
    folder = tmp_path / "packages"
    folder.mkdir()
    ours = ("timm", "torchvision")
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ours}
    for name in kept:
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]
    sys.modules.update(kept)


def network(**options):
    return load_network(ModelOptions(**options))


# ---- packages


def test_timm_s_network_comes_with_its_weights_preprocessing_and_labels(importable, capsys):
    fake_packages.write(importable)
    found = network(model="timm:tiny_net")
    preprocess = found.image.preprocess
    assert (preprocess.size, preprocess.mean, preprocess.crop) == ((48, 64), (0.1, 0.2, 0.3), 0.9)
    assert found.image.assumed == () and not found.seeded and found.labels[3] == "kind 3"
    assert labels_source(found) == "timm's own"
    assert found.options.title == "timm:tiny_net" and found.options.slug == "timm-tiny_net"
    said = capsys.readouterr()
    assert said.out == "" and "with its trained weights" in said.err
    other = network(model="timm:tiny_net", resolution=32)
    assert other.image.preprocess.size == (32, 32) and other.options.slug == "timm-tiny_net-32"
    assert torch.equal(found.model.module[5].weight, other.model.module[5].weight)


def test_torchvision_s_network_comes_with_its_weights_preprocessing_and_labels(importable):
    fake_packages.write(importable)
    found = network(model="torchvision:tiny_net")
    preprocess = found.image.preprocess
    assert (preprocess.size, preprocess.crop, preprocess.std) == ((64, 64), 0.8, (0.2, 0.2, 0.2))
    assert found.labels[6] == "sort 6" and not found.seeded and found.image.assumed == ()


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_untrained_weights_are_the_same_each_time_and_said_to_mean_nothing(importable, package):
    fake_packages.write(importable)
    one, same, other = (network(model=f"{package}:tiny_net", weights="random", seed=seed) for seed in (None, 0, 1))
    weights = [n.model.module[0].weight for n in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert one.seeded and one.labels == ()
    x = torch.from_numpy(one.inputs(1)[0][0])
    assert 0.3 < float(one.model.module[:2](x).std()) < 3, "each batch norm has the statistics of its input"


def test_a_checkpoint_is_read_as_any_other_and_its_preprocessing_is_in_doubt(importable, tmp_path):
    fake_packages.write(importable)
    network(model="timm:tiny_net")
    state = sys.modules["timm"].net(3).state_dict()
    torch.save(state, tmp_path / "w.pth")
    found = network(model="timm:tiny_net", weights=tmp_path / "w.pth", classes=3)
    assert torch.equal(found.model.module[5].weight, state["5.weight"]) and "mean" in found.image.assumed
    with pytest.raises(TvmMobilenetError, match=r"w\.pth does not fit"):
        network(model="timm:tiny_net", weights=tmp_path / "w.pth")


@pytest.mark.parametrize(
    "model, words",
    [
        ("timm:tiny_nte", "timm 1.0.31 has no network tiny_nte\n.*did you mean timm:tiny_net"),
        ("torchvision:mobilenet_v7", "has no network mobilenet_v7\n.*did you mean torchvision:mobilenet_v2"),
        ("timm:", "is not the name of a network\n.*for example"),
        ("timm:hf-hub:somebody/evil", "is not the name of a network"),
        ("timm:../evil", "is not the name of a network"),
        ("torchvision:a b", "is not the name of a network"),
    ],
)
def test_names_that_a_package_has_not(importable, model, words):
    fake_packages.write(importable)
    with pytest.raises(TvmMobilenetError) as error:
        network(model=model)
    assert re.search(words, str(error.value), re.DOTALL), error.value


def test_without_a_network_the_ways_out_are_told(importable, monkeypatch):
    fake_packages.write(importable)
    monkeypatch.setenv("NO_NETWORK", "1")
    with pytest.raises(TvmMobilenetError, match="couldn't connect") as error:
        network(model="timm:tiny_net")
    assert "--weights FILE, or --weights random" in error.value.hint


@pytest.mark.parametrize("model", ["timm:mobilenetv4_conv_small", "torchvision:mobilenet_v2"])
def test_a_torchvision_of_another_torch_is_recognised(importable, model, capsys):
    fake_packages.write_foreign(importable)
    assert command.main(["complexity", "--model", model]) == 3
    said = capsys.readouterr().err
    assert "built for another torch" in said and "from one index" in said and "nms" not in said


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch, importable):
    (importable / "timm").mkdir()
    (importable / "timm" / "__init__.py").write_text("raise ModuleNotFoundError('no', name='timm')")
    with pytest.raises(MissingDependencyError, match=r"need timm, which is not installed here\n.*pip install timm"):
        network(model="timm:mobilenetv4_conv_small")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--model", "timm:x", "--alpha", "0.5"], "--alpha: timm fixes timm:x"),
        (["--model", "timm:x", "--features"], "--features"),
        (["--model", "timm:x", "--classes", "5"], "trained for its own classes"),
        (["--model", "timm:x", "--weights", "imagenet"], "has these weights already"),
        (["--model", "timm:x/y"], "not the name of a network"),
        (["--model", "v2", "--weights", "random"], "seeded weights where none are given"),
        (
            ["--model", "v2", "--weights", "imagenet", "--alpha", "0.5"],
            "of width 1 and 1000 classes, not of --alpha 0.5",
        ),
        (["--model", "v4-small", "--weights", "imagenet"], "timm:mobilenetv4_conv_small takes its own"),
        (["--model", "v1-plain", "--weights", "imagenet"], "published are those of mobilenet_v2"),
        (["--model", "PROGRAM:net", "--classes", "5"], "the program makes the whole network"),
        (["--model", "PROGRAM:net", "--weights", "imagenet"], "takes weights from a file only"),
        (["--model", "PROGRAM:net", "--trust-file"], "names a program to run"),
        (["--model", "gone.py:net"], "gone.py: no such file"),
        (["--model", "PROGRAM:"], "is not the name of a function"),
        (["--model", "PROGRAM"], "a Python program.*--model FILE.py:FUNCTION, which runs it"),
    ],
)
def test_flags_that_do_not_fit_are_refused_before_anything_runs(tmp_path, capsys, arguments, words):
    program = tmp_path / "net.py"
    program.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    arguments = [word.replace("PROGRAM", str(program)) for word in arguments]
    assert command.main(["complexity", *arguments]) == 2
    said = capsys.readouterr().err
    assert re.search(words, said, re.DOTALL), said
    assert not (tmp_path / "ran").exists()


@pytest.mark.full
@pytest.mark.parametrize(
    "model", ["timm:mobilenetv4_conv_small", "timm:mobilenetv3_large_100", "torchvision:mobilenet_v2"]
)
def test_the_packages_themselves(model):
    """The real ones, where they are installed: their interfaces are as the fakes have them."""
    define()
    pytest.importorskip(model.partition(":")[0], exc_type=ImportError)
    found = network(model=model, weights="random", resolution=64)
    assert (
        found.image.preprocess.std == (0.229, 0.224, 0.225)
        and found.classes == 1000
        and len(found.model.labels) in (0, 1000)
    )


# ---- programs

NET = """
import torch
from torch import nn
from beside import WIDTH

def net():
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(WIDTH, 10), nn.Softmax(1))

grey = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU())

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x)

def takes(width):
    return net()

def raises():
    raise ValueError("no such checkpoint")

def leaves():
    raise SystemExit(3)

def nothing():
    pass

WORD = "word"
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "my_net.py"
    path.write_text(NET)
    (tmp_path / "beside.py").write_text("WIDTH = 8\n")
    yield path
    sys.modules.pop("beside", None)


def test_a_program_s_model_is_imported_with_its_size_and_the_same_weights_each_time(program, capsys):
    found, again = (network(model=f"{program}:net", resolution=(32, 48)) for _ in range(2))
    assert found.image.preprocess.size == (32, 48) and "mean" in found.image.assumed
    assert "layout" not in found.image.assumed and not found.seeded and found.scores == "softmax"
    assert torch.equal(found.model.module[0].weight, again.model.module[0].weight)
    assert found.options.title == "my_net.py:net 32x48" and found.options.slug == "my_net-net-32x48"
    assert f"running {program}: net()" in capsys.readouterr().err
    assert network(model=f"{program}:net").image.preprocess.size == (224, 224)
    assert str(program.parent) not in sys.path


def test_a_program_s_model_is_exported_once_for_its_reference_and_never_for_its_outputs_alone(program, monkeypatch):
    """An accuracy on 50,000 images asks for the outputs of each few."""
    made, exports, export = network(model=f"{program}:net", resolution=32), [], torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda *given: exports.append(given) or export(*given))
    inputs = made.inputs(1)
    alone = [made.reference(inputs)[0] for _ in range(2)]
    assert not exports
    found = [made.framework(inputs) for _ in range(2)]
    assert len(exports) == 1 and found[0].functions == found[1].functions == ("softmax",)
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one.values[0][0], other[0][0])
        np.testing.assert_array_equal(one.before[0][0], found[0].before[0][0])
        assert not np.array_equal(one.before[0][0], one.values[0][0])


def test_a_class_an_object_and_an_image_of_one_channel(program):
    assert network(model=f"{program}:Own", resolution=32).signature.outputs[0].shape == (1, 4, 30, 30)
    assert network(model=f"{program}:grey", resolution=32, batch=2).signature.inputs[0].shape == (2, 1, 32, 32)


def test_a_checkpoint_of_a_program_s_model(program, tmp_path):
    state = network(model=f"{program}:net", resolution=32, seed=4).model.module.state_dict()
    torch.save(state, tmp_path / "w.pth")
    found = network(model=f"{program}:net", resolution=32, weights=tmp_path / "w.pth")
    assert torch.equal(found.model.module[0].weight, state["0.weight"])


@pytest.mark.parametrize(
    "factory, words",
    [
        ("nte", r"my_net\.py has no nte\n.*did you mean net"),
        ("elsewhere", r"has no elsewhere\n.*it has net, Own, takes, raises"),
        ("takes", r"takes\(\) ends with TypeError.*\n.*take no arguments"),
        ("raises", r"my_net\.py, line \d+: raises\(\) ends with ValueError: no such checkpoint"),
        ("leaves", r"line \d+: leaves\(\) ends with SystemExit"),
        ("nothing", r"nothing\(\) returns NoneType, not a torch\.nn\.Module"),
        ("WORD", "WORD is str, not a function"),
    ],
)
def test_what_makes_no_model_is_told_with_its_line(program, factory, words):
    with pytest.raises(TvmMobilenetError) as error:
        network(model=f"{program}:{factory}")
    assert re.search(words, str(error.value), re.DOTALL), error.value


@pytest.mark.parametrize("text, words", [("def net(:", "line 1.*SyntaxError"), ("import gone_", "line 1.*gone_")])
def test_a_program_that_does_not_run(program, text, words):
    program.write_text(text)
    with pytest.raises(TvmMobilenetError, match=words):
        network(model=f"{program}:net")


def test_a_build_does_not_run_its_program_again_unless_told(program, tmp_path, capsys):
    folder, target = tmp_path / "out", targets.load("host")
    found = network(model=f"{program}:net", resolution=32)
    build.build(found.options, target, output=folder, network=found)
    program.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{NET}")
    module = built.read(folder)
    with pytest.raises(TvmMobilenetError, match="that program would run again"):
        model_files.from_build(module)
    assert command.main(["verify", str(folder), "--inputs", "1"]) == 2
    assert "--trust-file" in capsys.readouterr().err and not (tmp_path / "ran").exists()
    with pytest.warns(UserWarning, match="has changed since"):
        again = model_files.from_build(module, trust_file=True)
    assert again.model == f"{program}:net"
    result = verify.verify(folder, board="local", network=load_network(again), count=1)
    assert result.ok and (tmp_path / "ran").exists()


def test_a_plan_that_was_changed_to_name_a_program_runs_nothing(program, tmp_path):
    """A build may be anybody's: what it names is not run, whatever it leaves out about it."""
    module = built.read(_any_build())
    for files in (module.info["model"].get("files"), None, {}):
        info = {**module.info, "model": {**module.info["model"], "model": f"{program}:net", "files": files}}
        planted = type("Planted", (), {"info": info, "folder": module.folder, "files": module.files})
        with pytest.raises(TvmMobilenetError, match="would run again"):
            model_files.from_build(planted)


def _any_build() -> Path:
    from tests.support import modules

    return modules.small("host")
