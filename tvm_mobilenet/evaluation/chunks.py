"""Images of a data set as jobs for other processes and machines; the build travels once.

The other machine needs no files: the build goes there with the files of its model, and images go as the bytes of their
files. Each process opens the network as `evaluation.accuracy.measure` does here, so the answers are the same.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.evaluation import accuracy, kernels
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.models.labelled_images import LabelledImage, LabelledImages
from tvm_mobilenet.tuning.workers import keep_busy

CHUNK_SECONDS = 3600.0  # limit of a chunk, and of opening the network before the first one


@dataclass(frozen=True)
class Chunk:
    """Some images: name, label, suffix and bytes of each file."""

    number: int
    images: tuple[tuple[str, int, str, bytes], ...]


class Classify:
    """Classifies chunks of images by a build and the float network; made in the parent, called in workers.

    Parameters
    ----------
    module : built.BuiltModule
    place : str
        As ``kernels.place_of`` gives it.
    reference : bool
        Also run the float network.
    """

    def __init__(self, module, place: str, reference: bool):
        from tvm_mobilenet.compiler import saved

        self.place, self.reference = place, reference
        with TemporaryFolder() as folder:
            saved.copy_to(module, folder / "build")
            self._files = {path.name: path.read_bytes() for path in (folder / "build").iterdir() if path.is_file()}
        self._open: tuple | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": None}

    def _opened(self) -> tuple:
        """The network and its kernels, opened with the first chunk."""
        if self._open is None:
            from tvm_mobilenet.compiler import model_files
            from tvm_mobilenet.compiler import module as built
            from tvm_mobilenet.compiler.network import load_network

            folder = Path(tempfile.mkdtemp())
            for name, content in self._files.items():
                (folder / name).write_bytes(content)
            module = built.read(folder)
            network = load_network(model_files.from_build(module))
            stack = ExitStack()
            opened = stack.enter_context(kernels.opened(network, module.target, self.place, module, check=0))
            self._open = network, opened, stack
        return self._open

    def __call__(self, chunk: Chunk) -> tuple[str, list[accuracy.Answer]]:
        network, opened, _ = self._opened()
        with tempfile.TemporaryDirectory() as folder:
            images = []
            for i, (name, label, suffix, content) in enumerate(chunk.images):
                path = Path(folder) / f"{i}{suffix}"
                path.write_bytes(content)
                images.append(LabelledImage(path, label, name))
            data = LabelledImages(tuple(images), len(images), "")
            found = accuracy.measure(network, opened, data, reference=self.reference)
        return found.reference, list(found.answers)

    def pack(self, value: tuple[str, list[accuracy.Answer]]) -> dict:
        """The classes of each image as plain data."""
        name, answers = value
        return {"reference": name, "answers": [[list(a.best), list(a.float_best)] for a in answers]}

    def unpack(self, chunk: Chunk, data: object, folder: Path) -> tuple[str, list[accuracy.Answer]]:
        """The classes from `pack`'s data; a ValueError describes other data."""
        rows = data["answers"]
        if not isinstance(rows, list) or len(rows) != len(chunk.images):
            raise ValueError(f"answers for {len(chunk.images)} images are {str(rows)[:80]}")
        answers = []
        for (name, label, _, _), (best, floats) in zip(chunk.images, rows, strict=True):
            if not best or any(type(n) is not int or n < 0 for n in (*best, *floats)) or bool(floats) != self.reference:
                raise ValueError(f"classes of {name} are {str((best, floats))[:80]}")
            answers.append(accuracy.Answer(name, label, tuple(best), tuple(floats)))
        return str(data["reference"]), answers


def measure(
    classify: Classify, ran: str, data: LabelledImages, pool, show: Callable = lambda line: None
) -> accuracy.Accuracy:
    """As `accuracy.measure`, by the workers of a pool.

    Parameters
    ----------
    ran : str
        A text of the code that runs.
    pool : Workers or DaskWorkers
        The pool that calls ``classify``.

    Raises
    ------
    BoardError
        A chunk cannot be classified.
    """
    waiting = deque(range(0, len(data.images), accuracy.CHUNK))
    found: dict[int, list[accuracy.Answer]] = {}
    names: set[str] = set()
    began = time.monotonic()

    def next_chunk() -> Chunk | None:
        if not waiting:
            return None
        start = waiting.popleft()
        here = data.images[start : start + accuracy.CHUNK]
        return Chunk(start, tuple((i.name, i.label, i.path.suffix, i.path.read_bytes()) for i in here))

    def take(done) -> None:
        if done.failure:
            first = done.job.images[0][0]
            raise BoardError(f"images from {first} on: {done.failure}", "--workers 1 shows more")
        name, found[done.job.number] = done.value
        names.add(name)
        answers = [answer for known in found.values() for answer in known]
        told = accuracy.progress(answers, len(data.images), time.monotonic() - began)
        show(lambda: f"{told}; {pool.pace}")

    keep_busy(pool, next_chunk, take)
    answers = [answer for start in sorted(found) for answer in found[start]]
    return accuracy.counted(ran, data, answers, " and ".join(sorted(names - {""})), time.monotonic() - began)
