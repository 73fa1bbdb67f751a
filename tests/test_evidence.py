"""What is kept of the comparison with llvm-mca: no kernel dropped, and the agreement that the page claims."""

import json
from pathlib import Path

from tests.evidence import mca

KEPT = Path(__file__).parent / "tables" / "mca_cortex-a72.json"


def test_no_kernel_is_dropped_and_nine_in_ten_agree():
    rows = json.loads(KEPT.read_text(encoding="utf-8"))["kernels"]
    assert [r["layer"] for r in rows] == mca.layers()[:len(rows)]
    within = [r["llvm_mca"] is not None and 0.9 <= r["ours"] / r["llvm_mca"] <= 1.1 for r in rows]
    assert sum(within) >= 0.9 * len(rows), f"{sum(within)} of {len(rows)}"


def test_write_backs_are_split_and_places_kept_small():
    assert mca.split("str q0, [x1], #16") == ["str q0, [x1]", "add x1, x1, #16"]
    assert mca.split("ldr d1, [x2, #-8]!") == ["sub x2, x2, #8", "ldr d1, [x2]"]
    assert mca.split("b.ne #0x4116f4") == ["b.ne #8"] and mca.split("adrp x9, #0x411000") == ["adrp x9, #0"]
    assert mca.split("fmla v1.4s, v2.4s, v3.s[0]") == ["fmla v1.4s, v2.4s, v3.s[0]"]
