"""Check a built module against its model, on the very machine code that ships.

Whole outputs are compared with the model's own framework in float32 over several inputs, photographs first. Every layer
is compared as well: with its definition in float64, on the inputs it really got and the model's weights, so a layer is
judged for its own mistakes alone, and the first wrong one is named. Its constants are compared with the model's too: an
input of zero would hide a wrong one.

    python -m tvm_mobilenet.verify out/v1-1.0-224-rpi4
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

from . import console, options
from .errors import TvmMobilenetError, VerificationError
from .layer import Layer
from .output_check import OutputCheck, check_output, relative
from .table import Detail, Layers

# Of the standard deviation of the reference. A layer is one sum in float32: over 1,024 products its rounding is some
# 1e-6. One weight off by a hundredth of its layer's spread shows as 3e-4 (k = 1,024) or more.
LAYER_TOLERANCE = 5e-5
CONSTANTS_TOLERANCE = 1e-6  # of a weight's spread: they are copies


@dataclass(frozen=True)
class LayerCheck:
    """One layer against its definition.

    Attributes
    ----------
    relative : float
        Largest difference of the output over the reference's standard deviation.
    constants : float
        The same of weights and bias against the model's.
    wrong_part : str
        The layer of a chain whose constants differ.
    """

    name: str
    layer: str
    source: str
    relative: float
    constants: float = 0.0
    wrong_part: str = ""

    @property
    def ok(self) -> bool:
        return self.relative <= LAYER_TOLERANCE and self.constants <= CONSTANTS_TOLERANCE


@dataclass(frozen=True)
class VerifyResult:
    """What verification found.

    Attributes
    ----------
    cycles, cycles_all_cores : float or None
        Of the network, predicted: arithmetic and memory, caches as each kernel finds them. None when measured.
    milliseconds, milliseconds_all_cores : float
        The same as time on the target.
    classes : list of models.labels.BestClass
        The best five of the first input, when the model classifies.
    seeded : bool
        The weights are random numbers: classes mean nothing.
    arithmetic : float or None
        ``cycles`` without memory.
    """

    folder: Path
    target: str
    board: str
    reference: str
    inputs: int
    outputs: list[OutputCheck]
    layers: list[LayerCheck]
    cycles: float | None
    cycles_all_cores: float | None
    milliseconds: float
    milliseconds_all_cores: float
    cores: int
    classes: list = field(default_factory=list)
    arithmetic: float | None = None
    seeded: bool = False

    @property
    def first_wrong(self) -> LayerCheck | None:
        return next((c for c in self.layers if not c.ok), None)

    @property
    def ok(self) -> bool:
        return all(c.ok for c in (*self.outputs, *self.layers))

    def require(self) -> None:
        """Raise a VerificationError that names the first wrong layer, unless all is right."""
        if self.ok:
            return
        wrong = self.first_wrong
        if wrong:
            where = f"{wrong.name}, {wrong.layer} (from {wrong.source})"
            if wrong.wrong_part:
                where = f"{wrong.wrong_part}, in {where}"
        if wrong and wrong.constants > CONSTANTS_TOLERANCE:
            raise VerificationError(
                f"the constants of {where}, are not the model's: they differ by {wrong.constants:.2e} of their spread",
                "its weights changed since the build: build again",
            )
        if wrong:
            raise VerificationError(
                f"the machine code is wrong first in {where}: it differs by {wrong.relative:.2e} of its spread, "
                f"{LAYER_TOLERANCE:.0e} is allowed",
                "build again; if it stays, report the layer's line and its decisions",
            )
        worst = max(self.outputs, key=lambda c: c.relative / c.gate)
        raise VerificationError(
            f"output {worst.name} differs from {self.reference} by {worst.relative:.2e} of its spread, "
            f"{worst.gate:.2e} is allowed, though every layer computes what it should",
            "the model was imported wrongly, or its weights changed since the build",
        )

    def summary(self) -> str:
        """For people, a few lines."""
        lines = []
        for c in self.outputs:
            lines.append(
                f"{'verified' if c.ok else 'WRONG':9} {c.name} against {self.reference} on {self.inputs} inputs: "
                f"largest difference {c.max_difference:.2e}, {c.relative:.1e} of the spread (gate {c.gate:.1e}), mean "
                f"{c.mean_difference:.1e}, cosine {c.cosine:.7f}, top-1 {c.top1:.0%}, top-5 {c.top5:.0%}"
            )
        if self.layers:
            worst = max(self.layers, key=lambda c: c.relative)
            lines.append(
                f"layers    {sum(c.ok for c in self.layers)} of {len(self.layers)} right; the largest "
                f"difference is {worst.relative:.1e} of the spread, in {worst.name} "
                f"(gate {LAYER_TOLERANCE:.0e})"
            )
        label = "measured" if self.cycles is None else "predicted"
        if self.cycles and self.arithmetic:
            label = f"predicted; of one core's, {self.arithmetic / self.cycles:.0%} arithmetic, the rest memory"
        lines.append(
            f"latency   {console.number(self.milliseconds)} ms on 1 core, "
            f"{console.number(self.milliseconds_all_cores)} ms on "
            f"{self.cores} cores of {self.target} ({label})"
        )
        if self.classes:
            lines.append("photo     " + "; ".join(map(str, self.classes)))
            if self.seeded:
                lines[-1] += "; of seeded weights, which mean nothing"
        return "\n".join(lines)


def verify(
    folder: str | Path,
    *,
    board="virtual",
    network=None,
    inputs: list | None = None,
    count: int = 2,
    layers: bool = True,
    target=None,
) -> VerifyResult:
    """Run a built module on a board and compare it with its model.

    Parameters
    ----------
    folder : path
        What `build` wrote.
    board : str or board
        As ``boards.open_board`` takes it, or what it gave.
    network : Network, optional
        The model; made again from what the folder says unless given.
    inputs : list of tuples of ndarray, optional
        What to run, each the model's inputs; photographs and crops of them unless given.
    count : int
        How many of those.
    layers : bool
        Also check each layer, on the first input.

    Raises
    ------
    TvmMobilenetError
        The folder holds no whole module, or another network than the one given.
    BoardError
        The board cannot be reached, or a kernel ran wild.
    """
    from . import built
    from .boards import open_board
    from .boards.plan_runner import PlanRunner, run_and_price
    from .models.labels import best_classes

    module = built.read(folder)
    target = target or module.target
    if network is None:
        from .network import load_network

        network = load_network(options.ModelOptions.from_data(module.info["model"]))
    calls = _calls_of(network, module)
    batch = network.inputs(count) if inputs is None else inputs
    decisions = {built_layer.layer: built_layer.decisions for built_layer in module.layers}
    expected, reference = network.reference(batch)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_board(board, target)) if isinstance(board, str) else board
        loaded = stack.enter_context(opened.load(module.library))
        runner = PlanRunner(loaded, module.plan, module.parameters())

        checks: list[LayerCheck] = []

        def watch(step, _run, runner) -> None:
            checks.append(_check_layer(calls[len(checks)], step, runner, decisions[step.layer]))

        runs, cost, cost_all = run_and_price(runner, opened, batch[0], target.cores, watch if layers else None)
        found = [runs.outputs, *(runner.run(*x).outputs for x in batch[1:])]
        outputs = [
            check_output(name, [f[j] for f in found], [e[j] for e in expected], len(network.layers))
            for j, (name, _) in enumerate(module.plan.outputs)
        ]
        if layers and not all(o.ok for o in outputs):  # what the first input does not show, another one does
            for x in batch[1:]:
                if not all(c.ok for c in checks):
                    break
                checks.clear()
                runner.run(*x, watch=watch)
    scale = 1e3 / target.clock_hz if cost.predicted else 1e3
    return VerifyResult(
        Path(folder),
        target.name,
        board if isinstance(board, str) else board.name,
        reference,
        len(batch),
        outputs,
        checks,
        cost.value if cost.predicted else None,
        cost_all.value if cost.predicted else None,
        cost.value * scale,
        cost_all.value * scale,
        target.cores,
        best_classes(found[0][0][0], network.scores, network.labels) if network.classes else [],
        runs.arithmetic if cost.predicted else None,
        network.seeded,
    )


def _calls_of(network, module) -> list:
    """The network's layers, in the chains and at the pitches that they were built with."""
    from .passes.fuse_chains import join

    left, calls = list(network.layers), []
    for step in module.plan.steps:
        built = Layer.parse(step.layer)
        parts = len(built.parts) or 1
        taken, left = left[:parts], left[parts:]
        if taken:
            call = taken[0] if parts == 1 else join(taken)
            pitches = built.input_pitch, built.output_pitch
            with contextlib.suppress(ValueError):  # another network's do not fit this one's channels
                call = call.replace(layer=call.layer.with_pitches(*pitches))
            calls.append(call)
    if left or [call.layer.name for call in calls] != [step.layer for step in module.plan.steps]:
        raise TvmMobilenetError(
            f"{module.folder} was built from another network than {network.options.title}",
            "verify it without naming a model, or build it again",
        )
    return calls


def _check_layer(call, step, runner, decisions: dict) -> LayerCheck:
    from . import schedules
    from .reference import reference

    *operands, output = step.operands
    second = runner.read(operands[-1]) if len(call.inputs) > 1 else None
    expected = reference(call.layer, runner.read(operands[0]), call.weight, call.bias, second)
    constants = [runner.read(t) for t in operands if t.space == "parameters"]
    packed = schedules.pack(call.layer, decisions, call.weight, call.bias)
    differences = [relative(c, p) for c, p in zip(constants, packed, strict=True)]
    wrong, part = max(differences, default=0.0), ""
    if wrong > CONSTANTS_TOLERANCE and call.layer.parts:
        each = len(differences) // len(call.layer.parts)
        part = call.layer.parts[differences.index(wrong) // each].name
    found = runner.read(output)
    return LayerCheck(call.name, step.layer, call.source, relative(found, expected), wrong, part)


def print_result(result: VerifyResult) -> None:
    """Every layer's difference, then the whole."""
    console.print_table(
        ("layer", Layers("what"), Detail("from"), "difference / spread", ""),
        [(c.name, c.layer, c.source, f"{c.relative:.1e}", "" if c.ok else "WRONG") for c in result.layers],
        f"{result.folder} on the {result.board} board",
    )
    console.print_text(result.summary(), indent=10)


def parser() -> argparse.ArgumentParser:
    """The arguments of ``verify``."""
    new = console.parser_for("verify", __doc__.split("\n")[0])
    new.add_argument("folder", type=Path, help="what `build` or `tune` wrote")
    new.add_argument("--board", metavar="ADDRESS", help=f"what runs the code: {options.BOARDS}")
    new.add_argument(
        "--inputs",
        type=options.positive(int),
        default=4,
        metavar="N",
        help="photographs and crops to compare (default: %(default)s)",
    )
    new.add_argument("--input", type=Path, metavar="FILE", help="an image or .npy of your own instead")
    new.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return new


def _run(args: argparse.Namespace) -> int:
    from . import built
    from .boards import open_board
    from .network import load_network
    from .notices import announce

    module = built.read(args.folder)
    target = module.target
    board = options.board_for(args, target)
    model = options.ModelOptions.from_data(module.info["model"], input=args.input)
    with open_board(board, target) as opened:  # first: a board that is not there is no reason to import torch
        network = load_network(model)
        announce(network)
        result = verify(args.folder, board=opened, network=network, count=args.inputs, target=target)
    console.print_json({**console.plain_data(result), "ok": result.ok}) if args.json else print_result(result)
    result.require()
    return 0


def main(argv: list[str] | None = None) -> int:
    return console.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
