"""Operators of any kind between convolutions read their data as it lies: a copy of each would cost more than most."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.layer_runner import assert_close
from tvm_mobilenet import frontend, passes, targets
from tvm_mobilenet.compiler import fuse_blocks
from tvm_mobilenet.passes.axes import fresh
from tvm_mobilenet.passes.transposed_conv import _filters, _Way

BETWEEN = {  # of a feature map of 6 channels, 8 x 6 positions: what stands between two convolutions
    "tanh": torch.tanh,
    "channels joined": lambda x: torch.cat([x, torch.tanh(x)], 1),
    "rows joined": lambda x: torch.cat([x, torch.tanh(x)], 2),
    "halves": lambda x: (lambda a, b: a * b)(*x.chunk(2, 1)),
    "some rows": lambda x: x[:, :, 1:7:2],
    "channels picked": lambda x: x[:, torch.tensor([2, 0, 5])],
    "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "bilinear": lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=False),
    "reflected": lambda x: F.pad(x, (1, 2, 0, 1), "reflect"),
    "repeated": lambda x: F.pad(x, (1, 2, 0, 1), "replicate"),
    "mean of channels": lambda x: x - x.mean(1, keepdim=True),
    "unit length": lambda x: F.normalize(x, dim=1),
    "average": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "rounded up": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "a row of numbers": lambda x: x * torch.linspace(0.5, 1.5, 6),
}
OWN = ("nearest", "bilinear", "average", "rounded up")  # the others are generic
FEW = ("tanh", "channels joined", "halves", "bilinear", "unit length", "average", "reflected")


class Between(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.function = nn.Conv2d(3, 6, 3, padding=1), function
        self.last = nn.LazyConv2d(4, 1)

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def graph_of(function, shape=(1, 3, 8, 6)):
    torch.manual_seed(0)
    x, model = torch.randn(shape), Between(function).eval()
    model(x)
    model.requires_grad_(False)
    graph = passes.run(frontend.from_torch(model, x))
    assert_close(graph, model, x)
    return graph


def copies(graph):
    """Layers that only move data: permutes, and those from one layout to the other."""
    moves = [
        c for c in graph.calls if c.layer.op == "permute_dims" or (c.layer.copies and c.layer.activation == "none")
    ]
    return [c.layer.name for c in moves if not c.source.startswith("output")]


@pytest.mark.parametrize(
    "name",
    [n if n in FEW else pytest.param(n, marks=pytest.mark.full) for n in BETWEEN],
)
def test_between_convolutions_nothing_is_moved(name):
    graph = graph_of(BETWEEN[name])
    assert any(call.layer.body for call in graph.calls) == (name not in OWN) and not copies(graph)


@pytest.mark.parametrize(
    "how",
    [
        {"scale_factor": (1.3, 0.7)},
        *(pytest.param(how, marks=pytest.mark.full) for how in ({"size": (12, 10)}, {"scale_factor": 1.5})),
    ],
)
def test_the_nearest_value_is_pytorchs_at_any_ratio(how):
    """TVM's importer takes the nearest of half pixels, which is the same for a whole factor only."""
    graph = graph_of(lambda x: F.interpolate(F.interpolate(x, mode="nearest-exact", **how), mode="nearest", **how))
    assert [call.layer.kind for call in graph.calls].count("nearest2d") == 2 * (
        "size" in how or how["scale_factor"] == 1.5
    )


def test_a_resize_by_a_factor_is_pytorchs_though_its_size_is_rounded():
    """TVM's importer computes positions from the sizes, and leaves out the filter of an antialiased resize."""
    ways = ("bilinear", False), ("bilinear", True), ("bicubic", True)
    graph_of(lambda x: torch.cat([F.interpolate(x, None, (1.3, 0.7), way, antialias=aa) for way, aa in ways], 1))


@pytest.mark.parametrize(
    "dilation, padding, kernel",
    [
        (8, 8, (1, 1)),
        ((9, 2), (9, 2), (1, 3)),
        *(pytest.param(*one, marks=pytest.mark.full) for one in ((5, 5, (3, 3)), ((8, 6), (10, 6), (3, 1)))),
    ],
)
def test_taps_that_read_only_padding_are_left_out(dilation, padding, kernel):
    """On 8 x 6 positions."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, 1, padding, dilation)
    made = graph_of(conv).calls[1]
    assert made.layer.kernel == kernel and made.weight.size == 36 * kernel[0] * kernel[1]
    assert kernel != (1, 1) or made.layer.kind == "pointwise"


def test_what_tvms_importer_leaves_out_of_an_operator_is_computed():
    """Scales of an ELU, the factor of a second operand, a divisor."""

    def function(x):
        factors = torch.sub(x, torch.tanh(x), alpha=2.5), torch.rsub(x, 1.5, alpha=2), torch.add(x, 3, alpha=0.5)
        return F.avg_pool2d(torch.cat([F.selu(x), F.celu(x, 0.7), *factors], 1), (3, 2), 2, 1, divisor_override=5)

    graph_of(function)


def test_a_copy_that_two_read_is_made_once():
    """Of the network's own input, which is NCHW."""
    torch.manual_seed(0)
    x = torch.randn(1, 4, 6, 5)
    left, right = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 3, padding=1, groups=4)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = left, right

        def forward(self, x):
            return self.left(x), self.right(x)

    model = Net().eval().requires_grad_(False)
    graph = passes.run(frontend.from_torch(model, x))
    assert_close(graph, model, x)
    assert len([c for c in graph.calls if c.layer.input_layout == "NCHW"]) == 1


def test_channel_shuffle_is_one_copy():
    def shuffled(x):
        return x.reshape(1, 2, 3, 8, 6).transpose(1, 2).reshape(1, 6, 8, 6)

    assert len(copies(graph_of(shuffled))) == 1


def test_a_softmax_of_rows_is_one_of_channels_between_two_copies():
    graph = graph_of(lambda x: x.softmax(2))
    assert [c.layer.kind for c in graph.calls][1:4] == ["generic", "softmax", "generic"]
    assert len(copies(graph)) == 2


@pytest.mark.full
def test_a_norm_divides_once_a_pixel_and_squares_by_a_product():
    ops = {c.layer.op: c.layer.output_shape for c in graph_of(BETWEEN["unit length"]).calls}
    assert ops["divide"] == (1, 1, 8, 6) and "multiply" in ops and not {"power", "abs"} & set(ops)


def test_an_axis_that_is_cut_and_joined_again_is_the_same_axis():
    x = fresh("x", (1, 4, 6, 5), (1, 4, 6, 5)).permuted([0, 3, 1, 2])
    cut = x.reshaped((1, 5, 2, 2, 3, 2))
    assert cut.shape == (1, 5, 2, 2, 3, 2) and [a.size for a in cut.stored] == [2, 2, 3, 2, 5]
    again = cut.reshaped((1, 5, 4, 6))
    assert again.dims == x.dims and again.stored == x.stored
    turned = cut.permuted([0, 1, 3, 2, 4, 5]).reshaped((1, 5, 4, 6))
    assert turned.layout is None and turned.order is None, "its rows are spread"


# ---- transposed convolutions

WAYS = list(itertools.product((1, 2, 3, 4, 5), (1, 2, 3), (0, 1, 2), (0, 1), (1, 2), (1, 3)))


def test_the_convolution_that_stands_for_a_transposed_one_computes_it():
    """Each kernel, stride, padding, output padding, dilation and group: a wrong tap would blur a mask."""
    torch.manual_seed(0)
    compared = 0
    for kernel, stride, padding, more, dilation, groups in WAYS:
        x, weight = torch.randn(2, 6, 5, 7), torch.randn(6, 4, kernel, kernel)
        if more >= max(stride, dilation) or 4 * stride + dilation * (kernel - 1) + 1 + more <= 2 * padding:
            continue
        due = F.conv_transpose2d(x, weight, None, stride, padding, more, groups, dilation)
        reach = (kernel - 1) * dilation + 1
        ways = tuple(_Way.of(x.shape[i], reach, stride, padding, due.shape[i]) for i in (2, 3))
        filters = torch.from_numpy(_filters(weight.numpy(), groups, [dilation] * 2, ways))
        rows, columns = ways
        pads = (columns.before, columns.after, rows.before, rows.after)
        assert min(pads) >= 0
        y = F.conv2d(F.pad(x, pads), filters, groups=groups)
        each = y.shape[1] // (groups * stride * stride)
        y = y.reshape(2, groups, stride, stride, each, rows.steps, columns.steps).permute(0, 1, 4, 5, 2, 6, 3)
        y = y.reshape(2, groups * each, rows.steps * stride, columns.steps * stride)
        y = y[:, :, rows.first : rows.first + rows.size, columns.first : columns.first + columns.size]
        assert y.shape == due.shape and float((y - due).abs().max()) < 1e-4
        compared += 1
    assert compared > 300


@pytest.mark.parametrize("kernel, stride, padding, groups", [(2, 2, 0, 1), (4, 2, 1, 1), (3, 2, 1, 2)])
def test_a_transposed_convolution_with_norm_and_activation_is_a_convolution_and_a_copy(kernel, stride, padding, groups):
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(6, 4, kernel, stride, padding, groups=groups)
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.running_mean)
    nn.init.normal_(norm.bias)
    graph = graph_of(nn.Sequential(up, norm, nn.ReLU()))
    kinds = [c.layer for c in graph.calls if not c.source.startswith("output")]
    made = next(layer for layer in kinds[1:] if layer.declared.weight_shape)
    assert made.out_channels == 4 * stride**2 and made.activation == "relu"
    as_they_lie = (stride, padding, groups) == (2, 0, 1)  # the pointwise convolution after it reads the pixels so
    assert not any("transpose" in layer.op for layer in kinds) and len(copies(graph)) == 1 - as_they_lie


def test_a_pointwise_convolution_of_placed_pixels_takes_them_as_they_lie():
    """As in the head of PaddleOCR's detector, which ends in two transposed convolutions: one copy of one channel, not
    one of each. No fused block joins the two, whose rows have other numbers of positions.
    """
    torch.manual_seed(0)
    head = nn.Sequential(
        nn.Conv2d(6, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, 2)
    )
    graph = graph_of(head)
    assert len(copies(graph)) == 1
    first, second = (c.layer for c in graph.calls if c.layer.kind == "pointwise" and c.layer.channels == 8)
    assert (second.channels, second.height) == (8, 4 * first.height)
    for call in fuse_blocks.run(graph, targets.load("rpi4").core).calls:
        assert len({part.height * part.width for part in call.layer.parts or (call.layer,)}) == 1


@pytest.mark.parametrize("keep", [False, True])
def test_largest_values_along_an_axis_are_not_sorted_for(keep):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 1)

        def forward(self, x):
            y = self.conv(x)
            return y.max(1, keep)[0], y.min(2, keep)[0], y.max(3, keep)[1] + 0.5, F.adaptive_max_pool2d(y, (2, 3))

    torch.manual_seed(0)
    x, model = torch.randn(2, 3, 8, 6), Model().eval().requires_grad_(False)
    assert_close(passes.run(frontend.from_torch(model, x)), model, x)
