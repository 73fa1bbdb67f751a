"""PyTorch's rarer operators: each computes what PyTorch does; what has no layer is refused by name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tests.support import torch_calls
from tests.support.layer_runner import run_in_torch
from tests.support.shares import share
from tvm_mobilenet import build, frontend, passes, targets, verify
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.options import ModelOptions

X = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(0))
VOLUME = (slice(None), slice(None), None)
ORDER = torch.tensor([-1.0, 0, 0.5, 1])
FIRST = torch.zeros(1, 3, 6, 5, dtype=torch.long)
FORMS = {
    "signs": lambda x: torch.signbit(x) + torch.copysign(x, x.flip(1)) + torch.copysign(x, -2.0),
    "truths as numbers": lambda x: (x > 0) * 2.0 + (x > 1) / 4 + ((x > 0) + 0.5) + x / ((x > 0) + 1),
    "truths as integers": lambda x: (((x > 0) * 2 + (x > 1)) ** 2).float() + torch.exp(x > 0),
    "several dtypes in one": lambda x: torch.cat([x > 0, x, (x * 9).int()], 1),
    "numbers before NaN": lambda x: torch.fmax(x.sqrt(), x.flip(1)) - torch.fmin(x, x.log()),
    "powers of two": lambda x: torch.ldexp(x, (x.flip(1) * 2).int()),
    "a product and more": lambda x: torch.addmv(x[0, 0, :, 0], x[0, 1], x[0, 2, 0], beta=0.5, alpha=2),
    "products of a batch": lambda x: torch.addbmm(x[0, 0, :5, :5], x[0].mT, x[0], beta=0, alpha=0.3),
    "shifts by values": lambda x: (((x * 99).int() << x.abs().int()) + ((x * 99).int() >> x.abs().int())).float(),
    "places of an order": lambda x: torch.searchsorted(ORDER, x.round(), right=True).float(),
    "places of orders": lambda x: torch.searchsorted(x.sort(-1)[0], x.flip(3)).float(),
    "a histogram": lambda x: torch.histc(x, 5, -1, 1),
    "most frequent": lambda x: torch.cat([y.float() for y in x.round().mode(2)]),
    "a mask and a source": lambda x: x.masked_scatter(x[:, :1] > 0, x.flip(1)),
    "steps in memory": lambda x: x.as_strided((3, 3, 2), (7, 2, 30), 4),
    "distances": lambda x: torch.cat(
        [torch.cdist(x[0], x[0].flip(1), p=p) for p in (2.0, 1.0, float("inf"), 3.0, 0.0)]
    ),
    "a distance": lambda x: torch.dist(x, x.flip(1), 3),
    "a norm that counts": lambda x: torch.linalg.vector_norm(x.relu(), 0, dim=1),
    "samples of a volume": lambda x: F.grid_sample(
        x[VOLUME].repeat(1, 1, 3, 1, 1), x[:, :3, None].permute(0, 2, 3, 4, 1), align_corners=False
    ),
    "places of a volume": lambda x: F.max_pool3d(x[:, None], 2, return_indices=True)[1].float(),
    "products at places": lambda x: x.scatter(1, FIRST, x, reduce="multiply"),
    "means at places": lambda x: x.scatter_reduce(1, FIRST, x, "mean"),
    "means of what is new": lambda x: x.scatter_reduce(1, FIRST, x, "mean", include_self=False),
    "largest of what is new": lambda x: x.scatter_reduce(1, FIRST, x, "amax", include_self=False),
}
FEW = (
    "truths as numbers",
    "truths as integers",
    "numbers before NaN",
    "places of an order",
    "steps in memory",
    "means of what is new",
)
REFUSED = {
    r"aten.fft_rfft2.default at \w+ is not supported: it computes with complex": lambda x: torch.fft.rfft2(x).abs(),
    r"what aten._linalg_check_errors.default does": lambda x: torch.inverse(x[0, :, :3, :3]),
    r"aten.as_strided.default at \w+ is not supported: its data is a view": lambda x: x.mT.as_strided((2, 2), (1, 2)),
    r"exponential.default at exponential, .*it draws random numbers": lambda x: torch.ops.aten.exponential(x.abs()),
    r"aten.view.dtype at \w+ is not supported: it reads the bits": lambda x: x.view(torch.float16).float(),
    r"nanmedian.default at nanmedian, .*: no layer computes it": torch.nanmedian,
}


class Forms(nn.Module):
    def __init__(self, forms):
        super().__init__()
        self.forms = forms

    def forward(self, x):
        x = x * 1.5
        return [form(x) for form in self.forms]


@pytest.mark.parametrize("names", [FEW, pytest.param(tuple(FORMS), marks=pytest.mark.full)], ids=["few", "all"])
def test_functions_compute_what_pytorch_does(names):
    model = Forms([FORMS[name] for name in names]).eval()
    found = run_in_torch(passes.run(frontend.from_torch(model, X)), X.numpy())
    for name, due, y in zip(names, model(X), found, strict=True):
        assert y.shape == due.shape, name
        np.testing.assert_allclose(y, due.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("words", REFUSED)
def test_what_has_no_layer_is_refused_by_name(words):
    with pytest.raises(TvmMobilenetError, match=words):
        passes.run(frontend.from_torch(Forms([REFUSED[words]]).eval(), X))


def test_every_operator_that_tvm_imports_is_called_or_excused():
    """An operator that a later TVM imports, or that is forgotten here, shows up by its name."""
    due, called = set(ExportedProgramImporter().convert_map), set(torch_calls.calls())
    assert due == called | set(torch_calls.EXCUSED)
    assert not called & set(torch_calls.EXCUSED)
    missing = {name for name, why in torch_calls.EXCUSED.items() if why == torch_calls.NOT_THERE}
    assert all(torch_calls.operator(name) is None for name in missing)


class Calls(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.calls = {name: torch_calls.form(name) for name in names}

    def forward(self, x):
        return {name: call(x * 1.5) for name, call in self.calls.items()}


NAMES = [*sorted(torch_calls.calls()), *torch_calls.FORMS]


@pytest.mark.full
@pytest.mark.parametrize("part", share(range(8), 4))
def test_operators_that_tvm_imports_or_lacks_compute_what_pytorch_does(part):
    model = Calls(NAMES[part::8]).eval()
    graph = passes.run(frontend.from_torch(model, X))
    due = [(f"{name} {i}", y) for name, ys in model(X).items() for i, y in enumerate(pytree.tree_leaves(ys))]
    for (name, y), port, found in zip(due, graph.signature.outputs, run_in_torch(graph, X.numpy()), strict=True):
        assert (tuple(y.shape), str(y.dtype)) == (port.shape, f"torch.{port.dtype}"), name
        exact = {} if y.is_floating_point() else {"rtol": 0, "atol": 0}
        np.testing.assert_allclose(found, y.detach().numpy(), **({"rtol": 1e-4, "atol": 1e-5} | exact), err_msg=name)


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.linspace(-1, 1, 24).reshape(4, 6).relu().to_sparse())

    def forward(self, x):
        x = x[0, 0]
        return (
            torch.sparse.mm(self.mask, x),
            torch.sparse.addmm(x[:4], self.mask, x, beta=0.5),
            x.relu().to_sparse().to_dense(),
        )


def test_sparse_tensors_are_computed_as_dense_ones():
    found = run_in_torch(passes.run(frontend.from_torch(Sparse(), X)), X.numpy())
    for y, due in zip(found, Sparse()(X), strict=True):
        np.testing.assert_allclose(y, due.numpy(), rtol=1e-4, atol=1e-5)


@torch.library.custom_op("torchvision::roi_align", mutates_args=())
def roi_align(
    x: torch.Tensor, rois: torch.Tensor, scale: float, height: int, width: int, samples: int, aligned: bool
) -> torch.Tensor:
    """The mean of ``samples`` by ``samples`` values between pixels in each part of a region, as torchvision has it."""
    found = []
    for image, *box in rois.tolist():
        left, top, right, bottom = (side * scale - 0.5 * aligned for side in box)
        rows, columns = (
            (torch.arange(count * samples) + 0.5) * (size if aligned else max(size, 1)) / (count * samples) + start
            for start, size, count in ((top, bottom - top, height), (left, right - left, width))
        )
        shape = torch.tensor([x.shape[3], x.shape[2]])
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        grid = (grid.clamp(torch.zeros(2), shape - 1) * 2 + 1) / shape - 1
        values = F.grid_sample(x[int(image)][None], grid[None], align_corners=False)
        found.append(F.avg_pool2d(values, samples)[0])
    return torch.stack(found)


@roi_align.register_fake
def _(x, rois, scale, height, width, samples, aligned):
    return x.new_empty(rois.shape[0], x.shape[1], height, width)


class Regions(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("boxes", torch.tensor([[0, 0.5, 1.0, 4.5, 5.0], [0, 2.0, 1.5, 2.4, 4.0]]))

    def forward(self, x):
        boxes = self.boxes + x.mean() / 99
        return [torch.ops.torchvision.roi_align(x, boxes, s, 2, 3, 2, a) for s in (1.0, 0.5) for a in (True, False)]


@pytest.mark.full
def test_regions_are_those_of_torchvision():
    """TVM's importer moves them by half a pixel before it scales them."""
    found = run_in_torch(passes.run(frontend.from_torch(Regions(), X)), X.numpy())
    for y, due in zip(found, Regions()(X), strict=True):
        np.testing.assert_allclose(y, due.numpy(), rtol=1e-4, atol=1e-5)


def double() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    return model.eval().double()


def test_a_model_in_float64_is_computed_in_float32(capsys):
    model = double()
    graph = passes.run(frontend.from_torch(torch.export.export(model, (X.double(),))))
    assert "is a model in float64; layers compute it in float32" in capsys.readouterr().err
    assert [call.layer.kind for call in graph.calls] == ["conv", "dense"]
    (found,) = run_in_torch(graph, X.numpy())
    np.testing.assert_allclose(found, model(X.double()).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_a_file_in_float64_is_verified_in_float32(tmp_path, capsys):
    torch.export.save(torch.export.export(double(), (X.double(),)), tmp_path / "double.pt2")
    build.build(ModelOptions(model=str(tmp_path / "double.pt2")), targets.load("host"), output=tmp_path / "out")
    assert "double.pt2 is a model in float64" in capsys.readouterr().err
    found = verify.verify(tmp_path / "out", board="local")
    assert found.ok and found.reference.endswith(" in float32")
