"""The runtime, compiled for a target and linked with a build's kernels: a shared library, an archive, a program.

All three need libc, libm and pthreads of a glibc that boards have; `check_needs` verifies that in the result. They
contain no path, time or name of this machine. The runtime's object is the same for every model of a target, and the
user's cache keeps it.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from importlib import resources
from pathlib import Path

from tvm_mobilenet import __version__, packages
from tvm_mobilenet.compiler import build_identity, codegen, instruction_sets, symbols, tables
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.user_cache import Collection, zig_environment

LIBRARY = "libmobilenet.so"
SOURCES = (
    *("error.c", "cpu.c", "pool.c", "handles.c", "instance.c", "steps.c", "folder.c", "sha256.c", "image.c"),
    *("scores.c", "numbers.c", "selftest.c"),
)
HEADERS = ("internal.h", "mobilenet.h")
PROGRAM = ("main.c", "report.c", "picture.c", "array.c", "codecs.c", "libjpeg.c")  # sources of the program
PROGRAM_HEADERS = ("picture.h", "report.h", "mobilenet.h")
FLAGS = (
    *("-std=gnu11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections"),
    "-ffp-contract=off",  # an image's pixels are the same on every CPU, with fused multiply-adds or without
    "-fno-math-errno",  # sqrt is an instruction: a model without exponentials needs no libm, nor its pages
)
KEPT = Collection("runtime", 16 << 20)  # two objects, 80 KB, for each target, linker and version of the sources
_GLIBC = (2, 28)
_NEEDED = re.compile(r"lib(c|m)\.so\.6|libpthread\.so\.0|libdl\.so\.2|ld-linux.*\.so\.\d|libmobilenet\.so")
_LIBC = ("-Wl,--as-needed", "-lm", "-lpthread")
_LOADER = ("-ldl",)  # for the program only, which loads image decoders; part of libc


def runtime_hash() -> str:
    """A hash of the runtime's sources."""
    digest = hashlib.sha256()
    for file in sorted({*SOURCES, *HEADERS, *PROGRAM, *PROGRAM_HEADERS}):
        digest.update(file.encode() + _source(file))
    return digest.hexdigest()


def id_of(kernels: Path, plan, about: dict, build: str) -> str:
    """A hash of all inputs of a library: kernels, weights, runtime, plan, and the description of the model."""
    digest = hashlib.sha256(kernels.read_bytes() + about["weights_sha256"].encode())
    digest.update(runtime_hash().encode() + build.encode())
    digest.update(json.dumps([plan.to_data(), about], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def link_library(
    work: Path,
    target,
    linker: str | None,
    plan,
    about: dict,
    scratch: dict[str, int],
    build: str,
    preprocess=None,
    weights: bytes | None = None,
) -> Path:
    """Link the kernels in ``work / "kernels.o"`` with the runtime and a model's tables.

    Parameters
    ----------
    work : path
        A folder in which sources and objects stay; its ``model.o`` has everything but the program.
    linker : str, optional
        A replacement for zig, which also compiles.
    plan, about, scratch, preprocess
        As `tables.source` takes them; ``id`` is added to ``about``.
    build : str
        The identity of the build (`build_identity`).
    weights : bytes, optional
        The weights, if the library is to contain them.

    Returns
    -------
    path
        ``libmobilenet.so`` in that folder.
    """
    compiler = codegen.linker_command(target, linker)
    about["id"] = id_of(work / "kernels.o", plan, about, build)
    for name in {*SOURCES, *HEADERS, *PROGRAM, *PROGRAM_HEADERS}:
        (work / name).write_bytes(_source(name))
    (work / "model.c").write_text(tables.source(plan, about, scratch, preprocess))
    units = ["model.c"]
    if weights is not None:
        (work / "weights.raw").write_bytes(weights)
        (work / "weights.S").write_text(
            '.section .rodata.mn_weights,"a",%progbits\n.balign 64\n.globl mn_weights\n'
            '.hidden mn_weights\nmn_weights:\n.incbin "weights.raw"\n'
            '.section .note.GNU-stack,"",%progbits\n'
        )
        units.append("weights.S")
    _object(work, target, linker, "runtime.o", SOURCES, HEADERS)
    for unit in units:
        _run(work, target, compiler, *FLAGS, "-c", unit, "-o", f"{unit}.o")
    objects = ("kernels.o", "runtime.o", *(f"{u}.o" for u in units))
    _run(work, target, compiler, "-r", "-nostdlib", "-o", "model.o", *objects)
    prefix = about["prefix"]
    symbols.own_names(work / "model.o", prefix)
    (work / "exports").write_text(f"{{ global: mobilenet_*; {prefix}mobilenet_*; local: *; }};\n")
    options = ("-Wl,--gc-sections", "-Wl,-z,defs", "-Wl,--version-script=exports")
    identity = build_identity.linked_with(build)
    _link(
        *(work, target, linker, "-shared", *options, *identity, "-Wl,-soname,libmobilenet.so"),
        *("-o", LIBRARY, "model.o", *_LIBC),
    )
    instruction_sets.check(work / LIBRARY, target)
    symbols.keep_kernels(work / LIBRARY, scratch, prefix)
    return work / LIBRARY


def link_rest(work: Path, target, linker: str | None, build: str) -> dict[str, bytes]:
    """The files of a bundle from the folder that `link_library` used: the library and two more, by name."""
    version = f'-DMOBILENET_VERSION="{__version__}"'
    _object(work, target, linker, "program.o", PROGRAM, PROGRAM_HEADERS, version)
    _link(
        *(work, target, linker, "-s", *build_identity.linked_with(build), "-Wl,-rpath,$ORIGIN"),
        *("-o", "mobilenet", "program.o", LIBRARY, *_LIBC, *_LOADER),
    )
    _run(work, target, packages.zig("archives", "ar"), "rcsD", "libmobilenet.a", "model.o")
    instruction_sets.check(work / "program.o", target)  # the linked program has no symbols
    if target.architecture == "aarch64":
        instruction_sets.check(work / "mobilenet", target)
    for name in (LIBRARY, "mobilenet"):
        check_needs(work / name)
    return {name: (work / name).read_bytes() for name in (LIBRARY, "libmobilenet.a", "mobilenet")}


def _source(name: str) -> bytes:
    return (resources.files("tvm_mobilenet.runtime") / name).read_bytes()


def _object(
    work: Path, target, linker: str | None, made: str, units: tuple[str, ...], headers: tuple[str, ...], *flags: str
) -> None:
    """One object of several sources, from the cache if it was compiled before."""
    compiler = codegen.linker_command(target, linker)
    digest = hashlib.sha256(repr(((*FLAGS, *flags), codegen.linker_key(target, linker))).encode())
    for name in (*units, *headers):
        digest.update(name.encode() + _source(name))
    key = digest.hexdigest()[:24]
    if KEPT.take(key, work / made):
        return
    for unit in units:
        _run(work, target, compiler, *FLAGS, *flags, "-c", unit, "-o", f"{unit}.o")
    _run(work, target, compiler, "-r", "-nostdlib", "-o", made, *(f"{u}.o" for u in units))
    KEPT.keep(key, work / made)


def _link(work: Path, target, linker: str | None, *arguments: str) -> None:
    command = codegen.linker_command(target, linker)
    _require(codegen.run_linker(command, arguments, linker, work), target, command, arguments)


def _run(work: Path, target, command: list[str], *arguments: str) -> None:
    done = subprocess.run([*command, *arguments], cwd=work, capture_output=True, text=True, env=zig_environment())
    _require(done, target, command, arguments)


def _require(done: subprocess.CompletedProcess, target, command: list[str], arguments: tuple[str, ...]) -> None:
    if done.returncode:
        made = arguments[arguments.index("-o") + 1] if "-o" in arguments else arguments[1]
        raise TvmMobilenetError(
            f"{made} for {target.name}: exit code {done.returncode}: {done.stderr.strip()[-800:]}",
            "command: " + " ".join((*command, *arguments)),
        )


def check_needs(path: Path) -> None:
    """Read the dynamic section: it may need libc, libm and pthreads, of no later glibc than boards have."""
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as f:
        elf = ELFFile(f)
        needed = [t.needed for t in elf.get_section_by_name(".dynamic").iter_tags() if t.entry.d_tag == "DT_NEEDED"]
        versions = elf.get_section_by_name(".gnu.version_r")
        wanted = [a.name for _, auxiliaries in (versions.iter_versions() if versions else ()) for a in auxiliaries]
    late = [
        v for v in wanted if (m := re.fullmatch(r"GLIBC_(\d+)\.(\d+).*", v)) and tuple(map(int, m.groups())) > _GLIBC
    ]
    foreign = [n for n in needed if not _NEEDED.fullmatch(n)]
    if late or foreign:
        raise TvmMobilenetError(
            f"{path.name} needs {', '.join(foreign + late)}, which a board may not have",
            "leave out --linker: zig links against glibc 2.28",
        )
