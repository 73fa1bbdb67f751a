"""Operators that no kind of layer computes, as generic layers: TVM legalizes them to one loop nest each."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, te, tirx

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds.generic import DIGEST, Body, View, fields
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.rewrite import array, op_name

OWN = "float32"  # the dtype of a generic layer
REFERENCES = ("float64", "float32")  # dtypes of a reference, the first that TVM supports
MOVES = ("broadcast_to", "concat", "permute_dims", "strided_slice", "take", "tile")  # they copy values
FLOAT32_ALONE = ("nn.layer_norm", "nn.group_norm", "nn.instance_norm", "nn.rms_norm")  # topi refuses other dtypes


class NotGeneric(Exception):
    """An operator for which TVM does not make a single loop nest; the message gives the reason."""


@dataclass(frozen=True)
class _Operator:
    """A single operator: ``make(dtype, variables)`` writes it in Relax, given its tensors and then its constants.

    ``nest`` is the TIR that an importer wrote in place of an operator, for one dtype; ``make`` then gets it too.
    """

    make: object
    shapes: tuple[tuple[int, ...], ...]
    held: tuple[str, ...]  # dtypes of the constants
    name: str
    nest: tirx.PrimFunc | None = None
    view: View | None = None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes in which a reference may be computed, the most exact first."""
        return REFERENCES[self.nest is not None or self.name in FLOAT32_ALONE :]

    def operands(self, dtype: str) -> list[tuple[tuple[int, ...], str]]:
        """Shapes and dtypes of its operands, with this dtype in place of `OWN`."""
        return [(shape, dtype if own == OWN else own) for shape, own in zip(self.shapes, self.held, strict=True)]

    def module(self, dtype: str) -> tvm.IRModule:
        """Its legalized module, with this dtype in place of `OWN`."""
        bb = relax.BlockBuilder()
        params = [relax.Var(f"x{i}", relax.TensorType(*each)) for i, each in enumerate(self.operands(dtype))]
        given = [] if self.nest is None else [bb.add_func(self.nest, self.name)]
        with bb.function("main", params):
            with bb.dataflow():
                out = bb.emit_output(bb.emit(self.make(dtype, params, *given)))
            bb.emit_func_output(out)
        with tvm.target.Target("llvm"):  # this makes scans loops for a CPU
            return relax.backend.DispatchSortScan()(relax.transform.LegalizeOps()(bb.get()))


@dataclass(frozen=True)
class Piece:
    """One generic layer of an operator. ``reads`` has numbers of the operator's tensors, or of earlier pieces, which
    are numbered after the tensors.
    """

    layer: Layer
    reads: tuple[int, ...]
    constants: dict[str, np.ndarray]


def pieces_of(call: relax.Call, tensors: Sequence[relax.Expr], mod: tvm.IRModule) -> list[Piece]:
    """The generic layers of a call: usually one, otherwise one for each loop nest that TVM makes. The last gives the
    result.

    Parameters
    ----------
    call : relax.Call
        A call of a Relax operator, or of a loop nest of ``mod``.
    tensors : sequence of relax.Expr
        Its arguments, or their fields, that are not constants, in order.

    Raises
    ------
    NotGeneric
        No layer has its dtype or shape, or TVM has no loop nest for it.
    """
    if not isinstance(call.op, tvm.ir.Op) or op_name(call) == "call_dps_packed":
        raise NotGeneric("no layer computes it")
    values = _constants(call)
    shapes = tuple(_shape(t) for t in tensors) + tuple(a.shape for a in values)
    held = tuple(str(t.ty.dtype) for t in tensors) + tuple(str(a.dtype) for a in values)
    name, nest = op_name(call), None
    if name == "call_tir":
        name, nest = call.args[0].name_hint.rstrip("0123456789"), mod[call.args[0]]  # numbered if there are several
    operator = _Operator(_copy_of(call), shapes, held, name, nest, None if values else _view(call))
    try:
        module = operator.module(OWN)
    except (AssertionError, RuntimeError, TypeError, ValueError) as e:
        said = str(e).strip().splitlines() or ["the shapes of its operands do not go together"]
        raise NotGeneric(f"TVM cannot legalize it: {said[-1]}") from None
    calls = [b for block in module["main"].body.blocks for b in block.bindings if isinstance(b.value, relax.Call)]
    if nest is None and len(calls) > 1:
        return _several(module, calls, len(tensors), values)
    own = {f"constant{i}": a for i, a in enumerate(values)}
    return [Piece(_layer(operator, module, len(tensors)), tuple(range(len(tensors))), own)]


def _several(module: tvm.IRModule, bindings: list, tensors: int, values: list[np.ndarray]) -> list[Piece]:
    """One piece for each of several loop nests."""
    params = list(module["main"].params)
    known = dict(zip(params[:tensors], range(tensors), strict=True))
    constants = {
        param: relax.const(array, str(array.dtype)) for param, array in zip(params[tensors:], values, strict=True)
    }
    pieces: list[Piece] = []
    for binding in bindings:
        call = binding.value
        if op_name(call) != "call_tir" or not isinstance(call.ty, relax.TensorType):
            raise NotGeneric(f"TVM makes {op_name(call) or 'no loop nest'} of it")
        fields = [constants.get(field, field) for field in call.args[1].fields]
        read = [field for field in fields if field in known]
        if not read:
            raise NotGeneric("one of its loop nests reads only constants")
        given = relax.Call(call.op, [call.args[0], relax.Tuple(fields), *call.args[2:]], call.attrs, call.ty_args)
        (one,) = pieces_of(given, read, module)
        pieces.append(replace(one, reads=tuple(known[field] for field in read)))
        known[binding.var] = tensors + len(pieces) - 1
    return pieces


def piece(split: relax.Call, index: int) -> relax.Call:
    """One of the tensors that a split returns, as a slice of its data."""
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
    """The layer that permutes a tensor's dimensions."""
    operator = _Operator(lambda _, x: relax.op.permute_dims(x[0], axes), (shape,), (dtype,), "permute_dims")
    return _layer(operator, operator.module(OWN), 1)


def constant(value: np.ndarray, shape: tuple[int, ...], dtype: str) -> Piece:
    """The layer that writes a constant: an output that depends on no input. It has an operand, as every layer, of which
    it reads nothing.

    Parameters
    ----------
    value : ndarray
    shape, dtype
        Of the operand.
    """
    given = np.asarray(value).reshape(-1)
    unread, stored = (
        te.placeholder(shape or (1,), dtype, "unread"),
        te.placeholder(given.shape, str(given.dtype), "stored"),
    )
    nest = te.create_prim_func([unread, stored, te.compute(given.shape, lambda i: stored[i], "constant")])
    nest = nest.without_attr("global_symbol")  # the module has a function of that name
    made = relax.TensorType(given.shape, str(given.dtype))
    operator = _Operator(
        lambda _, variables, nest: relax.call_tir(nest, list(variables), made),
        (shape or (1,), given.shape),
        (dtype, str(given.dtype)),
        "constant",
        nest,
    )
    return Piece(_layer(operator, operator.module(OWN), 1), (0,), {"constant0": given})


def _layer(operator: _Operator, module: tvm.IRModule, tensors: int) -> Layer:
    function = _nest(module)
    shapes = [shape or (1,) for shape in operator.shapes]  # a single value lies in memory like a row of one
    operands, constants = tuple(shapes[:tensors]), tuple(shapes[tensors:])
    output = tuple(int(d) for d in module["main"].body.body.ty.shape) or (1,)
    used = tuple(str(param.ty.dtype) for param in function.params)
    if unknown := sorted(set(used) - set(dtypes.DTYPES)):
        raise NotGeneric(f"no layer computes it in {', '.join(unknown)}")
    if any(0 in shape for shape in (output, *shapes)) and operator.name != "constant":
        raise NotGeneric("it reads or makes a tensor without values; leave the tensor out of the model")
    first, *others = function.params
    moved = [first, *others[tensors - 1 : -1], *others[: tensors - 1], others[-1]]  # constants after the first operand
    function = tirx.PrimFunc(moved, function.body, function.ret_type, function.attrs)
    digest = f"{tvm_ffi.structural_hash(function, map_free_vars=True) & (1 << 64) - 1:016x}"[:DIGEST]
    held = used if set(used) != {OWN} else ()
    moves = set(used) == {OWN} and operator.name in MOVES and not constants

    def narrow(dtype: str) -> Layer:
        return _layer(operator, operator.module(dtype), tensors)

    reference = lambda *arrays: _computed(operator, arrays).reshape(output)  # noqa: E731
    body = Body(
        operands, constants, output, digest, held, function, reference, narrow if moves else None, operator.view
    )
    return Layer(**fields(operator.name.replace(".", "_"), body, OWN))


def _view(call: relax.Call) -> View | None:
    """The way in which a call joins or cuts tensors, if it does nothing else."""
    if op_name(call) == "concat":
        return View(int(call.attrs.axis) % len(_shape(call.args[0].fields[0])))
    if op_name(call) != "strided_slice":
        return None
    whole, taken = _shape(call.args[0]), _shape(relax.BlockBuilder().normalize(call))
    axes, begins, _, *strides = ([int(v.value) for v in given.fields] for given in call.args[1:])
    cut = [i for i, axis in enumerate(axes) if whole[axis] != taken[axis]]
    if len(cut) != 1 or any(step != 1 for steps in strides for step in steps):
        return None
    axis, begin = axes[cut[0]] % len(whole), begins[cut[0]]
    return View(axis, min(begin + whole[axis] * (begin < 0), whole[axis]))


def _nest(module: tvm.IRModule) -> tirx.PrimFunc:
    """The only loop nest of a legalized module. Its parameters are those of ``main`` in order, and the output."""
    main = module["main"]
    calls = [b.value for block in main.body.blocks for b in block.bindings if isinstance(b.value, relax.Call)]
    if len(calls) != 1 or op_name(calls[0]) != "call_tir":
        raise NotGeneric("TVM has no one loop nest for it")
    given = list(calls[0].args[1].fields)
    places = [[i for i, a in enumerate(given) if a.same_as(p)] for p in main.params]
    if len(given) != len(places) or any(len(found) != 1 for found in places):
        raise NotGeneric("TVM's loop nest does not read each of its operands once")
    function = module[calls[0].args[0]].without_attr("global_symbol")
    if re.search(r"call_(c)?packed", str(function.body)):
        raise NotGeneric("TVM computes it by a call of its own runtime, which no device has")
    params = [*(function.params[found[0]] for found in places), function.params[-1]]
    return tirx.PrimFunc(params, function.body, function.ret_type, function.attrs)


def _copy_of(call: relax.Call):
    """A function that writes the call again: with variables for its tensors and constants, and its numbers in a given
    dtype.
    """

    def make(dtype: str, variables: list[relax.Var], *nest: tvm.ir.GlobalVar) -> relax.Expr:
        count = len(variables) - len(_constants(call))
        tensors, constants = iter(variables[:count]), iter(variables[count:])

        def copied(argument):
            if isinstance(argument, relax.Tuple):
                return relax.Tuple([copied(field) for field in argument.fields])
            known = array(argument) if isinstance(argument, tvm.ir.Constant) else None
            if known is not None:
                if known.ndim:
                    return next(constants)
                return relax.const(known.astype(dtype), dtype) if str(known.dtype) == OWN else argument
            return next(tensors) if isinstance(getattr(argument, "ty", None), relax.TensorType) else argument

        return relax.Call(call.op, [*nest, *map(copied, call.args[len(nest) :])], call.attrs, call.ty_args)

    return make


def _constants(call: relax.Call) -> list[np.ndarray]:
    """The constants of a call that have dimensions: the others are part of its nest."""
    flat = [f for a in call.args for f in (a.fields if isinstance(a, relax.Tuple) else [a])]
    found = [array(a) for a in flat if isinstance(a, tvm.ir.Constant)]
    return [a for a in found if a is not None and a.ndim]


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape)


@lru_cache(maxsize=256)
def _compiled(operator: _Operator):
    """The operator compiled by TVM's own pipeline, and the dtype of its computation: some operators know only
    float32.
    """
    for dtype in operator.dtypes:
        with contextlib.suppress(RuntimeError, TypeError, ValueError):
            built = tvm.compile(operator.module(dtype), target="llvm")
            return relax.VirtualMachine(built, tvm.cpu())["main"], dtype
    raise NotGeneric("TVM cannot compile it")


def _computed(operator: _Operator, arrays) -> np.ndarray:
    """The result of the operator in float64, without our loops."""
    function, dtype = _compiled(operator)
    due = operator.operands(dtype)
    shaped = [np.ascontiguousarray(a, own).reshape(shape) for a, (shape, own) in zip(arrays, due, strict=True)]
    given = [tvm.runtime.tensor(a) for a in shaped]
    return function(*given).numpy().astype(np.float64)
