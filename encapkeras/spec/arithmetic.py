"""The arithmetic of `$(...)`: numbers, names, `+ - * / // % **` and parentheses; nothing else, and nothing is run."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from encapkeras.validation import shown

Number = int | float

LONGEST = 200  # characters of an expression
DEEPEST = 20  # parentheses; each is a few calls
LARGEST = 2**63
LARGEST_EXPONENT = 64

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)
        | (?P<name>\$?[A-Za-z_]\w*)
        | (?P<sign>\*\*|//|[-+*/%()])
    )""",
    re.ASCII | re.VERBOSE,
)


class ExpressionError(Exception):
    """An expression cannot be computed; the message says why."""


def compute(expression: str, lookup: Callable[[str], Any]) -> Number:
    """Return the value of an expression, by Python's rules of order and signs; a whole result of `/` is an integer."""
    if len(expression) > LONGEST:
        raise ExpressionError(f"longer than {LONGEST} characters")
    if expression.count("(") > DEEPEST:
        raise ExpressionError(f"more than {DEEPEST} parentheses")
    tokens = _tokens(expression)
    _check_order(tokens)
    # Each operand gets its own name: to Python's parser `010`, `1_000` and `lambda` mean other things than here.
    operands: dict[str, Number] = {}
    for i, (kind, text) in enumerate(tokens):
        if kind != "sign":
            given = lookup(text.removeprefix("$")) if kind == "name" else int(text) if text.isdigit() else float(text)
            operands[f"_{i}"] = _number(given, text)
    source = " ".join(text if kind == "sign" else f"_{i}" for i, (kind, text) in enumerate(tokens))
    return _value(ast.parse(source, mode="eval").body, operands)


def _tokens(expression: str) -> list[tuple[str, str]]:
    """Return the kind and the text of each number, name and sign."""
    found, position = [], 0
    while match := _TOKEN.match(expression, position):
        found.append((str(match.lastgroup), match[match.lastgroup or 0]))
        position = match.end()
    rest = expression[position:].strip()
    if rest:
        raise ExpressionError(f"'{rest[0]}' is not allowed; allowed: numbers, names, + - * / // % ** ( )")
    return found


def _check_order(tokens: list[tuple[str, str]]) -> None:
    """Refuse what Python's parser would, whose words differ between versions."""
    depth, after_value = 0, False
    for kind, text in tokens:
        depth += {"(": 1, ")": -1}.get(text, 0)
        fits = kind == "sign" and text != "(" if after_value else kind != "sign" or text in ("(", "+", "-")
        if not fits or depth < 0:
            raise ExpressionError(f"unexpected '{text}'")
        after_value = kind != "sign" or text == ")"
    if not after_value:
        raise ExpressionError("unexpected end")
    if depth:
        raise ExpressionError("a closing parenthesis is missing")


def _number(value: Any, text: str) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"'{text}' is {shown(value)}, not a number")
    return _bounded(value)


def _value(expression: ast.expr, operands: Mapping[str, Number]) -> Number:
    values: dict[ast.AST, Number] = {}
    for node in reversed(list(ast.walk(expression))):  # the inner ones first; without recursion, as variables need it
        match node:
            case ast.Name(name):
                values[node] = operands[name]
            case ast.UnaryOp(sign, inner):
                values[node] = -values[inner] if isinstance(sign, ast.USub) else values[inner]
            case ast.BinOp(left, sign, right):
                try:
                    values[node] = _bounded(_OPERATORS[type(sign)](values[left], values[right]))
                except ZeroDivisionError:
                    raise ExpressionError("division by zero") from None
    return values[expression]


def _divided(left: Number, right: Number) -> Number:
    whole = isinstance(left, int) and isinstance(right, int) and left % right == 0
    return left // right if whole else left / right


def _powered(base: Number, exponent: Number) -> Number:
    if abs(exponent) > LARGEST_EXPONENT:
        raise ExpressionError(f"the exponent {exponent} exceeds {LARGEST_EXPONENT}")
    try:
        value: Number | complex = base**exponent
    except OverflowError:
        raise ExpressionError("a number becomes too large") from None
    if isinstance(value, complex):
        raise ExpressionError(f"{base} ** {exponent} is not a real number")
    return value


def _bounded(value: Number) -> Number:
    if abs(value) >= LARGEST or not math.isfinite(value):
        raise ExpressionError("a number becomes too large")
    return value


_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divided,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _powered,
}
