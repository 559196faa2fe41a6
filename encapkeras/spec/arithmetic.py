"""The arithmetic of `$(...)`: numbers, names, `+ - * / // % **` and parentheses; nothing else, and nothing is run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
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


class ArithmeticMistake(Exception):
    """An expression cannot be computed; the message says why."""


def compute(expression: str, lookup: Callable[[str], Any]) -> Number:
    """The value of an expression.

    A whole result stays a whole number, also of `/`; the rules of order and of signs are Python's.

    Args:
        expression: For example `2 * types + 1`; names may have a `$` before them.
        lookup: Gives the value of a name.

    Raises:
        ArithmeticMistake: It is malformed, divides by zero, or a value in it is no number or too large.

    Example:
        >>> compute("(height + 1) // 2 * types", {"height": 9, "types": 4}.__getitem__)
        20
        >>> compute("6 / 3", {}.__getitem__), compute("1 / 4", {}.__getitem__)
        (2, 0.25)
    """
    if len(expression) > LONGEST:
        raise ArithmeticMistake(f"longer than {LONGEST} characters")
    if expression.count("(") > DEEPEST:
        raise ArithmeticMistake(f"more than {DEEPEST} parentheses")
    return _Parser(expression, lookup).result()


class _Parser:
    """Recursive descent; computes as it reads."""

    def __init__(self, expression: str, lookup: Callable[[str], Any]) -> None:
        self._lookup = lookup
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while expression[position:].strip():
            match = _TOKEN.match(expression, position)
            if not match:
                rest = expression[position:].strip()
                raise ArithmeticMistake(f"'{rest[0]}' is not allowed; allowed: numbers, names, + - * / // % ** ( )")
            self._tokens.append((str(match.lastgroup), match[match.lastgroup or 0]))
            position = match.end()
        self._tokens.append(("end", ""))
        self._next = 0

    def result(self) -> Number:
        value = self._sum()
        if self._peek() != "":
            raise ArithmeticMistake(f"'{self._peek()}' is not expected here")
        return value

    def _peek(self) -> str:
        return self._tokens[self._next][1]

    def _take(self) -> tuple[str, str]:
        self._next += 1
        return self._tokens[self._next - 1]

    def _sum(self) -> Number:
        value = self._product()
        while self._peek() in ("+", "-"):
            sign = self._take()[1]
            other = self._product()
            value = _bounded(value + other if sign == "+" else value - other)
        return value

    def _product(self) -> Number:
        value = self._signed()
        while self._peek() in ("*", "/", "//", "%"):
            sign = self._take()[1]
            value = _bounded(_multiplied(value, sign, self._signed()))
        return value

    def _signed(self) -> Number:
        negative = False
        while self._peek() in ("+", "-"):
            negative ^= self._take()[1] == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> Number:
        base = self._atom()
        if self._peek() != "**":
            return base
        self._take()
        return _bounded(_powered(base, self._signed()))

    def _atom(self) -> Number:
        kind, text = self._take()
        if kind == "number":
            return _bounded(int(text) if text.isdigit() else float(text))
        if kind == "name":
            value = self._lookup(text.removeprefix("$"))
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ArithmeticMistake(f"'{text}' is {shown(value)}, not a number")
            return _bounded(value)
        if text == "(":
            value = self._sum()
            if self._take()[1] != ")":
                raise ArithmeticMistake("a closing parenthesis is missing")
            return value
        raise ArithmeticMistake(f"'{text}' is not expected here" if text else "it ends too early")


def _multiplied(left: Number, sign: str, right: Number) -> Number:
    if sign == "*":
        return left * right
    if right == 0:
        raise ArithmeticMistake("division by zero")
    if sign == "//":
        return left // right
    if sign == "%":
        return left % right
    whole = isinstance(left, int) and isinstance(right, int) and left % right == 0
    return left // right if whole else left / right


def _powered(base: Number, exponent: Number) -> Number:
    if abs(exponent) > LARGEST_EXPONENT:
        raise ArithmeticMistake(f"the exponent {exponent} is beyond {LARGEST_EXPONENT}")
    if base == 0 and exponent < 0:
        raise ArithmeticMistake("division by zero")
    try:
        value = base**exponent
    except OverflowError:
        raise ArithmeticMistake("a number becomes too large") from None
    if isinstance(value, complex):
        raise ArithmeticMistake(f"{base} ** {exponent} is no real number")
    return value


def _bounded(value: Number) -> Number:
    if abs(value) >= LARGEST or not math.isfinite(value):
        raise ArithmeticMistake("a number becomes too large")
    return value
