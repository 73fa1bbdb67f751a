"""Show how close the standard convolutions of a model are to depthwise separable ones, for each rank.

    python -m tvm_mobilenet.factorize --model my_network.onnx
    python -m tvm_mobilenet.factorize --model v1-plain --layer blocks.3.1.conv --output factors.npz

A depthwise convolution D with R filters for each channel, followed by a pointwise P, equals one standard convolution
with the kernel

    K[n, m, i, j] = sum over r of P[n, m, r] * D[m, r, i, j]

MobileNet's block is R = 1: K[n, m, i, j] = P[n, m] * D[m, i, j]. For each input channel m the kernel is a matrix of N
rows and D_K^2 columns, and P and D are its factorisation of rank R. The singular value decomposition gives the
factorisation with the least sum of squared errors, separately for each channel (``docs/concepts/factorisation.md``).
"""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_mobilenet import packages
from tvm_mobilenet.cli import options as shared
from tvm_mobilenet.cli.entry import parser_for, run_verb
from tvm_mobilenet.cli.flags import refuse
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.whole_file import output_file, write_whole
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.terminal.console import print_json, print_table, print_text, say
from tvm_mobilenet.terminal.table import Layers


@dataclass(frozen=True)
class Factorisation:
    """How close one standard convolution is to a separable one.

    Parameters
    ----------
    source, layer : str
        The layer's place in the model, and its name with its shape.
    errors : tuple of float
        For ranks 1, 2, …: the error of the nearest separable kernel, as a share of the kernel's norm.
    noise : tuple of float
        The same error for normally distributed noise of this shape, a kernel without structure.
    cost : tuple of float
        For each rank: mult-adds of the two convolutions, as a share of the standard convolution's.
    """

    source: str
    layer: str
    errors: tuple[float, ...]
    noise: tuple[float, ...]
    cost: tuple[float, ...]


def compose(depthwise: np.ndarray, pointwise: np.ndarray, channels: int) -> np.ndarray:
    """The kernel of the standard convolution that equals a depthwise followed by a pointwise.

    Parameters
    ----------
    depthwise : (M * R, 1, KH, KW)
        R filters for each input channel; those of one channel are adjacent, as in PyTorch.
    pointwise : (N, M * R) or (N, M * R, 1, 1)
    channels : int
        M.

    Returns
    -------
    numpy.ndarray
        (N, M, KH, KW); its stride, padding and dilation are the depthwise convolution's.
    """
    n, (filters, _, kh, kw) = pointwise.shape[0], depthwise.shape
    if pointwise.size != n * filters or filters % channels:
        raise TvmMobilenetError(
            f"{filters} depthwise filters of {channels} channels, and a pointwise of {pointwise.size // n} inputs",
            "the pointwise must have as many inputs as the depthwise has outputs",
        )
    p = pointwise.reshape(n, channels, -1)  # (N, M, R)
    d = depthwise.reshape(channels, -1, kh, kw)  # (M, R, KH, KW)
    return np.einsum("nmr,mrij->nmij", p, d)


def factor(kernel: np.ndarray, rank: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The depthwise and pointwise weights whose composition is nearest to a standard kernel.

    Parameters
    ----------
    kernel : (N, M, KH, KW)
    rank : int
        Depthwise filters for each channel; at most KH * KW and N.

    Returns
    -------
    depthwise : (M * rank, 1, KH, KW)
    pointwise : (N, M * rank, 1, 1)
    """
    n, m, kh, kw = kernel.shape
    if not 1 <= rank <= min(n, kh * kw):
        raise TvmMobilenetError(
            f"rank {rank} of a kernel {n}x{m}x{kh}x{kw}", f"ranks go from 1 to {min(n, kh * kw)}, which is exact"
        )
    u, s, v = np.linalg.svd(_by_channel(kernel), full_matrices=False)  # (M, N, r), (M, r), (M, r, KH * KW)
    root = np.sqrt(s[:, :rank])  # half of the scale goes to each factor
    pointwise = (u[:, :, :rank] * root[:, None]).transpose(1, 0, 2).reshape(n, m * rank, 1, 1)
    depthwise = (v[:, :rank] * root[:, :, None]).reshape(m * rank, 1, kh, kw)
    return depthwise.astype(kernel.dtype), pointwise.astype(kernel.dtype)


def rank_errors(kernel: np.ndarray) -> tuple[float, ...]:
    """The relative error of the best separable kernel of each rank, from 1 on; the last is zero.

    The error is the norm of the dropped singular values over the norm of all, taken over all input channels.
    """
    energy = (np.linalg.svd(_by_channel(kernel), compute_uv=False) ** 2).sum(0)
    left = np.append(energy[::-1].cumsum()[::-1][1:], 0.0)
    return tuple(float(e) for e in np.sqrt(left / max(energy.sum(), np.finfo(float).tiny)))


def factorize(options: ModelOptions, layer: str | None = None, *, calls: Sequence | None = None) -> list[Factorisation]:
    """How close each standard convolution of a model is to a separable one.

    Parameters
    ----------
    options : ModelOptions
        A registry model or a file.
    layer : str, optional
        Only the layer at this place in the model.
    calls : sequence of LayerCall, optional
        The calls that `standard_convolutions` found, if it ran before.

    Raises
    ------
    TvmMobilenetError
        The model has no such layer, or no standard convolution.
    """
    return [_factorisation(call) for call in (standard_convolutions(options, layer) if calls is None else calls)]


def standard_convolutions(options: ModelOptions, layer: str | None = None) -> list:
    """The calls of a model's graph that are convolutions of one group with a window larger than one pixel."""
    from tvm_mobilenet.compiler.network import load_network

    calls = load_network(options).layers
    found = [
        c
        for c in calls
        if c.layer.declared.streams == "first" and c.layer.groups == 1 and math.prod(c.layer.kernel) > 1
    ]
    chosen = [c for c in found if layer in (None, c.source)]
    if not chosen:
        what = f"no standard convolution {layer!r}" if layer else "no standard convolution"
        known = f"it has {', '.join(c.source for c in found)}" if found else "try --model v1-plain"
        raise TvmMobilenetError(f"{options.title} has {what}", known)
    return chosen


def _factorisation(call) -> Factorisation:
    n, m, kh, kw = call.weight.shape
    noise = np.random.Generator(np.random.PCG64(0)).standard_normal((n, min(m, 32), kh, kw))
    ranks = range(1, min(n, kh * kw) + 1)
    return Factorisation(
        source=call.source,
        layer=call.layer.name,
        errors=rank_errors(call.weight),
        noise=rank_errors(noise),
        cost=tuple(r * (1 / n + 1 / (kh * kw)) for r in ranks),
    )


def _by_channel(kernel: np.ndarray) -> np.ndarray:
    """(M, N, KH * KW) float64: one matrix for each input channel."""
    n, m, kh, kw = kernel.shape
    return kernel.astype(np.float64).transpose(1, 0, 2, 3).reshape(m, n, kh * kw)


# ---- printing


def parser() -> argparse.ArgumentParser:
    """The arguments of ``factorize``."""
    new = parser_for("factorize", __doc__.split("\n")[0])
    shared.add_model_options(new, inputs=False, precision=False)
    new.set_defaults(model="v1-plain")
    new.add_argument("--layer", metavar="SOURCE", help="show only this layer, by its place in the model")
    new.add_argument(
        "--rank",
        type=shared.positive(int),
        default=1,
        help="rank of the factors that --output writes (default: %(default)s)",
    )
    new.add_argument("--output", type=output_file, metavar="FILE.npz", help="write the depthwise and pointwise weights")
    new.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return new


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, factor, print."""
    return run_verb(parser(), _run, argv)


def _run(args: argparse.Namespace) -> None:
    if not args.output:
        refuse(args, ("--rank",), "only the factors that --output writes have a rank", "add --output FILE.npz")
    options = shared.model_options(args)
    packages.require("factorize", *packages.for_model(options))
    say(f"importing {options.title}")
    if options.weights is None and options.in_registry:
        say(
            "note: weights are seeded random numbers, so no kernel separates better than noise; "
            "give trained ones with --weights FILE"
        )
    calls = standard_convolutions(options, args.layer)
    results = factorize(options, args.layer, calls=calls)
    if args.output:
        _write(args.output, calls, args.rank)
    if args.json:
        print_json({"model": options.title, "layers": results})
        return
    _print(options, results)
    if args.output:
        print(f"\nwrote {args.output}: depthwise and pointwise of rank {args.rank} for {len(calls)} layers")


def _write(path: Path, calls: Sequence, rank: int) -> None:
    arrays = {}
    for call in calls:
        arrays[f"{call.source}.depthwise"], arrays[f"{call.source}.pointwise"] = factor(call.weight, rank)
        arrays[f"{call.source}.bias"] = call.bias
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    write_whole(path, packed.getvalue(), "--output")


def _print(options: ModelOptions, results: Sequence[Factorisation]) -> None:
    ranks = max(len(result.errors) for result in results)

    def percent(values: Sequence[float]) -> list[str]:
        return [f"{100 * v:.1f}" for v in values] + ["-"] * (ranks - len(values))

    rows = []
    for result in results:
        rows.append((result.source, result.layer, "error", *percent(result.errors)))
        rows.append(("", "", "noise", *percent(result.noise)))
        rows.append(("", "", "mult-adds", *percent(result.cost)))
    print_table(
        ("from", Layers("layer"), "%", *(f"rank {r}" for r in range(1, ranks + 1))),
        rows,
        f"{options.title}: the nearest depthwise separable kernel by rank",
    )
    print_text(
        "\nerror: norm of the difference over the kernel's; noise: the same for a kernel without structure;"
        "\nmult-adds: the two convolutions, with rank depthwise filters for each channel, over the standard one."
        "\nA kernel separates if its error lies far below the noise's at a rank that costs less than 100 %."
    )


if __name__ == "__main__":
    sys.exit(main())
