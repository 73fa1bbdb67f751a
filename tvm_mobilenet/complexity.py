"""Count mult-adds, parameters and bytes of a model, layer by layer, beside the papers' formulas and figures.

    python -m tvm_mobilenet.complexity --model v2 --alpha 0.5
    python -m tvm_mobilenet.complexity --model v1 --compare v1-plain
    python -m tvm_mobilenet.complexity --paper

Two counts stand side by side. *Formula* is the paper's, from kernel, channels and map (``models.cost``). *Graph* counts
in the imported graph: the elements of each bound weight times the positions to which it is applied. The two must agree.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm_mobilenet import dtypes, kinds, packages
from tvm_mobilenet.cli import options as shared
from tvm_mobilenet.cli import papers_text
from tvm_mobilenet.cli.entry import parser_for, run_verb
from tvm_mobilenet.cli.flags import refuse
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models import cost
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.terminal.console import print_json, print_table, print_text, say
from tvm_mobilenet.terminal.table import Detail, Layers

PAPERS = {
    "v1": "1704.04861",
    "v2": "1801.04381",
    "v3": "1905.02244",
    "release": "tensorflow/models",
    "timm": "pytorch-image-models",
}
COUNTS = ("formula", "graph", "parameters", "weights kB", "activations kB", "mult-adds/byte", "%")


@dataclass(frozen=True)
class LayerComplexity:
    """The cost of one layer of the graph.

    Parameters
    ----------
    source : str
        The layer's place in the model.
    layer : str
        The layer's name: its kind, shape, dtype and epilogue.
    formula, mult_adds : int
        Mult-adds by the paper's formula, and as counted in the graph; zero for pools and element-wise layers.
    parameters : int
        Elements of the weight, without the bias.
    weight_bytes, activation_bytes : int
        Bytes of weight and bias; bytes of all inputs and the output, each counted once.
    """

    source: str
    layer: str
    kind: str
    formula: int
    mult_adds: int
    parameters: int
    weight_bytes: int
    activation_bytes: int

    @property
    def intensity(self) -> float:
        """Mult-adds for each byte that must be moved at least once."""
        return self.mult_adds / (self.weight_bytes + self.activation_bytes)


@dataclass(frozen=True)
class Block:
    """A depthwise layer and the pointwise layer that reads it, compared with one standard convolution in their place.

    Parameters
    ----------
    separable, standard : int
        Mult-adds of the two layers as counted in the graph, and of the standard convolution by its formula.
    predicted : float
        Their ratio by the paper's formula, 1/N + 1/D_K^2.
    multiplied : float or None
        Mult-adds of the same block of the 1.0-224 network under the paper's multipliers,
        D_K^2 * alpha M * (rho D_F)^2 + alpha M * alpha N * (rho D_F)^2; None for a file.
    """

    source: str
    separable: int
    standard: int
    predicted: float
    multiplied: float | None = None

    @property
    def ratio(self) -> float:
        return self.separable / self.standard


@dataclass(frozen=True)
class Complexity:
    """A model's cost: its layers, its separable blocks, its totals."""

    model: str
    layers: tuple[LayerComplexity, ...]
    blocks: tuple[Block, ...]
    mult_adds: int
    formula: int
    parameters: int
    weight_bytes: int
    activation_bytes: int

    @property
    def agree(self) -> bool:
        """Whether formula and graph give the same count for every layer."""
        return all(layer.formula == layer.mult_adds for layer in self.layers)

    @property
    def kinds(self) -> list[tuple[str, int, float, int, float]]:
        """For each kind: mult-adds and their share in percent, parameters and their share; the largest first."""
        rows = []
        for kind in dict.fromkeys(layer.kind for layer in self.layers):
            of_kind = [layer for layer in self.layers if layer.kind == kind]
            counts = sum(layer.mult_adds for layer in of_kind), sum(layer.parameters for layer in of_kind)
            shares = 100 * counts[0] / max(1, self.mult_adds), 100 * counts[1] / max(1, self.parameters)
            rows.append((kind, counts[0], shares[0], counts[1], shares[1]))
        return sorted(rows, key=lambda row: -row[1])


def complexity(options: ModelOptions) -> Complexity:
    """The cost of a registry model or of a file.

    Raises
    ------
    TvmMobilenetError
        The model, the file or one of its operators is not supported.
    """
    calls = _calls(options)
    layers = tuple(_layer_complexity(call) for call in calls)
    return Complexity(
        model=options.title,
        layers=layers,
        blocks=tuple(_blocks(calls, options)),
        mult_adds=sum(layer.mult_adds for layer in layers),
        formula=sum(layer.formula for layer in layers),
        parameters=sum(layer.parameters for layer in layers),
        weight_bytes=sum(layer.weight_bytes for layer in layers),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
    )


def formula(layer: Layer) -> int:
    """Mult-adds of a layer by the paper's formula for its kind; maps and kernels need not be square."""
    return kinds.of(layer.kind).formula(layer, cost)


def variant(text: str, options: ModelOptions, given: frozenset[str] = frozenset()) -> ModelOptions:
    """The options of ``--compare``: ``MODEL``, ``MODEL:ALPHA``, ``MODEL:ALPHA-PIXELS`` or a file.

    Parameters
    ----------
    options : ModelOptions
        The model to compare with; the second model takes from it every option that the text leaves open.
    given : frozenset of str
        The flags of the command line; a file takes only ``--resolution`` and ``--batch`` of them.

    Raises
    ------
    TvmMobilenetError
        The text has none of these forms.
    """
    from tvm_mobilenet.frontend.files import check_model, looks_like_a_file
    from tvm_mobilenet.models.registry import check_shape

    if looks_like_a_file(text) or not ModelOptions(model=text).in_registry:
        check_model(text, "--compare")
        shared_flags = {"--resolution": "resolution", "--batch": "batch"}
        taken = {name: getattr(options, name) for flag, name in shared_flags.items() if flag in given}
        return ModelOptions(model=text, dtype=options.dtype, io=options.io, **taken)
    model, _, size = text.partition(":")
    alpha, _, resolution = size.partition("-")
    example = "for example v2:0.5-160"
    try:
        changes = {"alpha": float(alpha)} if alpha else {}
        changes |= {"resolution": shared.image_size(resolution)} if resolution else {}
        check_shape(changes.get("alpha", 1.0), changes.get("resolution", 224), 1)
    except argparse.ArgumentTypeError as error:
        raise TvmMobilenetError(f"--compare {text}: {error}", example) from None
    except ValueError:
        raise TvmMobilenetError(f"--compare {text}: alpha and pixels must be numbers", example) from None
    except TvmMobilenetError as error:
        raise TvmMobilenetError(f"--compare {text}: {error.message}", error.hint) from None
    return replace(options, model=model, weights=None, **changes)


def _calls(options: ModelOptions) -> list:
    """The graph's layers. Counts do not depend on the values of weights, but a checkpoint must fit the network."""
    from tvm_mobilenet import frontend, passes
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.models import registry
    from tvm_mobilenet.passes import precision
    from tvm_mobilenet.passes.precision import Precision
    from tvm_mobilenet.passes.quantize import ASSUMED

    if not options.in_registry:
        integer = dtypes.of(options.dtype).integer
        decided = ASSUMED if integer else Precision(options.dtype, options.io)
        return load_network(replace(options, decided=decided)).layers
    import torch

    registry.check_shape(options.alpha, options.resolution, options.classes)
    module = registry.architecture(options.model, options.alpha, options.classes, options.features or None)
    if options.weights:
        registry.load_checkpoint(module, options.model, options.alpha, options.classes, options.weights)
    example = torch.zeros(options.batch, 3, *options.size)
    graph = passes.run(frontend.from_torch(module.eval().requires_grad_(False), example))
    return list(precision.without_images(graph, options).calls)


def _layer_complexity(call) -> LayerComplexity:
    layer = call.layer
    weights = 0 if call.weight is None else call.weight.size
    bias = 0 if call.bias is None else call.bias.size
    positions = layer.batch * layer.out_height * layer.out_width
    tensors = [(layer.input_shape, layer.input_dtype), (layer.output_shape, layer.output_dtype)]
    if len(call.inputs) > 1:  # a residual or second operand: of the output's shape, or one value for each channel
        tensors.append((layer.second_shape, layer.second_dtype))
    return LayerComplexity(
        source=call.source,
        layer=layer.name,
        kind=layer.kind,
        formula=formula(layer),
        mult_adds=weights * positions,
        parameters=weights,
        weight_bytes=weights * dtypes.of(layer.weight_dtype).bytes + bias * dtypes.of(layer.bias_dtype).bytes,
        activation_bytes=sum(math.prod(shape) * dtypes.of(dtype).bytes for shape, dtype in tensors),
    )


def _blocks(calls: Sequence, options: ModelOptions) -> list[Block]:
    """The depthwise layers whose output a pointwise layer reads, directly or after squeeze-and-excite has scaled it."""
    written = {call.output: call for call in calls}
    known = cost.model_costs(options.model, num_classes=options.classes) if options.in_registry else ()
    base = {c.name: c for c in known}
    blocks = []
    for call in calls:
        if not call.layer.declared.with_rows:
            continue
        before = written.get(call.inputs[0])
        while before is not None and before.layer.declared.identity:
            before = written.get(before.inputs[0])
        if before is None or before.layer.declared.groups != "channels":
            continue
        whole = before.layer.replace(kind="conv", groups=1, out_channels=call.layer.out_channels)
        kernel = math.sqrt(math.prod(before.layer.kernel))
        multiplied = None
        if (first := base.get(before.source)) and (second := base.get(call.source)):
            shape = first.kernel[0], first.inputs, second.outputs, first.size[0]
            rho = math.sqrt(math.prod(options.size)) / 224
            multiplied = options.batch * cost.separable(*shape, options.alpha, rho)
        blocks.append(
            Block(
                source=before.source,
                separable=sum(_layer_complexity(c).mult_adds for c in (before, call)),
                standard=formula(whole),
                predicted=cost.separable_ratio(kernel, call.layer.out_channels),
                multiplied=multiplied,
            )
        )
    return blocks


# ---- printing


def parser() -> argparse.ArgumentParser:
    """The arguments of ``complexity``."""
    new = parser_for("complexity", __doc__.split("\n")[0])
    shared.add_model_options(new, inputs=False, seed=False)  # counts are the same for all weights
    new.add_argument(
        "--compare", metavar="MODEL[:ALPHA[-PIXELS]]", help="second model or file to compare with the first"
    )
    new.add_argument(
        "--paper",
        nargs="?",
        const="all",
        choices=("all", *PAPERS),
        help="show the papers' figures beside ours, with errata",
    )
    new.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return new


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, count, print."""
    return run_verb(parser(), _run, argv)


def _run(args: argparse.Namespace) -> int:
    if args.paper:
        others = args.given - {"--paper", "--json", "--debug"}
        refuse(args, sorted(others), "--paper shows the papers' figures, whatever the model", "leave it out")
        return papers_text.show(PAPERS.get(args.paper), args.json)
    chosen = shared.model_options(args)
    others = [variant(args.compare, chosen, args.given)] if args.compare else []
    packages.require("complexity", *(name for options in (chosen, *others) for name in packages.for_model(options)))
    results = []
    for options in (chosen, *others):
        say(f"importing {options.title}")
        results.append(complexity(options))
    if args.json:
        documents = [_document(result) for result in results]
        print_json({"model": documents[0], "compared": documents[1]} if args.compare else documents[0])
    elif args.compare:
        _print_comparison(*results)
    else:
        _print_layers(results[0])
    return 0 if all(result.agree for result in results) else 1


def _document(result: Complexity) -> dict:
    return {
        **result.__dict__,
        "agree": result.agree,
        "kinds": [
            dict(zip(("kind", "mult_adds", "percent", "parameters", "percent_parameters"), row, strict=True))
            for row in result.kinds
        ],
        "blocks": [{**block.__dict__, "ratio": block.ratio} for block in result.blocks],
        "layers": [{**layer.__dict__, "intensity": layer.intensity} for layer in result.layers],
    }


def _print_layers(result: Complexity) -> None:
    print_table(
        (Layers("layer"), Detail("from"), *COUNTS),
        [
            (
                c.layer,
                c.source,
                c.formula,
                c.mult_adds,
                c.parameters,
                c.weight_bytes / 1e3,
                c.activation_bytes / 1e3,
                c.intensity,
                100 * c.mult_adds / max(1, result.mult_adds),
            )
            for c in result.layers
        ],
        f"{result.model}: mult-adds by the paper's formula and as counted in the graph",
    )
    if result.blocks:
        print_table(
            ("separable block", "mult-adds", "by alpha and rho", "as one convolution", "ratio", "1/N + 1/D_K^2"),
            [(b.source, b.separable, b.multiplied, b.standard, b.ratio, b.predicted) for b in result.blocks],
            "\nseparable against standard (by alpha and rho: the 1.0-224 network's block under the multipliers)",
        )
    print_table(
        ("kind", "mult-adds", "%", "parameters", "%"),
        [(kind, m, f"{ms:.2f}", p, f"{ps:.2f}") for kind, m, ms, p, ps in result.kinds],
        "\nshare by kind",
    )
    print_text(
        f"\n{result.model}: {result.mult_adds / 1e6:,.2f} M mult-adds, {result.parameters / 1e6:,.3f} M parameters "
        f"(weights of convolutions and classifier), {result.weight_bytes / 1e6:,.2f} MB weights and biases, "
        f"{result.activation_bytes / 1e6:,.2f} MB activations read and written"
    )
    differ = [layer.layer for layer in result.layers if layer.formula != layer.mult_adds]
    print_text(
        "formula and graph agree in every layer" if not differ else f"formula and graph differ: {', '.join(differ)}"
    )


def _print_comparison(one: Complexity, other: Complexity) -> None:
    quantities = {
        "mult-adds, M": lambda c: c.mult_adds / 1e6,
        "parameters, M": lambda c: c.parameters / 1e6,
        "weights, MB": lambda c: c.weight_bytes / 1e6,
        "activations, MB": lambda c: c.activation_bytes / 1e6,
        "mult-adds/byte": lambda c: c.mult_adds / (c.weight_bytes + c.activation_bytes),
        "layers": lambda c: len(c.layers),
    }
    rows = [(name, of(one), of(other), of(other) / max(1e-12, of(one))) for name, of in quantities.items()]
    kinds = {kind: m for kind, m, *_ in one.kinds}, {kind: m for kind, m, *_ in other.kinds}
    for kind in dict.fromkeys([*kinds[0], *kinds[1]]):
        first, second = (of.get(kind, 0) / 1e6 for of in kinds)
        rows.append((f"{kind}, M mult-adds", first, second, second / first if first else None))
    print_table(("", one.model, other.model, "ratio"), rows)


if __name__ == "__main__":
    sys.exit(main())
