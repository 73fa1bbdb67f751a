"""A compiled model, as programs hold it: what can be done with a build. Every call is what a verb does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mobilenet import packages, system
from tvm_mobilenet.cli import requests
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.files.whole_file import folder_to_write
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.terminal import console, notebook

if TYPE_CHECKING:
    import numpy as np

    from tvm_mobilenet.accuracy import AccuracyResult
    from tvm_mobilenet.measuring.benchmark import Benchmark
    from tvm_mobilenet.measuring.layer_profile import Profile
    from tvm_mobilenet.ship import Shipped
    from tvm_mobilenet.targets import Target
    from tvm_mobilenet.verify import VerifyResult


@dataclass(frozen=True)
class Latency:
    """How long a run takes, as the virtual board predicts it.

    Attributes
    ----------
    target : str
    milliseconds : dict of int to float
        By the number of cores.
    """

    target: str
    milliseconds: dict[int, float]

    predicted = True

    def __str__(self) -> str:
        each = ", ".join(
            f"{console.number(ms)} ms on {n} core{'s' * (n > 1)}" for n, ms in sorted(self.milliseconds.items())
        )
        return f"{each} of {self.target} (predicted)"


class Compiled:
    """A model compiled for a target: a folder as ``build`` writes it, and what can be done with it.

    Parameters
    ----------
    folder : path
        What ``build``, ``tune`` or `save` wrote.

    Raises
    ------
    TvmMobilenetError
        It holds no whole build.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        system.require_posix("a build")
        from tvm_mobilenet.compiler import module as built

        self._module = built.read(Path(folder))
        self._temporary: TemporaryFolder | None = None

    @property
    def folder(self) -> Path:
        """Where the build lies; one that was not asked for is removed with this object."""
        return Path(self._module.folder)

    @property
    def target(self) -> Target:
        """The board it is built for."""
        return self._module.target

    @property
    def options(self) -> ModelOptions:
        """Of the model."""
        return ModelOptions.from_data(self._module.info["model"])

    @cached_property
    def _network(self):
        from tvm_mobilenet.compiler import model_files
        from tvm_mobilenet.compiler.network import load_network

        return load_network(model_files.from_build(self._module))

    def __repr__(self) -> str:
        return f"<{self.options.title} for {self.target.name}, {len(self._module.plan.steps)} kernels, {self.folder}>"

    def _repr_html_(self) -> str:
        plan, mib = self._module.plan, 1 << 20
        rows = [
            ("model", self.options.title),
            ("target", f"{self.target.name}: {self.target.title}"),
            ("kernels", len(plan.steps)),
            ("module, MiB", self._module.module_bytes / mib),
            ("parameters, MiB", plan.parameters_bytes / mib),
            ("arena, MiB", plan.arena_bytes / mib),
        ]
        return notebook.table(("", "compiled"), rows)

    def verify(
        self,
        board: str | None = None,
        *,
        inputs: Sequence[tuple[np.ndarray, ...]] | None = None,
        count: int = 4,
        dump: str | os.PathLike[str] | None = None,
    ) -> VerifyResult:
        """Compare the machine code with the model's own framework, as the verb ``verify`` does.

        Parameters
        ----------
        board : str, optional
            ``virtual`` (default; for this machine's own target ``local``), ``local``, ``rpc://…``, ``ssh://…``.
        inputs : sequence of tuples of ndarray, optional
            Each the model's inputs; photographs and crops of them unless given.
        count : int
            How many of those.
        dump : path, optional
            A folder for the tensors of the first wrong layer.

        Returns
        -------
        VerifyResult
            ``ok`` says whether all is right; ``require()`` raises a VerificationError unless it is.
        """
        from tvm_mobilenet.verify import verify

        return verify(
            self.folder,
            board=self._board(board),
            network=self._network,
            inputs=None if inputs is None else list(inputs),
            count=count,
            dump=None if dump is None else folder_to_write(str(dump)),
        )

    def latency(self, cores: int | Sequence[int] | None = None) -> Latency:
        """How long a run takes, predicted by the virtual board; nothing is measured.

        Parameters
        ----------
        cores : int or sequence of int, optional
            One and all of the target's unless given.

        Raises
        ------
        TvmMobilenetError
            The target is this machine, which the virtual board does not model: `bench` measures it.
        """
        if not self.target.core.model:
            raise TvmMobilenetError(
                f"target {self.target.name}: there is no model of its core to predict with",
                'measure it: bench("local")',
            )
        cores = (cores,) if isinstance(cores, int) else cores
        counts = tuple(cores or dict.fromkeys((1, self.target.cores)))
        rows = self.bench("virtual", threads=counts).rows
        return Latency(self.target.name, {row.threads: float(row.time.p50 * 1e3) for row in rows})

    def profile(self, board: str | None = None, *, threads: int = 1, seconds: float = 2.0) -> Profile:
        """What every layer costs, and how far it is from the roofline, as the verb ``profile`` shows it."""
        from tvm_mobilenet.profile import profile

        return profile(self.folder, board=self._board(board), threads=threads, seconds=seconds)

    def bench(
        self,
        board: str | None = None,
        *,
        threads: Sequence[int] = (1,),
        seconds: float = 3.0,
        against: Sequence[str] = (),
    ) -> Benchmark:
        """Measure runs on a board, ``ssh://pi@raspberrypi.local`` say; on the virtual one they are predicted."""
        from tvm_mobilenet.bench import bench
        from tvm_mobilenet.measuring import benchmark_text  # noqa: F401  it shows the result in notebooks

        return bench(self.folder, board=self._board(board), threads=threads, seconds=seconds, against=against)

    def accuracy(
        self,
        data: str | os.PathLike[str],
        *,
        truth: str | os.PathLike[str] | None = None,
        board: str | None = None,
        limit: int | None = None,
        reference: bool = True,
    ) -> AccuracyResult:
        """Top-1 and top-5 on labelled images, beside the float network's, as the verb ``accuracy`` finds them.

        Parameters
        ----------
        data : path
            A folder of folders, one a class, or a CSV file.
        truth : path, optional
            The labels, where they lie elsewhere.
        board : str, optional
            This machine unless given.
        limit : int, optional
            Images to run, evenly spread.
        reference : bool
            Also run the float network.
        """
        from tvm_mobilenet.accuracy import accuracy
        from tvm_mobilenet.models import labelled_images

        labels = None if truth is None else Path(truth)
        labelled_images.require(Path(data), labels)
        return accuracy(
            self.folder,
            Path(data),
            truth=labels,
            board=None if board is None else self._board(board),
            limit=limit,
            reference=reference,
            network=self._network,
        )

    def run(self, *inputs: np.ndarray, board: str | None = None) -> np.ndarray | dict[str, np.ndarray]:
        """Run the compiled code once.

        Parameters
        ----------
        inputs : ndarray
            The model's inputs, of its shapes; numbers are cast to its dtypes where nothing is lost.
        board : str, optional
            This machine where it can run the code, else the virtual board, which takes seconds a run.

        Returns
        -------
        ndarray, or dict of str to ndarray
            The output; several by their names.
        """
        from tvm_mobilenet.evaluation import kernels

        ports = self._network.signature
        taken = requests.as_ports(inputs, ports.inputs)
        place = self._board(board) if board else kernels.place_of(self.target, kernels.dtypes_of(self._network))
        place = "virtual" if place == "host" else place
        with kernels.opened(self._network, self.target, place, module=self._module, check=0) as opened:
            found = [x.reshape(p.shape) for x, p in zip(opened.outputs(taken), ports.outputs, strict=True)]
        return found[0] if len(found) == 1 else {p.name: x for p, x in zip(ports.outputs, found, strict=True)}

    def save(self, folder: str | os.PathLike[str]) -> Compiled:
        """Copy the build to a folder, with the model's own file, whole or not at all.

        Returns
        -------
        Compiled
            The copy; it needs nothing of what it was compiled from.

        Raises
        ------
        TvmMobilenetError
            The folder holds something else than a build.
        """
        from tvm_mobilenet.compiler.saved import copy_to

        copy_to(self._module, folder_to_write(requests.path_of("folder", folder)))
        return Compiled(folder)

    def bundle(
        self,
        path: str | os.PathLike[str],
        *,
        embed_weights: bool = False,
        linker: str | None = None,
        sign: str | os.PathLike[str] | None = None,
    ) -> Path:
        """Pack what a device needs, a ``.tar.gz`` or a folder, after its code was run and found right.

        Parameters
        ----------
        embed_weights : bool
            The weights become part of its library.
        linker : str, optional
            In place of zig's.
        sign : path, optional
            The key that signs it, as ``build --sign`` takes it.
        """
        from tvm_mobilenet.build import bundle_path
        from tvm_mobilenet.bundle import pack, signature
        from tvm_mobilenet.checking.machine_check import calls_of
        from tvm_mobilenet.compiler.saved import lowered_again

        place = Path(bundle_path(requests.path_of("path", path)))
        if linker is not None:
            packages.linker(linker)
        if sign is not None:
            signature.require_key(Path(sign))
        calls_of(self._network, self._module)  # the very network
        made = pack.make(
            self.folder,
            lowered=lowered_again(self._module, self._network),
            network=self._network,
            target=self.target,
            linker=linker,
            embed_weights=embed_weights,
        )
        (made if sign is None else made.signed(Path(sign))).write(place)
        return place

    def ship(
        self,
        *to: str,
        keep: int = 3,
        threads: int | None = None,
        runner: str = "",
        sign: str | os.PathLike[str] | None = None,
        require_signature: str | os.PathLike[str] | None = None,
    ) -> list[Shipped]:
        """Pack, copy to boards, test there, and switch to it: ``ship("ssh://pi@pi4/srv/mobilenet")``.

        Parameters
        ----------
        to : str
            ``ssh://USER@HOST/FOLDER``, or a folder of this machine.
        keep : int
            Versions that stay there.
        threads : int, optional
            Of the self-test.
        runner : str
            What runs the program there, such as an emulator.
        sign : path, optional
            The key that signs it, as ``build --sign`` takes it.
        require_signature : path, optional
            Whose signature this side and the boards demand, as ``ship --require-signature`` takes it.

        Raises
        ------
        BoardError
            A board did not take it; its words say why, and what it ran before stays.
        VerificationError
            It is not signed by one of ``require_signature``.
        """
        from tvm_mobilenet import ship as verb
        from tvm_mobilenet.bundle import pack
        from tvm_mobilenet.bundle.signature import Signers
        from tvm_mobilenet.errors import BoardError

        if not to:
            raise TvmMobilenetError("no board to ship to", 'ship("ssh://USER@HOST/FOLDER")')
        places = [verb.Destination.parse(one) for one in to]
        verb.require_programs(places)
        signers = None if require_signature is None else Signers.read(Path(require_signature))
        with TemporaryFolder() as folder:
            whole = pack.read(self.bundle(folder / "bundle.tar.gz", sign=sign), signers)
        how = {"keep": keep, "threads": threads, "runner": runner, "signers": signers}
        found = [verb.ship(whole, place, **how) for place in places]
        for one in found:
            if not one.ok:
                raise BoardError(*one.error.split("\n  ", 1))
        return found

    def _board(self, board: str | None) -> str:
        from tvm_mobilenet.boards import address, own

        where = address.parse(own(self.target) if board is None else board)
        where.check_tracker()
        return where.text
