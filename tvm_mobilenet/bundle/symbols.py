"""Gives the symbols of a relocatable object names of the model's own, so that two models link into one program.

Every global symbol that the object defines gets a prefix and is hidden, but for the interface: ``mobilenet_open``
becomes ``<prefix>mobilenet_open``, and the plain name stays as a weak second one, for programs with one model. Debug
information is dropped. Names are all that changes: code refers to symbols by number.
"""

from __future__ import annotations

import struct
from pathlib import Path

_SYMTAB, _STRTAB, _NOBITS, _NULL = 2, 3, 8, 0
_GLOBAL, _WEAK, _HIDDEN, _ABSOLUTE = 1, 2, 2, 0xFFF1


class _Form:
    """The record layouts of 32- and 64-bit ELF, little endian."""

    def __init__(self, wide: bool):
        self.section = struct.Struct("<IIQQQQIIQQ" if wide else "<IIIIIIIIII")
        self.symbol = struct.Struct("<IBBHQQ" if wide else "<IIIBBH")
        self.header = struct.Struct("<16sHHIQQQIHHHHHH" if wide else "<16sHHIIIIIHHHHHH")
        self.wide = wide

    def unpack_symbol(self, data: bytes, at: int) -> list[int]:
        """name, info, other, section, value, size."""
        f = self.symbol.unpack_from(data, at)
        return list(f) if self.wide else [f[0], f[3], f[4], f[5], f[1], f[2]]

    def pack_symbol(self, s: list[int]) -> bytes:
        return self.symbol.pack(*s) if self.wide else self.symbol.pack(s[0], s[4], s[5], s[1], s[2], s[3])


def own_names(path: Path, prefix: str, interface: str = "mobilenet_") -> None:
    """Rewrite an object in place.

    Parameters
    ----------
    path : path
        A relocatable ELF object, little endian.
    prefix : str
        Put before every global symbol that is defined in it.
    interface : str
        What begins so stays visible.
    """
    data = path.read_bytes()
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise ValueError(f"{path} is no little-endian ELF object")
    form = _Form(data[4] == 2)
    header = list(form.header.unpack_from(data))
    sections = [list(form.section.unpack_from(data, header[6] + i * header[11])) for i in range(header[12])]
    contents = [b"" if s[1] in (_NOBITS, _NULL) else data[s[4] : s[4] + s[5]] for s in sections]
    names = [_text(contents[header[13]], s[0]) for s in sections]
    dropped = {i for i, n in enumerate(names) if n.startswith((".debug", ".rel.debug", ".rela.debug"))}
    table = next(i for i, s in enumerate(sections) if s[1] == _SYMTAB)
    contents[table], strings = _renamed(form, contents[table], contents[sections[table][6]], prefix, interface, dropped)
    if sections[table][6] == header[13]:  # one table for the names of sections and symbols: the old names stay in it
        strings = contents[header[13]] + strings
        raise_by = len(contents[header[13]])
        contents[table] = b"".join(
            form.pack_symbol([s[0] + raise_by if s[0] else 0, *s[1:]])
            for s in (
                form.unpack_symbol(contents[table], at) for at in range(0, len(contents[table]), form.symbol.size)
            )
        )
    contents[sections[table][6]] = strings
    out = bytearray(form.header.size)
    for i, s in enumerate(sections):
        if i in dropped:
            sections[i] = [0, _NULL, 0, 0, 0, 0, 0, 0, 0, 0]
        elif s[1] not in (_NOBITS, _NULL):
            out += bytes(-len(out) % max(1, s[8]))
            s[4], s[5] = len(out), len(contents[i])
            out += contents[i]
    out += bytes(-len(out) % 8)
    header[6] = len(out)
    for s in sections:
        out += form.section.pack(*s)
    out[: form.header.size] = form.header.pack(*header)
    path.write_bytes(out)


def _renamed(form: _Form, symbols: bytes, old: bytes, prefix: str, interface: str, dropped: set) -> tuple[bytes, bytes]:
    """The symbol table with new names, and the table of their strings."""
    strings, rows, aliases = bytearray(1), [], []

    def place(name: str) -> int:
        at = len(strings) if name else 0
        if name:
            strings.extend(name.encode() + b"\0")
        return at

    for at in range(0, len(symbols), form.symbol.size):
        s = form.unpack_symbol(symbols, at)
        name = _text(old, s[0])
        if s[3] in dropped:
            s[1], s[3], s[4] = 0, _ABSOLUTE, 0
            name = ""
        elif s[1] >> 4 in (_GLOBAL, _WEAK) and s[3]:
            if name.startswith(interface):
                aliases.append([place(name), _WEAK << 4 | s[1] & 15, *s[2:]])
            else:
                s[2] = s[2] & ~3 | _HIDDEN
            name, s[1] = prefix + name, _GLOBAL << 4 | s[1] & 15
        s[0] = place(name)
        rows.append(s)
    return b"".join(map(form.pack_symbol, rows + aliases)), bytes(strings)


def _text(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()
