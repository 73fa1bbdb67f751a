"""The accuracy that a build must have, measured before any file is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tvm_mobilenet.errors import VerificationError
from tvm_mobilenet.evaluation import kernels
from tvm_mobilenet.evaluation.accuracy import Accuracy, class_words, measure
from tvm_mobilenet.models import labelled_images


@dataclass(frozen=True)
class Wanted:
    """The demands on a network's accuracy.

    Attributes
    ----------
    top1, drop : float or None
        The least top-1, and the largest drop below the float network's; both are shares of 1.
    data, truth, limit
        The data set, in the form that the verb `accuracy` takes.
    """

    top1: float | None
    drop: float | None
    data: Path
    truth: Path | None = None
    limit: int | None = None

    def images(self, network) -> labelled_images.LabelledImages:
        """The images of the data set that run.

        Raises
        ------
        TvmMobilenetError
            It cannot be read, or does not fit the network.
        """
        found = labelled_images.read(self.data, class_words(network), self.truth).limited(self.limit)
        found.check()
        return found


def measured(
    network, target, wanted: Wanted, linker: str | None = None, show: Callable = lambda line: None
) -> Accuracy:
    """The accuracy of a network as it would be built for a target.

    Parameters
    ----------
    network : Network
    target : targets.Target
    linker : str, optional
        The linker for the target.
    show : callable
        As `evaluation.accuracy.measure` takes it.

    Raises
    ------
    VerificationError
        It is below ``wanted.top1``, or too far below the float network's.
    TvmMobilenetError
        The data set cannot be read, or does not fit the network.
    """
    images = wanted.images(network)
    place = kernels.place_of(target, kernels.dtypes_of(network))
    if place == "virtual" and wanted.limit is None:
        images = images.limited(kernels.VIRTUAL_IMAGES)
    with kernels.opened(network, target, place, linker=linker) as opened:
        found = measure(network, opened, images, show=show)
    if wanted.top1 is not None and found.top1.share < wanted.top1:
        raise VerificationError(
            f"top-1 of {network.options.title} on {wanted.data} is {found.top1}, --min-accuracy asks for "
            f"{wanted.top1:.2%}; {found.reference} has {found.float_top1}; nothing was built",
            _remedy(network, found, wanted.top1),
        )
    if wanted.drop is not None and found.drop > wanted.drop:
        raise VerificationError(
            f"top-1 of {network.options.title} on {wanted.data} is {found.top1}, {found.drop:.2%} below the "
            f"{found.float_top1} of {found.reference}; --max-drop asks for {wanted.drop:.2%}; nothing was built",
            "choose layers on more images: --limit for --data's, --calibrate; or ask for less",
        )
    return replace(found, answers=())


def _remedy(network, found: Accuracy, least: float) -> str:
    if found.float_top1.share < least:
        return "the float network has no more: ask for less, or take better weights"
    if network.options.dtype == "float32":
        return "look at the images that changed: build without --min-accuracy, then run `accuracy --html`"
    return "calibrate with more images (--calibrate), keep layers in float (--max-drop, --keep-float), or ask for less"
