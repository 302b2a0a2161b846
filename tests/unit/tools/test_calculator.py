"""The calculator agrees with Python's fractions, answers in words, and never costs much."""

import re
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rlhf.tools.arithmetic import MAX_CHARS, MAX_DIGITS, calculate

OPERATORS = ["+", "-", "*", "/", "//", "%"]
NUMBERS = st.one_of(
    st.integers(0, 10**6).map(str),
    st.decimals(0, 10**6, places=3, allow_nan=False).map(lambda number: f"{number:f}"),
)


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(inner, st.sampled_from(OPERATORS), inner).map(" ".join)
    power = st.tuples(inner, st.integers(-4, 4)).map(lambda each: f"({each[0]}) ** {each[1]}")
    sign = st.tuples(st.sampled_from("+-"), inner).map(lambda each: f"{each[0]}({each[1]})")
    return pair | power | sign | inner.map(lambda text: f"({text})")


EXPRESSIONS = st.recursive(NUMBERS, combined, max_leaves=8)


def by_python(text: str) -> Fraction:
    """The value, by Python's own parser and precedence, with each number made a Fraction."""
    exact = re.sub(r"[0-9]+(?:\.[0-9]*)?", lambda number: f"Fraction('{number[0]}')", text)
    # Exponents must stay integers: Fraction ** Fraction may be a float.
    exact = re.sub(r"\*\* (-?)Fraction\('([0-9]+)'\)", r"** \1\2", exact)
    return Fraction(eval(exact, {"Fraction": Fraction}))


@given(EXPRESSIONS)
def test_it_agrees_with_fractions(text):
    # Powers of powers, beyond what it prints.
    assume(not calculate(text).startswith("error: a number of more"))
    try:
        expected = by_python(text)
    except ZeroDivisionError:
        assert calculate(text) == "error: division by zero"
        return
    shown = calculate(text)
    if expected.denominator == 1:
        assert shown == str(expected.numerator)
    else:
        digits = Decimal(shown)
        assert len(digits.as_tuple().digits) <= 10
        # Half a unit in the tenth digit.
        assert abs(Fraction(digits) - expected) <= abs(expected) * Fraction(5, 10**10)


@given(st.text(max_size=60) | st.text(alphabet="0123456789.+-*/%() eEj_x\n", max_size=60))
def test_any_text_has_an_answer_in_words_or_digits(text):
    shown = calculate(text)
    assert shown.startswith("error: ") or Decimal(shown).is_finite()


@pytest.mark.parametrize(
    "text, shown",
    [
        ("1 + 2 * 3", "7"),
        ("2 ** 3 ** 2", "512"),
        ("-2 ** 2", "-4"),
        ("(-7) // 2", "-4"),
        ("-7 % 3", "2"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.3333333333"),
        ("2 / 3", "0.6666666667"),
        ("6 / 3", "2"),
        ("0.5 * 4", "2"),
        ("7.", "7"),
        (".5", "0.5"),
        ("2 ** -2", "0.25"),
        ("0 ** 0", "1"),
        ("1 ** 9 ** 99", "1"),
        ("1 / 10 ** 6", "0.000001"),
        ("15 / 10 ** 8", "1.5E-7"),
        ("12345678912345.5", "1.234567891E+13"),
        ("1\n+ 2\t", "3"),
        ("99999999999999999999 + 1", "100000000000000000000"),
        ("0.1" + "0" * 30 + "1 - 0.1", "1E-32"),
    ],
)
def test_values_by_hand(text, shown):
    assert calculate(text) == shown


@pytest.mark.parametrize(
    "text, shown",
    [
        ("1 / 0", "error: division by zero"),
        ("5 % (1 - 1)", "error: division by zero"),
        ("0 ** -1", "error: division by zero"),
        ("", "error: nothing to calculate"),
        (" \n", "error: nothing to calculate"),
        ("2 ** 0.5", "error: an exponent must be a whole number"),
        ("9 ** 9 ** 9", f"error: a number of more than {MAX_DIGITS} digits"),
        ("10 ** 4000", f"error: a number of more than {MAX_DIGITS} digits"),
        ("(1 / 10 ** 3999) / 10", f"error: a number of more than {MAX_DIGITS} digits"),
        ("1" * (MAX_CHARS + 1), f"error: the expression is longer than {MAX_CHARS} characters"),
        ("1 +", "error: not an arithmetic expression"),
        ("(1", "error: not an arithmetic expression"),
        ("1 2", "error: not an arithmetic expression"),
        ("1(2)", "error: not an arithmetic expression"),
        ("...", "error: not an arithmetic expression"),
        ("()", "error: not an arithmetic expression"),
        ("1.2.3", "error: not an arithmetic expression"),
        ("-" * 60 + "1", "error: nested more than 50 deep"),
        ("(" * 400 + "1" + ")" * 400, "error: not an arithmetic expression"),
    ],
)
def test_errors_by_hand(text, shown):
    assert calculate(text) == shown


@pytest.mark.parametrize("text", ["1e5", "0x10", "1_000", "2^3", "__import__('os')", "1, 2", "1j"])
def test_what_is_no_arithmetic_names_the_character(text):
    assert "is not understood; use digits" in calculate(text)


def test_the_largest_results_are_printed_in_full():
    assert calculate("10 ** 3999") == "1" + "0" * 3999
    assert calculate("1 / 10 ** 3999") == "1E-3999"


def test_a_long_sum_is_not_deep():
    assert calculate("+".join(["1"] * 500)) == "500"


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9**9",
        "(9**9)**(9**9)",
        "2**-9999999999",
        "(1/9)**9999999",
        "1.0000001**99999999",
        "*".join(["9" * 90] * 10),
        "+".join(["(1/7**4000)"] * 80),
        "/".join(["3**4000"] * 110),
        "(10**3999+1)/7" + "%3**3999" * 100,
        "**".join(["2"] * 300),
        "-" * 999 + "1",
        "(" * 999,
    ],
)
def test_nothing_costs_much(text):
    start = time.process_time()
    calculate(text)
    assert time.process_time() - start < 0.5
