"""Files and flags of earlier versions, which had words of their own, are read as before; nothing writes such words."""

import json
import re
import warnings
from pathlib import Path

import pytest
from tvm_mobilenet.tune_logs import log as logs
from tvm_mobilenet.tune_logs.journal import Journal

from tvm_mobilenet import old_words, sweep
from tvm_mobilenet.compiler import module
from tvm_mobilenet.layer import Layer

ROOT = Path(__file__).resolve().parent.parent
BLOCK = "depthwise 56x56x128 3x3 p1,1,1,1 f32 relu6 > pointwise m3136 n128 k128 f32 relu6"
OLD = {
    "layer": f"chain {BLOCK}",
    "core": "cortex-a72",
    "decisions": {"0.tile_w": 7, "0.lanes": 4, "strips": 4, "bands": 1, "apart": "ends"},
    "cost": 7.5e6,
    "unit": "cycles",
    "predicted": True,
}
# The left column of the glossary: what it says, and where it is something else.
GIVEN_UP = {
    r"(?<!itertools\.)\bchain(s|ed)?\b(?! of hashes)":
        ("boards/cost", "in_order", "pointwise.py", "cores/", "predictor.md", "prediction.md"),
    r"\b(bands?)\b": (),
    r"\bprice[sd]?\b|\bpricing\b": (),
    r"\bto and fro\b|\bpaired loops?\b|\b(un)?evenness\b": (),
    r"\barithmetic_on\b|\barithmetic=|\bspread_of\b|\bis_paired\b|[\"_]paired\b|\.gate\b": ("test_passes.py",),
    r"\bx floor\b": ("benchmarks/",),
}  # fmt: skip
READS_THEM = ("old_words.py", "test_old_words.py", "ATTRIBUTION", "imagenet_labels", "docs/journal")


def test_a_record_in_old_words_is_read_as_one_of_today(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(OLD) + "\n")
    with pytest.warns(UserWarning, match="old name, chain"):
        (record,) = Journal(path).records()
    assert record.layer == f"fused {BLOCK}"
    assert record.decisions == {"0.tile_w": 7, "0.lanes": 4, "row_tiles": 4, "column_tiles": 1, "apart": "ends"}
    assert path.read_text() == json.dumps(OLD) + "\n", "reading changes nothing"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert logs.Record.from_json(record.to_json()) == record


def test_costs_and_loops_of_earlier_records_are_read(tmp_path):
    """`arithmetic` is `compute` today, the loop `paired` is `dual_issue`, also of a part of a fused block."""
    old = {**OLD, "layer": f"fused {BLOCK}", "core": "cortex-a53", "arithmetic": 7e6}
    for name in ("loop", "0.loop"):
        record = logs.Record.from_json(json.dumps({**old, "decisions": {name: "paired", "apart": "none"}}))
        assert record.compute == 7e6 and record.decisions == {name: "dual_issue", "apart": "none"}
        assert "paired" not in record.to_json() and "arithmetic" not in record.to_json()


def test_json_documents_have_old_keys_beside_todays():
    document = {"outputs": [{"tolerance": 1e-4, "relative": 0.0}], "compute": 2.0, "gate_count": 1}
    found = old_words.with_old_keys(document)
    assert found == {
        "outputs": [{"tolerance": 1e-4, "gate": 1e-4, "relative": 0.0}],
        "compute": 2.0,
        "arithmetic": 2.0,
        "gate_count": 1,
    }
    assert old_words.keys({"arithmetic": 1.0}) == {"compute": 1.0}


def test_a_layer_and_a_build_in_old_words_are_read():
    assert Layer.parse(f"chain {BLOCK}") == Layer.parse(f"fused {BLOCK}")
    built = module.BuiltLayer.from_data({"layer": OLD["layer"], "decisions": OLD["decisions"], "source": "default"})
    assert built.layer == f"fused {BLOCK}" and built.decisions["row_tiles"] == 4
    name, same = "pointwise m1 n8 k8 f32", {"tile_m": 1}
    assert old_words.layer_name(name) == name and old_words.decisions(same) is same


def test_a_flag_of_before_means_what_it_meant_and_says_so(capsys):
    args = sweep.parser().parse_args(["--target", "rpi4", "--prices", "old.jsonl"])
    assert args.estimates == Path("old.jsonl") and "--estimates" in args.given
    assert capsys.readouterr().err == "note: --prices is called --estimates now\n"
    assert sweep.parser().parse_args(["--prices=old.jsonl"]).estimates == Path("old.jsonl")
    capsys.readouterr()
    sweep.parser().parse_args(["--estimates", "new.jsonl"])
    assert not capsys.readouterr().err


@pytest.mark.parametrize("words", GIVEN_UP, ids=range(len(GIVEN_UP)))
def test_the_words_that_were_given_up_are_gone(words):
    found = []
    for folder in ("tvm_mobilenet", "schedules", "targets", "tune_logs", "docs", "benchmarks"):
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md"), *(ROOT / folder).rglob("*.toml")]:
            name = str(path.relative_to(ROOT))
            if any(part in name for part in (*READS_THEM, *GIVEN_UP[words])):
                continue
            found += [
                f"{name}:{number}: {line.strip()}"
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
                if re.search(words, line)
            ]
    assert found == []


def test_shipped_decisions_are_in_todays_words():
    for path in (ROOT / "tune_logs").glob("*.jsonl"):
        assert not re.search(r'"chain |"strips"|"bands"', path.read_text(encoding="utf-8")), path
