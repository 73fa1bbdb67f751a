"""Checks of the way to a board, step by step: name, port, tracker, key, session, versions, features,
upload, a kernel, its result, timing noise, throttling, disk, memory."""

from __future__ import annotations

import time
from pathlib import Path

from tvm_mobilenet.boards import address as addresses
from tvm_mobilenet.boards.remote import plain
from tvm_mobilenet.diagnosis.checks import Checks, Doubt
from tvm_mobilenet.diagnosis.local import LEAST_FREE, run_probe
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.measuring.conditions import throttling

UPLOAD_BYTES = 4 << 20
SLOW_UPLOAD = 1e6  # bytes a second, at which a network's parameters take a quarter of a minute
RUNS, NOISE = 10, 0.1  # runs of the probe; tolerated gap between the median and the fastest
LEAST_MEMORY = 128 << 20  # bytes
WARM_C = 75.0  # a Raspberry Pi slows down at 80


def check_board(checks: Checks, where: addresses.Address, target, folder: Path) -> None:
    """Run all checks of the way to a board that measures.

    Parameters
    ----------
    where : Address
        ``local`` or a remote one.
    target : targets.Target
        The target that the board should match.
    folder : path
        Holds the probe, ``kernel.so``, built for the target.
    """
    checks.unforeseen = BoardError.exit_code  # errors here are the board's
    last: tuple[str, ...] = ()
    if where.kind in ("rpc", "tracker"):
        checks.run("name", lambda: _name(where))
        checks.run("port", lambda: _port(where), ("name",))
        last = ("port",)
    if where.kind == "tracker":
        checks.run("tracker", lambda: _tracker(where), last)
        checks.run("key", lambda: _key(where), ("tracker",))
        checks.run("free boards", lambda: _free(where), ("key",))
        last = ("free boards",)
    opened: list = []

    def session() -> str:
        from tvm_mobilenet.boards import open_board

        opened.append(open_board(where.text, target))
        return f"opened with {getattr(opened[0], 'where', 'this machine')}"

    checks.run("session", session, last)
    try:
        _checks_of_session(checks, opened[0] if opened else None, target, folder)
    finally:
        for board in opened:
            board.close()


def _checks_of_session(checks: Checks, board, target, folder: Path) -> None:
    facts: dict = {}
    runs: list = []

    def agent() -> str:
        if not board.has_agent:
            raise Doubt(
                "TVM's own RPC server: it does not tell its versions, features, temperature, disk and memory",
                plain.REMEDY,
            )
        facts.update(board.service("facts", {}))
        return ", ".join(str(facts[k]) for k in ("model", "cpu", "system", "kernel") if facts.get(k))

    def kernel() -> str:
        for _ in range(RUNS):
            runs.append(run_probe(board, target, folder))
        return f"{min(run.cost for run in runs) * 1e6:.3g} us on 1 thread"

    checks.run("agent", agent, ("session",))
    known = ("agent",) if facts else ("the agent",)  # no check has this name, so checks that need it are not reached
    checks.run("versions", lambda: _versions(facts), known)
    checks.run("features", lambda: _features(facts, target), (*known, "tvm"))
    checks.run("upload", lambda: _upload(board, folder), ("session",))
    checks.run("kernel", kernel, ("upload", "linker"))
    checks.run(
        "result", lambda: f"right, {max(run.difference for run in runs):.0e} of the standard deviation off", ("kernel",)
    )
    checks.run("timing noise", lambda: _noise([run.cost for run in runs]), ("kernel",))
    checks.run("throttling", lambda: _throttling(board.service("state", {})), known)
    checks.run("disk", lambda: _enough("temporary folder", facts["disk_free_bytes"], LEAST_FREE), known)
    checks.run("memory", lambda: _enough("memory", facts["memory_available_bytes"], LEAST_MEMORY), known)


def _name(where) -> str:
    from tvm_mobilenet.boards import wire

    return f"{where.host} is {wire.resolve(where.host, where.port)[0]}"


def _port(where) -> str:
    from tvm_mobilenet.boards import wire

    start = time.perf_counter()
    wire.dial(where.host, where.port).close()
    return f"{where.endpoint} answers in {(time.perf_counter() - start) * 1e3:.1f} ms"


def _tracker(where) -> str:
    from tvm_mobilenet.boards import wire

    with wire.Tracker(where.host, where.port, where.trusted) as tracker:
        known = tracker.boards()
    return ", ".join(f"{key}: {len(v['addresses'])}" for key, v in sorted(known.items())) or "has no boards"


def _key(where) -> str:
    from tvm_mobilenet.boards import wire

    with wire.Tracker(where.host, where.port, where.trusted) as tracker:
        return f"{where.key}: {len(tracker.known(where.key)[where.key]['addresses'])} boards"


def _free(where) -> str:
    from tvm_mobilenet.boards import wire

    with wire.Tracker(where.host, where.port, where.trusted) as tracker:
        found = tracker.known(where.key)[where.key]
    if not found["free"]:
        raise Doubt(
            f"none of {len(found['addresses'])}, {found['pending']} clients wait before you",
            "wait for other sessions to end; on the board, the agent's --session-limit ends forgotten ones",
        )
    return f"{found['free']} of {len(found['addresses'])}"


def _versions(facts: dict) -> str:
    from tvm_mobilenet.boards.agent.facts import versions

    here, there = versions(), facts["versions"]
    for package in ("apache-tvm", "apache-tvm-ffi", "tvm_mobilenet"):
        if here[package] != there.get(package):
            ours = package == "tvm_mobilenet"  # which no package index has
            install = "--board ssh://user@host installs this one there; docs/guides/boards.md tells how to by hand"
            raise BoardError(
                f"{package} {there.get(package) or 'missing'} there, {here[package]} here",
                install if ours else f"on the board: pip install '{package}=={here[package]}'",
            )
    return ", ".join(f"{p} {v}" for p, v in here.items() if p != "numpy") + " on both sides"


def _features(facts: dict, target) -> str:
    from tvm_mobilenet.boards import needs
    from tvm_mobilenet.targets import features

    if missing := needs.missing(target, facts["features"]):
        raise BoardError(
            f"{target.name}'s code needs {', '.join(missing)}, which {facts['cpu'] or 'the CPU'} lacks",
            "build with the --target of this board; `arm` needs no optional feature",
        )
    wanted = features.features(target)
    return ", ".join(wanted) + " are there" if wanted else f"{target.name}'s code needs none"


def _upload(board, folder: Path) -> str:
    path = folder / "upload.bin"
    path.write_bytes(bytes(range(256)) * (UPLOAD_BYTES // 256))
    start = time.perf_counter()
    if board.upload(path) == str(path):
        return "nothing to send: the board is this machine"
    rate = UPLOAD_BYTES / (time.perf_counter() - start)
    if rate < SLOW_UPLOAD:
        raise Doubt(f"{rate / 1e6:.2f} MB/s", "use a cable in place of wireless; measurements are not slowed by it")
    return f"{rate / 1e6:.1f} MB/s"


def _noise(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    spread = ordered[len(ordered) // 2] / ordered[0] - 1
    if spread > NOISE:
        raise Doubt(
            f"the median of {len(ordered)} timings is {spread:.0%} above the fastest",
            "end what else runs on the board; governor performance; compare by --compare with repeats",
        )
    return f"the median of {len(ordered)} timings is {spread:.1%} above the fastest"


def _throttling(state: dict) -> str:
    if marks := throttling([state, state]):
        raise Doubt(marks[0].text.replace(" while measuring", " now"), marks[0].remedy)
    if since := state.get("throttled_since_boot"):
        raise Doubt(f"not now, but since boot: {', '.join(since)}", "cool the board, check its supply; then restart it")
    warmth = state.get("temperature_c")
    if warmth is not None and warmth > WARM_C:
        raise Doubt(f"not yet, at {warmth:.0f} °C", "a heat sink or fan: a Raspberry Pi slows down at 80 °C")
    told = f"no, says {state['throttling_from']}" if state.get("throttling_from") else "nothing on the board tells"
    return told + (f"; {warmth:.0f} °C" if warmth is not None else "")


def _enough(what: str, there: int | None, least: int) -> str:
    if there is None:
        return "the system does not tell"
    if there < least:
        raise Doubt(f"{what}: {there >> 20:,} MiB free", f"make room: less than {least >> 20:,} MiB")
    return f"{there >> 20:,} MiB free"
