"""The network of a `build` that demands an accuracy. It is loaded, its layers in float are chosen, and its accuracy is
measured, all before `build` writes anything but the page of ``--plot``."""

from __future__ import annotations

import argparse

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.terminal import console

SEARCH_IMAGES = 200  # of --data, on which layers are chosen unless --limit gives another number


def load(args: argparse.Namespace, model, target) -> tuple:
    """The network, its accuracy, and the choice of layers that stay in float; None for each that no flag asks for.

    Parameters
    ----------
    args : Namespace
        The arguments, with the flags of `accuracy_options.add_required`.
    model : ModelOptions
    target : targets.Target

    Raises
    ------
    VerificationError
        The network is less accurate than demanded.
    """
    if args.data is None and args.max_drop is None:
        return None, None, None
    from tvm_mobilenet.cli.notices import announce
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.evaluation import required

    network, found, choice = load_network(model), None, None
    announce(network)
    wanted = args.data and required.Wanted(args.min_accuracy, args.max_drop, args.data, args.truth, args.limit)
    if args.max_drop is not None:
        network, choice = _with_floats(args, network, target, wanted)
    if wanted:
        console.say(f"top-1 of {model.title} on {args.data}")
        with console.Progress() as progress:
            found = required.measured(network, target, wanted, args.linker, progress.update)
    return network, found, choice


def _with_floats(args: argparse.Namespace, network, target, wanted) -> tuple:
    """The network with the fewest layers in float that keep its accuracy, and the record of their choice."""
    from tvm_mobilenet.evaluation import precision_page, sensitivity

    if network.precision.given:
        raise TvmMobilenetError(
            f"--max-drop: {network.options.title} comes quantized, so there is no float network to compare with",
            "leave it out; --keep-float keeps layers in float, --min-accuracy asks for a top-1",
        )
    inputs, images, labels = _images(args, network, wanted)
    console.say(f"choosing the layers of {network.options.title} that stay in float, on {images}")
    with console.Progress() as progress:
        floats = sensitivity.floats_of(network)
        choice = sensitivity.choose(network, floats, args.max_drop, inputs, images, labels, progress.update)
        if args.plot:
            choice = precision_page.with_cycles(choice, network, floats, target, args.linker, progress.update)
    made = sensitivity.with_kept(network, floats, choice)
    if args.plot:
        precision_page.page(choice, network.options.title, target).write(args.plot, "--plot")
        console.say(f"page: {args.plot}")
    if made.options.keep_float:
        console.say(f"the same again: --keep-float {made.options.keep_float}")
    return made, choice


def _images(args: argparse.Namespace, network, wanted) -> tuple:
    """The images on which layers are chosen: inputs, their description, and their classes if known."""
    import dataclasses

    from tvm_mobilenet.compiler import calibration, quantization
    from tvm_mobilenet.evaluation.accuracy import inputs_of

    start = dataclasses.replace(network, graph=network.original)
    if wanted is None:
        inputs, images = calibration.images_of(start, network.options, quantization.IMAGES)
        return inputs, images, ()
    found = wanted.images(network)
    found = found if args.limit else found.limited(SEARCH_IMAGES)
    inputs = [inputs_of(start, [image]) for image in found.images]
    return inputs, f"{len(inputs):,} images of {args.data}", [image.label for image in found.images]
