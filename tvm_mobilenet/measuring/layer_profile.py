"""The cost of every kernel call of a network beside its lower bound: the record behind ``profile``, and its trace."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tvm_mobilenet.compiler.kept import using_its_files
from tvm_mobilenet.compiler.plan import inputs_of
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.measuring.roofline import Roofline, rooflines
from tvm_mobilenet.terminal.titles import title

SCHEMA = "tvm_mobilenet.profile/1"


@dataclass(frozen=True)
class LayerProfile:
    """One kernel call.

    Attributes
    ----------
    seconds : float
        The median of its passes, or the prediction.
    share : float
        Its share of the sum of all calls.
    mult_adds : int
        Multiply-adds, as the papers count them.
    gflops : float or None
        With two operations per multiply-add; None without multiply-adds.
    roofline : Roofline
    multiple : float or None
        ``seconds`` over the roofline's.
    decisions : dict
        The decisions of its schedule; ``source`` is the log that they come from, or ``default``.
    predicted, predicted_compute : float or None
        Predicted seconds, if the virtual board has the target, and their compute part.
    """

    position: int
    name: str
    kind: str
    shape: str
    layer: str
    seconds: float
    share: float
    mult_adds: int
    gflops: float | None
    roofline: Roofline
    multiple: float | None
    decisions: dict
    source: str
    predicted: float | None = None
    predicted_compute: float | None = None

    @property
    def binds(self) -> str:
        return self.roofline.binds


@dataclass(frozen=True)
class KindProfile:
    """All kernel calls of one kind."""

    kind: str
    calls: int
    seconds: float
    share: float
    gflops: float | None
    multiple: float | None
    predicted: float | None


@dataclass(frozen=True)
class Profile:
    """The result of one run of ``profile``.

    Attributes
    ----------
    is_predicted : bool
        Whether the seconds are predicted by the virtual board.
    starts : list of list of float
        For each traced pass, the start of each call, in seconds since the first call.
    passes : list of list of float
        For each traced pass, the duration of each call.
    notes : list of str
        Remarks about the figures.
    """

    model: dict
    target: str
    board: str
    threads: int
    is_predicted: bool
    layers: list[LayerProfile]
    kinds: list[KindProfile]
    seconds: float
    environment: dict
    notes: list[str] = field(default_factory=list)
    starts: list[list[float]] = field(default_factory=list)
    passes: list[list[float]] = field(default_factory=list)
    schema: str = SCHEMA

    @property
    def how(self) -> str:
        return "predicted" if self.is_predicted else "measured"


@using_its_files
def profile_of(
    board, module, target, threads: int, seconds: float, show: Callable[[str], None], runtime: str = "own"
) -> Profile:
    """Profile a built module on an open board.

    Parameters
    ----------
    board : VirtualBoard, LocalBoard or RemoteBoard
    module : built.BuiltModule
    threads : int
    seconds : float
        Time to spend on passes over the layers, on a board that measures.
    show : callable
        Called with a line of progress now and then.
    runtime : str
        ``own``, or ``tvm``: TVM's runtime calls the kernels.
    """
    from tvm_mobilenet.measuring.predicted import predict

    plan, facts, notes, starts, passes = module.plan, {}, [], [], []
    if measured := board.measures:
        from tvm_mobilenet.boards.remote import plain
        from tvm_mobilenet.measuring.measured_rows import Files

        board = plain.serving(board)
        facts = board.service("facts", {})
        show(f"{threads} thread{'s' * (threads > 1)}: passing over {len(plan.steps)} kernels for {seconds:g} s")
        found = board.service(
            "measure_layers",
            {**Files(board, module, runtime).paths, "inputs": inputs_of(plan), "threads": threads, "seconds": seconds},
        )
        empty = found["overhead_seconds"]
        times = [max(0.0, statistics.median(each) - empty) for each in found["seconds"]]
        starts = found["starts"]
        passes = [[each[i] for each in found["seconds"]] for i in range(len(starts))]
        if not board.has_agent:
            notes.append(f"{plain.MISSING}; {plain.REMEDY}")
        if not found["steady"]:
            notes.append("the times had not settled when warm-up ended: end what else runs on the board")
        if slowed := found["state"].get("throttled"):
            notes.append(f"the board was slowed down: {', '.join(slowed)}")
    predicted = None
    clock = facts.get("clock_hz")
    if target.core.model:
        show(f"predicting {len(plan.steps)} kernels on the virtual board")
        predicted = predict(module, target, [min(threads, target.cores)], clock)[min(threads, target.cores)]
    if not measured:
        times = [each.seconds for each in predicted]
        starts, passes = [_ends(times)], [times]
    if target.is_host:
        notes.append(
            f"this machine's ceilings are assumed: {target.core.fma_per_cycle:g} vectors of "
            f"{target.core.vector_bytes} bytes a cycle at {(clock or target.clock_hz) / 1e9:g} GHz, "
            f"{target.dram_bytes_per_second / 1e9:g} GB/s"
        )
    layers = _layers(module, rooflines(plan, target, threads, clock, fills=not measured), times, predicted)
    return Profile(
        module.info["model"],
        target.name,
        board.name if measured else "virtual",
        threads,
        not measured,
        layers,
        kinds_of(layers),
        sum(times),
        {"board": facts},
        notes,
        starts,
        passes,
    )


def _layers(module, ceilings: Sequence[Roofline], times, predicted) -> list[LayerProfile]:
    built_layers = {b.layer: b for b in module.layers}
    whole, found = sum(times), []
    for i, (step, ceiling, t) in enumerate(zip(module.plan.steps, ceilings, times, strict=True)):
        layer, b = Layer.parse(step.layer), built_layers[step.layer]
        _, _, shape = title(step.layer).partition(" ")
        found.append(
            LayerProfile(
                i,
                step.name,
                layer.kind,
                shape,
                step.layer,
                t,
                t / whole if whole else 0.0,
                layer.mult_adds,
                _gflops(layer.mult_adds, t),
                ceiling,
                t / ceiling.seconds if ceiling.seconds else None,
                b.decisions,
                b.source,
                *(predicted[i] if predicted else ()),
            )
        )
    return found


def kinds_of(layers: Sequence[LayerProfile]) -> list[KindProfile]:
    """The kinds of layers, the most expensive first; a kind's multiple is that of its sums."""
    found = []
    for kind in dict.fromkeys(layer.kind for layer in layers):
        own = [layer for layer in layers if layer.kind == kind]
        seconds, least = sum(x.seconds for x in own), sum(x.roofline.seconds for x in own)
        predicted = None if any(x.predicted is None for x in own) else sum(x.predicted for x in own)
        found.append(
            KindProfile(
                kind,
                len(own),
                seconds,
                sum(x.share for x in own),
                _gflops(sum(x.mult_adds for x in own), seconds),
                seconds / least if least else None,
                predicted,
            )
        )
    return sorted(found, key=lambda k: -k.seconds)


def _gflops(mult_adds: int, seconds: float) -> float | None:
    return 2 * mult_adds / seconds / 1e9 if mult_adds and seconds else None


def _ends(times: Sequence[float]) -> list[float]:
    """The start of each call if calls follow each other without a gap."""
    begins = [0.0]
    for t in times[:-1]:
        begins.append(begins[-1] + t)
    return begins


def trace(profile: Profile) -> dict:
    """The passes in Chrome's trace event format, which Perfetto and chrome://tracing show.

    Complete events (``"ph": "X"``) with microseconds, as "Trace Event Format" by the Chromium project has them.
    """
    named = {"process_name": f"{profile.target}, board {profile.board}", "thread_name": f"kernels, {profile.how}"}
    events = [{"ph": "M", "pid": 1, "tid": 1, "name": key, "args": {"name": value}} for key, value in named.items()]
    for n, (starts, took) in enumerate(zip(profile.starts, profile.passes, strict=True)):
        events.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": 1,
                "name": f"run {n}",
                "cat": "run",
                "ts": starts[0] * 1e6,
                "dur": (starts[-1] + took[-1] - starts[0]) * 1e6,
                "args": {},
            }
        )
        for layer, start, t in zip(profile.layers, starts, took, strict=True):
            arguments = {
                "what": layer.layer,
                "decisions": layer.decisions,
                "from": layer.source,
                "binds": layer.binds,
                "mult_adds": layer.mult_adds,
            }
            events.append(
                {
                    "ph": "X",
                    "pid": 1,
                    "tid": 1,
                    "name": layer.name,
                    "cat": layer.kind,
                    "ts": start * 1e6,
                    "dur": t * 1e6,
                    "args": arguments,
                }
            )
    return {"traceEvents": events, "displayTimeUnit": "ms"}
