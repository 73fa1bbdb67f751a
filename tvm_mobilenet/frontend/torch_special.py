"""PyTorch's special functions that Relax lacks, written with its operators: ``erfinv``, ``lgamma``, ``digamma``.

Each takes the importer, TVM's own converter of the operator if there is one, and the node, as in `torch_operators`.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from tvm import relax

from tvm_mobilenet.frontend.torch_dtypes import cast, dtype_of

op = relax.op
_SHIFT = 8  # from here on, three terms of a series by Bernoulli numbers are exact to 1e-9
# of erfinv(y) / y in ``w - 2.5`` below w = 5, and in ``sqrt(w) - 3`` above, where w = -log(1 - y * y)
# least squares over 400 Chebyshev nodes; 2e-7 off
_CENTRE = (
    *(1.50140936, 0.246640758, -4.17738976e-3, -1.25374861e-3, 2.18346915e-4),
    *(-4.38363159e-6, -3.46335617e-6, 3.42524857e-7, 2.32858445e-8),
)
_TAIL = (
    *(2.83297712, 1.00167609, 9.43096542e-3, -7.6503924e-3, 5.79327311e-3),
    *(-3.57986171e-3, 1.22154972e-3, 1.31525107e-5, -9.83225243e-5),
)


class _Numbers:
    """Arithmetic that emits each step; numbers take the dtype of a tensor."""

    def __init__(self, emit, dtype: str):
        self.emit, self.dtype = emit, dtype

    def number(self, value):
        return value if isinstance(value, relax.Expr) else relax.const(value, self.dtype)

    def __getattr__(self, name: str):
        return lambda *operands: self.emit(getattr(op, name)(*map(self.number, operands)))

    def chosen(self, condition, a, b):
        return self.emit(op.where(condition, self.number(a), self.number(b)))

    def polynomial(self, x, coefficients):
        """The sum of ``coefficients[i] * x ** i``."""
        total = self.number(coefficients[-1])
        for one in reversed(coefficients[:-1]):
            total = self.add(self.multiply(total, x), one)
        return total


def _inverse_of_erf(n: _Numbers, y: relax.Expr) -> relax.Expr:
    w = n.negative(n.log(n.multiply(n.subtract(1.0, y), n.add(1.0, y))))
    centre = n.polynomial(n.subtract(n.minimum(w, 5.0), 2.5), _CENTRE)
    tail = n.polynomial(n.subtract(n.sqrt(n.minimum(n.maximum(w, 5.0), 18.0)), 3.0), _TAIL)
    made = n.multiply(y, n.chosen(n.less(w, 5.0), centre, tail))
    made = n.chosen(n.equal(y, 1.0), math.inf, n.chosen(n.equal(y, -1.0), -math.inf, made))
    return n.chosen(n.less_equal(n.abs(y), 1.0), made, math.nan)


def _reflected(n: _Numbers, x: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """Whether a value is below one half, and the larger one of x and 1 - x."""
    below = n.less(x, 0.5)
    return below, n.chosen(below, n.subtract(1.0, x), x)


def _shifted(n: _Numbers, z: relax.Expr) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Whether a value is less than the start of the series, its place there, and one that is small in any case."""
    small = n.less(z, float(_SHIFT))
    return small, n.chosen(small, n.add(z, float(_SHIFT)), z), n.minimum(z, float(_SHIFT))


def _log_gamma(n: _Numbers, x: relax.Expr) -> relax.Expr:
    """Stirling's series, of larger values by ``gamma(z + 1) = z * gamma(z)``, of others by the reflection."""
    below, z = _reflected(n, x)
    small, w, least = _shifted(n, z)
    inverse = n.divide(1.0, w)
    series = n.polynomial(n.multiply(inverse, inverse), (1 / 12, -1 / 360, 1 / 1260))
    made = n.subtract(n.multiply(n.subtract(w, 0.5), n.log(w)), w)
    made = n.add(n.add(made, math.log(2 * math.pi) / 2), n.multiply(series, inverse))
    product = least
    for i in range(1, _SHIFT):
        product = n.multiply(product, n.add(least, float(i)))
    made = n.subtract(made, n.chosen(small, n.log(product), 0.0))
    sine = n.abs(n.sin(n.multiply(n.subtract(x, n.floor(x)), math.pi)))
    mirrored = n.subtract(n.log(n.divide(math.pi, sine)), made)
    made = n.chosen(below, mirrored, made)
    return n.chosen(n.isinf(x), math.inf, made)


def _digamma(n: _Numbers, x: relax.Expr) -> relax.Expr:
    """The derivative of `_log_gamma`, in the same way."""
    below, z = _reflected(n, x)
    small, w, least = _shifted(n, z)
    inverse = n.divide(1.0, w)
    square = n.multiply(inverse, inverse)
    series = n.multiply(n.polynomial(square, (1 / 12, -1 / 120, 1 / 252)), square)
    made = n.subtract(n.subtract(n.log(w), n.multiply(inverse, 0.5)), series)
    total = n.divide(1.0, least)
    for i in range(1, _SHIFT):
        total = n.add(total, n.divide(1.0, n.add(least, float(i))))
    made = n.subtract(made, n.chosen(small, total, 0.0))
    rest = n.subtract(x, n.floor(x))
    mirrored = n.subtract(made, n.divide(math.pi, n.tan(n.multiply(rest, math.pi))))
    made = n.chosen(below, mirrored, made)
    pole = n.logical_and(n.equal(rest, 0.0), n.less(x, 0.0))
    return n.chosen(pole, math.nan, n.chosen(n.equal(x, 0.0), -math.inf, made))


def _of_one(function, importer, own, node: torch.fx.Node) -> relax.Expr:
    dtype = dtype_of(node.meta["val"])
    x = cast(importer, importer.env[node.args[0]], dtype)
    return function(_Numbers(importer.block_builder.emit, dtype), x)


CONVERTERS = {
    "erfinv.default": partial(_of_one, _inverse_of_erf),
    "lgamma.default": partial(_of_one, _log_gamma),
    "digamma.default": partial(_of_one, _digamma),
}
