"""Machine code in objects and libraries, with the fields that a linker fills in marked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WRAPPER = "__tvm_ffi_"  # TVM's prefix for the wrapper of a kernel, which takes its arguments
_RELAXED = (41, 42)  # R_X86_64_GOTPCRELX and R_X86_64_REX_GOTPCRELX: a linker may change the opcode before, too


@dataclass(frozen=True)
class Section:
    """Instructions of an object file.

    Attributes
    ----------
    data : bytes
        The compiler's bytes.
    fixed : bytes
        1 for each byte that a linker does not change, 0 for the others.
    kernels : dict of str to (int, int)
        Offset and size of each kernel's wrapper, by symbol without ``WRAPPER``.
    bodies : dict of str to (int, int)
        The same for the kernel itself with its parallel regions, if it is not part of the wrapper.
    """

    data: bytes
    fixed: bytes
    kernels: dict[str, tuple[int, int]]
    bodies: dict[str, tuple[int, int]]

    @property
    def masked(self) -> bytes:
        """The data with zeros where a linker fills in."""
        return bytes(a if b else 0 for a, b in zip(self.data, self.fixed, strict=True))

    def regions(self) -> dict[str, list[tuple[int, int]]]:
        """The ranges of each kernel's code: its wrapper, and itself."""
        found = {name: [(at, at + size)] for name, (at, size) in self.kernels.items()}
        for name, (at, size) in self.bodies.items():
            found[name].append((at, at + size))
        return found

    def in_library(self, library: Path) -> dict[str, bool]:
        """For each kernel, whether a library that was linked from the object has the same code.

        Raises
        ------
        ValueError
            The object's code is not in the library, or more than once.
        """
        code = _executable(library)
        for start, end in self._longest_runs()[:5]:  # one of them may have changed
            at = code.find(self.data[start:end])
            if at >= start and code.find(self.data[start:end], at + 1) < 0:
                break
        else:
            raise ValueError(f"{library} does not hold the code of the object once")
        there = code[at - start : at - start + len(self.data)]
        same = [a == b or not fixed for a, b, fixed in zip(self.data, there, self.fixed, strict=False)]
        return {
            name: all(len(there) >= e and all(same[s:e]) for s, e in pieces) for name, pieces in self.regions().items()
        }

    def _longest_runs(self) -> list[tuple[int, int]]:
        """The ranges without a relocated field, the longest first."""
        end, found = 0, []
        for piece in self.fixed.split(b"\0"):
            found.append((end, end + len(piece)))
            end += len(piece) + 1
        return sorted(found, key=lambda run: run[0] - run[1])


def sections_of(object_file: Path, relaxed: bool = False) -> list[Section]:
    """The sections of an object file that hold instructions; ``relaxed``: opcodes that a linker may change are fields
    that it fills in."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.relocation import RelocationSection

    with object_file.open("rb") as file:
        elf = ELFFile(file)
        data = {i: s.data() for i, s in enumerate(elf.iter_sections()) if s["sh_flags"] & 4}
        fixed = {i: bytearray(b"\1" * len(d)) for i, d in data.items()}
        for section in elf.iter_sections():
            if isinstance(section, RelocationSection) and section["sh_info"] in data:
                for relocation in section.iter_relocations():
                    at, before = relocation["r_offset"], 0
                    if relaxed and elf["e_machine"] == "EM_X86_64" and relocation["r_info_type"] in _RELAXED:
                        before = 3
                    fixed[section["sh_info"]][at - before : at + 4] = bytes(before + 4)
        kernels: dict[int, dict[str, tuple[int, int]]] = {i: {} for i in data}
        bodies: dict[int, dict[str, tuple[int, int]]] = {i: {} for i in data}
        for s in elf.get_section_by_name(".symtab").iter_symbols():
            if s["st_shndx"] not in data:
                continue
            if s.name.startswith(WRAPPER):
                kernels[s["st_shndx"]][s.name.removeprefix(WRAPPER)] = s["st_value"] & ~1, s["st_size"]
            elif s["st_info"]["type"] == "STT_FUNC":
                bodies[s["st_shndx"]][s.name] = s["st_value"] & ~1, s["st_size"]
    bodies = {i: {n: at for n, at in found.items() if n in kernels[i]} for i, found in bodies.items()}
    return [Section(d, bytes(fixed[i]), kernels[i], bodies[i]) for i, d in data.items()]


def code_of(object_file: Path) -> tuple[bytes, bytes]:
    """The instructions of the kernels in an object file and those of their wrappers, relocated fields set to zero.

    The padding between two functions is part of neither.
    """
    sections = sections_of(object_file)

    def code(pieces_of) -> bytes:
        return b"".join(s.masked[at : at + size] for s in sections for at, size in sorted(pieces_of(s).values()))

    return code(lambda s: s.bodies), code(lambda s: s.kernels)


def _executable(library: Path) -> bytes:
    """The executable sections of a library, with gaps between them."""
    from elftools.elf.elffile import ELFFile

    with library.open("rb") as file:
        sections = [s for s in ELFFile(file).iter_sections() if s["sh_flags"] & 4 and s["sh_type"] == "SHT_PROGBITS"]
        return b"\0\0\0\0\0\0\0\0".join(s.data() for s in sections)
