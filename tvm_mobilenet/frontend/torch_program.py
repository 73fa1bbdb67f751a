"""PyTorch to Relax: a module is exported with an example input, a saved ``.pt2`` is loaded.

TVM's importer does the work. Around it: every operator keeps the module path it came from (``sources`` on ``main``,
see `tvm_mobilenet.passes.rewrite`), what TVM cannot import is listed at once, and a model that returns one tensor
gives a ``main`` that does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
import zipfile
from pathlib import Path

import torch
import torch._export.serde.schema
import tvm
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import sizes
from tvm_mobilenet.frontend.files import kind_of
from tvm_mobilenet.frontend.imported import check_input, finished, opaque
from tvm_mobilenet.frontend.pytree_types import register_unknown

_UNBOUNDED = 1 << 32  # PyTorch has an infinity of its own for integers


def from_torch(
    model: torch.nn.Module | torch.export.ExportedProgram,
    example_input=None,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    layout: str = "NCHW",
) -> tvm.IRModule:
    """The Relax module of a PyTorch model, in inference mode, its parameters bound.

    Parameters
    ----------
    model : torch.nn.Module or ExportedProgram
    example_input : torch.Tensor or tuple of torch.Tensor
        ``(N, C, H, W)`` float32; fixes the shapes. Not needed for an ExportedProgram.
    batch, size, layout
        For an ExportedProgram, as in `from_pt2`.

    Raises
    ------
    TvmMobilenetError
        When the model cannot be exported, or holds operators that TVM does not know.
    """
    if isinstance(model, torch.nn.Module):
        if example_input is None:
            raise TvmMobilenetError("an nn.Module needs an example input", "pass a tensor (N, C, H, W)")
        args = example_input if isinstance(example_input, tuple) else (example_input,)
        training = model.training
        try:
            program = torch.export.export(model.eval(), args)
        except Exception as e:
            raise TvmMobilenetError(
                f"torch.export cannot export {type(model).__name__}: {str(e).splitlines()[0]}",
                "make the model exportable, or export it to ONNX",
            ) from e
        finally:
            model.train(training)
    else:
        program = _fixed(model, batch, size, layout, "the program")
    return _import(program)


def from_pt2(
    path: str | Path, batch: int | None = None, size: tuple[int, int] | None = None, layout: str = "NCHW"
) -> tvm.IRModule:
    """The Relax module of an ExportedProgram saved with ``torch.export.save``.

    Parameters
    ----------
    batch, size : int, (int, int), optional
        Images at once, height and width, where the program leaves them open.
    layout : str
        Where an image has its channels, if the program does not tell.

    Raises
    ------
    TvmMobilenetError
        The file holds no program, or sizes that are open or not the ones given.
    """
    path = Path(path)
    return _import(_fixed(load_program(path), batch, size, layout, path))


def load_program(path: Path) -> torch.export.ExportedProgram:
    """A saved ExportedProgram.

    Raises
    ------
    TvmMobilenetError
        The file is missing, none, or one of another version of torch's schema.
    """
    kind_of(path)
    _prepare(path)
    with _warnings_of_torch() as said:
        try:
            with path.open("rb") as file:  # of a path it takes the suffix .pt2 alone, not .PT2
                return torch.export.load(file)
        except Exception as e:
            reason = "it is no zip archive; the file may be truncated"
            if zipfile.is_zipfile(path):
                why = said[-1].strip().splitlines()[-1][:200] if said else ""
                reason = "torch cannot read it" + f": {why}" * bool(why)
                if "archive_format" in why:
                    reason = "it is an archive of another kind, as torch.save and torch.jit.save write them"
            raise TvmMobilenetError(
                f"{path}: not a saved ExportedProgram: {reason}",
                "save it with torch.export.save(torch.export.export(model.eval(), (example,)), path)",
            ) from e


def _prepare(path: Path) -> None:
    """Refuse a program that a torch with another schema saved, naming both; make known the classes that it names."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                n for n in archive.namelist() if n.endswith(("models/model.json", "serialized_exported_program.json"))
            ]
            program = json.loads(archive.read(names[0])) if names else {}
        saved = program.get("schema_version")
        saved = (saved["major"], saved["minor"]) if isinstance(saved, dict) else saved
        by = str(program.get("torch_version") or "another version")
        register_unknown(program)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return  # torch says what is wrong
    known = tuple(torch._export.serde.schema.SCHEMA_VERSION)
    if saved is not None and saved[0] != known[0]:
        raise TvmMobilenetError(
            f"{path} was saved by torch {by} with schema version {saved[0]}.{saved[1]}; torch {torch.__version__} here "
            f"reads {known[0]}.x",
            f"save it again with torch {torch.__version__.split('+')[0]}, or export the model to ONNX"
            + f"; or install the torch that saved it: {packages.pip_install('torch==' + by.split('+')[0])}"
            * (by[:1].isdigit()),
        )


@contextlib.contextmanager
def _warnings_of_torch():
    """Torch's own warnings, tracebacks of what it tried, as a list of texts: what matters of them is in the error."""
    said: list[str] = []

    class Keep(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            said.append(str(record.exc_info[1]) if record.exc_info else record.getMessage())
            return False

    keep, loggers = Keep(), [logging.getLogger(n) for n in ("torch.export", "torch.export.pt2_archive._package")]
    for logger in loggers:
        logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        for logger in loggers:
            logger.removeFilter(keep)


def _inputs(program: torch.export.ExportedProgram) -> list[torch.fx.Node]:
    """The nodes of what the user passes, in order."""
    wanted = set(program.graph_signature.user_inputs)
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]


def _fixed(
    program: torch.export.ExportedProgram,
    batch: int | None,
    size: tuple[int, int] | None,
    layout: str,
    path: Path | str,
) -> torch.export.ExportedProgram:
    """The program at one size: where dimensions are open it is exported again with them fixed."""
    values = {node.name: node.meta["val"] for node in _inputs(program)}
    values = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    dims = {name: tuple(_dim(d, program.range_constraints) for d in value.shape) for name, value in values.items()}
    fixed = sizes.fix(
        [sizes.Input(name, shape, sizes.layout_of(shape, layout)) for name, shape in dims.items()], batch, size, path
    )
    if not any(isinstance(d, sizes.Free) for shape in dims.values() for d in shape):
        return program
    example = [torch.zeros(shape, dtype=value.dtype) for shape, value in zip(fixed, values.values(), strict=True)]
    args, kwargs = torch.utils._pytree.tree_unflatten(example, program.call_spec.in_spec)
    try:
        return torch.export.export(program.module(), args, kwargs)
    except Exception as e:
        shapes = " and ".join("x".join(map(str, shape)) for shape in fixed)
        raise TvmMobilenetError(
            f"{path} does not run at {shapes}: {str(e).splitlines()[0]}",
            "choose another --batch or --resolution, or export the model at that size",
        ) from e


def _dim(dim: int | torch.SymInt, ranges: dict) -> int | sizes.Free:
    """A dimension as the program has it. Two as the lower end is PyTorch's own: it stands for one as well."""
    if isinstance(dim, int):
        return dim
    expression = dim.node.expr
    (symbol,) = expression.free_symbols
    offset = int(expression.subs(symbol, 0))
    factor = int(expression.coeff(symbol))
    whole, base = (ranges.get(e) for e in (expression, symbol))
    lows, highs = [], []
    for found, scale, plus in ((whole, 1, 0), (base, factor, offset)):
        if found is not None:
            lows += [int(found.lower) * scale + plus] if found.lower > 2 else []
            highs += [int(found.upper) * scale + plus] if found.upper < _UNBOUNDED else []
    return sizes.Free(str(symbol), factor, offset, max(lows, default=None), min(highs, default=None))


def _import(program: torch.export.ExportedProgram) -> tvm.IRModule:
    for node in program.graph.nodes:
        if node.name in program.graph_signature.user_inputs:
            value = node.meta["val"]
            shape = [int(d) if isinstance(d, int) else str(d) for d in value.shape]
            check_input(node.name, shape, str(value.dtype).removeprefix("torch."))
    importer = ExportedProgramImporter()
    sources: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # TVM takes the epsilon of a batch norm that is not decomposed from the wrong argument
        program = program.run_decompositions()
        names = _output_names(program)
        (output,) = program.graph.find_nodes(op="output")  # None and numbers beside tensors are no outputs
        output.args = (tuple(a for a in output.args[0] if isinstance(a, torch.fx.Node)),)
        if not output.args[0]:
            raise TvmMobilenetError("the program returns no tensor", "export a model that returns its outputs")
        for name in {n.target.__name__ for n in program.graph.nodes if n.op == "call_function"}:
            importer.convert_map[name] = _recording(importer.convert_map.get(name), importer, sources)
        mod = importer.from_exported_program(
            program,
            keep_params_as_input=False,
            unwrap_unit_return_tuple=_returns_tensor(program),
            no_bind_return_tuple=False,
            custom_convert_map=None,
        )
    return finished(mod, sources, names)


def _recording(convert, importer: ExportedProgramImporter, sources: dict[str, str]):
    """The converter, noting where each variable comes from; an opaque call where it fails or there is none."""

    def recorded(node: torch.fx.Node):
        try:
            result = convert(node)
        except Exception:
            values = node.meta["val"]
            values = values if isinstance(values, tuple | list) else [values]
            types = [relax.TensorType([int(d) for d in v.shape], str(v.dtype).removeprefix("torch.")) for v in values]
            inputs = [importer.env.get(i) for i in node.all_input_nodes]
            result = importer.block_builder.emit(opaque(node.target.__name__, inputs, types))
        if isinstance(result, relax.Var):
            sources[result.name] = _source(node)
        return result

    return recorded


def _source(node: torch.fx.Node) -> str:
    """The path of the innermost module that the operator was traced in, else its own name."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values() if entry[0]]
    path = paths[-1].removeprefix("L['self'].") if paths else ""
    return path or node.name


def _returns_tensor(program: torch.export.ExportedProgram) -> bool:
    spec = program.call_spec.out_spec
    return spec is not None and spec.is_leaf()


def _output_names(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """The outputs' names, by their place in a dictionary, dataclass or nested list: ``logits``, ``boxes.0``.

    None for a single tensor, or a plain list of them: these are numbered.
    """
    from torch.utils import _pytree as pytree

    spec = program.call_spec.out_spec
    if spec is None or spec.is_leaf() or (spec.type in (tuple, list) and all(c.is_leaf() for c in spec.children())):
        return ()
    leaves, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(spec.num_leaves)), spec))
    (output,) = program.graph.find_nodes(op="output")
    tensors = [isinstance(a, torch.fx.Node) for a in pytree.tree_leaves(output.args[0])]
    tensors = tensors[len(tensors) - len(leaves) :]
    names: list[str] = []
    for (path, _), tensor in zip(leaves, tensors, strict=True):
        name = re.sub(r"\W+", ".", pytree.keystr(path)).strip(".")
        name = f"output{name}" if name[:1].isdigit() else name or "output"
        if tensor:
            names.append(next(n for n in (name, *(f"{name}.{i}" for i in range(2, 10**6))) if n not in names))
    return tuple(names)
