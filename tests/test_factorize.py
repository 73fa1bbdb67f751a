"""A depthwise and a pointwise are one standard convolution, and the nearest such pair to a kernel is the one found."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.support import schemas
from tvm_mobilenet import factorize as verb
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import registry
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.models.preprocess import evaluation_batch


def as_torch(*arrays):
    return [torch.from_numpy(np.asarray(a, np.float64)) for a in arrays]


def test_our_blocks_are_one_convolution():
    # The claim of the issue, on the very weights and activations of a network: without the activation between them,
    # depthwise, batch norm, pointwise and batch norm are one standard convolution with a bias.
    spec = registry.create("v1", 0.25, 64)
    module = spec.module.double()
    x = module.stem(torch.from_numpy(evaluation_batch(spec, 2)).double())
    blocks = [block for stage in module.blocks for block in stage]
    for block in blocks[:4]:
        linear = block.bn2(block.conv_pw(block.bn1(block.conv_dw(x))))
        scale1, shift1 = folded(block.bn1)
        scale2, shift2 = folded(block.bn2)
        depthwise = block.conv_dw.weight * scale1[:, None, None, None]
        pointwise = block.conv_pw.weight.flatten(1) * scale2[:, None]
        kernel = verb.compose(depthwise.numpy(), pointwise.numpy(), x.shape[1])
        for n, m, i, j in [(0, 0, 0, 0), (3, 5, 1, 2), (7, 2, 2, 2)]:
            assert kernel[n, m, i, j] == pytest.approx(float(pointwise[n, m] * depthwise[m, 0, i, j]), rel=1e-12)
        one = F.conv2d(x, torch.from_numpy(kernel), pointwise @ shift1 + shift2, block.conv_dw.stride, 1)
        torch.testing.assert_close(one, linear, rtol=1e-9, atol=1e-9)
        x = block(x)


def folded(norm):
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.sampled_from([(3, 3), (5, 5), (1, 3), (2, 2)]),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(0, 2**31),
)
def test_two_convolutions_equal_the_composed_one(n, m, window, rank, pad, seed):
    draw = np.random.default_rng(seed)
    d, p = draw.standard_normal((m * rank, 1, *window)), draw.standard_normal((n, m * rank, 1, 1))
    x, d_, p_, k = as_torch(draw.standard_normal((1, m, 7, 9)), d, p, verb.compose(d, p, m))
    two = F.conv2d(F.conv2d(x, d_, stride=2, padding=pad, groups=m), p_)
    torch.testing.assert_close(two, F.conv2d(x, k, stride=2, padding=pad))


def test_a_separable_kernel_is_found_exactly():
    draw = np.random.default_rng(0)
    d, p = draw.standard_normal((4, 1, 3, 3)), draw.standard_normal((16, 4))
    kernel = verb.compose(d, p, 4)
    errors = verb.rank_errors(kernel)
    assert len(errors) == 9 and errors[0] < 1e-7
    np.testing.assert_allclose(verb.compose(*verb.factor(kernel, 1), 4), kernel, atol=1e-12)
    noisy = kernel + 0.1 * draw.standard_normal(kernel.shape)
    assert 0.01 < verb.rank_errors(noisy)[0] < 0.2


@pytest.mark.parametrize("shape", [(16, 3, 3, 3), (8, 4, 5, 5), (4, 6, 3, 3)])
def test_errors_are_those_of_the_factors_and_none_is_better(shape):
    draw = np.random.default_rng(1)
    kernel = draw.standard_normal(shape)
    errors = verb.rank_errors(kernel)
    ranks = min(shape[0], shape[2] * shape[3])
    assert len(errors) == ranks and errors[-1] < 1e-7 and list(errors) == sorted(errors, reverse=True)
    for rank in {1, 2, ranks}:
        d, p = verb.factor(kernel, rank)
        assert d.shape == (shape[1] * rank, 1, *shape[2:]) and p.shape == (shape[0], shape[1] * rank, 1, 1)
        left = np.linalg.norm(verb.compose(d, p, shape[1]) - kernel) / np.linalg.norm(kernel)
        assert left == pytest.approx(errors[rank - 1], abs=1e-7)
        for _ in range(5):  # a step in any direction is worse
            moved = d + 1e-3 * draw.standard_normal(d.shape), p + 1e-3 * draw.standard_normal(p.shape)
            assert np.linalg.norm(verb.compose(*moved, shape[1]) - kernel) / np.linalg.norm(kernel) >= left - 1e-9


def test_impossible_requests():
    kernel = np.zeros((4, 2, 3, 3))
    for rank in (0, 5):
        with pytest.raises(TvmMobilenetError, match=f"rank {rank}"):
            verb.factor(kernel, rank)
    with pytest.raises(TvmMobilenetError, match="as many inputs as the depthwise has outputs"):
        verb.compose(np.zeros((4, 1, 3, 3)), np.zeros((2, 5)), 4)
    assert verb.rank_errors(kernel)[0] == 0  # and no division by zero


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network of a separable and an unstructured kernel, saved as people save theirs."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 16, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 8, 1),
    )
    draw = np.random.default_rng(2)
    kernel = verb.compose(draw.standard_normal((32, 1, 3, 3)), draw.standard_normal((16, 32)), 32)
    net[2].weight.data = torch.from_numpy(kernel).float()
    path = tmp_path_factory.mktemp("factorize") / "net.pt2"
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(1, 3, 12, 12),)), path)
    return path, net


def test_one_sees_when_a_kernel_separates(saved, capsys, tmp_path):
    path, net = saved
    assert verb.main(["--model", str(path), "--json", "--output", str(tmp_path / "f.npz")]) == 0
    document = json.loads(capsys.readouterr().out)
    schemas.require("factorize", document, "", "layers.0")
    layers = document["layers"]
    assert len(layers) == 2  # not the pointwise
    plain, separable = layers
    assert separable["errors"][0] < 1e-5 < 0.5 < plain["errors"][0]
    assert plain["errors"][0] == pytest.approx(plain["noise"][0], abs=0.1) and separable["noise"][0] > 0.7
    assert separable["cost"][0] == pytest.approx(1 / 16 + 1 / 9)
    with np.load(tmp_path / "f.npz") as f:
        name = separable["source"]
        kernel = verb.compose(f[f"{name}.depthwise"], f[f"{name}.pointwise"], 32)
        np.testing.assert_allclose(kernel, net[2].weight.detach().numpy(), atol=1e-4)


def test_the_command(saved, capsys, tmp_path):
    path, _ = saved
    assert verb.main(["--model", str(path)]) == 0
    out = capsys.readouterr().out
    assert "rank 9" in out and "noise" in out
    assert verb.main(["--model", str(path), "--layer", "nowhere"]) == 2
    assert "'nowhere'" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert verb.main(["--model", str(path), "--output", str(tmp_path / "file" / "f.npz")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_registry_model_and_model_without_standard_convolutions(tmp_path):
    plain = verb.factorize(ModelOptions(model="v1-plain", alpha=0.25, resolution=32))
    assert len(plain) == 14 and all(0.5 < f.errors[0] < 1 for f in plain[1:])
    net = torch.nn.Conv2d(3, 4, 1).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), tmp_path / "p.pt2")
    with pytest.raises(TvmMobilenetError, match="no standard convolution"):
        verb.factorize(ModelOptions(model=str(tmp_path / "p.pt2")))
