"""Estimates kernels with the core model and with llvm-mca 19, keeps both as data, and prints how many agree.

    python -m benchmarks.mca rpi4 benchmarks/data/mca_cortex-a72.json     # continues an existing file
    python -m benchmarks.mca rpi5 benchmarks/data/mca_neoverse-n1_float16.json --dtype float16
    python -m benchmarks.mca rpi4 benchmarks/data/mca_cortex-a72_int8.json --dtype int8

The kernels: every distinct convolution, depthwise, pointwise and dense layer of MobileNet v1 at four widths and three
resolutions; of another dtype every kernel of v1 and v2 1.0-224 as `build` makes them, fused blocks and all. Decisions
are the defaults of the target's core. All kernels are kept; one that llvm-mca cannot estimate has its message. For
each, both estimate the traces that make 97 % of our cycles: loops in steady state, straight lines by throughput. A base
that a store writes back is split off, because llvm-mca lets it wait for the stored data.

These figures explain differences and are not judged. ``not_forwarded``: our estimate of the same traces without
accumulator forwarding, as in LLVM's N1. ``micro_ops``: that, with a window of micro-operations as in LLVM in place of
instructions (an N1's 128 entries hold instructions; LLVM counts a 128-bit store as four micro-operations).
``dispatched``, for int8 on the A72: ours with one slot of dispatch for each micro-operation, as in LLVM. ``wider``: by
class, the cycles of dispatch slots beyond one for each micro-operation.

For int8 on the A72 the rule judges ``zipped``, because the number of slots of a long multiply is not measured. It is
``dispatched`` with LLVM's three micro-operations and latency 6 for a 128-bit zip (silicon: one and 3). ``commit`` is
that of the schedules that made the kernel.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CPU = {"rpi4": "cortex-a72", "rpi5": "neoverse-n1"}
COVERED = 0.97
NEAR = 0.1  # allowed relative difference from llvm-mca
RULE = 0.9  # least share of kernels within `NEAR`
NETWORKS = ("v1", "v2")
WIDTHS, RESOLUTIONS = (1.0, 0.75, 0.5, 0.25), (224, 160, 128)
BODY = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
_BACK = re.compile(r"^(st\S*|ld\S*) (.*), \[(x\d+|sp)\], (#-?\w+|x\d+)$")
_PLACE = re.compile(r"^(adrp?|bl?|b\.\w+|cbn?z|tbn?z) .*0x[0-9a-f]+$")
_ZIP = re.compile(r"(uzp|zip|trn)[12] v\d+\.(16b|8h|4s|2d)")
_BEFORE = re.compile(r"^(st\S*|ld\S*) (.*), \[(x\d+|sp), #(-?\w+)\]!$")


def layers() -> list[str]:
    """Names of the layers, each once, in the order of the networks."""
    found: dict[str, None] = {}
    for resolution in RESOLUTIONS:
        for width in WIDTHS:
            channels, size = int(32 * width), resolution // 2
            found[f"conv {resolution}x{resolution}x3 n{channels} 3x3 s2 p1,1,1,1 f32 relu6"] = None
            for full, stride in BODY:
                step = " s2" if stride == 2 else ""
                found[f"depthwise {size}x{size}x{channels} 3x3{step} p1,1,1,1 f32 relu6"] = None
                size = -(-size // stride)
                found[f"pointwise m{size * size} n{int(full * width)} k{channels} f32 relu6"] = None
                channels = int(full * width)
            found[f"dense m1 n1000 k{channels} f32"] = None
    return list(found)


def network_layers(target, dtype: str) -> dict[str, int]:
    """Names of the layers of `NETWORKS` as a build for a target has them, and how many of their steps are each."""
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.compiler.pipeline import for_core
    from tvm_mobilenet.models.options import ModelOptions

    found: dict[str, int] = {}
    for model in NETWORKS:
        graph = for_core(load_network(ModelOptions(model=model, dtype=dtype)).graph, target.core)
        for layer, calls in graph.counts.items():
            found[layer.name] = found.get(layer.name, 0) + calls
    return found


def split(text: str) -> list[str]:
    """Split an access with write-back into an access and an addition; replace addresses in the module by near ones."""
    if _PLACE.match(text):
        return [re.sub(r"#?0x[0-9a-f]+$", "#0" if text.startswith("adr") else "#8", text)]
    if m := _BACK.match(text):
        add = f"add {m[3]}, {m[3]}, {m[4]}" if not m[4].startswith("#-") else f"sub {m[3]}, {m[3]}, #{m[4][2:]}"
        return [f"{m[1]} {m[2]}, [{m[3]}]", add]
    if m := _BEFORE.match(text):
        by = f"sub {m[3]}, {m[3]}, #{m[4][1:]}" if m[4].startswith("-") else f"add {m[3]}, {m[3]}, #{m[4]}"
        return [by, f"{m[1]} {m[2]}, [{m[3]}]"]
    return [text]


def mca(regions: list[list[str]], cpu: str, iterations: int) -> list[dict]:
    """llvm-mca's summary of each region."""
    lines = []
    for i, region in enumerate(regions):
        lines += [f"# LLVM-MCA-BEGIN r{i}", *region, "# LLVM-MCA-END"]
    r = subprocess.run(
        [
            os.environ.get("LLVM_MCA", "llvm-mca-19"),
            "-mtriple=aarch64",
            f"-mcpu={cpu}",
            "-mattr=+all",
            f"-iterations={iterations}",
            "--json",
        ],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
    )
    if r.returncode:
        raise RuntimeError(r.stderr.strip()[:300])
    views = {c["Name"]: c["SummaryView"] for c in json.loads(r.stdout)["CodeRegions"]}
    return [views[f"r{i}"] for i in range(len(regions))]


def not_forwarding(core):
    """The core without accumulator forwarding."""
    classes = {k: {a: b for a, b in row.items() if a != "forward"} for k, row in core.model["classes"].items()}
    return dataclasses.replace(core, model={**core.model, "classes": classes})


def dispatching(core):
    """The core with one slot of dispatch for each micro-operation of any width."""
    classes = {k: {a: b for a, b in row.items() if a != "slots"} for k, row in core.model["classes"].items()}
    return dataclasses.replace(core, model={**core.model, "classes": classes})


def zipped(instruction):
    """The core with LLVM's cost of a 128-bit zip or unzip on the A72: that of a table look-up in one register."""
    return instruction._replace(kind="table") if _ZIP.match(instruction.text) else instruction


def holding(core, micro_ops: float):
    """The core with a window for this number of micro-operations for each instruction."""
    window = max(1, round(core.model.get("window", 1) / micro_ops))
    return dataclasses.replace(core, model={**core.model, "window": window})


def wider(model, found: list) -> dict[str, float]:
    """The cycles of dispatch slots beyond one for each micro-operation, by class, the most first."""
    cycles: dict[str, float] = {}
    for estimated in found:
        for instruction in estimated.trace.instructions:
            row = model.pipeline.classes[instruction.kind]
            if more := row.slots - max(len(row.uops), 1):
                by = more * estimated.trace.count / model.pipeline.dispatch
                cycles[instruction.kind] = cycles.get(instruction.kind, 0.0) + by
    return dict(sorted(cycles.items(), key=lambda item: -item[1]))


def executed(name: str, target) -> tuple:
    """One kernel: its decisions, its run, and the traces that make `COVERED` of our cycles."""
    from tvm_mobilenet.schedules import nest

    from tvm_mobilenet import schedules
    from tvm_mobilenet.boards.cost.core_model import CoreModel
    from tvm_mobilenet.boards.virtual.board import VirtualBoard
    from tvm_mobilenet.checking import reference
    from tvm_mobilenet.compiler import codegen
    from tvm_mobilenet.layer import Layer

    layer = Layer.parse(name)
    decisions = schedules.space(layer, target.core).default
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k.so"
        codegen.compile_kernels({nest.SYMBOL: schedules.kernel(layer, decisions)}, target, path)
        with VirtualBoard(target).load(path) as module:
            arguments = reference.kernel_arguments(layer, decisions, reference.random_arguments(layer))
            run = module.call(nest.SYMBOL, arguments, tasks="sample")
            model = CoreModel.of(target.core)
            estimated = [t for p in run.parts for c in p.ran for t in model.estimate(run.image, c).traces]
    estimated.sort(key=lambda t: -t.total)
    whole, chosen = sum(t.total for t in estimated), []
    while sum(t.total for t in chosen) < COVERED * whole:
        chosen.append(estimated[len(chosen)])
    return decisions, run, chosen


def compare(name: str, target, cpu: str, others: dict) -> dict:
    """One kernel: cycles by both over the same traces; ``others``: by name, cores that they are estimated on, too."""
    from tvm_mobilenet.boards.cost.core_model import CoreModel

    decisions, run, chosen = executed(name, target)
    codes = {tuple(i.text for i in t.trace.instructions): None for t in chosen}
    regions = [[part for text in code for part in split(text)] for code in codes]
    row = {"layer": name, "decisions": decisions, "ours": sum(t.total for t in chosen)}

    def by(core) -> float:
        return sum(CoreModel.of(core).trace_cycles(run.image, t.trace) * t.trace.count for t in chosen)

    row |= {name: by(core) for name, core in others.items()}
    if "dispatched" in others:
        row["wider"] = wider(CoreModel.of(target.core), chosen)
        cycles = CoreModel.of(others["dispatched"]).pipeline.cycles
        row["zipped"] = sum(
            cycles(tuple(map(zipped, t.trace.instructions)), t.trace.loop) * t.trace.count for t in chosen
        )
    try:
        short, long = mca(regions, cpu, 20), mca(regions, cpu, 60)
    except RuntimeError as e:
        return {**row, "llvm_mca": None, "why": str(e)}
    estimate, cores, plain = {}, {}, others["not_forwarded"]
    for code, a, b in zip(codes, short, long, strict=True):
        cores[code] = holding(plain, max(1.0, a["TotaluOps"] / a["Iterations"] / len(code)))
        estimate[code] = (
            (b["TotalCycles"] - a["TotalCycles"]) / 40,
            max(a["BlockRThroughput"], a["TotaluOps"] / a["Iterations"] / a["DispatchWidth"]),
        )
    theirs = sum(
        estimate[tuple(i.text for i in t.trace.instructions)][not t.trace.loop] * t.trace.count for t in chosen
    )
    row["micro_ops"] = sum(
        CoreModel(cores[tuple(i.text for i in t.trace.instructions)]).trace_cycles(run.image, t.trace) * t.trace.count
        for t in chosen
    )
    return {**row, "llvm_mca": theirs}


def near(row: dict, estimate: str = "ours") -> bool:
    """Whether an estimate of a kept kernel is within `NEAR` of llvm-mca's."""
    return row["llvm_mca"] is not None and 1 - NEAR <= row[estimate] / row["llvm_mca"] <= 1 + NEAR


def table(rows: list[dict]) -> list[str]:
    """Lines: the share within `NEAR` by kind of layer, the distribution of ratios, and each kernel outside."""
    judged = "zipped" if all("zipped" in row for row in rows) else "ours"
    kinds: dict[str, list[bool]] = {}
    for row in rows:
        kinds.setdefault(row["layer"].split()[0], []).append(near(row, judged))
    all_near = [one for found in kinds.values() for one in found]
    of, share = f"{sum(all_near)} of {len(all_near)}", sum(all_near) / len(all_near)
    lines = [
        f"within {NEAR:.0%} of llvm-mca: {of} kernels, {share:.1%}; the rule is {RULE:.0%}: "
        + ("met" if share >= RULE else "not met")
        + (f"; judged {judged}" if judged != "ours" else ""),
        *(f"  {kind:<12} {sum(found)} of {len(found)}" for kind, found in kinds.items()),
    ]
    if all("calls" in row for row in rows):
        calls, near_by = sum(row["calls"] for row in rows), sum(row["calls"] for row in rows if near(row, judged))
        lines.append(f"of the networks' steps: {near_by} of {calls}, {near_by / calls:.1%}")
    known = [row for row in rows if row["llvm_mca"]]
    steps: dict[float, int] = {}
    for row in known:
        step = round(20 * row["ours"] / row["llvm_mca"]) / 20
        steps[step] = steps.get(step, 0) + 1
    lines.append("ours / llvm-mca, to the nearest 0.05: " + ", ".join(f"{s:.2f} {n}" for s, n in sorted(steps.items())))
    others = [
        key
        for key in ("not_forwarded", "micro_ops", "dispatched", "zipped")
        if known and all(key in row for row in known)
    ]
    for other in others:
        lines.append(f"within {NEAR:.0%} as {other}: {sum(near(row, other) for row in rows)} of {len(rows)}")
    for row in sorted((r for r in known if not near(r)), key=lambda r: r["ours"] / r["llvm_mca"]):
        said = ", ".join(f"{other} {row[other] / row['llvm_mca']:.3f}" for other in others)
        lines.append(f"  {row['ours'] / row['llvm_mca']:.3f}  {row['layer']}" + (f"  ({said})" if said else ""))
    for kind, off in _wider_by_kind(known).items():
        lines.append(f"  {kind}: cycles of wider slots over llvm-mca's, by class: {off}")
    return lines + [f"  not estimated by llvm-mca: {r['layer']}: {r['why']}" for r in rows if not r["llvm_mca"]]


def _wider_by_kind(rows: list[dict]) -> dict[str, str]:
    """For each kind of layer, the share of llvm-mca's cycles that wider dispatch slots take, by class, the most
    first."""
    sums: dict[str, dict[str, float]] = {}
    theirs: dict[str, float] = {}
    for row in rows:
        kind = row["layer"].split()[0]
        theirs[kind] = theirs.get(kind, 0.0) + row["llvm_mca"]
        for name, cycles in row.get("wider", {}).items():
            found = sums.setdefault(kind, {})
            found[name] = found.get(name, 0.0) + cycles
    return {
        kind: ", ".join(f"{name} {c / theirs[kind]:.2f}" for name, c in sorted(found.items(), key=lambda i: -i[1])[:6])
        for kind, found in sums.items()
    }


def main(argv: list[str] | None = None) -> None:
    from tvm_mobilenet import dtypes, targets

    parser = argparse.ArgumentParser(prog="python -m benchmarks.mca", description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=sorted(CPU))
    parser.add_argument("file", type=Path, help="the kernels as data; one that exists is gone on with")
    parser.add_argument(
        "--dtype",
        choices=dtypes.OF_DATA,
        default="float32",
        help="in which the networks' layers compute (default float32)",
    )
    args = parser.parse_args(argv)
    target, cpu, path = targets.load(args.target), CPU[args.target], args.file
    targets.require(target, args.dtype)
    rows = json.loads(path.read_text(encoding="utf-8"))["kernels"] if path.is_file() else []
    done = {r["layer"] for r in rows}
    others = {"not_forwarded": not_forwarding(target.core)}
    if args.dtype == "int8" and target.name == "rpi4":
        others["dispatched"] = dispatching(target.core)
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    calls = {} if args.dtype == "float32" else network_layers(target, args.dtype)
    for layer in calls or layers():
        if layer in done:
            continue
        about = {"calls": calls[layer]} if calls else {}
        rows.append({**compare(layer, target, cpu, others), **about, "commit": head.stdout.strip()})
        text = ",\n".join(json.dumps(r) for r in rows)
        path.write_text(
            f'{{"cpu": "{cpu}", "tool": "llvm-mca 19", "covered": {COVERED}, "kernels": [\n{text}\n]}}\n',
            encoding="utf-8",
        )
        r = rows[-1]
        print(layer, f"{r['ours'] / r['llvm_mca']:.3f}" if r["llvm_mca"] else r["why"], file=sys.stderr, flush=True)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
