"""Programs of `torch.export`: loading, fixing their sizes, and conversion to plain data for an importer. This needs no
TVM.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch.utils import _pytree as pytree

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import core_operators, sizes, torch_run, torch_widened
from tvm_mobilenet.models.weights import check_dense

_UNBOUNDED = 1 << 32  # PyTorch's infinity for integers is larger


@contextlib.contextmanager
def without_stack_traces() -> Iterator[None]:
    """Have torch trace without a stack trace for each operator: they take an eighth of an export, and nothing here
    reads them.
    """
    config, flag = torch.fx.config, "do_not_emit_stack_traces"
    before = getattr(config, flag, False)
    setattr(config, flag, True)
    try:
        yield
    finally:
        setattr(config, flag, before)


def export(module: torch.nn.Module, args: tuple, kwargs: dict | None = None) -> torch.export.ExportedProgram:
    """``torch.export.export``, without stack traces and without torch's own reports of a failure."""
    with without_stack_traces(), quiet():
        return torch.export.export(module, args, kwargs)


def load(file: BinaryIO, path: Path) -> torch.export.ExportedProgram:
    """A saved program, loaded by torch; ``path`` is for messages.

    Raises
    ------
    TvmMobilenetError
        Torch cannot read it.
    """
    with quiet() as said:
        try:
            return torch.export.load(file)
        except Exception as e:
            last = (str(e).strip().splitlines() or [""])[-1]
            why = (said[-1].strip().splitlines()[-1] if said and "ran into an error" in last else last)[:200]
            raise unreadable(path, "torch cannot read it" + f": {why}" * bool(why)) from e


def unreadable(path: Path, why: str) -> TvmMobilenetError:
    """The error of a file that is not a saved program."""
    return TvmMobilenetError(
        f"{path}: not a saved ExportedProgram: {why}",
        "save it with torch.export.save(torch.export.export(model.eval(), (example,)), path)",
    )


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """Collect torch's own warnings and tracebacks as texts; the error has the relevant part."""
    said: list[str] = []

    class Keep(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            said.append(str(record.exc_info[1]) if record.exc_info else record.getMessage())
            return False

    keep, names = Keep(), [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "torch"]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        for logger in loggers:
            logger.removeFilter(keep)


def at_one_size(
    program: torch.export.ExportedProgram,
    batch: int | None,
    size: tuple[int, int] | None,
    layout: str,
    path: Path | str,
) -> torch.export.ExportedProgram:
    """The program at one size and in float32; it is exported again if dimensions are open, or its floats are others."""
    every = {node.name: node.meta["val"] for node in _inputs(program)}
    values = {name: value for name, value in every.items() if isinstance(value, torch.Tensor)}
    dims = {name: tuple(_dim(d, program.range_constraints) for d in value.shape) for name, value in values.items()}
    fixed = sizes.fix(
        [sizes.Input(name, shape, sizes.layout_of(shape, layout)) for name, shape in dims.items()], batch, size, path
    )
    still_open = any(isinstance(d, sizes.Free) for shape in dims.values() for d in shape)
    if not still_open and not torch_widened.is_converted(program):
        return program
    with torch.device("cpu"):
        example = [torch.zeros(shape, dtype=value.dtype) for shape, value in zip(fixed, values.values(), strict=True)]
        if torch_widened.is_converted(program):
            example = [torch_widened.single(value) for value in example]
    args, kwargs = torch_run.unflattened(list(every.values()), example, program.call_spec.in_spec)
    try:
        return export(torch_widened.module(program), args, kwargs)
    except TvmMobilenetError:
        raise
    except Exception as e:
        shapes = " and ".join("x".join(map(str, shape)) for shape in fixed)
        raise TvmMobilenetError(
            f"{path} does not run at {shapes}: {str(e).splitlines()[0]}",
            "choose another --batch or --resolution, or export the model at that size",
        ) from e


def _inputs(program: torch.export.ExportedProgram) -> list[torch.fx.Node]:
    """The nodes of the user's inputs, in order."""
    wanted = set(program.graph_signature.user_inputs)
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]


def _dim(dim: int | torch.SymInt, ranges: dict) -> int | sizes.Free:
    """A dimension of the program. PyTorch's own lower bound of two includes one."""
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


def described(program: torch.export.ExportedProgram) -> tuple[dict, dict[str, torch.Tensor]]:
    """A program as plain data, with decomposed operators, and its tensors by name.

    `graph_data.Program` reads it. Each node has its place in the model (``source``), the shapes and dtypes of its
    results, and its arguments.

    Raises
    ------
    TvmMobilenetError
        An input or a parameter is of an unsupported kind, or no tensor is returned.
    """
    for node in _inputs(program):
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            continue
        shape = [int(d) if isinstance(d, int) else str(d) for d in value.shape]
        sizes.check_input(node.name, shape, str(value.dtype).removeprefix("torch."))
    _check_values(program)
    outputs = _outputs(program)
    nodes = core_operators.decomposed(_placeholders(program), _nodes(program), outputs)
    if nodes is None:
        with warnings.catch_warnings(), without_stack_traces():
            warnings.simplefilter("ignore")
            # for a batch norm that is not decomposed, TVM reads the epsilon from the wrong argument
            try:
                program = program.run_decompositions(_decompositions())
            except Exception as e:  # its rules may ask for values
                raise TvmMobilenetError(
                    f"torch.export cannot decompose the program's operators: {str(e).splitlines()[0]}",
                    "leave out the operator that reads a value, or export the model to ONNX",
                ) from e
        _check_values(program)
        outputs, nodes = _outputs(program), _nodes(program)
    names = _output_names(program)
    inputs, tensors = _input_data(program)
    data = {
        "inputs": inputs,
        "nodes": nodes,
        "outputs": outputs,
        "names": list(names),
        "single": _returns_tensor(program),
    }
    return data, tensors


def _decompositions() -> dict:
    """PyTorch's decompositions, without those of resizes, which would become arithmetic on indices."""
    table = torch.export.default_decompositions()
    for resize in (torch.ops.aten._upsample_nearest_exact2d, torch.ops.aten.upsample_bicubic2d):
        table.pop(resize.vec, None)
    return table


def _outputs(program: torch.export.ExportedProgram) -> list[str]:
    """Names of the tensors that the program returns; of a program that returns none an error."""
    (output,) = program.graph.find_nodes(op="output")  # None and numbers beside tensors are not outputs
    kinds = torch.export.graph_signature.OutputKind
    kind, specs = kinds.USER_OUTPUT, program.graph_signature.output_specs
    if changed := [spec.target for spec in specs if spec.kind is kinds.BUFFER_MUTATION]:
        raise TvmMobilenetError(
            f"each run changes {', '.join(changed[:3])}, which the next run reads",
            "a network without a state is built; of batch norm, export the model in inference mode (model.eval())",
        )
    pairs = zip(output.args[0], specs, strict=True)
    outputs = [node.name for node, spec in pairs if isinstance(node, torch.fx.Node) and spec.kind is kind]
    if not outputs:
        raise TvmMobilenetError("the program returns no tensor", "export a model that returns its outputs")
    return outputs


def _placeholders(program: torch.export.ExportedProgram) -> list[dict]:
    """Names and values of the inputs of the program, including its parameters."""
    nodes = program.graph.find_nodes(op="placeholder")
    return [{"name": node.name, "values": _values(node.meta.get("val"))} for node in nodes]


def _nodes(program: torch.export.ExportedProgram) -> list[dict]:
    """The operators of a program, without what an export notes about casts and ranges of values."""
    every = (node for node in program.graph.nodes if node.op == "call_function")
    return [_node_data(node) for node in every if not _target(node.target)[1].startswith("_assert_")]


def _check_values(program: torch.export.ExportedProgram) -> None:
    """Refuse the first operator whose output has a shape that depends on data, or complex numbers, or that has an
    effect beside its output.
    """
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    for node in program.graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(value, torch.Tensor) and free_unbacked_symbols(value.shape):
                raise _refused(
                    node, "the shape of its output depends on data", "or write it with shapes that are fixed"
                )
            if isinstance(value, torch.Tensor) and value.is_complex():
                raise _refused(node, "it computes with complex numbers", "or write it with real numbers")
        if _target(node.target)[1] == "with_effects":
            checked = ".".join(filter(None, _target(node.args[1])))
            raise _refused(node, f"what {checked} does has no place in a network", "or write it without linear algebra")
        if _target(node.target)[1] == "as_strided" and not _is_plain(node.args[0].meta["val"]):
            raise _refused(node, "its data is a view, of which it reads the memory", "or write it with slices")


def _is_plain(value: torch.Tensor) -> bool:
    return value.is_contiguous() and value.storage_offset() == 0


def _refused(node: torch.fx.Node, why: str, way: str) -> TvmMobilenetError:
    name = ".".join(filter(None, _target(node.target)))
    return TvmMobilenetError(f"{name} at {_source(node)} is not supported: {why}", f"cut the model before it, {way}")


def _input_data(program: torch.export.ExportedProgram) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The placeholders, and the tensors of those that are parameters, buffers or constants."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    stored = {**program.state_dict, **program.constants}
    inputs, tensors = [], {}
    for spec in program.graph_signature.input_specs:
        name = spec.arg.name
        value = nodes[name].meta.get("val") if name in nodes else None
        if spec.kind is torch.export.graph_signature.InputKind.USER_INPUT:
            if not isinstance(value, torch.Tensor):
                if name in nodes and nodes[name].users:
                    raise TvmMobilenetError(f"input {name!r} is not a tensor", "export a model that takes tensors")
                continue  # a constant, which the export has put in its place
            inputs.append({"name": name, "values": _values(value)})
            continue
        tensor = stored.get(spec.target)
        if not isinstance(tensor, torch.Tensor):
            raise TvmMobilenetError(f"{spec.target!r} is not a tensor", "export a model whose parameters are tensors")
        check_dense(repr(spec.target), tensor)
        inputs.append({"name": name, "tensor": spec.target, "kind": spec.kind.name})
        tensors[spec.target] = tensor.detach()
    return inputs, tensors


def _node_data(node: torch.fx.Node) -> dict:
    values = node.meta.get("val")
    several = isinstance(values, tuple | list)
    return {
        "name": node.name,
        "target": [*_target(node.target)],
        "args": _argument(node.args),
        "kwargs": {k: _argument(v) for k, v in node.kwargs.items()},
        "values": [_values(v) for v in values] if several else _values(values),
        "source": _source(node),
    }


def _target(target) -> tuple[str, str, str]:
    """Namespace, operator and overload of a node's target; the last two may be empty."""
    if isinstance(target, torch._ops.OpOverload):
        return target.namespace, target._opname, target._overloadname
    return getattr(target, "__module__", None) or "", getattr(target, "__name__", type(target).__name__), ""


def _values(value: object) -> list | None:
    """``[shape, dtype]`` of each tensor that a node returns; None for other results."""
    if not isinstance(value, torch.Tensor):
        return None
    return [[int(d) for d in value.shape], str(value.dtype).removeprefix("torch.")]


def _argument(value: object) -> object:
    """An argument as JSON data; types that JSON lacks become an object with one key."""
    if isinstance(value, torch.fx.Node):
        return {"graph": str(value.target)} if value.op == "get_attr" else {"node": value.name}
    if isinstance(value, tuple | list):
        return [_argument(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | torch.SymInt):
        return int(value)
    if isinstance(value, float):
        return {"float": repr(value)}
    for kind in ("dtype", "layout", "memory_format"):
        if isinstance(value, getattr(torch, kind)):
            return {kind: str(value).removeprefix("torch.")}
    return {"device": value.type} if isinstance(value, torch.device) else {"other": str(value)[:100]}


def _source(node: torch.fx.Node) -> str:
    """The path of the innermost module that the operator was traced in, else its own name."""
    if "quantized_decomposed" in str(node.target):
        return node.name  # it identifies scales later
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
