"""Answers that need no algebra: numbers with their units, numbers of a base, ratios and times."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rlhf.judges.mathematics.tidying import MATH_NAMES, tidy

MAX_CHARS = 200
"""No longer text is a quantity, so that with its exponent a number has less than 4,000 digits."""

_SCALES = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12, "dozens": 12,
}  # fmt: skip
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "fourth": 4, "fourths": 4, "fifth": 5,
    "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10,
    "hundredth": 100, "hundredths": 100, "thousandth": 1000, "thousandths": 1000,
}  # fmt: skip
"""What a number counts if it ends there: `2 thirds`, `1 half`; not `5 third graders`."""
_ADDED = {"and a half": Fraction(1, 2), "and a quarter": Fraction(1, 4)}
_RAISED = {"squared": 2, "cubed": 3}
_SHORT_UNITS = frozenset(
    (
        "km", "cm", "mm", "nm", "kg", "mg", "lb", "oz", "ft", "in", "yd",
        "mi", "hr", "ml", "dl", "cl", "am", "pm", "kw", "mw", "hz", "pt", "qt", "gb", "mb", "sq",
        "cu", "st", "nd", "rd", "th",
    )
)  # fmt: skip
_LETTER_UNITS = frozenset("mgshlLNJWVCKAF")
"""Known with a blank before them alone: `5 N` is a force, `5N` and `5 n` are products."""
_NO_UNITS = (MATH_NAMES - {"min", "max"}) | frozenset(
    ("and", "or", "plus", "minus", "divided", "over", "point", "factorial", "choose", "to", "not")
)
"""Words that do not begin a unit: `15 plus`, `15 pi`; `15 pies` does."""
_BASES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip

_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{\s*(-?[\d.,]+)\s*\}|(\d))\s*(?:\{\s*([\d.,]+)\s*\}|(\d))"
)
_NUMBER = (
    r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:\ \d{3})+|\d+)(?![\ ,]?\d)(?:\.\d*)?"
    r"(?:\\overline\s*\{\d{1,50}\})?|\.\d+)"
)
_AMOUNT = re.compile(
    rf"""(?:(?:USD|EUR|GBP|Rs\.?)\s*)? (?P<sign>[-+]?)\s*[$€£¥₹]?\s*(?P<sign_behind>[-+]?)\s*
    (?: (?P<whole>\d+)\s+(?P<part>\d+\s*/\s*\d+)(?![\d/]) | (?P<number>{_NUMBER})
        (?: \s*/\s*(?P<divisor>{_NUMBER}) )? )
    (?: [eE](?P<e>[-+]?\d{{1,3}})
      | \s*(?:[x×*·]|\\times)\s*10\s*\^\s*\{{?\s*(?P<power>-?\d{{1,3}})(?!\d)\s*\}}? )?
    (?P<rest>(?!\d).*)""",
    re.VERBOSE,
)
_PERCENT = re.compile(r"\s*(?:\\?%|per ?cent\b|pct\b)")
_BASE = re.compile(r"(\d[0-9A-F]*)\s*_\s*\{?\s*(\d+|[a-z]+)\s*\}?")
_RATIO = re.compile(r"(\d+(?:\.\d+)?(?:\s*(?::|to)\s*\d+(?:\.\d+)?)+)\s*([ap]m)?", re.IGNORECASE)
_REMARK = re.compile(r"\s\((?!or\b)([^()]*[A-Za-z]{3}[^()]*)\)(?=\s|$)")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b")
_UNIT_SIGN = re.compile(r"°\s?[CFK]?|[$€£¥₹¢]")
_UNIT_PART = re.compile(r"[^\W\d_]+|\^\s*\{?\s*-?\d\s*\}?|[\s/·*.,'’-]")
_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Quantity:
    value: Fraction
    percent: bool = False

    def values(self) -> tuple[Fraction, ...]:
        """The number, and of a percentage its hundredth too."""
        return (self.value, self.value / 100) if self.percent else (self.value,)


@dataclass(frozen=True)
class BaseNumber:
    digits: str
    base: str


@dataclass(frozen=True)
class Ratio:
    """A ratio or a time of day, which may say `am` or `pm`."""

    numbers: tuple[Fraction, ...]
    half_day: str


Plain = Quantity | BaseNumber | Ratio


def agree(want: Plain, have: Plain) -> bool:
    """Whether two answers are the same number, ratio or time."""
    if isinstance(want, Quantity) and isinstance(have, Quantity):
        if want.percent and have.percent:
            return want.value == have.value
        return not set(want.values()).isdisjoint(have.values())
    if isinstance(want, Ratio) and isinstance(have, Ratio):
        halves = {want.half_day, have.half_day} - {""}
        return want.numbers == have.numbers and len(halves) < 2
    return want == have


@lru_cache(4096)
def read(text: str) -> Plain | None:
    """The number, ratio or time that the text is; None if it is something else."""
    text = tidy(text)
    if len(text) > MAX_CHARS:
        return None
    if match := _RATIO.fullmatch(text):
        numbers = tuple(Fraction(number) for number in re.split(r"\s*(?::|to)\s*", match[1]))
        return Ratio(numbers, (match[2] or "").lower())
    if match := _BASE.fullmatch(text):
        base = str(_BASES.index(match[2])) if match[2] in _BASES else match[2]
        return read(match[1]) if base == "10" else BaseNumber(match[1], base)
    return _quantity(text)


def _quantity(text: str) -> Quantity | None:
    plain = _DEGREES.sub("°", _FRACTION.sub(r" \1\2/\3\4", text)).replace(r"\cdot", "·").strip()
    match = _AMOUNT.fullmatch(re.sub(r"^-\s+", "-", plain))
    if match is None or (match["sign"] and match["sign_behind"]):
        return None
    try:
        value = _value(match)
    except ZeroDivisionError:
        return None
    quantity = _with_words(value, _REMARK.sub(_kept_remark, match["rest"]))
    if quantity and "-" in (match["sign"], match["sign_behind"]):
        return Quantity(-quantity.value, quantity.percent)
    return quantity


def _kept_remark(match: re.Match[str]) -> str:
    """Nothing for `(five)`; a factor such as `(sin x)` stays."""
    return "" if MATH_NAMES.isdisjoint(_LETTERS.findall(match[1])) else match[0]


def _value(match: re.Match[str]) -> Fraction:
    if match["whole"]:
        return int(match["whole"]) + Fraction(match["part"].replace(" ", ""))
    value = _decimal(match["number"])
    if match["divisor"]:
        value /= _decimal(match["divisor"])
    return value * Fraction(10) ** int(match["e"] or match["power"] or 0)


def _decimal(number: str) -> Fraction:
    r"""The number that digits say, such as `1,234.5` or `0.1\overline{6}`."""
    digits, repeats, period = re.sub(r"[ ,}]", "", number).partition(r"\overline{")
    whole, _, decimals = digits.partition(".")
    value = Fraction(int((whole + decimals) or 0), 10 ** len(decimals))
    if repeats:
        value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(decimals))
    return value


def _with_words(value: Fraction, rest: str) -> Quantity | None:
    """What a number means with the words behind it; None if they are no unit."""
    if percent := _PERCENT.match(rest):
        return Quantity(value, True) if is_unit(rest[percent.end() :]) else None
    for words, part in _ADDED.items():
        if rest.strip().startswith(words):
            return _with_words(value + part, rest.strip().removeprefix(words))
    word, _, others = rest.strip().partition(" ")
    if word in _SCALES:
        return _with_words(value * _SCALES[word], f" {others}" if others else "")
    if word in _PARTS and not others:
        return Quantity(value / _PARTS[word])
    if word in _RAISED and not others:
        return Quantity(value ** _RAISED[word])
    return Quantity(value) if is_unit(rest) else None


def is_unit(rest: str) -> bool:
    """Whether what stands behind a number is a unit, such as ` km/h`, `cm^2`, `/hour`, or nothing.

    A unit begins with a word of three letters, or a known short one; without a blank before it, of
    four, or a known one of two: `15 x`, `15x` and `5 ab` are products.
    """
    sign = _UNIT_SIGN.match(rest.strip())
    words = rest.strip()[sign.end() :] if sign else rest
    letters = _LETTERS.findall(words)
    if _UNIT_PART.sub("", words) or (not letters and words.strip()):
        return False
    if not letters:
        return True
    first, start = letters[0], words.lstrip()[0]
    if first.lower() in _NO_UNITS or "or" in letters or not (start.isalpha() or start == "/"):
        return False
    if words[0].isspace() and start != "/" and len(first) == 1:
        return first in _LETTER_UNITS
    short = {first.lower(), first.lower().removesuffix("s")}
    long = 3 if words[0].isspace() or start == "/" else 4
    return len(first) >= long or not short.isdisjoint(_SHORT_UNITS)
