"""The Python API: compile a model for a board, then verify, measure, run, pack and ship it.

    import tvm_mobilenet as tm

    net = tm.compile(module, "rpi4", torch.zeros(1, 3, 224, 224))
    net.verify().require()
    print(net.latency())
    net.bundle("net.tar.gz")

Every call does the same as a verb. Progress lines go to stderr, as in the verb, or to ``progress``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mobilenet import packages
from tvm_mobilenet.cli import keywords, requests
from tvm_mobilenet.compiled import Compiled
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.files.whole_file import folder_to_write, journal_file
from tvm_mobilenet.frontend import given
from tvm_mobilenet.models.options import DTYPES, FLOAT32

if TYPE_CHECKING:
    from typing import Unpack

    from tvm_mobilenet.sweep import SweepResult
    from tvm_mobilenet.targets import Target
    from tvm_mobilenet.tuning.result import TuneResult


@keywords.call
def compile(
    model: given.Model,
    target: str | Target = "arm",
    example_inputs: given.Inputs | None = None,
    *,
    dtype: str = FLOAT32,
    output: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    linker: str | None = None,
    progress: requests.Say | bool = True,
    **options: Unpack[requests.ModelKeywords],
) -> Compiled:
    """Compile a model for a board, with the decisions that are known.

    Parameters
    ----------
    model : nn.Module, ExportedProgram, path or str
        A module with ``example_inputs``, a program, the path of a model's file, or a name of the registry (``v2``).
    target : str or Target
        A board by name (``rpi3``, ``rpi4``, ``rpi5``, ``zero2w``, ``arm``, ``host``) or by its TOML file.
    example_inputs : Tensor or sequence of Tensor, optional
        The inputs of a module, as ``torch.export.export`` takes them.
    dtype : str
        ``float32``, ``float16`` or ``int8``. For int8, ``calibrate`` gives images or arrays that determine the scales.
    output : path, optional
        The folder to write; a temporary one, which lives as long as the result, unless given.
    log : path, optional
        A tune log, consulted before the shipped ones.
    linker : str, optional
        In place of zig's.
    progress : callable or bool
        Called with each line of progress; True prints to stderr, False prints nothing.
    options
        `requests.ModelKeywords`.

    Returns
    -------
    Compiled

    Raises
    ------
    TvmMobilenetError
        The model or target does not exist, or an option does not fit; ``hint`` says what to do.
    """
    wanted, known = _written(output, log, linker)
    with requests.requested(model, target, example_inputs, dtype, options) as (asked, board, temporary):
        from tvm_mobilenet.build import build

        folder = wanted or temporary.path / "build"
        build(asked, board, log=known, output=folder, linker=linker)
        requests.keep_files(asked, temporary, folder)
        made = Compiled(folder)
        made._temporary = temporary if output is None else None
        return made


def _written(
    output: str | os.PathLike[str] | None, log: str | os.PathLike[str] | None, linker: str | None
) -> tuple[Path | None, Path | None]:
    """The paths of the folder to write and of the tune log. They and the linker are checked before the slow part."""
    if linker is not None:
        packages.linker(keywords.text("linker", linker))
    folder = None if output is None else folder_to_write(keywords.path_of("output", output))
    return folder, None if log is None else journal_file(keywords.path_of("log", log))


@keywords.call
def load(folder: str | os.PathLike[str]) -> Compiled:
    """Open the folder of a build that ``build``, ``tune`` or `Compiled.save` wrote.

    Raises
    ------
    TvmMobilenetError
        The folder does not hold a complete build.
    """
    return Compiled(keywords.path_of("folder", folder))


@keywords.call
def tune(
    model: given.Model,
    target: str | Target = "arm",
    example_inputs: given.Inputs | None = None,
    *,
    dtype: str = FLOAT32,
    output: str | os.PathLike[str],
    board: str = "virtual",
    log: str | os.PathLike[str] | None = None,
    trials: int | None = None,
    time_limit: float | None = None,
    workers: int | str = 2,
    linker: str | None = None,
    progress: requests.Say | bool = True,
    **options: Unpack[requests.ModelKeywords],
) -> TuneResult:
    """Search decisions for a model's layers on a board, build with the best and verify; `load` opens ``output``.

    Parameters
    ----------
    model, target, example_inputs, dtype, linker, progress, options
        As of `compile`.
    output : path
        The folder of the build.
    board : str
        The board that runs candidates, as ``--board`` gives it.
    log : path, optional
        The tune log, by default ``tune_log.jsonl`` beside the build; an interrupted search continues from it.
    trials : int, optional
        Largest number of candidates for each layer.
    time_limit : float, optional
        Seconds.
    workers : int or str
        The workers that build and run candidates: a number of processes on this machine, or a Dask cluster,
        ``dask://host:8786``.

    Returns
    -------
    TuneResult
        Each layer before and after, the build and its verification.

    Raises
    ------
    TvmMobilenetError
        As for `compile`; or a limit is not above zero, or the address is not a board's.
    """
    from tvm_mobilenet.cluster.place import parse
    from tvm_mobilenet.tune import TIME_LIMIT, TRIALS
    from tvm_mobilenet.tune import tune as search

    _, known = _written(None, log, linker)
    folder = folder_to_write(keywords.path_of("output", output))
    most = TRIALS if trials is None else keywords.whole("trials", trials)
    seconds = TIME_LIMIT if time_limit is None else keywords.number("time_limit", time_limit)
    where = parse(workers)
    requests.require_board(board)
    with requests.requested(model, target, example_inputs, dtype, options) as (asked, place, temporary):
        found = search(
            asked,
            place,
            board=board,
            log=known or folder.parent / "tune_log.jsonl",
            output=folder,
            trials=most,
            time_limit=seconds,
            workers=where.at_most(1) if board == "local" else where,
            linker=linker,
        )
        requests.keep_files(asked, temporary, folder)
        return found


@keywords.call
def sweep(
    target: str | Target = "arm",
    *,
    families: str | Sequence[str] = ("v1",),
    alphas: float | Sequence[float] = (),
    resolutions: int | Sequence[int] = (),
    dtypes: str | Sequence[str] = (FLOAT32,),
    board: str = "virtual",
    estimates: str | os.PathLike[str] | None = None,
    workers: int | str = 2,
    progress: requests.Say | bool = True,
) -> SweepResult:
    """Latency, memory and published accuracy of a family's networks, as the verb ``sweep`` shows them.

    Parameters
    ----------
    families : str or sequence of str
        Families of the registry.
    alphas, resolutions : number or sequence
        By default those with a published accuracy.
    dtypes : str or sequence of str
        The dtypes of layers; each network is estimated in each of them.
    estimates : path, optional
        A file that keeps results, so that an interrupted sweep continues; by default nothing is kept.
    target, board, workers, progress
        As of `tune`.

    Returns
    -------
    SweepResult
        One row for each network: milliseconds, memory, published accuracy.

    Raises
    ------
    TvmMobilenetError
        The family or target does not exist, or sizes make no network.
    """
    from tvm_mobilenet import targets
    from tvm_mobilenet.cluster.place import parse
    from tvm_mobilenet.survey.families import networks_of
    from tvm_mobilenet.sweep import sweep as survey

    where = parse(workers)
    requests.require_board(board)
    place = requests.target_of(target)
    wanted = networks_of(
        keywords.several("families", families, keywords.text),
        keywords.limits("alphas", alphas, keywords.number),
        keywords.limits("resolutions", resolutions),
        asked := keywords.several("dtypes", dtypes, keywords.one_of(DTYPES)),
    )
    for dtype in asked:
        targets.require(place, dtype)
    kept = None if estimates is None else journal_file(keywords.path_of("estimates", estimates))
    with TemporaryFolder() as folder:
        return survey(wanted, place, board, estimates=kept or folder / "sweep.jsonl", workers=where)
