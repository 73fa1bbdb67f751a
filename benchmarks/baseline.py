"""Record the machine code of networks, to show that a refactoring of this project changes none of it.

For each network and target it records a hash of every kernel's machine code, of the plan and of the constants, the
predicted cycles on one core and on all, and the bytes of code. The hashes exclude symbol names, the fields that a
linker fills in, and the wrapper that takes a kernel's arguments, which has its own hash.

    python -m benchmarks.baseline write benchmarks/data/baseline.json
    python -m benchmarks.baseline compare benchmarks/data/baseline.json      # exit code 5 where anything differs

``--models v1,v2`` and ``--targets rpi4`` select a part; ``--no-cycles`` skips the virtual board, which takes most of
the time. The target ``host`` is built for x86-64-v3 on any machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["TVM_MOBILENET_HOST_CPU"] = "x86-64-v3"
MODELS = ("v1", "v2", "v3-large", "v3-small", "v1-plain", "onnx")
TARGETS = ("rpi3", "rpi4", "rpi5", "armv7", "host")


def hash_of(*parts: bytes) -> str:
    """A short hash of pieces of data, in order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def kernel_hashes(function, target, known: dict) -> tuple[str, str]:
    """The hashes of a PrimFunc's code and of its wrapper, compiled alone; equal functions are compiled once."""
    import tvm_ffi

    from benchmarks.machine_code import code_of
    from tvm_mobilenet.compiler import codegen

    alone = function.without_attr("layer").with_attr("global_symbol", "kernel")
    key = target.name, tvm_ffi.structural_hash(alone, map_free_vars=True)
    if key not in known:
        with tempfile.TemporaryDirectory(prefix="baseline-") as folder:
            path = codegen.compile_object({"kernel": alone}, target, Path(folder) / "kernel.o")
            known[key] = tuple(map(hash_of, code_of(path)))
    return known[key]


def onnx_file(folder: Path) -> str:
    """MobileNet v2 0.5-96 as PyTorch exports it to ONNX."""
    import torch

    from tvm_mobilenet.models import registry

    path = folder / "v2.onnx"
    model = registry.create("v2", 0.5, 96, 10, seed=0)
    torch.onnx.export(model.module, torch.zeros(1, 3, 96, 96), str(path), dynamo=False, opset_version=17)
    return str(path)


def record(name: str, target, folder: Path, cycles: bool, known: dict) -> dict:
    """The record of a network on a target."""
    from tvm_mobilenet import boards
    from tvm_mobilenet.boards.plan_runner import PlanRunner, run_and_estimate
    from tvm_mobilenet.compiler import codegen, pipeline
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.compiler.plan import input_values, inputs_of
    from tvm_mobilenet.models.options import ModelOptions
    from tvm_mobilenet.survey import estimates as estimating

    if name == "onnx":
        network = load_network(ModelOptions(model=onnx_file(folder)))
    else:
        import torch

        torch.manual_seed(0)
        network = estimating.weightless(ModelOptions(model=name))
    model = pipeline.compile(network, target)
    plan, parameters, kernels = model.plan, model.parameters, model.kernels
    hashes = {symbol: kernel_hashes(function, target, known) for symbol, function in kernels.items()}
    steps = [
        [hashes[s.symbol][0], *([o.space, o.offset, list(o.shape), o.dtype, o.index] for o in s.operands)]
        for s in plan.steps
    ]
    found = {
        "kernels": [[hashes[s.symbol][0], hashes[s.symbol][1], s.layer] for s in plan.steps],
        "plan": hash_of(json.dumps(steps).encode()),
        "arena_bytes": plan.arena_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "parameters": hash_of(parameters.tobytes()),
        "parameters_bytes": plan.parameters_bytes,
    }
    if not target.is_host:
        library = folder / "kernels.so"
        codegen.compile_kernels(kernels, target, library)
        found["code_bytes"] = estimating.code_bytes(library)
        if cycles:
            with boards.open_board("virtual", target) as board, board.load(library) as module:
                values = input_values(inputs_of(plan))
                run, one, every = run_and_estimate(PlanRunner(module, plan, parameters), board, values, target.cores)
            found |= {"cycles": one.value, "cycles_all_cores": every.value, "compute_cycles": run.compute}
    return found


def differences(before: dict, after: dict) -> list[str]:
    """The differences of two records of one network and target, one line each."""
    told = []
    for at, (old, new) in enumerate(zip(before["kernels"], after["kernels"], strict=False)):
        if old[0] != new[0]:
            told.append(f"step {at}: other code: {old[2]} -> {new[2]}")
        elif old[1] != new[1]:
            told.append(f"step {at}: other wrapper: {new[2]}")
    if len(before["kernels"]) != len(after["kernels"]):
        told.append(f"{len(before['kernels'])} -> {len(after['kernels'])} steps")
    return told + [
        f"{field}: {before[field]} -> {after[field]}"
        for field in before
        if field != "kernels" and field in after and before[field] != after[field]
    ]


def main(argv: list[str] | None = None) -> int:
    """Write the record, or compare with one."""
    from tvm_mobilenet import targets

    parser = argparse.ArgumentParser(prog="python -m benchmarks.baseline", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--no-cycles", action="store_true")
    args = parser.parse_args(argv)
    before = json.loads(args.file.read_text()) if args.file.exists() else {}
    if args.what == "compare" and not before:
        parser.error(f"{args.file} does not exist")
    after, known, differ = dict(before), {}, 0
    for target in map(targets.load, args.targets.split(",")):
        for name in args.models.split(","):
            with tempfile.TemporaryDirectory(prefix="baseline-") as folder:
                found = record(name, target, Path(folder), not args.no_cycles, known)
            key = f"{name} {target.name}"
            lines = differences(before.get(key, found), found)
            differ += bool(lines)
            print(f"{key}: {len(found['kernels'])} kernels" + "".join(f"\n  {line}" for line in lines), flush=True)
            after[key] = found
            if args.what == "write":
                args.file.parent.mkdir(parents=True, exist_ok=True)
                args.file.write_text(json.dumps(after, indent=0) + "\n")
    return 5 if args.what == "compare" and differ else 0


if __name__ == "__main__":
    sys.exit(main())
