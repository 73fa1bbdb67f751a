"""PyTorch to Relax: a module is exported with an example input, a saved ``.pt2`` is loaded.

TVM's importer does the work. Around it: every operator keeps the module path it came from (``sources`` on ``main``,
see `tvm_mobilenet.passes.rewrite`), what TVM cannot import is listed at once, and a model that returns one tensor
gives a ``main`` that does.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import tvm
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend.imported import check_input, finished, opaque


def from_torch(model: torch.nn.Module | torch.export.ExportedProgram, example_input=None) -> tvm.IRModule:
    """The Relax module of a PyTorch model, in inference mode, its parameters bound.

    Parameters
    ----------
    model : torch.nn.Module or ExportedProgram
    example_input : torch.Tensor or tuple of torch.Tensor
        ``(N, C, H, W)`` float32; fixes the shapes. Not needed for an ExportedProgram.

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
        program = model
    return _import(program)


def from_pt2(path: str | Path) -> tvm.IRModule:
    """The Relax module of an ExportedProgram saved with ``torch.export.save``."""
    path = Path(path)
    if not path.is_file():
        raise TvmMobilenetError(f"{path}: no such file", "give the path of a .pt2 file")
    try:
        program = torch.export.load(path)
    except Exception as e:
        raise TvmMobilenetError(
            f"{path}: not a saved ExportedProgram ({str(e).splitlines()[0]})",
            "save it with torch.export.save(program, path)",
        ) from e
    return _import(program)


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
        for name in {n.target.__name__ for n in program.graph.nodes if n.op == "call_function"}:
            importer.convert_map[name] = _recording(importer.convert_map.get(name), importer, sources)
        mod = importer.from_exported_program(
            program,
            keep_params_as_input=False,
            unwrap_unit_return_tuple=_returns_tensor(program),
            no_bind_return_tuple=False,
            custom_convert_map=None,
        )
    return finished(mod, sources)


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
