"""Assembles a few lines into a module, so that a test knows every instruction of what it runs."""

import subprocess
from pathlib import Path

from tvm_mobilenet import packages

LINK = {"aarch64": "aarch64-linux-gnu.2.28", "armv7": "arm-linux-gnueabihf.2.28"}

# Arguments of a kernel: x1 holds 16-byte values, a pointer to the tensor at 8; a tensor begins with its data pointer.
LOAD_DATA = "\n".join(f"ldr x{9 + i}, [x1, #{16 * i + 8}]\n ldr x{9 + i}, [x{9 + i}]" for i in range(2))


def assemble(path, functions: dict[str, str], architecture: str = "aarch64", extra: str = ""):
    """A shared object with one kernel a name; each body ends with its own ``ret``. ``extra``: other directives."""
    lines = [".text"]
    if architecture == "aarch64":
        lines += [".arch_extension fp16", ".arch_extension dotprod"]
    if architecture == "armv7":
        lines += [".syntax unified", ".arm", ".fpu neon-vfpv4"]
    for name, body in functions.items():
        symbol = f"__tvm_ffi_{name}"
        lines += [f".global {symbol}", f".type {symbol},%function", f"{symbol}:", body, f".size {symbol}, .-{symbol}"]
    source = path.with_suffix(".s")
    source.write_text("\n".join(lines) + "\n" + extra + "\n", encoding="utf-8")
    return link(LINK[architecture], path, "-shared", "-nostdlib", source)


def link(triple: str, path: Path, *what) -> Path:
    """A library or program made by zig of sources, objects and flags."""
    command = packages.zig("a test", "cc", "-O2", "-target", triple, *map(str, what), "-o", str(path))
    subprocess.run(command, check=True)
    return path
