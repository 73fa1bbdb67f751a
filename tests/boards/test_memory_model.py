"""The memory model: known access patterns miss as often as arithmetic says, and cost what the bandwidths say."""

import dataclasses

import numpy as np
import pytest

from tests.support.assembly import LOAD_DATA, assemble
from tvm_mobilenet import targets
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.boards.virtual.memory import Caches, Traffic

SCRATCH = (0x6000_0000, 0x100_0000, 16)
KIB = 1024
READ_THROUGH = (
    LOAD_DATA
    + """
    ldr x12, [x10]
1:  mov x13, x9
    ldr x14, [x10, #8]
2:  ldr q0, [x13]
    add x13, x13, #64
    subs x14, x14, #1
    b.ne 2b
    subs x12, x12, #1
    b.ne 1b
    mov w0, #0
    ret"""
)
COPY = (
    LOAD_DATA
    + """
    mov x12, #%d
1:  ldp q0, q1, [x9], #32
    stp q0, q1, [x10], #32
    subs x12, x12, #1
    b.ne 1b
    mov w0, #0
    ret"""
)


def caches(core="cortex-a72", cores=4) -> Caches:
    made = Caches(
        next(t.core for t in map(targets.load, ("rpi4", "rpi3", "rpi5")) if t.core.name == core), cores, SCRATCH
    )
    made.forget()
    return made


class Reference:
    """One cache in plain Python: a list of lines a set, most recent first."""

    def __init__(self, cache):
        self.sets, self.ways = cache.bytes // cache.ways // 64, cache.ways
        self.lines = [[] for _ in range(self.sets)]
        self.fills = self.writebacks = 0

    def access(self, line, written, fill=True):
        """What it asks of the level below: (line, written)."""
        s = self.lines[line % self.sets]
        asks = []
        found = next((e for e in s if e[0] == line), None)
        if found:
            s.remove(found)
        else:
            if len(s) == self.ways:
                old, dirty = s.pop()
                if dirty:
                    self.writebacks += 1
                    asks.append((old, True))
            if fill:
                self.fills += 1
                asks.append((line, False))
        s.insert(0, (line, written or bool(found and found[1])))
        return asks


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_random_accesses_as_in_a_plain_model(core):
    rng = np.random.default_rng(3)
    real = caches(core)
    target = next(t for t in map(targets.load, ("rpi4", "rpi3", "rpi5")) if t.core.name == core)
    levels = [Reference(c) for c in (target.core.l1d, target.core.l2, target.core.l3) if c]

    def access(k, line, written):
        for ask in levels[k].access(line, written, fill=not (written and k)):
            if k + 1 < len(levels):
                access(k + 1, *ask)

    for line, written in zip(rng.integers(0, 60_000, 40_000), rng.integers(0, 2, 40_000), strict=True):
        real.touch(0x1000_0000 + 64 * int(line), 8, bool(written))
        access(0, 0x1000_0000 // 64 + int(line), bool(written))
    one = real.take()[0]
    assert one == Traffic(tuple(r.fills for r in levels), tuple(r.writebacks for r in levels))
    assert one.fills[-1] > 1000 and one.writebacks[-1] > 100


def test_what_crosses_a_line_touches_both():
    c = caches()
    c.touch(0x1000_0000 + 56, 16, False)
    assert c.take()[0].l1_misses == 2


@pytest.mark.parametrize(
    "kib, times, l1, dram", [(16, 4, 256, 256), (256, 4, 4 * 4096, 4096), (2048, 3, 3 * 32768, 3 * 32768)]
)
def test_a_loop_over_memory_misses_where_it_does_not_fit(tmp_path, kib, times, l1, dram):
    path = assemble(tmp_path / "read.so", {"read": READ_THROUGH})
    data = np.zeros(kib * KIB, np.uint8)
    with VirtualBoard(targets.load("rpi4")).load(path) as module:
        at, sizes = module.alloc(data.nbytes), module.alloc(16)
        module.write(sizes, np.array([times, data.nbytes // 64], np.uint64))
        args = [(at, data.shape, data.dtype), (sizes, (2,), np.dtype(np.int64))]
        plain = module.call_at("read", args)
        cold = module.call_at("read", args, memory=True)
        warm = module.call_at("read", args, memory=True)
        again = module.call_at("read", args)
    assert plain.traffic is None and again.traffic is None
    assert plain.instructions == cold.instructions == again.instructions
    assert cold.traffic.l1_misses == pytest.approx(l1, abs=12)  # and arguments and stack
    assert cold.traffic.fills[1] == pytest.approx(dram, abs=12)
    assert cold.traffic.dram_writeback_bytes == 0
    assert warm.traffic.fills[1] == pytest.approx(0 if kib <= 512 else dram, abs=12)  # what the kernel before left


def test_a_copy_costs_what_its_bytes_do_and_ends_in_writebacks(tmp_path):
    n = 4 << 20
    path = assemble(tmp_path / "copy.so", {"copy": COPY % (n // 32)})
    a, b = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    target = targets.load("rpi4")
    with VirtualBoard(target).load(path) as module:
        run = module.call("copy", [a, b], memory=True)
        plain = module.call("copy", [a, b])
    fills, back = run.traffic.dram_fill_bytes, run.traffic.dram_writeback_bytes
    assert fills == pytest.approx(2 * n, rel=0.01)  # a line that is written is read first
    assert n - (1 << 20) <= back <= n + (1 << 20)  # the last MiB stays in L2; of the operand before, one came out
    bandwidth = target.dram_bytes_per_second / target.clock_hz
    assert run.memory_on(1).value == pytest.approx((fills + back) / bandwidth, rel=0.01)
    assert run.compute_on(1) == plain.cost(1) < run.cost(1)
    assert run.memory_on(1) <= run.cost(1) and plain.memory_on(1) is None


def test_in_order_cores_add_and_others_overlap(tmp_path):
    path = assemble(tmp_path / "copy.so", {"copy": COPY % (1 << 14)})
    a, b = np.zeros(1 << 19, np.uint8), np.zeros(1 << 19, np.uint8)
    for name in ("rpi3", "rpi4", "rpi5"):
        with VirtualBoard(targets.load(name)).load(path) as module:
            run = module.call("copy", [a, b], memory=True)
        one, compute, memory = run.cost(1).value, run.compute_on(1).value, run.memory_on(1).value
        exposed = run.target.core.model["memory"]["exposed"]
        assert one == pytest.approx(max(compute, memory) + exposed * min(compute, memory), rel=1e-6)
    slow = dataclasses.replace(targets.load("rpi3"), dram_bytes_per_second=1e8)
    with VirtualBoard(slow).load(path) as module:
        assert module.call("copy", [a, b], memory=True).cost(1).value > 5e6


def test_scratch_memory_of_threads_is_one_to_one_core():
    c = caches()
    for thread in range(4):
        c.on(thread)
        c.touch(SCRATCH[0] + thread * SCRATCH[1], 8 * KIB, True)
        one, private, log = c.take()
        assert one.l1_misses == (128 if thread == 0 else 0)
        assert private.fills[0] == 128 and len(log) == 128


def test_tasks_side_by_side_fetch_what_they_share_once():
    """Weights of 2 MiB read by each of four tasks: one after another they leave L2 before the next one reads them."""
    c = caches()
    logs, single = [], 0
    for thread in range(4):
        c.on(thread)
        c.touch(0x1000_0000, 2 << 20, False)
        one, _, log = c.take()
        logs.append(log)
        single += one.fills[1]
    together = c.share(logs)
    assert single == 4 * 32768 and together.fills[1] == 32768


def test_costs_of_several_cores_share_the_memory(tmp_path):
    from tvm_mobilenet.schedules import nest

    from tvm_mobilenet import schedules
    from tvm_mobilenet.compiler import codegen
    from tvm_mobilenet.layer import Layer

    layer = Layer.parse("depthwise 56x56x128 3x3 p1,1,1,1 f32 relu6")
    target = targets.load("rpi4")
    path = tmp_path / "k.so"
    decisions = schedules.space(layer, target.core).default
    codegen.compile_kernels({nest.SYMBOL: schedules.kernel(layer, decisions)}, target, path)
    from tvm_mobilenet.checking import reference

    arguments = reference.kernel_arguments(layer, decisions, reference.random_arguments(layer))
    with VirtualBoard(target).load(path) as module:
        run = module.call(nest.SYMBOL, arguments, memory=True)
        again = module.call(nest.SYMBOL, arguments, memory=True)
        sample = module.call(nest.SYMBOL, arguments, tasks="sample", memory=True)
    assert run.traffic == again.traffic  # nothing of a call is left to the next
    moved = 56 * 56 * 128 * 4
    assert 1 * moved < run.traffic.dram_fill_bytes < 2.2 * moved
    beside = sum(p.shared.bytes[-1] for p in run.parts)
    assert 2 * moved < beside < 4 * moved  # the output is read and written, and the operand before it written back
    least = beside / target.dram_bytes_per_second_all * target.clock_hz  # four cores have no more of DRAM than one
    assert least <= run.cost(4).value <= 1.1 * least + run.compute_on(4).value
    assert run.cost(4).value > 2 * run.compute_on(4).value
    quick = dataclasses.replace(target, dram_bytes_per_second_all=4 * target.dram_bytes_per_second)
    run.target = quick
    costs = [run.cost(n).value for n in (1, 2, 4)]
    assert costs[0] > 1.4 * costs[1] and costs[1] > 1.2 * costs[2]
    run.target = target
    assert sample.traffic.l1_misses == pytest.approx(run.traffic.l1_misses, rel=0.3)  # docs/concepts/predictor.md
    assert sample.cost(1).value == pytest.approx(run.cost(1).value, rel=0.3)  # what L2 still holds depends on the row
