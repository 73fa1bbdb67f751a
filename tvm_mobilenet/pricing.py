"""What networks cost on a board without building them: each distinct kernel is run once, whichever networks share it.

The cost of a kernel depends on its layer, its decisions and the target alone. The numbers in its tensors change
nothing: no loop bound, branch or address of a schedule depends on them. So weights need not be the model's, and no
calibration is needed: a network is outlined with PyTorch's initial weights, and its kernels run on seeded operands.

Kernels run whole, as they do when a built module is verified, and memory is followed. Here each finds caches that hold
its first operand, there what the kernels before it left: of a whole network that is a difference of 1 to 3 %.

Outlines and kernels are jobs for worker processes. Every price is a line of a file, so that nothing is run twice, also
after an interruption; a price counts as long as layer, decisions, target, board, schedules and core model are the same.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import BoardError
from .log import Journal, Record, fingerprint, target_key
from .options import ModelOptions
from .workers import Workers

JOB_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Price(Record):
    """A record that also says how large the kernel is: ``code_bytes``, instructions and read-only data."""

    code_bytes: int = 0


@dataclass(frozen=True)
class Outline:
    """A network as it would be built for a target: its kernels and its memory.

    Parameters
    ----------
    options : ModelOptions
    kernels : tuple of (str, dict, int)
        Each distinct layer's name, its decisions, and how often it occurs.
    sources : tuple of str
        Where the decisions come from, in the same order.
    mult_adds, parameters : int
        As the papers count them: no biases.
    parameters_bytes, arena_bytes, scratch_bytes : int
        As in the plan.
    """

    options: ModelOptions
    kernels: tuple
    sources: tuple
    mult_adds: int
    parameters: int
    parameters_bytes: int
    arena_bytes: int
    scratch_bytes: int


@dataclass(frozen=True)
class Cost:
    """What a network costs: the sum of its kernels.

    Parameters
    ----------
    cost, cost_all_cores : float
        In ``unit``: predicted cycles or measured seconds, on one core and on all.
    kinds : dict of str to float
        The part of ``cost`` of each kind of layer.
    """

    outline: Outline
    cost: float
    cost_all_cores: float
    unit: str
    code_bytes: int
    kinds: dict

    @property
    def predicted(self) -> bool:
        return self.unit == "cycles"


@dataclass(frozen=True)
class _OutlineJob:
    options: ModelOptions


@dataclass(frozen=True)
class _KernelJob:
    layer: str
    decisions: str  # JSON


class Bench:
    """Does the jobs; made in the parent, called in the workers.

    Parameters
    ----------
    target : targets.Target
    board, linker
        As ``candidate.Evaluate`` takes them.
    log : path, optional
        The user's tune log.
    """

    def __init__(self, target, board: str = "virtual", linker: str | None = None, log: Path | None = None):
        self.target, self.board, self.linker, self.log = target, board, linker, log

    def prepare(self) -> None:
        """Import what takes seconds, and open the board."""
        import torch
        import tvm  # noqa: F401

        from . import boards

        torch.set_num_threads(1)
        self._board = boards.open_board(self.board, self.target)

    def __call__(self, job):
        if isinstance(job, _OutlineJob):
            return outline(job.options, self.target, self.log)
        return self._price(job)

    def _price(self, job: _KernelJob) -> Price:
        from . import codegen, reference, schedules
        from .layer import Layer
        from .schedules import nest

        start = time.monotonic()
        layer, decisions = Layer.parse(job.layer), json.loads(job.decisions)
        arguments = reference.kernel_arguments(layer, decisions, reference.random_arguments(layer))
        with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
            library = os.path.join(folder, "kernel.so")
            kernels = {nest.SYMBOL: schedules.kernel(layer, decisions)}
            codegen.compile_kernels(kernels, self.target, library, self.linker)
            with self._board.load(library) as module:
                if self.board == "virtual":
                    run = module.call(nest.SYMBOL, arguments, tasks="all", memory=True)
                    one, every = run.cost(1), run.cost(self.target.cores)
                else:  # a measurement is of the cores that it ran on
                    one = module.call(nest.SYMBOL, arguments, cores=1).cost(1)
                    every = module.call(nest.SYMBOL, arguments, cores=self.target.cores).cost(self.target.cores)
            size = code_bytes(library)
        return Price(layer=job.layer, core=self.target.core.name, decisions=decisions, cost=float(one.value),
                     unit=one.unit, predicted=one.predicted, cost_all_cores=float(every.value), whole=True,
                     arithmetic=run.arithmetic_on(1).value if one.predicted else None, code_bytes=size,
                     seconds=time.monotonic() - start)


def weightless(options: ModelOptions):
    """The `network.Network` of a registry model, with PyTorch's initial weights in place of the model's."""
    import torch

    from . import frontend, passes
    from .models import registry
    from .network import Network

    registry.check_shape(options.alpha, options.resolution, options.classes)
    model = registry.architecture(options.model, options.alpha, options.classes).eval().requires_grad_(False)
    example = torch.zeros(options.batch, 3, options.resolution, options.resolution)
    module = passes.run(frontend.from_torch(model, example))
    return Network(options, None, module, passes.layers_of(module))


def outline(options: ModelOptions, target, log: Path | None = None) -> Outline:
    """A registry model as it would be built for a target; its weights are neither made nor loaded."""
    from .build import decide
    from .passes.lower_layers import lower_layers
    from .plan import plan_of

    whole = weightless(options)
    network = whole.for_target(target)
    layers = decide(network.counts, target, log)
    decisions = {layer: b.decisions for layer, b in zip(network.counts, layers, strict=True)}
    plan, _ = plan_of(lower_layers(network.layers, network.interface, decisions), network.interface)
    counts = network.counts.values()
    return Outline(
        options, tuple((b.layer, b.decisions, n) for b, n in zip(layers, counts, strict=True)),
        tuple(b.source for b in layers), sum(c.layer.mult_adds for c in whole.layers),
        sum(c.weight.size for c in whole.layers if c.weight is not None),
        plan.parameters_bytes, plan.arena_bytes, plan.scratch_bytes)


def code_bytes(library: str | os.PathLike) -> int:
    """Bytes of instructions and read-only data in a shared object."""
    from elftools.elf.elffile import ELFFile

    with open(library, "rb") as file:
        sections = ELFFile(file).iter_sections()
        return sum(s.data_size for s in sections if s.name.startswith((".text", ".rodata")))


def key_of(layer: str, decisions: dict) -> tuple[str, str]:
    """What a price is kept under."""
    return layer, json.dumps(decisions, sort_keys=True)


def price_networks(
    networks: Iterable[ModelOptions],
    target,
    board: str = "virtual",
    *,
    prices: Path,
    log: Path | None = None,
    workers: int = 2,
    linker: str | None = None,
    debug: bool = False,
    show: Callable[[int, int, int, int], None] = lambda outlined, networks, priced, kernels: None,
) -> list[Cost]:
    """The cost of each network on a board.

    Parameters
    ----------
    networks : iterable of ModelOptions
    target : targets.Target
    prices : path
        The file of prices: what is in it is not run again, what is run is added.
    log : path, optional
        The user's tune log, consulted before the shipped one.
    show : callable
        Called now and then with how many networks are outlined, of how many, and how many kernels priced, of how many.

    Returns
    -------
    list of Cost
        In the order of ``networks``.

    Raises
    ------
    BoardError
        A network cannot be outlined, or one of its kernels not be run.
    """
    networks, journal = list(networks), Journal(prices, Price)
    same = {"core": target.core.name, "target": target_key(target), "board": board, "schedule": fingerprint()}
    known = {key_of(r.layer, r.decisions): r for r in journal.records()
             if r.whole and all(getattr(r, name) == value for name, value in same.items())}
    outlines: dict[ModelOptions, Outline] = {}
    wanted: set = set()
    waiting = deque(_OutlineJob(options) for options in dict.fromkeys(networks))
    bench = Bench(target, board, linker, log)
    with Workers(bench, workers if board == "virtual" else 1, JOB_SECONDS, debug) as pool:
        while waiting or pool.busy:
            while waiting and pool.idle:
                pool.submit(waiting.popleft())
            for done in pool.wait(1.0):
                if done.failure:
                    what = done.job.options.title if isinstance(done.job, _OutlineJob) else done.job.layer
                    raise BoardError(f"{what} on {target.name}: {done.failure}", "--debug shows what the worker wrote")
                if isinstance(done.job, _OutlineJob):
                    outlines[done.job.options] = done.value
                    keys = {key_of(layer, decisions) for layer, decisions, _ in done.value.kernels} - wanted
                    wanted |= keys
                    waiting += [_KernelJob(*key) for key in sorted(keys - known.keys())]
                else:
                    price = Price.from_json(replace(done.value, **same).to_json())  # as it is read again
                    journal.append(price)
                    known[key_of(price.layer, price.decisions)] = price
            show(len(outlines), len(set(networks)), len(wanted & known.keys()), len(wanted))
    return [_cost(outlines[options], known) for options in networks]


def _cost(network: Outline, known: dict) -> Cost:
    one = every = 0.0
    kinds: dict[str, float] = {}
    size = 0
    for layer, decisions, count in network.kernels:
        price = known[key_of(layer, decisions)]
        one, every, size = one + count * price.cost, every + count * price.cost_all_cores, size + price.code_bytes
        kind = layer.split(" ", 1)[0]
        kinds[kind] = kinds.get(kind, 0.0) + count * price.cost
    return Cost(network, one, every, price.unit, size, kinds)
