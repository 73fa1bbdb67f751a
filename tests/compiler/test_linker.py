"""zig's library of the compiler's own functions is compiled for those alone that need them."""

import subprocess

import pytest
from elftools.elf.elffile import ELFFile

from tvm_mobilenet import targets
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.errors import TvmMobilenetError


def linked(folder, board: str, code: str):
    """A library of C code, and the commands that linked it."""
    target = targets.load(board)
    (folder / "x.c").write_text(code)
    compiler = codegen.linker_command(target)
    subprocess.run([*compiler, "-c", "-fPIC", "x.c", "-o", "x.o"], cwd=folder, check=True)
    ran, real = [], subprocess.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codegen.subprocess, "run", lambda command, **how: ran.append(command) or real(command, **how))
        return codegen.link([str(folder / "x.o")], target, folder / "x.so", kernels=("x",)), ran


def undefined(library) -> set[str]:
    with library.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym").iter_symbols()
        return {s.name for s in symbols if s["st_shndx"] == "SHN_UNDEF" and s.name}


def test_code_that_needs_none_is_linked_without_them(tmp_path):
    library, ran = linked(tmp_path, "rpi4", "#include <math.h>\nfloat x(float a) { return expf(a); }")
    assert len(ran) == 1 and "-rtlib=none" in ran[0] and undefined(library) == {"expf"}


def test_code_that_needs_them_has_them(tmp_path):
    library, ran = linked(tmp_path, "armv7", "unsigned long long x(unsigned long long a) { return a / 10007; }")
    assert len(ran) == 2 and not {name for name in undefined(library) if name.startswith("__aeabi")}


def test_a_failure_is_told_as_without_the_attempt(tmp_path):
    target = targets.load("rpi4")
    (tmp_path / "x.o").write_bytes(b"no object")
    with pytest.raises(TvmMobilenetError, match=r"linking x\.so for rpi4 failed") as e:
        codegen.link([str(tmp_path / "x.o")], target, tmp_path / "x.so")
    assert "-rtlib" not in e.value.hint and not (tmp_path / "x.so").exists()
