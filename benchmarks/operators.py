"""List the supported operators of ONNX and TFLite and their layers: writes `docs/reference/operators.md`.

    python -m benchmarks.operators write      # writes the page
    python -m benchmarks.operators check      # writes nothing; exit code 1 if the page differs

Each case of `operator_cases` and `rare_operator_cases` is imported and goes through the passes.
`tests/frontend/test_operators.py` runs all of them and compares their outputs with ONNX Runtime.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.operator_cases import CASES, GIVEN, NAMES, Case, write
from benchmarks.rare_operator_cases import RARE
from tvm_mobilenet import dtypes, passes, schedules
from tvm_mobilenet.frontend import from_onnx
from tvm_mobilenet.frontend.tflite_operators import CONVERTERS
from tvm_mobilenet.layer import Layer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "operators.md"
HEAD = """# Operators

This page lists the operators of which a network may consist. `python -m benchmarks.operators write` makes it: it
imports each operator in the ways listed and shows the kinds of layers that result. Each case is also built, executed
and compared with ONNX Runtime (`tests/frontend/test_operators.py`).

A kind in **bold** has a schedule of this project, with decisions that are tuned. `generic` is a loop nest of TVM's with
a plain schedule: rows in parallel, vectors over the last dimension. It has nothing to tune; `profile` shows its share
of the time, and [cost of operators](../results/operators.md) compares it with its roofline. "nothing" means that no
layer is left: a view, a constant, or part of the layer before it. A generic layer reads channels-last data in place
if the operator's dimensions can be permuted (`passes/reordered.py`).
A concatenation needs no kernel if the layers before it can write their outputs into one tensor, and a slice needs none
if the layers after it can read a part of its input; otherwise element-wise layers copy the data (`compiler/views.py`).
All layers of a row compute in any of its `dtypes`. Each case has a feature map of 1 x 4 x 8 x 8 values.
`tests/frontend/test_drawn_graphs.py` draws graphs with other shapes and attributes and compares them with ONNX Runtime.

Generic layers compute in float32, or in float64 where the model does, and pass integers and bool to each other. In
float16 and int8 networks they stay in float32, between conversions. Generic layers that only move values
(concatenations, slices, changes of order) move float16 or int8 if they stand between two layers of this dtype.

These operators are refused, with an error that names them: `NonZero`, `NonMaxSuppression`, `Unique` (their shapes
depend on data, or TVM computes them by calls of its own runtime), a `TopK` that leaves the order of its values open,
operators that draw random numbers, and `If`, `Loop` and `Scan`. An `If` whose condition follows from shapes is its
branch. `LSTM`, `GRU` and `RNN` are written out step by step. Files of opsets 7 to 10 are converted. Operators that ONNX
itself defines by others, such as `CenterCropPad` and `RotaryEmbedding`, are written out by that definition. Attributes
that came after opset 23 are refused by name, and so are complex numbers. A PyTorch program in float64 is computed in
float32, as a note says.

A PyTorch model may have every operator that TVM's importer takes, apart from control flow, shapes that depend on data,
and random numbers: `tests/support/torch_calls.py` calls each, and a test names those that are missing there. Sparse
tensors are computed as dense ones.

Each operator that TVM's own ONNX importer knows has a row here, or is one of those above; a test compares the two.
Among them are operators of ONNX Runtime's own (`BiasGelu`, `SkipLayerNormalization`). `QuantizeLinear` and
`DequantizeLinear` that belong to no quantized network are arithmetic. Sequences may stand between operators, but be no
input or output. Inputs and outputs may be unsigned integers of 16, 32 and 64 bits, and tensors without values.

An output may be a constant, such as anchors. Values that are read or written at positions (`GatherND`,
`ScatterElements`, PyTorch's `index_put`) stay inside of the data: a position outside of it is moved to the nearest one.

TFLite files (`--model net.tflite`) may have the following operators, which become the same layers as ONNX's of the same
meaning. `tests/frontend/test_tflite_*.py` compare them with LiteRT, or with numpy where LiteRT has no kernel.
Recurrent layers over sequences begin each run with states of zeros. @TFLITE@.

| ONNX | how | layers | dtypes | PyTorch | TFLite |
|---|---|---|---|---|---|
"""


def layers(case: Case, folder: Path) -> list[Layer]:
    """The layers of a case, without the convolutions that feed it and the copy that lays out a feature map."""
    path = folder / "case.onnx"
    write([case], path)
    found = []
    for call in passes.run(from_onnx(path)).calls:
        layer, at_end = call.layer, call.source.startswith("output")
        if call.source in GIVEN or (at_end and layer.body is None):
            continue
        found.append(layer)
    return found


def line(case: Case, folder: Path) -> str:
    """The row of a case."""
    found = layers(case, folder)
    told = dict.fromkeys(f"generic ({one.op})" if one.body else f"**{one.kind}**" for one in found)
    kinds = [schedules.implemented(one.kind) for one in found] or [dtypes.OF_DATA]
    both = [dtype for dtype in kinds[0] if all(dtype in others for others in kinds)]
    names = NAMES.get(case.operator, ("", ""))
    cells = case.operator, case.how, ", ".join(told) or "nothing", ", ".join(both)
    return f"| {' | '.join((*cells, *(f'`{name}`' if name else '' for name in names)))} |"


def page() -> str:
    """The text of the page."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in sorted((*CASES, *RARE), key=lambda one: (one.operator, one.how)):
            rows.append(line(case, Path(folder)))
    of_tflite = ", ".join(f"`{name}`" for name in sorted(CONVERTERS))
    return HEAD.replace("@TFLITE@", of_tflite) + "\n".join(rows) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("write", "check"))
    text = page()
    if parser.parse_args(argv).what == "write":
        PAGE.write_text(text, encoding="utf-8")
        return 0
    return int(PAGE.read_text(encoding="utf-8") != text)


if __name__ == "__main__":
    sys.exit(main())
