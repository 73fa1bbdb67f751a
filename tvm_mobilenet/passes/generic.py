"""Operators that no kind of layer computes, as generic layers: TVM legalizes them to one loop nest each."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.generic import DIGEST, Body, fields
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.rewrite import array, op_name

REFERENCES = ("float64", "float32")  # in which a reference is computed, the first that TVM can
FLOAT32_ALONE = ("nn.layer_norm", "nn.group_norm", "nn.instance_norm", "nn.rms_norm")  # by topi's own checks


class NotGeneric(Exception):
    """TVM makes no one loop nest of an operator; the message says why."""


@dataclass(frozen=True)
class _Operator:
    """An operator on its own: ``make(dtype, variables)`` writes it in Relax, of its tensors and then its constants."""

    make: object
    shapes: tuple[tuple[int, ...], ...]
    name: str

    def module(self, dtype: str) -> tvm.IRModule:
        """Its legalized module."""
        bb = relax.BlockBuilder()
        params = [relax.Var(f"x{i}", relax.TensorType(shape, dtype)) for i, shape in enumerate(self.shapes)]
        with bb.function("main", params):
            with bb.dataflow():
                out = bb.emit_output(bb.emit(self.make(dtype, params)))
            bb.emit_func_output(out)
        return relax.transform.LegalizeOps()(bb.get())


def layer_of(call: relax.Call, tensors: Sequence[relax.Expr], dtype: str) -> tuple[Layer, dict[str, np.ndarray]]:
    """The generic layer of a call and its constants.

    Parameters
    ----------
    call : relax.Call
        Of one of Relax's operators.
    tensors : sequence of relax.Expr
        Those of its arguments, or of their fields, that are no constants, in order.

    Raises
    ------
    NotGeneric
        It is of another dtype or shape than layers have, or TVM has no one nest for it.
    """
    if not isinstance(call.op, tvm.ir.Op) or op_name(call) in ("call_dps_packed", "call_tir"):
        raise NotGeneric("no layer computes it")
    values = {f"constant{i}": a for i, a in enumerate(_constants(call))}
    shapes = tuple(_shape(t) for t in tensors) + tuple(a.shape for a in values.values())
    return _layer(_Operator(_copy_of(call), shapes, op_name(call)), len(tensors), dtype), values


def piece(split: relax.Call, index: int) -> relax.Call:
    """One of the tensors that a split gives, as a slice of its data."""
    size = int(split.args[0].ty.shape[axis := int(split.attrs.axis)])
    given = split.attrs.indices_or_sections
    cuts = [int(i) for i in given] if hasattr(given, "__len__") else None
    if cuts is None:
        step = -(-size // int(given))
        cuts = [step * i for i in range(1, int(given))]
    ends = [0, *cuts, size]
    cut = relax.op.strided_slice(split.args[0], [axis], [ends[index]], [ends[index + 1]])
    return relax.BlockBuilder().normalize(cut)


def transposed(shape: tuple[int, ...], axes: tuple[int, ...], dtype: str) -> Layer:
    """The layer that moves a tensor's dimensions."""
    operator = _Operator(lambda _, x: relax.op.permute_dims(x[0], axes), (shape,), "permute_dims")
    return _layer(operator, 1, dtype)


def _layer(operator: _Operator, tensors: int, dtype: str) -> Layer:
    try:
        module = operator.module(dtype)
    except (RuntimeError, TypeError, ValueError) as e:
        raise NotGeneric(f"TVM cannot legalize it: {str(e).strip().splitlines()[-1]}") from None
    function = _nest(module)
    operands, constants = operator.shapes[:tensors], operator.shapes[tensors:]
    output = tuple(int(d) for d in module["main"].body.body.ty.shape)
    used = {str(param.ty.dtype) for param in function.params}
    if used != {dtype} or dtype not in dtypes.OF_DATA:
        raise NotGeneric(f"no layer computes it in {', '.join(sorted(used - {dtype}) or [dtype])}")
    if not output or min(output) < 1 or any(not shape or min(shape) < 1 for shape in operator.shapes):
        raise NotGeneric("a tensor without dimensions or values")
    first, *others = function.params
    moved = [first, *others[tensors - 1 : -1], *others[: tensors - 1], others[-1]]  # constants after the first operand
    function = tirx.PrimFunc(moved, function.body, function.ret_type, function.attrs)
    digest = f"{tvm_ffi.structural_hash(function, map_free_vars=True) & (1 << 64) - 1:016x}"[:DIGEST]
    body = Body(operands, constants, output, digest, function, lambda *arrays: _computed(operator, arrays))
    return Layer(**fields(operator.name.replace(".", "_"), body, dtype))


def _nest(module: tvm.IRModule) -> tirx.PrimFunc:
    """The only loop nest of a legalized module, its parameters those of ``main`` in order, and the output."""
    main = module["main"]
    calls = [b.value for block in main.body.blocks for b in block.bindings if isinstance(b.value, relax.Call)]
    if len(calls) != 1 or op_name(calls[0]) != "call_tir":
        raise NotGeneric("TVM has no one loop nest for it")
    given = list(calls[0].args[1].fields)
    places = [[i for i, a in enumerate(given) if a.same_as(p)] for p in main.params]
    if len(given) != len(places) or any(len(found) != 1 for found in places):
        raise NotGeneric("TVM's loop nest does not read each of its operands once")
    function = module[calls[0].args[0]].without_attr("global_symbol")
    params = [*(function.params[found[0]] for found in places), function.params[-1]]
    return tirx.PrimFunc(params, function.body, function.ret_type, function.attrs)


def _copy_of(call: relax.Call):
    """The call, of variables in place of its tensors and constants, its numbers in a dtype."""

    def make(dtype: str, variables: list[relax.Var]) -> relax.Expr:
        count = len(variables) - len(_constants(call))
        tensors, constants = iter(variables[:count]), iter(variables[count:])

        def copied(argument):
            if isinstance(argument, relax.Tuple):
                return relax.Tuple([copied(field) for field in argument.fields])
            known = array(argument) if isinstance(argument, tvm.ir.Constant) else None
            if known is not None:
                if known.dtype.kind != "f":
                    return argument
                return next(constants) if known.ndim else relax.const(known.astype(dtype), dtype)
            return next(tensors) if isinstance(getattr(argument, "ty", None), relax.TensorType) else argument

        return relax.Call(call.op, [copied(a) for a in call.args], call.attrs)

    return make


def _constants(call: relax.Call) -> list[np.ndarray]:
    """The constants of a call that have dimensions and are no indices: the others are part of its nest."""
    flat = [f for a in call.args for f in (a.fields if isinstance(a, relax.Tuple) else [a])]
    found = [array(a) for a in flat if isinstance(a, tvm.ir.Constant)]
    return [a for a in found if a is not None and a.ndim and a.dtype.kind == "f"]


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape)


@lru_cache(maxsize=256)
def _compiled(operator: _Operator):
    """The operator by TVM's own pipeline, and the dtype that it computes in: some know float32 alone."""
    for dtype in REFERENCES[operator.name in FLOAT32_ALONE :]:
        with contextlib.suppress(RuntimeError, TypeError, ValueError):
            built = tvm.compile(operator.module(dtype), target="llvm")
            return relax.VirtualMachine(built, tvm.cpu())["main"], dtype
    raise NotGeneric("TVM cannot compile it")


def _computed(operator: _Operator, arrays) -> np.ndarray:
    """The operator without our loops, float64."""
    function, dtype = _compiled(operator)
    given = [tvm.runtime.tensor(np.ascontiguousarray(a, dtype)) for a in arrays]
    return function(*given).numpy().astype(np.float64)
