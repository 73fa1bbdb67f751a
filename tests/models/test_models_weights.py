"""Seeded weights make a reference that no broken compiler agrees with; a checkpoint that does not fit is refused."""

import functools
import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import registry
from tvm_mobilenet.models.preprocess import evaluation_batch
from tvm_mobilenet.models.seeded import natural_images, seed_weights
from tvm_mobilenet.models.weights import load_weights

SLOW = functools.partial(pytest.param, marks=pytest.mark.full)

# 224 of each family, and the corners where maps are 1x1 or channels few
MODELS = [
    SLOW("v1", 1.0, 224),
    ("v1", 0.25, 32),
    ("v1-shallow", 0.5, 128),
    ("v1-plain", 0.25, 96),
    SLOW("v2", 1.0, 224),
    ("v2", 0.5, 96),
    SLOW("v2", 1.4, 64),
    SLOW("v3-large", 1.0, 224),
    SLOW("v3-small", 1.0, 224),
    ("v3-large", 1.0, 32),
    ("v4-small", 0.5, 64),
    SLOW("v4-small", 1.0, 224),
    SLOW("v4-medium", 1.0, 256),
    SLOW("v3-small-minimal", 1.0, 224),
]


def deviations(module, preprocess):
    """Standard deviation of what each batch norm gives on photographs, and the logits: (images, classes)."""
    found, hooks = {}, []
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            hooks.append(layer.register_forward_hook(lambda _, __, out, n=name: found.update({n: float(out.std())})))
    with torch.no_grad():
        logits = module.eval()(torch.from_numpy(evaluation_batch(preprocess, 6)))
    for hook in hooks:
        hook.remove()
    return found, logits


def complaints(module, preprocess):
    """What makes these weights a bad reference; empty for good ones."""
    found, logits = deviations(module, preprocess)
    wrong = [f"{name} {std:.2f}" for name, std in found.items() if not 0.35 < std < 2.5]
    across = float(logits.std(0).mean() / logits.std())
    if across < 0.4:
        wrong.append(f"logits: {across:.3f} of their deviation comes from the image")
    if len(set(logits.argmax(1).tolist())) < 3:
        wrong.append("the best class hardly depends on the image")
    return wrong


@pytest.mark.parametrize("name, alpha, resolution", MODELS)
def test_unit_variance_all_the_way_and_logits_depend_on_the_image(name, alpha, resolution):
    spec = registry.create(name, alpha, resolution)
    assert complaints(spec.module, spec.preprocess) == []


@pytest.mark.parametrize("name", ["v1", "v2", "v3-small"])
def test_pytorch_s_initial_weights_fail_that_test(name):
    torch.manual_seed(0)
    preprocess = registry.find(name).preprocess(128)
    wrong = complaints(registry.architecture(name), preprocess)
    assert len(wrong) > 5 and any("logits" in w or "best class" in w for w in wrong), wrong


@pytest.mark.parametrize("name", ["v3-large", "v3-small"])
def test_squeeze_and_excite_gates_stay_on_their_slope(name):
    spec, reads = registry.create(name, 1.0, 128), []
    for layer in spec.module.modules():
        if hasattr(layer, "fc2"):
            layer.fc2.register_forward_hook(lambda _, __, out: reads.append(out))
    spec.module(torch.from_numpy(evaluation_batch(spec, 6)))
    assert len(reads) >= 8
    for read in reads:
        assert float((read.abs() >= 3).float().mean()) < 0.05
        assert float(read.std(0).mean()) > 0.02, "the gate does not depend on the image"


def digest(module):
    state = b"".join(v.numpy().tobytes() for v in module.state_dict().values())
    return hashlib.sha256(state).hexdigest()[:16]


@pytest.mark.parametrize(
    "name, expected", [("v1", "e44a4fb1b411801b"), ("v2", "a3e311581a98ac39"), ("v3-small", "173c88c27ae0c00f")]
)
def test_seeded_weights_are_the_same_bits_everywhere(name, expected):
    # A tune log, a bug report and CI speak of the same network only if this holds.
    assert digest(registry.create(name, 0.25, 64).module) == expected


def test_seeded_weights_depend_on_the_seed_and_not_on_threads():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert digest(registry.create("v3-small", 0.25, 64).module) == "173c88c27ae0c00f"
    finally:
        torch.set_num_threads(threads)
    assert digest(registry.create("v1", 0.25, 32, seed=1).module) != digest(registry.create("v1", 0.25, 32).module)


def test_no_two_weights_of_a_layer_row_are_alike():
    # Verification tells layers and channels apart only if they differ.
    weight = registry.create("v1", 0.25, 32).module.blocks[4][1].conv_pw.weight.flatten(1)
    assert len(torch.unique(weight, dim=0)) == len(weight) and len(torch.unique(weight)) > 0.99 * weight.numel()


def test_natural_images():
    images = natural_images(3, 64)
    assert images.shape == (3, 64, 64, 3) and images.min() >= 0 and images.max() <= 1
    assert np.array_equal(images, natural_images(3, 64)) and not np.array_equal(images, natural_images(3, 64, seed=1))


def test_seeding_leaves_float32_in_eval_or_training_mode():
    module = registry.architecture("v2", 0.25).train()
    seed_weights(module, registry.find("v2").preprocess(32))
    assert module.training and {p.dtype for p in module.parameters()} == {torch.float32}
    assert not [m for m in module.modules() if m._forward_pre_hooks]


# ---- people's checkpoints


@pytest.fixture(scope="module")
def seeded():
    return registry.create("v2", 0.25, 32, num_classes=5).module


def fresh(**changes):
    return registry.architecture("v2", **{"alpha": 0.25, "num_classes": 5, **changes})


WRAPPED = {
    "plain": lambda s: s,
    "lightning": lambda s: {"epoch": 3, "state_dict": {"model." + k: v for k, v in s.items()}},
    "parallel": lambda s: {"model": {"module." + k: v for k, v in s.items()}, "optimizer": {"lr": 0.1}},
    "compiled": lambda s: {"_orig_mod." + k: v for k, v in s.items()},
    "half": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    "no counters": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_checkpoints_load_as_trainers_write_them(tmp_path, seeded, wrap):
    path, module = tmp_path / "c.pth", fresh()
    torch.save(WRAPPED[wrap](seeded.state_dict()), path)
    load_weights(module, path)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(module.eval()(x), seeded(x))


def test_safetensors_and_headless(tmp_path, seeded):
    path = tmp_path / "c.safetensors"
    save_file(dict(seeded.state_dict()), path)
    load_weights(fresh(), path)
    head = fresh(features=(16,))
    load_weights(head, path)
    assert torch.equal(head.features[3].conv[0][0].weight, seeded.features[3].conv[0][0].weight)
    spec = registry.create("v2", 0.25, 32, num_classes=5, weights=path)
    assert spec.weights == str(path) and torch.equal(spec.module.classifier[1].bias, seeded.classifier[1].bias)


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: without(s, "features.0.0.weight"), ["1 missing: features.0.0.weight"]),
        (lambda s: {**s, "extra.weight": torch.zeros(1)}, ["1 unexpected: extra.weight"]),
        (
            lambda s: {**s, "features.1.conv.1.weight": torch.zeros(4, 8, 1, 1)},
            ["1 of the wrong shape: features.1.conv.1.weight is 4x8x1x1, must be 8x8x1x1"],
        ),
        (
            lambda s: {**s, "classifier.1.weight": torch.zeros(9, 1280), "classifier.1.bias": torch.zeros(9)},
            ["only the classifier differs: --classes 9"],
        ),
        (lambda s: {**s, "classifier.1.bias": torch.full((5,), torch.nan)}, ["NaN in classifier.1.bias"]),
        (
            lambda s: {**s, "classifier.1.bias": torch.full((5,), -1e300, dtype=torch.float64)},
            ["classifier.1.bias holds -1e+300, which is beyond float32"],
        ),
        (
            lambda s: {**s, "features.0.1.running_var": s["features.0.1.running_var"] - 1e3},
            ["features.0.1.running_var of channel 0 and ", "a variance is not negative"],
        ),
        (lambda s: {"epoch": 1}, ["holds no weights"]),
        (lambda s: [1, 2], ["holds no weights"]),
    ],
)
def test_wrong_checkpoints_are_refused_by_name(tmp_path, seeded, change, words):
    path = tmp_path / "wrong.pth"
    torch.save(change(seeded.state_dict()), path)
    with pytest.raises(TvmMobilenetError) as error:
        load_weights(fresh(), path)
    assert all(word in str(error.value) for word in [str(path), *words]), str(error.value)


def test_another_model_s_checkpoint_shows_the_first_keys(tmp_path):
    path = tmp_path / "v1.pth"
    torch.save(registry.architecture("v1", 0.25).state_dict(), path)
    with pytest.raises(TvmMobilenetError, match=r"missing: features\.0\.0\.weight, .*unexpected: conv_stem\.weight, "):
        registry.create("v2", weights=path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_foreign_and_missing_files(tmp_path, suffix):
    path = tmp_path / f"c{suffix}"
    with pytest.raises(TvmMobilenetError, match="no such file"):
        load_weights(fresh(), path)
    path.write_bytes(b"\x80\x02not weights" * 9)
    with pytest.raises(TvmMobilenetError, match="cannot be read as weights"):
        load_weights(fresh(), path)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_checkpoint_executes_nothing(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(TvmMobilenetError, match="cannot be read as weights"):
        load_weights(fresh(), tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out
