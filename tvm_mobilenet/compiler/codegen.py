"""From PrimFuncs to machine code: LLVM writes one object, zig (or a linker of your own) links it for the board.

Kernels are compiled once, without checks of their arguments: every caller knows the arguments from the ``Plan`` and
checks them before a call. The user's cache keeps the object of each kernel, by the key of its code (`tune_logs.keys`),
so a build does not compile again the kernels of a search. From one object with all kernels are linked

- ``kernels.so``, which exports every kernel as ``__tvm_ffi_<symbol>``: for boards and for TVM's RPC servers;
- ``libmobilenet.so``, with the runtime in C (`compiler.library`);
- ``model.so``, TVM's executable, if it is asked for: its Relax code calls the same kernels.

A library needs glibc 2.28 or later at most, and one symbol of TVM's own runtime, to report errors.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.compiler import build_identity, instruction_sets, symbols
from tvm_mobilenet.compiler.lowering import lowering
from tvm_mobilenet.compiler.plan import kernels_of
from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError, nearest, reason, remedy
from tvm_mobilenet.files import user_cache
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.files.user_cache import Collection
from tvm_mobilenet.files.whole_file import replacing
from tvm_mobilenet.targets import Target
from tvm_mobilenet.tune_logs import keys

SHARED = ("-shared", "-fPIC", "-Wl,--gc-sections")
SUFFICIENT = ("-rtlib=none", "-Wl,-z,defs")  # zig links what needs none of the compiler's own functions
OPTIMIZED = "-O2"  # without it zig links its UBSan runtime too, which it compiles for 15 s when it is first used
CONFIG = {"tirx.disable_assert": True}  # for TVM's compilation of kernels: callers check arguments
KEPT = Collection("objects", 128 << 20)  # some 10,000 objects, which take 10 kB each


def compile_object(
    kernels: Mapping[str, object],
    target: Target,
    path: str | Path,
    linker: str | None = None,
    kept: Collection | None = KEPT,
) -> Path:
    """Compile PrimFuncs to one object, in the order of symbols. Each becomes the function ``__tvm_ffi_<symbol>``.

    Parameters
    ----------
    kernels : mapping of str to PrimFunc
        The PrimFunc of each symbol.
    target : Target
        The board to compile for.
    path : path
        The object to write.
    linker : str, optional
        As for `compile_kernels`; it joins several kernels into one object.
    kept : Collection, optional
        The cache of compiled objects; None to compile every kernel.
    """
    with TemporaryFolder() as folder:
        objects = _objects(kernels, target, folder, kept)
        if len(objects) == 1:
            shutil.copyfile(objects[0], path)
        else:
            _link(["-r", "-nostdlib", "-o", str(path), *objects], target, Path(path).name, linker)
    return Path(path)


def _objects(kernels: Mapping[str, object], target: Target, folder: str, kept: Collection | None) -> list[str]:
    """An object of each kernel, in the order of symbols: from the cache, or compiled."""
    made = []
    for number, (symbol, kernel) in enumerate(sorted(kernels.items())):
        path = os.path.join(folder, f"{number}.o")
        key = kept and f"{keys.key_of(kernel, target)}-{_compiling()}"
        if not key or not kept.take(key, path):
            _compile(kernel, target, path)
            if key:
                kept.keep(key, path)
        symbols.rename_kernel(Path(path), _ANY, symbol)
        made.append(path)
    return made


_ANY = "kernel"  # a kernel's name while it does not matter


def _compile(kernel, target: Target, path: str) -> None:
    import tvm

    alone = tvm.IRModule({_ANY: kernel.with_attr("global_symbol", _ANY)})
    with tvm.transform.PassContext(config=CONFIG):
        built = tvm.compile(alone, target=tvm_target(target), tir_pipeline=lowering())
    _write(built.mod, Path(path))
    symbols.name_kernel(Path(path), _ANY)


def _write(module, path: Path) -> None:
    """Write an object to memory first and then to a file, since LLVM ends the process if the disk is full.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    if not hasattr(os, "memfd_create"):
        module.write_to_file(str(path))
        return
    with open(os.memfd_create(path.name), "rb") as held, path.open("wb") as file:
        module.write_to_file(f"/proc/self/fd/{held.fileno()}", fmt="o")
        shutil.copyfileobj(held, file)


@functools.cache
def _compiling() -> str:
    """A short hash of the code that compiles kernels."""
    sources = (Path(__file__), Path(symbols.__file__))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[: keys.LENGTH]


def compile_kernels(
    kernels: Mapping[str, object],
    target: Target,
    path: str | Path,
    linker: str | None = None,
    kept: Collection | None = KEPT,
) -> Path:
    """Build a library that exports each PrimFunc as ``__tvm_ffi_<symbol>``.

    Parameters
    ----------
    kernels, target, kept
        As `compile_object` takes them.
    path : path
        The library to write. It is written whole or not at all.
    linker : str, optional
        A compiler driver that links for the target, such as ``aarch64-linux-gnu-gcc``. Default: zig's.

    Raises
    ------
    MissingDependencyError
        No linker.
    TvmMobilenetError
        The linker failed; the message contains its output.
    """
    with TemporaryFolder() as folder:
        return link(_objects(kernels, target, folder, kept), target, path, linker, kernels)


def build_executable(
    lowered, kernels: str | Path, target: Target, path: str | Path, build: str, linker: str | None = None
) -> Path:
    """Build a lowered module as an ordinary TVM executable around kernels that are already compiled.

    ``relax.VirtualMachine(tvm.runtime.load_module(path), device)["main"]`` runs it; its parameters are bound in it.

    Parameters and errors are those of ``compile_kernels``; ``lowered`` comes from ``compiler.lower``, and ``kernels``
    is the object of its PrimFuncs. ``build``: the identity that it carries (`build_identity`).
    """
    import tvm
    from tvm import relax

    tvm_target_ = tvm_target(target)
    # The stock pipeline for CPUs, without the steps that are already done (legalizing, fusing).
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
        outside = _with_kernels_outside(lowered, kernels)
        built = tvm.compile(outside, tvm_target_, relax_pipeline=lower, tir_pipeline=lowering())

    def link_all(output, files, **_):
        return link(list(files), target, output, linker, kernels_of(lowered), build)

    # TVM does not touch the linker's output file, so the library is written whole or not at all here too.
    built.export_library(str(path), fcompile=link_all)
    return Path(path)


def _with_kernels_outside(lowered, kernels: str | Path):
    """The same Relax module without its PrimFuncs: it calls them by name, from an object that is linked to it."""
    import tvm
    from tvm import relax

    names = {g: g.name_hint for g in lowered.functions if g.name_hint != "main"}

    @relax.expr_functor.mutator
    class ByName(relax.PyExprMutator):
        def visit_call_(self, call):
            call = self.visit_expr_post_order(call)
            if call.op == tvm.ir.Op.get("relax.call_tir"):
                return relax.call_dps_packed(names[call.args[0]], call.args[1], call.ty_args[0])
            if call.op == tvm.ir.Op.get("relax.call_tir_inplace"):
                *_, written = given = call.args[1].fields
                none = relax.TupleType([])
                self.builder_.emit(relax.call_pure_packed(names[call.args[0]], *given, ty_args=none))
                return written
            return call

    main = ByName(lowered).visit_expr(lowered["main"])
    library = tvm.runtime.load_static_library(str(kernels), sorted(names.values()))
    return tvm.IRModule({"main": main}).with_attr("external_mods", [library])


def tvm_target(target: Target):
    """The ``tvm.target.Target`` of a board.

    Raises
    ------
    TvmMobilenetError
        LLVM does not know the CPU, and would silently build for another one.
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
    kernels: Iterable[str] = (),
    build: str | None = None,
) -> Path:
    """Link objects to a shared library for a target. The library keeps the symbols of these kernels and no debug
    information, of which zig's libm for 32-bit ARM has 1 MB. ``build`` is the identity that the library carries. The
    file is written whole or not at all.
    """
    path = Path(path)
    with replacing(path) as new:
        _link([*SHARED, *build_identity.linked_with(build), "-o", str(new), *objects], target, path.name, linker)
        instruction_sets.check(new, target, path.name)
        symbols.keep_kernels(new, kernels)
    return path


def _link(arguments: list[str], target: Target, name: str, linker: str | None) -> None:
    command = linker_command(target, linker)
    try:
        done = run_linker(command, arguments, linker)
    except OSError as e:
        if hint := remedy(e):
            raise TvmMobilenetError(f"the linker cannot be run: {reason(e)}", hint) from None
        raise MissingDependencyError(
            f"the linker {command[0]} cannot be run: {e.strerror}", "leave out --linker to use zig's"
        ) from None
    if done.returncode:
        raise TvmMobilenetError(
            f"linking {name} for {target.name} failed with exit code {done.returncode}: {done.stderr.strip()[-800:]}",
            "command: " + " ".join((*command, *arguments)),
        )


def run_linker(
    command: list[str], arguments: Sequence[str], linker: str | None, folder: Path | None = None
) -> subprocess.CompletedProcess:
    """Run the command of `linker_command` in a folder.

    The compiler's own functions, such as a division of 64 bits for 32-bit ARM, are a library that zig compiles for 5 s
    when it is first used for a target. Few objects need them, so zig first links without.
    """
    for more in [()] if linker else [SUFFICIENT, ()]:
        done = subprocess.run(
            [*command, *arguments, *more],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            env=user_cache.zig_environment(),
        )
        if not done.returncode:
            break
    return done


def linker_key(target: Target, linker: str | None = None) -> tuple:
    """The inputs of a linked file besides its objects: the command that links, identified by its version or its
    file.
    """
    command = linker_command(target, linker)
    if linker:
        about = os.stat(shutil.which(linker))
        return (*command, about.st_size, about.st_mtime_ns)
    return (*command[1:], metadata.version("ziglang"))


def linker_command(target: Target, linker: str | None = None) -> list[str]:
    """The command that links for a target: the user's, or zig's, which needs no system package."""
    if linker:
        return [packages.linker(linker)]
    triple = ["-target", target.link_triple] if target.link_triple else []
    return packages.zig("linking", "cc", OPTIMIZED, *triple)
