"""How a search scales: real candidates on 1, 2 and 4 workers of this machine, simulated ones on 64 and 512.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --real 1,2 --simulated 64 --jobs 4
    python -m benchmarks.scaling --real "" --simulated ""    # only the log of trials: a second

Real: `dask worker` processes build, run and check the same candidates, each compiled again. Simulated: a job sleeps as
long as a real one took (`benchmarks/data/search_cortex-a72.jsonl`), in workers that are registered with a real
scheduler one by one, several in a process; all other code is that of a search. So these runs measure the scheduler and
its client, not the machine's cores.

The table shows jobs a second, speed-up (the sum of the jobs' own seconds over the elapsed time), its share of the
workers, CPU time of the scheduler and of this process for each job, and bytes for each job: those of job and result,
and those that this process sent and received over TCP. The last line is the CPU time for a line of the log, appended as
a search appends its trials.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import pickle
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tvm_mobilenet.tuning.candidate import Candidate, Outcome
from tvm_mobilenet.tuning.runner import Evaluate
from tvm_mobilenet.tuning.workers import Done, keep_busy

ROOT = Path(__file__).resolve().parents[1]
TOOK = ROOT / "benchmarks" / "data" / "search_cortex-a72.jsonl"
PROCESSES = 4  # processes with simulated workers
WORKERS = 10_000  # number of workers in the last lines
START_SECONDS = 1200.0


@dataclass(frozen=True)
class Row:
    """One run; CPU time and bytes are for one job."""

    kind: str
    workers: int
    jobs: int
    job_seconds: float
    jobs_a_second: float
    speed_up: float
    share: float
    scheduler_ms: float
    here_ms: float
    scheduler_share: float
    payload_bytes: float
    wire_bytes: float


class Fresh(Evaluate):
    """Compiles every candidate again, so that every run does the same work."""

    def prepare(self) -> None:
        from tvm_mobilenet.tuning.builder import Builder

        super().prepare()
        self.builder = Builder(self.target, self.linker, fresh=True)


class Sleeps:
    """Replaces a worker's process; a job is the time that it sleeps."""

    resident = 0

    def __init__(self, *_):
        self._job = None

    def submit(self, job: bytes) -> None:
        self._job = job

    def wait(self, timeout: float) -> list[Done]:
        from tvm_mobilenet.cluster import task

        if self._job == task.FACTS:
            return [Done(self._job, json.dumps({}), "", 0.0)]
        seconds = pickle.loads(self._job)[1]
        time.sleep(seconds)
        outcome = Outcome(123456.789 * seconds, "cycles", True, 1e-7, 34567.8, 98765.4, 12345.6, 1.0, "0123456789ab")
        return [Done(self._job, json.dumps(asdict(outcome)), "", seconds)]

    def close(self) -> None:
        pass


class Slept(Evaluate):
    """Takes results of jobs that slept."""

    compiles = False


def jobs_of_sleep(count: int) -> list[tuple[Candidate, float]]:
    """Candidates with times drawn from the record."""
    rows = [json.loads(line) for line in TOOK.read_text().splitlines()]
    drawn = random.Random(1).choices(rows, k=count)
    return [(Candidate(row["layer"], row["decisions"], True), row["seconds"]) for row in drawn]


def real_jobs(target, count: int) -> list[Candidate]:
    """Candidates of the layers of v1 0.25-128, the first of each layer in turn."""
    import itertools

    from tvm_mobilenet import schedules
    from tvm_mobilenet.compiler import pipeline
    from tvm_mobilenet.models.options import ModelOptions
    from tvm_mobilenet.survey.estimates import weightless

    network = weightless(ModelOptions(model="v1", alpha=0.25, resolution=128))
    layers = [layer for layer in pipeline.for_core(network.graph, target.core).counts if layer.body is None]
    points = [[(layer.name, p) for p in schedules.space(layer, target.core).points()] for layer in layers]
    turns = itertools.zip_longest(*(random.Random(0).sample(p, min(len(p), count)) for p in points))
    return [Candidate(*one, True) for one in itertools.chain.from_iterable(turns) if one][:count]


# ---- processes


def started(folder: Path, name: str, *command: str) -> subprocess.Popen:
    """Start a Python process with its output in a file."""
    with open(folder / name, "w") as file:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        return subprocess.Popen([sys.executable, "-m", *command], stdout=file, stderr=file, env=environment)


@contextlib.contextmanager
def cluster(commands: list[tuple[str, ...]]):
    """Start a scheduler and processes of workers, in whose commands ``ADDRESS`` is the scheduler's; yield its address
    and process id."""
    running = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            where = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
            running.append(started(folder, "scheduler", "distributed.cli.dask_scheduler", *where))
            end = time.monotonic() + START_SECONDS
            while not (found := re.search(r"Scheduler at:\s+(tcp://\S+)", (folder / "scheduler").read_text())):
                if time.monotonic() > end or running[0].poll() is not None:
                    raise RuntimeError((folder / "scheduler").read_text())
                time.sleep(0.1)
            for i, command in enumerate(commands):
                running.append(started(folder, f"{i}", *(word.replace("ADDRESS", found[1]) for word in command)))
            yield found[1], running[0].pid
        finally:
            for process in running:
                process.kill()
                process.wait()


def hold(address: str, count: int, name: str) -> None:
    """Hold workers in this process, whose jobs sleep, until it is killed."""
    from distributed import Worker

    from tvm_mobilenet.cluster import task

    task.Workers = Sleeps

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            how = {"nthreads": 1, "dashboard": False, "local_directory": folder, "memory_limit": 0}
            workers = [Worker(address, name=f"{name}-{i}", **how) for i in range(count)]
            await asyncio.gather(*workers)
            await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(run())


# ---- figures


def cpu_of(pid: int | str) -> float:
    """CPU-seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wire_bytes() -> int:
    """Bytes that this process's TCP connections sent and received; TCP_INFO of linux/tcp.h has them at 120 and 128."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
                found += sum(struct.unpack_from("<QQ", info, 120))
    return found


def measured(kind: str, workers: int, address: str, scheduler: int, evaluate, jobs: list) -> Row:
    """Run jobs on a cluster after all of its workers are connected."""
    from tvm_mobilenet.cluster.workers import DaskWorkers

    with DaskWorkers(address, evaluate, timeout=600.0, say=lambda line: print(line, file=sys.stderr)) as pool:
        end = time.monotonic() + START_SECONDS
        while pool.pace.workers < workers:
            pool._step(0.5)
            if time.monotonic() > end:
                raise RuntimeError(f"{pool.pace.workers} of {workers} workers came")
        waiting, done = list(jobs), []
        sent, wire = pool.pace.bytes, wire_bytes()
        clock = time.monotonic(), cpu_of(scheduler), cpu_of("self")
        keep_busy(pool, lambda: waiting.pop() if waiting else None, done.append)
        wall, theirs, ours = (
            b - a for a, b in zip(clock, (time.monotonic(), cpu_of(scheduler), cpu_of("self")), strict=True)
        )
        failed = [one.failure for one in done if one.failure]
        if failed or len(done) != len(jobs):
            raise RuntimeError(f"{len(done)} of {len(jobs)} jobs ended, {len(failed)} of them failed: {failed[:1]}")
        busy, n = sum(one.seconds for one in done), len(done)
        return Row(
            kind,
            workers,
            n,
            busy / n,
            n / wall,
            busy / wall,
            busy / wall / workers,
            1e3 * theirs / n,
            1e3 * ours / n,
            theirs / wall,
            (pool.pace.bytes - sent) / n,
            (wire_bytes() - wire) / n,
        )


def real(workers: int, jobs: int) -> Row:
    """Real candidates on processes of this machine."""
    from tvm_mobilenet import targets

    target = targets.load("rpi4")
    flags = ("--no-nanny", "--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1")
    command = ("distributed.cli.dask_worker", "ADDRESS", *flags)
    with cluster([command] * workers) as (address, scheduler):
        return measured("real", workers, address, scheduler, Fresh(target), real_jobs(target, jobs))


def simulated(workers: int, jobs: int) -> Row:
    """Jobs that sleep, ``jobs`` for each worker."""
    from tvm_mobilenet import targets

    shares = [workers // PROCESSES + (i < workers % PROCESSES) for i in range(PROCESSES)]
    commands = [("benchmarks.scaling", "--hold", f"{n},ADDRESS,{i}") for i, n in enumerate(shares) if n]
    with cluster(commands) as (address, scheduler):
        evaluate = Slept(targets.load("rpi4"))
        return measured("simulated", workers, address, scheduler, evaluate, jobs_of_sleep(jobs * workers))


def log_line() -> str:
    """The CPU time and bytes of a line, for one writer that appends records which ship for a second of CPU time."""
    from tvm_mobilenet.tune_logs.journal import Journal
    from tvm_mobilenet.tune_logs.log import shipped

    records = list(Journal(shipped("cortex-a72")).records())
    with tempfile.TemporaryDirectory() as folder:
        journal, count, begun = Journal(Path(folder) / "log.trials.jsonl"), 0, time.process_time()
        while (spent := time.process_time() - begun) < 1.0:
            journal.append(records[count % len(records)])
            count += 1
        size = journal.path.stat().st_size / count
    return f"the log: {1e3 * spent / count:.3f} ms of CPU a line of {size:,.0f} bytes, so {count / spent:,.0f} a second"


def limits(rows: list[Row]) -> list[str]:
    """Lines on the number of workers that saturate the scheduler or its client, and on the need of `WORKERS`."""
    slept = [row for row in rows if row.kind == "simulated"]
    if not slept:
        return []
    row = max(slept, key=lambda row: row.workers)
    lines = []
    for who, ms in (("the scheduler", row.scheduler_ms), ("the searching process", row.here_ms)):
        most = 1e3 / ms
        lines.append(
            f"{who}: {ms:.2f} ms of CPU a job, so at most {most:,.0f} jobs a second, as many as "
            f"{most * row.job_seconds:,.0f} workers do"
        )
    ms = max(row.scheduler_ms, row.here_ms)
    needed = WORKERS * ms / 1e3 / row.job_seconds
    lines.append(
        f"{WORKERS:,} workers: {WORKERS / row.job_seconds:,.0f} jobs a second, {needed:.1f} times one core of that"
    )
    return lines


COLUMNS = {
    "workers": "{kind}, {workers}",
    "jobs": "{jobs:,}",
    "seconds a job": "{job_seconds:.2f}",
    "jobs a second": "{jobs_a_second:.1f}",
    "speed-up": "{speed_up:.1f}",
    "of the workers": "{share:.0%}",
    "scheduler, CPU ms a job": "{scheduler_ms:.2f}",
    "its share of a core": "{scheduler_share:.0%}",
    "searching process, CPU ms a job": "{here_ms:.2f}",
    "payload, bytes a job": "{payload_bytes:,.0f}",
    "TCP, bytes a job": "{wire_bytes:,.0f}",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--real", default="1,2,4", help="workers (default: %(default)s)")
    parser.add_argument("--simulated", default="64,512", help="workers (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=48, help="real ones, in all (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=12, help="simulated, a worker (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="the rows, a line each, in place of the table")
    parser.add_argument("--hold", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.hold:
        count, address, name = arguments.hold.split(",")
        hold(address, int(count), name)
        return
    rows = []
    for text, run, jobs in (
        (arguments.real, real, arguments.candidates),
        (arguments.simulated, simulated, arguments.jobs),
    ):
        for workers in (int(part) for part in text.split(",") if part):
            load = os.getloadavg()[0]
            rows.append(run(workers, jobs))
            print(f"{rows[-1].kind}, {workers} workers: load {load:.1f} before", file=sys.stderr, flush=True)
    if arguments.json:
        print("\n".join(json.dumps(asdict(row)) for row in rows))
        return
    if rows:
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
        for row in rows:
            print("| " + " | ".join(form.format(**asdict(row)) for form in COLUMNS.values()) + " |")
        print()
    print("\n".join([*limits(rows), log_line()]))


if __name__ == "__main__":
    from benchmarks import scaling  # workers unpickle classes under this name

    scaling.main()
