"""Whether two answers are mathematically equal, part by part; single formulas by `math-verify`.

Only for a process that may be killed: what sympy takes for a formula has no bound.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

from rlhf.judges.mathematics.latex import latex
from rlhf.judges.mathematics.quantities import Quantity, agree, read
from rlhf.judges.mathematics.tidying import MATH_NAMES, tidy

MAX_DEPTH = 30
"""Brackets within brackets; more are not read."""

_UNION = re.compile(r"\\cup(?![A-Za-z])|∪")
_LIST = re.compile(r"(?<!\d),|,(?!\d{3}(?!\d))|;|\b(?:and|or)\b")
_COMMA = re.compile(r"[,;]")
_RATIO = re.compile(r":")
_EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])|±")
_OPENING = re.compile(r"\\?\{|[(\[]")
_CLOSING = re.compile(r"(?:\\?\}|[)\]])$")
_IN = re.compile(r"^\s*[A-Za-z]\s*(?:\\in(?![A-Za-z])|∈)")
_INEQUALITY = re.compile(r"[<>≤≥]|\\(?:[lg]eq?|[lg]t|[lg]eqslant)(?![A-Za-z])")
_NAME_PART = re.compile(
    r"\\(?:angle|triangle|overline|vec|alpha|beta|gamma|theta|lambda|mu|sigma|phi|omega|Delta)"
    r"(?![A-Za-z])|_\s*(?:\{[^{}]*\}|\w)|(?<=[A-Za-z'])\s*\([^()]*\)|\|(?=[A-Z])|(?<=[A-Z])\||[{}\s]"
)
_NAME = re.compile(r"n*\(?[A-Za-z][A-Za-z',]*\)?(?:(?:[-+*/]|\\cdot|\\times)[A-Za-z][A-Za-z']*)*")


@dataclass(frozen=True)
class Shape:
    """A value; or several answers, as `list`, `union` or `ratio`, or in brackets such as `[)`."""

    kind: str
    parts: tuple[str, ...]


VALUE, LIST, UNION, RATIO, SET = "value", "list", "union", "ratio", "{}"


def same(want: str, have: str) -> bool:
    """Whether an answer says no more and no less than the reference."""
    wanted, given = shape(want), shape(have)
    kinds = {wanted.kind, given.kind}
    if kinds == {VALUE}:
        return _same_value(wanted.parts[0], given.parts[0])
    if VALUE in kinds:
        return _same_as_value(want, have, wanted, given)
    if len(wanted.parts) != len(given.parts):
        return False
    if kinds <= {LIST, SET} or kinds <= {LIST, UNION}:
        return _same_members(wanted.parts, given.parts)
    alike = len(kinds) == 1 or (LIST in kinds and not kinds.isdisjoint({"()", "[]"}))
    return alike and all(map(same, wanted.parts, given.parts))


def _same_as_value(want: str, have: str, wanted: Shape, given: Shape) -> bool:
    """Of one value and several answers: a set of one, `(x, y) = (1, 2)`, or an inequality."""
    if {wanted.kind, given.kind} == {VALUE, SET}:
        return len(wanted.parts) == len(given.parts) and same(wanted.parts[0], given.parts[0])
    value = (wanted if wanted.kind == VALUE else given).parts[0]
    sides = _split(value, _EQUALS)
    if len(sides) == 2 and is_name(sides[0]):
        return same(sides[1], have) if wanted.kind == VALUE else same(want, sides[1])
    return bool(_INEQUALITY.search(value)) and _verify_sets(want, have)


def readable(want: str) -> bool:
    """Whether a reference can be compared with."""
    wanted = shape(want)
    if wanted.kind != VALUE:
        return all(map(readable, wanted.parts))
    sides = _split(wanted.parts[0], _EQUALS)
    return bool(sides) and all(
        is_name(side) or read(side) is not None or _parsed(side) is not None for side in sides
    )


# --- several answers -----------------------------------------------------------------------------


def shape(text: str) -> Shape:
    """How an answer divides, outside of its brackets or by them; too deep an answer does not."""
    text = _IN.sub("", tidy(text)).strip()
    depths = _depths(text)
    if read(text) is not None or max(depths, default=0) > MAX_DEPTH:
        return Shape(VALUE, (text,))
    for kind, separator in ((UNION, _UNION), (LIST, _LIST), (RATIO, _RATIO)):
        if len(parts := _split(text, separator)) > 1:
            return Shape(kind, tuple(parts))
    opening, closing = _OPENING.match(text), _CLOSING.search(text)
    if opening and closing and min(depths[opening.end() - 1 : -1]) > 0:
        parts = _split(text[opening.end() : closing.start()], _COMMA)
        kind = (opening[0] + closing[0]).replace("\\", "")
        if len(parts) > 1 or opening[0] == r"\{":
            return Shape(kind, tuple(parts))
    if len(_PLUS_MINUS.findall(text)) == 1:
        return Shape(LIST, (_PLUS_MINUS.sub("+", text), _PLUS_MINUS.sub("-", text)))
    return Shape(VALUE, (text,))


def _depths(text: str) -> list[int]:
    """How many brackets are open behind each character."""
    return list(accumulate((char in "([{") - (char in ")]}") for char in text))


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts between separators outside of brackets, without empty ones."""
    depths = _depths(text)
    cuts = [match for match in separator.finditer(text) if depths[match.start()] == 0]
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(text)]
    parts = (text[start:end] for start, end in zip(starts, ends, strict=True))
    return [part for part in parts if part.strip()]


def _same_members(wanted: tuple[str, ...], given: tuple[str, ...]) -> bool:
    left = list(given)
    for want in wanted:
        match = next((have for have in left if same(want, have)), None)
        if match is None:
            return False
        left.remove(match)
    return True


# --- one answer ----------------------------------------------------------------------------------


def is_name(text: str) -> bool:
    r"""Whether the left side of an equation names what is asked: `x`, `f(2)`, `\angle ABC`, `m+n`.

    A name has no number, so that `2x = 10` and `1 \\cdot x = 5` do not name an answer.
    """
    words = re.findall(r"[A-Za-z]+", text)
    bare = _NAME_PART.sub(lambda match: "n" if match[0][0] == "\\" else "", text)
    return _NAME.fullmatch(bare) is not None and MATH_NAMES.isdisjoint(words)


def _same_value(want: str, have: str) -> bool:
    """An equation is its last side, if it names it or if its sides are equal."""
    wanted, given = _split(want, _EQUALS), _split(have, _EQUALS)
    if not wanted or not given:
        return False
    if len(wanted) == 1:
        sides = given[1:] if len(given) > 1 and is_name(given[0]) else given
        return all(_equal(want, side) for side in sides)
    if len(given) == 1:
        return is_name(wanted[0]) and same(wanted[-1], have)
    if is_name(wanted[0]) and is_name(given[0]) and not is_name(wanted[-1]):
        named = wanted[0].replace(" ", "") == given[0].replace(" ", "")
        return named and all(same(wanted[-1], side) for side in given[1:])
    return len(given) == 2 and _verify(_parsed(want), _parsed(have))


def _equal(want: str, have: str) -> bool:
    wanted, given = read(want), read(have)
    if wanted is not None and given is not None:
        return agree(wanted, given)
    return any(_verify(a, b) for a in _expressions(want) for b in _expressions(have))


def _expressions(text: str) -> list[Any]:
    """A formula, or the numbers that a quantity may be; none of a number with a base or a ratio."""
    from sympy import Rational

    plain = read(text)
    if plain is None:
        return [_parsed(text)]
    if not isinstance(plain, Quantity):
        return []
    return [Rational(value.numerator, value.denominator) for value in plain.values()]


@lru_cache(256)
def _parsed(text: str) -> Any | None:
    """The sympy expression that a formula is, or None."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    formula = latex(tidy(text))
    depths = _depths(formula or "")
    if not formula or min(depths) < 0 or depths[-1] != 0 or max(depths) > 2 * MAX_DEPTH:
        return None
    # Units are gone, and of `\pi r^2 h` the parser would take away the height.
    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all"
    )
    config = LatexExtractionConfig(normalization_config=rules)
    # Only the whole formula: by default a fraction found within it would do.
    found = parse(
        rf"\boxed{{{formula}}}",
        [config],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,  # type: ignore[arg-type]
    )
    return found[0] if found else None


def _verify(want: Any, have: Any) -> bool:
    """Whether two expressions are equal; a relation is not its last side."""
    from math_verify import verify
    from math_verify.grader import is_relation

    if want is None or have is None or is_relation(want) != is_relation(have):
        return False
    return verify(want, have, numeric_precision=100, timeout_seconds=None)


def _verify_sets(want: str, have: str) -> bool:
    """Whether an inequality and a set, such as `0 <= x < 1` and `[0, 1)`, are the same."""
    from math_verify import verify

    wanted, given = _parsed(want), _parsed(have)
    if wanted is None or given is None:
        return False
    return verify(
        wanted, given, numeric_precision=100, allow_set_relation_comp=True, timeout_seconds=None
    )
