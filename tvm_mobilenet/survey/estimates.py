"""Estimate the cost of networks on a board without their weights: each runs once, in the order of its plan, as in
verification.

The cost of a kernel depends on its layer, its decisions, the target, and the contents of the caches after the kernels
before it. It does not depend on the numbers in its tensors, because no loop bound, branch or address of a schedule
does. So a network has PyTorch's initial weights, runs on zeros or noise, and needs no calibration. All else is as in a
build: its layers, their decisions, its plan and its arena. The estimate of a sweep therefore equals the cost of the
built network, memory included.

Networks are jobs for worker processes. Every estimate is a line of a file, so that no network runs twice, even after an
interruption. An estimate is valid while target, board, and everything that decides the build are the same. Networks of
other widths and resolutions share few kernels (222 of the 234 of v1's 16 networks occur in only one), so equal kernels
are compiled once for each network, not for all.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

from tvm_mobilenet import old_words
from tvm_mobilenet.cluster import place
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.files import json_text
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.models.options import FLOAT32, ModelOptions
from tvm_mobilenet.tune_logs import keys
from tvm_mobilenet.tune_logs.journal import Journal, typed
from tvm_mobilenet.tune_logs.log import UNITS, consulted, target_key
from tvm_mobilenet.tuning.runner import OnBoard
from tvm_mobilenet.tuning.workers import Done, keep_busy

JOB_SECONDS = 3600.0  # v1 1.0-224 with standard convolutions takes 2 minutes on a free core
_NETWORK = ("model", "alpha", "resolution", "classes", "batch", "dtype")
_BUILDS = ("layer.py", "build.py", "compiler", "survey/estimates.py", "passes", "frontend", "models")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A network on a target, as it would be built for it.

    Parameters
    ----------
    model, alpha, resolution, classes, batch, dtype
        As ``ModelOptions`` has them.
    cost, cost_all_cores : float
        In ``unit``: predicted cycles or measured seconds, on one core and on all.
    compute : float or None
        The compute cycles of a predicted ``cost``, with every load a hit in the first-level cache.
    kinds : dict of str to float
        The part of ``cost`` of each kind of layer.
    mult_adds, parameters : int
        As the papers count them: no biases.
    parameters_bytes, arena_bytes, scratch_bytes : int
        As in the plan.
    code_bytes : int
        The kernels' instructions and read-only data.
    target, board, basis : str
        ``tune_logs.log.target_key``, the board that ran it, and ``basis_of`` at that time.
    seconds : float
        Seconds that the estimate took.
    """

    model: str
    alpha: float
    resolution: int
    classes: int
    batch: int
    cost: float
    cost_all_cores: float
    unit: str
    compute: float | None
    kinds: dict[str, float]
    mult_adds: int
    parameters: int
    parameters_bytes: int
    arena_bytes: int
    scratch_bytes: int
    code_bytes: int
    dtype: str = FLOAT32
    target: str = ""
    board: str = ""
    basis: str = ""
    seconds: float = 0.0

    @property
    def options(self) -> ModelOptions:
        return ModelOptions(**{name: getattr(self, name) for name in _NETWORK})

    @property
    def predicted(self) -> bool:
        return self.unit == "cycles"

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**asdict(self), "seconds": round(self.seconds, 1)})

    @classmethod
    def from_json(cls, line: str) -> Estimate:
        """The estimate of a line; a ValueError describes a fault of the line."""
        data = json_text.parse(line)
        estimate = cls(**typed(cls, old_words.keys(data) if isinstance(data, dict) else data))
        if (
            estimate.unit not in UNITS
            or min(estimate.cost, estimate.cost_all_cores, estimate.alpha, estimate.resolution) <= 0
        ):
            raise ValueError(
                f"cost {estimate.cost:g} and {estimate.cost_all_cores:g} {estimate.unit} of {estimate.options.title}"
            )
        return estimate


class Bench(OnBoard):
    """Estimates a network; made in the parent, called in the workers.

    Parameters
    ----------
    target : targets.Target
    board, linker
        As ``OnBoard`` takes them.
    log : path, optional
        The user's tune log.
    """

    def __init__(self, target, board: str = "virtual", linker: str | None = None, log: Path | None = None):
        super().__init__(target, board, linker)
        self.log = log
        self._lines = log.read_bytes() if log is not None and log.is_file() else None  # a worker may have it elsewhere

    def prepare(self) -> None:
        super().prepare()
        if self._lines is not None:
            self.log = Path(tempfile.mkdtemp()) / self.log.name
            self.log.write_bytes(self._lines)

    def pack(self, estimate: Estimate) -> dict:
        """An estimate as plain data."""
        return asdict(estimate)

    def unpack(self, network: ModelOptions, data: object, folder) -> Estimate:
        """The estimate from `pack`'s data; a ValueError describes other data."""
        found = Estimate.from_json(json.dumps(data))
        if found.options != network:
            raise ValueError(f"an estimate of {found.options.title}, not of {network.title}")
        return found

    def __call__(self, options: ModelOptions) -> Estimate:
        from tvm_mobilenet.compiler import pipeline

        start = time.monotonic()
        network = weightless(options)
        model = pipeline.compile(network, self.target, self.log)
        plan = model.plan
        run, one, every, size = executed(model, self.opened, self.linker)
        kinds: dict[str, float] = {}
        for step, kernel in zip(plan.steps, run.kernels, strict=True):
            kind = step.layer.split(" ", 1)[0]
            kinds[kind] = kinds.get(kind, 0.0) + float(kernel.cost(1).value)
        return Estimate(
            **{name: getattr(options, name) for name in _NETWORK},
            cost=float(one.value),
            cost_all_cores=float(every.value),
            unit=one.unit,
            compute=float(run.compute) if one.predicted else None,
            kinds=kinds,
            mult_adds=sum(c.layer.mult_adds for c in network.layers),
            parameters=sum(c.weight.size for c in network.layers if c.weight is not None),
            parameters_bytes=plan.parameters_bytes,
            arena_bytes=plan.arena_bytes,
            scratch_bytes=plan.scratch_bytes,
            code_bytes=size,
            seconds=time.monotonic() - start,
        )


def executed(model, board, linker: str | None = None) -> tuple:
    """Run a compiled network once on an opened board, on zeros or noise. Return the run, its cost on one core and on
    all of them, and the bytes of its code.

    Parameters
    ----------
    model : pipeline.BuiltModel
    """
    from tvm_mobilenet.boards.plan_runner import PlanRunner, run_and_estimate
    from tvm_mobilenet.compiler import codegen
    from tvm_mobilenet.compiler.plan import input_values, inputs_of

    with TemporaryFolder() as folder:
        library = os.path.join(folder, "kernels.so")
        codegen.compile_kernels(model.kernels, model.target, library, linker)
        with board.load(library) as module:
            runner = PlanRunner(module, model.plan, model.parameters)
            inputs = input_values(inputs_of(model.plan))
            return *run_and_estimate(runner, board, inputs, model.target.cores), code_bytes(library)


def weightless(options: ModelOptions):
    """The `compiler.network.Network` of a registry model, with PyTorch's initial weights."""
    import torch

    from tvm_mobilenet import frontend, passes
    from tvm_mobilenet.compiler.network import Network
    from tvm_mobilenet.models import registry
    from tvm_mobilenet.passes import precision

    registry.check_shape(options.alpha, options.resolution, options.classes)
    model = registry.architecture(options.model, options.alpha, options.classes).eval().requires_grad_(False)
    example = torch.zeros(options.batch, 3, *options.size)
    graph = passes.run(frontend.from_torch(model, example))
    return Network(options, None, precision.without_images(graph, options))


def code_bytes(library: str | os.PathLike) -> int:
    """Bytes of instructions and read-only data in a shared object."""
    from elftools.elf.elffile import ELFFile

    with open(library, "rb") as file:
        sections = ELFFile(file).iter_sections()
        return sum(s.data_size for s in sections if s.name.startswith((".text", ".rodata")))


def basis_of(target, log: Path | None = None) -> str:
    """A short hash of everything but the target that decides build and estimate: code, TVM, and tune logs."""
    digest = hashlib.sha256(f"{keys.sources_key()} {keys.estimate_key(target)}".encode())
    for name in _BUILDS:
        place = resources.files("tvm_mobilenet") / name
        files = [place] if place.is_file() else [f for f in place.iterdir() if f.name.endswith(".py")]
        for file in sorted(files, key=lambda f: f.name):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    for path in consulted(log, target.core.name):
        if path.is_file():
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def estimate_networks(
    networks: Iterable[ModelOptions],
    target,
    board: str = "virtual",
    *,
    estimates: Path,
    log: Path | None = None,
    workers: int | str | place.Place = place.PROCESSES,
    linker: str | None = None,
    debug: bool = False,
    show: Callable[[int, int, list[str], object], None] = lambda estimated, networks, running, pace: None,
) -> list[Estimate]:
    """The cost of each network on a board.

    Parameters
    ----------
    networks : iterable of ModelOptions
        Options of registry models; weights and images are not used.
    target : targets.Target
    estimates : path
        The file of estimates: networks in it do not run again, and new estimates are added.
    log : path, optional
        The user's tune log, consulted before the shipped one.
    show : callable
        Called at intervals with the number of estimated networks, the number of all, the titles of running ones, and
        the `Pace` of the workers.
    workers : int or str
        Processes of this machine, or a Dask cluster (``cluster.place.parse``).

    Returns
    -------
    list of Estimate
        In the order of ``networks``.

    Raises
    ------
    BoardError
        A network cannot be run.
    """
    networks, journal = list(networks), Journal(estimates, Estimate, "--estimates")
    same = {"target": target_key(target), "board": board, "basis": basis_of(target, log)}
    known = {p.options: p for p in journal.records() if all(getattr(p, name) == value for name, value in same.items())}
    wanted = list(dict.fromkeys(networks))
    missing = [n for n in wanted if n not in known]
    if not missing:
        return [known[n] for n in networks]
    # The largest first, so that the workers end at about the same time.
    waiting = deque(sorted(missing, key=_size, reverse=True))
    where = place.parse(workers).at_most(len(missing) if board == "virtual" else 1)
    threads = 1 if board == "virtual" else target.cores
    running: list[str] = []

    def next_network() -> ModelOptions | None:
        if waiting:
            running.append(waiting[0].title)
        return waiting.popleft() if waiting else None

    def take(done: Done) -> None:
        running.remove(done.job.title)
        if done.failure:
            hint = "--debug shows what the worker wrote"
            raise BoardError(f"{done.job.title} on {target.name}: {done.failure}", hint)
        # In the form in which it is read again.
        known[done.job] = Estimate.from_json(replace(done.value, **same).to_json())
        journal.append(known[done.job])

    with where.pool(Bench(target, board, linker, log), JOB_SECONDS, debug, threads, board == "local") as pool:

        def tell() -> None:
            show(sum(n in known for n in wanted), len(wanted), running, pool.pace)

        keep_busy(pool, next_network, take, tell)
    return [known[n] for n in networks]


def _size(options: ModelOptions) -> int:
    from tvm_mobilenet.models import cost

    return sum(c.mult_adds for c in cost.model_costs(options.model, options.alpha, options.resolution))
