"""Explain a kernel's hot loops and their bounds in text, from the core model's figures."""

from __future__ import annotations

from collections import Counter

from tvm_mobilenet.boards.cost.core_model import CoreModel, EstimatedTrace


def explain(run, core=None, lines: int = 40, least: float = 1.0) -> str:
    """The hottest traces of a run with their ports, their bounds and their instructions.

    Parameters
    ----------
    run : kernel_run.KernelRun
    core : targets.Core, optional
        Another core for which to estimate the same execution.
    lines : int
        Most instructions to show; a longer loop is cut in its middle.
    least : float
        Also show traces that take at least this share of the cycles.
    """
    core = core or run.target.core
    model = CoreModel.of(core)
    total: dict[tuple, tuple[float, EstimatedTrace]] = {}
    whole = 0.0
    for part in run.parts:
        for counts in part.ran:
            estimate = model.estimate(run.image, counts)
            whole += estimate.cycles
            for p in estimate.traces:
                key = tuple(i.address for i in p.trace.instructions), p.trace.loop
                total[key] = total.get(key, (0.0, p))[0] + p.total, p
    if not total:
        return f"{run.symbol}: nothing was executed"
    hottest, *others = sorted(total.values(), key=lambda t: -t[0])
    shown = [hottest, *(t for t in others if t[0] >= least * whole)]
    texts = [
        _trace(trace, cycles / whole, model, run, lines, "hottest " if i == 0 else "")
        for i, (cycles, trace) in enumerate(shown)
    ]
    return f"{run.symbol} on {core.title}, predicted\n" + "\n\n".join(texts)


def _trace(estimated: EstimatedTrace, share: float, model: CoreModel, run, lines: int, which: str) -> str:
    instructions = estimated.trace.instructions
    kinds = Counter(i.kind for i in instructions)
    multiply_adds = sum(n for k, n in kinds.items() if k.startswith(("fma", "vmull", "vmla", "dot")))
    function, offset = run.image.function_at(instructions[0].address)
    where = f"{function}+{offset:#x}" if function else f"{instructions[0].address - run.image.base:#x}"
    out = [
        f"{which}{'loop' if estimated.trace.loop else 'straight line'}: {share:.0%} of the cycles, at {where}: "
        f"{len(instructions)} instructions in {estimated.cycles:.2f} cycles",
        f"multiply-adds: {multiply_adds} instructions"
        + (f", {estimated.cycles / multiply_adds:.3f} cycles each" if multiply_adds else ""),
        "classes: " + ", ".join(f"{n} {k}" for k, n in kinds.most_common()),
    ]
    bounds = model.pipeline.bounds(instructions)
    out.append("bounds, in cycles: " + ", ".join(f"{name} {value:.1f}" for name, value in bounds.items()))
    name, value = max(bounds.items(), key=lambda b: b[1])
    if estimated.cycles > 1.05 * value:
        out.append(
            f"bound by none of them alone: {estimated.cycles - value:.1f} cycles above {name} are lost to "
            + (
                "operands that are not ready and to instructions that do not pair"
                if model.core.in_order
                else "their interplay"
            )
        )
    else:
        out.append(f"bound by {name}")
    text = [f"  {i.address - run.image.base:6x}  {i.kind:<10} {i.text}" for i in instructions]
    if len(text) > lines:
        half = lines // 2
        text = [*text[:half], f"          ... {len(text) - 2 * half} more ...", *text[-half:]]
    return "\n".join(out + text)
