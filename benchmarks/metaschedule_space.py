"""MetaSchedule's own space for our layers, on our virtual board.

    python -m benchmarks.metaschedule_space rpi4 --trials 64

Its rules, post-processors, mutators, features, cost model and evolution are its own for the target; it may pack weights
freely. Its builder starts a pool of processes for each batch, each of which imports intrinsics for half a minute, so
this experiment uses persistent workers instead. Each candidate is compiled with TVM's own pipeline, run whole, checked
against PyTorch and estimated like our candidates. Our search gets as many trials in the same worker.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.metaschedule import has_xgboost, without_gpu_intrinsics

LAYERS = (
    "pointwise m49 n256 k128 f32 relu6",
    "pointwise m196 n64 k192 f32",
    "depthwise 7x7x240 3x3 p1,1,1,1 f32 relu6",
)


def workload(layer):
    """The layer in TE, as MetaSchedule gets it from a model, without tiling, packing or padding."""
    from tvm import te, tirx

    from tvm_mobilenet.errors import TvmMobilenetError

    plain = layer.kind in ("pointwise", "depthwise") and layer.residual == "none"
    if not plain or layer.activation not in ("none", "relu6"):
        raise TvmMobilenetError(
            f"layer {layer.name!r}: only plain pointwise and depthwise layers are written in TE here",
            "choose one with no activation or relu6, and no residual",
        )

    def finish(x, bias, c):
        x = x + bias[c]
        return x if layer.activation == "none" else te.max(te.min(x, tirx.const(6.0)), tirx.const(0.0))

    n = layer.out_channels
    bias = te.placeholder((n,), name="bias")
    if layer.kind == "pointwise":
        m, k = layer.height, layer.channels
        data, weight = te.placeholder((m, k), name="data"), te.placeholder((k, n), name="weight")
        r = te.reduce_axis((0, k), "r")
        sums = te.compute((m, n), lambda i, c: te.sum(data[i, r] * weight[r, c], r), name="sums")
        out = te.compute((m, n), lambda i, c: finish(sums[i, c], bias, c), name="out")
    else:
        (kh, kw), (sh, sw), (top, left, bottom, right) = layer.kernel, layer.stride, layer.padding
        h, w = layer.height, layer.width
        data, weight = te.placeholder((h, w, n), name="data"), te.placeholder((kh, kw, n), name="weight")
        padded = te.compute(
            (h + top + bottom, w + left + right, n),
            lambda y, x, c: tirx.if_then_else(
                tirx.all(y >= top, y < h + top, x >= left, x < w + left), data[y - top, x - left, c], tirx.const(0.0)
            ),
            name="padded",
        )
        a, b = te.reduce_axis((0, kh), "a"), te.reduce_axis((0, kw), "b")
        shape = layer.output_shape[1:]
        sums = te.compute(
            shape,
            lambda y, x, c: te.sum(padded[y * sh + a, x * sw + b, c] * weight[a, b, c], [a, b]),
            name="sums",
        )
        out = te.compute(shape, lambda y, x, c: finish(sums[y, x, c], bias, c), name="out")
    return te.create_prim_func([data, weight, bias, out]).with_attr("layout_free_buffers", [1])


def operands(layer) -> tuple[list[np.ndarray], np.ndarray]:
    """Arguments of ``workload``, and the expected output."""
    from tvm_mobilenet.checking import reference

    given = reference.random_arguments(layer)
    expected = reference.reference(layer, given["data"], given["weight"], given["bias"])
    if layer.kind == "pointwise":
        weight, data = given["weight"].reshape(layer.out_channels, layer.channels).T, given["data"][0, :, 0]
        expected = expected[0, :, 0]
    else:
        weight, data = given["weight"].reshape(-1, *layer.kernel).transpose(1, 2, 0), given["data"][0]
        expected = expected[0]
    out = np.full(expected.shape, np.nan, "float32")
    return [data, np.ascontiguousarray(weight), given["bias"], out], expected


@dataclass(frozen=True)
class Module:
    """A scheduled candidate of MetaSchedule: the layer, the module as JSON, the weights in its packing."""

    layer: str
    text: str
    weight: np.ndarray


class Evaluate:
    """``tuning.runner.Evaluate``, and the same for MetaSchedule's modules; called in workers."""

    def __init__(self, target):
        from tvm_mobilenet.tuning.runner import Evaluate as Ours

        self.target, self.ours = target, Ours(target)

    def prepare(self) -> None:
        from tvm_mobilenet.tuning.builder import Builder

        self.ours.prepare()
        self.ours.builder = Builder(self.target, fresh=True)  # the seconds of a build are compared

    def __call__(self, job):
        if not isinstance(job, Module):
            return self.ours(job).cost
        import tvm
        from tvm_mobilenet.schedules.nest import SYMBOL

        from tvm_mobilenet.boards.comparison import require_right
        from tvm_mobilenet.compiler import codegen
        from tvm_mobilenet.layer import Layer

        (data, _, bias, out), expected = operands(Layer.parse(job.layer))
        main = tvm.ir.load_json(job.text)["main"].with_attr("global_symbol", SYMBOL)
        with tempfile.TemporaryDirectory(prefix="metaschedule-") as folder:
            library, obj = os.path.join(folder, "kernel.so"), os.path.join(folder, "kernel.o")
            built = tvm.compile(tvm.IRModule({SYMBOL: main}), target=codegen.tvm_target(self.target))
            built.mod.write_to_file(obj)
            codegen.link([obj], self.target, library)
            with self.ours.opened.load(library) as module:
                run = module.call(SYMBOL, [data, job.weight, bias, out], memory=True)
                cost = run.cost(1).value
        require_right(run.outputs[-1], expected)
        return float(cost)


def module_of(name: str, schedule, weight: np.ndarray) -> Module:
    """The module to build for a candidate, without the block that packs weights, which are packed before."""
    import tvm
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    maps = [
        a
        for inst in schedule.trace.insts
        if inst.kind.name == "TransformLayout"
        for a in inst.inputs
        if isinstance(a, tvm.tirx.IndexMap)
    ]
    if maps:
        weight = maps[-1].map_tensor(tvm.runtime.tensor(weight)).numpy()
    unpacked = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod)
    return Module(name, tvm.ir.save_json(unpacked), weight)


def own_space(name: str, target, workers, trials: int, batch: int) -> dict:
    """The best cost of a number of MetaSchedule's trials on a layer, and their seconds."""
    from tvm.s_tir import meta_schedule as ms

    from tvm_mobilenet.compiler import codegen
    from tvm_mobilenet.layer import Layer

    layer = Layer.parse(name)
    weight = operands(layer)[0][1]
    start = time.perf_counter()
    with without_gpu_intrinsics():
        import tvm.s_tir.tensor_intrin.arm_cpu  # noqa: F401  (the rules for the target ask for them)

        context = ms.TuneContext(
            workload(layer),
            target=codegen.tvm_target(target),
            space_generator="post-order-apply",
            search_strategy="evolutionary",
            num_threads=1,
            rand_state=1,
        )
    np.random.seed(1)
    model = ms.cost_model.XGBModel(config=ms.cost_model.xgb_model.XGBConfig(nthread=1), num_warmup_samples=batch)
    database = ms.database.MemoryDatabase()
    token = database.commit_workload(context.mod)
    context.pre_tuning(trials, batch, None, database, model)
    costs, failures, built, best = [], [], 0.0, float("nan")
    while (candidates := context.generate_measure_candidates()) is not None:
        results = []
        for candidate in candidates:
            job = module_of(name, candidate.sch, weight)
            workers.submit(job)
            (done,) = workers.wait()
            built += done.seconds
            costs += [done.value] if done.value else []
            failures += [done.failure] if not done.value else []
            results.append(ms.runner.RunnerResult([(done.value or 1e19) / 1e9], None))
            database.commit_tuning_record(
                ms.database.TuningRecord(
                    candidate.sch.trace, token, results[-1].run_secs, context.target, candidate.args_info
                )
            )
        context.notify_runner_results(candidates, results)
        model.update(context, candidates, results)
        best = min(costs, default=best)
        print(f"{name}: {len(costs) + len(failures)} trials, best {best:.0f}", file=sys.stderr, flush=True)
    tried = len(costs) + len(failures)
    return {
        "best": best,
        "tried": tried,
        "failures": failures,
        "build and run": built / tried,
        "search": (time.perf_counter() - start - built) / tried,
    }


def ours(name: str, target, workers, trials: int) -> dict:
    """The default's cost, and the best of a number of trials of our search without records."""
    from tvm_mobilenet.tune_logs.log import Record

    from tvm_mobilenet import schedules
    from tvm_mobilenet.layer import Layer
    from tvm_mobilenet.tuning.candidate import Candidate
    from tvm_mobilenet.tuning.layer_search import LayerSearch

    search = LayerSearch(name, schedules.space(Layer.parse(name), target.core), trials=trials)
    while (point := search.ask()) is not None:
        workers.submit(Candidate(name, point, True))
        (done,) = workers.wait()
        search.tell(
            Record(
                layer=name,
                core=target.core.name,
                decisions=point,
                cost=done.value,
                failure=done.failure,
                seconds=done.seconds,
            )
        )
    tried = len(search.tried)
    return {
        "default": search.default_cost,
        "best": min(r.cost for r in search.tried.values() if r.cost),
        "tried": tried,
        "build and run": search.seconds / tried,
    }


def main(argv=None) -> None:
    """Print a table: MetaSchedule's best in its own space beside our default and our best."""
    from tvm_mobilenet import targets
    from tvm_mobilenet.tuning.workers import Workers

    parser = argparse.ArgumentParser(prog="python -m benchmarks.metaschedule_space")
    parser.add_argument("target", help="a board, such as rpi4")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layer", action="append", help="a layer's name; may be repeated")
    arguments = parser.parse_args(argv)
    if not has_xgboost():
        raise SystemExit(3)
    target = targets.load(arguments.target)
    print(
        "| layer | MetaSchedule, best | failed | s a trial: search, build and run | our default | our best | "
        "s a trial |\n" + "|---" * 7 + "|"
    )
    with Workers(Evaluate(target), 1, timeout=120) as workers:
        for name in arguments.layer or LAYERS:
            mine = ours(name, target, workers, arguments.trials)
            its = own_space(name, target, workers, arguments.trials, arguments.batch)
            for failure in dict.fromkeys(its["failures"]):
                print(f"{name}: {failure[:300]}", file=sys.stderr)
            print(
                f"| {name} | {its['best'] / mine['best']:.2f} | {len(its['failures'])} of {its['tried']} | "
                f"{its['search']:.2f}, {its['build and run']:.2f} | {mine['default'] / mine['best']:.3f} | "
                f"{mine['best']:.0f} cycles | {mine['build and run']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    from benchmarks.metaschedule_space import main as run  # its classes are pickled by this module's name

    run()
