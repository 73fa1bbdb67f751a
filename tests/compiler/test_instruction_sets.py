"""Instruction sets: what ships has no instruction that its board lacks, which an emulator would run all the same."""

import re
import subprocess

import numpy as np
import pytest
from tvm_mobilenet.targets import features

from tests.support import modules
from tests.support.assembly import assemble
from tvm_mobilenet import build, packages, schedules, targets
from tvm_mobilenet.compiler import codegen, instruction_sets, symbols
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer

BOARDS = [
    name for name in targets.names() if targets.load(name).architecture in ("aarch64", "armv7") and name != "host"
]
CODE = {  # boards whose code is built alike are looked at once
    str((targets.load(name).llvm_target(), targets.load(name).link_triple)): name for name in reversed(BOARDS)
}
LINKED = ("kernels.o", "kernels.so", "libmobilenet.so", "model.so")

# feature: instructions of it, as LLVM writes them
A64 = {
    "fullfp16": """fadd h0, h1, h2; fmadd h0, h1, h2, h3; fcmp h0, h1; fccmp h0, h1, #0, eq; fcsel h0, h1, h2, eq
        fmov h0, w1; fmov x0, h1; fmov h0, #1.0; scvtf h0, w1; fcvtzs x0, h1; scvtf h0, w1, #3; fsqrt h0, h1
        frintn h0, h1; fmla v0.8h, v1.8h, v2.8h; fmla v0.8h, v1.8h, v2.h[3]; fmul v0.4h, v1.4h, v2.h[7]
        fmulx v0.8h, v1.8h, v2.h[1]; fmul h0, h1, v2.h[1]; fmla h0, h1, v2.h[1]; fadd v0.8h, v1.8h, v2.8h
        fmax v0.8h, v1.8h, v2.8h; fdiv v0.8h, v1.8h, v2.8h; faddp v0.8h, v1.8h, v2.8h; faddp h0, v1.2h
        fmaxv h0, v1.8h; fmaxnmv h0, v1.4h; fmaxp h0, v1.2h; fneg v0.8h, v1.8h; fabs v0.4h, v1.4h
        scvtf v0.8h, v1.8h; fcvtzs v0.8h, v1.8h; fcvtas v0.8h, v1.8h; scvtf v0.8h, v1.8h, #3; fcvtzu h0, h1, #3
        frintx v0.8h, v1.8h; frsqrte v0.8h, v1.8h; fcmgt v0.8h, v1.8h, v2.8h; fcmgt v0.8h, v1.8h, #0.0
        fmov v0.8h, #1.0; fabd h0, h1, h2; frecps h0, h1, h2; ucvtf h0, h1""",
    "fp16fml": """fmlal v0.4s, v1.4h, v2.4h; fmlsl v0.2s, v1.2h, v2.2h; fmlal2 v0.4s, v1.4h, v2.4h
        fmlsl2 v0.4s, v1.4h, v2.4h; fmlal v0.4s, v1.4h, v2.h[3]; fmlsl2 v0.4s, v1.4h, v2.h[7]""",
    "dotprod": """sdot v0.4s, v1.16b, v2.16b; udot v0.2s, v1.8b, v2.8b; sdot v0.4s, v1.16b, v2.4b[3]
        udot v0.4s, v1.16b, v2.4b[0]""",
    "i8mm": """smmla v0.4s, v1.16b, v2.16b; ummla v0.4s, v1.16b, v2.16b; usmmla v0.4s, v1.16b, v2.16b
        usdot v0.4s, v1.16b, v2.16b; usdot v0.4s, v1.16b, v2.4b[1]; sudot v0.4s, v1.16b, v2.4b[1]""",
    "bf16": """bfdot v0.4s, v1.8h, v2.8h; bfdot v0.4s, v1.8h, v2.2h[1]; bfmmla v0.4s, v1.8h, v2.8h; bfcvt h0, s1
        bfmlalb v0.4s, v1.8h, v2.8h; bfmlalt v0.4s, v1.8h, v2.h[3]; bfcvtn v0.4h, v1.4s""",
    "rdm": """sqrdmlah v0.8h, v1.8h, v2.8h; sqrdmlsh v0.4s, v1.4s, v2.4s; sqrdmlah h0, h1, h2
        sqrdmlah v0.8h, v1.8h, v2.h[3]; sqrdmlsh s0, s1, v2.s[1]""",
    "complxnum": """fcmla v0.4s, v1.4s, v2.4s, #90; fcadd v0.4s, v1.4s, v2.4s, #270
        fcmla v0.4s, v1.4s, v2.s[1], #180""",
    "jsconv": "fjcvtzs w0, d1",
    "fptoint": "frint32z s0, s1; frint64x d0, d1; frint32x v0.4s, v1.4s",
    "lse": """ldadd w0, w1, [x2]; ldaddal x0, x1, [x2]; stadd w0, [x1]; swp w0, w1, [x2]; cas w0, w1, [x2]
        casal x0, x1, [x2]; casp x0, x1, x2, x3, [x4]; ldclrb w0, w1, [x2]; ldumaxh w0, w1, [x2]
        casb w0, w1, [x2]""",
    "rcpc": "ldapr w0, [x1]; ldaprb w0, [x1]; ldapr x0, [x1]",
    "rcpc_immo": "ldapur w0, [x1, #4]; stlur x0, [x1, #-8]",
    "mops": "cpyfp [x0]!, [x1]!, x2!; setp [x0]!, x1!, x2",
    "cssc": "abs w0, w1; cnt x0, x1; ctz w0, w1; smax w0, w1, w2; umin x0, x1, #3",
    "crc": "crc32b w0, w1, w2; crc32cx w0, w1, x2",
    "aes": "aese v0.16b, v1.16b; aesmc v0.16b, v1.16b; pmull v0.1q, v1.1d, v2.1d",
    "sha2": "sha1c q0, s1, v2.4s; sha256h q0, q1, v2.4s; sha1h s0, s1; sha256su0 v0.4s, v1.4s",
    "sha3": "eor3 v0.16b, v1.16b, v2.16b, v3.16b; bcax v0.16b, v1.16b, v2.16b, v3.16b; sha512h q0, q1, v2.2d",
    "flagm": "cfinv; rmif x0, #3, #5; setf8 w0",
    "pauth": "pacia x0, x1; pacga x0, x1, x2; retaa; ldraa x0, [x1]",
    "mte": "irg x0, x1; addg x0, x1, #16, #1; ldg x0, [x1]; subp x0, x1, x2",
    "sb": "sb",
    "hbc": "bc.eq #8",
    "sve": "fmla z0.h, p0/m, z1.h, z2.h; ld1w {z0.s}, p0/z, [x0]; ptrue p0.s; cntd x0",
    "sme": "fmopa za0.s, p0/m, p1/m, z0.s, z1.s; zero {za}",
}
# What every AArch64 core has, and looks like one of the above
A64_BASE = """fmla v0.4s, v1.4s, v2.4s; fmla v0.4s, v1.4s, v2.s[3]; fmla v0.2d, v1.2d, v2.d[1]
    fmul v0.4s, v1.4s, v2.s[0]; fcvt s0, h1; fcvt h0, s1; fcvt d0, h1; fcvt h0, d1; fcvtl v0.4s, v1.4h
    fcvtl2 v0.4s, v1.8h; fcvtn v0.4h, v1.4s; fcvtn2 v0.8h, v1.4s; ldr h0, [x1]; str h0, [x1, #2]
    dup v0.8h, v1.h[3]; dup v0.8h, w1; mov v0.h[1], v1.h[2]; mov v0.h[1], w1; umov w0, v1.h[1]; ldr q0, [x1]
    ld1r {v0.8h}, [x1]; zip1 v0.8h, v1.8h, v2.8h; fmov s0, w1; fmadd s0, s1, s2, s3; fmaxnmv s0, v1.4s
    faddp s0, v1.2s; scvtf v0.4s, v1.4s; scvtf s0, w1; scvtf v0.4s, v1.4s, #3; fmov v0.4s, #1.0; fmov v0.2d, #1.0
    movi v0.8h, #1; bic v0.8h, #1; fdiv v0.4s, v1.4s, v2.4s; sqrdmulh v0.8h, v1.8h, v2.8h
    mla v0.8h, v1.8h, v2.h[1]; smlal v0.4s, v1.4h, v2.4h; umlal v0.4s, v1.4h, v2.h[1]
    sqdmulh v0.4s, v1.4s, v2.s[1]; ldxr w0, [x1]; stlxr w0, w1, [x2]; ldaxp x0, x1, [x2]; ldar w0, [x1]
    stlr w0, [x1]; ldr x0, [x1, #8]!; ldrsw x0, [x1]; pmull v0.8h, v1.8b, v2.8b; add x0, x1, x2; sdiv w0, w1, w2
    clz w0, w1; rbit x0, x1; rev w0, w1; br x0; ret; blr x1; ccmp w0, w1, #0, eq; adc x0, x1, x2; sbcs x0, x1, x2
    b.eq #8; dmb ish; mrs x0, tpidr_el0; nop; ext v0.16b, v1.16b, v2.16b, #4; addv h0, v1.8h; smaxv h0, v1.8h
    shl v0.8h, v1.8h, #3; ushll v0.4s, v1.4h, #0; xtn v0.4h, v1.4s; tbl v0.16b, {v1.16b}, v2.16b"""
A32 = {
    "fullfp16": """vadd.f16 q0, q1, q2; vfma.f16 d0, d1, d2; vmul.f16 q0, q1, d0[1]; vmla.f16 q0, q1, d0[1]
        vadd.f16 s0, s1, s2; vfma.f16 s0, s1, s2; vmov.f16 r0, s0; vmovx.f16 s0, s1; vldr.16 s0, [r0]
        vcvt.f16.s16 q0, q1; vabs.f16 q0, q1; vmax.f16 q0, q1, q2; vceq.f16 q0, q1, #0; vcvt.f16.s16 d0, d1, #3
        vrecpe.f16 q0, q1""",
    "dotprod": "vsdot.s8 q0, q1, q2; vudot.u8 d0, d1, d2[1]",
    "fp-armv8": """vmaxnm.f32 q0, q1, q2; vmaxnm.f32 s0, s1, s2; vrintz.f32 q0, q1; vrinta.f32 s0, s1; vrintr.f32 s0, s1
        vcvta.s32.f32 q0, q1; vcvta.s32.f32 s0, s1; vseleq.f32 s0, s1, s2; lda r0, [r1]; stl r0, [r1]; ldaex r0, [r1]
        vcvtb.f64.f16 d0, s1; vrintx.f32 s0, s1; vrintm.f32 q0, q1""",
    "crc": "crc32b r0, r1, r2; crc32cw r0, r1, r2",
    "aes": "aese.8 q0, q1; vmull.p64 q0, d0, d1",
    "sha2": "sha1c.32 q0, q1, q2; sha1h.32 q0, q1; sha256su0.32 q0, q1",
}
A32_BASE = """vfma.f32 q0, q1, q2; vfma.f32 s0, s1, s2; vmla.f32 q0, q1, d0[1]; vmul.f32 q0, q1, d0[1]
    vadd.f32 q0, q1, q2; vcvtb.f32.f16 s0, s1; vcvt.f32.f16 q0, d1; vcvt.f16.f32 d0, q1; vcvt.f32.s32 q0, q1
    vcvt.f32.s32 q0, q1, #3; vldr s0, [r0]; vldr d0, [r0, #8]; vstmia r0!, {d0-d7}; vld1.32 {d0, d1}, [r0]!
    vmov r0, s0; vmov d0, r0, r1; vmov.f32 q0, #1.0; vmov.i16 q0, #1; vmax.f32 q0, q1, q2; vrecpe.f32 q0, q1
    vrecps.f32 q0, q1, q2; vabs.f32 q0, q1; vqdmulh.s16 q0, q1, q2; vqrdmulh.s16 q0, q1, d2[1]
    vmull.s8 q0, d1, d2; vmull.p8 q0, d1, d2; vext.8 q0, q1, q2, #3; vtrn.32 q0, q1; vdup.32 q0, r0
    vshl.i16 q0, q1, #3; vshll.i16 q0, d1, #16; vpadd.f32 d0, d1, d2; vceq.f32 q0, q1, #0; sdiv r0, r1, r2
    ldrex r0, [r1]; strexd r0, r2, r3, [r4]; ldrd r0, r1, [r2]; swi #0; mul r0, r1, r2; smlabb r0, r1, r2, r3
    dmb ish; pld [r0]; blx r0; bx lr; clz r0, r1; movw r0, #1; vmrs apsr_nzcv, fpscr; vsqrt.f32 s0, s1
    qadd r0, r1, r2"""


def instructions(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[;\n]", text) if part.strip()]


def assembled(folder, architecture: str, cpu: str, lines: list[str]):
    """The words that LLVM makes of some lines for a CPU; its errors by line where it does not."""
    before = ".syntax unified\n.arm\n" if architecture == "armv7" else "\n\n"
    (folder / "x.s").write_text(before + "\n".join(lines) + "\n")
    triple = {"aarch64": "aarch64-linux-gnu", "armv7": "arm-linux-gnueabihf"}[architecture]
    command = packages.zig("a test", "cc", "-target", triple, f"-mcpu={cpu}", "-ferror-limit=0", "-c")
    done = subprocess.run([*command, "x.s", "-o", "x.o"], cwd=folder, capture_output=True, text=True)
    errors = {int(m[1]) - 3: m[2] for m in re.finditer(r"x\.s:(\d+):\d+: error: (.*)", done.stderr)}
    if done.returncode:
        assert errors, done.stderr
        return None, errors
    elf = symbols.read(folder / "x.o")
    return np.frombuffer(elf.contents[elf.names.index(".text")], "<u4"), {}


@pytest.mark.parametrize("architecture", ["aarch64", "armv7"])
def test_encodings_are_llvms(tmp_path, architecture):
    """Each instruction needs what LLVM says that it needs: without the feature its assembler refuses it, and with it
    the word is found to need it. What every CPU has needs nothing."""
    rows, base = (A64, A64_BASE) if architecture == "aarch64" else (A32, A32_BASE)
    plain = "generic" if architecture == "aarch64" else "generic+v7a+neon+vfp4+hwdiv_arm"
    every = "+".join(f.replace("-", "_") for f in rows)
    lines = {feature: instructions(text) for feature, text in rows.items()}
    flat = [line for one in lines.values() for line in one]
    none, errors = assembled(tmp_path, architecture, plain, flat)
    assert none is None
    refused = {k for k, why in errors.items() if "requires" in why or "invalid" in why}
    assert [line for k, line in enumerate(flat) if k not in refused] == []
    all_of_it = f"generic+{every}" if architecture == "aarch64" else f"generic+v8a+neon+{every}"
    words, errors = assembled(tmp_path, architecture, all_of_it, flat)
    assert not errors
    found = instruction_sets.needed(words, architecture)
    k = 0
    for feature, own in lines.items():
        for line in own:
            assert {f for f, where in found.items() if where[k]} == {feature.replace("_", "-")}, line
            k += 1
    words, errors = assembled(tmp_path, architecture, plain, instructions(base))
    assert not errors
    for feature, where in instruction_sets.needed(words, architecture).items():
        assert not [line for line, odd in zip(instructions(base), where, strict=True) if odd], feature


def test_every_feature_is_tried():
    untried = {"lse128", "ls64", "rand", "tme"}  # which LLVM's assembler knows by other words or not at all
    assert {f.replace("_", "-") for f in A64} == set(instruction_sets._A64) - untried
    assert set(A32) == set(instruction_sets._A32)


@pytest.mark.parametrize(
    "board",
    [b if b == "rpi5" else pytest.param(b, marks=pytest.mark.full) for b in sorted(CODE.values())],
)
def test_no_file_that_ships_has_an_instruction_outside_its_boards(board):
    """All libraries of a build, all of a bundle, and its program."""
    target, options = targets.load(board), modules.tiny_options()
    built = modules.tiny(board)
    packed = modules.once(
        modules.root() / f"sets-{board}",
        lambda folder: build.build(
            options, target, output=folder / "built", network=load_network(options), bundle=folder / "bundle"
        ),
    )
    files = [*(built / name for name in LINKED), *(packed / "bundle" / n for n in ("libmobilenet.so", "mobilenet"))]
    for path in files:
        assert [str(one) for one in instruction_sets.outside(path, target)] == [], path
        elf = symbols.read(path)
        code = [c for s, c in zip(elf.sections, elf.contents, strict=True) if s[1] == 1 and s[2] & 4]
        assert sum(map(len, code)) > 1000, "nothing was looked at"


def test_boards_that_share_code_are_looked_at_by_one():
    assert len(CODE) >= 6 and {"rpi4", "rpi5", "arm", "arm82", "armv7"} <= set(CODE.values())


HALF = (
    "pointwise m49 n48 k32 f16 relu6",
    "depthwise 14x14x32 3x3 p1,1,1,1 f16 relu6",
    "conv 16x16x3 n16 3x3 s2 p1,1,1,1 f16 reads_f32 relu6",
    "dense m1 n10 k64 f16 writes_f32 sums_f32",
    "pool 7x7x32 avg 7x7 f16",
)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """``half(board) -> (kernels.o, names)`` of kernels that compute float16."""
    folder = tmp_path_factory.mktemp("half")

    def make(board):
        target, path = targets.load(board), folder / f"{board}.o"
        kernels = {}
        for k, layer in enumerate(map(Layer.parse, HALF)):
            kernels[f"half{k}"] = schedules.kernel(layer, schedules.space(layer, target.core).default)
        return (path if path.exists() else codegen.compile_object(kernels, target, path)), kernels

    return make


@pytest.mark.parametrize("board", ["rpi5", "arm82"])
def test_kernels_of_float16_are_inside_and_use_it(half, tmp_path, board):
    made, kernels = half(board)
    target = targets.load(board)
    library = codegen.link([str(made)], target, tmp_path / "k.so", None, kernels)
    assert not instruction_sets.outside(library, target)
    words = np.frombuffer(symbols.read(library).contents[symbols.read(library).names.index(".text")], "<u4")
    assert instruction_sets.needed(words, "aarch64")["fullfp16"].sum() > 100


@pytest.mark.parametrize("board", ["rpi4", "rpi3", "arm"])
def test_a_library_of_another_boards_code_is_not_linked(half, tmp_path, board):
    made, kernels = half("rpi5")
    with pytest.raises(TvmMobilenetError) as e:
        codegen.link([str(made)], targets.load(board), tmp_path / "k.so", None, kernels)
    told = str(e.value)
    assert re.search(
        rf"k.so for {board}: \d{{3,}} instructions that its code may not use: 0x\w+ \(\S*half\d\S*\+0x", told
    )
    assert ", which needs fullfp16; " in told and "-fullfp16" in told and not list(tmp_path.glob("*.so"))


OUTSIDE = {
    "fmlal v0.4s, v1.4h, v2.4h": (".arch_extension fp16fml", "fp16fml"),  # an emulator's CPU has it, an A76 has not
    "smmla v0.4s, v1.16b, v2.16b": (".arch_extension i8mm", "i8mm"),
    "ptrue p0.s": (".arch_extension sve", "sve"),
    "crc32b w0, w1, w2": (".arch_extension crc", "crc"),
    "aese v0.16b, v1.16b": (
        ".arch_extension aes",
        "aes",
    ),  # LLVM has an A72 with it, a Pi 4 has none
}


@pytest.mark.parametrize("line", OUTSIDE)
def test_one_instruction_outside_is_named_with_its_place(tmp_path, line):
    directive, feature = OUTSIDE[line]
    library = assemble(tmp_path / "x.so", {"first": "ret", "second": f"nop\n{directive}\n{line}\nret"})
    (one,) = instruction_sets.outside(library, targets.load("rpi5"))
    assert (one.feature, one.place) == (feature, "__tvm_ffi_second+0x4")
    assert re.sub(r"\s+", " ", one.text) == line or one.text.startswith(line.split()[0])
    with pytest.raises(TvmMobilenetError, match=rf"x.so for rpi5: 1 instructions .*: {one.address:#x} \(__tvm"):
        instruction_sets.check(library, targets.load("rpi5"))


def test_atomics_of_lse_are_for_cores_that_have_them(tmp_path):
    library = assemble(tmp_path / "x.so", {"add": ".arch_extension lse\nldaddal w0, w1, [x2]\nret"})
    assert not instruction_sets.outside(library, targets.load("rpi5")), "which asks the CPU for them at open"
    assert "atomics" in features.features(targets.load("rpi5"))
    for board in ("rpi3", "rpi4", "arm"):
        assert [one.feature for one in instruction_sets.outside(library, targets.load(board))] == ["lse"]


def test_thumb_code_is_not_taken_for_32_bit_instructions(tmp_path):
    """As a GCC for Arm makes it of the runtime's C: its halves look like anything."""
    body = ".thumb\n.p2align 2\n.hword 0x0a81, 0xfe80, 0x0a81, 0xfe80\nbx lr\n.arm"
    library = assemble(tmp_path / "x.so", {"f": body}, "armv7")
    assert not instruction_sets.outside(library, targets.load("armv7"))


GUARD = "adrp x16, flag\nldrb w16, [x16, :lo12:flag]\ncbz w16, 1f\n{}\nret\n1: ldxr w17, [x1]\nret"


@pytest.mark.parametrize(
    "body, allowed",
    [
        (GUARD.format("ldaddal w0, w0, [x1]"), True),
        (GUARD.format("swpal w0, w0, [x1]"), True),
        (GUARD.format("nop\nldaddal w0, w0, [x1]"), False),  # not the form that is known
        (GUARD.format("crc32b w0, w1, w2"), False),  # a byte that says something of atomics
        (GUARD.replace("cbz", "cbnz").format("ldaddal w0, w0, [x1]"), False),
        (GUARD.replace("w16, 1f", "w15, 1f").format("ldaddal w0, w0, [x1]"), False),
        (GUARD.replace("ldrb w16", "ldrb w15").format("ldaddal w0, w0, [x1]"), False),
        ("ldaddal w0, w0, [x1]\nret", False),
    ],
)
def test_atomics_that_ask_at_run_time_are_allowed(tmp_path, body, allowed):
    """As GCC's library has them, which a linker of one's own brings: a Pi 4 does not reach them."""
    extra = ".section .rodata\n.local flag\nflag: .byte 0"
    code = f".arch_extension lse\n.arch_extension crc\n{body}"
    library = assemble(tmp_path / "x.so", {"f": code}, extra=extra)
    assert bool(instruction_sets.outside(library, targets.load("rpi4"))) != allowed


def test_data_between_32_bit_functions_is_no_instruction(tmp_path):
    """With symbols that say so, and without: then as what a load relative to the program counter names."""
    body = "ldr r0, 1f\n vldr d0, 2f\n bx lr\n .balign 8\n2: .word 0xfe800a81, 0xfe800a81\n1: .word 0xf3ba05c2"
    library = assemble(tmp_path / "x.so", {"f": body}, "armv7")
    target = targets.load("armv7")
    assert not instruction_sets.outside(library, target)
    symbols.keep_kernels(library, [])
    assert not instruction_sets.outside(library, target)
    library = assemble(
        tmp_path / "y.so", {"f": ".fpu neon-fp-armv8\n.arch armv8-a\nvmaxnm.f32 s0, s1, s2\n bx lr"}, "armv7"
    )
    assert [one.feature for one in instruction_sets.outside(library, target)] == ["fp-armv8"]


@pytest.mark.parametrize("architecture", ["aarch64", "armv7"])
def test_what_code_may_use_is_asked_of_the_cpu_at_open(architecture):
    """Each name that a build asks for is one that the runtime knows, and one that a board tells."""
    from importlib import resources

    from tvm_mobilenet.targets import cpu

    source = (resources.files("tvm_mobilenet.runtime") / "cpu.c").read_text()
    names = {name for names in features._FEATURES[architecture].values() for name in names}
    assert {name for name in names if f'{{"{name}", AT_HWCAP' not in source} == set()
    if architecture == "aarch64":
        assert names <= {*cpu.HWCAP_AARCH64.values(), *cpu.HWCAP2_AARCH64.values()}
