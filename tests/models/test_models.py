"""The networks are those of the papers and of the packages whose checkpoints people have."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.torchvision_operators import define
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import registry
from tvm_mobilenet.models.blocks import make_divisible
from tvm_mobilenet.models.v1 import MobileNetV1, round_channels

STATE_DICTS = Path(__file__).parent / "state_dicts"
NAMES = registry.names()


def table(name):
    lines = (STATE_DICTS / f"{name}.txt").read_text().splitlines()
    return [tuple(line.split()) for line in lines]


def shapes(module):
    return [(k, "x".join(map(str, v.shape)) or "scalar") for k, v in module.state_dict().items()]


@pytest.mark.parametrize("name", [n for n in NAMES if registry.find(n).checkpoint])
def test_state_dict_is_that_of_the_package(name):
    # Written down from timm 1.0.31 and torchvision 0.29 by tests/support/record_state_dicts.py.
    assert shapes(registry.architecture(name)) == table(name)


def test_state_dict_follows_the_width_as_torchvision_does():
    assert dict(shapes(registry.architecture("v2", 1.4))) == dict(table("mobilenet_v2_1.4"))
    assert dict(shapes(registry.architecture("v2", 1.3))) == dict(table("mobilenet_v2_1.3"))
    assert dict(shapes(registry.architecture("v3-large", 0.75))) == dict(table("mobilenet_v3_large_0.75"))


@pytest.mark.parametrize("alpha", [0.5, 0.35])
def test_v4_follows_the_width_as_timm_does(alpha):
    assert shapes(registry.architecture("v4-small", alpha)) == table(f"mobilenet_v4_small_{alpha}")


@pytest.mark.parametrize(
    "name, eps, momentum",
    [
        ("v1", 1e-5, 0.1),
        ("v2", 1e-5, 0.1),
        ("v3-large", 1e-3, 0.01),
        ("v3-small-minimal", 1e-3, 0.1),
        ("v4-medium", 1e-5, 0.1),
    ],
)
def test_batch_norm_constants_are_those_of_the_package(name, eps, momentum):
    norms = [m for m in registry.architecture(name).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(eps, momentum)}


@pytest.mark.parametrize("name", [n for n in NAMES if registry.find(n).checkpoint])
def test_same_function_as_the_package(name):
    define()
    package, theirs = registry.find(name).checkpoint.split()
    module = pytest.importorskip(package, exc_type=ImportError)
    torch.manual_seed(0)
    theirs = module.create_model(theirs) if package == "timm" else getattr(module.models, theirs)()
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    ours = registry.architecture(name)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alpha, resolution, classes", [(0.25, 32, 2), (0.5, 96, 1001), (1.4, 64, 10)])
def test_any_width_resolution_and_classes(name, alpha, resolution, classes):
    module = registry.architecture(name, alpha, classes).eval()
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, resolution, resolution)).shape == (1, classes)


def test_channel_rounding():
    assert [round_channels(c, 0.75) for c in (32, 64, 1024)] == [24, 48, 768]
    assert [round_channels(c, 0.3) for c in (32, 512)] == [9, 153]  # plain, not to multiples of 8
    assert round_channels(32, 0.1) == 8
    assert [make_divisible(c) for c in (3, 12, 24 * 0.35, 44, 33.6)] == [8, 16, 8, 48, 32]
    assert MobileNetV1(0.3).conv_stem.out_channels == 9


def test_plain_twin_and_shallow_variant():
    plain, shallow = registry.architecture("v1-plain"), registry.architecture("v1-shallow")
    convs = [m for m in plain.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == 14 and all(m.kernel_size == (3, 3) and m.groups == 1 for m in convs)
    assert sum(len(stage) for stage in shallow.blocks) == 13 - 5


@pytest.mark.parametrize("name", NAMES)
def test_headless(name):
    x = torch.zeros(1, 3, 64, 96)
    with torch.inference_mode():
        maps = registry.architecture(name, features=(8, 32, 16)).eval()(x)
        assert [tuple(m.shape[2:]) for m in maps] == [(8, 12), (2, 3), (4, 6)]
        last = registry.architecture(name, features=True).eval()(x)
        assert tuple(last.shape[2:]) == (2, 3)
        single = registry.architecture(name, features=(8,))
        assert tuple(single.eval()(x).shape[2:]) == (8, 12)
    whole = sum(p.numel() for p in registry.architecture(name).parameters())
    assert sum(p.numel() for p in single.parameters()) < whole / 4, "layers that no map needs are still there"


def test_headless_maps_are_the_network_s_own():
    whole = registry.create("v2", 0.25, 64)
    head = registry.create("v2", 0.25, 64, features=True)
    x = torch.from_numpy(whole.example_input())
    torch.testing.assert_close(whole.module.classifier(head.module(x).mean((2, 3))), whole.module(x))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: registry.create("mobilenet_v9"), ["mobilenet_v9", "v1, v1-plain", ".onnx"]),
        (lambda: registry.create("mobilnet_v2"), ["did you mean v2?"]),
        (lambda: registry.create("resnet18"), ["resnet18", "v3-small", "any other network", "FILE.onnx"]),
        (lambda: registry.create("MobileNetV3"), ["v3-large or --model v3-small"]),
        (lambda: registry.create("v3"), ["v3-large or --model v3-small"]),
        (lambda: registry.create("v4"), ["--model v4-small or --model v4-medium or --model v4-large"]),
        (lambda: registry.create("mobilenetv4_conv_small_050"), ["--model v4-small --alpha 0.5?"]),
        (lambda: registry.create("mobilenetv2_140"), ["--model v2 --alpha 1.4?"]),
        (lambda: registry.create("mobilenet_v1_0.25_128"), ["--model v1 --alpha 0.25 --resolution 128?"]),
        (lambda: registry.create("v1", alpha=0), ["alpha 0"]),
        (lambda: registry.create("v1", alpha=float("nan")), ["alpha nan"]),
        (lambda: registry.create("v1", resolution=225), ["225", "multiple of 32", "224 or 256"]),
        (lambda: registry.create("v1", resolution=0), ["0", "32"]),
        (lambda: registry.create("v1", num_classes=0), ["0 classes"]),
        (lambda: registry.create("v1", features=(8, 64)), ["[8, 64]", "2, 4, 8, 16, 32"]),
        (lambda: registry.create("v1", features=(8, 8)), ["each once"]),
        (lambda: registry.create("v1", features=()), ["[]"]),
    ],
)
def test_refusals_say_what_and_what_to_do(call, words):
    with pytest.raises(TvmMobilenetError) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)


def test_names_and_aliases():
    for alias, name in [
        ("v1", "mobilenet_v1"),
        ("V3-Large", "mobilenet_v3_large"),
        ("mobilenet-v2", "mobilenet_v2"),
        ("MobileNetV2", "mobilenet_v2"),
        ("MobileNet v3 Large", "mobilenet_v3_large"),
        ("mobilenetv1-plain", "mobilenet_v1_plain"),
        ("plain", "mobilenet_v1_plain"),
        ("v3_small", "mobilenet_v3_small"),
    ]:
        assert registry.find(alias).name == name
    aliases = [a for e in registry.entries().values() for a in (e.name, *e.aliases)]
    assert len(aliases) == len(set(aliases))


def test_registry_imports_neither_torch_nor_pillow():
    code = (
        "import sys; from tvm_mobilenet.models import registry, preprocess; registry.find('v1');"
        "assert not {'torch', 'tvm', 'PIL'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_published_accuracies_are_of_models_that_exist():
    path = Path(registry.__file__).parent / "data" / "accuracy.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [(row["model"], float(row["alpha"]), int(row["resolution"])) for row in rows]
    assert len(keys) == len(set(keys)) and {
        ("mobilenet_v1", a, r) for a in (0.25, 0.5, 0.75, 1.0) for r in (128, 160, 192, 224)
    } <= set(keys)
    for (name, alpha, resolution), row in zip(keys, rows, strict=True):
        assert registry.find(name).name == name and row["source"]
        registry.check_shape(alpha, resolution, 1000)
        assert 40 < float(row["top1"]) < 85 and (not row["top5"] or float(row["top1"]) < float(row["top5"]) < 97)
