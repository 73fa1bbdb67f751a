"""The result of each phase of a build, as numbered text files: ``build --dump DIR``.

A `Dump` is the watch that the pipeline calls after each phase (``pipeline.Watch``). Phases are numbered in the order of
the pipeline, passes are described by the first lines of their modules, and ``index.txt`` describes each file. If a
phase changed nothing, its file says so instead of repeating the text.

The folder has to be new, empty, or an earlier dump with nothing else in it, which is replaced.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tvm_mobilenet import passes
from tvm_mobilenet.compiler import fuse_blocks, pipeline
from tvm_mobilenet.compiler.plan import Plan, Step
from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.passes import precision
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.terminal import table

INDEX = "index.txt"
MARK = "Written by tvm_mobilenet build --dump: "  # first words of a dump's index
_ENCODING = {"encoding": "utf-8", "errors": "backslashreplace"}  # names of files and layers may be any bytes
_FILE = re.compile(r"\d\d-[a-z-]+(?:/\w+)?\.txt")


def _described(modules) -> dict[str, str]:
    """A description of each pass, by its phase: the first line of its module."""
    return {m.__name__.rpartition(".")[2]: m.__doc__.split("\n\n")[0].replace("\n", " ").rstrip(".") for m in modules}


PHASES = {
    "imported": "The imported graph in Relax",
    **_described((*passes.RELAX_PASSES, passes.channels_last, *passes.LAYER_PASSES, precision, *pipeline.CORE_PASSES)),
    "decisions": "The decisions of each distinct layer, and where they come from",
    "plan": "The order of kernel calls, and the place of every tensor",
    "tir": "Each kernel's loop nest: as its schedule made it, and as LLVM got it",
    "assembly": "Each kernel's assembly, and what bounds its hot loops",
}


# phases of only some builds: they share the number of the phase before
SOME = ("precision", "given_scales", "attention", "kinks", "transposed_conv", "marks", "views")


class Dump:
    """A folder of phases. A call with a phase and its result writes one file.

    Parameters
    ----------
    folder : path
        New, empty, or an earlier dump.
    title : str
        The model and the target, for the index.

    Raises
    ------
    TvmMobilenetError
        The folder has other files, or cannot be written.
    """

    def __init__(self, folder: Path, title: str):
        self.folder, self._last = folder, None
        try:
            _clear(folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / INDEX).write_text(f"{MARK}{' '.join(title.split())}\n\n", **_ENCODING)
        except OSError as e:
            raise _unwritable(folder, e) from None

    def __call__(self, phase: str, what: object) -> None:
        """Write the result of a phase: a Relax module, a `LayerGraph`, decisions or a plan."""
        text = _text(what)
        if self._last is not None and _same(what, self._last[1]):
            text = f"Unchanged: as in {self._last[0]}.txt.\n"
        else:
            self._last = _name(phase), what
        self._write({f"{_name(phase)}.txt": (text, PHASES[phase])})

    def kernels(self, phase: str, texts: dict[str, tuple[str, str]]) -> None:
        """Write one file for each kernel, by symbol: its text, and its description in the index."""
        folder = _name(phase)
        files = {f"{folder}/{symbol}.txt": (text, about) for symbol, (text, about) in texts.items()}
        self._write(files, f"\n{folder}  {PHASES[phase]}\n")

    def _write(self, files: dict[str, tuple[str, str]], heading: str = "") -> None:
        try:
            with (self.folder / INDEX).open("a", **_ENCODING) as index:  # first, so that it lists all files
                index.write(heading + "".join(f"{name}  {about}\n" for name, (_, about) in files.items()))
            for name, (text, _) in files.items():
                (self.folder / name).parent.mkdir(exist_ok=True)
                (self.folder / name).write_text(text, **_ENCODING)
        except OSError as e:
            raise _unwritable(self.folder, e) from None


def _name(phase: str) -> str:
    before = list(PHASES)[: list(PHASES).index(phase) + 1]
    return f"{sum(name not in SOME for name in before) - 1:02d}-{phase.replace('_', '-')}"


def _unwritable(folder: Path, error: OSError) -> TvmMobilenetError:
    return TvmMobilenetError(f"cannot write the dump {folder}: {reason(error)}", "choose another --dump")


def _clear(folder: Path) -> None:
    """Remove an earlier dump; refuse a folder with other files."""
    if not folder.exists() and not folder.is_symlink():
        return
    other = "give --dump a folder that does not exist yet, or an earlier dump, which is replaced"
    if not folder.is_dir():
        raise TvmMobilenetError(f"cannot write the dump {folder}: it is not a folder", other)
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()}
    if not found and not any(folder.iterdir()):
        return
    written = _written(folder / INDEX)
    if not written:
        raise TvmMobilenetError(
            f"cannot write the dump {folder}: it holds other files, and is not an earlier dump", other
        )
    foreign = sorted(
        name for name, path in found.items() if name not in written or path.is_symlink() or not path.is_file()
    )
    folders = {Path(name).parent.as_posix() for name in written}
    inside = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_dir()}
    foreign += sorted(inside - folders)
    if foreign:
        raise TvmMobilenetError(
            f"cannot write the dump {folder}: beside an earlier dump it holds {', '.join(foreign[:3])}"
            + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""),
            other,
        )
    for path in found.values():
        path.unlink()
    for name in folders - {"."}:
        if (folder / name).is_dir():
            (folder / name).rmdir()


def _written(index: Path) -> set[str]:
    """The files that a dump's index names, itself included; none if the file is not such an index."""
    if index.is_symlink() or not index.is_file():
        return set()
    lines = index.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or not lines[0].startswith(MARK):
        return set()
    return {INDEX, *(name for line in lines[2:] if _FILE.fullmatch(name := line.partition("  ")[0]))}


# ---- texts


def _text(what: object) -> str:
    if isinstance(what, LayerGraph):
        return layers_text(what)
    if isinstance(what, Plan):
        return plan_text(what)
    return decisions_text(what) if isinstance(what, list) else relax_text(what)


def _same(what: object, before: object) -> bool:
    if isinstance(what, LayerGraph) and isinstance(before, LayerGraph):
        return layers_text(what) == layers_text(before)
    if not hasattr(what, "functions") or not hasattr(before, "functions"):
        return False
    import tvm_ffi

    return tvm_ffi.structural_equal(_without_sources(what), _without_sources(before))


def _without_sources(mod):
    """A Relax module without the names of its variables' sources."""
    import tvm

    main, functions = mod.get_global_var("main"), dict(mod.functions.items())
    return tvm.IRModule({**functions, main: mod["main"].without_attr("sources")})


def relax_text(mod) -> str:
    """A Relax module, and the origins of its variables in the user's model."""
    sources = dict((mod["main"].attrs or {}).get("sources", {}))
    names = (b.var.name for block in mod["main"].body.blocks for b in block.bindings)
    rows = [(name, str(sources[name])) for name in names if name in sources]
    lines = [
        _without_sources(mod).script(show_meta=False),
        "",
        *table.lines(("variable", "from"), rows, (False, False)),
    ]
    return "\n".join(lines) + "\n"


def layers_text(graph: LayerGraph) -> str:
    """The layers of a graph as a table, and its inputs and outputs."""
    rows = []
    for call in graph.calls:
        digest = _digest(call)
        what = f"fused block of {len(call.parts)}:" if call.parts else call.layer.name
        if call.marks is not None and call.marks.output is not None:
            what += f" to ({call.marks.output.step:.6g}, {call.marks.output.zero})"
        rows.append((call.name, what, ", ".join(call.inputs), call.output, digest, call.source))
        parts = fuse_blocks.parts_of(call.parts) if call.layer.parts else ()
        for part, layer in zip(parts, call.layer.parts, strict=True):
            rows.append((f"  {part.name}", f"  {layer.name}", "", "", "", part.source))
    lines = [
        f"{side} {port.value}: {port.name} {port.shape} {port.dtype}"
        for side, ports in (("takes", graph.signature.inputs), ("returns", graph.signature.outputs))
        for port in ports
    ]
    columns = ("name", "layer", "reads", "writes", "constants", "from")
    return "\n".join([*lines, "", *table.lines(columns, rows, [False] * len(columns))]) + "\n"


def _digest(call: LayerCall) -> str:
    """The first digits of a hash of a call's constants, which show the passes that change them."""
    if not call.constants:
        return ""
    digest = hashlib.sha256()
    for name, array in sorted(call.constants.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:8]


def decisions_text(decided: list) -> str:
    """The decisions of each distinct layer."""
    rows = [(b.layer, " ".join(f"{k}={v}" for k, v in b.decisions.items()), b.source) for b in decided]
    return "\n".join(table.lines(("layer", "decisions", "from"), rows, (False,) * 3)) + "\n"


def plan_text(plan: Plan) -> str:
    """The steps of a plan with their operands, and the memory of the plan."""
    lines = [
        f"arena {plan.arena_bytes} bytes, parameters {plan.parameters_bytes} bytes, "
        f"scratch memory {plan.scratch_bytes} bytes a core"
    ]
    columns = ("operand", "place", "shape", "dtype")
    for step in plan.steps:
        lines += ["", f"{step.name}  {step.symbol}  ({', '.join(part.source for part in step.parts)})"]
        lines += [f"    {line}" for line in table.lines(columns, _operands(step), [False] * len(columns))]
    return "\n".join(lines) + "\n"


def _operands(step: Step) -> list[tuple]:
    constants, others = iter(step.constants), iter((*step.reads, step.writes))  # the output is last
    rows = []
    for t in step.operands:
        name = next(constants if t.space == "parameters" else others)
        place = f"{t.space} {t.index}" if t.space in ("input", "output") else f"{t.space} + {t.offset}"
        rows.append((name, place, " x ".join(map(str, t.shape)), t.dtype))
    return rows
