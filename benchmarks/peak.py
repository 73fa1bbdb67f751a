"""% of peak of each schedule, untuned and tuned, for its docstring.

% of peak is the cycles of the multiply-adds alone, at the core's peak rate, over the cycles that the virtual board
predicts for one core. Layers without multiply-adds have cycles for each value of their output instead. `-` for the
tuned figure: no decisions ship, so a build takes the default; `-` alone: the core lacks this dtype's arithmetic.

    python -m benchmarks.peak            # predicts, prints and keeps benchmarks/data/peak.json
    python -m benchmarks.peak write      # puts the recorded figures into the docstrings

A docstring ends with its table, which begins with the line `PEAK` or `VALUE`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "data" / "peak.json"
TARGETS = ("rpi3", "rpi4", "rpi5")
PEAK = "% of peak of one core, default / tuned, predicted (python -m benchmarks.peak)::"
VALUE = "Cycles a value on one core, default / tuned, predicted (python -m benchmarks.peak)::"
LAYERS = {  # schedule: layers of MobileNets at 224
    "pointwise": (
        "pointwise m196 n512 k512 in544 out544 f32 relu6",
        "pointwise m49 n1024 k512 in544 out1088 f32 relu6",
        "pointwise m196 n512 k512 in544 out544 f16 relu6",
        "dense m1 n1000 k1024 f32",
        "dense m1 n1000 k1024 f16 writes_f32 sums_f32",
    ),
    "depthwise": (
        "depthwise 28x28x256 3x3 p1,1,1,1 in272 out272 f32 relu6",
        "depthwise 14x14x512 3x3 s2 p1,1,1,1 in544 out544 f32 relu6",
        "depthwise 28x28x256 3x3 p1,1,1,1 f16 relu6",
    ),
    "ghost": ("ghost 28x28x120 n240 3x3 p1,1,1,1 f32 relu", "ghost 28x28x120 n240 3x3 p1,1,1,1 f16 relu"),
    "conv": (
        "conv 224x224x3 n32 3x3 s2 p1,1,1,1 nchw f32 relu6",
        "conv 224x224x3 n32 3x3 s2 p1,1,1,1 nchw f16 reads_f32 relu6",
    ),
    "fused_block": (
        "fused depthwise 56x56x128 3x3 p1,1,1,1 f32 relu6 > pointwise m3136 n128 k128 f32 relu6",
        "fused depthwise 56x56x128 3x3 p1,1,1,1 f16 relu6 > pointwise m3136 n128 k128 f16 relu6",
    ),
    "pool": ("pool 7x7x1024 avg 7x7 f32", "pool 7x7x1024 avg 7x7 f16"),
    "bilinear2d": (
        "bilinear2d 28x28x64 half_pixel to56x56 f32",
        "bilinear2d 28x28x64 half_pixel to56x56 f16",
        "bilinear2d 28x28x21 half_pixel to224x224 to_nchw f32",
    ),
    "nearest2d": (
        "nearest2d 28x28x64 asymmetric_floor to56x56 f32",
        "nearest2d 28x28x64 asymmetric_floor to56x56 f16",
    ),
    "elementwise": ("elementwise 28x28x64 add f32", "elementwise 28x28x64 add f16"),
    "softmax": ("softmax 1x1x1000 f32", "softmax 1x1x1000 f16 reads_f32 writes_f32"),
}


def share(layer, core, cycles: float) -> float:
    """% of peak, or cycles a value."""
    if layer.mult_adds:
        return 100 * layer.mult_adds / core.macs_per_cycle(layer.dtype) / cycles
    return cycles / math.prod(layer.output_shape)


def predict(name: str, target, evaluate) -> list[float | None]:
    """The figures of a layer on a target, with its default and with the shipped decisions; None without decisions or
    without the dtype's arithmetic."""
    from tvm_mobilenet.tune_logs.log import TuneLogs, consulted

    from tvm_mobilenet import schedules
    from tvm_mobilenet.layer import Layer
    from tvm_mobilenet.tuning.candidate import Candidate

    layer = Layer.parse(name)
    if not all(target.computes(part.dtype) for part in layer.parts or (layer,)):
        return [None, None]
    known = TuneLogs(consulted(None, target.core.name), target).find(layer)
    records = schedules.space(layer, target.core).default, known and known.record.decisions
    return [
        share(layer, target.core, evaluate(Candidate(name, decisions)).cost) if decisions else None
        for decisions in records
    ]


def table(schedule: str, kept: dict) -> str:
    """The table of a schedule's docstring."""
    from tvm_mobilenet import targets
    from tvm_mobilenet.layer import Layer

    names = LAYERS[schedule]
    digits, title = (0, PEAK) if Layer.parse(names[0]).mult_adds else (2, VALUE)

    def cell(values: list[float | None]) -> str:
        if values[0] is None:
            return "-"
        return " / ".join("-" if value is None else f"{value:.{digits}f}" for value in values)

    head = ["", *(targets.load(target).core.title.removeprefix("Arm ") for target in TARGETS)]
    rows = [head, *([_short(name), *(cell(kept[target][name]) for target in TARGETS)] for name in names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["    " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([title, "", *(line.rstrip() for line in lines)])


def _short(name: str) -> str:
    """A layer's name; for a fused block without the words that are equal in every part."""
    if not name.startswith("fused "):
        return name
    token = "" if name.endswith(" f32 relu6") else " f16"  # float32 is not shown
    return name.replace(" f32 relu6", "").replace(" f16 relu6", "").removeprefix("fused ") + token


def with_table(source: str, new: str) -> str:
    """A schedule's source with its table replaced by this one."""
    start = next((source.index(title) for title in (PEAK, VALUE) if title in source), None)
    if start is None:
        end = source.index('"""', 3)
        return source[:end] + "\n" + new + "\n" + source[end:]
    return source[:start] + new + "\n" + source[source.index('"""', start) :]


def main(arguments: list[str]) -> int:
    from tvm_mobilenet import targets
    from tvm_mobilenet.tuning.runner import Evaluate

    if arguments == ["write"]:
        kept = json.loads(KEPT.read_text())
        for schedule in LAYERS:
            path = ROOT / "schedules" / f"{schedule}.py"
            path.write_text(with_table(path.read_text(), table(schedule, kept)))
        return 0
    found: dict[str, dict] = {}
    for name in TARGETS:
        target = targets.load(name)
        evaluate = Evaluate(target)
        evaluate.prepare()
        found[name] = {layer: predict(layer, target, evaluate) for layers in LAYERS.values() for layer in layers}
    KEPT.write_text(json.dumps(found, indent=1) + "\n")
    print("\n\n".join(table(schedule, found) for schedule in LAYERS))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
