"""Check a built module against its model, on the very machine code that ships.

The outputs are compared with those of the model's own framework in float32, on several inputs, photographs first. Every
layer is compared with its definition in float64, on its actual inputs. So the check finds only a layer's own mistakes,
and names the first wrong layer. The constants are compared with the model's too, since an input of zero would hide a
wrong constant.

    python -m tvm_mobilenet.verify out/v1-1.0-224-rpi4
    python -m tvm_mobilenet.verify out/v1-1.0-224-rpi4 --dump wrong     # the first wrong layer's tensors
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.checking.layer_check import LAYER_TOLERANCE, LayerCheck, require_free
from tvm_mobilenet.checking.machine_check import CALIBRATE, check, first_wrong, require
from tvm_mobilenet.checking.network_ends import OutputCheck
from tvm_mobilenet.checking.same_outputs import SameOutputs
from tvm_mobilenet.checking.tolerance import collapse_remedy
from tvm_mobilenet.cli import entry, options
from tvm_mobilenet.cli.flags import refuse, refuse_trust
from tvm_mobilenet.files.whole_file import folder_to_write
from tvm_mobilenet.models.options import FLOAT32
from tvm_mobilenet.terminal import console, notebook
from tvm_mobilenet.terminal.table import Detail, Layers


@dataclass(frozen=True)
class VerifyResult:
    """The result of verification.

    Attributes
    ----------
    cycles, cycles_all_cores : float or None
        Predicted cycles of the network, compute and memory; each kernel starts with the caches of the one before. None
        if times were measured.
    milliseconds, milliseconds_all_cores : float
        The same as time on the target.
    classes : list of models.labels.BestClass
        The best five of the first input, if the model classifies.
    seeded : bool
        Whether the weights are random numbers, so that classes mean nothing.
    compute : float or None
        ``cycles`` without memory.
    floor_float32 : float or None
        For a network in another dtype: the cycles that its multiply-adds would take in float32.
    dump : str or None
        The folder with the first wrong layer's tensors.
    files : list of checking.same_outputs.SameOutputs
        The compared outputs of the build's other files; empty if an output or layer is already wrong.
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
    compute: float | None = None
    seeded: bool = False
    floor_float32: float | None = None
    dump: str | None = None
    files: list[SameOutputs] = field(default_factory=list)

    @property
    def first_wrong(self) -> LayerCheck | None:
        return first_wrong(self.layers)

    @property
    def ok(self) -> bool:
        return all(c.ok for c in (*self.outputs, *self.layers, *self.files))

    def require(self) -> None:
        """Raise a VerificationError that names the first wrong layer, unless all is right."""
        require(self.outputs, self.layers, self.reference, self.files)

    def summary(self) -> str:
        """A few lines of text."""
        lines = []
        for c in self.outputs:
            allowed = f"tolerance {c.tolerance:.1e}" if c.decides else "of quantizing: the layers must be equal"
            lines.append(
                f"{'verified' if c.ok else 'WRONG':9} {c.name} against {self.reference} on {self.inputs} "
                f"input{'s' * (self.inputs > 1)}: largest difference {c.max_difference:.2e}, {c.relative:.1e} of the "
                f"standard deviation ({allowed}), mean {c.mean_difference:.1e}, cosine {c.cosine:.7f}, "
                f"top-1 {c.top1:.0%}, top-5 {c.top5:.0%}"
                + "; the same for every input, so it shows little" * c.constant
                + f"; the network amplifies rounding: {self.reference} itself is {c.amplified:.1e} from float64"
                * bool(c.amplified)
            )
            if c.collapsed:
                lines.append(
                    f"WARNING   int8 leaves little of {c.name}: cosine {c.cosine:.3f}, top-1 {c.top1:.0%} as "
                    f"{self.reference} says; the code computes what its layers say; {collapse_remedy(self.seeded)}"
                )
        if self.layers:
            lines.append(f"layers    {sum(c.ok for c in self.layers)} of {len(self.layers)} right{self._worst()}")
        if beyond := [c.name for c in self.layers if c.beyond]:
            lines.append(
                f"WARNING   sums of {', '.join(beyond[:5])}{' and more' * (len(beyond) > 5)} leave the range of "
                f"float16 on the first input, which an activation hides; {CALIBRATE}"
            )
        lines += [f"{'verified' if one.ok else 'WRONG':9} {one}" for one in self.files]
        label = "predicted"
        if self.cycles is None:
            label = "measured kernel by kernel, each called by itself; `bench` measures whole runs"
        if self.cycles and self.compute:
            label = f"predicted; of one core's, {self.compute / self.cycles:.0%} compute, the rest memory"
            if self.floor_float32:
                label += f"; {self.cycles / self.floor_float32:.3f} x the float32 floor"
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

    def _worst(self) -> str:
        """The largest difference among layers that are near their definition, and the number of equal ones among those
        that round step by step.
        """
        steps = [c for c in self.layers if c.units is not None]
        near = [c for c in self.layers if c.units is None]
        text = ""
        if steps:
            equal = sum(c.relative == 0 for c in steps)
            text += f"; {equal} equal to their layers computed step by step in every value"
            if equal < len(steps):
                most = max(c.relative for c in steps)
                text += f", {len(steps) - equal} within {most:.3g} units in the last place"
        if near:
            worst = max(near, key=lambda c: c.relative)
            text += f"; the largest difference is {worst.relative:.1e} of the standard deviation, in {worst.name} "
            text += f"(tolerance {LAYER_TOLERANCE:.0e})"
        return text


def verify(
    folder: str | Path,
    *,
    board="virtual",
    network=None,
    inputs: list | None = None,
    count: int = 2,
    layers: bool = True,
    target=None,
    dump: Path | None = None,
) -> VerifyResult:
    """Run a built module on a board and compare it with its model.

    Parameters
    ----------
    folder : path
        A folder that `build` wrote.
    board : str or board
        An argument or a result of ``boards.open_board``.
    network : Network, optional
        The model; by default it is made again from the folder's options.
    inputs : list of tuples of ndarray, optional
        The inputs to run; by default photographs and crops of them.
    count : int
        Number of photographs and crops.
    layers : bool
        Whether to check each layer too, on the first input.
    dump : path, optional
        A folder for the tensors of the first wrong layer; nothing is written if no layer is wrong.

    Raises
    ------
    TvmMobilenetError
        The folder does not hold a complete module, or holds another network than the one given; or ``dump`` has other
        files.
    BoardError
        The board cannot be reached, or a kernel ran wild.
    """
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.compiler import model_files
    from tvm_mobilenet.compiler import module as built

    module = built.read(folder)
    target = target or module.target
    if dump is not None:
        require_free(dump)
    if network is None:
        from tvm_mobilenet.compiler.network import load_network

        network = load_network(model_files.from_build(module))
    batch = network.inputs(count) if inputs is None else inputs
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_board(board, target)) if isinstance(board, str) else board
        found = check(module, network, opened, batch, layers=layers, cores=target.cores)
    if dump is not None and found.evidence:
        found.evidence.write(dump)
    cost, cost_all = found.costs
    scale = 1e3 / target.clock_hz if cost.predicted else 1e3
    return VerifyResult(
        Path(folder),
        target.name,
        board if isinstance(board, str) else board.name,
        found.reference,
        len(found.inputs),
        found.outputs,
        found.layers,
        cost.value if cost.predicted else None,
        cost_all.value if cost.predicted else None,
        cost.value * scale,
        cost_all.value * scale,
        target.cores,
        _best(network, found.values[0][0]),
        found.run.compute if cost.predicted else None,
        network.seeded,
        None if network.original is None else _floor(network.original, target),
        str(dump) if dump is not None and found.evidence else None,
        found.files,
    )


def _best(network, output) -> list:
    """The best classes of the first image of a batch; none if the network does not classify."""
    from tvm_mobilenet.models.labels import best_classes

    if not network.classes:
        return []
    return best_classes(network.signature.outputs[0].real(output)[0], network.scores, network.labels)


def _floor(graph, target) -> float:
    """Cycles of a graph's multiply-adds alone in float32."""
    return sum(call.layer.mult_adds for call in graph.calls) / target.core.macs_per_cycle(FLOAT32)


def _about(result: VerifyResult) -> str:
    wrong = [c.name for c in (*result.outputs, *result.layers) if not c.ok]
    said = f"WRONG in {wrong[0]}" if wrong else "right" if result.ok else "WRONG in its other files"
    return f"{said}, {len(result.layers)} layers against {result.reference} on the {result.board} board"


@notebook.shows(VerifyResult, _about)
def print_result(result: VerifyResult) -> None:
    """Print every layer's difference, then the summary."""
    console.print_table(
        ("layer", Layers("what"), Detail("from"), "difference / std", ""),
        [(c.name, c.layer, c.source, c.difference, "" if c.ok else "WRONG") for c in result.layers],
        f"{result.folder} on the {result.board} board",
    )
    console.print_text(result.summary(), indent=10)


def parser() -> argparse.ArgumentParser:
    """The arguments of ``verify``."""
    new = entry.parser_for("verify", __doc__.split("\n")[0])
    new.add_argument("folder", type=Path, help="a folder that `build` or `tune` wrote")
    options.add_board(new)
    new.add_argument(
        "--inputs",
        type=options.positive(int),
        default=4,
        metavar="N",
        help="number of photographs and crops to compare (default: %(default)s)",
    )
    new.add_argument("--input", type=Path, metavar="FILE", help="compare an image or .npy file of yours instead")
    options.add_trust(new)
    new.add_argument(
        "--dump",
        type=folder_to_write,
        metavar="DIR",
        help="save the tensors of the first wrong layer: its inputs, the expected output, and the machine "
        "code's; a new folder, or an earlier dump, which is replaced",
    )
    new.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return new


def _run(args: argparse.Namespace) -> int:
    packages.import_tvm()
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.cli.notices import announce
    from tvm_mobilenet.compiler import model_files
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.compiler.kept import kept
    from tvm_mobilenet.compiler.network import load_network

    if args.input:
        refuse(args, ("--inputs",), "it is the number of photographs, in whose place --input stands", "leave out one")
    module = built.read(args.folder)
    target = module.target
    board = options.board_for(args, target)
    model = model_files.from_build(module, input=args.input, trust_file=args.trust_file)
    refuse_trust(args, model)
    packages.require("verify", *packages.for_comparing(model), *packages.for_board(board))
    with kept(module), open_board(board, target) as opened:
        network = load_network(model)  # imported late: without a board there is no reason to import torch
        announce(network)
        result = verify(args.folder, board=opened, network=network, count=args.inputs, target=target, dump=args.dump)
    console.print_json({**console.plain_data(result), "ok": result.ok}) if args.json else print_result(result)
    if args.dump:
        console.say(f"dump: {result.dump}" if result.dump else "no layer is wrong: nothing is dumped")
    result.require()
    return 0


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
