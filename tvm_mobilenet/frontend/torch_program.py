"""Import of PyTorch models to Relax: a module is exported with an example input, `pt2_reader` reads a saved ``.pt2``.

TVM's importer does the conversion. This module adds three things: every operator keeps its module path (``sources`` on
``main``, see `tvm_mobilenet.passes.rewrite`), all operators that TVM cannot import are listed at once, and a model that
returns one tensor gives a ``main`` that does too.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import zipfile
from pathlib import Path

import torch
import tvm
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import (
    pt2_reader,
    torch_dtypes,
    torch_export,
    torch_operators,
    torch_quantized,
    torch_widened,
)
from tvm_mobilenet.frontend.files import kind_of
from tvm_mobilenet.frontend.graph_data import Program
from tvm_mobilenet.frontend.imported import finished, opaque
from tvm_mobilenet.frontend.pt2_graph import check_version
from tvm_mobilenet.frontend.pytree_types import register_unknown
from tvm_mobilenet.terminal.console import say


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
        The model cannot be exported, or has operators that TVM does not know.
    """
    if isinstance(model, torch.nn.Module):
        if example_input is None:
            raise TvmMobilenetError("an nn.Module needs an example input", "pass a tensor (N, C, H, W)")
        args = example_input if isinstance(example_input, tuple) else (example_input,)
        training = model.training
        try:
            program = torch_export.export(model.eval(), args)
        except Exception as e:
            called = ", ".join("x".join(map(str, x.shape)) for x in args)
            raise TvmMobilenetError(
                f"torch.export cannot export {type(model).__name__}, called with {called}: {str(e).splitlines()[0]}",
                "if it takes images of another size, say which with --resolution; else make the model exportable, or "
                "export it to ONNX",
            ) from e
        finally:
            model.train(training)
        batch = size = None
    else:
        program = model
    _note(torch_widened.in_doubles(program), "the program")
    program = torch_export.at_one_size(program, batch, size, layout, "the program")
    return _import(_program(*torch_export.described(program), "the program"))


def from_pt2(
    path: str | Path,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    layout: str = "NCHW",
    trusted: bool = False,
) -> tvm.IRModule:
    """The Relax module of an ExportedProgram saved with ``torch.export.save``.

    Parameters
    ----------
    batch, size : int, (int, int), optional
        Batch size, height and width, if the program leaves them open.
    layout : str
        The layout of images, if the program does not determine it.
    trusted : bool
        Whether torch may read the file in this process, which can run code from the file.

    Raises
    ------
    TvmMobilenetError
        The file is not a program, requires more than a program may, or has sizes that are open or differ from the given
        ones.
    """
    path = Path(path)
    kind_of(path)
    if trusted:
        program = load_trusted(path)
        _note(torch_widened.in_doubles(program), path)
        program = torch_export.at_one_size(program, batch, size, layout, path)
        return _import(_program(*torch_export.described(program), path))
    data, tensors = pt2_reader.graph(path, batch, size, layout)
    _note(data.get("doubles") is True, path)
    return _import(_program(data, tensors, path))


def _note(doubles: bool, path: Path | str) -> None:
    if doubles:
        say(f"note: {path} is a model in float64; layers compute it in float32, as after model.float()")


def _program(data: dict, tensors: dict[str, torch.Tensor], path: Path | str) -> Program:
    try:
        return Program(data, tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        why = str(e) if isinstance(e, ValueError) else "a part of it is missing"
        raise TvmMobilenetError(
            f"{path} cannot be read: its graph is damaged: {why}", "export it again, or export the model to ONNX"
        ) from e


def load_trusted(path: Path) -> torch.export.ExportedProgram:
    """A saved ExportedProgram, read by torch in this process: its pickles can run code.

    Raises
    ------
    TvmMobilenetError
        The file is missing, not a program, or of another version of torch's schema.
    """
    kind_of(path)
    torch_quantized.register()
    if not zipfile.is_zipfile(path):
        raise torch_export.unreadable(path, "it is not a zip archive; the file may be truncated")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                n for n in archive.namelist() if n.endswith(("models/model.json", "serialized_exported_program.json"))
            ]
            program = json.loads(archive.read(names[0])) if names else {}
        register_unknown(program)
        if "schema_version" in program:
            check_version(path, program)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        pass  # torch reports the error
    with path.open("rb") as file:  # as a path, torch only accepts the suffix .pt2, not .PT2
        return torch_export.load(file, path)


def _import(program: Program) -> tvm.IRModule:
    torch_quantized.check(program)
    importer = ExportedProgramImporter()
    own = torch_quantized.converters(importer, program) | torch_operators.converters(importer)
    importer.convert_map |= own
    sources: dict[str, str] = {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # TVM prints
        warnings.simplefilter("ignore")
        for target in {n.target for n in program.graph.nodes if n.op == "call_function"}:
            name = target.__name__
            if name not in own and torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
                own[name] = importer.convert_map[name] = torch_operators.random(importer)
            importer.convert_map[name] = _recording(
                importer.convert_map.get(name), importer, sources, program.sources, name in own
            )
        mod = importer.from_exported_program(
            program,
            keep_params_as_input=False,
            unwrap_unit_return_tuple=program.single,
            no_bind_return_tuple=False,
            custom_convert_map=None,
        )
    return finished(mod, sources, program.names)


def _recording(
    convert, importer: ExportedProgramImporter, sources: dict[str, str], places: dict[torch.fx.Node, str], own: bool
):
    """The converter, which also notes the source of each variable; an opaque call if it fails or does not exist. If it
    is one of ours, its ValueError gives the reason.
    """

    def converted(node: torch.fx.Node):
        with torch_dtypes.promoted(importer, node):
            try:
                return torch_dtypes.as_stated(importer, node, convert(node))
            except Exception:
                with torch_dtypes.as_rows(importer, node) as rows:
                    if not rows:
                        raise
                    made = torch_dtypes.in_shape(importer, node, convert(node))
                return torch_dtypes.as_stated(importer, node, made)

    def recorded(node: torch.fx.Node):
        try:
            result = converted(node)
        except TvmMobilenetError:
            raise
        except Exception as e:
            told = type(e) is torch_dtypes.OtherResult or (own and type(e) is ValueError and "ir.Op(" not in str(e))
            why = str(e) if told else ""
            values = node.meta["val"]
            values = [v for v in values if v is not None] if isinstance(values, tuple | list) else [values]
            types = [relax.TensorType([int(d) for d in v.shape], str(v.dtype).removeprefix("torch.")) for v in values]
            inputs = [importer.env.get(i) for i in node.all_input_nodes]
            result = importer.block_builder.emit(opaque(node.target.__name__, inputs, types, why))
        if isinstance(result, relax.Var):
            sources.setdefault(result.name, places[node])  # a cast may give its operand
        return result

    return recorded
