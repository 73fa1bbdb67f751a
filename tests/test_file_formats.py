"""The schemas of docs/reference/files: what a program reads of ours is what they say, and a faulty file is refused."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import jsonschema
import pytest
from tvm_mobilenet.tune_logs.log import Record, shipped

from tests.support import bundles, modules
from tests.support.schemas import FOLDER, SCHEMAS, faults_that_pass, printed, refused
from tvm_mobilenet import accuracy, bench, build, doctor, tune, verify
from tvm_mobilenet.models.preprocess import sample_images


def said(verb, *arguments) -> dict:
    """What a verb prints with ``--json``."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert verb.main([*map(str, arguments), "--json"]) == 0
    return json.loads(printed.getvalue())


def plan() -> dict:
    return json.loads((modules.tiny() / "plan.json").read_text())


def manifest() -> dict:
    return json.loads((bundles.made().folder / "manifest.json").read_text())


def record() -> dict:
    return json.loads(shipped("cortex-a72").read_text().splitlines()[0])


def measured() -> dict:
    return printed(modules.measured())


REAL = {"plan": plan, "manifest": manifest, "tune-log": record, "bench": measured}


@pytest.mark.parametrize("name", REAL)
def test_a_file_is_what_its_schema_says(name):
    assert refused(name, REAL[name]()) == ""


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_every_line_that_ships_is_a_record_of_the_schema(core):
    lines = shipped(core).read_text().splitlines()
    assert [why for line in lines if (why := refused("tune-log", json.loads(line)))] == [] and lines


def test_a_trial_that_failed_is_a_record_of_the_schema():
    failed = Record(
        layer="dense m1 n16 k64 f32", core="cortex-a72", decisions={"tile_m": 1}, cost=None, failure="crashed"
    )
    assert refused("tune-log", json.loads(failed.to_json())) == ""
    both = {**json.loads(failed.to_json()), "cost": 3.0}
    assert refused("tune-log", both) and refused(
        "tune-log", {k: v for k, v in both.items() if k not in ("cost", "failure")}
    )


# Where faults are planted, and fields that may be missing there.
PLACES = {
    "plan": {
        "": "",
        "info": "",
        "info.model": "files",
        "info.preprocess": "",
        "layers.0": "",
        "plan": "",
        "plan.steps.0": "",
        "plan.steps.0.operands.0": "",
        "plan.steps.0.parts.0": "",
        "target": "llvm_cpu llvm_attributes rpc_key",
        "target.core": "l1d l2 limits rates model dram_line_cycles l3",
    },
    "manifest": {"": "", "model": "", "target": "", "bytes": "", "error": "", "decisions.0": "", "files.mobilenet": ""},
    "tune-log": {
        "": "default_cost board code estimate sources target cost_all_cores compute balance memory versions whole unit"
    },
    "bench": {"": "", "module": "", "rows.0": "", "rows.0.time": "", "rows.0.layers.0": "", "environment.client": ""},
}


@pytest.mark.parametrize("name, place", [(name, place) for name, places in PLACES.items() for place in places])
def test_a_fault_in_a_file_is_refused(name, place):
    """Planted: a field is missing, unknown or of another type. Who reads by the schema would meet none."""
    assert faults_that_pass(name, REAL[name](), place, PLACES[name][place]) == []


def objects(schema, where: str = ""):
    """Each object that a schema describes, with its place."""
    if isinstance(schema, dict):
        if "object" in (schema.get("type"), *(schema["type"] if isinstance(schema.get("type"), list) else ())):
            yield where, schema
        for key, inner in schema.items():
            yield from objects(inner, f"{where}/{key}")
    elif isinstance(schema, list):
        for i, inner in enumerate(schema):
            yield from objects(inner, f"{where}/{i}")


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_schema_lets_an_unknown_field_pass(name):
    """An object lists its fields, or is a table of values of one shape."""
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    open_ = [
        where
        for where, schema in objects(SCHEMAS[name])
        if schema.get("additionalProperties", True) in (True, {}) and schema.get("maxProperties") != 0
    ]
    assert open_ == []


def test_the_page_tells_every_schema():
    page = (FOLDER.parent / "file-formats.md").read_text()
    assert [name for name in SCHEMAS if f"files/{name}.schema.json" not in page] == []


@pytest.mark.full
def test_what_the_verbs_print_is_what_their_schemas_say(tmp_path, monkeypatch):
    """One network in int8 through the verbs, and its files."""
    monkeypatch.chdir(tmp_path)
    for folder, photograph in zip(("photos/0", "photos/1"), sample_images(), strict=False):
        Path(folder).mkdir(parents=True)
        shutil.copy(photograph, folder)
    shutil.copy(sample_images()[0], "calibration.jpg")
    network = ("--target", "rpi4", "--model", modules.tiny_options().model)
    int8 = ("--dtype", "int8", "--calibrate", "calibration.jpg", "--data", "photos", "--max-drop", "1%")
    found = {
        "build": said(build, *network, *int8, "--output", "int8", "--bundle", "bundle"),
        "tune": said(tune, *network, "--trials", 1, "--log", "log.jsonl", "--output", "tuned"),
        "verify": said(verify, "int8"),
        "accuracy": said(accuracy, "int8", "--data", "photos"),
        "bench": said(bench, "int8"),
        "doctor": said(doctor, "--target", "rpi4"),
        "plan": json.loads(Path("int8", "plan.json").read_text()),
        "quantization": json.loads(Path("int8", "quantization.json").read_text()),
        "manifest": json.loads(Path("bundle", "manifest.json").read_text()),
    }
    assert {name: refused(name, data) for name, data in found.items()} == dict.fromkeys(found, "")
    for journal in ("log.jsonl", "log.trials.jsonl"):
        assert [
            why for line in Path(journal).read_text().splitlines() if (why := refused("tune-log", json.loads(line)))
        ] == []
    assert found["build"]["choice"] and refused("build", {**found["build"], "choice": {}})
    odd = {**found["quantization"], "scales": {"input_0": {"step": -1.0, "zero": 0}}}
    assert "step" in refused("quantization", odd)
