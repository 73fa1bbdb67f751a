"""Top-1 and top-5 of a network on labelled images, beside those of the float network from which it was made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.errors import BoardError, TvmMobilenetError
from tvm_mobilenet.evaluation.kernels import Kernels
from tvm_mobilenet.evaluation.shares import Share
from tvm_mobilenet.models.class_words import ClassWords
from tvm_mobilenet.models.labelled_images import LabelledImage, LabelledImages

CHUNK = 32  # images for each start of the framework
BEST = 5


@dataclass(frozen=True)
class Answer:
    """The answers of a network and its float original for one image.

    Attributes
    ----------
    image : str
        Its path within the data set.
    label : int
        The class that it shows.
    best : tuple of int
        The five classes with the highest scores, the best first.
    float_best : tuple of int
        The same for the float network; empty if it did not run.
    """

    image: str
    label: int
    best: tuple[int, ...]
    float_best: tuple[int, ...] = ()

    @property
    def right(self) -> bool:
        return self.best[0] == self.label

    @property
    def changed(self) -> bool:
        """Whether the float network's best class is another one."""
        return bool(self.float_best) and self.best[0] != self.float_best[0]

    @property
    def change(self) -> str:
        """``lost``: the float network is right; ``gained``: it is not; ``other``: both are wrong; empty: the same."""
        if not self.changed:
            return ""
        return "lost" if self.float_best[0] == self.label else "gained" if self.right else "other"


@dataclass(frozen=True)
class Accuracy:
    """A network's accuracy.

    Attributes
    ----------
    ran : str
        A text: which code ran where.
    data : str
        How the data set was read.
    images, whole : int
        Number of images that ran, and of those in the data set.
    top1, top5 : Share
    float_top1, float_top5 : Share or None
        Of the float network.
    same : Share or None
        Images whose best class is the float network's.
    reference : str
        The program that computed the float network, or the file that came quantized.
    answers : tuple of Answer
    seconds : float
    """

    ran: str
    data: str
    images: int
    whole: int
    top1: Share
    top5: Share
    float_top1: Share | None
    float_top5: Share | None
    same: Share | None
    reference: str
    answers: tuple[Answer, ...]
    seconds: float

    @property
    def drop(self) -> float | None:
        """The difference of the float network's top-1 and this one's."""
        return None if self.float_top1 is None else self.float_top1.share - self.top1.share

    def changed(self, change: str = "") -> list[Answer]:
        """The images whose best class changed, or those of one kind of change."""
        return [a for a in self.answers if a.changed and change in ("", a.change)]

    @property
    def mistakes(self) -> list[Answer]:
        """The wrongly classified images; those that the float network classifies correctly come first."""
        return sorted((a for a in self.answers if not a.right), key=lambda a: a.change != "lost")


def class_words(network) -> ClassWords:
    """The words of a network's classes.

    Raises
    ------
    TvmMobilenetError
        The network does not classify, or takes no images.
    """
    title = network.options.title
    if network.classes < 2 or network.scores == "value":
        shapes = ", ".join(str(port.shape) for port in network.signature.outputs)
        raise TvmMobilenetError(
            f"{title} does not classify: it returns {shapes}", "accuracy needs a network with a score for each class"
        )
    if network.image is None:
        shapes = ", ".join(f"{port.name} {port.shape}" for port in network.signature.inputs)
        raise TvmMobilenetError(
            f"{title} takes no images, but {shapes}", "accuracy needs a network whose input is an image"
        )
    return ClassWords(network.classes, network.labels)


def measure(
    network, kernels: Kernels, data: LabelledImages, *, reference: bool = True, show: Callable = lambda line: None
) -> Accuracy:
    """Run a network on a data set.

    Parameters
    ----------
    network : Network
        A network that `class_words` accepts.
    kernels : Kernels
        Opened.
    reference : bool
        Also run the float network.
    show : callable
        Called with a function that returns a text of the progress.

    Raises
    ------
    TvmMobilenetError
        An image cannot be read.
    BoardError
        The board went away, or an image's scores are not finite.
    """
    began, answers, name = time.monotonic(), [], ""
    total = len(data.images)
    for chunk in _chunks(data.images, network):
        inputs = [given for given, _ in chunk]
        said, framework = network.reference(inputs) if reference else ([], "")
        name = _reference(network, framework) if reference else ""
        for i, (given, images) in enumerate(chunk):
            rows = _scores(kernels, given, images)
            floats = said[i][0] if reference else [None] * len(rows)
            for image, row, one in zip(images, rows, floats, strict=False):  # the last batch may have padding
                answers.append(Answer(image.name, image.label, _best(row), () if one is None else _best(one)))
            show(lambda: progress(answers, total, time.monotonic() - began))
    return counted(kernels.ran, data, answers, name, time.monotonic() - began)


def _reference(network, framework: str) -> str:
    """A text of the framework and dtype in which the model itself runs."""
    own = "the file's own int8" if getattr(network.precision, "given", False) else "float32"
    return f"{framework} in {own}"


def _chunks(images: tuple[LabelledImage, ...], network) -> Iterator[list[tuple]]:
    """Inputs of the network with their images, in chunks."""
    batch, made = network.signature.inputs[0].shape[0], []
    for start in range(0, len(images), batch):
        here = images[start : start + batch]
        made.append((inputs_of(network, here), here))
        if len(made) * batch >= CHUNK or start + batch >= len(images):
            yield made
            made = []


def inputs_of(network, images: Sequence[LabelledImage]) -> tuple[np.ndarray]:
    """Images as the network's inputs, in batches; the last image pads an incomplete batch.

    Raises
    ------
    TvmMobilenetError
        A file cannot be read, or holds several images.
    """
    from tvm_mobilenet.models.preprocess import load_image

    port = network.signature.inputs[0]
    loaded = [load_image(image.path, network.image.preprocess) for image in images]
    several = next((image for image, x in zip(images, loaded, strict=True) if len(x) > 1), None)
    if several is not None:
        raise TvmMobilenetError(f"{several.path} has several images, one label", "save one image a file")
    loaded += loaded[-1:] * (port.shape[0] - len(images))
    return (np.ascontiguousarray(port.stored(np.concatenate(loaded))),)


def _scores(kernels: Kernels, given: tuple, images: tuple[LabelledImage, ...]) -> np.ndarray:
    try:
        return kernels.outputs(given)[0]
    except BoardError as e:
        raise BoardError(f"{images[0].name}: {e.message}", e.hint) from None


def _best(scores: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(-scores.astype(np.float64), kind="stable")[:BEST])


def counted(ran: str, data: LabelledImages, answers: list[Answer], reference: str, seconds: float) -> Accuracy:
    """The accuracy from the answers for a data set; ``reference``: the program that computed the float network, if
    any."""

    def share(count) -> Share:
        return Share.of(sum(map(count, answers)), len(answers))

    floating = bool(reference)
    return Accuracy(
        ran,
        data.how,
        len(answers),
        data.whole,
        share(lambda a: a.right),
        share(lambda a: a.label in a.best),
        share(lambda a: a.float_best[0] == a.label) if floating else None,
        share(lambda a: a.label in a.float_best) if floating else None,
        share(lambda a: not a.changed) if floating else None,
        reference,
        tuple(answers),
        seconds,
    )


def progress(answers: list[Answer], total: int, seconds: float) -> str:
    """A text of the progress after a number of seconds."""
    from tvm_mobilenet.terminal.console import duration

    done, right = len(answers), sum(a.right for a in answers)
    left = seconds / done * (total - done)
    text = f"{done:,} of {total:,} images, top-1 {right / done:.1%}"
    if answers[0].float_best:
        text += f" (float {sum(a.float_best[0] == a.label for a in answers) / done:.1%})"
    return f"{text}, {duration(seconds)} so far, {duration(left)} to go"
