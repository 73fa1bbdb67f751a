"""The passes: every graph becomes a list of layers that computes the same, and the right list."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import nn

from tests.support.layer_runner import assert_close
from tvm_mobilenet import frontend, passes
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import registry
from tvm_mobilenet.passes import quantize

torch.set_num_threads(1)


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers(model, x):
    """The layers of a model, checked against it; and their names."""
    torch.manual_seed(0)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1, 0.3)
            nn.init.normal_(m.bias, 0, 0.3)
            nn.init.normal_(m.running_mean, 0, 0.3)
            nn.init.uniform_(m.running_var, 0.5, 2)
    model.eval()
    graph = passes.run(frontend.from_torch(model, x))
    assert_close(graph, model, x)
    return graph, [c.layer.name for c in graph.calls]


class Lambda(nn.Module):
    """A function, with the modules it uses."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def in_full(*values):
    return pytest.param(*values, marks=pytest.mark.full)


# ---- the registry's models: how many kernels, of which kinds


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("v1", {"conv": 1, "depthwise": 13, "pointwise": 13, "pool avg": 1, "dense": 1}),
        in_full("v1-plain", {"conv": 14, "pool avg": 1, "dense": 1}),
        in_full("v2", {"conv": 1, "depthwise": 17, "pointwise": 34, "pool avg": 1, "dense": 1}),
        in_full(
            "v3-large",
            {"conv": 1, "depthwise": 15, "pointwise": 30, "pool avg": 9, "dense": 18, "elementwise scale": 8},
        ),
        (
            "v3-small",
            {"conv": 1, "depthwise": 11, "pointwise": 22, "pool avg": 10, "dense": 20, "elementwise scale": 9},
        ),
        in_full("v3-large-minimal", {"conv": 1, "depthwise": 15, "pointwise": 30, "pool avg": 1, "dense": 2}),
        in_full("v3-small-minimal", {"conv": 1, "depthwise": 11, "pointwise": 22, "pool avg": 1, "dense": 2}),
        in_full("v4-small", {"conv": 3, "depthwise": 15, "pointwise": 27, "pool avg": 1, "dense": 2}),
        in_full("v4-medium", {"conv": 2, "depthwise": 30, "pointwise": 44, "pool avg": 1, "dense": 2}),
        in_full("v4-large", {"conv": 2, "depthwise": 45, "pointwise": 54, "pool avg": 1, "dense": 2}),
    ],
)
def test_registry_models_are_these_kernels_and_no_more(name, kinds):
    spec = registry.create(name, alpha=0.25, resolution=64, num_classes=11)
    x = image(1, 3, 64, 64)
    graph = passes.run(frontend.from_torch(spec.module, x))
    calls = graph.calls
    assert Counter(f"{c.layer.kind} {c.layer.op}".strip() for c in calls) == kinds
    assert all(c.layer.input_layout == "NHWC" for c in calls[1:])
    assert calls[0].layer.input_layout == "NCHW"
    assert len({c.name for c in calls}) == len(calls)
    assert_close(graph, spec.module, x)


def test_v2_adds_its_ten_residuals_in_the_epilogue():
    spec = registry.create("v2", alpha=0.35, resolution=32, num_classes=3)
    calls = passes.run(frontend.from_torch(spec.module, image(1, 3, 32, 32))).calls
    fused = [c for c in calls if c.layer.residual == "before"]
    assert len(fused) == 10 and all(len(c.inputs) == 2 for c in fused)
    written = {calls[0].inputs[0]}  # the network's input
    for c in calls:  # every operand exists when it is read
        assert set(c.inputs) <= written
        written.add(c.output)


def test_layers_know_where_they_come_from():
    spec = registry.create("v1", alpha=0.25, resolution=32)
    calls = passes.run(frontend.from_torch(spec.module, image(1, 3, 32, 32))).calls
    modules = dict(spec.module.named_modules())
    for c in calls:
        if c.weight is not None:
            assert modules[c.source].weight.shape[0] == c.layer.out_channels, c


def test_a_network_of_every_kind_of_layer_computes_what_it_should():
    model = Lambda(
        lambda m, x: torch.softmax(
            m.head(torch.flatten(F.max_pool2d(m.act(m.dw(m.stem(x)) + m.skip(m.stem(x))), 2), 1)), -1
        ),
        stem=nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Hardswish()),
        dw=nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        skip=nn.Conv2d(8, 8, 1),
        act=nn.ReLU6(),
        head=nn.Linear(8 * 4 * 4, 7),
    )
    x = image(2, 3, 16, 16)
    _, names = layers(model, x)
    assert "pointwise m128 n8 k8 f32 add relu6" in names


# ---- batch norm


def test_batch_norm_after_a_biased_grouped_or_dense_product_vanishes():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)
    )
    _, names = layers(model, image(1, 4, 9, 9))
    assert names[:2] == ["conv 9x9x4 n8 3x3 g2 nchw f32 relu", "depthwise 7x7x8 3x3 f32"]
    assert names[2:] == ["elementwise 5x5x8 none to_nchw f32"]


def test_batch_norm_before_a_convolution_goes_into_it():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(),
    )  # fmt: skip
    _, names = layers(model, image(1, 3, 8, 8))
    assert [n.split()[0] for n in names if "elementwise" not in n] == ["conv", "pointwise", "conv", "depthwise"]


def test_batch_norm_before_a_padded_convolution_stays_a_layer_because_the_border_would_change():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1)
    )
    _, names = layers(model, image(1, 3, 8, 8))
    assert "depthwise 8x8x4 1x1 f32" in names


def test_a_norm_read_twice_is_not_folded_into_one_of_its_readers():
    model = Lambda(
        lambda m, x: F.relu(m.bn(m.conv(x))) + m.conv2(m.conv(x)),
        conv=nn.Conv2d(3, 4, 3),
        bn=nn.BatchNorm2d(4),
        conv2=nn.Conv2d(4, 4, 1),
    )
    layers(model, image(1, 3, 8, 8))


def test_normalisation_inside_the_model_is_one_small_convolution():
    mean, std = torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1) + 0.5
    model = Lambda(lambda m, x: m.conv((x - mean) / std).mean((2, 3)), conv=nn.Conv2d(3, 4, 3, padding=1))
    _, names = layers(model, image(1, 3, 8, 8))
    assert names[0] == "conv 8x8x3 n3 1x1 nchw f32" and len(names) == 3


# ---- pads


@pytest.mark.parametrize("pad", [(0, 1, 0, 1), (1, 1, 1, 1), (2, 0, 1, 3)])
def test_zero_pads_become_the_convolutions_own(pad):
    left, right, top, bottom = pad
    model = Lambda(lambda m, x: m.dw(F.pad(m.stem(F.pad(x, pad)), pad)).mean((2, 3)),
                   stem=nn.Conv2d(3, 4, 3, 2), dw=nn.Conv2d(4, 4, 3, 2, 1, groups=4))  # fmt: skip
    _, names = layers(model, image(1, 3, 15, 17))
    assert f"p{top},{left},{bottom},{right} " in names[0] and names[0].startswith("conv 15x17x3")
    assert f"p{top + 1},{left + 1},{bottom + 1},{right + 1} " in names[1]
    assert len(names) == 3


def test_a_pad_that_nobody_takes_in_is_a_layer_of_its_own():
    model = Lambda(lambda m, x: F.max_pool2d(F.pad(m.conv(x), (0, 1, 0, 1)), 2).mean((2, 3)), conv=nn.Conv2d(3, 4, 3))
    _, names = layers(model, image(1, 3, 9, 9))
    assert "depthwise 7x7x4 1x1 p0,0,1,1 f32" in names


def test_negative_pads_cut():
    _, names = layers(
        Lambda(lambda m, x: (m.conv(F.pad(x, (-1, 2, 1, -2))), F.pad(x, (0, 0, -3, -1))), conv=nn.Conv2d(3, 4, 3)),
        image(1, 3, 9, 10),
    )
    assert "conv 7x9x3 n4 3x3 p1,0,0,2" in " ".join(names)


# ---- attention


MASKS = {  # and whether the softmax has rows of zeros
    "none": (None, False),
    "causal": ("causal", False),
    "one key less": (torch.tensor([True, True, True, False] * 2 + [True]).expand(9, 9), False),
    "a row without keys": (torch.tensor([[False]] + [[True]] * 8).expand(9, 9), True),
}


@pytest.mark.parametrize("mask", MASKS)
def test_attention_that_pytorch_decomposes_has_a_softmax_and_two_products(mask):
    given, zeros = MASKS[mask]

    def forward(m, x):
        query, key, value = (conv(x).flatten(2).mT for conv in (m.query, m.key, m.value))
        query = query.reshape(1, 9, 2, 4).permute(0, 2, 1, 3)  # two heads; keys and values are of both
        how = {"is_causal": True} if given == "causal" else {"attn_mask": given}
        return F.scaled_dot_product_attention(query, key[:, None], value[:, None], **how)

    convs = {name: nn.Conv2d(3, n, 1) for name, n in (("query", 8), ("key", 4), ("value", 4))}
    _, names = layers(Lambda(forward, **convs), image(1, 3, 3, 3))
    assert sum("softmax" in n for n in names) == 1 and sum("matmul" in n for n in names) == 2
    assert not any("broadcast" in n for n in names)
    assert any("where" in n for n in names) == zeros


def test_keys_of_another_tensor_than_queries_have_parts_of_one_weight():
    """As in ``nn.MultiheadAttention``, whose three weights are one parameter."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(m, x):
        x, y = (conv(x).flatten(2).mT for conv in (m.first, m.second))
        return m.attention(x, y, y, need_weights=False)[0]

    convs = {name: nn.Conv2d(3, 8, 1) for name in ("first", "second")}
    layers(Lambda(forward, attention=attention, **convs), image(1, 3, 3, 3))


# ---- activations


SPELLINGS = {
    "hardswish": [
        F.hardswish,
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: x * (F.relu6(x + 3) / 6),
        lambda x: x * F.hardsigmoid(x),
        lambda x: x / 6 * torch.clamp(3 + x, 0, 6),
        lambda x: torch.clamp(x + 3, 0, 6) * (1 / 6) * x,
    ],
    "hardsigmoid": [F.hardsigmoid, lambda x: F.relu6(x + 3) / 6, lambda x: torch.clamp(x / 6 + 0.5, 0, 1)],
    "relu6": [F.relu6, lambda x: F.hardtanh(x, 0, 6), lambda x: torch.clamp(F.relu(x), max=6)],
    "relu": [F.relu, lambda x: torch.clamp(x, min=0)],
    "silu": [F.silu, lambda x: x * torch.sigmoid(x)],
    "sigmoid": [torch.sigmoid],
}


def test_every_spelling_of_an_activation_is_found():
    cases = [(name, f) for name, fs in SPELLINGS.items() for f in fs]
    model = Lambda(
        lambda m, x: tuple(f(conv(x).mean((2, 3))) for conv, (_, f) in zip(m.convs, cases, strict=True)),
        convs=nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in cases),
    )
    _, names = layers(model, 3 * image(1, 3, 6, 6))
    assert Counter(n.split()[-1] for n in names if n.startswith("pool")) == {n: len(fs) for n, fs in SPELLINGS.items()}
    assert all(n.split()[0] in ("conv", "pool") for n in names)


@pytest.mark.parametrize("slopes, word", [(1, "leaky"), (4, "prelu")])
def test_a_prelu_is_in_the_epilogue_though_pytorch_decomposes_it(slopes, word):
    prelu = nn.PReLU(slopes)
    nn.init.uniform_(prelu.weight, 0.05, 0.4)
    _, names = layers(nn.Sequential(nn.Conv2d(3, 4, 3), prelu), image(1, 3, 9, 10))
    assert len(names) == 1 and names[0].split()[-1].startswith(word)


@pytest.mark.parametrize("slope, offset", [(float("inf"), 0.5), (0.2, float("nan"))])
def test_a_clamped_line_without_finite_numbers_stays_as_it_is(slope, offset):
    """It is no hard-swish, but a network that can be built."""
    conv = nn.Conv2d(3, 4, 3)
    model = Lambda(lambda m, x: (y := m.conv(x)) * (y * slope + offset).clamp(0, 1), conv=conv).eval()
    graph = passes.run(frontend.from_torch(model, image(1, 3, 9, 10)))
    assert not [call for call in graph.calls if "hardswish" in call.layer.activation]


def test_a_prelu_of_onnx_with_one_slope_is_in_the_epilogue(tmp_path):
    """As Keras and PyTorch's older exporter write it: one slope for four channels."""
    made = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("PRelu", ["y", "slope"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 3, 9, 10))],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, (1, 4, 9, 10))],
        [
            numpy_helper.from_array(np.full(shape, 0.25, np.float32), name)
            for name, shape in (("w", (4, 3, 1, 1)), ("slope", 1))
        ],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    (call,) = passes.run(frontend.from_onnx(tmp_path / "m.onnx")).calls
    assert call.layer.activation == "leaky0.25"


def test_a_hard_sigmoid_whose_three_a_bias_has_taken_is_found():
    """As TFLite's converter writes the gates of Keras's v3."""
    bias = torch.tensor([3.5, 2.0, 3.0, -1.0]).reshape(4, 1, 1)
    _, names = layers(Lambda(lambda m, x: F.relu6(m.conv(x) + bias) / 6, conv=nn.Conv2d(3, 4, 1)), image(1, 3, 6, 6))
    assert [n.split()[-1] for n in names] == ["hardsigmoid"]


SLOPES = torch.linspace(-0.5, 1.5, 4)
IN_EPILOGUE = {  # by the last word of the layer's name
    "prelu": lambda y: F.prelu(y, SLOPES),
    "leaky0.1": lambda y: F.leaky_relu(y, 0.1),
    "leaky-0.2": lambda y: torch.where(y > 0, y, y * -0.2),
    "clip-1,1": lambda y: F.hardtanh(y),
    "clip-inf,0.5": lambda y: torch.minimum(y, torch.tensor(0.5)),
    "relu6": lambda y: torch.minimum(torch.maximum(y, torch.zeros(1)), torch.full((1,), 6.0)),
    "clip0,1": lambda y: (y * 0.2 + 0.5).clamp(0, 1),  # its slope goes into the weights
    "hardswish0.2,0.4": lambda y: (y * 0.2 + 0.4).clamp(0, 1) * y,
    "hardswish": lambda y: y * (y / 6 + 0.5).clamp(0, 1),
}


@pytest.mark.parametrize("after", ["", "add"])
def test_activations_with_numbers_are_in_the_epilogue(after):
    """One layer for a convolution, the sum with another, and its activation."""
    convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in IN_EPILOGUE)

    def forward(m, x):
        x = m.first(x)
        sums = (conv(x) + x if after else conv(x) for conv in m.convs)
        return tuple(f(y).mean((2, 3)) for f, y in zip(IN_EPILOGUE.values(), sums, strict=True))

    model = Lambda(forward, first=nn.Conv2d(4, 4, 3, padding=1), convs=convs)
    _, [_, *names] = layers(model, 3 * image(1, 4, 6, 6))
    words = [word for word in IN_EPILOGUE if word != "clip0,1" or not after]  # no weights have the slope of a sum
    assert [n.split("f32 ")[1] for n in names if n.startswith("conv") and n.split()[-1] != "add"] == [
        f"{after} {word}".strip() for word in words
    ]
    assert len(names) == 2 * len(IN_EPILOGUE) + bool(after)  # each with its mean


def test_in_int8_only_what_has_an_integer_form_is_fused():
    """A sum with a second operand has none with a PReLU: fused, it would keep its convolution in float32."""

    def forward(m, x):
        y = F.leaky_relu(m.first(x), 0.1)
        return F.prelu(F.prelu(m.second(y), SLOPES) + F.prelu(m.third(y) + y, SLOPES), SLOPES)

    convs = {name: nn.Conv2d(3 if name == "first" else 4, 4, 3, padding=1) for name in ("first", "second", "third")}
    model = Lambda(forward, **convs).eval()
    found = {}
    for integer in (False, True):
        graph = passes.run(frontend.from_torch(model, image(1, 3, 9, 9)), integer=integer)
        assert_close(graph, model, image(1, 3, 9, 9))
        found[integer] = [c.layer.name.split("f32")[1].strip() for c in graph.calls if c.layer.weight_shape]
        whole = [quantize.integral(c.layer) for c in graph.calls if c.layer.weight_shape]
        assert all(whole) == integer
    assert found == {False: ["leaky0.1", "prelu", "add prelu"], True: ["leaky0.1", "prelu", "add"]}


def test_every_spelling_of_a_prelu_is_found():
    slopes = SLOPES.reshape(4, 1, 1)
    spellings = [
        lambda y: F.relu(y) - slopes * F.relu(-y),  # TensorFlow 1
        lambda y: F.relu(y) + F.relu(0 - y) * -slopes,
        lambda y: F.relu(y) + slopes * (y - y.abs()) * 0.5,
        lambda y: (1 + slopes) / 2 * y + (1 - slopes) / 2 * y.abs(),
        lambda y: F.relu(y) + slopes * torch.minimum(y, torch.zeros(1)),
        lambda y: torch.maximum(y, 0.1 * y),
        lambda y: torch.minimum(y, 3 * y),
        lambda y: F.relu(y) - 0.2 * F.relu(-y),
    ]
    model = Lambda(
        lambda m, x: tuple(f(conv(x)) for conv, f in zip(m.convs, spellings, strict=True)),
        convs=nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in spellings),
    )
    _, names = layers(model, image(1, 3, 6, 6))
    assert [n.split()[-1] for n in names] == ["prelu"] * 5 + ["leaky0.1", "leaky3", "leaky0.2"]


def test_lines_that_are_no_prelu_stay():
    """The slope above zero is not one, each place has a slope of its own, or there are two values."""

    def forward(m, x):
        y, z = m.conv(x), m.other(x)
        places = torch.linspace(-1, 1, 4 * 36).reshape(4, 6, 6)
        return torch.maximum(0.5 * y, 0.1 * y), F.relu(y) - places * F.relu(-y), F.relu(y) - 0.5 * F.relu(-z)

    layers(Lambda(forward, conv=nn.Conv2d(3, 4, 1), other=nn.Conv2d(3, 4, 1)), image(1, 3, 6, 6))


def test_a_prelu_of_a_value_that_others_read_is_an_elementwise_layer():
    """So is one behind a pool, which has no constants."""

    def forward(m, x):
        y = m.conv(x)
        return F.prelu(y, SLOPES) + F.prelu(F.max_pool2d(y, 3, 1, 1), SLOPES)

    _, names = layers(Lambda(forward, conv=nn.Conv2d(3, 4, 3)), image(1, 3, 9, 9))
    assert sum(n.startswith("elementwise") and n.endswith("prelu") for n in names) == 2


def test_an_inner_value_of_an_activation_that_others_read_is_kept():
    def forward(m, x):
        y = m.conv(x)
        gate = F.relu6(y + 3)
        return y * gate / 6 + gate

    layers(Lambda(forward, conv=nn.Conv2d(3, 4, 3)), image(1, 3, 8, 8))


# ---- residuals


def test_residual_before_and_after_the_activation():
    def forward(m, x):
        x = m.stem(x)
        x = F.relu(x + m.a(x))
        return (x + F.relu(m.b(x))).mean((2, 3))

    model = Lambda(forward, stem=nn.Conv2d(3, 4, 3), a=nn.Conv2d(4, 4, 3, padding=1), b=nn.Conv2d(4, 4, 1))
    _, names = layers(model, image(1, 3, 8, 8))
    assert names[1].endswith("add relu") and names[2].endswith("relu add_after") and len(names) == 4


def test_a_sum_of_two_branches_goes_into_the_later_one():
    model = Lambda(lambda m, x: F.relu(m.a(x) + m.b(x)).mean((2, 3)), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3))
    graph, names = layers(model, image(1, 3, 8, 8))
    assert len(names) == 3
    assert graph.calls[1].inputs[1] == graph.calls[0].output


def test_a_convolution_whose_raw_output_others_read_keeps_it():
    def forward(m, x):
        y = m.b(m.a(x))
        return (F.relu(y + m.a(x)) + y).mean((2, 3))

    _, names = layers(Lambda(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 1)), image(1, 3, 8, 8))
    assert "pointwise m36 n4 k4 f32" in names


def test_a_value_added_to_itself():
    layers(Lambda(lambda m, x: (lambda y: y + y)(m.a(x)).mean((2, 3)), a=nn.Conv2d(3, 4, 3)), image(1, 3, 8, 8))


# ---- squeeze and excite, dense


@pytest.mark.parametrize("batch", [1, 3])
def test_squeeze_and_excite_is_pool_two_products_and_a_scale(batch):
    def forward(m, x):
        x = m.stem(x)
        return (m.gate(x) * x).mean((2, 3))

    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1), nn.Hardsigmoid())
    _, names = layers(Lambda(forward, stem=nn.Conv2d(3, 4, 3), gate=gate), image(batch, 3, 8, 8))
    b = f" b{batch}" if batch > 1 else ""
    assert names[1:5] == [
        f"pool 6x6x4 avg 6x6{b} f32",
        f"dense m{batch} n2 k4 f32 relu",
        f"dense m{batch} n4 k2 f32 hardsigmoid",
        f"elementwise 6x6x4 scale{b} f32",
    ]


@pytest.mark.parametrize(
    "last, word",
    [(nn.Hardsigmoid(), "clip1,2"), (nn.Hardtanh(-0.5, 0.5), "clip0.5,1.5"), (nn.Sigmoid(), ""), (nn.ReLU(), "")],
)
def test_a_gated_tensor_added_to_itself_is_one_product(last, word):
    """As in PaddleOCR's feature pyramids: its gate becomes one larger, where its activation has finite bounds."""

    def forward(m, x):
        x = m.stem(x)
        return ((x * m.gate(x) if word else m.gate(x) * x) + x).relu().mean((2, 3))

    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), last)
    graph, names = layers(Lambda(forward, stem=nn.Conv2d(3, 4, 3), gate=gate), image(1, 3, 8, 8))
    gates = [name for name in names if name.startswith("dense m1 n4 k4 f32 clip")]
    assert gates == [f"dense m1 n4 k4 f32 {word}"] * bool(word)
    products = [name for name in names if name.startswith("elementwise 6x6x4")]
    assert len(products) == (1 if word else 2), names
    assert "relu" in products[-1] and len(graph.calls) == len(names)


def test_a_gate_of_a_feature_map_that_is_nhwc_in_the_model_is_a_scale():
    """TensorFlow's exporters write squeeze-and-excite so."""

    def gated(m, x):
        y = m.conv(x).permute(0, 2, 3, 1)
        return m.conv2((y * torch.sigmoid(y.mean((1, 2), keepdim=True))).permute(0, 3, 1, 2))

    _, names = layers(Lambda(gated, conv=nn.Conv2d(3, 5, 3), conv2=nn.Conv2d(5, 4, 1)), image(2, 3, 9, 10))
    assert [name.split()[0] for name in names] == ["conv", "pool", "elementwise", "conv"]
    assert " scale" in names[2] and names[1].endswith(" sigmoid")


@pytest.mark.parametrize("batch", [1, 2])
def test_flatten_of_a_feature_map_moves_weights_not_data(batch):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 5 * 6, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    _, names = layers(model, image(batch, 3, 7, 8))
    assert [n.split()[0] for n in names] == ["conv", "dense", "dense"]


# ---- layouts, outputs


def test_feature_maps_come_out_nchw_and_are_still_read_channels_last():
    def forward(m, x):
        a = m.a(x)
        b = m.b(a)
        return a, F.relu(b), (a.mean((2, 3)), b.shape[0] * m.c(b))

    model = Lambda(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(4, 5, 1))
    model_flat = Lambda(lambda m, x: (lambda o: (o[0], o[1], *o[2]))(forward(m, x)), a=model.a, b=model.b, c=model.c)
    graph, names = layers(model_flat, image(2, 3, 8, 8))
    assert graph.signature.tuple_output
    assert any(n.startswith("conv 6x6x4 n5 1x1 b2 to_nchw") for n in names)
    assert all(n.split()[0] != "pointwise" or "nchw" not in n for n in names)


def test_the_registrys_backbones_return_their_feature_maps():
    spec = registry.create("v2", alpha=0.35, resolution=64, features=(8, 16, 32))
    x = image(1, 3, 64, 64)
    graph = passes.run(frontend.from_torch(spec.module, x))
    assert_close(graph, spec.module, x)
    assert len(graph.signature.outputs) == 3


def test_transposes_between_layouts_cost_nothing():
    scale = nn.Parameter(torch.arange(1.0, 5.0))

    def forward(m, x):  # an NHWC network inside
        y = m.a(x).permute(0, 2, 3, 1)
        y = F.relu(y * m.scale).permute(0, 3, 1, 2)
        return m.b(y).permute(0, 2, 3, 1).mean((1, 2))

    _, names = layers(Lambda(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 5, 1), scale=scale), image(1, 3, 8, 8))
    assert names == ["conv 8x8x3 n4 3x3 nchw f32 relu", "pointwise m36 n5 k4 f32", "pool 6x6x5 avg 6x6 f32"]


def test_an_input_that_is_nhwc_already_is_read_so():
    model = Lambda(lambda m, x: m.a(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), a=nn.Conv2d(3, 4, 3))
    _, names = layers(model, image(1, 8, 8, 3))
    assert names == ["conv 8x8x3 n4 3x3 f32"]


def test_other_operators_of_feature_maps():
    def forward(m, x):
        a, b = m.a(x), m.b(x)
        c = m.c(F.max_pool2d(a * b - a, 3, 2, 1, ceil_mode=True))
        return torch.softmax(F.avg_pool2d(c, 2).flatten(1), 1), torch.softmax(c, 1).mean((2, 3))

    model = Lambda(forward, a=nn.Conv2d(3, 4, 3, dilation=2), b=nn.Conv2d(3, 4, 3, dilation=2),
                   c=nn.Conv2d(4, 6, 1, stride=2))  # fmt: skip
    _, names = layers(model, image(1, 3, 16, 16))
    assert "conv 7x7x4 n6 1x1 s2 f32" in names and "softmax 4x4x6 f32" in names and "softmax 1x1x24 f32" in names


def test_a_flattened_feature_map_comes_out_in_the_models_order():
    _, names = layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()), image(2, 3, 8, 8))
    assert names == ["conv 8x8x3 n4 3x3 b2 nchw to_nchw f32 relu"]


def test_detection_heads_reshape_without_a_copy():
    model = Lambda(
        lambda m, x: m.head(m.stem(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 5),
        stem=nn.Conv2d(3, 4, 3), head=nn.Conv2d(4, 10, 1),
    )  # fmt: skip
    _, names = layers(model, image(2, 3, 8, 8))
    assert names == ["conv 8x8x3 n4 3x3 b2 nchw f32", "pointwise m72 n10 k4 f32"]


# ---- what cannot be


def test_all_unsupported_operators_are_listed_with_their_places():
    def forward(m, x):
        y = torch.nextafter(m.first(x), m.first(x))
        return torch.cat([y, m.second(x)], 1), torch.nanmedian(x), torch.special.i0(m.second(x))

    model = Lambda(forward, first=nn.Conv2d(3, 4, 3), second=nn.Conv2d(3, 4, 3))
    with pytest.raises(TvmMobilenetError) as e:
        passes.run(frontend.from_torch(model.eval(), image(1, 3, 8, 8)))
    message = str(e.value)
    for part in ("nextafter", "nanmedian", "i0", "[1, 4, 6, 6]", "3 operators are not supported"):
        assert part in message, message


def test_training_statistics_are_refused():
    program = torch.export.export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train(), (image(2, 3, 8, 8),))
    with pytest.raises(TvmMobilenetError, match="inference mode"):
        passes.run(frontend.from_torch(program))


# ---- passes are functions of lists


def planted():
    """A network whose every pass has something to do."""
    body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Hardswish(), nn.Flatten()]
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), *body).eval()


def test_each_pass_is_shown_with_what_it_made():
    seen = {}
    graph = passes.run(frontend.from_torch(planted(), image(1, 3, 8, 8)), seen.__setitem__)
    assert list(seen) == [
        "simplify", "activations", "fold_pad", "channels_last", "fold_batch_norm", "fuse_epilogue",
    ]  # fmt: skip
    kinds = {name: [c.layer.kind for c in made.calls] for name, made in list(seen.items())[3:]}
    assert kinds["channels_last"].count("depthwise") == 4, "scale, shift and two biases"
    assert "depthwise" not in kinds["fold_batch_norm"] and kinds["fold_batch_norm"].count("elementwise") == 3
    assert kinds["fuse_epilogue"] == ["conv", "conv"] and seen["fuse_epilogue"] is graph


def test_a_pass_changes_nothing_in_the_list_that_it_gets():
    seen = []
    passes.run(frontend.from_torch(planted(), image(1, 3, 8, 8)), lambda phase, what: seen.append(what))
    lists = seen[3:]
    before = [[(c, {n: a.copy() for n, a in c.constants.items()}) for c in graph.calls] for graph in lists]
    steps = [step for step in passes.LAYER_PASSES if step not in passes.OF_SOME]
    for step, graph, after in zip(steps, lists[:-1], lists[1:], strict=True):
        assert [c.layer for c in step.run(graph).calls] == [c.layer for c in after.calls]
    for graph, calls in zip(lists, before, strict=True):
        for call, (same, constants) in zip(graph.calls, calls, strict=True):
            assert call is same and all(np.array_equal(a, call.constants[n]) for n, a in constants.items())


def test_calls_and_values_are_named_by_their_places():
    graph, _ = layers(planted(), image(1, 3, 8, 8))
    for i, call in enumerate(graph.calls):
        assert call.name == call.output == f"layer_{i:03d}"
    assert graph.calls[0].inputs == (graph.signature.inputs[0].value,)
    assert graph.signature.outputs[0].value == graph.calls[-1].output


def test_an_input_that_is_called_as_a_layer_is_read_by_who_reads_it():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

        def forward(self, layer_000):
            return self.b(self.a(layer_000)) + layer_000

    x = image(1, 3, 8, 8)
    graph, _ = layers(Named(), x)
    assert graph.signature.inputs[0].name == "layer_000"
    assert sum(graph.signature.inputs[0].value in call.inputs for call in graph.calls) == 2


def test_equal_runs_give_equal_graphs():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval(), image(1, 3, 8, 8)
    a, b = (passes.run(frontend.from_torch(model, x)) for _ in range(2))
    assert a.signature == b.signature and [c.layer for c in a.calls] == [c.layer for c in b.calls]
    for one, two in zip(a.calls, b.calls, strict=True):
        assert (one.name, one.source, one.inputs, one.output) == (two.name, two.source, two.inputs, two.output)
        assert all(np.array_equal(array, two.constants[name]) for name, array in one.constants.items())
    assert np.array_equal(a.calls[0].weight, model[0].weight.detach().numpy())
