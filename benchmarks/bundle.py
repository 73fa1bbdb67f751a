"""Measure the figures of docs/results/bundles.md on this machine: sizes, memory, time to open, and TVM's runtime.

    python -m benchmarks.bundle --alpha 0.25 --resolution 128

Latency is measured in turns, a block of runs through the bundle and one through TVM's runtime, so that both see the
same machine; the kernels are the same machine code. The fastest run of a block counts: for one thread by its CPU time,
which excludes other work on the machine, for more threads by elapsed time. The ratio within a turn is compared.
valgrind counts the share of instructions outside of kernels on one thread, in a build without AVX-512, which valgrind
does not support.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile

from tests.support import bundles
from tvm_mobilenet import targets
from tvm_mobilenet.boards.comparison import KERNEL_TOLERANCE, relative
from tvm_mobilenet.compiler import library
from tvm_mobilenet.compiler.module import EXECUTABLE

RUNTIME_BYTES, LIBRARY_BYTES, RESIDENT_BYTES = 60_000, 1_500_000, 2_000_000
PROGRAM_BYTES = 32_000
OVERHEAD, RUNS, BLOCK = 0.005, 4, 10  # in a small network the check of inputs takes most of the first
_FUNCTION = re.compile(r"^(c?)fn=\((\d+)\)(?: (.*))?$")
_OBJECT = re.compile(r"^(c?)ob=\((\d+)\)(?: (.*))?$")
_COST = re.compile(r"^[+\-*\d]\S* (\d+)$")


def without_avx512():
    """The host's target with AVX2, which valgrind can execute; None if this machine lacks AVX2."""
    host = targets.load("host")
    if host.architecture != "x86_64" or host.core.vector_bytes < 32:
        return None
    core = dataclasses.replace(host.core, vector_registers=16, vector_bytes=32)
    return dataclasses.replace(host, core=core, llvm_cpu="haswell", llvm_attributes=())


def code_bytes(path: Path) -> int:
    """Bytes of code and constants of this project's sources, from an object of a bundle."""
    with path.open("rb") as f:
        sections = ELFFile(f).iter_sections()
        return sum(s["sh_size"] for s in sections if s["sh_flags"] & 2 and s["sh_type"] != "SHT_NOBITS")


def compiled(folder: Path, program: str, out: Path) -> Path:
    """A program of tests/c, linked with a bundle's shared library."""
    command = ["gcc", "-O1", "-I", folder, "-o", out, bundles.C_TESTS / f"{program}.c", folder / "libmobilenet.so"]
    subprocess.run([*map(str, command), f"-Wl,-rpath,{folder}"], check=True)
    return out


def memory_and_open(folder: Path, out: Path, threads: int = 1, mapped: bool = False) -> tuple[int, int, float]:
    """Resident bytes of a whole process after its first run, the bytes that its model needs, and milliseconds of an
    open.

    The model needs weights, arena and the caller's input and output. ``mapped``: weights stay in their file.
    """
    done = subprocess.run([out, folder, str(threads), str(int(mapped))], capture_output=True, text=True, check=True)
    resident, needed, milliseconds = done.stdout.split()
    return int(resident), int(needed), float(milliseconds)


def instructions(folder: Path, work: Path, temporary: Path) -> tuple[int, int]:
    """Instructions of one run from the first of `mobilenet_run` to its last, and those of them in kernels."""
    program = temporary / "instructions"
    sources = [bundles.C_TESTS / "instructions.c", *(work / s for s in (*library.SOURCES, "model.c"))]
    command = ["clang", "-O2", "-fno-math-errno", "-I", work, "-o", program, *sources]
    subprocess.run([*map(str, command), str(work / "kernels.o"), "-lm", "-lpthread"], check=True)
    found = temporary / "callgrind.out"
    command = ["valgrind", "--tool=callgrind", "--toggle-collect=mobilenet_run", f"--callgrind-out-file={found}"]
    subprocess.run([*command, program, str(folder), str(RUNS)], capture_output=True, check=True)
    with (work / "kernels.o").open("rb") as f:
        symbols = ELFFile(f).get_section_by_name(".symtab").iter_symbols()
        kernels = {s.name for s in symbols if s["st_info"]["type"] == "STT_FUNC"}
    return shares(found.read_text(encoding="utf-8"), kernels, program.name)


def shares(text: str, kernels: set[str], program: str) -> tuple[int, int]:
    """All costs and those of kernels in callgrind's file, which lists one place a line under its function.

    A kernel's task has no symbol after LLVM; all other code of ``program`` has one.
    """
    names: dict[str, str] = {}
    objects: dict[str, str] = {}
    current, inside, inclusive, total, ours = "", "", False, 0, 0
    for line in text.splitlines():
        if m := _OBJECT.match(line):
            path = objects.setdefault(m[2], m[3] or "")
            inside = inside if m[1] else path
        elif m := _FUNCTION.match(line):
            name = names.setdefault(m[2], m[3] or "")
            current = current if m[1] else name
        elif line.startswith("calls="):
            inclusive = True  # the next line has the callee's cost, which is counted there
        elif m := _COST.match(line):
            if not inclusive:
                total += int(m[1])
                unnamed = current.startswith("0x") and inside.endswith(f"/{program}")
                ours += int(m[1]) if unnamed or current in kernels else 0
            inclusive = False
    return total, ours


def latencies(made, threads: int, seconds: float) -> list[tuple[float, float]]:
    """Milliseconds of each turn through the bundle and through TVM's runtime, in two processes that alternate."""
    context = multiprocessing.get_context("spawn")
    x = np.ascontiguousarray(made.network.inputs(1)[0][0])
    ends, processes = [], []
    for serve, what in ((_serve_bundle, str(made.folder)), (_serve_tvm, str(made.built / EXECUTABLE))):
        end, theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs, what, x, threads)))
        processes[-1].start()
        ends.append(end)
    outputs = [end.recv() for end in ends]
    assert relative(*map(np.ravel, outputs)) <= KERNEL_TOLERANCE, "the same kernels"
    turns: list[tuple[float, float]] = []
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        took = [0.0, 0.0]
        for side in (0, 1) if len(turns) % 2 else (1, 0):
            time.sleep(0.005)  # until the other's threads sleep
            ends[side].send(BLOCK)
            took[side] = 1e3 * ends[side].recv()
        turns.append((took[0], took[1]))
    for end, process in zip(ends, processes, strict=True):
        end.send(0)
        process.join()
    return turns


def ratio(turns: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Median of the turns' ratios, and its 95 % interval (order statistics)."""
    ratios = sorted(ours / theirs for ours, theirs in turns)
    n = len(ratios)
    off = round(0.98 * n**0.5)
    return ratios[n // 2], ratios[max(0, n // 2 - off)], ratios[min(n - 1, n // 2 + off)]


def _serve_bundle(pipe, folder: str, x, threads: int) -> None:
    raw = np.zeros(x.nbytes + 64, np.uint8)
    aligned = raw[-raw.ctypes.data % 64 :][: x.nbytes].view(np.float32).reshape(x.shape)
    aligned[...] = x
    with bundles.python_interface().Mobilenet(folder, threads=threads) as net:
        out = net.run(aligned)[0]
        pipe.send(out)
        run, handle = net._lib.mobilenet_run, net._handle  # the C interface itself, as TVM's is called by its own
        given, found = ((ctypes.c_void_p * 1)(a.ctypes.data) for a in (aligned, out))
        _answer(pipe, lambda: run(handle, given, found), threads)


def _serve_tvm(pipe, library: str, x, threads: int) -> None:
    import tvm
    from tvm import relax

    os.environ["TVM_NUM_THREADS"] = str(threads)
    machine = relax.VirtualMachine(tvm.runtime.load_module(library), tvm.cpu())
    given, run = tvm.runtime.tensor(x), machine["main"]
    pipe.send(run(given).numpy())
    _answer(pipe, lambda: run(given), threads)


def _answer(pipe, run, threads: int) -> None:
    """Answer requests for a number of runs with the seconds of the fastest, until none are requested."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    while runs := pipe.recv():
        run()
        times = [clock()]
        for _ in range(runs):
            run()
            times.append(clock())
        pipe.send(min(b - a for a, b in itertools.pairwise(times)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--alpha", type=float, default=0.25)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20, help="for each number of threads")
    args = parser.parse_args()
    made = bundles.made(alpha=args.alpha, resolution=args.resolution, executable=True)
    print(f"runtime            {code_bytes(made.work / 'runtime.o')} bytes (at most {RUNTIME_BYTES})")
    print(f"the program's      {code_bytes(made.work / 'program.o')} bytes (at most {PROGRAM_BYTES})")
    print(f"libmobilenet.so    {len(made.bundle.files['libmobilenet.so'])} bytes (at most {LIBRARY_BYTES})")
    with tempfile.TemporaryDirectory() as temporary:
        program = compiled(made.folder, "resident", Path(temporary) / "resident")
        for threads, mapped in itertools.product((1, 2, 4), (False, True)):
            resident, needed, milliseconds = memory_and_open(made.folder, program, threads, mapped)
            above = f"{resident - needed} above need (at most {RESIDENT_BYTES})"
            name = f"{threads} thread{'s' * (threads > 1)}{', mapped' * mapped}"
            print(f"{name:<18} {resident} bytes resident, {above}; open {milliseconds:.3f} ms")
        sys.stdout.flush()
        if target := without_avx512():
            narrow = bundles.made(target, args.alpha, args.resolution)
            total, kernels = instructions(narrow.folder, narrow.work, Path(temporary))
            share = 1 - kernels / total
            print(f"outside kernels    {share:.3%} of {total // RUNS} instructions a run (at most {OVERHEAD:.1%})")
    for threads in sorted({1, min(2, os.cpu_count() or 1)}):
        turns = latencies(made, threads, args.seconds)
        ours, theirs = (min(side) for side in zip(*turns, strict=True))
        middle, low, high = ratio(turns)
        name = f"{threads} thread{'s' * (threads > 1)}"
        print(
            f"{name:<18} ratio to TVM's runtime {middle:.3f} ({low:.3f} to {high:.3f}, {len(turns)} turns); "
            f"fastest {ours:.3f} ms, TVM's {theirs:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
