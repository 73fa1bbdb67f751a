"""Figures beside a schedule are what its command prints, and the command predicts them."""

import ast
import json

import pytest

from benchmarks import peak
from tvm_mobilenet import kinds, targets
from tvm_mobilenet.tuning.runner import Evaluate

KEPT = json.loads(peak.KEPT.read_text())


@pytest.mark.parametrize("schedule", sorted({kind.schedule for kind in kinds.every() if not kind.has_body}))
def test_a_schedule_opens_with_its_nest_its_registers_and_its_figures(schedule):
    source = (peak.ROOT / "schedules" / f"{schedule}.py").read_text()
    told = ast.get_docstring(ast.parse(source))
    assert "The nest" in told and "Register budget" in told
    assert told.endswith(peak.table(schedule, KEPT)), "python -m benchmarks.peak write"
    assert peak.with_table(source, peak.table(schedule, KEPT)) == source


@pytest.mark.parametrize("target", peak.TARGETS)
def test_a_figure_is_what_is_predicted(target):
    """Of the layers that take the virtual board least."""
    target = targets.load(target)
    evaluate = Evaluate(target)
    evaluate.prepare()
    for name in (*peak.LAYERS["softmax"], *peak.LAYERS["pool"]):
        for found, kept in zip(peak.predict(name, target, evaluate), KEPT[target.name][name], strict=True):
            assert found == kept or found == pytest.approx(kept, rel=1e-6), name
