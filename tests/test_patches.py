"""Modules and bundles that tests share are made as if no test had patched anything."""

import os
import sys
import tempfile
import types

import pytest

from tests.support import modules, patches

THING = types.SimpleNamespace(kept="kept", given={"a": 1})


class Thing:
    def real(self) -> str:
        return "real"


def state() -> tuple:
    gives = getattr(THING, "new", None), Thing().real(), dict(THING.given), THING.kept
    return *gives, os.environ.get("TVM_MOBILENET_PATCHED"), tempfile.tempdir, os.getcwd(), sys.path[0]


@pytest.fixture(scope="module")
def before():
    return state()


@pytest.fixture
def patched(before, monkeypatch, tmp_path):
    """By all ways that there are, one in another, and the same twice."""
    monkeypatch.setattr(THING, "kept", "once")
    monkeypatch.setattr(THING, "kept", "twice")
    monkeypatch.setattr(THING, "new", "new", raising=False)
    monkeypatch.setattr(Thing, "real", lambda self: "patched")
    monkeypatch.setitem(THING.given, "b", 2)
    monkeypatch.delitem(THING.given, "a")
    monkeypatch.setenv("TVM_MOBILENET_PATCHED", "yes")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as inner:
        inner.setattr(THING, "kept", "inner")
        yield


def test_what_is_shared_is_made_without_patches(before, patched, tmp_path):
    now, seen = state(), []
    assert all(one != other for one, other in zip(now, before, strict=True))
    modules.once(tmp_path / "made", lambda folder: seen.append(state()))
    assert seen == [before] and state() == now


def test_what_pytest_itself_has_patched_stays(request, tmp_path):
    """Its temporary folder, for example."""
    with patches.without():
        assert request.config._tmp_path_factory.getbasetemp() == tmp_path.parent


def test_a_failure_leaves_the_patches(patched, tmp_path):
    now = state()
    with pytest.raises(ZeroDivisionError), patches.without():
        raise ZeroDivisionError
    assert state() == now
