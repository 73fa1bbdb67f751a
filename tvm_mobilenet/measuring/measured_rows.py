"""The rows of a benchmark, from a board that measures or from the virtual board.

A board with the agent, and this machine, measure by their services (``boards.agent.measure``). Each row has its own
processes there, so that the memory figures cover only the network. Files are sent before any timing, and the time of
the upload is reported separately.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.build_identity import file_hash
from tvm_mobilenet.compiler.kept import using_its_files
from tvm_mobilenet.compiler.plan import inputs_of
from tvm_mobilenet.errors import BoardError, TvmMobilenetError
from tvm_mobilenet.measuring.benchmark import Benchmark, LayerTime, Peer, Row
from tvm_mobilenet.measuring.conditions import Mark, load_mark, marks_of
from tvm_mobilenet.measuring.statistics import Statistics

COOLED_C = 3.0  # a row begins at most this much warmer than the first
COOL_DOWN_TIMES = 10  # limit of this wait, in cool-downs
LAYERS_SHARE = 0.4  # share of a row's seconds for its layers


class Files:
    """A built module's files on a board, and the time of their upload.

    Attributes
    ----------
    paths : dict of str to str
        The files that the runtime needs: ``library`` and ``parameters``; for TVM's runtime ``module`` (the kernels),
        ``plan``, ``parameters`` and, if the network runs as a whole, ``executable``.
    upload : dict or None
        ``bytes`` and ``seconds``; None if nothing was sent.
    """

    def __init__(self, board, module, runtime: str = "own"):
        parameters = module.folder / built.PARAMETERS
        if runtime == "own" and board.has_agent and module.runtime:
            files = {"library": module.runtime, "parameters": parameters}
        else:
            files = {"module": module.library, "plan": module.folder / built.PLAN, "parameters": parameters}
        if runtime == "tvm" or module.is_earlier:
            files["executable"] = module.executable
        start = time.perf_counter()
        self.paths = {name: board.upload(file) for name, file in files.items()}
        seconds = time.perf_counter() - start
        sent = {file for name, file in files.items() if self.paths[name] != str(file)}
        self.upload = {"bytes": sum(p.stat().st_size for p in sent), "seconds": seconds} if sent else None


@dataclass(frozen=True)
class Asked:
    """The measurement that ``bench.bench`` was asked for: numbers of threads, seconds, CPUs."""

    threads: Sequence[int]
    seconds: float
    cool_down: float
    cpus: Sequence[int] | None
    layers: bool


@using_its_files
def measured(
    board,
    module,
    target,
    how: Asked,
    *,
    peers: dict[str, dict],
    show: Callable[[str], None],
    runtime: str = "own",
) -> Benchmark:
    """Measure a built module on an open board: by its services, or with TVM's own functions if it has no agent.

    Parameters
    ----------
    board : LocalBoard or RemoteBoard
    module : built.BuiltModule
    peers : dict of str to dict
        Contenders by engine, as ``boards.agent.engines`` takes them with paths on this machine
        (``peers.files.contenders``), or
        ``{"missing": why}``.

    ``show`` is that of ``bench.bench``.
    """
    from tvm_mobilenet.boards.remote import plain

    threads, seconds, cpus = how.threads, how.seconds, how.cpus

    board = plain.serving(board)
    facts = board.service("facts", {})
    if peers and not board.has_agent:  # before files are sent
        raise BoardError(f"{board.name}: --against needs the agent there", plain.REMEDY)
    files = Files(board, module, runtime)
    if files.upload:
        show(f"sent {files.upload['bytes']:,} bytes in {files.upload['seconds']:.2f} s")
    others = {engine: _sent(board, contender) for engine, contender in peers.items()}
    first, rows, beside = facts["state"], [], []
    for i, count in enumerate(threads):
        if i:
            _cool_down(board, first, how.cool_down, show)
        show(f"{count} thread{'s' * (count > 1)}: measuring for {seconds * (1 + len(others)):g} s")
        common = {"inputs": inputs_of(module.plan), "threads": count, "cpus": list(cpus) if cpus else None}
        ours = {"engine": "tvm_mobilenet" if "library" in files.paths else "tvm", **files.paths}
        asked = [ours, *(c for c in others.values() if "engine" in c)]
        found = board.service("measure", {**common, "contenders": asked, "seconds": seconds})
        ours, *rest = found["contenders"]
        timed = None
        if how.layers:
            timed = board.service("measure_layers", {**common, **files.paths, "seconds": LAYERS_SHARE * seconds})
        rows.append(_row(count, ours, found["states"], module.plan, timed, facts, first=not i))
        if not i and not board.has_agent:
            rows[0].marks.append(Mark("agent", plain.MISSING, plain.REMEDY))
        results = iter(rest)
        for engine, contender in others.items():
            result = next(results) if "engine" in contender else contender
            beside.append(_peer(engine, count, result, ours, contender))
    return _benchmark(
        module,
        target,
        board.name,
        False,
        facts,
        rows,
        beside,
        files.upload,
        {"seconds": seconds, "cool_down": how.cool_down, "cpus": list(cpus) if cpus else None, "runtime": runtime},
    )


@using_its_files
def predicted(module, target, threads: Sequence[int], show: Callable[[str], None]) -> Benchmark:
    """A benchmark record with the virtual board's predictions."""
    from tvm_mobilenet.measuring.predicted import predict

    if wrong := [n for n in threads if n > target.cores]:
        raise TvmMobilenetError(
            f"--threads {wrong[0]}: target {target.name} has {target.cores} cores",
            "predictions are made for a thread a core",
        )
    show(f"running {len(module.plan.steps)} kernels on the virtual board")
    rows = []
    for count, times in predict(module, target, threads).items():
        seconds = [time.seconds for time in times]
        layers = [LayerTime(s.name, s.layer, t, t) for s, t in zip(module.plan.steps, seconds, strict=True)]
        rows.append(Row(count, Statistics.of([sum(seconds)]), layers=layers))
    facts = {
        "model": target.title,
        "architecture": target.architecture,
        "cpu": target.core.title,
        "cores": target.cores,
        "clock_hz": target.clock_hz,
        "memory_bytes": target.memory_bytes,
    }
    return _benchmark(module, target, "virtual", True, facts, rows, [], None, {})


def _benchmark(module, target, board, is_predicted, facts, rows, peers, upload, options) -> Benchmark:
    from tvm_mobilenet.boards.agent.facts import versions

    plan = module.plan
    return Benchmark(
        model=module.info["model"],
        target=target.name,
        board=board,
        predicted=is_predicted,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        module={
            "folder": str(module.folder),
            "sha256": file_hash(module.library),
            "bytes": module.module_bytes,
            "arena_bytes": plan.arena_bytes,
            "scratch_bytes": plan.scratch_bytes,
            "parameters_bytes": plan.parameters_bytes,
            "versions": module.info.get("versions", {}),
        },
        environment={
            "board": facts,
            "client": {
                "versions": versions(),
                "python": platform.python_version(),
                "kernel": platform.release(),
                "architecture": platform.machine(),
                "hostname": platform.node(),
                "command": sys.argv[1:],
            },
        },
        rows=rows,
        peers=peers,
        upload=upload,
        options=options,
    )


def _row(count: int, ours: dict, states: list[dict], plan, timed: dict | None, facts: dict, first: bool) -> Row:
    samples = [s for each in ours["rounds"] for s in each]
    found = Statistics.of(samples)
    marks = marks_of(states, found, ours["warm_up"]["steady"], facts.get("clock_hz"))
    if first and (loaded := load_mark(facts)):
        marks.append(loaded)
    if count > (facts.get("cores") or count):
        marks.append(Mark("threads", f"{count} threads share {facts['cores']} cores", "ask for as many as there are"))
    layers = []
    if timed is not None:
        less = timed["overhead_seconds"]
        for step, times in zip(plan.steps, timed["seconds"], strict=True):
            layers.append(
                LayerTime(step.name, step.layer, max(0.0, statistics.median(times) - less), max(0.0, min(times) - less))
            )
    return Row(
        count,
        found,
        ours["number"],
        len(samples),
        {k: v for k, v in ours["warm_up"].items()},
        ours["load_seconds"],
        ours["rss_initial"],
        ours["rss_loaded"],
        ours["rss_peak"],
        layers,
        samples,
        states,
        marks,
    )


def _peer(engine: str, count: int, result: dict, ours: dict, contender: dict) -> Peer:
    if why := result.get("missing") or result.get("failed"):
        return Peer(engine, count, missing=why)
    kernels = result.get("kernels", "")
    if contender.get("dtype", "float32") != "float32" and not kernels:
        return Peer(engine, count, missing="the agent there does not say which kernels ran: install this version there")
    ratios = sorted(
        statistics.median(theirs) / statistics.median(own)
        for theirs, own in zip(result["rounds"], ours["rounds"], strict=True)
    )
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    time_of = Statistics.of([s for each in result["rounds"] for s in each])
    told = {"difference": result["difference"], "rss_peak": result["rss_peak"], "kernels": kernels}
    return Peer(engine, count, result["version"], time_of, middle, low, high, **told)


def _sent(board, contender: dict) -> dict:
    """A contender with its files on the board."""
    return {key: board.upload(value) if key in ("model", "param", "bin") else value for key, value in contender.items()}


def _cool_down(board, first: dict, seconds: float, show: Callable[[str], None]) -> None:
    """Wait; if the board reports its temperature, wait until it is near the temperature before the first row."""
    for i in range(COOL_DOWN_TIMES if seconds else 0):
        time.sleep(seconds)
        now, before = board.service("state", {}).get("temperature_c"), first.get("temperature_c")
        if now is None or before is None or now <= before + COOLED_C:
            return
        if not i:
            show(f"cooling down: {now:.0f} °C, {before:.0f} °C before the first row")


@using_its_files
def check_timing(board, module, threads: int, seconds: float, rounds: int = 20) -> dict:
    """A comparison of our samples with TVM's ``time_evaluator``, alternating in one process.

    Returns
    -------
    dict
        ``ratios``: ours over TVM's, one for each round; ``median`` of these; ``ours``, ``time_evaluator``: median
        seconds of a run.
    """
    found = board.service(
        "check_timing",
        {
            "executable": board.upload(module.executable),
            "inputs": inputs_of(module.plan),
            "threads": threads,
            "seconds": seconds,
            "rounds": rounds,
        },
    )
    if len(found["ours"]) != rounds:
        raise BoardError(f"{board.name}: {len(found['ours'])} rounds of {rounds}", "the agent is of another version")
    ratios = [a / b for a, b in zip(found["ours"], found["time_evaluator"], strict=True)]
    return {
        "median": statistics.median(ratios),
        "ratios": ratios,
        "number": found["number"],
        "repeat": found["repeat"],
        **{k: statistics.median(found[k]) for k in ("ours", "time_evaluator")},
    }
