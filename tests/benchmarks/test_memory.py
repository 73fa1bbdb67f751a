"""The page of memory: its table is what is kept, and what is kept is what a build would plan."""

import json

import pytest

from benchmarks import memory
from tests.support import modules
from tvm_mobilenet import targets


def test_the_table_is_that_of_the_data():
    """`python -m benchmarks.memory` writes it again."""
    page, found = memory.PAGE.read_text(), memory.rows()
    assert page == memory.page(page, found) and memory.table(found) in page
    assert {(row.target, row.dtype) for row in found} == set(memory.ON)
    assert all(row.widest <= row.arena < row.unshared for row in found)


@pytest.mark.full
def test_a_row_is_what_a_build_plans():
    """Planned without weights, it has the sizes of the build with them."""
    built = json.loads((modules.small("rpi4") / "plan.json").read_text())["plan"]
    row = memory.planned(modules.MODEL, targets.load("rpi4"))
    assert (row.parameters, row.arena, row.scratch) == tuple(
        built[f"{name}_bytes"] for name in ("parameters", "arena", "scratch")
    )
