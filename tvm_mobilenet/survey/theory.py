"""The papers' ratios of mult-adds beside ratios of predicted cycles on three cores, with the reasons of the
differences.

The papers count mult-adds. A core also loads, stores, branches and starts kernels; a convolution's tiles fit its map
or leave part of a vector idle; and the weights come from memory whatever the map's size is. Cycles here are compute
and memory, of each network in the order of its plan. Each pair of networks differs in one property, so the ratio of
their cycles over that of their mult-adds shows the true cost of that property.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.targets import load
from tvm_mobilenet.terminal import console

TARGETS = ("rpi3", "rpi4", "rpi5")  # Cortex-A53, A72, A76
BASE = ModelOptions(model="v1")
PLAIN = ModelOptions(model="v1-plain")
ALPHAS, RESOLUTIONS = (0.75, 0.5, 0.25), (192, 160, 128)


@dataclass(frozen=True)
class Comparison:
    """Two networks: the ratio of the first's cost to the second's, in mult-adds and in cycles.

    Parameters
    ----------
    formula : float
        By the paper's rule of thumb: alpha^2, rho^2, and 1/N + 1/D_K^2 of each block.
    mult_adds : float
        Counted over whole networks.
    cycles, cycles_all_cores : dict of str to float
        By core; predicted.
    """

    name: str
    formula: float
    mult_adds: float
    cycles: dict
    cycles_all_cores: dict


@dataclass(frozen=True)
class Theory:
    """The comparisons, and each network's cycles over those of its multiply-adds alone.

    Parameters
    ----------
    floors : dict of str to dict of str to float
        By network and core: cycles on one core over those of the multiply-adds alone.
    compute : dict of str to dict of str to float
        Likewise, with every load from the first-level cache.
    speedups : dict of str to dict of str to float
        By network and core: cycles of one core over those of all.
    kinds : dict of str to dict of str to float
        By core and kind of layer: its share of the cycles of v1 1.0-224.
    """

    comparisons: list[Comparison]
    floors: dict
    compute: dict
    speedups: dict
    kinds: dict

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Headings and rows."""
        cores = list(self.kinds)
        columns = (
            "",
            "formula",
            "mult-adds",
            *(f"cycles, {c.removeprefix('cortex-').upper()}" for c in cores),
            *(f"4 cores, {c.removeprefix('cortex-').upper()}" for c in cores),
        )
        rows = [
            (
                c.name,
                f"{c.formula:.3f}",
                f"{c.mult_adds:.3f}",
                *(f"{c.cycles[core]:.3f}" for core in cores),
                *(f"{c.cycles_all_cores[core]:.3f}" for core in cores),
            )
            for c in self.comparisons
        ]
        return columns, rows

    def words(self) -> list[str]:
        """The reasons, with the figures that show them."""

        def spread(network, of: dict) -> str:
            values = (f"{v:.2f} on {c.removeprefix('cortex-').upper()}" for c, v in of[network.title].items())
            return f"{network.title} {', '.join(values)}"

        kinds = dict.fromkeys(kind for of in self.kinds.values() for kind in of)
        shares = {kind: [of.get(kind, 0.0) for of in self.kinds.values()] for kind in kinds}
        return [
            f"Memory. Cycles of one core over those of the multiply-adds alone: {spread(BASE, self.floors)}; with "
            f"standard convolutions {spread(PLAIN, self.floors)}. With every load from the L1 it would be "
            f"{spread(BASE, self.compute)}; {spread(PLAIN, self.compute)}: the rest is memory. The latter's "
            "weights, 117 MB against 17, and its larger kernels do not stay in the caches.",
            f"Four cores share the memory. They are faster than one by {spread(BASE, self.speedups)}; "
            f"{spread(PLAIN, self.speedups)}.",
            "Padding. The papers count products with padding zeros; kernels skip them. Of a 3x3 convolution on a 14x14 "
            "map that is 9 %, on 7x7 18 %: a plain network's compute can lie below the cycles of its counted "
            "mult-adds. A pointwise layer has no padding to skip.",
            f"Narrow. Over the cycles of the multiply-adds alone: {spread(_narrow(0.25), self.floors)}; of it compute "
            f"{spread(_narrow(0.25), self.compute)}. With few channels sums are short, and the start and end of a "
            "tile (bias, clamp, store) weigh more; the stem reads three channels at any alpha, and depthwise layers "
            "and all activations shrink with alpha, not with its square.",
            f"Small. Over the cycles of the multiply-adds alone: {spread(_small(128), self.floors)}; of it compute "
            f"{spread(_small(128), self.compute)}. The weights do not shrink with the map and are fetched for fewer "
            f"products. On four cores a map of few rows does not divide evenly as well, and the slowest share counts: "
            f"faster by {spread(_small(128), self.speedups)}.",
            "Where cycles of v1 1.0-224 go: "
            + "; ".join(f"{kind} {min(v):.0%} to {max(v):.0%}" for kind, v in shares.items() if max(v))
            + ".",
        ]


def compare(**how) -> Theory:
    """Estimate the networks on the three cores; ``how`` as ``survey.estimates.estimate_networks`` takes it.

    Raises
    ------
    BoardError
        A kernel does not run.
    """
    from tvm_mobilenet.survey import estimates as estimating

    networks = [BASE, PLAIN, *map(_narrow, ALPHAS), *map(_small, RESOLUTIONS)]
    costs: dict[str, dict] = {}
    floors, compute, speedups = ({n.title: {} for n in networks} for _ in range(3))
    for name in TARGETS:
        target = load(name)
        console.say(f"theory: {len(networks)} networks on {target.core.name}")
        found = dict(zip(networks, estimating.estimate_networks(networks, target, **how), strict=True))
        costs[target.core.name] = found
        for n, cost in found.items():
            least = cost.mult_adds / target.core.macs_per_cycle("float32")
            floors[n.title][target.core.name] = cost.cost / least
            compute[n.title][target.core.name] = cost.compute / least
            speedups[n.title][target.core.name] = cost.cost / cost.cost_all_cores
    counts = {n: next(iter(costs.values()))[n].mult_adds for n in networks}

    def pair(name: str, formula: float, first, second) -> Comparison:
        return Comparison(
            name,
            formula,
            counts[first] / counts[second],
            {core: c[first].cost / c[second].cost for core, c in costs.items()},
            {core: c[first].cost_all_cores / c[second].cost_all_cores for core, c in costs.items()},
        )

    comparisons = [pair("separable / plain", _blocks_formula(), BASE, PLAIN)]
    comparisons += [pair(f"alpha {a:g} / 1", a**2, _narrow(a), BASE) for a in ALPHAS]
    comparisons += [pair(f"rho {r}/224", (r / 224) ** 2, _small(r), BASE) for r in RESOLUTIONS]
    kinds = {core: {k: v / c[BASE].cost for k, v in c[BASE].kinds.items()} for core, c in costs.items()}
    return Theory(comparisons, floors, compute, speedups, kinds)


def print_result(found: Theory) -> None:
    """The table and the reasons."""
    console.print_table(*found.table(), "ratios: the papers' formula, mult-adds counted, cycles predicted")
    console.print_text("\n".join(["", *found.words()]))


def _narrow(alpha: float) -> ModelOptions:
    return ModelOptions(model="v1", alpha=alpha)


def _small(resolution: int) -> ModelOptions:
    return ModelOptions(model="v1", resolution=resolution)


def _blocks_formula() -> float:
    """1/N + 1/D_K^2, as the mean over the blocks of v1, weighted by the cost of their standard convolutions."""
    from tvm_mobilenet.models import cost

    plain = [c for c in cost.model_costs("v1-plain") if c.kind == "conv" and c.inputs > 3]
    whole = sum(c.mult_adds for c in plain)
    return sum(c.mult_adds * cost.separable_ratio(c.kernel[0], c.outputs) for c in plain) / whole
