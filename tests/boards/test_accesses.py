"""Memory followed block by block: the caches see what they see from a hook at every access."""

import numpy as np
import pytest

from tests.support.assembly import LOAD_DATA, assemble
from tvm_mobilenet import targets
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.boards.virtual.emulator import Emulator

WAYS_TO_ADDRESS = (
    LOAD_DATA
    + """
    stp x29, x30, [sp, #-32]!
    mov x29, sp
    str q0, [sp, #16]
    mov x12, #300
1:  ldr q1, [x9], #48
    ldr d2, [x9, #-8]!
    add x13, x9, x12, lsl #6
    ldp q3, q4, [x13, #32]
    ldr w14, [x10, x12, lsl #2]
    sxtw x15, w12
    sbfiz x16, x15, #4, #32
    ld1 {v5.4s, v6.4s}, [x10], #32
    mov w17, w12
    ldrb w17, [x9, w17, uxtw]
    ld4 {v16.4s, v17.4s, v18.4s, v19.4s}, [x13]
    str s5, [x10, x16]
    lsl x15, x12, #3
    sub x15, x10, x15
    st1 {v5.s}[1], [x15]
    ldrsw x18, [x15, #4]
    and x18, x18, #0xff
    ldr x19, [x10, x18, lsl #3]
    adrp x20, table
    add x20, x20, :lo12:table
    ldr x21, [x20, w12, sxtw #3]
    add x21, x10, x21
    stur x12, [x21, #3]
    cbz x18, 2f
    strh w12, [x9, #2]
2:  sub x12, x12, #1
    cbnz x12, 1b
    ldr q0, [sp, #16]
    ldp x29, x30, [sp], #32
    mov w0, #0
    ret"""
)
TABLE = ".data\n.balign 64\ntable: " + "\n".join(f".quad {97 * i % 4096}" for i in range(301))


def both(monkeypatch, path, symbol, arguments):
    """A kernel's run, followed block by block and access by access; how many accesses needed a hook in the first."""
    original, runs, hooks = Emulator.watch_memory, [], 0
    for every in (False, True):
        monkeypatch.setattr(Emulator, "watch_memory", lambda self, caches, every=every: original(self, caches, every))
        with VirtualBoard(targets.load("rpi4")).load(path) as module:
            runs.append(module.call(symbol, arguments, memory=True))
            follower = module._emulator._follower
            assert (follower is None) is every
            hooks += len(follower.again) if follower else 0
    return *runs, hooks


def test_every_way_to_address(monkeypatch, tmp_path):
    path = assemble(tmp_path / "k.so", {"k": WAYS_TO_ADDRESS}, extra=TABLE)
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 256, 1 << 17, np.uint8) for _ in range(2)]
    blocks, accesses, hooks = both(monkeypatch, path, "k", arrays)
    assert blocks.traffic == accesses.traffic and blocks.traffic.l1_misses > 500
    assert 1 <= hooks <= 6  # x18 and x21 are loaded in the block that uses them, and the arguments before


@pytest.mark.parametrize(
    "name",
    [
        "depthwise 14x14x24 5x5 s2 p1,2,1,2 f32 hardswish",
        "pointwise m49 n40 k72 f32 add",
        "pool 28x28x24 avg 28x28 f32",
    ],
)
def test_kernels(monkeypatch, tmp_path, name):
    from tvm_mobilenet.schedules import nest

    from tvm_mobilenet import schedules
    from tvm_mobilenet.checking import reference
    from tvm_mobilenet.compiler import codegen
    from tvm_mobilenet.layer import Layer

    layer, target = Layer.parse(name), targets.load("rpi4")
    decisions = schedules.space(layer, target.core).default
    codegen.compile_kernels({nest.SYMBOL: schedules.kernel(layer, decisions)}, target, tmp_path / "k.so")
    arguments = reference.kernel_arguments(layer, decisions, reference.random_arguments(layer))
    blocks, accesses, _ = both(monkeypatch, tmp_path / "k.so", nest.SYMBOL, arguments)
    assert blocks.traffic == accesses.traffic
    assert [p.shared for p in blocks.parts] == [p.shared for p in accesses.parts]


def test_what_cannot_be_told_from_the_text_is_followed_by_hooks(monkeypatch, tmp_path):
    """An exclusive store has another form; the image then has a hook at every access."""
    body = LOAD_DATA + "\n ldxr x11, [x9]\n stxr w12, x11, [x9]\n mov w0, #0\n ret"
    path = assemble(tmp_path / "k.so", {"k": body})
    with VirtualBoard(targets.load("rpi4")).load(path) as module:
        run = module.call("k", [np.zeros(64, np.uint8)] * 2, memory=True)
        assert module._emulator._follower is None and run.traffic.l1_misses >= 1
