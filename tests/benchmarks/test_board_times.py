"""The evidence on board times: qemu's counts cost what the virtual board's do, and a wrong count would be seen."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import board_times, executed
from tests.support import bundles
from tests.support.assembly import link
from tvm_mobilenet import targets
from tvm_mobilenet.boards import open_board
from tvm_mobilenet.boards.cost.core_model import CoreModel, listing_of
from tvm_mobilenet.boards.plan_runner import PlanRunner
from tvm_mobilenet.compiler import module as built

A53, A72 = (targets.load(n).core for n in ("rpi3", "rpi4"))
FLOOR = 568_740_352 / A72.macs_per_cycle("float32")  # cycles of v1's multiply-adds at the core's rate
KEPT = json.loads(board_times.TABLE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ours():
    """v1 0.25-128 as it ships, for the Pi 4."""
    return bundles.made("rpi4")


@pytest.fixture(scope="module")
def counted(ours, tmp_path_factory):
    """``counted(threads)``: the file of counts of two passes of it under qemu."""
    emulator = bundles.emulator("aarch64")
    if emulator is None:
        pytest.skip("needs apt-get install qemu-user libc6-arm64-cross")
    folder = tmp_path_factory.mktemp("counted")
    plugin = executed.plugin(folder)
    sources = "-I", ours.work, bundles.C_TESTS / "marked.c", ours.folder / "libmobilenet.so"
    program = link(targets.load("rpi4").link_triple, folder / "marked", *sources)

    def count(threads: int):
        output = folder / f"{threads}.counts"
        command = [*emulator, "-cpu", "cortex-a72", "-E", f"LD_LIBRARY_PATH={ours.folder}"]
        executed.run(plugin, A72, command, [str(program), str(ours.folder), str(threads)], output, 200_000 // threads)
        return output

    return count


@pytest.fixture(scope="module")
def emulated(ours):
    """``emulated(threads)``: the kernels of a second pass on the virtual board, caches followed."""
    module = built.read(ours.built)
    with open_board("virtual", targets.load("rpi4")).load(module.library) as loaded:
        runner = PlanRunner(loaded, module.plan, module.parameters())
        batch = ours.network.inputs(1)[0]
        yield lambda threads: [runner.run(*batch, cores=threads, memory=True).kernels for _ in range(2)][1]


def total(run: dict) -> np.ndarray:
    """Cycles, bytes below L1, bytes of DRAM, by thread."""
    return np.array(run["slices"], float).sum(axis=0) * 1e3


# ---- our own network by both routes


@pytest.mark.full
def test_both_ways_of_counting_cost_the_same(counted, emulated):
    """Unicorn kernel by kernel, or the whole process under qemu: one estimate on each core, and much the same
    traffic."""
    found, kernels = executed.read(counted(1)), emulated(1)
    for core in (A53, A72):
        cycles, inner, dram = total(board_times.summary(found, core, 2))[0]
        own = [k.compute_on(1) if core is A72 else k.cycles_on(1, core) for k in kernels]
        assert cycles == pytest.approx(sum(k.value for k in own), rel=0.03)
    moved = np.sum([k.traffic.bytes for k in kernels], axis=0)
    assert inner == pytest.approx(moved[0], rel=0.25) and dram == pytest.approx(moved[1], rel=0.25)


@pytest.mark.full
def test_four_threads_are_told_apart(counted, emulated):
    """Each does a quarter of what one thread does, and what waiting executes; none is counted as another."""
    run = board_times.summary(executed.read(counted(4)), A72, 2)
    each, one = total(run)[:, 0], sum(k.compute_on(1).value for k in emulated(1))
    longest = np.array(run["slices"], float)[:, :, 0].max(axis=1).sum() * 1e3
    assert len(each) == 4 and each.min() > 0.8 * each.max()
    assert 0.97 * one < each.sum() < 1.5 * one, "work is missing, or counted twice"
    assert each.max() <= longest <= each.sum()


# ---- counts as text, no emulator needed


def as_text(kernel) -> str:
    """A kernel's counts as the plugin would write them, its blocks cut at branches and wherever counts change."""
    lines = ["s 0 0 10 2 3 1"]
    for counts in (c for p in kernel.parts for c in p.ran):
        listing = listing_of(kernel.image, counts.first, counts.executed)
        block: list[int] = []
        for k in [*np.flatnonzero(counts.executed).tolist(), None]:
            if block and (
                k != block[-1] + 1
                or counts.executed[k] != counts.executed[block[0]]
                or listing[counts.first + 4 * block[-1]].branch
            ):
                at = counts.first + 4 * block[0] - kernel.image.base
                words = np.frombuffer(kernel.image.memory[at : at + 4 * len(block)], np.uint32)
                head = f"{counts.first + 4 * block[0]:x} {len(block)}"
                lines += [
                    f"b {head} " + " ".join(f"{w:08x}" for w in words),
                    f"e {head} {counts.executed[block[0]]} {counts.taken[block[-1]]}",
                ]
                block = []
            block.append(k)
    return "\n".join([*lines, "t 1 0"]) + "\n"


@pytest.fixture(scope="module")
def written(emulated):
    """The largest pointwise kernel, and its counts as text."""
    kernel = max(emulated(1), key=lambda k: k.compute_on(1).value)
    return kernel, as_text(kernel)


def cycles_of(text: str, folder, core=A72) -> float:
    (folder / "counts").write_text(text, encoding="ascii")
    return executed.read(folder / "counts").cycles(executed.read(folder / "counts").slices[0][0], core)


@pytest.mark.full
def test_a_wrong_count_is_a_wrong_estimate(written, tmp_path):
    kernel, text = written
    for core in (A53, A72):
        model = CoreModel.of(core)
        right = [model.estimate(kernel.image, c) for p in kernel.parts for c in p.ran]
        assert cycles_of(text, tmp_path, core) == pytest.approx(sum(p.cycles - p.call_cycles for p in right), rel=1e-6)
    lines = text.splitlines()
    hottest = max(
        (k for k, line in enumerate(lines) if line[0] == "e"),
        key=lambda k: int(lines[k].split()[2]) * int(lines[k].split()[3]),
    )
    right = cycles_of(text, tmp_path)
    assert cycles_of("\n".join(lines[:hottest] + lines[hottest + 1 :]), tmp_path) < 0.5 * right
    kind, address, n, times, taken = lines[hottest].split()
    lines[hottest] = f"{kind} {address} {n} {2 * int(times)} {2 * int(taken)}"
    assert cycles_of("\n".join(lines), tmp_path) > 1.5 * right


@pytest.mark.full
def test_counts_that_cannot_be_trusted_are_refused(written, tmp_path):
    _, text = written
    with pytest.raises(SystemExit, match="ended before its time"):
        cycles_of(text.removesuffix("t 1 0\n"), tmp_path)
    block = next(line for line in text.splitlines() if line.startswith("b "))
    other = " ".join([*block.split()[:3], "d503201f", *block.split()[4:]])
    with pytest.raises(SystemExit, match="two codes, one place"):
        cycles_of(f"{other}\n{text}", tmp_path)


# ---- what is kept


def test_every_row_is_estimated_by_a_run_of_its_own_core_and_threads():
    runs = KEPT["runs"]
    assert {(r["peer"], r["core"], r["threads"]) for r in runs} == {
        (peer, core, threads)
        for peer in board_times.PEERS
        for core in (A53.name, A72.name)
        for threads in board_times.THREADS
    }
    for run in runs:
        assert all(len(slice_) == run["threads"] for slice_ in run["slices"])
        assert total(run)[:, 0].sum() > FLOOR, "fewer cycles than its multiply-adds take"
    table = board_times.rows_table(KEPT["rows"], runs).splitlines()
    assert len(table) == 2 + len(KEPT["rows"])
    with pytest.raises(SystemExit, match=r"no run of .*--harness"):
        board_times.run_of(KEPT["rows"][0], [])


def test_a_prediction_is_made_of_its_parts():
    """On one core: arithmetic, and `exposed` of the traffic; half the clock doubles the arithmetic and not DRAM."""
    row = next(r for r in KEPT["rows"] if r["threads"] == 1)
    run = board_times.run_of(row, KEPT["runs"])
    whole, compute, memory = board_times.estimated(row, run, exposed=1.0)
    assert whole == pytest.approx(compute + memory)
    assert compute == pytest.approx(total(run)[0, 0] / row["clock_hz"] * 1e3)
    hidden = board_times.estimated(row, run, exposed=0.0)[0]
    assert max(compute, memory) <= hidden < whole
    slow = board_times.estimated({**row, "clock_hz": row["clock_hz"] / 2}, run, exposed=1.0)
    assert slow[1] == pytest.approx(2 * compute) and slow[2] < 2 * memory


def test_halves_report_what_was_not_fitted():
    """Rows made with a known `exposed` are fitted exactly, and a row that is off shows in the other half."""
    runs = [{**r, "slices": r["slices"][:10]} for r in KEPT["runs"]]
    rows = [{**r, "ms": board_times.estimated(r, board_times.run_of(r, runs), 0.5)[0]} for r in KEPT["rows"][:4]]
    assert all(h == pytest.approx((0.5, 0, 0), abs=1e-9) for h in board_times.halves(rows, runs))
    rows[0]["ms"] *= 2
    assert max(h[2] for h in board_times.halves(rows, runs)) > 0.2


def test_arithmetic_of_another_core_file_is_told(capsys, monkeypatch):
    core = dataclasses.replace(A72, model={**A72.model, "decode": 2})
    assert board_times.model_of(core) != board_times.model_of(A72)
    memory = {**A72.model["memory"], "exposed": 0.0}
    same = dataclasses.replace(A72, model={**A72.model, "memory": memory})
    assert board_times.model_of(same) == board_times.model_of(A72), "memory is estimated anew each time"
    monkeypatch.setattr(board_times, "model_of", lambda core: "another")
    monkeypatch.setattr(board_times, "halves_text", lambda rows, runs: "")
    assert board_times.main([]) == 0
    assert capsys.readouterr().err.count("of another core file") == len(KEPT["runs"])


def test_another_run_needs_the_harness(capsys, tmp_path):
    for words, says in (
        (["--again"], "--again needs --harness"),
        (["--again", "mnn"], "--again mnn: known are"),
        (["--again", "--harness", str(tmp_path)], "no runners/common.py"),
    ):
        with pytest.raises(SystemExit, match="2"):
            board_times.main(words)
        assert says in capsys.readouterr().err
