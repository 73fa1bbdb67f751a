"""Import of ONNX files to Relax, as the exporters of PyTorch and TensorFlow write them.

Before TVM's importer reads the graph, open sizes are fixed (`onnx_inputs`), and every value that depends only on
constants and shapes is computed (`onnx_fold`). Only the operators of the network remain. Some have converters of ours
(`onnx_operators`). An operator without a converter becomes an opaque call, which the passes report together with all
others.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import partial
from pathlib import Path

import onnx
import tvm
from google.protobuf.message import DecodeError
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.files.reading import refusal
from tvm_mobilenet.frontend import (
    onnx_attention,
    onnx_graphs,
    onnx_limits,
    onnx_opsets,
    onnx_quantized,
    onnx_sparse,
    onnx_widened,
)
from tvm_mobilenet.frontend.imported import finished, opaque
from tvm_mobilenet.frontend.onnx_arguments import OUTPUTS
from tvm_mobilenet.frontend.onnx_fold import explicit_pads, fold, leave_out_unread, shapes_of
from tvm_mobilenet.frontend.onnx_inputs import fix_inputs
from tvm_mobilenet.frontend.onnx_operators import CONVERTERS, is_written_out
from tvm_mobilenet.terminal.printable import printable


def from_onnx(
    path: str | Path, batch: int | None = None, size: tuple[int, int] | None = None, layout: str = "NCHW"
) -> tvm.IRModule:
    """The Relax module of an ONNX file.

    Parameters
    ----------
    path : str or Path
        A model of floats; float16 and bfloat16 become float32 (`onnx_widened`), opsets before 11 are converted
        (`onnx_opsets`).
    batch, size : int, (int, int), optional
        Batch size, height and width, if the file leaves them open.
    layout : str
        The layout of images, if the graph does not determine it.

    Raises
    ------
    TvmMobilenetError
        The file is missing, truncated or not ONNX; it has an opset that cannot be converted, bytes without scales, or
        control flow that depends on data; it lacks initialisers; or sizes are open, or differ from the given ones.
    """
    path = Path(path)
    try:
        model = _load(path)
        model = onnx_opsets.converted(model, path)
        opset = _check(model, path)
        fix_inputs(model.graph, batch, size, layout, path)
        onnx_attention.refuse_shares(model.graph)
        model = onnx_graphs.with_operators_written_out(model, is_written_out)
        # TVM prints the names of unknown operators, which may contain any characters
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            model = fold(model, path)
            _refuse_control_flow(model.graph)
            leave_out_unread(model.graph)
            explicit_pads(model)
            onnx_quantized.leave_out_casts(model.graph)
            onnx_quantized.require_pairs(model.graph)
            importer = _Importer(model)
            mod = importer.from_onnx(model.graph, opset)
        return finished(mod, importer.noted, tuple(printable(output.name) for output in model.graph.output))
    except TvmMobilenetError:
        raise
    except Exception as e:  # an invalid graph can fail in a hundred places
        raise TvmMobilenetError(
            f"{path} cannot be imported: {reason(e)[:300]}",
            "check it with onnx.checker.check_model; it may be damaged: export it again",
        ) from e


class _Importer(ONNXGraphImporter):
    """TVM's importer, with sources, converters of ours, and opaque calls for other operators."""

    def __init__(self, model: onnx.ModelProto):
        sizes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
        super().__init__({name: dims for name, dims in sizes.items() if 0 in dims}, "float32")  # others it takes itself
        self.noted: dict[str, str] = {}
        self._nodes_left = iter(model.graph.node)
        self._pairs = onnx_quantized.paired(model.graph)
        self._shapes = shapes_of(model)

    def _check_for_unsupported_ops(self, graph):
        pass  # the passes report them together with all others

    def _convert_operator(self, op_name, inputs, attrs, opset):
        node, convert = next(self._nodes_left), CONVERTERS.get(op_name)
        why = ""
        attrs[OUTPUTS] = len(node.output)
        try:
            otherwise = partial(super()._convert_operator, op_name, attrs=attrs, opset=opset)
            if op_name in onnx_quantized.PAIR and node.output[0] in self._pairs:
                result = onnx_quantized.converted(node, inputs, attrs)
            elif op_name in onnx_quantized.PAIR:
                result = onnx_quantized.arithmetic(self.bb, node, inputs, attrs)
            else:
                result = otherwise(inputs) if convert is None else convert(self.bb, inputs, attrs, otherwise)
            if _several(result) < len(node.output) > 1:  # one output may be a sequence, of any length
                others = ", ".join(node.output[_several(result) :])
                why = f"no layer computes {others}; its other outputs alone can be read"
                raise ValueError(why)
        except TvmMobilenetError:
            raise
        except Exception as e:
            known = [self._shapes.get(o) if o else ((1,), "float32") for o in node.output]
            if None in known:
                raise TvmMobilenetError(
                    f"{op_name} at {node.name or node.output[0]} is not supported: {str(e).splitlines()[0]}",
                    "cut the model before it, or replace it in the model",
                ) from e
            why = why or (str(e).splitlines()[0] if convert is not None and isinstance(e, ValueError) else "")
            result = opaque(op_name, list(inputs), [relax.TensorType(shape, dtype) for shape, dtype in known], why)
        if isinstance(result, relax.Expr):
            result = self.bb.normalize(result)
            if isinstance(result, relax.Call):
                result = self.bb.emit(result)
            _check_shape(result, op_name, node)
            for made in result.fields if isinstance(result, relax.Tuple) else [result]:
                if isinstance(made, relax.Var):
                    self.noted[made.name] = printable(node.name or node.output[0])
        return result


def _check_shape(result: relax.Expr, operator: str, node: onnx.NodeProto) -> None:
    """Refuse a result whose shape depends on data."""
    left, tensors = [getattr(result, "ty", None)], []
    while left:
        ty = left.pop()
        left.extend(getattr(ty, "fields", ()))
        tensors += [ty.shape] if isinstance(ty, relax.TensorType) else []
    if not all(isinstance(t, relax.ShapeExpr) and all(hasattr(d, "value") for d in t) for t in tensors):
        raise TvmMobilenetError(
            f"{operator} at {printable(node.name or node.output[0])} is not supported: the shape of its output depends "
            "on data",
            "cut the model before it, or write it with shapes that are fixed",
        )


def _refuse_control_flow(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type in ("If", "Loop", "Scan", "SequenceMap"):
            raise TvmMobilenetError(
                f"{node.op_type} at {printable(node.name or node.output[0])} is not supported: what it runs depends on "
                "data",
                "export the model without control flow: torch.onnx.export traces it for one input",
            )


def _several(result: relax.Expr) -> int:
    """The number of tensors of a converter's result."""
    if isinstance(result, relax.Tuple):
        return len(result.fields)
    return len(result.ty.fields) if isinstance(getattr(result, "ty", None), relax.TupleType) else 1


def _load(path: Path) -> onnx.ModelProto:
    if why := refusal(path):
        raise TvmMobilenetError(f"{path}: {why}", "give the path of an .onnx file")
    try:
        model = onnx_graphs.with_functions_inlined(onnx_limits.parsed(path), path)
        onnx_limits.check_graph(model, path)
        onnx_sparse.densify(model, path)
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx_widened.widen(model)
    except (DecodeError, OSError, onnx.checker.ValidationError) as e:
        external = "external data" in str(e) or "should be stored in" in str(e)
        raise TvmMobilenetError(
            f"{path}: not a whole ONNX file" + (f": {reason(e)}" if external or isinstance(e, OSError) else ""),
            "its external data (.onnx.data) may be missing beside it"
            if external
            else "the file may be truncated, or of another kind: export or copy it again",
        ) from e
    if not model.ir_version or not model.graph.node or not model.graph.output:
        raise TvmMobilenetError(f"{path}: not an ONNX model, it holds no graph", "the file may be truncated")
    return model


def _check(model: onnx.ModelProto, path: Path) -> int:
    """Check that a model can be imported; returns its opset."""
    opset = onnx_opsets.of(model)
    graph = model.graph
    onnx_quantized.prepare(model, path)
    onnx_opsets.check(model, path)
    foreign = [
        f"{n.domain}.{n.op_type} at {n.name or n.output[0]}" for n in graph.node if n.domain not in ("", "ai.onnx")
    ]
    if foreign:
        raise TvmMobilenetError(
            f"{path}: {len(foreign)} operator(s) are not supported:\n    " + "\n    ".join(foreign),
            "export the model with standard ONNX operators only",
        )
    initialisers = {i.name for i in graph.initializer}
    known = initialisers | {i.name for i in graph.input} | {""}
    missing = []
    onnx_graphs.in_order(graph)
    for node in graph.node:
        if twice := [name for name in node.output if name and name in known]:
            raise TvmMobilenetError(
                f"{path}: {twice[0]} (made by {node.op_type} {node.name}) is made twice", "export the model again"
            )
        missing += [f"{i} (read by {node.op_type} {node.name})" for i in node.input if i not in known]
        known.update(node.output)
    missing += [f"{o.name} (output)" for o in graph.output if o.name not in known]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise TvmMobilenetError(
            f"{path}: {', '.join(missing[:3])}{more} is not an input, initialiser or output of an earlier node",
            "export the model with its weights",
        )
    # old exporters list the initialisers among the inputs
    inputs = [i for i in graph.input if i.name not in initialisers]
    del graph.input[:]
    graph.input.extend(inputs)
    return opset
