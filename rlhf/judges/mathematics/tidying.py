r"""How an answer is set, which is no part of it: fonts, spaces, delimiters.

The patterns of this file and of those that read answers take time in proportion to a text of at
most 1,000 characters, or its square, and so need no limit.
"""

import re
from collections.abc import Callable
from functools import lru_cache

MATH_NAMES = frozenset(
    (
        "sin", "cos", "tan", "cot", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
        "log", "ln", "exp", "sqrt", "pi", "theta", "alpha", "beta", "gamma", "lambda", "phi",
        "omega", "inf", "infinity", "mod", "gcd", "lcm", "max", "min",
    )
)  # fmt: skip
"""Words that belong to formulas."""

_SPACES = re.compile(
    r"[\u00a0\u2000-\u200a\u202f\u205f\u3000\s]|(?<!\\)\\[,;: ]|\\q?quad\b|(?<=.)~"
)
_DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])|(?<!\\)\\!\s?|\\(?=\$)"
)
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:bf|rm|it|sf|tt)|mbox|operatorname)\s*\{([^{}]*)\}"
)
_RAISED = re.compile("[⁻⁰¹²³⁴-⁹]+")
_RAISED_DIGITS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_LETTERS = str.maketrans(
    {"−": "-", "–": "-", "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4"}
)
_ABOUT = re.compile(r"[~≈=]|\\approx\b|\\sim\b|(?:about|approximately|around|roughly|nearly)\b")
_HALF_DAY = re.compile(r"\b([ap])\.\s?m\b\.?", re.IGNORECASE)


@lru_cache(4096)
def tidy(text: str) -> str:
    """The text without what only sets it, and without a leading `about`."""
    text = _DROPPED.sub("", text.translate(_LETTERS).replace("{,}", ","))
    text = _RAISED.sub(lambda match: f"^{{{match[0].translate(_RAISED_DIGITS)}}}", text)
    text = _settled(_HALF_DAY.sub(r"\1m", text), lambda text: _FONT.sub(r" \1 ", text))
    return _settled(_SPACES.sub(" ", text), _bare)


def _bare(text: str) -> str:
    """The text without one layer of delimiters around it."""
    text = text.strip(" *_`$:;,")
    for before, behind in ((r"\(", r"\)"), (r"\[", r"\]")):
        text = text.removeprefix(before).removesuffix(behind)
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1]
    about = _ABOUT.match(text)
    return text[about.end() :] if about else text


def _settled(text: str, step: Callable[[str], str]) -> str:
    """The text after as many steps as change it."""
    while (after := step(text)) != text:
        text = after
    return text
