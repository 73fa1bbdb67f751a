"""What is kept of the comparison with llvm-mca: no kernel dropped, and the agreement that the page claims."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, mca, metaschedule, peer_inferences, peers
from tests.support import modules
from tests.tuning.test_search import space
from tvm_mobilenet.compiler.network import load_network

TABLES = Path(__file__).parents[2] / "benchmarks" / "data"


@pytest.mark.parametrize("cpu, agreeing", [("cortex-a72", 0.95), ("neoverse-n1", 0.98)])
def test_no_kernel_is_dropped_and_as_many_agree_as_the_page_says(cpu, agreeing):
    rows = json.loads((TABLES / f"mca_{cpu}.json").read_text(encoding="utf-8"))["kernels"]
    assert [r["layer"] for r in rows] == mca.layers() and len(rows) == 232
    within = [r["llvm_mca"] is not None and 0.9 <= r["ours"] / r["llvm_mca"] <= 1.1 for r in rows]
    assert sum(within) / len(rows) == pytest.approx(agreeing, abs=0.01)
    points = [agrees for r, agrees in zip(rows, within, strict=True) if r["layer"].startswith("pointwise")]
    assert sum(points) / len(points) > 0.95


def test_kernels_of_float16_agree_or_differ_by_what_the_page_names():
    rows = json.loads((TABLES / "mca_neoverse-n1_float16.json").read_text(encoding="utf-8"))["kernels"]
    near = [mca.near(row) for row in rows]
    assert len(rows) == 39 and sum(near) == 35 and all(row["llvm_mca"] for row in rows)
    assert all(mca.near(row, "micro_ops") for row in rows), "one that forwarding and the window do not explain"
    assert all(" f16" in row["layer"] for row in rows)
    text = "\n".join(mca.table(rows))
    assert "35 of 39 kernels, 89.7%; the rule is 90%: not met" in text and "steps: 63 of 67, 94.0%" in text
    assert text.count("(not_forwarded ") == 4


@pytest.mark.parametrize("cpu, judged, agreeing", [("cortex-a72", "zipped", 50), ("neoverse-n1", "ours", 52)])
def test_kernels_of_int8_agree_where_dispatch_is_llvms(cpu, judged, agreeing):
    """The page says which classes make the difference: nine of ten agree with LLVM's slots and zips, fewer without."""
    rows = json.loads((TABLES / f"mca_{cpu}_int8.json").read_text(encoding="utf-8"))["kernels"]
    assert len(rows) == 52 and all(row["llvm_mca"] and " i8" in row["layer"] for row in rows)
    assert sum(mca.near(row, judged) for row in rows) == agreeing and agreeing / len(rows) >= mca.RULE
    assert f"{agreeing} of 52 kernels" in mca.table(rows)[0] and "met" in mca.table(rows)[0]
    if judged != "ours":
        assert [sum(mca.near(row, name) for row in rows) for name in ("ours", "dispatched")] == [27, 34]
        apart = [row for row in rows if not mca.near(row)]
        assert all(row["ours"] > row["llvm_mca"] and sum(row["wider"].values()) for row in apart)
        assert any("depthwise: cycles of wider slots" in line for line in mca.table(rows))


def test_dispatch_as_llvms_leaves_no_slot_beyond_one_a_micro_operation():
    from tvm_mobilenet import targets
    from tvm_mobilenet.boards.cost.instruction import Instruction
    from tvm_mobilenet.boards.cost.pipeline import Pipeline

    core = targets.load("rpi4").core
    rows = Pipeline(mca.dispatching(core)).classes.values()
    assert all(row.slots == max(len(row.uops), 1) for row in rows)
    assert any(row.slots > max(len(row.uops), 1) for row in Pipeline(core).classes.values())
    texts = ("uzp1 v0.8h, v1.8h, v2.8h", "uzp1 v0.8b, v1.8b, v2.8b", "ext v0.16b, v1.16b, v2.16b, #8")
    assert [mca.zipped(Instruction(0, text, "was")).kind for text in texts] == ["table", "was", "was"]


def test_a_table_says_what_is_near_and_what_was_not_estimated():
    rows = [
        {"layer": "pointwise a", "ours": 1.0, "not_forwarded": 1.2, "llvm_mca": 1.0},
        {"layer": "dense b", "ours": 0.5, "not_forwarded": 0.95, "llvm_mca": 1.0},
        {"layer": "dense c", "ours": 0.5, "not_forwarded": 0.95, "llvm_mca": None, "why": "unknown instruction"},
    ]
    lines = mca.table(rows)
    assert lines[0] == "within 10% of llvm-mca: 1 of 3 kernels, 33.3%; the rule is 90%: not met"
    assert "  dense        0 of 2" in lines and "within 10% as not_forwarded: 1 of 3" in lines
    assert "  0.500  dense b  (not_forwarded 0.950)" in lines
    assert lines[-1] == "  not estimated by llvm-mca: dense c: unknown instruction"


def test_write_backs_are_split_and_places_kept_small():
    assert mca.split("str q0, [x1], #16") == ["str q0, [x1]", "add x1, x1, #16"]
    assert mca.split("ldr d1, [x2, #-8]!") == ["sub x2, x2, #8", "ldr d1, [x2]"]
    assert mca.split("b.ne #0x4116f4") == ["b.ne #8"] and mca.split("adrp x9, #0x411000") == ["adrp x9, #0"]
    assert mca.split("fmla v1.4s, v2.4s, v3.s[0]") == ["fmla v1.4s, v2.4s, v3.s[0]"]


def _cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_the_targets_table_has_every_peer_and_only_what_is_known():
    """A figure in another core's column, or a row that is dropped, would compare what was never measured."""
    every = json.loads(peers.TABLE.read_text(encoding="utf-8"))["rows"]
    found = [row for dtype in peers.COLUMNS for model in peers.MODELS for row in peers.kept(dtype, model)]
    assert len(found) == len(every) and all(row in every for row in found)
    kept = peers.kept("float32", "v1")
    rows = peers.rows_of("float32", "v1", {}, {})
    lines = peers.table("v1 1-224 float32", rows, peers.COLUMNS["float32"]).splitlines()
    assert len(lines) == 2 + len(kept) + 1 and {line.count("|") for line in lines} == {11}
    lite = next(line for line in lines if "LiteRT" in line).split("|")
    assert [cell.strip() for cell in lite[2:11]] == ["1.086", "6.07", "63.3", "1.111", "3.92", "46.6", "", "", ""]


OWN = peers.Row(0.5, 0.9, 13.0, (1.0, 1.0), 0.5, 1.01, 1, 1.0)


def test_the_table_of_float16_has_ncnn_beside_ours():
    ran = replace(OWN, executed=harness.Run(0.528, 0.74, 10.65, 1e8, 8.0))
    again = {"ncnn 2026-10": {"rpi5": harness.Run(0.56, 3.1, 32.0, 1e8, 8.0)}}
    first, again = (peers.rows_of("float16", "v1", {"rpi5": ran}, ran_again) for ran_again in ({}, again))
    lines = _cells(peers.table("v1 1-224 float16", first, ("rpi5",)))
    assert lines[0][:2] == ["v1 1-224 float16, one core", "N1: x float32 floor"]
    assert lines[2:] == [
        ["ncnn 2026-10", "0.559", "3.00", "31.0"],
        ["targets", "0.540", "1.00", "14.0"],
        ["this tree, by our core model", "0.500", "0.90", "13.0"],
        ["this tree, its bundle executed and estimated as the peers", "0.528", "0.74", "10.7"],
    ]
    assert again["ncnn 2026-10"] == {"rpi5": (0.56, 3.1, 32.0)}


def test_the_tables_of_int8_have_a_network_each_and_leave_open_what_nobody_named():
    rows = peers.rows_of("int8", "v2", {"rpi4": OWN, "rpi5": OWN, "rpi3": OWN}, {})
    lines = _cells(peers.table("v2 1-224 int8", rows, peers.COLUMNS["int8"]))
    assert [line[0] for line in lines[2:]] == [
        "LiteRT 2.3 (quoted)",
        "ONNX Runtime 1.32 (quoted)",
        "targets",
        "this tree, by our core model",
    ]
    assert lines[4][1:] == ["0.630", "", "", "0.450", "", "", "", "", ""]
    text = peers.layers_table("int8", {("v2 1-224 int8", "rpi3"): OWN})
    assert "| v2 1-224 int8 on A53 | 1.000 (1.000) | 0.50 | 1.010 | 0 | 1.0 | 0.500 |" in text


@pytest.mark.parametrize("products, refused", [(8, False), (4, True)])
def test_a_peer_that_fell_back_to_float32_is_no_row_of_float16(tmp_path, products, refused):
    """The harness is what it says of a run: this one has no emulator, and says what it was asked."""
    (tmp_path / "out").mkdir()
    facts = {"macs_executed": 568e6, "fma": 568e6 / products, "cycles": 39.8e6, "bound": 71.1e6}
    facts |= {"l1miss": 3e6, "dram_mb": 31.0, "instructions": 9.1e7}
    name = "run_ncnn-fp16.neoverse-n1"
    (tmp_path / "armcost.py").write_text(
        "import json, os, sys\n"
        f"json.dump({facts!r}, open('out/{name}.json', 'w'))\n"
        "json.dump(sys.argv[1:], open('asked', 'w'))\n"
    )
    asked = ["run_ncnn.py", "{n}", "fp16"]
    if refused:
        with pytest.raises(SystemExit, match=r"4\.0 multiply-adds an instruction: it ran in float32"):
            harness.peer(tmp_path, asked, "rpi5", 568e6, "float16")
    else:
        found = harness.peer(tmp_path, asked, "rpi5", 568e6, "float16")
        assert found.figures == (pytest.approx(39.8 / 71.1), 3.0, 31.0) and found.products == 8
    told = json.loads((tmp_path / "asked").read_text())
    assert told[-4:] == ["./apy.sh", "runners/run_ncnn.py", "{n}", "fp16"] and "568000000.0" in told


def test_a_peer_gets_files_of_any_network_and_counts_only_if_it_computes_that(tmp_path):
    """What runs in the harness, on this machine's own engine."""
    pytest.importorskip("onnxruntime")
    network = load_network(replace(modules.MODEL, model="v3-small", alpha=0.5))
    peers.write(network, ("onnxruntime",), tmp_path)
    assert peer_inferences.main(2, "onnxruntime", tmp_path) == 0
    expected = np.load(tmp_path / "expected.npy")
    np.save(tmp_path / "expected.npy", expected + 0.01 * expected.std() * (np.arange(10) == 3))
    assert "onnxruntime: outputs are 1.00e-02 standard deviations from PyTorch's" in peer_inferences.main(
        1, "onnxruntime", tmp_path
    )


def test_a_harness_that_lacks_something_is_refused_before_anything_is_built(tmp_path, monkeypatch, capsys):
    """Building takes minutes, and the emulator's own words would not say what is missing."""
    monkeypatch.setattr(harness.shutil, "which", lambda name: None if name == "llvm-mca-19" else name)
    monkeypatch.delenv("LLVM_MCA", raising=False)
    (tmp_path / "tools").mkdir()
    for name in ("armcost.py", "tools/bbcost.so", "sysroot-cortex-a72", "apy.sh", "runners"):
        (tmp_path / name).touch()
    here = f" in {tmp_path}"
    assert harness.missing(tmp_path, False, False) == ["sysroot-neoverse-n1" + here, "llvm-mca-19"]
    assert harness.missing(tmp_path, True, True) == ["sysroot-neoverse-n1" + here, "models" + here, "llvm-mca-19"]
    with pytest.raises(SystemExit, match="2"):
        peers.main(["--harness", str(tmp_path)])
    assert "no sysroot-neoverse-n1 in" in capsys.readouterr().err


def test_another_run_of_a_peer_needs_the_harness(capsys):
    with pytest.raises(SystemExit, match="2"):
        peers.main(["--again", "ncnn"])
    assert "--again needs --harness" in capsys.readouterr().err


@pytest.mark.parametrize("big", [True, False])
def test_metaschedule_is_asked_as_the_other_ways_of_searching_are(big):
    """The default first, valid points, none of them twice, failures borne; it ends when there are none left."""
    one = space(big)
    asking = metaschedule.evolution(one, seed=1, learned=False, population=64)
    asked = [next(asking)]
    assert asked[0] == one.default
    while len(asked) < 40 + len(list(one.points())) * (not big):
        point = asked[-1]
        try:
            asked.append(asking.send(None if point["unroll"] == 8 else float(point["tile_m"] * point["tile_n"])))
        except StopIteration:
            break
    assert not any(one.valid(point) for point in asked) and len({json.dumps(p) for p in asked}) == len(asked)
    assert len(asked) == 40 if big else len(asked) <= len(list(one.points()))
    assert not {"tvm.s_tir.tensor_intrin", "xgboost"} & set(sys.modules), "imports of half a minute, or of no use"
