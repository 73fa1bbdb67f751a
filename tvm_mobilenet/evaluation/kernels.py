"""Compute a network's outputs on thousands of images by its kernels, on the requested board or on this machine.

A build whose code this machine can run is run here unchanged. Any other is built again for this machine, from the same
model with the same decisions about dtypes, so layers, scales, zero points and weights are the same. In int8 that gives
the same bits, because a layer's result does not depend on the target. In float32 the order of a sum may differ, and
with it the last digits. As a check, the build's own code also runs the first images on the virtual board. If this
machine lacks the dtype's arithmetic, it runs all images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet import targets
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.checking.built_calls import calls_of
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler import pipeline
from tvm_mobilenet.compiler.kept import kept
from tvm_mobilenet.errors import BoardError, TvmMobilenetError, VerificationError
from tvm_mobilenet.files.temporary import TemporaryFolder

VIRTUAL_IMAGES = 20  # default number, since an image takes seconds there
NEAR = 1e-3  # standard deviations of the scores by which float32 may differ between targets

Outputs = Callable[[tuple[np.ndarray, ...]], list[np.ndarray]]


@dataclass(frozen=True)
class Kernels:
    """An opened network.

    Attributes
    ----------
    outputs : callable
        From a network's inputs to its outputs.
    ran : str
        A text of the code that runs, and of its machine.
    board : str
    """

    outputs: Outputs
    ran: str
    board: str


def place_of(target, dtypes: set[str], board: str | None = None) -> str:
    """The place where a target's network runs: the requested board; ``local`` if this machine runs the same code;
    ``host`` if it runs the network built for itself; else ``virtual``."""
    from tvm_mobilenet.boards.local import LocalBoard

    if board is not None:
        return board
    with contextlib.suppress(BoardError):
        LocalBoard(target)
        return "local"
    return "host" if all(targets.load("host").computes(dtype) for dtype in dtypes) else "virtual"


def dtypes_of(network) -> set[str]:
    """The dtypes in which a network's layers compute and sum."""
    return {call.layer.dtype for call in network.layers if call.layer.body is None}


@contextlib.contextmanager
def opened(network, target, place: str, module=None, linker: str | None = None, check: int = 1) -> Iterator[Kernels]:
    """A network, ready to run on images.

    Parameters
    ----------
    network : Network
    target : targets.Target
    place : str
        A result of `place_of`.
    module : built.BuiltModule, optional
        The build for the target; without one, a temporary build is made.
    linker : str, optional
        The linker of that build, for a target other than this machine.
    check : int
        Number of first images that the target's own code runs too if ``place`` is ``host``.

    Raises
    ------
    TvmMobilenetError
        The module was built from another network.
    BoardError
        The board cannot be reached.
    """
    if module is not None:
        calls_of(network, module)
    with TemporaryFolder() as where, kept(module) if module is not None else contextlib.nullcontext():
        own = "the build's own code" if module is not None else "its code"
        if module is None and (place != "host" or check):
            module = pipeline.compile(network, target).write(where / "target", linker)
        if place == "local":
            with _here(module) as run:
                yield Kernels(_numbers(run), f"{own}, on this machine", place)
        elif place == "host":
            here = targets.load("host")
            rebuilt = pipeline.compile(network, here).write(where / "host")
            ran = f"the same layers built for this machine ({here.core.name})"
            if check:
                ran += f"; {check} image{'s' * (check > 1)} also by the code for {target.name}, on the virtual board"
            with _here(rebuilt) as run, _compared(run, network, target, module, check) as compared:
                yield Kernels(_numbers(compared), ran, place)
        else:
            from tvm_mobilenet.boards import open_board

            with open_board(place, target) as board, _on(board, module) as run:
                yield Kernels(_numbers(run), f"{own}, on {place}", place)


def rows_of(network, target, place: str, module, runs: list) -> list[np.ndarray]:
    """The outputs of several runs of a build, as rows of one array.

    Raises
    ------
    TvmMobilenetError
        There are several runs, and an output has no row for each.
    """
    ports = network.signature.outputs
    if len(runs) > 1 and (odd := [p for p in ports if tuple(p.shape[:1]) != (1,)]):
        words = f"output {odd[0].name} has the shape {tuple(odd[0].shape)}: no row for each of {len(runs)} inputs"
        raise TvmMobilenetError(words, "run one at a time")
    with opened(network, target, place, module=module, check=0) as kernels:
        found = [kernels.outputs(taken) for taken in runs]
    each = [[run[i].reshape(p.shape) for run in found] for i, p in enumerate(ports)]
    return [rows[0] if len(runs) == 1 else np.concatenate(rows) for rows in each]


def _numbers(run: Outputs) -> Outputs:
    """The same function with a check that refuses infinities and NaN in outputs, as a bundle does."""

    def checked(inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        found = run(inputs)
        for number, output in enumerate(found):
            if output.dtype.kind == "f" and not np.isfinite(output).all():
                raise BoardError(
                    f"output {number} holds infinities or NaN",
                    "the input or the weights are damaged, or values left the range of the layers' dtype",
                )
        return found

    return checked


@contextlib.contextmanager
def _here(module: built.BuiltModule) -> Iterator[Outputs]:
    """A build on this machine, in this process."""
    if module.runtime is None:  # a build of an earlier version
        from tvm_mobilenet.boards import open_board

        with open_board("local", module.target) as board, _on(board, module) as run:
            yield run
        return
    from tvm_mobilenet.boards.plan_runner import check_inputs
    from tvm_mobilenet.runtime.instance import Instance

    with Instance(module.runtime, module.folder / built.PARAMETERS) as instance:

        def run(inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
            check_inputs(module.plan, inputs)  # as every other board does
            instance.set_inputs(inputs)
            instance.run()
            return [output.copy() for output in instance.outputs]

        yield run


@contextlib.contextmanager
def _on(board, module: built.BuiltModule) -> Iterator[Outputs]:
    from tvm_mobilenet.boards.library_runner import open_runner

    with open_runner(board, module) as runner:
        yield lambda inputs: runner.run(*inputs).outputs


@contextlib.contextmanager
def _compared(run: Outputs, network, target, module, check: int) -> Iterator[Outputs]:
    """The same function, with the first images compared with the target's own code."""
    left = check

    def compared(inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        nonlocal left
        found = run(inputs)
        if left > 0:
            left -= 1
            from tvm_mobilenet.boards.virtual.board import VirtualBoard

            with VirtualBoard(target) as board, _on(board, module) as own:
                require_same(own(inputs), found, network_steps.is_integral(network), target.name)
        return found

    yield compared


def require_same(own: list[np.ndarray], here: list[np.ndarray], integral: bool, target: str) -> None:
    """Require that a target's own code and the same layers built for this machine give the same outputs.

    Raises
    ------
    VerificationError
        They differ: for integer networks in any bit, else by more than `NEAR` standard deviations.
    """
    for left, right in zip(own, here, strict=True):
        if integral and np.array_equal(left, right):
            continue
        off = float(np.abs(left.astype(np.float64) - right).max()) / max(float(right.std()), 1e-30)
        if integral or not off <= NEAR:
            raise VerificationError(
                f"the code for {target} computes other scores than the same layers built for this machine: they "
                f"differ by {off:.1e} of the scores' standard deviation, in {(left != right).sum():,} of {left.size:,}",
                "run `verify` on the build: it names the first wrong layer",
            )
