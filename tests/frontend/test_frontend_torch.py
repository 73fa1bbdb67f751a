"""Models from PyTorch: modules, ExportedPrograms, files; and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.layer_runner import assert_close, run_in_torch
from tvm_mobilenet import build, frontend, passes, targets, verify
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import torch_export
from tvm_mobilenet.models.options import ModelOptions

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(inplace=True), nn.Flatten(), nn.Linear(144, 5))


def test_a_module_an_exported_program_and_its_file_give_the_same_layers(tmp_path):
    model = small().eval()
    program = torch.export.export(model, (X,))
    torch.export.save(program, tmp_path / "small.pt2")
    mods = [frontend.load(model, X), frontend.load(program), frontend.load(tmp_path / "small.pt2")]
    names = []
    for graph in map(passes.run, mods):
        assert_close(graph, model, X)
        names.append([(c.layer.name, c.source) for c in graph.calls])
    assert names[0] == names[1] == names[2]
    assert names[0] == [("conv 8x8x3 n4 3x3 b2 nchw f32 relu6", "0"), ("dense m2 n5 k144 f32", "4")]


def test_a_module_in_training_mode_is_imported_for_inference_and_left_as_it_was():
    model = small().train()
    graph = passes.run(frontend.from_torch(model, X))
    assert model.training
    assert_close(graph, model.eval(), X)


def test_in_place_operators_change_what_is_read_after_them():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = self.conv(x)
            y = torch.relu_(x)
            return (x + y).mean((2, 3))

    model = InPlace().eval()
    assert_close(passes.run(frontend.from_torch(model, X)), model, X)


@pytest.mark.parametrize(
    ("outputs", "is_tuple"), [(lambda y: y, False), (lambda y: (y,), True), (lambda y: (y, y), True)]
)
def test_main_returns_what_the_model_returns(outputs, is_tuple):
    class Returns(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return outputs(self.conv(x))

    model = Returns().eval()
    graph = passes.run(frontend.from_torch(model, X))
    assert graph.signature.tuple_output is is_tuple
    assert_close(graph, model, X)


def set_(x, where, value):
    x = x.clone()
    x[where] = value
    return x


FORMS = {  # of a feature map; each has been refused or wrong
    "a range whose ends are exchanged": lambda x: x.clamp(1, -1) * x,
    "a power of two": torch.exp2,
    "the complement of erf": torch.erfc,
    "a hypotenuse": lambda x: torch.hypot(x, x.flip(1)),
    "rrelu": torch.nn.functional.rrelu,
    "groups without weights": lambda x: torch.nn.functional.group_norm(x, 2),
    "a variance with its mean": lambda x: torch.cat(torch.var_mean(x, 1, keepdim=True), 1),
    "a deviation of all": lambda x: x.std(),
    "a place of all": lambda x: x.argmax(),
    "the largest": lambda x: x.topk(3, 1)[0],
    "the places of the smallest": lambda x: x.flatten(1).topk(5, largest=False)[1],
    "sorted": lambda x: x.sort(2, descending=True)[0],
    "a median": lambda x: x.median(1)[0],
    "the third": lambda x: x.kthvalue(3, 1, keepdim=True)[1],
    "negative indices": lambda x: x[:, torch.tensor([-1, 0])],
    "two indices": lambda x: x[:, [0, 1], :, [2, -3]],
    "indices of rows and columns": lambda x: x[:, :, [[0], [1]], [[2, 3]]],
    "columns of an image": lambda x: torch.nn.functional.unfold(x, (3, 2), dilation=(1, 2), padding=1),
    "windows": lambda x: x.unfold(2, 3, 2),
    "bicubic": lambda x: torch.nn.functional.interpolate(x, scale_factor=1.3, mode="bicubic"),
    "samples": lambda x: torch.nn.functional.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False),
    "float64": lambda x: (x.double() * 0.3).float(),
    "a number of truths": lambda x: torch.count_nonzero(x > 0, 1).float(),
    "a resize of rows": lambda x: torch.nn.functional.interpolate(x.flatten(2), size=31, mode="linear"),
    "a circular pad": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 4), mode="circular"),
    "truths in order": lambda x: ((x > 0) < (x > -1)).float() + ((x > 0) >= (x > 1)).float(),
    "truths beside a number": lambda x: ((x > 0) == 0.5).float() + ((x > 0) != 256).float(),
    "truths below a number": lambda x: ((x > 0) < 0.5).float() + ((x > 0) >= 0.5).float() * 2,
    "truths beside numbers": lambda x: ((x > 0) == x.abs().clamp(max=1)).float(),
    "maxima whose places nobody reads": lambda x: torch.nn.functional.max_pool2d(x, 2, return_indices=True)[0],
    "shifted": lambda x: ((x.abs() * 100).long() << 1).float(),
}
RARE = {  # as the others
    "values at places": lambda x: x.index_put((torch.tensor([0, 0]), torch.tensor([1, -2])), x[0, :2] * 3),
    "sums at one place": lambda x: x.index_put((torch.tensor([0, 0]), torch.tensor([1, 1])), x[0, :2], accumulate=True),
    "rows and columns set": lambda x: set_(x, (slice(None), [1, 2], slice(None), [0, -3]), x[:, 0, :, 0]),
    "set by a mask": lambda x: set_(x, x > 0.5, 7.0),
    "scattered in a corner": lambda x: x.scatter(1, (torch.arange(60).reshape(1, 3, 4, 5) * 7 % 4), x.flip(1) * 2),
    "sums of classes": lambda x: torch.zeros(1, 8, 8, 8).scatter_add(1, (x.sigmoid() * 8).long(), x),
    "largest of classes": lambda x: x.scatter_reduce(2, torch.arange(96).reshape(1, 4, 3, 8) % 8, x * 2, "amax"),
    "gathered by rank": lambda x: x.gather(2, x.argsort(2)[:, :2, :3]),
    "the largest so far": lambda x: torch.cat([y.float() for y in x.round().cummax(2)]),
    "the smallest so far": lambda x: torch.cat([y.float() for y in x.round().cummin(-1)]),
    "exponentials so far": lambda x: x.logcumsumexp(1),
    "truths so far": lambda x: (x > 0).cumsum(1).float() + (x > 0).cumprod(3),
    "one hot": lambda x: F.one_hot(x.argmax(1), 4).float() + (x > 1).any(),
    "any truth": lambda x: (x > 1).amax(1).float(),
    "truths sorted": lambda x: (x > 0).sort(1)[0].float(),
    "one number sorted": lambda x: x.mean().sort()[0] + x.mean().max(0)[1],
    "uneven windows": lambda x: torch.cat([y.float() for y in F.adaptive_max_pool2d(x, (3, 5), return_indices=True)]),
    "more windows than values": lambda x: F.adaptive_max_pool2d(x, (11, 3)),
    "places in windows": lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[1],
    "unpooled": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "powers of integers": lambda x: ((x.abs() * 3).int().clamp(max=9) ** (x.abs() * 2).int().clamp(max=4)).float(),
}


class Forms(nn.Module):
    def __init__(self, forms):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.forms = forms

    def forward(self, x):
        x = self.conv(x)
        return [form(x) for form in self.forms.values()]


def test_forms_that_exporters_write_compute_what_pytorch_does():
    """Every other one; their machine code is compared in the full run, all of it."""
    forms = dict(list(FORMS.items())[::2])
    model, x = Forms(forms).eval(), X[:1]
    with torch.no_grad():
        expected = model(x)
    found = run_in_torch(passes.run(frontend.from_torch(model, x)), x.numpy())
    for name, due, y in zip(forms, expected, found, strict=True):
        assert y.shape == due.shape, name
        np.testing.assert_allclose(y, due.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.full
def test_forms_that_exporters_write_are_verified_on_their_machine_code(tmp_path):
    torch.export.save(torch.export.export(Forms(FORMS | RARE).eval(), (X[:1],)), tmp_path / "forms.pt2")
    options = ModelOptions(model=str(tmp_path / "forms.pt2"))
    build.build(options, targets.load("host"), output=tmp_path / "out")
    assert verify.verify(tmp_path / "out", board="local").ok


class Halves(nn.Module):
    """Casts to half precision and back, beside a constant."""

    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, x):
        y = self.net(x)
        return (y.half() * 2).bfloat16().to(y.dtype) + torch.tensor([0.25, 0.5, 1, 2, 4]).to(y.dtype)


class Autocast(Halves):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


HALF = [(Halves, torch.float16), (Halves, torch.bfloat16), (Halves, torch.float32), (Autocast, torch.float32)]


@pytest.mark.parametrize(("model", "dtype"), HALF)
def test_half_precision_becomes_float32(model, dtype):
    """float32 represents all of its values, so nothing is rounded."""
    half = model().eval().to(dtype)
    graph = passes.run(frontend.from_torch(half, X.to(dtype)))
    assert {(p.dtype, p.shape[0]) for p in (*graph.signature.inputs, *graph.signature.outputs)} == {("float32", 2)}
    assert [call.source for call in graph.calls][:2] == ["net.0", "net.4"]
    with torch.no_grad():
        due = half.float().net(X)
    if model is Halves:
        due = due * 2 + torch.tensor([0.25, 0.5, 1, 2, 4])
    (found,) = run_in_torch(graph, X.numpy())
    np.testing.assert_allclose(found, due.numpy(), rtol=1e-4, atol=1e-5)


def test_a_program_in_float16_with_an_open_batch_is_built_and_verified_in_float32(tmp_path):
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(Halves().eval().half(), (X.half(),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "half.pt2")
    build.build(ModelOptions(model=str(tmp_path / "half.pt2")), targets.load("host"), output=tmp_path / "out")
    found = verify.verify(tmp_path / "out", board="local")
    assert found.ok and found.outputs[0].relative < 1e-4 and found.reference.endswith(" in float32")


def test_two_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x, y):
            return torch.relu(self.a(x) + self.b(y)).mean((2, 3))

    model = Two().eval()
    graph = passes.run(frontend.from_torch(model, (X, -X)))
    assert [p.shape for p in graph.signature.inputs] == [(2, 3, 8, 8)] * 2
    assert_close(graph, model, X, -X)


class Named(nn.Module):
    """Inputs by name, in a dictionary, and beside constants; outputs in a dictionary; a parameter of two names."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.b.weight = self.a.weight

    def forward(self, images, times, *, scale, mask=None):
        y = self.b(self.a(images["left"])) * scale - images["right"].mul_(times)
        return {"sum": y + scale, "none": mask}


def test_inputs_of_any_form_are_verified(tmp_path):
    images = {"right": X[:1].clone(), "left": X[1:]}
    program = torch.export.export(Named().eval(), (images, 3), {"scale": torch.ones(3, 1, 1), "mask": None})
    torch.export.save(program, tmp_path / "named.pt2")
    build.build(ModelOptions(model=str(tmp_path / "named.pt2")), targets.load("host"), output=tmp_path / "out")
    found = verify.verify(tmp_path / "out", board="local")
    assert found.ok and [output.name for output in found.outputs] == ["sum"]


def test_a_network_with_a_state_is_refused_by_the_state():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            self.count += 1
            return x * self.count

    with pytest.raises(TvmMobilenetError, match="each run changes count"):
        frontend.from_torch(Counts(), X)
    training = torch.export.export(small().train(), (X,))
    with pytest.raises(TvmMobilenetError, match=r"each run changes 1\.running_mean") as told:
        frontend.from_torch(training)
    assert "model.eval()" in told.value.hint


def test_sums_and_products_of_truth_values_become_logic():
    """LLVM has no arithmetic of them; PyTorch computes ``or`` and ``and``."""

    class Truths(nn.Module):
        def forward(self, x):
            a, b = x > 0, x < 1
            return (a * b).float(), (a + b).float(), torch.maximum(a, b).float(), torch.minimum(a, b).float()

    graph = passes.run(frontend.from_torch(Truths().eval(), X))
    assert {"logical_and", "logical_or"} <= {call.layer.op for call in graph.calls}
    assert not {"add", "multiply", "maximum", "minimum"} & {call.layer.op for call in graph.calls}
    assert_close(graph, Truths(), X)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (small(), None, "needs an example input"),
        (small(), X[:, :2], "cannot export .*, called with 2x2x8x8.*--resolution"),
    ],
)
def test_what_cannot_be_imported_is_refused(model, x, message, capfd):
    with pytest.raises(TvmMobilenetError, match=f"(?s){message}"):
        frontend.from_torch(model, x)
    assert not capfd.readouterr().err, "torch's own report of it"


@pytest.mark.parametrize(
    "form, words",
    [
        (lambda x: torch.nn.functional.dropout(x, training=True), "draws random numbers"),
        (lambda x: x + torch.rand_like(x), "rand_like.*draws random numbers"),
        (lambda x: x.topk(2, sorted=False)[0], "leaves the order"),
        (lambda x: set_(x, x > 0, x.flatten()[:700]), "which of them goes where depends on data"),
        (lambda x: torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x + 1, (x,)), "what it runs depends on data"),
        (lambda x: (x, x[:, :0]), "without values; leave"),
        (torch.i0, "i0.*: no layer computes it"),
        (
            lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, ceil_mode=True, divisor_override=5),
            "divisor_override with",
        ),
    ],
)
def test_what_a_network_cannot_compute_has_its_reason(form, words):
    """A training leftover would else compute other values than the model, without a word."""

    class Form(nn.Module):
        def forward(self, x):
            return form(x)

    with pytest.raises(TvmMobilenetError, match=words):
        passes.run(frontend.from_torch(Form(), X))


@pytest.mark.parametrize(("pick", "name"), [(lambda x: x.nonzero(), "nonzero"), (lambda x: x[x > 0], "index")])
def test_an_operator_whose_output_depends_on_data_is_named(pick, name, tmp_path):
    """As a module and as a file, which else is called damaged or hostile."""

    class Picks(nn.Module):
        def forward(self, x):
            return pick(torch.relu(x)).sum()

    torch.export.save(torch.export.export(Picks(), (X,)), tmp_path / "picks.pt2")
    for load in (lambda: frontend.from_torch(Picks(), X), lambda: frontend.load(tmp_path / "picks.pt2")):
        with pytest.raises(TvmMobilenetError, match=rf"aten\.{name}\b.*shape of its output depends on data"):
            load()


def test_a_dynamic_batch_in_a_program_is_fixed():
    batch, model = torch.export.Dim("batch", min=1, max=8), small().eval()
    program = torch.export.export(model, (X,), dynamic_shapes=({0: batch},))
    assert_close(passes.run(frontend.from_torch(program, batch=2)), model, X)
    assert passes.run(frontend.load(program)).signature.inputs[0].shape == (1, 3, 8, 8)
    with pytest.raises(TvmMobilenetError, match=r"--batch 9: the batch of '\w+' in the program can be 1 to 8, not 9"):
        frontend.load(program, batch=9)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pt2", None, "no such file"),
        ("broken.pt2", b"PK\x03\x04 not a program", "not a saved ExportedProgram"),
        ("weights.pth", b"", "holds weights"),
        ("model.lite", b"", "TensorFlow Lite file(.|\n)*rename"),
        ("empty.tflite", b"", "is empty"),
        ("model.keras", b"", "Keras file(.|\n)*ONNX"),
        ("model.xyz", b"x", "cannot tell"),
        ("model", b"x", "cannot tell"),
        ("empty.PT2", b"", "is empty"),
    ],
)
def test_files_that_hold_no_model_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TvmMobilenetError, match=message):
        frontend.load(tmp_path / name)


def test_an_export_collects_no_stack_traces_and_leaves_torch_as_it_was():
    before = torch.fx.config.do_not_emit_stack_traces
    program = torch_export.export(nn.Conv2d(3, 4, 1).eval(), (torch.zeros(1, 3, 8, 8),))
    assert not any("stack_trace" in node.meta for node in program.graph.nodes)
    assert torch.fx.config.do_not_emit_stack_traces == before
