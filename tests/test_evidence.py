"""What is kept of the comparison with llvm-mca: no kernel dropped, and the agreement that the page claims."""

import json
from pathlib import Path

import pytest

from tests.evidence import mca

TABLES = Path(__file__).parent / "tables"


@pytest.mark.parametrize("cpu, agreeing", [("cortex-a72", 0.95), ("neoverse-n1", 0.75)])
def test_no_kernel_is_dropped_and_as_many_agree_as_the_page_says(cpu, agreeing):
    rows = json.loads((TABLES / f"mca_{cpu}.json").read_text(encoding="utf-8"))["kernels"]
    assert [r["layer"] for r in rows] == mca.layers() and len(rows) == 232
    within = [r["llvm_mca"] is not None and 0.9 <= r["ours"] / r["llvm_mca"] <= 1.1 for r in rows]
    assert sum(within) / len(rows) == pytest.approx(agreeing, abs=0.01)
    assert all(agrees for r, agrees in zip(rows, within, strict=True) if r["layer"].startswith("pointwise"))


def test_write_backs_are_split_and_places_kept_small():
    assert mca.split("str q0, [x1], #16") == ["str q0, [x1]", "add x1, x1, #16"]
    assert mca.split("ldr d1, [x2, #-8]!") == ["sub x2, x2, #8", "ldr d1, [x2]"]
    assert mca.split("b.ne #0x4116f4") == ["b.ne #8"] and mca.split("adrp x9, #0x411000") == ["adrp x9, #0"]
    assert mca.split("fmla v1.4s, v2.4s, v3.s[0]") == ["fmla v1.4s, v2.4s, v3.s[0]"]
