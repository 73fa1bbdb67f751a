"""Compiles the runtime for a target and links it with a build's kernels: a shared library, an archive, a program.

All three need libc, libm and pthreads of a glibc that boards have, which is read from the result. No path, time or name
of this machine comes into them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

from tvm_mobilenet.bundle import symbols
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.errors import TvmMobilenetError

SOURCES = ("error.c", "cpu.c", "pool.c", "instance.c", "folder.c", "sha256.c", "image.c", "scores.c", "selftest.c")
FLAGS = (
    *("-std=gnu11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections"),
    "-ffp-contract=off",  # an image's pixels are the same on every CPU, with fused multiply-adds or without
    "-fno-math-errno",  # sqrt is an instruction: a model without exponentials needs no libm, nor its pages
)
_GLIBC = (2, 28)
_NEEDED = re.compile(r"lib(c|m)\.so\.6|libpthread\.so\.0|ld-linux.*\.so\.\d|libmobilenet\.so")


def libraries(work: Path, target, linker, model: str, prefix: str, weights: bytes | None) -> dict[str, bytes]:
    """Compile the runtime and a model's tables, and link them with its kernels.

    Parameters
    ----------
    work : path
        Where ``kernels.o`` lies; sources and objects stay there.
    model : str
        The C source of the tables.
    prefix : str
        Of every symbol but the interface's.
    weights : bytes, optional
        To be part of the library.

    Returns
    -------
    dict of str to bytes
        ``libmobilenet.so``, ``libmobilenet.a`` and ``mobilenet``.
    """
    compiler = codegen.linker_command(target, linker)
    source = resources.files("tvm_mobilenet.runtime")
    for name in (*SOURCES, "main.c", "internal.h", "mobilenet.h"):
        (work / name).write_bytes((source / name).read_bytes())
    (work / "model.c").write_text(model)
    units = [*SOURCES, "model.c"]
    if weights is not None:
        (work / "weights.raw").write_bytes(weights)
        (work / "weights.S").write_text(
            '.section .rodata.mn_weights,"a",%progbits\n.balign 64\n.globl mn_weights\n'
            '.hidden mn_weights\nmn_weights:\n.incbin "weights.raw"\n'
            '.section .note.GNU-stack,"",%progbits\n'
        )
        units.append("weights.S")
    for unit in (*units, "main.c"):
        _run(work, target, compiler, *FLAGS, "-c", unit, "-o", f"{unit}.o")
    _run(work, target, compiler, "-r", "-nostdlib", "-o", "model.o", "kernels.o", *(f"{u}.o" for u in units))
    symbols.own_names(work / "model.o", prefix)
    (work / "exports").write_text(f"{{ global: mobilenet_*; {prefix}mobilenet_*; local: *; }};\n")
    libraries = ("-Wl,--as-needed", "-lm", "-lpthread")
    _run(
        work,
        target,
        compiler,
        "-shared",
        "-s",
        "-Wl,--gc-sections",
        "-Wl,-z,defs",
        "-Wl,--version-script=exports",
        "-Wl,-soname,libmobilenet.so",
        "-o",
        "libmobilenet.so",
        "model.o",
        *libraries,
    )
    _run(
        work, target, compiler, "-s", "-Wl,-rpath,$ORIGIN", "-o", "mobilenet", "main.c.o", "libmobilenet.so", *libraries
    )
    _run(work, target, [sys.executable, "-m", "ziglang", "ar"], "rcsD", "libmobilenet.a", "model.o")
    for name in ("libmobilenet.so", "mobilenet"):
        check_needs(work / name)
    return {name: (work / name).read_bytes() for name in ("libmobilenet.so", "libmobilenet.a", "mobilenet")}


def _run(work: Path, target, command: list[str], *arguments: str) -> None:
    done = subprocess.run([*command, *arguments], cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise TvmMobilenetError(
            f"{arguments[-1]} for {target.name}: exit code {done.returncode}: {done.stderr.strip()[-800:]}",
            "command: " + " ".join((*command, *arguments)),
        )


def check_needs(path: Path) -> None:
    """Reads the dynamic section: libc, libm and pthreads, of no later glibc than boards have."""
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
