"""Arithmetic for a model: exact, of bounded cost, and with its errors in words."""

import ast
import re
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

MAX_CHARS = 1000
MAX_DEPTH = 50
"""Of parentheses, signs and powers in one another; `1 + 2 + 3` has depth 1 however long it is."""
MAX_DIGITS = 4000
"""Of the whole part, numerator or denominator of every result on the way."""
SIGNIFICANT_DIGITS = 10

_TOO_LARGE = 10**MAX_DIGITS
_LONG = f"a number of more than {MAX_DIGITS} digits"
_STRAY = re.compile(r"[^0-9.+\-*/%() ]")
_NUMBER = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")
_DECIMALS = Context(prec=SIGNIFICANT_DIGITS, rounding=ROUND_HALF_EVEN, Emin=-(10**6), Emax=10**6)
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
    ast.FloorDiv: lambda left, right: Fraction(left // right),
    ast.Mod: lambda left, right: left % right,
    ast.Pow: lambda left, right: _power(left, right),
}


class _Refused(Exception):
    """Why an expression has no result, in words for a model."""


def calculate(expression: str) -> str:
    """The value of an expression of + - * / // % **, parentheses, signs, integers and decimals.

    Computed exactly. A whole value is printed in full; any other one rounded half to even to 10
    significant digits, without zeros at its end, in scientific notation if it is below 1e-6 or if
    those digits do not reach the point: 0.3333333333, 1.5E-7, 1.234567891E+13. `//` rounds down and
    `%` has the sign of its right side, as in Python. Whatever has no value, or one too large, gives
    a text that begins with `error: `.
    """
    text = " ".join(expression.split())
    try:
        return _shown(_value(_parsed(text), text))
    except ZeroDivisionError:
        return "error: division by zero"
    except _Refused as reason:
        return f"error: {reason}"


def _parsed(text: str) -> ast.expr:
    if not text:
        raise _Refused("nothing to calculate")
    if len(text) > MAX_CHARS:
        raise _Refused(f"the expression is longer than {MAX_CHARS} characters")
    if stray := _STRAY.search(text):
        raise _Refused(f"{stray[0]!r} is not understood; use digits . + - * / // % ** ( )")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:  # As the parser says "too deep".
        raise _Refused("not an arithmetic expression") from error


def _value(node: ast.expr, text: str, depth: int = 1) -> Fraction:
    if depth > MAX_DEPTH:
        raise _Refused(f"nested more than {MAX_DEPTH} deep")
    # A chain of operations nests to the left; it is as long as it likes, and not deep.
    chain: list[ast.BinOp] = []
    while isinstance(node, ast.BinOp):
        chain.append(node)
        node = node.left
    value = _operand(node, text, depth)
    for each in reversed(chain):
        right = _value(each.right, text, depth + 1)
        value = _bounded(_OPERATIONS[type(each.op)](value, right))
    return value


def _operand(node: ast.expr, text: str, depth: int) -> Fraction:
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, text, depth + 1)
        return -value if isinstance(node.op, ast.USub) else value
    # The text, not the parsed constant: a float would not be exact.
    number = text[node.col_offset : node.end_col_offset]
    if not isinstance(node, ast.Constant) or not _NUMBER.fullmatch(number):
        raise _Refused("not an arithmetic expression")
    return Fraction(number)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise _Refused("an exponent must be a whole number")
    bits = max(abs(base.numerator), base.denominator).bit_length()
    # The result has more than this many bits; computing it to see would take for ever.
    if (bits - 1) * abs(exponent.numerator) > _TOO_LARGE.bit_length():
        raise _Refused(_LONG)
    return base**exponent.numerator


def _bounded(value: Fraction) -> Fraction:
    if max(abs(value.numerator), value.denominator) >= _TOO_LARGE:
        raise _Refused(_LONG)
    return value


def _shown(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return str(
        _DECIMALS.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize(_DECIMALS)
    )
