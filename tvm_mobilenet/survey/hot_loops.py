"""The kernels of a dump: their loop nests, their assembly, and the cost model's explanation of their hot loops."""

from __future__ import annotations

from collections.abc import Callable

from tvm_mobilenet.compiler.dump import Dump
from tvm_mobilenet.compiler.kernel_text import kernel_text
from tvm_mobilenet.compiler.module import BuiltModule
from tvm_mobilenet.compiler.pipeline import BuiltModel

HOT = 0.05  # share of a kernel's cycles above which a loop is explained
LINES = 400  # most instructions of a loop to show


def dump_kernels(dump: Dump, model: BuiltModel, module: BuiltModule, show: Callable[[str], None]) -> None:
    """Write the phases ``tir`` and ``assembly``, one file for each kernel.

    Parameters
    ----------
    model : BuiltModel
    module : BuiltModule
        The written module, whose machine code runs on the virtual board if the core has a cost model.
    show : callable
        Gets a line of progress.

    Raises
    ------
    BoardError
        A kernel failed.
    """
    show(f"dumping {len(model.kernels)} kernels")
    nests, assembly = {}, {}
    explained = _explained(module, model.target, show)
    for symbol, function in model.kernels.items():
        steps = [step for step in module.plan.steps if step.symbol == symbol]
        layer = steps[0].layer
        head = f"{symbol}\n{layer}\nin {', '.join(step.name for step in steps)}\n\n"
        text = kernel_text(symbol, function, model.target)
        nests[symbol] = _titled(head, {"As its schedule made it": text.nest, "As LLVM got it": text.lowered}), layer
        code = {"Hot loops": explained(symbol), "Assembly, as LLVM made it": text.assembly}
        assembly[symbol] = _titled(head, code), layer
    dump.kernels("tir", nests)
    dump.kernels("assembly", assembly)


def _titled(head: str, texts: dict[str, str]) -> str:
    return head + "\n".join(f"---- {title}\n\n{text.rstrip()}\n" for title, text in texts.items())


def _explained(module: BuiltModule, target, show: Callable[[str], None]) -> Callable[[str], str]:
    """A function that explains the loops of a kernel by the cost model, or says why there is none."""
    if not target.core.model:
        return lambda symbol: f"not explained: {target.core.title} has no cost model"
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.boards.cost.explain import explain
    from tvm_mobilenet.boards.plan_runner import PlanRunner

    show("executing each kernel on the virtual board")
    found = {}
    with open_board("virtual", target) as board, board.load(module.library) as loaded:
        runner = PlanRunner(loaded, module.plan, module.parameters())
        for step in module.plan.steps:
            if step.symbol not in found:  # one call is enough: no loop bound depends on the numbers in tensors
                found[step.symbol] = explain(runner.call(step), lines=LINES, least=HOT)
    return found.__getitem__
