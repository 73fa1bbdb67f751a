"""The planned memory of networks on a board: constants, intermediates and each thread's scratch memory.

    python -m benchmarks.memory          # prints the table, writes it into docs/results/memory.md
    python -m benchmarks.memory --again  # plans all networks once more; minutes

Nothing is compiled or run: a plan follows from the layers and their decisions. Weights do not matter.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "data" / "memory.json"
PAGE = ROOT / "docs" / "results" / "memory.md"
NETWORKS = ("v1", "v2", "v3-large", "v3-small", "v4-small")
ON = (("rpi4", "float32"), ("rpi4", "int8"), ("rpi5", "float16"), ("rpi3", "float32"))
MARKS = re.compile(r"(<!-- table -->\n).*?(<!-- end -->)", re.S)


@dataclass(frozen=True)
class Row:
    """A network on a target; bytes.

    Attributes
    ----------
    parameters, arena, scratch : int
        Constants; all intermediates together; scratch memory of one thread.
    unshared : int
        All intermediates, each with memory of its own.
    widest : int
        Bytes that the largest step reads and writes: no plan of these steps needs less.
    cores : int
        Cores of the target.
    """

    network: str
    target: str
    dtype: str
    parameters: int
    arena: int
    scratch: int
    unshared: int
    widest: int
    cores: int

    @property
    def all_cores(self) -> int:
        return self.parameters + self.arena + self.cores * self.scratch


def planned(options, target) -> Row:
    """A network's memory on a target, planned with the decisions that ship."""
    from tvm_mobilenet.compiler import pipeline
    from tvm_mobilenet.survey.estimates import weightless

    plan = pipeline.compile(weightless(options), target).plan
    return Row(
        options.title,
        target.name,
        options.dtype,
        plan.parameters_bytes,
        plan.arena_bytes,
        plan.scratch_bytes,
        *intermediates(plan),
        target.cores,
    )


def intermediates(plan) -> tuple[int, int]:
    """Bytes of all intermediates of a plan, and of those that its widest step reads and writes."""
    sizes, widest = {}, 0
    for step in plan.steps:
        for tensor in step.operands:
            if tensor.space == "arena" and tensor is step.operands[-1]:
                sizes[step.writes] = tensor.nbytes
        held = {(t.offset, t.nbytes) for t in step.operands if t.space == "arena"}
        widest = max(widest, sum(nbytes for _, nbytes in held))
    return sum(sizes.values()), widest


def rows() -> list[Row]:
    """The recorded rows."""
    return [Row(**row) for row in json.loads(KEPT.read_text())]


def table(found: list[Row]) -> str:
    """The table of the page, in MB of a million bytes."""
    lines = [
        "| network | target | precision | parameters | arena | unshared | widest step | scratch of a thread | in all |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in found:
        sizes = (r.parameters, r.arena, r.unshared, r.widest, r.scratch, r.all_cores)
        lines.append(
            f"| {r.network.split()[0]} | `{r.target}` | {r.dtype} | "
            + " | ".join(f"{b / 1e6:.2f}" for b in sizes)
            + " |"
        )
    return "\n".join(lines) + "\n"


def page(text: str, found: list[Row]) -> str:
    """The page with the table of these rows."""
    return MARKS.sub(lambda m: m[1] + table(found) + m[2], text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="plan all networks once more")
    if parser.parse_args(argv).again:
        from tvm_mobilenet import targets
        from tvm_mobilenet.models.options import ModelOptions

        found = []
        for name in NETWORKS:
            for target, dtype in ON:
                options = ModelOptions(model=name, alpha=1.0, resolution=224, classes=1000, batch=1, dtype=dtype)
                found.append(planned(options, targets.load(target)))
                print(asdict(found[-1]), file=sys.stderr, flush=True)
        KEPT.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), rows()))
    print(table(rows()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
