"""The expressions of symbolic shapes in a saved program, parsed by a small grammar.

PyTorch writes ``Mul(Integer(8), Symbol('s69', positive=True, integer=True))``, older versions ``8*s0``, and reads both
with `sympy.sympify`, which evaluates Python. Here an expression may only have numbers, symbols, arithmetic, comparisons
and the functions below. Powers are bounded, since a short expression can have more digits than fit in memory.
"""

from __future__ import annotations

import ast
import re

LONGEST = 4096  # characters in an expression
_DEEPEST = 50
_LARGEST = 1 << 63
_POWERS = {"Pow", "PowByNatural", "FloatPow"}
_HIGHEST_POWER = 8
_NESTED_POWERS = 2
FUNCTIONS = _POWERS | {
    *("Add", "Mul", "Max", "Min", "Mod", "PythonMod", "Abs", "Rational", "Integer", "Float", "Identity"),
    *("FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing", "IntTrueDiv", "FloatTrueDiv", "ToFloat"),
    *("CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat", "RoundToInt", "RoundDecimal", "Where", "Piecewise"),
    *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "floor", "ceiling"),
    *("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"),
    "IsNonOverlappingAndDenseIndicator",
}
_SYMBOL = re.compile(r"(zuf|zf|s|u)\d{1,9}")
_NAMES = {"oo", "int_oo", "true", "false", "True", "False"}
_FLOAT = re.compile(r"-?\d{1,40}(\.\d{0,40})?(e[-+]?\d{1,2})?")
_OPERATORS = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)


def checked(text: object) -> str:
    """An expression, rewritten from its parsed form.

    Raises
    ------
    ValueError
        The text is not a valid expression.
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError("a symbolic shape that is not an expression, or longer than any")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("a symbolic shape that is not an expression") from None
    _expression(tree.body, 0, 0)
    return ast.unparse(tree)


def _expression(node: ast.AST, depth: int, powers: int) -> None:
    """Refuse nodes outside the grammar; ``powers`` is the number of powers around this node."""
    if depth > _DEEPEST:
        raise ValueError("a symbolic shape that is nested too deeply")
    if isinstance(node, ast.Constant):
        _number(node.value)
    elif isinstance(node, ast.Name):
        if node.id not in _NAMES and not _SYMBOL.fullmatch(node.id):
            raise ValueError(f"a symbolic shape with the name {node.id[:40]!a}")
    elif isinstance(node, ast.BinOp) and isinstance(node.op, _OPERATORS):
        if isinstance(node.op, ast.Pow):
            powers = _power(node.right, powers)
        _expression(node.left, depth + 1, powers)
        _expression(node.right, depth + 1, powers)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, _OPERATORS):
        _expression(node.operand, depth + 1, powers)
    elif isinstance(node, ast.Compare) and all(isinstance(op, _OPERATORS) for op in node.ops):
        for part in (node.left, *node.comparators):
            _expression(part, depth + 1, powers)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        _call(node, depth, powers)
    else:
        raise ValueError("a symbolic shape that holds more than arithmetic")


def _call(node: ast.Call, depth: int, powers: int) -> None:
    name = node.func.id
    if name == "Symbol":
        told = {k.arg: k.value for k in node.keywords}
        flags = all(k is not None and isinstance(v, ast.Constant) and type(v.value) is bool for k, v in told.items())
        if len(node.args) == 1 and flags and isinstance(node.args[0], ast.Constant):
            text = node.args[0].value
            if (
                isinstance(text, str)
                and _SYMBOL.fullmatch(text)
                and set(told) <= {"positive", "integer", "nonnegative"}
            ):
                return
        raise ValueError("a symbolic shape whose symbol is none of PyTorch's")
    if name == "Float" and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
        precise = [k.value for k in node.keywords if k.arg == "precision"]
        small = all(isinstance(v, ast.Constant) and type(v.value) is int and 0 < v.value <= 64 for v in precise)
        if (
            len(node.args) == 1
            and len(precise) == len(node.keywords)
            and small
            and _FLOAT.fullmatch(node.args[0].value)
        ):
            return
        raise ValueError("a symbolic shape with a number that is none")
    if name not in FUNCTIONS or node.keywords:
        raise ValueError(f"a symbolic shape that calls {name[:40]!a}")
    if name in _POWERS:
        powers = _power(node.args[1] if len(node.args) == 2 else None, powers)
    for argument in node.args:
        _expression(argument, depth + 1, powers)


def _power(exponent: ast.AST | None, powers: int) -> int:
    """The number of powers around the base of this power; the exponent must be a small integer."""
    node, sign = exponent, 1
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Integer" and node.args:
        node = node.args[0]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    value = node.value if isinstance(node, ast.Constant) else None
    if type(value) is not int or not -1 <= sign * value <= _HIGHEST_POWER or powers >= _NESTED_POWERS:
        raise ValueError("a symbolic shape with a power that is too high")
    return powers + 1


def _number(value: object) -> None:
    if type(value) not in (bool, int, float) or not -_LARGEST <= value <= _LARGEST:
        raise ValueError("a symbolic shape with a number that is none")
