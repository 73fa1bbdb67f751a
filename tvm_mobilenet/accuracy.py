"""Measure a built network's accuracy on labelled images, beside the float network from which it was made.

python -m tvm_mobilenet.accuracy out/v2-1.0-224-int8-rpi4 --data imagenet/val --html out/mistakes.html
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.cli import accuracy_options, entry, options
from tvm_mobilenet.cli.flags import refuse, refuse_trust
from tvm_mobilenet.files.whole_file import output_file
from tvm_mobilenet.terminal import console, notebook
from tvm_mobilenet.terminal.table import Words

SHOWN = 20  # rows of the table of images whose class changed


@dataclass(frozen=True)
class AccuracyResult:
    """The result of `accuracy`.

    Attributes
    ----------
    folder, model, target, board : str
        The build, its model and target, and the board that ran it.
    found : evaluation.accuracy.Accuracy
    words : models.class_words.ClassWords
        The words for its classes.
    paths : dict of str to path
        The path of each image.
    """

    folder: Path
    model: str
    target: str
    board: str
    found: object
    words: object
    paths: dict[str, Path]

    def summary(self) -> str:
        """A summary in a few lines of text."""
        found = self.found
        part = "" if found.images == found.whole else f"; {found.images:,} of them ran, evenly spread"
        lines = [f"ran       {found.ran}", f"data      {found.data}{part}"]
        for name, own, other in (("top-1", found.top1, found.float_top1), ("top-5", found.top5, found.float_top5)):
            beside = f"; by {found.reference}: {other}" if other else ""
            lines.append(f"{name:9} {own}{beside}")
        if found.same:
            lost, gained, others = (len(found.changed(change)) for change in ("lost", "gained", "other"))
            lines.append(
                f"changed   the class of {lost + gained + others:,} images: {lost:,} right ones became wrong, "
                f"{gained:,} wrong ones right, {others:,} stay wrong; the same class in {found.same}"
            )
        return "\n".join(lines)

    def to_data(self) -> dict:
        """Plain data for JSON."""
        found = self.found
        data = {name: getattr(self, name) for name in ("folder", "model", "target", "board")}
        shares = ("top1", "top5", "float_top1", "float_top5", "same")
        data |= {name: getattr(found, name) for name in ("ran", "data", "images", "whole", "reference", *shares)}
        data |= {"drop": found.drop, "seconds": round(found.seconds, 3)}
        data["changed"] = [self._told(answer) for answer in found.changed()]
        data["mistakes"] = [self._told(answer) for answer in found.mistakes]
        return console.plain_data(data)

    def _told(self, answer) -> dict:
        return {
            "image": answer.image,
            "label": answer.label,
            "name": self.words.title(answer.label),
            "best": answer.best,
            "float_best": answer.float_best,
            "change": answer.change,
        }


def accuracy(
    folder: str | Path,
    data: str | Path,
    *,
    truth: Path | None = None,
    board: str | None = None,
    limit: int | None = None,
    reference: bool = True,
    check: int = 1,
    network=None,
    workers: int | str = 1,
) -> AccuracyResult:
    """Run a built module on labelled images.

    Parameters
    ----------
    folder : path
        The folder that `build` wrote.
    data : path
        A data set, in a form that ``models.labelled_images`` reads.
    truth : path, optional
        A file with its ground truth, if that lies elsewhere.
    board : str, optional
        An address for ``boards.open_board``; this machine by default.
    limit : int, optional
        Number of images to run, evenly spread over the data set.
    reference : bool
        Also run the float network.
    check : int
        Number of images that the build's own code also runs on the virtual board, if this machine cannot run that code.
    network : Network, optional
        The model; by default it is made again from the folder's description.
    workers : int or str
        1: images run in this process; otherwise an argument for ``cluster.place.parse``.

    Raises
    ------
    TvmMobilenetError
        The folder holds no build, or the data set cannot be read or does not fit the network.
    VerificationError
        The build's own code computes other scores.
    BoardError
        The board cannot be reached.
    """
    from tvm_mobilenet.cluster.place import parse
    from tvm_mobilenet.compiler import model_files
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.evaluation import chunks, kernels
    from tvm_mobilenet.evaluation.accuracy import class_words, measure
    from tvm_mobilenet.models import labelled_images

    module = built.read(folder)
    network = network or load_network(model_files.from_build(module))
    words = class_words(network)
    images = labelled_images.read(Path(data), words, truth)
    place = kernels.place_of(module.target, kernels.dtypes_of(network), board)
    if place == "virtual" and limit is None and len(images.images) > kernels.VIRTUAL_IMAGES:
        limit = kernels.VIRTUAL_IMAGES
        console.say(f"note: the virtual board runs {limit} images, evenly spread; --limit N takes more")
    images = images.limited(limit)
    images.check()
    console.say(f"accuracy of {network.options.title} for {module.target.name} on {len(images.images):,} images")
    where = parse(workers)
    spread = where.processes != 1
    first = replace(images, images=images.images[:check]) if spread else images
    with kernels.opened(network, module.target, place, module, check=check) as opened, console.Progress() as progress:
        if not spread or (place == "host" and check):
            found = measure(network, opened, first, reference=reference and not spread, show=progress.update)
        if spread:
            classify = chunks.Classify(module, place, reference)
            with where.pool(classify, chunks.CHUNK_SECONDS, cpu=place in ("host", "local")) as pool:
                found = chunks.measure(classify, opened.ran, images, pool, progress.update)
    paths = {image.name: image.path for image in images.images}
    return AccuracyResult(Path(folder), network.options.title, module.target.name, opened.board, found, words, paths)


def _about(result: AccuracyResult) -> str:
    return f"{result.model} for {result.target}, top-1 {result.found.top1}"


@notebook.shows(AccuracyResult, _about)
def print_result(result: AccuracyResult) -> None:
    """Print the images whose class changed, then the summary."""
    changed, words = result.found.changed(), result.words
    if changed:
        rows = [(a.image, words.title(a.label), words.title(a.float_best[0]), words.title(a.best[0]), a.change)
                for a in changed[:SHOWN]]  # fmt: skip
        if len(changed) > SHOWN:
            rows.append((f"and {len(changed) - SHOWN:,} more (--json has all)", "", "", "", ""))
        columns = (Words("image"), Words("shows"), Words("model"), Words("here"), "change")
        console.print_table(columns, rows, f"{result.model} for {result.target}: images whose class changed")
    console.print_text(result.summary(), indent=10)


def parser() -> argparse.ArgumentParser:
    """The arguments of ``accuracy``."""
    new = entry.parser_for("accuracy", __doc__.split("\n")[0])
    new.add_argument("folder", type=Path, help="folder that `build` or `tune` wrote")
    accuracy_options.add_data(new, required=True)
    new.add_argument(
        "--labels", type=Path, metavar="FILE", help="file of class names, one in each line, to replace the build's"
    )
    options.add_board(new)
    options.add_workers(new, "1")
    new.add_argument(
        "--check",
        type=accuracy_options.whole,
        default=1,
        metavar="N",
        help="number of images that the build's own code also runs, on the virtual board, where this machine "
        "cannot run that code; scores must be the same (default: %(default)s; 0: none)",
    )
    new.add_argument("--no-float", action="store_true", help="do not run the float network")
    new.add_argument(
        "--html", type=output_file, metavar="FILE", help="write a page with the images that were not recognised"
    )
    options.add_trust(new)
    new.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return new


def _run(args: argparse.Namespace) -> int:
    from tvm_mobilenet.cli.notices import announce
    from tvm_mobilenet.compiler import model_files
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.compiler.kept import kept
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.evaluation import page
    from tvm_mobilenet.models import labelled_images

    module = built.read(args.folder)
    target = module.target
    if args.board is not None or args.trust_network:
        args.board = options.board_for(args, target)
        refuse(args, ("--check",), "--board runs the build's own code", "leave it out")
    model = model_files.from_build(module, trust_file=args.trust_file, labels=args.labels)
    refuse_trust(args, model)
    virtual = packages.for_board("virtual") if args.board in (None, "virtual") and not target.is_host else ()
    compared = (*packages.for_model(model), "torch", "PIL") if args.no_float else packages.for_comparing(model)
    if args.board not in (None, "virtual", "local"):
        refuse(args, ("--workers",), f"{args.board} runs one image at a time", "leave it out")
    if args.workers.processes != 1 and model.program:
        why = "a network that a program makes cannot go to other processes"
        refuse(args, ("--workers",), why, "leave it out, or export the model: --model FILE.onnx")
    reached = packages.for_workers(args.workers.address)
    packages.require("accuracy", *compared, *packages.for_linking(None), *virtual, *reached)
    labelled_images.require(args.data, args.truth)
    with kept(module):
        network = load_network(model)
        announce(network)
        result = accuracy(
            args.folder,
            args.data,
            truth=args.truth,
            board=args.board,
            limit=args.limit,
            reference=not args.no_float,
            check=args.check,
            network=network,
            workers=args.workers,
        )
    console.print_json(result.to_data()) if args.json else print_result(result)
    if args.html:
        page.write(result.found, f"{result.model} for {result.target}", result.words, result.paths, args.html)
        console.say(f"page: {args.html}")
    return 0


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
