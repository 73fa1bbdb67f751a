"""The virtual board: right results, exact counts, and faults that stay where they belong."""

import os
import signal
import struct

import numpy as np
import pytest

from tests.support.assembly import LOAD_DATA, assemble, link
from tvm_mobilenet import targets
from tvm_mobilenet.boards import PredictedCycles, Seconds, open_board
from tvm_mobilenet.boards.virtual import accesses
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.boards.virtual.kernel_run import KernelFault
from tvm_mobilenet.errors import BoardError, TvmMobilenetError

M, N, K = 28, 32, 16
TILE_M, TILE_N = 7, 8


def pointwise_relu6(parallel: bool):
    """A small tiled matrix product with bias and clamp, scheduled as the real ones are."""
    from tvm import te, tirx
    from tvm.s_tir import Schedule

    a = te.placeholder((M, K), name="A")
    w = te.placeholder((N // TILE_N, K, TILE_N), name="W")
    b = te.placeholder((N,), name="B")
    k = te.reduce_axis((0, K), name="k")
    c = te.compute((M, N), lambda i, j: te.sum(a[i, k] * w[j // TILE_N, k, j % TILE_N], axis=k), name="C")
    d = te.compute(
        (M, N),
        lambda i, j: te.max(te.min(c[i, j] + b[j], tirx.const(6.0, "float32")), tirx.const(0.0, "float32")),
        name="D",
    )
    s = Schedule(te.create_prim_func([a, w, b, d]))
    i, j = s.get_loops(s.get_sblock("D"))
    io, ii = s.split(i, [None, TILE_M])
    jo, ji = s.split(j, [None, TILE_N])
    s.reorder(jo, io, ii, ji)
    s.compute_at(s.get_sblock("C"), io)
    if parallel:
        s.parallel(jo)
    s.vectorize(ji)
    s.unroll(ii)
    *_, ci, cj, ck = s.get_loops(s.get_sblock("C"))
    s.reorder(ck, ci, cj)
    s.unroll(ci)
    s.vectorize(cj)
    s.decompose_reduction(s.get_sblock("C"), ck)
    return s.mod["main"]


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """``built(target name) -> path`` of a module with a serial and a parallel kernel."""
    import tvm

    paths = {}

    def build(name):
        if name not in paths:
            target = targets.load(name)
            folder = tmp_path_factory.mktemp(name)
            mod = tvm.IRModule(
                {k: pointwise_relu6(k == "parallel").with_attr("global_symbol", k) for k in ("serial", "parallel")}
            )
            lib = tvm.compile(mod, target=tvm.target.Target(target.llvm_target()))
            lib.mod.write_to_file(str(folder / "k.o"))
            paths[name] = link(target.link_triple, folder / "k.so", "-shared", folder / "k.o")
        return paths[name]

    return build


def operands(seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((M, K)).astype(np.float32)
    w = rng.standard_normal((N // TILE_N, K, TILE_N)).astype(np.float32)
    b = rng.standard_normal(N).astype(np.float32)
    expected = np.clip(a @ w.transpose(1, 0, 2).reshape(K, N) + b, 0, 6)
    return [a, w, b, np.full((M, N), np.nan, np.float32)], expected


@pytest.mark.parametrize("kernel", ["serial", "parallel"])
@pytest.mark.parametrize("name", ["rpi3", "rpi4", "rpi5", "arm", "armv7"])
def test_right_results(built, name, kernel):
    args, expected = operands()
    with VirtualBoard(targets.load(name)).load(built(name)) as module:
        run = module.call(kernel, args)
    np.testing.assert_allclose(args[-1], expected, atol=1e-5)
    assert run.outputs[0] is args[-1]
    assert isinstance(run.cycles, PredictedCycles) and run.cycles.value >= M * N * K / 8
    assert run.cycles_on(4) <= run.cycles


def test_counts_are_those_of_the_loops(built):
    """Every multiply-add of the kernel is an executed fmla, by the disassembly and the counts alone."""
    from tvm_mobilenet.boards.cost.instructions import disassemble

    args, _ = operands()
    with VirtualBoard(targets.load("rpi4")).load(built("rpi4")) as module:
        image = module.image
        for kernel in ("serial", "parallel"):
            lanes = 0
            run = module.call(kernel, args)
            for address, times in run.executions():
                i = disassemble("aarch64", bytes(image.memory[address : address + 4]), address)[0]
                lanes += times * {"fma_q": 4, "fma_d": 2, "fma_s": 1}.get(i.kind, 0)
            assert lanes == M * N * K
            assert sum(t for _, t in run.executions()) == run.instructions


def test_parallel_tasks_are_counted_alone(built):
    args, _ = operands()
    with VirtualBoard(targets.load("rpi4")).load(built("rpi4")) as module:
        run = module.call("parallel", args)
        region = next(p for p in run.parts if p.kind == "parallel")
        assert region.tasks == 4 and len(region.ran) == 4  # 4 panels, one a core
        assert len({c.instructions for c in region.ran}) == 1
        three = module.call("parallel", args, cores=3)
        shares = [c.instructions for c in next(p for p in three.parts if p.kind == "parallel").ran]
        assert shares[0] == shares[1] > 10 * shares[2]  # two panels, two, none
    assert run.cycles_on(4).value < 0.3 * run.cycles.value
    assert run.cycles_on(2).value == pytest.approx(three.cycles_on(3).value, rel=0.02)


def test_sampling_predicts_the_whole(built):
    args, expected = operands()
    with VirtualBoard(targets.load("rpi4")).load(built("rpi4")) as module:
        whole = module.call("parallel", args)
        sample = module.call("parallel", args, tasks="sample")
        assert sample.sampled and not whole.sampled
        region = next(p for p in sample.parts if p.kind == "parallel")
        assert region.tasks == N // TILE_N and region.ran[0].same(region.ran[-1])
        assert sample.cycles.value == pytest.approx(whole.cycles.value, rel=0.02)
        assert sample.cycles_on(4).value == pytest.approx(whole.cycles_on(4).value, rel=0.02)
        serial = module.call("serial", args, tasks="sample")  # nothing to sample: all of it runs
    np.testing.assert_allclose(args[-1], expected, atol=1e-5)
    assert serial.instructions > whole.instructions / 2


def test_arrays_that_stay(built):
    args, expected = operands()
    with VirtualBoard(targets.load("rpi4")).load(built("rpi4")) as module:
        places = []
        for a in args:
            at = module.alloc(a.nbytes)
            module.write(at, a)
            places.append((at, a.shape, a.dtype))
        assert all(at % 64 == 0 for at, *_ in places)
        module.call_at("parallel", places)
        np.testing.assert_allclose(module.read(*places[-1]), expected, atol=1e-5)


def planted(path, tmp_path, old_bits, mask, flip):
    """A copy of a module with one instruction changed: the first whose masked bits match."""
    data = bytearray(path.read_bytes())
    for at in range(0, len(data) - 3, 4):
        (word,) = struct.unpack_from("<I", data, at)
        if word & mask == old_bits:
            struct.pack_into("<I", data, at, word ^ flip)
            out = tmp_path / "planted.so"
            out.write_bytes(data)
            return out
    raise AssertionError("no such instruction")


def test_a_planted_instruction_changes_the_output(built, tmp_path):
    """fmla to fmls (by element: bit 14): results come from the machine code and from nowhere else."""
    path = planted(built("rpi4"), tmp_path, 0x4F801000, 0xFFC0F400, 0x4000)
    with VirtualBoard(targets.load("rpi4")).load(path) as module:
        differences = []
        for kernel in ("serial", "parallel"):
            args, expected = operands()
            module.call(kernel, args)
            differences.append(np.abs(args[-1] - expected).max())
    assert max(differences) > 0.1


WILD = {
    "fine": "mov x2, #1000\n1: subs x2, x2, #1\n b.ne 1b\n mov w0, #0\n ret",
    "null": "mov x2, #0\n ldr q0, [x2]\n mov w0, #0\n ret",
    "wild_store": "mov x2, #0x12340000\n lsl x2, x2, #12\n str q0, [x2, #16]\n mov w0, #0\n ret",
    "own_code": "adr x2, .\n str wzr, [x2]\n mov w0, #0\n ret",
    "endless": "1: b 1b",
    "illegal": "udf #0",
    "dot_product": ".inst 0x4e829420\n mov w0, #0\n ret",
    "system": "mov x8, #93\n svc #0\n ret",
    "breakpoint": "brk #1",
    "jump": "mov x2, #0x77770000\n br x2",
    "error": "mov w0, #-1\n ret",
    "stack": "sub sp, sp, #0xfff000\n str x0, [sp]\n ret",
}


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    return assemble(tmp_path_factory.mktemp("wild") / "wild.so", WILD, extra="")


@pytest.mark.parametrize(
    "kernel,reason",
    [
        ("null", "reads address 0x0"),
        ("wild_store", "writes address 0x12340000010"),
        ("own_code", "writes address"),
        ("endless", "does not end within"),
        ("illegal", "illegal instruction"),
        ("system", "system call"),
        ("dot_product", "illegal instruction"),
        ("breakpoint", "breakpoint"),
        ("jump", "jumps to address 0x77770000"),
        ("error", "returned 0xffffffff"),
        ("stack", "writes address"),
    ],
)
def test_wild_kernels(wild, kernel, reason):
    with VirtualBoard(targets.load("rpi4")).load(wild, budget=1_000_000) as module:
        with pytest.raises(KernelFault) as e:
            module.call(kernel, [])
        assert reason in e.value.reason and e.value.kernel == kernel
        if kernel not in ("error", "jump"):
            assert f"__tvm_ffi_{kernel}" in e.value.symbol and e.value.instruction
        assert module.call("fine", []).instructions == 1 + 2 * 1000 + 2  # the module goes on working


def test_the_core_decides_what_is_illegal(wild):
    """sdot is an instruction of the A76 and not of the A72."""
    with VirtualBoard(targets.load("rpi5")).load(wild) as module:
        assert module.call("dot_product", []).instructions == 3


def test_wild_kernel_names_the_instruction(wild):
    with VirtualBoard(targets.load("rpi4")).load(wild) as module, pytest.raises(KernelFault) as e:
        module.call("null", [])
    assert e.value.instruction == "ldr q0, [x2]" and e.value.symbol == "__tvm_ffi_null+0x4"
    assert e.value.exit_code == 4


def test_a_loop_longer_than_a_translation_block(tmp_path):
    """Unicorn cuts long blocks and blocks at pages; counts do not notice."""
    body = "mov x2, #77\n1:\n" + "fmla v0.4s, v1.4s, v2.4s\n" * 3000 + "subs x2, x2, #1\n b.ne 1b\n mov w0, #0\n ret"
    path = assemble(tmp_path / "long.so", {"long": body})
    with VirtualBoard(targets.load("rpi4")).load(path) as module:
        run = module.call("long", [])
    assert run.instructions == 1 + 77 * 3002 + 2
    assert run.cycles.value == pytest.approx(77 * 3000 * 3, rel=0.02)  # one fused block of accumulations


def test_counts_of_nested_loops(tmp_path):
    body = (
        LOAD_DATA
        + """
    mov w2, #13
1:  mov w3, #29
2:  ldr s0, [x9]
    subs w3, w3, #1
    b.ne 2b
    str s0, [x10]
    subs w2, w2, #1
    b.ne 1b
    mov w0, #0
    ret"""
    )
    path = assemble(tmp_path / "nest.so", {"nest": body})
    x, y = np.ones(4, np.float32), np.zeros(4, np.float32)
    with VirtualBoard(targets.load("rpi4")).load(path) as module:
        run = module.call("nest", [x, y])
    assert run.instructions == 4 + 1 + 13 * (1 + 29 * 3 + 3) + 2
    assert y[0] == 1 and y[1] == 0


def test_workspace_and_its_peak(tmp_path):
    body = """
    stp x29, x30, [sp, #-32]!
    mov w0, #1
    mov w1, #0
    mov x2, #4096
    bl __TVMBackendAllocWorkspaceStub
    str x0, [sp, #16]
    str xzr, [x0, #4088]
    mov x2, x0
    mov w0, #1
    mov w1, #0
    bl __TVMBackendFreeWorkspaceStub
    ldp x29, x30, [sp], #32
    mov w0, #0
    ret"""
    extra = "\n".join(
        f"""
__TVMBackend{n}WorkspaceStub: adrp x9, __TVMBackend{n}Workspace
    ldr x9, [x9, :lo12:__TVMBackend{n}Workspace]
    br x9
.bss
.hidden __TVMBackend{n}Workspace
.global __TVMBackend{n}Workspace
.align 3
__TVMBackend{n}Workspace: .skip 8
.text"""
        for n in ("Alloc", "Free")
    )
    path = assemble(tmp_path / "workspace.so", {"scratch": body}, extra=extra)
    with VirtualBoard(targets.load("rpi4")).load(path) as module:
        run = module.call("scratch", [])
        again = module.call("scratch", [])
    assert run.workspace_bytes == 4096 == again.workspace_bytes
    assert {c.name for p in run.parts for c in p.ran for c in c.calls} == {
        "TVMBackendAllocWorkspace",
        "TVMBackendFreeWorkspace",
    }


def test_memcpy_and_libm(tmp_path):
    body = (
        LOAD_DATA
        + """
    stp x29, x30, [sp, #-32]!
    str x10, [sp, #16]
    ldr s0, [x9]
    bl expf
    ldr x10, [sp, #16]
    str s0, [x10]
    add x1, x10, #0
    add x0, x10, #4
    mov x2, #4
    bl memcpy
    ldp x29, x30, [sp], #32
    mov w0, #0
    ret"""
    )
    path = assemble(tmp_path / "libm.so", {"e": body})
    x, y = np.array([1.5], np.float32), np.zeros(2, np.float32)
    with VirtualBoard(targets.load("rpi4")).load(path) as module:
        run = module.call("e", [x, y])
    assert y[0] == y[1] == pytest.approx(np.exp(np.float32(1.5)), rel=1e-6)
    assert {(c.name, c.calls, c.bytes) for p in run.parts for r in p.ran for c in r.calls} == {
        ("expf", 1, 0),
        ("memcpy", 1, 4),
    }


@pytest.mark.parametrize("name", ["armv7", "rpi4"])
def test_floats_are_passed_as_the_boards_libraries_expect(tmp_path, name):
    """expf of a compiled kernel: a wrong float ABI calls it with the number in another register."""
    from tvm.tirx import exp
    from tvm_mobilenet.schedules import nest

    from tvm_mobilenet.compiler.codegen import compile_kernels

    with nest.Kernel([("x", (37,), "float32"), ("y", (37,), "float32")], {}) as f, nest.serial(37) as i:
        f["y"][i] = exp(f["x"][i])
    target = targets.load(name)
    compile_kernels({"exp": f.prim_func}, target, tmp_path / "exp.so")
    a, y = np.linspace(-5, 5, 37).astype(np.float32), np.zeros(37, np.float32)
    with VirtualBoard(target).load(tmp_path / "exp.so") as module:
        module.call("exp", [a, y])
    np.testing.assert_allclose(y, np.exp(a), rtol=1e-5)


def test_wrong_arguments_give_the_kernels_own_words(built):
    args, _ = operands()
    with VirtualBoard(targets.load("rpi4")).load(built("rpi4")) as module:
        with pytest.raises(KernelFault, match="serial"):
            module.call("serial", args[:3])
        with pytest.raises(KernelFault) as e:
            module.call("serial", [args[0].astype(np.float64), *args[1:]])
        assert "Error" in e.value.reason  # TVM's own message, read out of emulated memory
        args, expected = operands()
        module.call("serial", args)
    np.testing.assert_allclose(args[-1], expected, atol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_kernel_whatever_code_it_meets(built, monkeypatch, number):
    """What a signal's handler raises within a callback of the emulator is lost, and the verb ran on to its end."""
    before, came = accesses.Follower._program, []

    def program(self, start):
        if not came:
            came.append(start)
            os.kill(os.getpid(), number)
        return before(self, start)

    monkeypatch.setattr(accesses.Follower, "_program", program)
    handler = signal.signal(number, signal.default_int_handler)
    try:
        with VirtualBoard(targets.load("rpi4")).load(built("rpi4")) as module:
            args, expected = operands()
            with pytest.raises(KeyboardInterrupt):
                module.call("serial", args, memory=True)
            assert came and signal.getsignal(number) is signal.default_int_handler
            module.call("serial", args, memory=True)
    finally:
        signal.signal(number, handler)
    np.testing.assert_allclose(args[-1], expected, atol=1e-5)


def test_unknown_kernel_lists_what_there_is(built):
    with VirtualBoard(targets.load("rpi4")).load(built("rpi4")) as module:
        assert module.kernels == ["parallel", "serial"]
        with pytest.raises(BoardError, match="serial"):
            module.call("nothing", [])


def test_modules_of_other_machines_are_refused(built, tmp_path):
    with pytest.raises(BoardError, match="armv7"):
        VirtualBoard(targets.load("rpi4")).load(built("armv7"))
    with pytest.raises(BoardError):
        VirtualBoard(targets.load("rpi4")).load(built("host"))
    with pytest.raises(BoardError):
        VirtualBoard(targets.load("host"))
    broken = tmp_path / "broken.so"
    for cut in (0, 3, 100, 2000):
        broken.write_bytes(built("rpi4").read_bytes()[:cut])
        with pytest.raises(BoardError):
            VirtualBoard(targets.load("rpi4")).load(broken)
    with pytest.raises(BoardError):
        VirtualBoard(targets.load("rpi4")).load(tmp_path / "missing.so")


def test_the_local_board_runs_and_measures(built):
    args, expected = operands()
    with open_board("local", targets.load("host")).load(built("host")) as module:
        run = module.call("parallel", args)
    np.testing.assert_allclose(args[-1], expected, atol=1e-5)
    assert isinstance(run.cost(), Seconds) and 0 < run.seconds.value < 1
    with pytest.raises(TypeError):
        _ = run.seconds < PredictedCycles(1.0)


def test_boards_by_name():
    assert isinstance(open_board("virtual", targets.load("rpi4")), VirtualBoard)
    with pytest.raises(TvmMobilenetError, match="quantum"):
        open_board("quantum", targets.load("rpi4"))
