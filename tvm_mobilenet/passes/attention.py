"""Attention as PyTorch's decompositions write it, in the form that ONNX files have.

They multiply three-dimensional matrices, for which they expand each operand to all batches and merge the dimensions of
batches. They also set to zero the rows of a softmax in which every value is minus infinity, which only a mask can make.
`run` multiplies the operands as they were, and drops zeros for rows that do not occur.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.passes.rewrite import Rewriter, array, op_name, scalar, static_shape

_SAME_PLACES = ("reshape", "permute_dims", "broadcast_to", "expand_dims", "astype")  # they move values, or round them


class Attention(Rewriter):
    """The pass of this module; it runs after `simplify`."""

    found = False

    def rewrite(self, value: relax.Expr) -> relax.Expr:
        made = {"reshape": self._product, "where": self._softmax}.get(op_name(value), lambda call: None)(value)
        self.found |= made is not None
        return value if made is None else made

    def _product(self, reshape: relax.Call) -> relax.Call | None:
        """The product of matrices whose merged batches this reshape takes apart again."""
        product = self.made_by(reshape.args[0], "matmul")
        if product is None or not all(isinstance(operand, relax.Var) for operand in product.args):
            return None
        merged, shape = static_shape(reshape.args[0]), tuple(int(d) for d in reshape.args[1].values)
        batches = shape[:-2]
        if len(merged) != 3 or len(shape) < 4 or shape[-2:] != merged[-2:]:
            return None
        if any(len(static_shape(operand)) != 3 for operand in product.args):
            return None
        operands = [self._operand(operand, batches) for operand in product.args]
        if None in operands or np.broadcast_shapes(*(static_shape(o)[:-2] for o in operands)) != batches:
            return None
        return relax.op.matmul(*operands)

    def _operand(self, merged: relax.Var, batches: tuple[int, ...]) -> relax.Var | None:
        """An operand without merged batches, and before its expansion; None if it has other batches."""
        shape = static_shape(merged)
        if shape[0] != np.prod(batches):
            return None
        reshape = self.made_by(merged, "reshape")
        expand = None if reshape is None else self.made_by(reshape.args[0], "broadcast_to")
        if expand is not None and static_shape(reshape.args[0]) == (*batches, *shape[1:]):
            small = static_shape(expand.args[0])
            if small[-2:] == shape[1:]:
                return expand.args[0]
        source = merged if reshape is None else reshape.args[0]
        whole = (*batches, *shape[1:])
        return source if static_shape(source) == whole else self.emit(relax.op.reshape(source, whole))

    def _softmax(self, where: relax.Call) -> relax.Expr | None:
        """The softmax of ``where(each value of its row is -inf, 0, softmax(x))``, if there is no such row."""
        empty, zeros, rows = where.args
        softmax = self.made_by(rows, "nn.softmax")
        if softmax is None or array(zeros) is None or np.any(array(zeros)):
            return None
        any_finite = self._of(empty, "logical_not")
        finite = self._of(self._of(self._of(any_finite, "astype"), "max"), "astype")
        infinite = self.made_by(self._of(finite, "logical_not"), "equal")
        if infinite is None or not infinite.args[0].same_as(softmax.args[0]) or scalar(infinite.args[1]) != -np.inf:
            return None
        axis = int(softmax.attrs.axis)
        return rows if self._finite(softmax.args[0], axis % len(static_shape(rows))) else None

    def _of(self, expr: relax.Expr | None, operator: str) -> relax.Expr | None:
        call = None if expr is None else self.made_by(expr, operator)
        return None if call is None else call.args[0]

    def _finite(self, x: relax.Expr, axis: int) -> bool:
        """Whether a value is products of matrices, scaled and masked by constants that leave a finite one in each
        row.
        """
        rank = len(static_shape(x))
        while (call := self.made_by(x, "add", "multiply", *_SAME_PLACES)) is not None:
            x = call.args[0]
            if op_name(call) not in ("add", "multiply"):
                continue
            known = array(call.args[1])
            if known is None or np.isnan(known).any():
                return False
            if np.isfinite(known).all():
                continue
            whole = known.reshape((1,) * (rank - known.ndim) + known.shape)
            if op_name(call) == "multiply" or len(static_shape(x)) != rank or (whole == np.inf).any():
                return False
            if not np.isfinite(whole).any(axis).all():
                return False
        return self.made_by(x, "matmul") is not None


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """The module with attention in its short form; the same module if it has none in the long form."""
    short = Attention(mod)
    made = short.run()
    return made if short.found else mod
