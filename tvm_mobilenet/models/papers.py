"""The papers' figures of cost beside our counts, and the errata. Every figure is reproduced or listed in the errata.

The figures are data (``data/papers``), ours are counted (``models.cost``). A figure is reproduced if ours, rounded to
the digits printed, is the printed one. Nothing in the count depends on the figures.
"""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from tvm_mobilenet.models import cost

if TYPE_CHECKING:
    import torch

ONE_LAYER = {"kernel": 3, "inputs": 512, "outputs": 512}  # table 3 of the v1 paper: its layer, on a 14x14 map


@dataclass(frozen=True)
class Figure:
    """One figure as a paper prints it, and ours.

    Parameters
    ----------
    paper, table, row : str
        Where it is printed; a paper is its arXiv number, or the repository of its authors' release.
    quantity : str
        ``mult_adds`` and ``parameters`` in millions, ``share_mult_adds`` and ``share_parameters`` in percent;
        ``all_parameters`` in millions, with biases and batch norms; ``gmacs`` as timm's cards have them (`gmacs`).
    kind : str
        The kind of layers for a share.
    printed : str
        The figure with its printed digits.
    ours : float
        Counted, in the same unit.
    reason : str
        Why ours differs; empty if it does not.
    """

    paper: str
    table: str
    row: str
    model: str
    alpha: float
    resolution: int
    kind: str
    quantity: str
    printed: str
    ours: float
    reason: str = ""

    @property
    def reproduced(self) -> bool:
        return rounded(self.ours, self.printed) == self.printed


def rounded(value: float, printed: str) -> str:
    """A count as it would be printed with as many digits as ``printed`` has."""
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(Decimal(printed).as_tuple().exponent), ROUND_HALF_UP))


def _table(name: str):
    return resources.files(__package__) / "data" / "papers" / name


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of the tables."""
    return list(csv.DictReader(_table(name).read_text(encoding="utf-8").splitlines()))


def errata() -> list[dict]:
    """The entries of ``errata.toml``."""
    return tomllib.loads(_table("errata.toml").read_text(encoding="utf-8"))["erratum"]


def figures(paper: str | None = None) -> list[Figure]:
    """Every figure of the papers, or of one, with our count."""
    reasons = {(e["paper"], str(e["table"]), e["row"], e["quantity"]): e["reason"] for e in errata()}
    found = []
    for row in read_table("figures.csv"):
        if paper in (None, row["paper"]):
            row.update(alpha=float(row["alpha"]), resolution=int(row["resolution"]))
            ours = count(row["model"], row["alpha"], row["resolution"], row["quantity"], row["kind"])
            reason = reasons.get((row["paper"], row["table"], row["row"], row["quantity"]), "")
            found.append(Figure(**row, ours=ours, reason=reason))
    return found


def count(model: str, alpha: float, resolution: int, quantity: str, kind: str = "") -> float:
    """Our count of a quantity, in the unit that the papers print."""
    if model.startswith("layer_"):
        return _one_layer(model, alpha, resolution, quantity) / 1e6
    if quantity == "all_parameters":
        return sum(parameter.numel() for parameter in _on_meta(model, alpha).parameters()) / 1e6
    if quantity == "gmacs":
        return gmacs(model, alpha, resolution)
    layers = _costs(model, alpha, resolution)
    attribute = quantity.removeprefix("share_")
    total = sum(getattr(layer, attribute) for layer in layers)
    if not quantity.startswith("share_"):
        return total / 1e6
    return 100 * sum(getattr(layer, attribute) for layer in layers if layer.kind == kind) / total


def gmacs(model: str, alpha: float, resolution: int) -> float:
    """Billions of the "MACs" of timm's cards, as fvcore counts them.

    To the mult-adds of every layer it adds two operations for each element of each batch norm's input, which a compiler
    folds away, and one for each element that the global pool reads.
    """
    import torch

    module, others = _on_meta(model, alpha).eval(), []
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, inputs: others.append(2 * inputs[0].numel()))
    before_pool = module.layers()[-1][1]
    before_pool.register_forward_hook(lambda _, __, output: others.append(output.numel()))
    found = cost.layer_costs(module, (1, 3, resolution, resolution))
    return (sum(layer.mult_adds for layer in found) + sum(others)) / 1e9


def _on_meta(model: str, alpha: float) -> torch.nn.Module:
    """A network of the registry without values."""
    import torch

    from tvm_mobilenet.models import registry

    with torch.device("meta"):
        return registry.architecture(model, alpha)


def _one_layer(model: str, alpha: float, size: int, quantity: str) -> float:
    """Table 3: one layer; its parameters are its mult-adds on a map of one pixel."""
    size = size if quantity == "mult_adds" else 1
    if model == "layer_standard":
        return cost.standard(size=size, **ONE_LAYER)
    return cost.separable(size=size, alpha=alpha, **ONE_LAYER)


@cache
def _costs(model: str, alpha: float, resolution: int) -> list[cost.LayerCost]:
    return cost.model_costs(model, alpha, resolution)


@cache
def accuracies() -> dict[tuple[str, float, int], tuple[float, str]]:
    """Published top-1, 0..1, and its source, by (full name, alpha, resolution)."""
    text = (resources.files("tvm_mobilenet.models") / "data" / "accuracy.csv").read_text(encoding="utf-8")
    return {
        (row["model"], float(row["alpha"]), int(row["resolution"])): (float(row["top1"]) / 100, row["source"])
        for row in csv.DictReader(text.splitlines())
    }
