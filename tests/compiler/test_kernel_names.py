"""Names of kernels, as ``nm`` and ``perf`` show them: they say what a kernel is, and stand for all of its code."""

import json
import re
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.support import bundles, modules
from tvm_mobilenet import schedules, targets
from tvm_mobilenet.boards import open_board
from tvm_mobilenet.boards.plan_runner import PlanRunner
from tvm_mobilenet.compiler import kernel_names, tables
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.plan import input_values, inputs_of
from tvm_mobilenet.layer import Layer

LOGS = Path(__file__).resolve().parents[2] / "tune_logs"
LAYERS = (
    "pointwise m196 n512 k512 in544 out544 f32 add relu6",
    "pointwise m196 n512 k512 b2 f32 relu6 add_after",
    "dense m1 n1000 k1024 f32",
    "depthwise 112x112x64 3x3 s2 p1,1,1,1 f32 hardswish",
    "conv 224x224x3 n32 3x3 s2,1 p1,1,10,1 d2 nchw f32 relu6",
    "conv 8x8x9 n33 3x3 g3 to_nchw f32",
    "elementwise 56x56x24 add f32 relu",
    "elementwise 7x7x24 none to_nchw f32",
    "elementwise 7x7x24 scale f32 hardsigmoid",
    "pointwise m49 n24 k40 f32 add prelu",
    "depthwise 7x7x24 3x3 p1,1,1,1 f32 leaky-0.01",
    "pointwise m49 n24 k40 f32 clip-1,1 add_after",
    "conv 8x8x9 n33 3x3 f32 clip-inf,0.5",
    "dense m1 n10 k24 f32 hardswish0.2,0.5",
    "pool 7x7x1024 avg 7x7 f32",
    "softmax 1x1x10 f32",
)


def records() -> list[dict]:
    return [json.loads(line) for file in sorted(LOGS.glob("*.jsonl")) for line in file.read_text().splitlines()]


def test_names_of_all_shipped_records_are_read_back():
    known = records()
    assert len(known) > 300
    for record in known:
        layer, decisions = Layer.parse(record["layer"]), record["decisions"]
        name = kernel_names.name_of(layer, decisions, record["core"])
        found = kernel_names.parse(name)
        assert re.fullmatch(r"[a-z]\w*", name) and len("__tvm_ffi_" + name) <= 200
        assert found.core == record["core"].replace("-", "_"), name
        if layer.parts:
            assert len(found.parts) == len(layer.parts) and found.cut == (
                decisions["row_tiles"],
                decisions["column_tiles"],
            )
        else:
            tile = tuple(decisions[t] for t in ("tile_h", "tile_m", "tile_w", "tile_n") if t in decisions)
            assert (found.layer, found.tile) == (layer, tile), name
            assert (found.lanes, found.k_block) == (decisions.get("lanes", 0), decisions.get("k_block", 0)), name
            assert found.is_dual_issue == (decisions.get("loop") == "dual_issue"), name


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("core", ["cortex-a72", "K2 lite", "x86-64-v3", "64-bit", "dual_issue"])
def test_every_word_of_a_layer_is_in_the_name(layer, core):
    layer = Layer.parse(layer)
    decisions = schedules.space(layer, targets.load("rpi4").core).default
    found = kernel_names.parse(kernel_names.name_of(layer, decisions, core))
    assert found.layer == layer and found.core.removeprefix("core_") == re.sub(r"\W", "_", core).lower()


@pytest.mark.parametrize("name", ["café_host", "模型_rpi4", "v1-1.0-224_rpi4", "7_host"])
def test_symbols_are_identifiers_of_c(name):
    """A linker's script takes no others."""
    assert re.fullmatch(r"[A-Za-z]\w*_", tables._prefix(name), re.ASCII)
    assert re.fullmatch(r"[A-Za-z_]\w*", kernel_names._core_word(name), re.ASCII)


def test_the_published_examples():
    layer = Layer.parse("pointwise m196 n512 k512 f32 relu6")
    decisions = {"tile_m": 7, "tile_n": 8, "k_block": 64, "outer": "n", "loop": "plain"}
    name = "pointwise_f32_m196n512k512_relu6_tile7x8_k64_cortex_a72"
    assert kernel_names.name_of(layer, decisions, "cortex-a72") == name and name in kernel_names.__doc__
    for example in re.findall(r"^    (\w+_f32_\w+)$", kernel_names.__doc__, re.MULTILINE):
        assert kernel_names.parse(example).core.startswith("cortex_")


@pytest.mark.parametrize(
    "name", ["", "main", "pointwise", "pointwise_f32_m1", "block2_f32_cortex_a72_12345678", "x_y_z_w"]
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="is not a kernel's name"):
        kernel_names.parse(name)


def test_a_long_block_leaves_parts_out_and_stays_short():
    part = "pointwise m12544 n1024 k1024 f32 relu6"
    layer = Layer.fused_block(tuple(Layer.parse(p) for p in ["depthwise 112x112x1024 3x3 p1,1,1,1 f32"] + 15 * [part]))
    one = kernel_names.name_of(layer, {"row_tiles": 4, "column_tiles": 2}, "cortex-a72")
    found = kernel_names.parse(one)
    assert len(one) <= kernel_names.LONGEST and any(p.startswith("more") for p in found.parts)
    assert found.core == "cortex_a72" and found.cut == (4, 2)


def functions(library: Path) -> dict[str, int]:
    """Names in the table of all symbols, to sizes."""
    with library.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        return {s.name: s["st_size"] for s in table.iter_symbols() if s["st_info"]["type"] == "STT_FUNC"}


def debug_sections(library: Path) -> list[str]:
    with library.open("rb") as file:
        return [s.name for s in ELFFile(file).iter_sections() if s.name.startswith(".debug")]


@pytest.mark.parametrize("target", ["host", "rpi4"])
def test_libraries_of_a_build_name_each_kernel_once(target):
    module = built.read(modules.tiny(target))
    symbols = {step.symbol for step in module.plan.steps}
    for library in (module.library, module.runtime, module.executable):
        found = functions(library)
        assert set(found) == symbols and min(found.values()) > 0 and not debug_sections(library)
    for step in module.plan.steps:
        name = kernel_names.parse(step.symbol)
        assert name.parts or name.layer == Layer.parse(step.layer)


@pytest.mark.parametrize("target", ["host", pytest.param("armv7", marks=pytest.mark.full)])
def test_a_bundles_library_keeps_the_names(target):
    made = bundles.made(target)
    assert set(functions(made.folder / "libmobilenet.so")) == {s.symbol for s in built.read(made.built).plan.steps}


def test_the_names_stand_for_the_code_that_runs():
    """Most of a kernel is in its parallel regions, for which TVM has no name."""
    module = built.read(modules.tiny("rpi4"))
    with open_board("virtual", module.target).load(module.library) as loaded:
        runner = PlanRunner(loaded, module.plan, module.parameters())
        for step, run in zip(module.plan.steps, runner.run(*input_values(inputs_of(module.plan))).kernels, strict=True):
            named = sum(n for _, n in run.executions(step.symbol))
            wrapper = sum(n for _, n in run.executions(f"__tvm_ffi_{step.symbol}"))
            assert named + wrapper == sum(n for _, n in run.executions()) and named > wrapper


def test_a_layer_with_a_loop_nest_of_its_own_is_named_by_operator_shapes_and_hash():
    """Its own name does not parse back into a layer; what C takes for a name it has to be all the same."""

    class Generic:
        kind, dtype, parts = "generic", "float32", ()

        def __init__(self, shapes):
            self.name = f"generic image.resize2d {shapes} to 1x6x5x7 #0a783608ec48 f32"

    for shapes in ("1x6x5x7", " ".join(["1x6x5x7"] * 60)):
        name = kernel_names.name_of(Generic(shapes), {"lanes": 4}, "cortex-a72")
        found = kernel_names.parse(name)
        assert re.fullmatch(r"[a-z]\w*", name) and len(name) <= kernel_names.LONGEST
        assert (found.core, found.lanes, found.parts[0]) == ("cortex_a72", 4, "imageresize2d")
        assert found.parts[-1] == "h0a783608ec48"
