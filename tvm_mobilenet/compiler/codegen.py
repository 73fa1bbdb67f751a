"""From PrimFuncs to a shared library: LLVM writes the object, zig (or a linker of your own) links it for the board.

The library needs glibc 2.28 or later at most, and one symbol of TVM's own runtime, to report errors.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.compiler.lowering import lowering
from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError, nearest
from tvm_mobilenet.files.whole_file import replacing
from tvm_mobilenet.targets import Target

# What a kernel calls of libm, zig links in for 32-bit ARM from a library with debug information: 1 MB without the last.
SHARED = ("-shared", "-fPIC", "-Wl,--gc-sections", "-Wl,--strip-debug")


def compile_kernels(kernels: Mapping[str, object], target: Target, path: str | Path, linker: str | None = None) -> Path:
    """Build a library that exports each PrimFunc as ``__tvm_ffi_<symbol>``.

    Parameters
    ----------
    kernels : mapping of str to PrimFunc
        Symbols and what they compute.
    target : Target
        For which board.
    path : path
        The library to write; it appears whole or not at all.
    linker : str, optional
        A compiler driver that links for the target, such as ``aarch64-linux-gnu-gcc``. Default: zig's.

    Raises
    ------
    MissingDependencyError
        No linker.
    TvmMobilenetError
        The linker failed; its own words are in the message.
    """
    import tvm

    module = tvm.IRModule({s: f.with_attr("global_symbol", s) for s, f in kernels.items()})
    built = tvm.compile(module, target=tvm_target(target), tir_pipeline=lowering())
    with tempfile.TemporaryDirectory(prefix="tvm_mobilenet_") as folder:
        obj = os.path.join(folder, "kernels.o")
        built.mod.write_to_file(obj)
        return link([obj], target, path, linker)


def build_executable(lowered, target: Target, path: str | Path, linker: str | None = None) -> Path:
    """Build a lowered module as an ordinary TVM executable, its parameters bound in it.

    ``relax.VirtualMachine(tvm.runtime.load_module(path), device)["main"]`` runs it, and each kernel is exported as
    well.

    Parameters and errors are those of ``compile_kernels``; ``lowered`` comes from ``compiler.lower``.
    """
    import tvm
    from tvm import relax

    tvm_target_ = tvm_target(target)
    # The stock pipeline for CPUs, without what is done already (legalizing, fusing) and without the pass that asks
    # whether a kernel is only a reshape: it takes none but kernels in blocks, and ours are plain loops.
    lower = tvm.transform.Sequential(
        [
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )
    with tvm_target_:
        built = tvm.compile(lowered, tvm_target_, relax_pipeline=lower, tir_pipeline=lowering())

    def link_all(output, files, **_):
        return link(list(files), target, output, linker)

    # TVM hands the linker's output file on as it is, so the library appears whole or not at all here too.
    built.export_library(str(path), fcompile=link_all)
    return Path(path)


def tvm_target(target: Target):
    """The ``tvm.target.Target`` of a board.

    Raises
    ------
    TvmMobilenetError
        LLVM has no such CPU: it would build for another one.
    """
    import tvm

    made = target.llvm_target()
    if not tvm.get_global_func("target.llvm_is_valid_cpu")(made["mcpu"], made["mtriple"]):
        plain = tvm.target.Target({**made, "mcpu": "generic"})
        known = sorted(map(str, tvm.get_global_func("target.llvm_get_cpu_archlist")(plain)))
        near = nearest(made["mcpu"], known, 0.6)
        raise TvmMobilenetError(
            f"{target.file or 'target ' + target.name}: llvm_cpu = {made['mcpu']!r}: LLVM knows no such CPU"
            + f"; did you mean {near!r}?" * bool(near),
            f"it knows {', '.join(known)}",
        )
    return tvm.target.Target(made)


def link(
    objects: list[str],
    target: Target,
    path: str | Path,
    linker: str | None = None,
    options: tuple[str, ...] = SHARED,
) -> Path:
    """Link objects for a target; write to a temporary name beside ``path``, then rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        command = [*linker_command(target, linker), *options, "-o", str(new), *objects]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as e:
            raise MissingDependencyError(
                f"the linker {command[0]} cannot be run: {e.strerror}", "leave out --linker to use zig's"
            ) from None
        if done.returncode:
            raise TvmMobilenetError(
                f"linking {path.name} for {target.name} failed with exit code {done.returncode}: "
                f"{done.stderr.strip()[-800:]}",
                "command: " + " ".join(command),
            )
    return path


def linker_command(target: Target, linker: str | None = None) -> list[str]:
    """The command that links for a target: the user's, else zig's, which needs no system package."""
    if linker:
        if not shutil.which(linker):
            raise MissingDependencyError(f"linker {linker!r} is not on the PATH", "leave out --linker to use zig's")
        return [linker]
    try:
        import ziglang  # noqa: F401
    except ImportError:
        raise packages.missing("linking", ["ziglang"]) from None
    triple = ["-target", target.link_triple] if target.link_triple else []
    return [sys.executable, "-m", "ziglang", "cc", *triple]
