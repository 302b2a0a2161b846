r"""What people type for formulas, `2*sqrt(x)` or `3.5\pi \text{ cm}`, as LaTeX for a parser."""

import re

from rlhf.judges.mathematics.quantities import is_unit
from rlhf.judges.mathematics.tidying import MATH_NAMES

_SIGNS = {
    "**": "^", "*": r"\cdot ", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "$": "", "°": "",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ",
}  # fmt: skip
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])")
_NAMES = re.compile(rf"(?<![\\A-Za-z])({'|'.join(sorted(MATH_NAMES, reverse=True))})(?![A-Za-z])")
_INFINITY = re.compile(r"\\(?:infinity|inf)(?![A-Za-z])")
_ROOT = re.compile(r"√\s*(\d+|[A-Za-z])|(?:\\sqrt|√)\s*\(([^()]*)\)")
_SHORT = re.compile(r"(\\(?:[dtc]?frac|[dt]?binom))\s*(\d)\s*(\d)")
_GROUP = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{(\d{1,50})\}")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?!\.)")
_POWER = re.compile(r"\^\s*(?:(-?\d+)|\(([^()]*)\))")
_WORD = re.compile(r"\s*(?<![\\A-Za-z{_])([A-Za-z]{2,})")
_UNREADABLE = re.compile(
    r"(?<![_^])\d\s+[.\d]|\d\s*_|(?<![\\A-Za-z{])[A-Za-z]{4,}|:|\.\.|\\[lc]?dots"
)
"""Two numbers beside each other, a number with a base, words, ratios, dots."""
_LETTER = re.compile(
    r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+|([A-Z])(?:_(?:\{(\w+)\}|(\w)))?|_\{[^{}]*\}|_\w|(i)(?!_)"
)
_INDEX_I = re.compile(r"\\(?:sum|prod|vec|hat)(?![A-Za-z])")


def latex(text: str) -> str | None:
    """A tidied formula for a parser of LaTeX; None if it holds what is no formula.

    Decimals become fractions, so that nothing is rounded; `i` the imaginary unit; capitals, which
    the parser takes for small letters, get an index; a unit at the end is left out.
    """
    for typed, sign in _SIGNS.items():
        text = text.replace(typed, sign)
    text = _SHORT.sub(r"\1{\2}{\3}", _without_unit(_DEGREES.sub("", text)))
    text = _INFINITY.sub(r"\\infty", _NAMES.sub(r"\\\1", text))
    text = _GROUP.sub(lambda match: match[0].replace(",", ""), text)
    if _UNREADABLE.search(text):
        return None
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = _DECIMAL.sub(_fraction, _REPEATING.sub(_repeating, text))
    text = _POWER.sub(lambda match: f"^{{{match[1] or match[2]}}}", text)
    imaginary = not _INDEX_I.search(text)
    return _LETTER.sub(lambda match: _letter(match, imaginary), text).strip().removeprefix("+")


def _without_unit(text: str) -> str:
    r"""The formula before a unit, as in `2\sqrt{3} cm`."""
    for match in _WORD.finditer(text):
        if match[1] not in MATH_NAMES:
            head = text[: match.start()].rstrip()
            ended = head and head[-1] not in "+-*/^_=<>([{,"
            return head if ended and is_unit(text[match.start() :]) else text
    return text


def _fraction(match: re.Match[str]) -> str:
    whole, decimals = match.groups()
    return rf"{{\frac{{{whole}{decimals}}}{{1{'0' * len(decimals)}}}}}"


def _repeating(match: re.Match[str]) -> str:
    whole, decimals, period = match.groups()
    below = "9" * len(period) + "0" * len(decimals)
    return rf"({whole or 0}.{decimals}0+\frac{{{period}}}{{{below}}})"


def _letter(match: re.Match[str], imaginary: bool) -> str:
    if match[1]:
        return f"{match[1].lower()}_{{up{match[2] or match[3] or ''}}}"
    return "I" if match[4] and imaginary else match[0]
