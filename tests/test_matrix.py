"""The matrix: every family, width and resolution, built for every core and verified on its machine code.

README's test command runs a cell of 32-bit Arm. `pytest -m full` runs the small
networks on every core, the papers' main networks at 224 pixels once each, and each width and each resolution once. The
whole takes hours: it runs, and writes a table, where an environment variable says so.

    TVM_MOBILENET_MATRIX=matrix.tsv python -m pytest -m full tests/test_matrix.py
"""

import functools
import os
import time
import warnings
from pathlib import Path

import onnx
import pytest
import torch

from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.models.options import ModelOptions

COLUMNS = (
    "model",
    "target",
    "board",
    "kernels",
    "difference / spread",
    "gate",
    "worst layer",
    "cosine",
    "top-1",
    "arena MiB",
    "predicted Mcycles",
    "/ floor",
    "ms 1 core",
    "ms all cores",
    "build s",
    "verify s",
)
CORES = ("rpi3", "rpi4", "rpi5")
ALPHAS, RESOLUTIONS = (0.25, 0.5, 0.75, 1.0), (128, 160, 192, 224)

SMALL = {  # of v1 and v2 the large ones are below
    "v1": ("v1", 0.25, 32),
    "v1-plain": ("v1-plain", 0.25, 32),
    "v2": ("v2", 0.35, 32),
    "v3-large": ("v3-large", 0.35, 64),
    "v3-small": ("v3-small", 0.5, 64),
    "v3-small-minimal": ("v3-small-minimal", 0.5, 64),
    "v4-small": ("v4-small", 0.5, 64),
    "v4-medium": ("v4-medium", 0.25, 64),
}
# Networks of the papers' own tables, and the core on which each is always run.
LARGE = {
    ("v1", 1.0, 224): "rpi4",
    ("v2", 1.0, 224): "rpi5",
    ("v3-large", 1.0, 224): None,  # on this machine, below
    ("v3-small", 1.0, 224): "rpi3",
    ("v2", 0.5, 224): None,  # as v2 1.0
    ("v2", 1.4, 224): None,  # as v2 1.0
    ("v1-shallow", 1.0, 224): None,  # layers of v1
    ("v1-plain", 0.25, 224): None,  # at 32 pixels above, at 128 below
    ("v2", 1.3, 224): None,
    ("v3-large-minimal", 1.0, 224): None,  # as the small one
    ("v3-small-minimal", 1.0, 224): None,  # at 64 pixels above
    ("v4-small", 1.0, 224): None,  # at 64 pixels above
    ("v4-medium", 1.0, 224): None,  # minutes of emulation
    ("v4-large", 1.0, 224): None,
    ("v1-plain", 1.0, 224): None,  # minutes of emulation
}
GRID = {  # each width and each resolution once, and each core
    ("v1", alpha, resolution): CORES[i % len(CORES)] if i + j == len(ALPHAS) - 1 else None
    for i, alpha in enumerate(ALPHAS)
    for j, resolution in enumerate(RESOLUTIONS)
    if (alpha, resolution) != (1.0, 224)
}
OTHERS = {
    ("v1", 1.0, 224): "host",
    ("v2", 1.0, 224): None,
    ("v3-large", 1.0, 224): "host",
    ("v3-small", 1.0, 224): None,  # at 64 pixels above
    ("v3-small-minimal", 1.0, 224): None,
    ("v4-medium", 1.0, 224): "host",
    ("v1-plain", 0.25, 128): None,
}


def cells(networks: dict, all_targets: tuple) -> list:
    """The network and target of each cell: one target a network, or all of them for the whole matrix."""
    whole = "TVM_MOBILENET_MATRIX" in os.environ
    return [(*network, target) for network, one in networks.items() for target in all_targets if whole or target == one]


@functools.lru_cache(maxsize=1)
def network(name: str, alpha: float = 1.0, resolution: int = 224):
    """A row's network, kept for the rows that follow."""
    if name.endswith(".onnx"):
        return load_network(ModelOptions(model=name))
    return load_network(ModelOptions(model=name, alpha=alpha, resolution=resolution))


def row(net, target_name: str, folder: Path, count: int = 2) -> verify.VerifyResult:
    """Build, verify with so many inputs, and a line in the table."""
    target, board = targets.load(target_name), "local" if target_name == "host" else "virtual"
    start = time.perf_counter()
    made = build.build(net.options, target, output=folder, network=net)
    middle = time.perf_counter()
    result = verify.verify(folder, board=board, network=net, count=count)
    end = time.perf_counter()
    path = os.environ.get("TVM_MOBILENET_MATRIX")
    if path:
        cells = [
            net.options.title,
            target_name,
            board,
            made.kernels,
            *_figures(result, net, target, made),
            f"{middle - start:.1f}",
            f"{end - middle:.1f}",
        ]
        new = not Path(path).exists()
        with open(path, "a", encoding="utf-8") as file:
            file.write("\t".join(COLUMNS) + "\n" if new else "")
            file.write("\t".join(map(str, cells)) + "\n")
    result.require()
    assert len(result.layers) == made.kernels
    assert all(c.tolerance == pytest.approx(1e-4 * len(net.layers) ** 0.5) for c in result.outputs)
    return result


def _figures(result, net, target, made) -> list[str]:
    worst = max(result.outputs, key=lambda c: c.relative / c.tolerance)
    figures = [
        f"{worst.relative:.1e}",
        f"{worst.tolerance:.1e}",
        f"{max(c.relative for c in result.layers):.1e}",
        f"{worst.cosine:.8f}",
        f"{worst.top1:.0%}",
        f"{made.arena_bytes / (1 << 20):.2f}",
    ]
    if result.cycles is None:
        measured = (result.milliseconds, result.milliseconds_all_cores)
        return [*figures, "", "", *(f"{v:.2f}" if v else "" for v in measured)]
    floor = sum(call.layer.mult_adds for call in net.layers) / target.core.macs_per_cycle("float32")
    return [
        *figures,
        f"{result.cycles / 1e6:.1f}",
        f"{result.cycles / floor:.2f}",
        f"{result.milliseconds:.2f}",
        f"{result.milliseconds_all_cores:.2f}",
    ]


# ---- one of each


@pytest.mark.parametrize(
    "family, target",
    [
        ("v1", "armv7"),
        pytest.param("v1-plain", "rpi4", marks=pytest.mark.full),
        pytest.param("v2", "rpi5", marks=pytest.mark.full),
        pytest.param("v3-large", "host", marks=pytest.mark.full),
        pytest.param("v3-small", "rpi3", marks=pytest.mark.full),
        pytest.param("v3-small", "armv7", marks=pytest.mark.full),
        pytest.param("v4-small", "host", marks=pytest.mark.full),
        pytest.param("v4-medium", "rpi4", marks=pytest.mark.full),
    ],
)
def test_a_small_network_of_every_family_and_every_core(family, target, tmp_path):
    row(network(*SMALL[family]), target, tmp_path)


def export(path: Path, name: str, alpha: float, resolution: int, pads=None) -> str:
    """A registry network as PyTorch's exporter writes it; ``pads`` of stride-2 convolutions, as TensorFlow has them."""
    from tvm_mobilenet.models import registry

    spec = registry.create(name, alpha, resolution)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(spec.module, (torch.zeros(spec.input_shape),), path, dynamo=False, opset_version=13)
    if pads:
        model = onnx.load(path)
        changed = 0
        for node in model.graph.node:
            attributes = {a.name: a for a in node.attribute}
            if node.op_type == "Conv" and list(attributes["strides"].ints) == [2, 2]:
                attributes["pads"].ints[:] = pads
                changed += 1
        assert changed >= 4
        onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize(
    "name, alpha, resolution, pads",
    [
        pytest.param("v1", 0.25, 64, [0, 0, 1, 1], marks=pytest.mark.full),
        pytest.param("v2", 0.35, 64, None, marks=pytest.mark.full),
        pytest.param("v3-large", 0.35, 64, None, marks=pytest.mark.full),
    ],
)
def test_onnx_files(name, alpha, resolution, pads, tmp_path):
    path = export(tmp_path / f"{name}{'-asymmetric' if pads else ''}.onnx", name, alpha, resolution, pads)
    net = network(path)
    assert any(c.layer.padding == (0, 0, 1, 1) for c in net.layers) is bool(pads)
    row(net, "rpi4", tmp_path / "out")


# ---- the matrix


@pytest.mark.full
@pytest.mark.parametrize(
    "family, target",
    [
        *((family, "rpi3") for family in ("v1", "v2", "v3-large", "v4-small")),
        ("v3-small", "rpi5"),
        ("v3-small-minimal", "rpi4"),
    ],
)
def test_a_small_network_of_every_family_in_order_and_out_of_order(family, target, tmp_path):
    """With the cells above each family, of blocks of one kind, runs on a core of each kind."""
    row(network(*SMALL[family]), target, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("name, alpha, resolution, target", cells(LARGE, CORES) + cells(GRID, CORES))
def test_large_networks(name, alpha, resolution, target, tmp_path):
    """With one input: that a second one finds nothing of the first is seen in small networks."""
    row(network(name, alpha, resolution), target, tmp_path, count=1)


@pytest.mark.full
@pytest.mark.parametrize("name, alpha, resolution, target", cells(OTHERS, ("armv7", "host")))
def test_large_networks_on_32_bit_arm_and_on_this_machine(name, alpha, resolution, target, tmp_path):
    row(network(name, alpha, resolution), target, tmp_path, count=1)
