"""Calls of the operators that TVM's importer of ExportedPrograms knows, each by its name there, as `torch.ops.aten` has
it.

Each call takes the operator and ``x``, a feature map (1, 4, 6, 5), and returns what depends on it. `EXCUSED` names
those that are not called, with the reason.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

ROWS = torch.tensor([2, 0, 1])
KERNEL = torch.linspace(-1, 1, 72).reshape(6, 4, 3)
WHOLE = torch.int32
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1}
LAW = (torch.tensor([0.5, -1, 2, 1.5]), torch.tensor([0.1, 0, -0.2, 1]))
MEAN, VARIANCE = torch.tensor([0.1, 0.2, -0.3, 0]), torch.tensor([1.0, 2, 0.5, 1.5])


def whole(x):
    return (x * 20).to(WHOLE)


def _recurrent(op, x):
    """Two directions, as the weights of `torch.nn.LSTM` and its kind are passed."""
    gates = GATES[op._schema.name.removeprefix("aten::")]
    shapes = ((gates * 3, 5), (gates * 3, 3), (gates * 3,), (gates * 3,)) * 2
    weights = [torch.linspace(-1, 1, math.prod(s)).sin().mul(9).sin().reshape(s) for s in shapes]
    state = x[0, :2, :4, :3]
    return op(x[0], (state, state * 2) if gates == 4 else state, weights, True, 1, 0.0, False, True, True)


def _in_place(op, x, *others):
    return op(x.clone(), *others)


CALLS = {
    # element by element
    """abs acos asin asinh atan atanh ceil cos cosh erf exp expm1 floor neg reciprocal relu relu6
    round sigmoid sign silu sin sinh softplus softshrink square tan tanh trunc hardsigmoid hardswish hardtanh celu
    elu gelu leaky_relu selu log1p alias clone detach zeros_like ones_like contiguous""": lambda op, x: op(
        x.tanh() * 0.9
    ),
    "isfinite isinf isnan": lambda op, x: op(x.round().log()),
    "empty_like": lambda op, x: op(x).fill_(2.0) * x,
    "acosh log log2 log10 sqrt rsqrt": lambda op, x: op(x.abs() + 1.1),
    "relu_ relu6_ silu_ hardswish_ hardtanh_ leaky_relu_ detach_ zero_": _in_place,
    "bitwise_not": lambda op, x: (op(whole(x)), op(x > 0)),
    "clamp": lambda op, x: (op(x, -0.5, 0.7), op(x, None, 0.2), op(whole(x), 3)),
    "clamp.Tensor": lambda op, x: op(x, x.flip(1), x.flip(2)),
    "clamp_min clamp_max": lambda op, x: (op(x, 0.3), op(whole(x), 3)),
    "round.decimals": lambda op, x: op(x, decimals=1),
    "dropout dropout_ native_dropout": lambda op, x: op(x.clone(), 0.5, False),
    "isin.Tensor_Tensor": lambda op, x: op(whole(x), torch.tensor([1, 4, -7, 20])),
    "logical_not": lambda op, x: (op(x > 0), op(whole(x))),
    "logical_and logical_or logical_xor": lambda op, x: (op(x > 0, x < 1), op(whole(x), x.relu())),
    "log_softmax.int softmax.int": lambda op, x: op(x, 1),
    "_log_softmax _softmax": lambda op, x: op(x, 2, False),
    "prelu": lambda op, x: op(x, LAW[0]),
    "pixel_shuffle": lambda op, x: op(x, 2),
    "pad": lambda op, x: (
        op(x, [1, 2, 0, 1], "constant", 0.5),
        op(x, [1, 2, 2, 1], "reflect"),
        op(x, [1, 0, 2, 1], "replicate"),
        op(x, [1, 0, 2, 1], "circular"),
    ),
    "constant_pad_nd": lambda op, x: (op(x, [1, 2, 0, 1], 0.5), op(x, [1, -1, 0, 1], 0.5)),
    "copy copy_": lambda op, x: op(x.clone(), x[:, :1] * 2),
    "scalar_tensor": lambda op, x: x * op(2.5),
    "fill.Scalar fill_.Scalar": lambda op, x: op(x * 1, 2.5),
    "tril triu": lambda op, x: (op(x), op(x, 1), op(whole(x), -2)),
    # of two
    """add.Tensor add_.Tensor mul.Tensor mul_.Tensor sub.Tensor div.Tensor rsub.Tensor maximum minimum max.other
    min.other atan2 logaddexp""": lambda op, x: op(x * 1, x.flip(1)[:, :1] + 0.1),
    "add.Scalar mul.Scalar sub.Scalar rsub.Scalar div.Scalar": lambda op, x: (op(x, 3), op(whole(x), 2)),
    "div.Tensor_mode": lambda op, x: [op(a, b, rounding_mode=how) for a, b in PAIRS(x) for how in ("floor", "trunc")],
    "floor_divide": lambda op, x: [op(a, b) for a, b in PAIRS(x)],
    "fmod.Tensor remainder.Tensor": lambda op, x: [op(a, b) for a, b in PAIRS(x)],
    "fmod.Scalar remainder.Scalar": lambda op, x: (op(x, -0.7), op(whole(x), 7), op(whole(x), -7)),
    """bitwise_and.Tensor bitwise_or.Tensor bitwise_xor.Tensor bitwise_or_.Tensor __and__.Tensor __or__.Tensor
    __xor__.Tensor""": lambda op, x: (op(whole(x), whole(x.flip(1))), op(x > 0, x < 1)),
    """bitwise_and.Scalar bitwise_or.Scalar bitwise_xor.Scalar bitwise_or_.Scalar __and__.Scalar __or__.Scalar
    __xor__.Scalar""": lambda op, x: op(whole(x), 5),
    "eq.Scalar ne.Scalar ge.Scalar gt.Scalar le.Scalar lt.Scalar": lambda op, x: (op(x.round(), 1), op(whole(x), 1)),
    "eq.Tensor ne.Tensor ge.Tensor gt.Tensor le.Tensor lt.Tensor": lambda op, x: (
        op(x.round(), x.flip(1).round()),
        op(whole(x), whole(x.flip(2))),
    ),
    "pow.Scalar": lambda op, x: op(1.5, x),
    "pow.Tensor_Scalar": lambda op, x: (op(x, 3), op(x.abs(), 0.3), op(whole(x), 2)),
    "pow.Tensor_Tensor": lambda op, x: op(x.abs(), x.flip(1)),
    "where.self": lambda op, x: (op(x > 0, x, x.flip(1)), op(x[:, :1] > 0, x, torch.tensor(float("nan")))),
    "masked_fill.Scalar": lambda op, x: op(x, x > 0.5, -7.0),
    "masked_fill_.Scalar": lambda op, x: op(x.clone(), x > 0.5, -7.0),
    # products
    "matmul": lambda op, x: (op(x, x.mT), op(x[0, 0], x[0, 1, 0]), op(x[0, 0, 0], x[0, 1, 0])),
    "mm": lambda op, x: op(x[0, 0], x[0, 1].mT),
    "bmm": lambda op, x: op(x[0], x[0].mT),
    "addmm": lambda op, x: op(x[0, 0, :1, :3], x[0, 1], torch.linspace(-1, 1, 15).reshape(5, 3), beta=0.5, alpha=2),
    "baddbmm": lambda op, x: op(x[0, :, :, :3], x[0], x[0, :, :3].mT, beta=0.5, alpha=2),
    "outer": lambda op, x: op(x[0, 0, 0], x[0, 1, 1]),
    "linear": lambda op, x: (op(x, torch.linspace(-1, 1, 15).reshape(3, 5), ROWS.float()), op(x, x[0, 0])),
    "einsum": lambda op, x: (op("bchw,bcvw->bhv", [x, x.flip(1)]), op("bchw->bwhc", [x])),
    "linalg_vector_norm": lambda op, x: [op(x, p, [1, 2], True) for p in (2, 1, 3, float("inf"), -float("inf"))],
    # windows
    "adaptive_avg_pool1d": lambda op, x: op(x[0], [2]),
    "adaptive_avg_pool2d _adaptive_avg_pool2d": lambda op, x: (op(x, [1, 1]), op(x, [4, 3])),
    "adaptive_avg_pool3d _adaptive_avg_pool3d": lambda op, x: (op(x, [1, 1, 1]), op(x[None], [2, 3, 2])),
    "avg_pool1d": lambda op, x: (op(x[0], [2]), op(x[0], [3], [2], [1], True, False)),
    "avg_pool2d": lambda op, x: (op(x, [2, 2]), op(x, [3, 2], [2, 1], [1, 1], True, False), op(x[0], [3])),
    "avg_pool3d": lambda op, x: (op(x[None], [2, 2, 2]), op(x[None], [3, 2, 2], [2], [1, 1, 1], True, False)),
    "max_pool1d": lambda op, x: (op(x[0], [2]), op(x[0], [3], [2], [1], [1], True)),
    "max_pool2d": lambda op, x: (op(x, [2, 2]), op(x, [3, 2], [2, 1], [1, 1], [1, 2], True)),
    "max_pool3d": lambda op, x: (op(x[None], [2, 2, 2]), op(x[None], [3], [2], [1], [1], True)),
    "max_pool2d_with_indices": lambda op, x: op(x, [3, 2], [2, 1], [1, 1]),
    "max_pool3d_with_indices": lambda op, x: op(x[None], [2, 2, 2]),
    "conv1d": lambda op, x: op(
        x[0], KERNEL[:, :, :, None].flatten(2)[:, :, :2].repeat(1, 2, 1)[:, :6], None, [2], [1], [2]
    ),
    "conv2d": lambda op, x: (
        op(x, KERNEL[..., None], LAW[0].repeat(2)[:6]),
        op(x, KERNEL[:, :2, :, None], None, [2, 1], [1, 0], [1, 1], 2),
    ),
    "conv3d": lambda op, x: op(x[None], KERNEL[:, :1, :, None, None], None, [1, 2, 1], [1, 0, 1]),
    "conv_transpose1d": lambda op, x: op(x[0, :, 0][None], KERNEL.permute(1, 0, 2), None, [2], [1], [1]),
    "conv_transpose2d.input": lambda op, x: op(x, KERNEL.permute(1, 0, 2)[..., None], None, [2, 1], [1, 0], [1, 0]),
    "convolution": lambda op, x: op(x, KERNEL[..., None], None, [1, 1], [1, 0], [1, 1], False, [0, 0], 1),
    "upsample_bilinear2d.vec": lambda op, x: (op(x, [9, 7], False, None), op(x, None, True, [2.0, 1.5])),
    "upsample_bicubic2d.vec": lambda op, x: (op(x, [9, 7], False, None), op(x, None, True, [2.0, 1.5])),
    "upsample_nearest2d.vec": lambda op, x: (op(x, [9, 7], None), op(x, None, [2.0, 1.5])),
    "_upsample_bilinear2d_aa": lambda op, x: op(x, [3, 4], False),
    "grid_sampler_2d": lambda op, x: [
        op(x, x[:, :2].permute(0, 2, 3, 1), m, p, True) for m in (0, 1) for p in (0, 1, 2)
    ],
    "affine_grid_generator": lambda op, x: op(x[:, 0, :2, :3], [1, 4, 3, 2], False),
    # norms
    "batch_norm": lambda op, x: op(x, *LAW, MEAN, VARIANCE, False, 0.1, 1e-3, True),
    "_native_batch_norm_legit_no_training": lambda op, x: op(x, *LAW, MEAN, VARIANCE, 0.1, 1e-3)[0],
    "_native_batch_norm_legit.no_stats": lambda op, x: op(x, *LAW, True, 0.1, 1e-3)[0],
    "_native_batch_norm_legit_functional": lambda op, x: op(x, *LAW, MEAN, VARIANCE, True, 0.1, 1e-3),
    "group_norm": lambda op, x: (op(x, 2, *LAW), op(x, 2)),
    "native_group_norm": lambda op, x: op(x, *LAW, 1, 4, 30, 2, 1e-5)[0],
    "instance_norm": lambda op, x: op(x, *LAW, None, None, True, 0.1, 1e-5, True),
    "layer_norm": lambda op, x: (op(x, [6, 5]), op(x, [5], torch.arange(5.0), torch.ones(5))),
    "native_layer_norm": lambda op, x: op(x, [6, 5], None, None, 1e-5),
    "cross_entropy_loss": lambda op, x: op(x[0, 0, :3], ROWS),
    # sequences
    "lstm.input gru.input rnn_tanh.input": _recurrent,
    "scaled_dot_product_attention": lambda op, x: (op(x, x.flip(1), x), op(x, x, x, None, 0.0, True, scale=0.3)),
    "embedding": lambda op, x: op(x[0, 0], ROWS),
    # reductions
    "any.dim": lambda op, x: op(x > 1, 1),
    "any.dims": lambda op, x: op(x > 1, [1, 2]),
    "mean sum prod max min median": lambda op, x: op(x),
    "mean.dim sum.dim_IntList": lambda op, x: (op(x, [1, 2]), op(x, [-1], True)),
    "std.correction var.correction": lambda op, x: (op(x, [1, 2]), op(x, [1], correction=0, keepdim=True)),
    "max.dim median.dim": lambda op, x: (op(x, 1), op(x, 2, True)),
    "argmax argmin": lambda op, x: (op(x), op(x, 1), op(x, 2, True)),
    "argsort": lambda op, x: (op(x), op(x, 1, True)),
    "sort": lambda op, x: op(x, 1, True),
    "topk": lambda op, x: op(x, 2, 2),
    "cumsum cumprod": lambda op, x: (op(x, 1), op(whole(x), 2)),
    "bucketize.Tensor": lambda op, x: (op(x, LAW[0].sort()[0]), op(x, LAW[0].sort()[0], right=True)),
    # moves
    "broadcast_to": lambda op, x: op(x[:, :1], [2, 4, 6, 5]),
    "expand": lambda op, x: op(x[:, :1], [2, 4, -1, 5]),
    "expand_as": lambda op, x: op(x[:, :1], x),
    "cat concat stack": lambda op, x: (op([x, x.flip(1)], 1), op([x, x * 2], -1)),
    "chunk": lambda op, x: op(x, 3, 1),
    "diagonal": lambda op, x: (op(x, 0, 1, 2), op(x, 1, -1, -2)),
    "flatten.using_ints": lambda op, x: op(x, 1, 2),
    "flip": lambda op, x: op(x, [1, 3]),
    "gather": lambda op, x: op(x, 1, x.argsort(1)[:, :2]),
    "scatter.src": lambda op, x: op(x, 1, x.argsort(1), x.flip(1)),
    "scatter.value": lambda op, x: op(x, 1, x.argsort(1)[:, :2], 3.0),
    "index.Tensor": lambda op, x: (op(x, [None, ROWS]), op(x, [None, ROWS, ROWS])),
    "index_put index_put_": lambda op, x: op(x.clone(), [None, ROWS], x[:, :1] * 2),
    "index_select": lambda op, x: op(x, 1, ROWS),
    "meshgrid meshgrid.indexing": lambda op, x: op([x[0, 0, 0], x[0, 1, :, 0]], **MESH[op._overloadname]),
    "narrow": lambda op, x: op(x, 2, 1, 3),
    "permute": lambda op, x: op(x, [0, 2, -1, 1]),
    "repeat tile": lambda op, x: op(x, [2, 1, 1, 2]),
    "roll": lambda op, x: (op(x, [2]), op(x, [1, -2], [1, 2])),
    "select.int": lambda op, x: op(x, 1, -2),
    "slice.Tensor": lambda op, x: op(x, 2, 1, -1, 2),
    "slice_scatter": lambda op, x: op(x, x[:, :, :2] * 2, 2, 1, 5, 2),
    "split.Tensor": lambda op, x: op(x, 3, 1),
    "split_with_sizes": lambda op, x: op(x, [1, 3], 1),
    "squeeze": lambda op, x: op(x),
    "squeeze.dim": lambda op, x: op(x, 0),
    "squeeze.dims": lambda op, x: op(x, [0, 1]),
    "unsqueeze": lambda op, x: op(x, -2),
    "take": lambda op, x: op(x, torch.tensor([[3, 0], [119, -2]])),
    "transpose.int": lambda op, x: op(x, 1, -1),
    "unbind.int": lambda op, x: op(x, 1),
    "unflatten.int": lambda op, x: op(x, 1, [2, -1]),
    "view reshape": lambda op, x: op(x, [2, -1, 6]),
    "reshape_as": lambda op, x: op(x, x.flatten(1)),
    "as_strided": lambda op, x: op(x, [3, 3, 2], [7, 2, 30], 4),
    "_to_copy": lambda op, x: (op(x * 9, dtype=torch.int64), op(x, dtype=torch.bool)),
    "to.dtype": lambda op, x: (op(x * 9, torch.int32), op(x > 0, torch.float32)),
    "to.dtype_layout": lambda op, x: op(x * 9, dtype=torch.int32, layout=torch.strided),
    "type_as": lambda op, x: op(x * 9, whole(x)),
    "lift_fresh_copy": lambda op, x: op(x),
    # new tensors, beside the data
    "arange": lambda op, x: x + op(5, dtype=torch.float32),
    "arange.start": lambda op, x: x + op(1, 6),
    "arange.start_step": lambda op, x: x + op(1, 11, 2),
    "empty.memory_format zeros ones": lambda op, x: x + op([6, 5]).fill_(2.0) + op([5], dtype=torch.int64).zero_(),
    "empty_permuted": lambda op, x: x + op([6, 5], [0, 1]).fill_(2.0),
    "eye": lambda op, x: x[..., :5, :5] + op(5),
    "eye.m": lambda op, x: x + op(6, 5),
    "full": lambda op, x: x + op([6, 5], 1.5),
    "full_like": lambda op, x: op(x, 1.5) * x,
    "hamming_window": lambda op, x: x * op(5),
    "hamming_window.periodic": lambda op, x: x * op(5, False),
    "hamming_window.periodic_alpha": lambda op, x: x * op(5, False, 0.4),
    "hamming_window.periodic_alpha_beta": lambda op, x: x * op(5, True, 0.4, 0.3),
    "linspace": lambda op, x: x + op(-1, 2, 5),
    "new_ones new_zeros": lambda op, x: x + op(x, [6, 5]),
    "one_hot": lambda op, x: op(x.argmax(1), 5),
    "_assert_async": lambda op, x: (op((x < 99).all()), x)[1],
    "_assert_async.msg": lambda op, x: (op((x < 99).all(), "too large"), x)[1],
    "_assert_tensor_metadata": lambda op, x: (op(x, dtype=torch.float32), x)[1],
}


STARTS, BAGS = torch.tensor([0, 2, 2, 5]), torch.tensor([0, 2, 2])
ROUND = torch.tensor([1.0, -1, 0, 2, 0.99999, -3, -30.5, 100, 1e6, 1e-5, float("inf"), float("nan")])
REDUCED = [(how, own) for how in ("prod", "mean", "amax", "amin") for own in (True, False)]


def _rows(x, count=5):
    return whole(x).flatten()[:count].abs() % 6


FORMS = {  # of what TVM's importer lacks, or computes otherwise
    "erfinv, lgamma, digamma": lambda x: [
        f(y) for f in (torch.erfinv, torch.lgamma, torch.digamma) for y in (x * 3, x.tanh(), ROUND + 0 * x[0, 0, 0, 0])
    ],
    "xlogy": lambda x: torch.xlogy(x, x.flip(1)),
    "bags of rows": lambda x: [
        *(F.embedding_bag(_rows(x), x[0, 0], BAGS, mode=mode) for mode in ("sum", "mean", "max")),
        F.embedding_bag(_rows(x, 6).reshape(2, 3), x[0, 0], mode="mean"),
        F.embedding_bag(_rows(x), x[0, 0], STARTS, mode="mean", padding_idx=1, include_last_offset=True),
        F.embedding_bag(_rows(x), x[0, 0], BAGS, mode="sum", per_sample_weights=x[0, 1, 0]),
    ],
    "reduced at places": lambda x: [
        y.index_reduce(1, BAGS, y[:, :3] * 2, how, include_self=own) for y in (x, whole(x)) for how, own in REDUCED
    ],
    "scattered integers": lambda x: [
        whole(x).scatter_reduce(1, x.argsort(1)[:, :2] // 2, whole(x) * 2, how, include_self=own)
        for how, own in REDUCED
    ],
    "scattered truths": lambda x: [
        (x > 0).scatter_add(1, x.argsort(1) // 2, x > 1),
        (x > 0).index_add(1, BAGS, x[:, :3] > 1),
        *(
            (x > 0).scatter_reduce(1, x.argsort(1) // 2, x > 1, how, include_self=True)
            for how in ("amax", "amin", "prod")
        ),
    ],
    "other dtypes of bits": lambda x: (
        x.view(torch.int32),
        whole(x).view(torch.uint8),
        whole(x)[..., :4].contiguous().view(torch.int64),
        (x > 0).view(torch.uint8),
        (x > 0)[..., :4].contiguous().view(torch.int32),
    ),
    "histograms of the data's range": lambda x: (torch.histc(x, 5), torch.histc(x * 0 + 1, 4), torch.histc(x, 5, 1, 1)),
    "bytes below zero": lambda x: -(x.abs() * 20).to(torch.uint8),
    "ranges of one end": lambda x: (torch.clamp(x, min=x.flip(1)), torch.clamp(x, max=x.flip(2)[:, :1])),
    "products of integers": lambda x: (
        (whole(x).long() * 1000003) @ whole(x).long().mT,
        torch.addmm(whole(x)[0, 0], whole(x)[0, 1, :, :3], whole(x)[0, 1, :3], alpha=3),
        x.double() @ x.double().mT,
    ),
    "extremes of truths": lambda x: (torch.fmax(x > 0, x > 1), (x > 0).max(1)[0], (x > 0).min(2)[0], torch.sign(x > 0)),
    "a single number": lambda x: [
        *(y for y in (x.sum().cummax(0), x.sum().median(0), x.sum().kthvalue(1, 0))),
        *(x.sum().logcumsumexp(0), x.sum().argmax(), x.sum().softmax(0), x.sum().norm(dim=0)),
    ],
    "numbers in order": lambda x: (
        x + torch.logspace(0, 1, 5),
        whole(x) + torch.linspace(1, 7, 5, dtype=torch.int64),
        whole(x)[..., :1] + torch.tril_indices(4, 5)[0, :6, None],
    ),
    "a split into one": lambda x: x.split(4, 1),
    "integers in a range": lambda x: F.hardtanh(whole(x), -3.5, 4),
    "a pool of one": lambda x: F.adaptive_avg_pool1d(x[0, 0], 3),
    "places under a ceiling": lambda x: F.max_pool2d(x, (3, 2), ceil_mode=True, return_indices=True),
    "integers that are no NaN": lambda x: (whole(x).isnan() | (x > 0), (x > 0).isfinite() & (x > 1)),
    "angles": lambda x: torch.angle(x),
    "products of three": lambda x: F.bilinear(x[0, 0], x[0, 1], x[0, 2:, :5].repeat(2, 1, 1)),
}


def PAIRS(x):
    return (x, x.flip(1) + 0.01), (whole(x), whole(x.flip(1)).abs() + 1), (whole(x), -whole(x.flip(1)).abs() - 1)


MESH = {"": {}, "default": {}, "indexing": {"indexing": "xy"}}
NOT_THERE = "PyTorch has no operator of this name"
OF_SIZES = "it computes with sizes, which a build fixes"
RANDOM = "it draws random numbers"
ELSEWHERE = "a test of its own calls it"
OF_DATA = "what it gives depends on data"
EXCUSED = {
    **dict.fromkeys(("softsign.default", "_adaptive_avg_pool1d.default", "empty.default"), NOT_THERE),
    **dict.fromkeys(("neg", "add", "floordiv", "mod", "mul", "sub", "ge", "le", "gt", "lt", "eq", "ne"), OF_SIZES),
    **dict.fromkeys(("sym_size.int", "sym_constrain_range_for_size.default", "_assert_scalar.default"), OF_SIZES),
    **dict.fromkeys(("randn.default", "randn_like.default", "exponential.default", "bernoulli.p"), RANDOM),
    **dict.fromkeys(("masked_select.default", "item.default", "_local_scalar_dense.default"), OF_DATA),
    **dict.fromkeys(("to_sparse.default", "_sparse_mm.default", "_sparse_addmm.default"), ELSEWHERE),
    "roi_align.default": ELSEWHERE,
    "cond": "control flow",
    "getitem": "of every operator with several results",
}


def calls() -> dict:
    """The calls by the names of their operators."""
    found = {}
    for names, call in CALLS.items():
        for name in names.split():
            found[name if "." in name else name + ".default"] = call
    return found


def form(name: str):
    """The function of a name among the calls, or of one of `FORMS`."""
    if name in FORMS:
        return FORMS[name]
    op, call = operator(name), calls()[name]
    return lambda x: call(op, x)


def operator(name: str):
    """The operator of a name such as ``add.Tensor``; None if PyTorch has none."""
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet, None), overload, None)
