"""The dependencies of a record's cost, as two short hashes: of its code, and of its estimate.

A record is current while both are unchanged. If only the estimate key differs, the same machine code is estimated
again, but not searched again.

- The **code key** covers the kernel that the schedule makes of a layer and its decisions, without names, LLVM's target,
  the passes of `compiler.lowering` and the version of TVM.
- The **estimate key** covers the virtual board, its cost model and the facts of the target and its core.

Generating a kernel takes a hundredth of a second, for a fused block a third of one. So a record also keeps a hash of
the schedules' sources. If that is current, the code is too.

Comments, docstrings and the layout of a source do not count.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import metadata, resources

LENGTH = 12  # characters of a key


def code_key(layer, decisions: dict, target) -> str:
    """The key of the machine code of a layer under these decisions, built for a target.

    Parameters
    ----------
    layer : Layer
    decisions : dict
        As ``schedules.kernel`` takes them.
    target : targets.Target
    """
    from tvm_mobilenet import schedules

    return key_of(schedules.kernel(layer, decisions), target)


def key_of(kernel, target) -> str:
    """The key of a PrimFunc's machine code for a target; the names of the function and its layer do not count."""
    import tvm_ffi

    for name in ("global_symbol", "layer"):
        kernel = kernel.without_attr(name)
    body = tvm_ffi.structural_hash(kernel, map_free_vars=True)
    llvm = sorted(target.llvm_target().items())
    return _digest([repr((body, llvm, _tvm())), _compiler()])


@lru_cache(maxsize=8)
def estimate_key(target) -> str:
    """The key of the virtual board's inputs to a prediction for a target, besides the code."""
    here = resources.files("tvm_mobilenet")
    folders = [here / "boards" / "cost", here / "boards" / "virtual"]
    files = [file for folder in folders for file in folder.iterdir()]
    files += [here / "boards" / "plan_runner.py", here / "compiler" / "plan.py"]
    files += [resources.files("tvm_mobilenet.targets") / "memory.py"]
    return _digest([*_contents(files), repr(target.facts())])


@cache
def sources_key() -> str:
    """The key of the sources that make kernels: while it is the same, equal decisions give equal code."""
    schedules = resources.files("tvm_mobilenet.schedules")
    files = [file for folder in (schedules, schedules / "in_order") for file in folder.iterdir()]
    here = resources.files("tvm_mobilenet")
    files += [here / "dtypes.py", here / "layer.py", *(here / "kinds").iterdir()]
    return _digest([*_contents(files), _compiler(), _tvm()])


@cache
def _tvm() -> str:
    """The version of TVM; empty if it is not installed, since logs can be read without it."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("apache-tvm")
    return ""


@cache
def _compiler() -> str:
    return "".join(_contents([resources.files("tvm_mobilenet") / "compiler" / "lowering.py"]))


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:LENGTH]


def _contents(files: Iterable) -> list[str]:
    """The content of Python and C sources, in the order of their names."""
    found = []
    for file in sorted(files, key=lambda file: file.name):
        if file.name.endswith(".py"):
            found.append(_code_alone(file.read_text(encoding="utf-8")))
        elif file.name.endswith(".c"):
            found.append(file.read_text(encoding="utf-8"))
    return found


def _code_alone(source: str) -> str:
    """A Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)
