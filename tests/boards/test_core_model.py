"""The core model: known rates, known orderings of micro-kernels, and estimates that follow the core's data."""

import dataclasses
import re
import shutil

import numpy as np
import pytest

from tests.support.assembly import assemble
from tvm_mobilenet import targets
from tvm_mobilenet.boards.cost.core_model import CoreModel, listing_of
from tvm_mobilenet.boards.cost.flow import traces
from tvm_mobilenet.boards.cost.instructions import CLASSES, IN_PLACE, disassemble
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.errors import TvmMobilenetError

A53, A72, A76 = (targets.load(n).core for n in ("rpi3", "rpi4", "rpi5"))
CORES = {"A53": A53, "A72": A72, "A76": A76}


def fma_chains(n, length=24):
    return "\n".join(f"fmla v{i % n}.4s, v30.4s, v31.4s" for i in range(length))


def tile(rows, columns, steps=4):
    """A multiply kernel's inner loop over four k: rows of A and panels of B through 128-bit loads, fmla by element.
    Panels are loaded one step ahead, as hand-written kernels do."""
    vectors = columns // 4
    a, b = rows * vectors, rows * vectors + rows  # accumulators come first, then A, then two sets of B
    lines = [f"ldr q{a + r}, [x{r + 3}]" for r in range(rows)]
    for k in range(steps):
        now, after = (b + vectors * (k % 2), b + vectors * ((k + 1) % 2))
        lines += [f"ldr q{after + v}, [x20, #{16 * (k * vectors + v)}]" for v in range(vectors)]
        lines += [
            f"fmla v{r * vectors + v}.4s, v{now + v}.4s, v{a + r}.s[{k}]" for r in range(rows) for v in range(vectors)
        ]
    return "\n".join([*lines, "add x20, x20, #256", *(f"add x{r + 3}, x{r + 3}, #16" for r in range(rows))])


LOOPS = {
    "chain1": fma_chains(1),
    "chain2": fma_chains(2),
    "chain3": fma_chains(3),
    "chain4": fma_chains(4),
    "chain8": fma_chains(8),
    "chain12": fma_chains(12),
    "multiplicand": "fmla v0.4s, v0.4s, v1.4s\n" * 8,
    "load_q": "\n".join(f"ldr q{i}, [x1, #{16 * i}]" for i in range(16)),
    "load_pq": "\n".join(f"ldp q{2 * i}, q{2 * i + 1}, [x1, #{32 * i}]" for i in range(8)),
    "store_q": "\n".join(f"str q{i}, [x1, #{16 * i}]" for i in range(16)),
    "ld1_4": "ld1 {v0.4s, v1.4s, v2.4s, v3.4s}, [x1]\n" * 8,
    "fma_and_load_q": "\n".join(f"fmla v{i}.4s, v30.4s, v31.4s\nldr q{16 + i}, [x1, #{16 * i}]" for i in range(8)),
    "fma_and_load_d": "\n".join(f"fmla v{i}.4s, v30.4s, v31.4s\nldr d{16 + i}, [x1, #{16 * i}]" for i in range(8)),
    "fma_and_load_x": "\n".join(f"fmla v{i}.4s, v30.4s, v31.4s\nldr x{9 + i}, [x1, #{16 * i}]" for i in range(8)),
    "fma_and_add": "\n".join(f"fmla v{i}.4s, v30.4s, v31.4s\nadd x{9 + i}, x1, #{i}" for i in range(8)),
    "pointer": "ldr x1, [x1]\n" * 8,
    "add_chain": "add x1, x1, #1\n" * 16,
    "write_back": "ldr q0, [x1], #16\nstr q0, [x3], #16\n" * 8,
    "t4x8": tile(4, 8),
    "t6x8": tile(6, 8),
    "t4x12": tile(4, 12),
}
HALF = {  # a loop of 16 independent instructions, and one of 8 that wait for each other
    "fmla .8h": "fmla v{d}.8h, v14.8h, v15.8h",
    "fmla by element": "fmla v{d}.8h, v14.8h, v13.h[3]",
    "fmul .8h": "fmul v{d}.8h, v{s}.8h, v15.8h",
    "fadd .8h": "fadd v{d}.8h, v{s}.8h, v15.8h",
    "fmin .8h": "fmin v{d}.8h, v{s}.8h, v15.8h",
    "fmaxnm .8h": "fmaxnm v{d}.8h, v{s}.8h, v15.8h",
    "fdiv .8h": "fdiv v{d}.8h, v{s}.8h, v15.8h",
    "fsqrt .8h": "fsqrt v{d}.8h, v{s}.8h",
    "scvtf .8h": "scvtf v{d}.8h, v{s}.8h",
    "fcvtzs .8h": "fcvtzs v{d}.8h, v{s}.8h",
    "frintn .8h": "frintn v{d}.8h, v{s}.8h",
    "frecpe .8h": "frecpe v{d}.8h, v{s}.8h",
    "scvtf .4h": "scvtf v{d}.4h, v{s}.4h",
    "fcvtl": "fcvtl v{d}.4s, v{s}.4h",
    "fcvtl2": "fcvtl2 v{d}.4s, v{s}.8h",
    "fcvtn": "fcvtn v{d}.4h, v{s}.4s",
    "fcvtn2": "fcvtn2 v{d}.8h, v{s}.4s",
    "fcvt h to s": "fcvt s{d}, h{s}",
    "fcvt s to h": "fcvt h{d}, s{s}",
    "dup .8h": "dup v{d}.8h, v{s}.h[7]",
    "dup .8h of w": "dup v{d}.8h, w9",
    "ldr h": "ldr h{d}, [x1, #{o}]",
    "ld1r .8h": "ld1r {{v{d}.8h}}, [x1]",
    "fcmp h": "fcmp h{s}, #0.0",
    "fadd h": "fadd h{d}, h{s}, h15",
}
# Integers: text, latency (None: not of interest here) and rate a cycle on the A53, the A72 and the A76 (Neoverse N1).
# ocxtal/insn_bench_aarch64: results/raspberry-pi-3_cortex-a53.md, nxp_lx2160a_a72.md, aws_graviton2.md. Accumulator
# to accumulator, sadalp of the A72 and A76 and sdot from Arm's software optimization guides. None: the core has it not.
INTEGERS = {
    "smull": ("smull v{d}.8h, v{s}.8b, v15.8b", (4, 1), (4, 1), (4, 1)),
    "umull2": ("umull2 v{d}.8h, v{s}.16b, v15.16b", (4, 1), (4, 1), (4, 1)),
    "smull by element": ("smull v{d}.4s, v{s}.4h, v15.h[3]", (4, 1), (4, 1), (4, 1)),
    "smlal to itself": ("smlal v{d}.8h, v14.8b, v15.8b", (1, 1), (1, 1), (1, 1)),
    "smlal2": ("smlal2 v{d}.8h, v14.16b, v15.16b", (1, 1), (1, 1), (1, 1)),
    "smlal by element": ("smlal v{d}.4s, v14.4h, v15.h[3]", (1, 1), (1, 1), (1, 1)),
    "smlal of it": ("smlal v{d}.8h, v{s}.8b, v15.8b", (4, 1), (4, 1), (4, 1)),
    "sadalp": ("sadalp v{d}.4s, v14.8h", (4, 0.5), (1, 1), (1, 1)),
    "uadalp of it": ("uadalp v{d}.4s, v{s}.8h", (4, 0.5), (4, 1), (4, 1)),
    "saddlp": ("saddlp v{d}.4s, v{s}.8h", (3, 1), (3, 1), (2, 2)),
    "saddw": ("saddw v{d}.4s, v{s}.4s, v15.4h", (3, 1), (3, 1.5), (2, 2)),
    "saddw2": ("saddw2 v{d}.4s, v{s}.4s, v15.8h", (3, 1), (3, 1.5), (2, 2)),
    "saddl": ("saddl v{d}.8h, v{s}.8b, v15.8b", (3, 1), (3, 1.5), (2, 2)),
    "addp": ("addp v{d}.4s, v{s}.4s, v15.4s", (3, 1), (3, 1.5), (2, 2)),
    "sqadd": ("sqadd v{d}.8h, v{s}.8h, v15.8h", (3, 1), (3, 1.5), (2, 2)),
    "add": ("add v{d}.4s, v{s}.4s, v15.4s", (2, 1), (3, 1.5), (2, 2)),
    "smax": ("smax v{d}.16b, v{s}.16b, v15.16b", (2, 1), (3, 1.5), (2, 2)),
    "xtn": ("xtn v{d}.8b, v{s}.8h", (2, 2), (3, 2), (2, 2)),
    "sqxtn": ("sqxtn v{d}.8b, v{s}.8h", (4, 2), (4, 1), (4, 1)),
    "sqxtn2": ("sqxtn2 v{d}.16b, v{s}.8h", (4, 2), (4, 1), (4, 1)),
    "sqxtun": ("sqxtun v{d}.4h, v{s}.4s", (4, 2), (4, 1), (4, 1)),
    "sqrshrn": ("sqrshrn v{d}.4h, v{s}.4s, #7", (4, 2), (4, 1), (4, 1)),
    "sxtl": ("sxtl v{d}.8h, v{s}.8b", (2, 1), (3, 1), (2, 1)),
    "uzp1": ("uzp1 v{d}.8h, v{s}.8h, v15.8h", (2, 1), (3, 1.5), (2, 2)),
    "zip2": ("zip2 v{d}.16b, v{s}.16b, v15.16b", (2, 1), (3, 1.5), (2, 2)),
    "mul .8h": ("mul v{d}.8h, v{s}.8h, v15.8h", (4, 1), (4, 0.5), (5, 0.5)),
    "scvtf": ("scvtf v{d}.4s, v{s}.4s", (4, 1), (3, 0.5), (4, 0.5)),
    "fcvtns": ("fcvtns v{d}.4s, v{s}.4s", (4, 1), (3, 0.5), (4, 0.5)),
    "frintn": ("frintn v{d}.4s, v{s}.4s", (4, 1), (3, 0.5), (4, 0.5)),
    "sdot": ("sdot v{d}.4s, v14.16b, v15.16b", None, None, (1, 2)),
    "sdot of it": ("sdot v{d}.4s, v{s}.16b, v15.4b[2]", None, None, (3, 2)),
    "tbl of 1": ("tbl v{d}.16b, {{v15.16b}}, v{s}.16b", (2, 1), (6, 0.67), (2, 2)),
    "tbl of 2": ("tbl v{d}.16b, {{v14.16b, v15.16b}}, v{s}.16b", (3, 0.5), (10, 0.33), (2, 2)),
    "tbl of 3": ("tbl v{d}.16b, {{v13.16b, v14.16b, v15.16b}}, v{s}.16b", (4, 0.33), (13, 0.2), (4, 1)),
    "tbl of 4": ("tbl v{d}.16b, {{v12.16b, v13.16b, v14.16b, v15.16b}}, v{s}.16b", (5, 0.25), (16, 0.14), (4, 0.67)),
    "tbx of 1": ("tbx v{d}.16b, {{v15.16b}}, v{s}.16b", (3, 0.5), (6, 0.67), (2, 2)),
    "tbx of 2": ("tbx v{d}.16b, {{v14.16b, v15.16b}}, v{s}.16b", (4, 0.33), (10, 0.33), (4, 1)),
    "tbx of 3": ("tbx v{d}.16b, {{v13.16b, v14.16b, v15.16b}}, v{s}.16b", (5, 0.25), (13, 0.2), (6, 0.67)),
    "tbx of 4": ("tbx v{d}.16b, {{v12.16b, v13.16b, v14.16b, v15.16b}}, v{s}.16b", (6, 0.2), (16, 0.14), (6, 0.4)),
}


def symbol(name: str, what: str) -> str:
    return re.sub(r"\W+", "_", f"{name} {what}")


for name, text in {**HALF, **{name: row[0] for name, row in INTEGERS.items()}}.items():
    LOOPS[symbol(name, "apart")] = "\n".join(text.format(d=16 + i, s=i % 8, o=2 * i) for i in range(16))
    LOOPS[symbol(name, "chain")] = "\n".join(text.format(d=0, s=0, o=0) for _ in range(8))
FMA = {name: body.count("fmla") for name, body in LOOPS.items()}


@pytest.fixture(scope="module")
def estimate(tmp_path_factory):
    """``estimate(loop, core) -> cycles of one iteration``, loop control included, in steady state."""
    functions = {name: f"mov x2, #100\n1:\n{body}\nsubs x2, x2, #1\n b.ne 1b\n ret" for name, body in LOOPS.items()}
    path = assemble(tmp_path_factory.mktemp("loops") / "loops.so", functions)
    module = VirtualBoard(targets.load("rpi4")).load(path)
    image = module.image

    def cycles(name, core):
        start, size, _ = next(f for f in image.functions() if f[2] == f"__tvm_ffi_{name}")
        at = start - image.base
        code = disassemble("aarch64", bytes(image.memory[at + 4 : at + size - 4]), start + 4)
        return CoreModel(core).pipeline.cycles(tuple(code), True)

    yield cycles
    module.close()


def about(value):
    return pytest.approx(value, rel=0.06)


@pytest.mark.parametrize("core,latency,rate", [("A53", 4, 1.0), ("A72", 3, 1.0), ("A76", 2, 2.0)])
def test_fmla_reaches_its_rate_with_enough_accumulators(estimate, core, latency, rate):
    core = CORES[core]
    for n in (1, 2, 3, 4, 8, 12):
        expected = max(24 * latency / n, 24 / rate)
        assert estimate(f"chain{n}", core) == pytest.approx(expected, rel=0.1, abs=2.1), n
    assert estimate("chain12", core) == about(24 / rate) or core.in_order
    assert estimate("chain12", core) <= 24 / rate + 2


@pytest.mark.parametrize("core,latency", [("A53", 8), ("A72", 7), ("A76", 4)])
def test_a_multiplicand_waits_the_whole_latency(estimate, core, latency):
    assert estimate("multiplicand", CORES[core]) == about(8 * latency)


@pytest.mark.parametrize(
    "loop,rates",
    [  # a cycle, measured on silicon: CORES.md
        ("load_q", {"A53": 0.50, "A72": 1.00, "A76": 2.00}),
        ("load_pq", {"A53": 0.25, "A72": 0.50, "A76": 1.00}),
        ("ld1_4", {"A53": 0.12, "A72": 0.25, "A76": 0.50}),
        ("store_q", {"A53": 1.00, "A72": 0.49, "A76": 1.00}),
    ],
)
def test_rates_of_loads_and_stores(estimate, loop, rates):
    n = {"load_q": 16, "load_pq": 8, "ld1_4": 8, "store_q": 16}[loop]
    for core, rate in rates.items():
        assert estimate(loop, CORES[core]) == pytest.approx(n / rate, rel=0.08, abs=1.1), core


@pytest.mark.parametrize(
    "name,latency,rate",
    [  # measured on a Neoverse N1, ocxtal/insn_bench_aarch64, results/aws_graviton2.md; fdiv: LLVM's model of it
        ("fmla .8h", 2, 2.0),  # from accumulator to accumulator
        ("fmla by element", 2, 2.0),
        ("fmul .8h", 3, 2.0),
        ("fadd .8h", 2, 2.0),
        ("fadd h", 2, 2.0),
        ("fmin .8h", 2, 2.0),
        ("fmaxnm .8h", 2, 2.0),
        ("fdiv .8h", 13, 0.1),
        ("fsqrt .8h", 13, 0.1),  # 11 measured
        ("scvtf .8h", 6, 0.25),
        ("fcvtzs .8h", 6, 0.25),
        ("frintn .8h", 6, 0.25),
        ("frecpe .8h", 6, 0.25),
        ("scvtf .4h", 4, 0.5),
        ("fcvtl", 4, 0.5),
        ("fcvtl2", 4, 0.5),
        ("fcvtn", 4, 0.5),
        ("fcvtn2", 4, 0.5),
        ("fcvt h to s", 3, 1.0),
        ("fcvt s to h", 3, 1.0),
        ("dup .8h", 2, 2.0),
        ("dup .8h of w", None, 1.0),
        ("ldr h", None, 2.0),
        ("ld1r .8h", None, 2.0),
        ("fcmp h", None, 1.0),
    ],
)
def test_rates_of_half_precision_on_the_a76(estimate, name, latency, rate):
    assert estimate(symbol(name, "apart"), A76) == pytest.approx(16 / rate, rel=0.05, abs=0.6)
    if latency:
        assert estimate(symbol(name, "chain"), A76) == pytest.approx(8 * latency, rel=0.05)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", INTEGERS)
def test_rates_of_integers(estimate, name, core):
    """Long multiplies above all: with the rows of multiplies that widen nothing they would take twice their time."""
    measured = dict(zip(CORES, INTEGERS[name][1:], strict=True))[core]
    if measured is None:
        return
    latency, rate = measured
    assert estimate(symbol(name, "apart"), CORES[core]) == pytest.approx(16 / rate, rel=0.06, abs=1.1)
    assert estimate(symbol(name, "chain"), CORES[core]) == pytest.approx(8 * max(latency, 1 / rate), rel=0.05, abs=1.1)


def test_a_core_may_leave_out_classes_that_came_later():
    """Files of cores from before they were there are read, and have the rows of their kin for them."""
    without = {k: v for k, v in A76.model["classes"].items() if not k.endswith("_h")}
    classes = CoreModel(dataclasses.replace(A76, model={**A76.model, "classes": without})).pipeline.classes
    assert classes["fcvt_h"] == classes["fcvt_q"] and classes["fdiv_h"] == classes["fdiv_q"]
    own = CoreModel(A76).pipeline.classes
    assert own["fcvt_h"] != own["fcvt_q"] and own["fdiv_h"] != own["fdiv_q"]
    older = {k: v for k, v in A76.model["classes"].items() if k not in IN_PLACE}
    kept = CoreModel(dataclasses.replace(A76, model={**A76.model, "classes": older})).pipeline.classes
    assert all(kept[kind] == own[stands] for kind, stands in IN_PLACE.items())
    only = {k: v for k, v in without.items() if k != "fcvt_q"}
    with pytest.raises(TvmMobilenetError, match="missing fcvt_q, fcvt_h"):
        CoreModel(dataclasses.replace(A76, model={**A76.model, "classes": only}))


def test_pairing_on_the_a53(estimate):
    """Nothing issues beside a 128-bit load; an integer load or an addition issues beside an fmla for free."""
    assert estimate("fma_and_load_q", A53) == pytest.approx(8 + 16, abs=1.5)
    assert estimate("fma_and_load_d", A53) == pytest.approx(8 + 8, abs=1.5)
    assert estimate("fma_and_load_x", A53) == pytest.approx(8, abs=1.5)
    assert estimate("fma_and_add", A53) == pytest.approx(8, abs=1.5)


def test_a53_ranks_tiles_as_silicon_does(estimate):
    per_fma = {t: estimate(t, A53) / FMA[t] for t in ("t4x8", "t6x8", "t4x12")}
    assert per_fma["t6x8"] < per_fma["t4x12"] < per_fma["t4x8"]
    assert 1.3 < per_fma["t6x8"] < 1.8


def test_out_of_order_cores_hide_the_loads_of_a_tile(estimate):
    assert estimate("t6x8", A72) / FMA["t6x8"] == about(1.0)
    assert estimate("t6x8", A76) / FMA["t6x8"] < 0.6


def test_dependences_through_memory_and_integers(estimate):
    assert estimate("pointer", A72) == about(8 * 4)
    assert estimate("pointer", A53) == about(8 * 3)
    assert estimate("add_chain", A76) == pytest.approx(16, abs=1.5)


def test_a_written_back_base_does_not_wait_for_the_data(estimate):
    assert estimate("write_back", A72) <= 17


def changed(core, kind, **row):
    classes = {**core.model["classes"], kind: {**core.model["classes"][kind], **row}}
    return dataclasses.replace(core, model={**core.model, "classes": classes})


def test_estimates_follow_the_data_of_the_core(estimate):
    slow = changed(A72, "fma_q", forward=6)
    assert estimate("chain2", slow) == about(2 * estimate("chain2", A72))
    assert estimate("load_q", changed(A72, "load_q", uops=["L", "L"])) == about(2 * estimate("load_q", A72))
    narrow = dataclasses.replace(A76, model={**A76.model, "decode": 1})
    assert estimate("chain12", narrow) == pytest.approx(26, abs=1)


def test_every_core_estimates_every_class():
    for core in (A53, A72, A76, targets.load("armv7").core):
        pipeline = CoreModel(core).pipeline
        assert set(CLASSES) == set(pipeline.classes)


@pytest.mark.parametrize(
    "change,says",
    [
        (lambda m: {**m, "classes": {k: v for k, v in m["classes"].items() if k != "dot_q"}}, "missing dot_q"),
        (lambda m: {**m, "classes": {**m["classes"], "fma_z": {"uops": []}}}, "unknown class 'fma_z'"),
        (lambda m: {**m, "classes": {**m["classes"], "alu": {"uops": ["I9"]}}}, "'I9'"),
        (lambda m: {**m, "classes": {**m["classes"], "alu": {"cost": 3}}}, "unknown key 'cost'"),
        (lambda m: {k: v for k, v in m.items() if k != "decode"}, "missing decode"),
    ],
)
def test_wrong_model_data_is_named(change, says):
    with pytest.raises(TvmMobilenetError) as e:
        CoreModel(dataclasses.replace(A72, model=change(A72.model)))
    assert says in str(e.value) and "cortex-a72" in str(e.value)


def test_traces_take_an_execution_apart_exactly(tmp_path):
    """Loops, loops in loops, and a branch in a loop: every execution is in one trace, none in two."""
    body = """
    mov w2, #11
1:  mov w3, #7
2:  tst w3, #1
    b.eq 3f
    add x4, x4, #1
    b 4f
3:  add x5, x5, #1
    add x5, x5, #1
4:  subs w3, w3, #1
    b.ne 2b
    add x6, x6, #1
    subs w2, w2, #1
    b.ne 1b
    mov w0, #0
    ret"""
    path = assemble(tmp_path / "flow.so", {"flow": body})
    with VirtualBoard(targets.load("rpi4")).load(path) as module:
        run = module.call("flow", [])
        counts = run.parts[0].ran[0]
        listing = listing_of(module.image, counts.first, counts.executed)
        found = traces(listing, counts.first, counts.executed, counts.taken)
    total = dict.fromkeys(listing, 0)
    for t in found:
        for i in t.instructions:
            total[i.address] += t.count
    assert list(total.values()) == [int(n) for n in counts.executed if n]
    assert counts.instructions == 1 + 11 * (1 + 4 * 6 + 3 * 6 + 3) + 2
    loops = sorted((t.count, len(t.instructions)) for t in found if t.loop)
    # A turn of the inner loop is odd or even; the outer loop's turns hold the inner's last one each.
    assert sum(n for n, _ in loops) == 11 * 6 + 10


def test_disassembly_knows_registers_and_classes():
    def one(word):
        return disassemble("aarch64", word.to_bytes(4, "little"), 0x1000)[0]

    i = one(0x4F9E13E0)  # fmla v0.4s, v31.4s, v30.s[0]
    assert (i.kind, i.accumulator, set(i.reads), i.writes) == ("fma_q", "v0", {"v31", "v30"}, ("v0",))
    i = one(0x3CC10420)  # ldr q0, [x1], #16
    assert (i.kind, i.writes, i.base, i.reads) == ("load_q", ("v0",), "x1", ("x1",))
    i = one(0xAD000440)  # stp q0, q1, [x2]
    assert (i.kind, i.writes, set(i.reads)) == ("store_pq", (), {"v0", "v1", "x2"})
    i = one(0x4CDF2820)  # ld1 {v0.4s - v3.4s}, [x1], #64
    assert i.kind == "load_m4" and i.base == "x1" and len(i.writes) == 4
    assert one(0x0D40C820).kind == "load_rep" and one(0xF9800020).kind == "prefetch"
    assert one(0x54FFFFE1).target == 0x1000 - 4 and one(0x54FFFFE1).branch == "cond"
    assert one(0x00000000).kind == "unknown"


def test_armv7_uses_the_forwarding_of_its_accumulators(tmp_path):
    body = "mov r2, #50\n1:\n" + "vfma.f32 q0, q1, q2\n" * 8 + "subs r2, r2, #1\n bne 1b\n mov r0, #0\n bx lr"
    target = targets.load("armv7")
    with VirtualBoard(target).load(assemble(tmp_path / "v7.so", {"v7": body}, "armv7")) as module:
        run = module.call("v7", [])
    assert run.instructions == 1 + 50 * 10 + 2
    assert run.cycles.value == pytest.approx(50 * 8 * 4, rel=0.05)


@pytest.mark.skipif(not shutil.which("llvm-mca-19"), reason="llvm-mca 19 is not installed: apt-get install llvm-19")
@pytest.mark.parametrize("name", ["chain12", "load_q", "load_pq", "t6x8", "t4x8", "t4x12", "pointer"])
def test_agrees_with_llvm_mca(estimate, name):
    """On cortex-a72 and neoverse-n1, whose rates in LLVM 19 are those measured; LLVM 14 has others. Chains of fmla are
    longer there: LLVM takes the A57's latencies for the A72, and knows no forwarding on the N1; the measurements do."""
    import json
    import subprocess

    for core, cpu in ((A72, "cortex-a72"), (A76, "neoverse-n1")):
        out = [
            json.loads(
                subprocess.run(
                    ["llvm-mca-19", "-mtriple=aarch64", f"-mcpu={cpu}", f"-iterations={n}", "-json"],
                    input=LOOPS[name] + "\n",
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for n in (20, 60)
        ]
        theirs = (
            out[1]["CodeRegions"][0]["SummaryView"]["TotalCycles"]
            - out[0]["CodeRegions"][0]["SummaryView"]["TotalCycles"]
        ) / 40
        assert estimate(name, core) == pytest.approx(theirs, rel=0.1, abs=1.1), cpu


def test_explanation_names_the_loop_and_its_bound(tmp_path):
    from tvm_mobilenet.boards.cost.explain import explain

    bodies = {"arithmetic": fma_chains(12), "loads": LOOPS["load_q"], "chain": fma_chains(1)}
    functions = {n: f"mov x2, #50\n1:\n{b}\nsubs x2, x2, #1\n b.ne 1b\n mov w0, #0\n ret" for n, b in bodies.items()}
    functions["loads"] = "mov x1, sp\nsub x1, x1, #1024\n" + functions["loads"]
    with VirtualBoard(targets.load("rpi4")).load(assemble(tmp_path / "explain.so", functions)) as module:
        said = {name: explain(module.call(name, []), lines=4) for name in bodies}
        on_a53 = explain(module.call("loads", []), A53)
    assert "bound by unit F" in said["arithmetic"] and "__tvm_ffi_arithmetic+0x4" in said["arithmetic"]
    assert "24 instructions" in said["arithmetic"] and "1.0" in said["arithmetic"]
    assert "bound by unit L" in said["loads"] and "bound by dependences" in said["chain"]
    assert "Cortex-A53" in on_a53 and "bound by unit" in on_a53 and "predicted" in on_a53


def test_an_explanation_of_every_hot_loop_has_the_hottest_first_and_no_cold_one(tmp_path):
    from tvm_mobilenet.boards.cost.explain import explain

    loop = "mov x2, #{n}\n{label}:\n" + fma_chains(12) + "\nsubs x2, x2, #1\n b.ne {label}b\n"
    loops = {"1": 4, "2": 100, "3": 60}
    body = "".join(loop.format(n=n, label=label) for label, n in loops.items()) + " mov w0, #0\n ret"
    with VirtualBoard(targets.load("rpi4")).load(assemble(tmp_path / "three.so", {"three": body})) as module:
        run = module.call("three", [])
    shares = [int(share) for share in re.findall(r"loop: (\d+)% of the cycles", explain(run, least=0.05))]
    assert len(shares) == 2 and shares == sorted(shares, reverse=True) and 90 < sum(shares) < 100
    assert explain(run, least=0.05).count("hottest") == explain(run).count("% of the cycles") == 1


def test_counts_of_no_execution_cost_nothing():
    empty = np.zeros(0, np.int64)
    assert traces({}, 0, empty, empty) == []
