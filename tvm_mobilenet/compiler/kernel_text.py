"""One kernel as text: its loop nest before and after lowering, and its assembly."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvm_mobilenet.compiler.codegen import CONFIG, tvm_target
from tvm_mobilenet.compiler.lowering import lowering
from tvm_mobilenet.targets import Target

# Lines of LLVM's output that are debug information, unwinding or line numbers.
_NOISE = re.compile(r"\s*(?:\.(?:cfi_\w+|loc|file|addrsig\w*|ident)\b|\.L(?:tmp|func_begin|func_end)\d+:)")


@dataclass(frozen=True)
class KernelText:
    """``nest``: TIR as the schedule wrote it. ``lowered``: TIR as LLVM received it. ``assembly``: the output of
    LLVM.
    """

    nest: str
    lowered: str
    assembly: str


def kernel_text(symbol: str, function, target: Target) -> KernelText:
    """The texts of a PrimFunc, compiled alone for a target in the same way as a library's kernels."""
    import tvm

    seen = []

    @tvm.instrument.pass_instrument
    class Watch:
        def run_after_pass(self, mod, info):
            if len(mod.functions):  # TVM also runs its passes on the empty part for other devices
                seen.append(mod)

    function = function.with_attr("global_symbol", symbol)
    with tvm.transform.PassContext(instruments=[Watch()], config=CONFIG):
        built = tvm.compile(tvm.IRModule({symbol: function}), target=tvm_target(target), tir_pipeline=lowering())
    text = built.mod.inspect_source("s")
    return KernelText(function.script(), seen[-1].script(show_meta=False), readable(text))


def readable(assembly: str) -> str:
    """LLVM's assembly with code only: no debug sections, unwinding or line numbers."""
    kept, debug = [], False
    for line in assembly.splitlines():
        if line.lstrip().startswith((".section", ".text")):
            debug = ".debug" in line or "note.GNU-stack" in line
        if not debug and not _NOISE.match(line):
            kept.append(line.expandtabs(8))
    return "\n".join(kept) + "\n"
