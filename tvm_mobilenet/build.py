"""Build a MobileNet for a board, with the known decisions.

Each layer takes its decisions from the user's tune log, else from the log that ships, else from the schedule's default.
The printed table names the source for each layer. The build's folder holds the kernels, the plan and the parameters;
boards and bundles need no other files. With ``--tvm`` it also holds an ordinary TVM executable.

    python -m tvm_mobilenet.build --model v2 --alpha 1.4 --target rpi5
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.boards import own
from tvm_mobilenet.bundle.place import is_archive, refuse_others_files
from tvm_mobilenet.bundle.signature import require_key
from tvm_mobilenet.cli import accuracy_options, accurate_network, entry, options
from tvm_mobilenet.cli.flags import refuse
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import lock, own_files
from tvm_mobilenet.files.whole_file import folder_to_write, output_file
from tvm_mobilenet.terminal import console
from tvm_mobilenet.terminal.table import Layers, Words

OTHER_ARCHIVES = (".zip", ".tar", ".tar.xz", ".tar.bz2", ".tar.zst", ".7z", ".whl", ".deb")


@dataclass(frozen=True)
class BuildResult:
    """The result of `build`.

    Attributes
    ----------
    layers : list of built.BuiltLayer
        Each distinct layer with its decisions and their source.
    kernels : int
        Kernel calls in a run.
    module_bytes, parameters_bytes, arena_bytes, scratch_bytes : int
        Sizes of the module (parameters included), of the parameters alone, of all intermediates, and of the scratch
        memory of one task.
    seeded : bool
        Whether the weights are random numbers.
    preprocess : dict or None
        The fields that say how an image becomes the input, and which of them were assumed; None if the network takes
        no images.
    bundle : path or None
        The bundle, which is packed only after its code was run and verified.
    bundle_bytes : int or None
        Size of the bundle's archive, or of all files in its folder.
    signed : path or None
        The key that signed the bundle.
    dump : path or None
        The folder of ``--dump``, which has each phase as text.
    precision : passes.precision.Precision or None
        The dtype of each layer, and the magnitude of its sums; None if all layers compute in float32.
    largest : dict of str to float
        The largest partial sum of each distinct layer, if ``precision`` is known.
    accuracy : evaluation.accuracy.Accuracy or None
        The accuracy of the build on the images of ``--data``.
    choice : evaluation.sensitivity.Choice or None
        With ``--max-drop``, the layers that stay in float.
    files : list of checking.same_outputs.SameOutputs
        With ``--tvm``, one comparison for TVM's executable and one for each other shared object of the build. Each of
        these files was run once, and its outputs were compared with the plan's. Empty if nothing on this machine can
        run the target's code.
    """

    folder: Path
    model: str
    target: str
    layers: list
    kernels: int
    module_bytes: int
    parameters_bytes: int
    arena_bytes: int
    scratch_bytes: int
    seeded: bool = False
    preprocess: dict | None = None
    bundle: Path | None = None
    bundle_bytes: int | None = None
    signed: Path | None = None
    dump: Path | None = None
    precision: object | None = None
    largest: dict[str, float] = field(default_factory=dict)
    accuracy: object | None = None
    choice: object | None = None
    files: list = field(default_factory=list)

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """A line of text about the module, and one for each other part of the result."""
        mib = 1 << 20
        line = (
            f"module    {self.folder}: {self.kernels} kernels, {self.module_bytes / mib:.1f} MiB "
            f"({self.parameters_bytes / mib:.1f} MiB of parameters), arena {self.arena_bytes / mib:.1f} MiB"
        )
        if self.precision is not None:
            line += f"\n{self.precision.dtype:9} {self.precision.summary()}"
        if self.choice is not None:
            line += f"\nmax-drop  {self.choice.summary()}"
        if self.accuracy is not None:
            line += f"\ntop-1     {self.accuracy.top1}; ran: {self.accuracy.ran}"
        for one in self.files:
            line += f"\nran       {one}"
        if self.dump is not None:
            line += f"\ndump      {self.dump}: each phase; {self.dump / 'index.txt'} says which file is what"
        if self.bundle is not None:
            line += f"\nbundle    {self.bundle}: {self.bundle_bytes / mib:.1f} MiB, its code run and found right"
            line += f", signed with {self.signed}" * (self.signed is not None)
        return line


def build(
    model: options.ModelOptions,
    target,
    *,
    log: Path | None = None,
    output: Path | None = None,
    linker: str | None = None,
    network=None,
    bundle: Path | None = None,
    embed_weights: bool = False,
    sign: Path | None = None,
    dump: Path | None = None,
    tvm_executable: bool = False,
) -> BuildResult:
    """Build a network for a target.

    In one piece, since each step uses the results of the steps before it.

    Parameters
    ----------
    model : ModelOptions
    target : targets.Target
    log : path, optional
        The user's tune log, whose decisions take precedence over the shipped ones.
    output : path, optional
        The folder to write.
    linker : str, optional
        A replacement for zig's linker.
    network : Network, optional
        The network, if it is already loaded. With ``dump`` it is loaded again, phase by phase.
    bundle : path, optional
        Where to pack a bundle for the device as well: a ``.tar.gz``, or a folder.
    embed_weights : bool
        Whether the bundle's library contains the weights.
    sign : path, optional
        A key that signs the bundle (bundle/signature.py).
    dump : path, optional
        A folder for the result of each phase (docs/guides/dump.md): new, empty or an earlier dump.
    tvm_executable : bool
        Whether to write ``model.so`` too, for TVM's virtual machine. It is run once and must give the plan's outputs.

    Raises
    ------
    TvmMobilenetError
        The model cannot be imported, the linker is missing, the output cannot be written, or another process builds
        into the same folder.
    """
    from tvm_mobilenet.compiler import pipeline

    folder = output or options.OUTPUT / f"{model.slug}-{target.name}"
    with lock.held(folder, f"built ({model.title} for {target.name})", "--output"):
        own_files.tidy(folder, bundle)
        watch = _phases
        if dump is not None:
            from tvm_mobilenet.compiler.dump import Dump

            watch = Dump(dump, f"{model.title} for {target.name}")
        if network is None or dump is not None:
            from tvm_mobilenet.cli.notices import announce
            from tvm_mobilenet.compiler.network import load_network

            network = load_network(model, watch)
            announce(network)
        compiled = pipeline.compile(network, target, log, watch)
        if bundle is not None:
            from tvm_mobilenet.bundle import pack

            pack.check_ports(compiled.plan)
        ran: list = []

        def check(made) -> None:
            from tvm_mobilenet.checking import same_outputs

            console.say(f"running {made.executable.name} by TVM's virtual machine")
            ran.extend(same_outputs.run_once(made, network, target))

        module = compiled.write(folder, linker, tvm_executable, check if tvm_executable else None)
        if dump is not None:
            from tvm_mobilenet.survey.hot_loops import dump_kernels

            dump_kernels(watch, compiled, module, console.say)
        if bundle is not None:
            console.say(f"running the bundle's code for {bundle}")
            options_ = {"network": network, "target": target, "linker": linker, "embed_weights": embed_weights}
            packed = pack.make(folder, lowered=compiled.lowered, whole=not ran, **options_)
            (packed if sign is None else packed.signed(sign)).write(bundle)
    return BuildResult(
        folder,
        model.title,
        target.name,
        compiled.decided,
        len(module.plan.steps),
        module.module_bytes,
        module.plan.parameters_bytes,
        module.plan.arena_bytes,
        module.plan.scratch_bytes,
        module.info["seeded"],
        module.info["preprocess"],
        bundle,
        bundle and sum(p.stat().st_size for p in (bundle.iterdir() if bundle.is_dir() else [bundle])),
        sign,
        dump,
        network.precision,
        network.largest(compiled.graph),
        files=ran,
    )


def _phases(phase: str, what: object) -> None:
    console.detail(f"phase {phase}")


def print_result(result: BuildResult) -> None:
    """Print the layers with the source of their decisions, then the summary."""
    sums = ("largest sum",) if result.largest else ()
    console.print_table(
        (Layers("layer"), *sums, Words("decisions"), "from"),
        [
            (
                b.layer,
                *(result.largest.get(b.layer) for _ in sums),
                " ".join(f"{k}={v}" for k, v in b.decisions.items()),
                b.source,
            )
            for b in result.layers
        ],
        f"{result.model} for {result.target}",
    )
    kept = getattr(result.precision, "kept", ())
    if kept:
        rows = [(one.layer, one.source, one.dtype, one.why) for one in kept]
        console.print_table(("layer", Words("from"), "in", Words("why")), rows, "layers that stay in float")
    console.print_text(result.summary(), indent=10)


def bundle_path(text: str) -> Path:
    """An argparse type: the path of a bundle, an archive or a folder."""
    if text.endswith(OTHER_ARCHIVES):
        raise TvmMobilenetError(f"--bundle {text}: a bundle is a .tar.gz archive or a folder", "name it FILE.tar.gz")
    return (output_file if is_archive(Path(text)) else folder_to_write)(text)


def parser() -> argparse.ArgumentParser:
    """The arguments of ``build``."""
    new = entry.parser_for("build", __doc__.split("\n")[0])
    options.add_model_options(new, inputs=True)
    options.add_target_options(new, board=False)
    options.add_output_options(new)
    new.add_argument(
        "--tvm",
        action="store_true",
        help="also write model.so: TVM's virtual machine with the same kernels",
    )
    group = new.add_argument_group("accuracy")
    accuracy_options.add_required(group)
    group = new.add_argument_group("bundle")
    group.add_argument(
        "--bundle",
        type=bundle_path,
        metavar="FILE.tar.gz|FOLDER",
        help="also pack a bundle for the device: a C library that needs nothing but libc (docs/guides/bundle.md)",
    )
    group.add_argument("--embed-weights", action="store_true", help="put the weights into the bundle's library")
    group.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        help="sign the bundle with this private key of ssh-keygen, or by ssh-agent with the key of a KEY.pub; "
        "`ship --require-signature` checks it (docs/guides/bundle.md)",
    )
    group = new.add_argument_group("phases")
    group.add_argument(
        "--dump",
        type=folder_to_write,
        metavar="FOLDER",
        help="also write each phase as text: graph, layers, decisions, loop nests, plan, and assembly with the "
        "bounds of its loops (docs/guides/dump.md); a new folder, or an earlier dump, which is replaced",
    )
    return new


def _refuse_mixing(dump: Path | None, others: dict[str, Path | None]) -> None:
    """Refuse a dump if another output of the build would be written into the dump's folder."""
    for flag, path in others.items() if dump is not None else ():
        if path is not None and Path(path).resolve().is_relative_to(dump.resolve()):
            raise TvmMobilenetError(
                f"--dump {dump}: {flag} {path} would lie in it", "a dump has a folder of its own: choose another one"
            )


def _run(args: argparse.Namespace) -> int:
    target = options.load_target(args)
    if target is None:
        return 0
    accuracy_options.refuse_alone(args, target)
    if args.bundle is None:
        refuse(args, ("--embed-weights",), "it is how --bundle packs them", "add --bundle FILE.tar.gz")
        refuse(args, ("--sign",), "it signs what --bundle packs", "add --bundle FILE.tar.gz")
    model = options.model_options(args, target)
    output = options.output_folder(args, model, target)
    if args.bundle is not None and not is_archive(args.bundle):
        refuse_others_files(args.bundle)
        if args.bundle.resolve() == output.resolve():
            raise TvmMobilenetError(
                f"--bundle {args.bundle} is the folder of --output", "give each a folder of its own"
            )
    if args.sign is not None:
        require_key(args.sign)
    _refuse_mixing(args.dump, {"--output": output, "--bundle": args.bundle, "--log": args.log})
    wanted = packages.for_model(model) + packages.for_linking(args.linker)
    flag = ""
    if args.dump and target.core.model:  # a dump executes the kernels to find their hot loops
        wanted, flag = wanted + packages.for_board("virtual"), " --dump"
    if args.tvm and (target.is_host or target.core.model):  # TVM's executable is run once
        wanted, flag = wanted + packages.for_board(own(target)), flag + " --tvm"
    if args.bundle:  # the bundle's code is run, compared and inspected
        wanted += packages.for_comparing(model) + packages.for_board(own(target)) + ("elftools",)
        flag += " --bundle"
    wanted, flag = accuracy_options.needs(args, model, target, wanted, flag)
    packages.require(f"build{flag}", *wanted)
    console.say(f"build {model.title} for {target.name} into {output}")
    network, found, choice = accurate_network.load(args, model, target)
    if network is not None:
        model = dataclasses.replace(network.options, decided=network.precision)
    result = build(
        model,
        target,
        log=options.log_to_read(args),
        output=output,
        linker=args.linker,
        network=network,
        bundle=args.bundle,
        embed_weights=args.embed_weights,
        sign=args.sign,
        dump=args.dump,
        tvm_executable=args.tvm,
    )
    result = dataclasses.replace(result, accuracy=found, choice=choice)
    console.print_json(result) if args.json else print_result(result)
    return 0


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
