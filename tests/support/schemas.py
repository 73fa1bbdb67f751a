"""The schemas of docs/reference/files, for tests that have a document of a verb at hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
from referencing import Registry, Resource

from tvm_mobilenet.terminal.console import plain_data

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference" / "files"
SCHEMAS = {path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
_REGISTRY = Registry().with_resources([(s["$id"], Resource.from_contents(s)) for s in SCHEMAS.values()])


def refused(name: str, data: object) -> str:
    """Why data are not of a schema; empty: they are."""
    validator = jsonschema.Draft202012Validator(SCHEMAS[name], registry=_REGISTRY)
    error = jsonschema.exceptions.best_match(validator.iter_errors(data))
    return f"{error.json_path}: {error.message[:300]}" if error else ""


def printed(result: object) -> object:
    """A result as ``--json`` prints it."""
    return json.loads(json.dumps(plain_data(result)))


def faults_that_pass(name: str, whole: object, place: str, may_miss: str = "") -> list[str]:
    """Faults in one object of a document that its schema does not refuse: each field in turn is missing or of another
    type, or the object has an unknown one.

    Parameters
    ----------
    place : str
        The way to the object, such as ``layers.0.roofline``.
    may_miss : str
        The fields that need not be there.
    """
    found = []
    for key in _at(whole, place):
        faulty = copy.deepcopy(whole)
        _at(faulty, place)[key] = [[None]]
        if not refused(name, faulty):
            found.append(f"{place}.{key} is of another type")
        del _at(faulty, place)[key]
        if key not in may_miss.split() and not refused(name, faulty):
            found.append(f"{place}.{key} is missing")
    faulty = copy.deepcopy(whole)
    _at(faulty, place)["colour"] = 1
    if not refused(name, faulty):
        found.append(f"{place} has a field that is unknown")
    return found


def require(name: str, whole: object, *places: str) -> None:
    """Assert that a document is of its schema, and that faults planted in some of its objects are refused."""
    assert refused(name, whole) == ""
    assert [fault for place in places for fault in faults_that_pass(name, whole, place)] == []


def _at(data, place: str):
    for part in filter(None, place.split(".")):
        data = data[int(part)] if part.isdigit() else data[part]
    return data
