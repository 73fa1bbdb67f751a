"""Any core: schedules read lanes, lines, caches and the number of CPUs, so whatever computer somebody has, an untuned
build is a point of its own space, is code that LLVM compiles, and computes the layer."""

import dataclasses
import functools
import itertools
import random

import numpy as np
import pytest
import torch
import tvm
from tvm import tirx
from tvm_mobilenet.schedules import choices, nest, row_tiles
from tvm_mobilenet.targets import Cache, host
from tvm_mobilenet.tune_logs import log

from tvm_mobilenet import dtypes, frontend, kinds, passes, schedules, targets
from tvm_mobilenet.boards.comparison import require_right
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.checking import reference, stepped
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.compiler.pipeline import for_core
from tvm_mobilenet.compiler.row_pitch import pitch_of
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models import registry

RPI4, RPI5 = targets.load("rpi4"), targets.load("rpi5")
KIB, MIB = 1 << 10, 1 << 20
FACTORS = {
    "vector_bytes": (8, 16, 32, 64),
    "vector_registers": (16, 32),
    "architecture": ("aarch64", "x86_64", "armv7"),
    "in_order": (False, True),
    "fma_per_cycle": (1.0, 2.0),
    "vector_load_bytes": (8, 64),
    "line": (32, 64, 128),  # of a small core, of most, of Apple's and some of IBM's
    "l1d": ((16 * KIB, 4), (32 * KIB, 8), (48 * KIB, 12), (64 * KIB, 2)),
    "l2": ((128 * KIB, 4), (512 * KIB, 1), (1280 * KIB, 10), (4 * MIB, 16)),
    "shared": (False, True),
    "l3": (None, (2 * MIB, 16), (36 * MIB, 12)),
    "cpus": (1, 2, 6, 16, 64),
}
# Every family once, at other widths and resolutions.
NETWORKS = (
    ("v1", 1.0, 224),
    ("v1-plain", 0.5, 160),
    ("v1-shallow", 0.25, 128),
    ("v2", 1.4, 224),
    ("v3-large", 1.0, 224),
    ("v3-small", 0.75, 96),
)


def cover(factors: dict, seed: int = 0) -> list[dict]:
    """Choices of a value for each factor, such that every two values of two factors meet: a pairwise cover."""

    def pairs(row: dict) -> set:  # a row has the factors' order
        return set(itertools.combinations(row.items(), 2))

    def met(row: dict, name: str, value) -> int:
        """How many missing pairs a factor's value makes with the others'."""
        mine = (name, value)
        return sum((other, mine) in missing or (mine, other) in missing for other in row.items() if other[0] != name)

    draw = random.Random(seed)
    missing = set()
    for (a, these), (b, those) in itertools.combinations(factors.items(), 2):
        missing |= {((a, x), (b, y)) for x in these for y in those}
    rows = []
    while missing:
        start = dict(min(missing, key=repr))
        tries = []
        for _ in range(60):
            row = {name: start.get(name, draw.choice(values)) for name, values in factors.items()}
            for name in draw.sample(sorted(set(factors) - set(start)), len(factors) - len(start)):
                row[name] = max(factors[name], key=lambda v, n=name, r=row: met(r, n, v))
            tries.append(row)
        best = max(tries, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        rows.append(best)
    return rows


def target_of(**facts) -> targets.Target:
    """An invented board of one of ``FACTORS``' rows, or of some of them."""
    facts = {name: values[0] for name, values in FACTORS.items()} | {"line": 64, "cpus": 4} | facts
    cpus, line, shared = facts.pop("cpus"), facts.pop("line"), facts.pop("shared")
    caches = {
        name: facts[name] and Cache(bytes=facts[name][0], ways=facts[name][1], line=line, shared=together)
        for name, together in (("l1d", False), ("l2", shared), ("l3", True))
    }
    core = dataclasses.replace(RPI4.core, name="invented", issue_width=4, **{**facts, **caches})
    assert not core.problem() and not any(cache.problem() for cache in caches.values() if cache)
    return dataclasses.replace(RPI4, name="invented", core=core, cores=cpus)


ROWS = cover(FACTORS)


@functools.cache
def graph_of(name: str, alpha: float, resolution: int):
    """The layers of a network of the registry; weights do not matter."""
    model = registry.architecture(name, alpha).eval().requires_grad_(False)
    return passes.run(frontend.from_torch(model, torch.zeros(1, 3, resolution, resolution)))


def of_dtype(layer: Layer, dtype: str) -> Layer:
    """The same layer of another dtype; of a fused block, all parts of it."""
    token = dtypes.of(dtype).token
    return Layer.parse(" ".join(token if word == "f32" else word for word in layer.name.split()))


def in_dtype(graph, dtype: str):
    """A graph of layers of another dtype, all values of it but the network's own."""
    if dtype == "float32":
        return graph
    own = {port.value for port in (*graph.signature.inputs, *graph.signature.outputs)}
    calls = []
    for call in graph.calls:
        ends = {"reads": call.inputs[0] in own, "writes": call.output in own}
        wide = {name: "float32" for name, one in ends.items() if one}
        calls.append(call.replace(layer=of_dtype(call.layer, dtype).replace(**wide)))
    return dataclasses.replace(graph, calls=tuple(calls))


def tasks_of(kernel: tirx.PrimFunc) -> int:
    """Iterations of its parallel region."""

    def found(statement) -> int:
        if isinstance(statement, tirx.For):
            return int(statement.extent) if int(statement.kind) == tirx.ForKind.PARALLEL else 1
        if isinstance(statement, tirx.SeqStmt):
            return max(map(found, statement.seq))
        return found(statement.body) if hasattr(statement, "body") else 1

    return found(kernel.body)


# ---- defaults are points of their spaces


def test_the_cores_cover_every_two_facts():
    for (a, these), (b, those) in itertools.combinations(FACTORS.items(), 2):
        assert {(row[a], row[b]) for row in ROWS} == set(itertools.product(these, those)), (a, b)
    assert len(ROWS) <= 30


@pytest.mark.parametrize(
    "row, dtype",
    [
        *(pytest.param(row, "float32", marks=[pytest.mark.full] * (row > 0)) for row in range(len(ROWS))),
        *(pytest.param(row, "float16", marks=[pytest.mark.full] * (row > 0)) for row in range(0, len(ROWS), 3)),
    ],
)
def test_every_layer_of_the_registry_has_a_valid_default_on_any_core(row, dtype):
    """By itself, and in the fused blocks and at the pitches that the passes choose for it; every other network."""
    core = target_of(**ROWS[row]).core
    layers = {}
    for network in NETWORKS[row % 2 :: 2]:
        graph = in_dtype(graph_of(*network), dtype)
        calls, fused = graph.calls, for_core(graph, core).calls
        parts = [part for call in fused for part in call.layer.dense.parts or (call.layer.dense,)]
        assert [part.replace(back=0) for part in parts] == [call.layer for call in calls]
        layers |= dict.fromkeys(c.layer for c in (*fused, *calls))
    assert len(layers) > 75
    for layer in layers:
        space = schedules.space(layer, core)  # which refuses a default that is no candidate
        assert space.valid(space.default) == "", (layer.name, core)
        pitches = {pitch - channels for pitch, channels in ((layer.input_pitch, layer.channels),) if pitch}
        assert all(more * layer.bytes % core.l1d.line == 0 for more in pitches), (layer.name, core.l1d.line)


@pytest.mark.parametrize("vector_bytes", FACTORS["vector_bytes"])
@pytest.mark.parametrize("cpus", (1, 64))
def test_a_fused_block_that_another_core_made_is_valid_too(vector_bytes, cpus):
    """Layers are named in logs and by users: a fused block need not be one that the passes would make here."""
    layer = Layer.parse(FUSED_BLOCK)
    core = target_of(vector_bytes=vector_bytes, cpus=cpus, l2=(128 * KIB, 4)).core
    space = schedules.space(layer, core)
    assert space.valid(space.default) == ""
    assert all(space.valid(near) == "" for near in itertools.islice(space.neighbours(space.default), 20))


def test_vectors_are_said_only_where_they_are_not_neons():
    """What was logged for Arm boards stays what it was; a kernel of another width is another record."""
    layer = Layer.parse("pointwise m49 n64 k32 f32 relu6")
    said = {b: schedules.space(layer, target_of(vector_bytes=b).core).default.get("vector") for b in (8, 16, 32, 64)}
    assert said == {8: 2, 16: None, 32: 8, 64: 16} and nest.VECTOR_BYTES == 16


# ---- as many tasks as CPUs have use for


@pytest.mark.parametrize("vector_bytes, registers", [(32, 16), (64, 32)])
@pytest.mark.parametrize("network", ["v1", "v3-large"])
def test_sixty_four_cpus_have_something_to_do(network, vector_bytes, registers):
    """A layer that takes one CPU long leaves most of many a task: fewer only for the sake of better tiles."""
    facts = {"vector_bytes": vector_bytes, "vector_registers": registers, "fma_per_cycle": 2.0}
    core = target_of(**facts, architecture="x86_64", l2=(1280 * KIB, 10), l3=(36 * MIB, 12), cpus=64).core
    idle = {}
    for layer in for_core(graph_of(network, 1.0, 224), core).counts:
        if layer.mult_adds / core.macs_per_cycle("float32") > 200_000:
            count = tasks_of(schedules.kernel(layer, schedules.space(layer, core).default))
            if count < core.cpus // 2:
                idle[layer.name] = count
    assert not idle


def test_the_classifier_of_many_cpus_is_cut_smaller():
    layer = Layer.parse("dense m1 n1000 k1024 f32")
    counts = [
        tasks_of(schedules.kernel(layer, schedules.space(layer, core).default))
        for core in (target_of(vector_bytes=64, vector_registers=32, cpus=n).core for n in (1, 4, 64))
    ]
    assert counts[0] >= 1 and counts[1] >= 4 and counts[2] >= 48, counts


def test_fused_blocks_are_cut_for_the_cpus_there_are():
    layer = Layer.parse(FUSED_BLOCK.replace("32x32", "128x128").replace("16x16", "64x64").replace("m64", "m1024"))
    layer = Layer.parse(layer.name.replace("m256", "m4096"))
    for cpus in (1, 3, 16, 64):
        core = target_of(l2=(4 * MIB, 16), cpus=cpus).core
        d = schedules.space(layer, core).default
        rows = layer.parts[-1].height ** 0.5
        assert min(cpus, rows) <= d["row_tiles"] * d["column_tiles"] <= cpus + 3, (cpus, d)
        assert row_tiles.load_balance(layer, d["row_tiles"], d["column_tiles"], cpus) < 2
    alone = target_of(cpus=1, l2=(4 * MIB, 16)).core
    assert row_tiles.tasks(layer, alone) == (1, 1)  # nothing is computed twice for nobody


def test_shares_of_one_cpu_are_even_and_too_few_tasks_are_not():
    assert choices.imbalance([3, 1, 1], 1) == 1
    assert choices.imbalance([1] * 4, 64) == 16


# ---- a core knows how many CPUs share it


def test_a_targets_core_knows_how_many_cpus_there_are(tmp_path):
    assert RPI4.core.cpus == RPI4.cores == 4 and targets.load("host").core.cpus == host.cores()
    more = dataclasses.replace(RPI4, cores=64)
    assert more.core.cpus == 64 and dataclasses.replace(more, core=RPI4.core).core.cpus == 64
    assert schedules.space(Layer.parse(FUSED_BLOCK), more.core) is not schedules.space(
        Layer.parse(FUSED_BLOCK), RPI4.core
    )
    assert more.core.sharers(Cache(bytes=MIB, ways=16, shared=True, cpus=2)) == 2
    assert RPI4.core.sharers(RPI4.core.l2) == 4 and RPI4.core.sharers(RPI4.core.l1d) == 1
    for name in ("cores/cortex-a72.toml", "rpi4.toml"):
        text = (targets.resources.files(targets.__name__) / name).read_text()
        (tmp_path / name.rpartition("/")[2]).write_text(text.replace('"cortex-a72"\ncores', '"cortex-a72.toml"\ncores'))
    core = tmp_path / "cortex-a72.toml"
    core.write_text(core.read_text().replace("in_order", "cpus = 8\nin_order"))
    with pytest.raises(TvmMobilenetError, match="a target says how many, as cores"):
        targets.load(str(tmp_path / "rpi4.toml"))


def test_what_only_defaults_read_is_no_part_of_a_targets_key():
    """Costs do not depend on it, and what was logged before it was there stays of this target."""
    limits = dataclasses.replace(RPI4.core.limits, task_cycles=1)
    core = dataclasses.replace(RPI4.core, l2_line_cycles=9.0, dram_line_cycles=99.0, limits=limits)
    assert log.target_key(dataclasses.replace(RPI4, core=core)) == log.target_key(RPI4)
    assert log.target_key(dataclasses.replace(RPI4, cores=2)) != log.target_key(RPI4)


def test_a_record_says_how_many_cores_if_not_four():
    record = log.Record(layer="l", core="c", decisions={}, cost=64.0, cost_all_cores=2.0, cores=64)
    assert record.score == (64 + 128) / 2 and log.Record.from_json(record.to_json()) == record
    assert "cores" not in dataclasses.replace(record, cores=4).to_json().replace("cost_all_cores", "")


def test_a_list_of_cpus_is_counted():
    assert [host._count(text) for text in ("0", "0-3", "0,32", "0-3,64-67")] == [1, 4, 2, 8]


@pytest.mark.parametrize("line, pitch", [(32, 136), (64, 272), (128, 544)])
def test_a_pitch_is_a_line_for_every_sixteen(line, pitch):
    channels = 16 * line // 4
    assert pitch_of(channels, line, "float32") == pitch == channels + line // 4
    assert not pitch_of(channels // 2, line, "float32")
    assert pitch_of(2 * channels, line, "float16") == 2 * pitch and not pitch_of(channels, line, "float16")


# ---- kernels: lowered and compiled for every width and level, run where they can be

FUSED_BLOCK = (
    "fused conv 32x32x3 n24 3x3 s2 p1,1,1,1 nchw f32 relu6 > depthwise 16x16x24 3x3 p1,1,1,1 f32 relu6 > "
    "pointwise m256 n40 k24 f32 > depthwise 16x16x40 5x5 s2 p2,2,2,2 f32 hardswish > pointwise m64 n24 k40 f32 relu6"
)
SAMPLE = (
    "conv 16x16x3 n24 3x3 s2 p1,1,1,1 nchw f32 relu6",
    "conv 6x6x12 n20 3x3 p1,1,1,1 g2 f32 relu",
    "depthwise 14x14x40 3x3 p1,1,1,1 f32 relu6",
    "depthwise 14x14x72 5x5 s2 p2,2,2,2 f32 hardswish",
    "ghost 7x7x20 n40 3x3 p1,1,1,1 f32 add relu",
    "pointwise m49 n72 k40 in48 out80 f32 add relu6",
    "pointwise m13 n150 k130 f32 hardswish add_after",
    "dense m1 n101 k67 f32",
    "pool 7x7x40 avg 7x7 f32",
    "bilinear2d 7x7x40 half_pixel to14x14 f32 relu",
    "nearest2d 7x7x40 half_pixel_prefer_floor to14x14 f32",
    "elementwise 7x7x40 add f32 relu",
    "softmax 1x1x101 f32",
    FUSED_BLOCK,
)


def sample() -> list[Layer]:
    """A layer of each kind, whose fused block ends after three of its five parts: TVM takes seconds to lower the rest,
    LLVM up to a minute."""
    layers = map(Layer.parse, SAMPLE)
    return [Layer.fused_block(layer.parts[:3]) if layer.parts else layer for layer in layers]


LEVELS = {  # LLVM's CPU and the core that the host has then; the widest register that its code should name
    "x86-64-v2": ({"vector_bytes": 16}, "xmm"),
    "x86-64-v3": ({"vector_bytes": 32, "fma_per_cycle": 2.0, "cpus": 64}, "ymm"),
    "x86-64-v4": ({"vector_bytes": 64, "vector_registers": 32, "fma_per_cycle": 2.0, "cpus": 1}, "zmm"),
}


def built(layer: Layer, decisions: dict, cpu: str):
    target = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu}
    module = tvm.IRModule({"kernel": schedules.kernel(layer, decisions)})
    return tvm.compile(module, target=tvm.target.Target(target), tir_pipeline=codegen.lowering())


def check(layer: Layer, decisions: dict, run) -> None:
    """What ``run(arguments)`` leaves in the last of them is what the layer's definition says."""
    operands = reference.random_arguments(layer)
    arguments = reference.kernel_arguments(layer, decisions, operands)
    arguments[-1][...] = np.nan
    output = run(arguments)
    if allowed := stepped.allowed(layer):
        assert require_right(output, stepped.expected(layer, **operands), **allowed) == 0
        return
    found, expected = output[..., : layer.output_shape[-1]], reference.reference(layer, **operands)
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max()), (layer.name, decisions)


def runs_here(level: str) -> bool:
    here = host.LEVELS.get(host.architecture(), ())
    return level in {one.name for one in here if not one.lacks(host.flags())}


@pytest.mark.full
@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_kernels_of_each_host_level_compile_anywhere_and_are_right_where_they_run(level):
    facts, widest = LEVELS[level]
    core = target_of(architecture="x86_64", **facts).core
    texts = {}
    for layer in sample():
        decisions = schedules.space(layer, core).default
        module = built(layer, decisions, level)
        texts[layer.name] = module.mod.inspect_source("s")
        if runs_here(level):

            def run(arguments, module=module):
                tensors = [tvm.runtime.tensor(a) for a in arguments]
                module["kernel"](*tensors)
                return tensors[-1].numpy()

            check(layer, decisions, run)
    vectors = [text for name, text in texts.items() if not name.startswith("softmax")]
    assert all(widest in text for text in vectors)
    wider = {"xmm": "ymm", "ymm": "zmm", "zmm": "none"}[widest]
    assert not any(wider in text for text in vectors)
    # Accumulators that leave the registers for good are allocated anew in each tile: only fused blocks keep rows.
    assert [name for name, text in texts.items() if "AllocWorkspace" in text and not name.startswith("fused")] == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("vector_bytes", [pytest.param(b, marks=pytest.mark.full) for b in (8, 32, 64)])
def test_every_kind_is_built_for_vectors_of_any_width(vector_bytes, dtype):
    """Lowered and compiled; `test_kernels_of_vectors_that_the_machine_does_not_have_are_right_too` runs them."""
    of_kind = {layer.kind: of_dtype(layer, dtype) for layer in sample()}
    assert set(of_kind) == {kind.name for kind in kinds.every() if not kind.has_body}
    core = target_of(vector_bytes=vector_bytes, vector_registers=32, in_order=vector_bytes == 8).core
    kernels = {}
    for kind, layer in of_kind.items():
        decisions = schedules.space(layer, core).default
        kernels[kind] = schedules.kernel(layer, decisions).with_attr("global_symbol", kind)
        assert kind == "softmax" or decisions["vector"] * layer.bytes == vector_bytes
    target = tvm.target.Target({**(RPI4 if dtype == "float32" else RPI5).llvm_target(), "opt-level": 0})
    module = tvm.compile(tvm.IRModule(kernels), target=target, tir_pipeline=codegen.lowering())
    text = module.mod.inspect_source("s")
    assert all(f"__tvm_ffi_{symbol}:" in text for symbol in kernels)


@pytest.mark.full
@pytest.mark.parametrize(
    "facts",
    [
        {"vector_bytes": 8, "in_order": True, "line": 32, "cpus": 3},
        {"vector_bytes": 32, "vector_registers": 32, "line": 128, "cpus": 64, "fma_per_cycle": 2.0},
        {"vector_bytes": 64, "vector_registers": 16, "in_order": True, "cpus": 2},
    ],
    ids=lambda facts: f"{facts['vector_bytes']}-bytes",
)
def test_kernels_of_vectors_that_the_machine_does_not_have_are_right_too(facts):
    """Width is of the code, not of the machine: LLVM splits what is too long and pads what is too short."""
    core = target_of(architecture="x86_64", **facts).core
    for layer in sample():
        decisions = schedules.space(layer, core).default
        kernel = tvm.compile(
            tvm.IRModule({"kernel": schedules.kernel(layer, decisions)}),
            target=tvm.target.Target({"kind": "llvm", "opt-level": 1}),
            tir_pipeline=codegen.lowering(),
        )["kernel"]

        def run(arguments, kernel=kernel):
            tensors = [tvm.runtime.tensor(a) for a in arguments]
            kernel(*tensors)
            return tensors[-1].numpy()

        check(layer, decisions, run)


@pytest.mark.parametrize(
    "cpus, vector_bytes, dtype",
    [
        pytest.param(*more, marks=pytest.mark.full)
        for more in (
            (64, 16, "float32"),
            (6, 8, "float32"),
            (4, 32, "float32"),
            (1, 16, "float16"),
            (6, 8, "float16"),
            (2, 64, "float16"),
        )
    ],
)
def test_kernels_of_aarch64_are_right_for_any_number_of_cpus(cpus, vector_bytes, dtype, tmp_path):
    """And for vectors that LLVM splits or pads; of float16, equal to the last bit."""
    target = target_of(cpus=cpus, vector_bytes=vector_bytes, vector_registers=32, fma_per_cycle=2.0)
    board = RPI4 if dtype == "float32" else RPI5
    layers = {f"k{i}": of_dtype(layer, dtype) for i, layer in enumerate(sample())}
    decisions = {symbol: schedules.space(layer, target.core).default for symbol, layer in layers.items()}
    kernels = {symbol: schedules.kernel(layer, decisions[symbol]) for symbol, layer in layers.items()}
    library = codegen.compile_kernels(kernels, board, tmp_path / "kernels.so")
    with VirtualBoard(board).load(library) as module:
        for symbol, layer in layers.items():
            check(layer, decisions[symbol], lambda arguments, s=symbol: module.call(s, arguments).outputs[-1])
