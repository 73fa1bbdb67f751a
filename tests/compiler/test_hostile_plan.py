"""The folder of a build may be anybody's: its plan and its core's table are looked at before anybody uses them."""

import copy
import json
import os

import pytest
from tvm_mobilenet.targets import stored

from tests.support.memory import peak_below
from tvm_mobilenet import targets
from tvm_mobilenet.boards.cost.pipeline import Pipeline
from tvm_mobilenet.compiler import module, stored_plan
from tvm_mobilenet.compiler.plan import Plan
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.options import ModelOptions

IMAGE = {"space": "input", "offset": 0, "shape": [1, 3, 8, 8], "dtype": "float32", "index": 0}
RESULT = {"space": "output", "offset": 0, "shape": [1, 8, 8, 4], "dtype": "float32", "index": 0}
PLACED = {"space": "parameters", "offset": 64, "shape": [108], "dtype": "float32", "index": 0}
GOOD = {
    "info": {
        "model": {"model": "v1", "alpha": 0.25, "resolution": [32, 64], "classes": 10, "weights": None, "seed": 0,
                  "batch": 1, "mean": [0.5], "calibrate": ["a"], "dtype": "float32", "labels": "l.txt",
                  "files": {"labels": {"given": "l.txt", "from_build": "../l.txt", "sha256": None}}},
        "target": "rpi4", "core": "cortex-a72", "seeded": True, "preprocess": {}, "versions": {"tvm": "1"},
    },
    "files": {"kernels.so": "00", "parameters.bin": "00"},
    "layers": [{"layer": "dense m1 n8 k8 f32", "decisions": {"tile_m": 1, "outer": "n"}, "source": "default"}],
    "plan": {
        "version": 1,
        "steps": [{"name": "layer_000", "symbol": "conv", "layer": "conv 8x8x3 n4 3x3 p1,1,1,1 nchw f32",
                   "operands": [IMAGE, PLACED, RESULT], "reads": ["x"], "writes": "y",
                   "parts": [{"name": "a", "source": "b"}], "constants": ["weight"]}],
        "inputs": [["x", IMAGE]], "outputs": [["y", RESULT]],
        "arena_bytes": 0, "scratch_bytes": 64, "parameters_bytes": 4096,
    },
}  # fmt: skip
VALUES = [
    None, True, -1, 0, 7, 1 << 40, 10**300, 0.5, 1e308, "", "x", "../../x", "a" * 5000, "\x1b[2J", [], [0], [[]],
    ["x"], [None], [1 << 40], {}, {"a": 1}, [1] * 100,
]  # fmt: skip


def places(value: object, path: tuple = ()):
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def changed(data: dict, path: tuple, value: object) -> dict:
    data = copy.deepcopy(data)
    part = data
    for key in path[:-1]:
        part = part[key]
    if value is KeyError:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return data


def test_a_plan_is_taken_or_refused_in_words_whatever_stands_in_it():
    taken = []
    for path in [p for p in places(GOOD) if p]:
        for value in (KeyError, *VALUES):
            data = changed(GOOD, path, value)
            try:
                stored_plan.check(data)
                stored_plan.check_places(Plan.from_data(data["plan"]))
                ModelOptions.from_data(data["info"]["model"])
                taken.append(path)
            except (ValueError, TvmMobilenetError) as e:
                assert 0 < len(str(e)) < 400, (path, value)
    assert len(taken) < 700  # of 2,500: texts in place of texts, and what may be missing


def test_tensors_lie_within_their_memory():
    stored_plan.check_places(Plan.from_data(GOOD["plan"]))
    at = ("plan", "steps", 0, "operands", 1)
    for path, value in (
        ((*at, "offset"), 4000), ((*at, "shape"), [1 << 20]), ((*at, "space"), "arena"),
        ((*at, "shape"), [1 << 30] * 2),
        (("plan", "steps", 0, "operands", 0, "index"), 1), (("plan", "parameters_bytes"), 100),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"layer_000|input|output"):
            stored_plan.check_places(Plan.from_data(changed(GOOD, path, value)["plan"]))


@pytest.mark.parametrize("name", ["rpi4", "rpi3"])
def test_a_core_is_taken_or_refused_in_words_whatever_stands_in_its_table(name):
    data = stored.to_data(targets.load(name))
    model = data["core"]["model"]
    kinds = ("add", "madd", "fma_q", "load_q", "branch")
    model = model | {"classes": {k: v for k, v in model["classes"].items() if k in kinds}}
    for path in [p for p in places(model) if p]:
        for value in (KeyError, *VALUES):
            odd = changed(model, path, value)
            if isinstance(odd.get("classes"), dict) and path != ("classes",):
                odd["classes"] = data["core"]["model"]["classes"] | odd["classes"]
            try:
                core = stored.from_data(data | {"core": data["core"] | {"model": odd}}, "plan.json").core
                Pipeline(core).bounds(())
                for row in core.model["classes"].values():
                    assert all(row.get(key, 1) <= 512 for key in ("latency", "forward", "busy", "slots"))
            except TvmMobilenetError as e:
                assert "plan.json" in str(e) or "[model]" in str(e), (path, value)


@pytest.mark.parametrize("how", ["sparse", "pipe", "device", "folder", "link to itself"])
def test_a_plan_that_is_no_small_file_is_refused(tmp_path, how):
    place = tmp_path / "plan.json"
    if how == "sparse":
        place.touch()
        os.truncate(place, 1 << 40)
    elif how == "pipe":
        os.mkfifo(place)
    elif how == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero" if how == "device" else place)
    with peak_below(100 << 20), pytest.raises(TvmMobilenetError, match="holds no built module"):
        module.read(tmp_path)


def test_a_plan_names_no_files_elsewhere(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(GOOD | {"files": {"kernels.so": "00", "../../secret": "00"}}))
    with pytest.raises(TvmMobilenetError, match="which no build has"):
        module.read(tmp_path)
