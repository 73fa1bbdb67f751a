"""A compiled model as a Python object: the operations on a build. Every call does the same as a verb."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mobilenet import packages, system
from tvm_mobilenet.cli import keywords, requests
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.files.whole_file import folder_to_write
from tvm_mobilenet.measuring.latency import Latency
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.terminal import notebook

if TYPE_CHECKING:
    import numpy as np

    from tvm_mobilenet.accuracy import AccuracyResult
    from tvm_mobilenet.measuring.benchmark import Benchmark
    from tvm_mobilenet.measuring.layer_profile import Profile
    from tvm_mobilenet.ship import Shipped
    from tvm_mobilenet.targets import Target
    from tvm_mobilenet.verify import VerifyResult


class Compiled:
    """A model compiled for a target: a folder as ``build`` writes it, with the operations on it.

    Parameters
    ----------
    folder : path
        A folder that ``build``, ``tune`` or `save` wrote.

    Raises
    ------
    TvmMobilenetError
        The folder does not hold a complete build.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        system.require_posix("a build")
        from tvm_mobilenet.compiler import module as built

        self._module = built.read(keywords.path("folder", folder))
        self._temporary: TemporaryFolder | None = None

    @property
    def folder(self) -> Path:
        """The folder of the build; a temporary one is removed with this object."""
        return Path(self._module.folder)

    @property
    def target(self) -> Target:
        """The board it is built for."""
        return self._module.target

    @property
    def options(self) -> ModelOptions:
        """The options of the model."""
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

    @keywords.call
    def verify(
        self,
        board: str | None = None,
        *,
        inputs: Sequence[np.ndarray | tuple[np.ndarray, ...]] | None = None,
        count: int = 4,
        dump: str | os.PathLike[str] | None = None,
        progress: keywords.Say | bool = True,
    ) -> VerifyResult:
        """Compare the machine code with the model's own framework, as the verb ``verify`` does.

        Parameters
        ----------
        board : str, optional
            ``virtual`` (default; for this machine's own target ``local``), ``local``, ``rpc://…``, ``ssh://…``.
        inputs : sequence of ndarray or of tuples of ndarray, optional
            Each the model's inputs; photographs and crops of them unless given.
        count : int
            Number of photographs and crops.
        dump : path, optional
            A folder for the tensors of the first wrong layer.
        progress : callable or bool
            Called with each line of progress; True prints to stderr, False prints nothing.

        Returns
        -------
        VerifyResult
            ``ok`` says whether everything is right; ``require()`` raises a VerificationError otherwise.
        """
        from tvm_mobilenet.verify import verify

        place, several = self._board(board), keywords.whole("count", count)
        evidence = None if dump is None else folder_to_write(keywords.path_of("dump", dump))
        given = None
        if inputs is not None:
            whole = keywords.several("inputs", inputs, lambda _, one: one)
            given = [run for one in whole for run in self._runs(one if isinstance(one, tuple | list) else (one,))]
        return verify(self.folder, board=place, network=self._network, inputs=given, count=several, dump=evidence)

    @keywords.call
    def latency(self, cores: int | Sequence[int] | None = None, *, progress: keywords.Say | bool = True) -> Latency:
        """The time of a run, predicted by the virtual board; nothing is measured.

        Parameters
        ----------
        cores : int or sequence of int, optional
            By default one, and all of the target's.

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
        counts = tuple(dict.fromkeys((1, self.target.cores))) if cores is None else _counts("cores", cores)
        rows = self.bench("virtual", threads=counts).rows
        return Latency(self.target.name, {row.threads: float(row.time.p50 * 1e3) for row in rows})

    @keywords.call
    def profile(
        self,
        board: str | None = None,
        *,
        threads: int = 1,
        seconds: float = 2.0,
        progress: keywords.Say | bool = True,
    ) -> Profile:
        """The cost of every layer, and its distance from the roofline, as the verb ``profile`` shows it."""
        from tvm_mobilenet.profile import profile

        several, limit = keywords.whole("threads", threads), keywords.number("seconds", seconds)
        return profile(self.folder, board=self._board(board), threads=several, seconds=limit)

    @keywords.call
    def bench(
        self,
        board: str | None = None,
        *,
        threads: int | Sequence[int] = (1,),
        seconds: float = 3.0,
        against: Sequence[str] = (),
        progress: keywords.Say | bool = True,
    ) -> Benchmark:
        """Measure runs on a board, such as ``ssh://pi@raspberrypi.local``; on the virtual board they are predicted."""
        from tvm_mobilenet.bench import bench
        from tvm_mobilenet.measuring import benchmark_text  # noqa: F401  it shows the result in notebooks
        from tvm_mobilenet.peers import files as peers

        place, engines = self._board(board), keywords.limits("against", against, keywords.text)
        how = {"threads": _counts("threads", threads), "seconds": keywords.number("seconds", seconds)}
        if engines:
            engines = peers.parse(",".join(engines))
            peers.require(engines, place)
        return bench(self.folder, board=place, **how, against=engines)

    @keywords.call
    def accuracy(
        self,
        data: str | os.PathLike[str],
        *,
        truth: str | os.PathLike[str] | None = None,
        board: str | None = None,
        limit: int | None = None,
        reference: bool = True,
        progress: keywords.Say | bool = True,
    ) -> AccuracyResult:
        """Top-1 and top-5 on labelled images, beside the float network's, as the verb ``accuracy`` finds them.

        Parameters
        ----------
        data : path
            A folder with one folder for each class, or a CSV file.
        truth : path, optional
            The labels, if they are in another file.
        board : str, optional
            By default this machine.
        limit : int, optional
            Images to run, evenly spread.
        reference : bool
            Whether to run the float network too.
        progress : callable or bool
            Called with each line of progress; True prints to stderr, False prints nothing.
        """
        from tvm_mobilenet.accuracy import accuracy
        from tvm_mobilenet.models import labelled_images

        most = keywords.unless_none(keywords.whole, "limit", limit)
        images, labels = keywords.path("data", data), keywords.unless_none(keywords.path, "truth", truth)
        place, compared = board if board is None else self._board(board), keywords.flag("reference", reference)
        labelled_images.require(images, labels)
        return accuracy(
            self.folder,
            images,
            truth=labels,
            board=place,
            limit=most,
            reference=compared,
            network=self._network,
        )

    @keywords.call
    def run(
        self, *inputs: np.ndarray, board: str | None = None, progress: keywords.Say | bool = True
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Run the compiled code.

        Parameters
        ----------
        inputs : ndarray
            The model's inputs, in its shapes; numbers are cast to its dtypes if no value changes. A model with batch 1
            takes arrays (N, ...) as N inputs, and runs N times.
        board : str, optional
            By default this machine if it can run the code, else the virtual board, which takes seconds for a run.
        progress : callable or bool
            As for `verify`.

        Returns
        -------
        ndarray, or dict of str to ndarray
            The output, or several outputs by name; N rows for N inputs.
        """
        from tvm_mobilenet.evaluation import kernels

        asked, ports = board if board is None else self._board(board), self._network.signature.outputs
        runs = self._runs(inputs)
        place = asked or kernels.place_of(self.target, kernels.dtypes_of(self._network))
        place = "virtual" if place == "host" else place
        found = kernels.rows_of(self._network, self.target, place, self._module, runs)
        return found[0] if len(found) == 1 else {p.name: x for p, x in zip(ports, found, strict=True)}

    @keywords.call
    def save(self, folder: str | os.PathLike[str]) -> Compiled:
        """Copy the build to a folder, with the model's own file, whole or not at all.

        Returns
        -------
        Compiled
            The copy, which does not need the files that it was compiled from.

        Raises
        ------
        TvmMobilenetError
            The folder holds files that are not a build.
        """
        from tvm_mobilenet.compiler.saved import copy_to

        copy_to(self._module, folder_to_write(keywords.path_of("folder", folder)))
        return Compiled(folder)

    @keywords.call
    def bundle(
        self,
        path: str | os.PathLike[str],
        *,
        embed_weights: bool = False,
        linker: str | None = None,
        sign: str | os.PathLike[str] | None = None,
        progress: keywords.Say | bool = True,
    ) -> Path:
        """Pack a bundle for a device, a ``.tar.gz`` or a folder, after its code was run and verified.

        Parameters
        ----------
        embed_weights : bool
            Whether its library contains the weights.
        linker : str, optional
            In place of zig's.
        sign : path, optional
            The key that signs it, as ``build --sign`` takes it.
        progress : callable or bool
            Called with each line of progress; True prints to stderr, False prints nothing.
        """
        from tvm_mobilenet.build import bundle_path
        from tvm_mobilenet.bundle import pack, signature
        from tvm_mobilenet.checking.built_calls import calls_of
        from tvm_mobilenet.compiler.saved import lowered_again

        place = Path(bundle_path(keywords.path_of("path", path)))
        if linker is not None:
            packages.linker(keywords.text("linker", linker))
        key = keywords.unless_none(keywords.path, "sign", sign)
        if key is not None:
            signature.require_key(key)
        keywords.flag("embed_weights", embed_weights)
        calls_of(self._network, self._module)  # check that it is the same network
        made = pack.make(
            self.folder,
            lowered=lowered_again(self._module, self._network),
            network=self._network,
            target=self.target,
            linker=linker,
            embed_weights=embed_weights,
        )
        (made if key is None else made.signed(key)).write(place)
        return place

    @keywords.call
    def ship(
        self,
        *to: str,
        keep: int = 3,
        threads: int | None = None,
        runner: str = "",
        sign: str | os.PathLike[str] | None = None,
        require_signature: str | os.PathLike[str] | None = None,
        progress: keywords.Say | bool = True,
    ) -> list[Shipped]:
        """Pack, copy to boards, test there, and switch to it: ``ship("ssh://pi@pi4/srv/mobilenet")``.

        Parameters
        ----------
        to : str
            ``ssh://USER@HOST/FOLDER``, or a folder of this machine, which a message then confirms.
        keep : int
            Number of versions that stay there.
        threads : int, optional
            Threads of the self-test.
        runner : str
            A command that runs the program there, such as an emulator.
        sign : path, optional
            The key that signs it, as ``build --sign`` takes it.
        require_signature : path, optional
            The signers that this side and the boards accept, as ``ship --require-signature`` takes them.
        progress : callable or bool
            Called with each line of progress; True prints to stderr, False prints nothing.

        Raises
        ------
        BoardError
            A board did not accept it. The message has the board's reason, and the earlier version stays in use.
        VerificationError
            No signer of ``require_signature`` has signed it.
        """
        from tvm_mobilenet import ship as verb
        from tvm_mobilenet.bundle import pack
        from tvm_mobilenet.bundle.signature import Signers
        from tvm_mobilenet.errors import BoardError

        if not to:
            raise TvmMobilenetError("no board to ship to", 'ship("ssh://USER@HOST/FOLDER")')
        places = [verb.Destination.parse(keywords.path_of("to", one)) for one in to]
        verb.require_programs(places)
        verb.tell_local(places)
        keys = keywords.unless_none(keywords.path, "require_signature", require_signature)
        signers = None if keys is None else Signers.read(keys)
        how = {"keep": keywords.whole("keep", keep), "runner": keywords.text("runner", runner), "signers": signers}
        how["threads"] = keywords.unless_none(keywords.whole, "threads", threads)
        with TemporaryFolder() as folder:
            whole = pack.read(self.bundle(folder / "bundle.tar.gz", sign=sign), signers)
        found = [verb.ship(whole, place, **how) for place in places]
        if failed := next((one for one in found if not one.ok), None):
            raise BoardError(*failed.error.split("\n  ", 1))
        return found

    def _runs(self, inputs: Sequence[np.ndarray]) -> list:
        return requests.as_ports(inputs, self._network.signature.inputs)

    def _board(self, board: str | None) -> str:
        from tvm_mobilenet.boards import address, own

        where = address.parse(own(self.target) if board is None else keywords.text("board", board))
        where.check_tracker()
        return where.text


def _counts(name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(keywords.several(name, value, keywords.whole)))
