"""A matrix of programs and the tests that they pass, and what its rows are worth.

`passed[i][j]` tells whether program i passes test j; every program has the same tests.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from math import lgamma
from typing import NamedTuple

Matrix = Sequence[Sequence[bool]]

DAMPING, ROUNDS = 0.85, 10
ALPHA, BETA = 1e3, 1e4


class Score(Enum):
    all = "all"
    """1 if it passes every test, else 0, as in PLUM."""
    share = "share"
    """The share of tests that it passes."""
    codedpo = "codedpo"
    """By programs and tests that vouch for each other, as in CodeDPO."""
    b4 = "b4"
    """By how likely those that pass the same tests are right, as in B4."""
    dstc = "dstc"
    """1 for DSTC's chosen program, 0 for its rejected one, 1/2 for others; experimental."""

    @property
    def tells_right(self) -> bool:
        """Whether 1 says that a program is right, if its tests are."""
        return self in (Score.all, Score.share)


def scores(passed: Matrix, score: Score) -> list[float]:
    """One per program; higher is better, and the scale is the score's own."""
    return _SCORES[score](passed) if passed else []


def plum(passed: Matrix) -> list[float]:
    """PLUM (arXiv 2406.06887): right programs pass all tests."""
    return [float(all(row)) for row in passed]


def share(passed: Matrix) -> list[float]:
    """Of the tests; 0 if there are none."""
    return [sum(row) / len(row) if row else 0.0 for row in passed]


def codedpo(passed: Matrix, damping: float = DAMPING, rounds: int = ROUNDS) -> list[float]:
    """CodeDPO (arXiv 2410.05605): a program counts by the tests that it passes, a test by the
    programs that pass it.

    Both move at once, from 1, by `(1 - damping) old + damping sum`. They would grow without end, so
    each round begins by dividing both by the largest of them all; the order stays the same.
    """
    codes, tests = [1.0] * len(passed), [1.0] * len(passed[0])
    for _ in range(rounds):
        largest = max([*codes, *tests])
        codes, tests = [c / largest for c in codes], [t / largest for t in tests]
        by_tests = [sum(t for t, one in zip(tests, row, strict=True) if one) for row in passed]
        by_codes = [
            sum(c for c, one in zip(codes, column, strict=True) if one)
            for column in zip(*passed, strict=True)
        ]
        codes = [(1 - damping) * c + damping * new for c, new in zip(codes, by_tests, strict=True)]
        tests = [(1 - damping) * t + damping * new for t, new in zip(tests, by_codes, strict=True)]
    return codes


def b4(passed: Matrix, alpha: float = ALPHA, beta: float = BETA) -> list[float]:
    """B4 (arXiv 2409.08692): the log of how likely it is that just those programs are right that
    pass the same tests as this one, and just those tests.

    `alpha` says how sure right programs are to pass right tests, `beta` how seldom wrong programs
    pass wrong ones.
    """
    rows = [tuple(row) for row in passed]
    known = {row: _b4(rows, row, alpha, beta) for row in set(rows)}
    return [known[row] for row in rows]


def _b4(rows: list[tuple[bool, ...]], right: tuple[bool, ...], alpha: float, beta: float) -> float:
    num_codes, num_tests = len(rows), len(right)
    same, good = rows.count(right), sum(right)
    others = [row for row in rows if row != right]
    # Of the others: how often they pass tests that are right, and tests that are wrong.
    hits = sum(one and of for row in others for one, of in zip(row, right, strict=True))
    slips = sum(one and not of for row in others for one, of in zip(row, right, strict=True))
    return (
        _log_beta(good + alpha, num_tests - good + 1)
        + _log_beta(same + alpha, num_codes - same + 1)
        + _log_beta(hits + 1, len(others) * good - hits + 1)
        + _log_beta(slips + 1, len(others) * (num_tests - good) - slips + beta)
    )


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


class Choice(NamedTuple):
    """A program and one of the tests."""

    code: int
    test: int


def dstc_pair(passed: Matrix) -> tuple[Choice, Choice] | None:
    """DSTC (arXiv 2411.13611), as we read it: the program that passes most tests, with one that it
    passes, over the one that passes fewest, with one that it fails.

    Of several tests that which most programs pass, of equals the first. None if there is no such
    pair, as where all programs pass the same number.
    """
    counts = [sum(row) for row in passed]
    best, worst = counts.index(max(counts)), counts.index(min(counts))
    if counts[best] == counts[worst]:
        return None
    by_test = [sum(column) for column in zip(*passed, strict=True)]

    def dependable(code: int, value: bool) -> int:
        places = [j for j, one in enumerate(passed[code]) if bool(one) is value]
        return max(places, key=lambda j: by_test[j])

    return Choice(best, dependable(best, True)), Choice(worst, dependable(worst, False))


def dstc(passed: Matrix) -> list[float]:
    """1 and 0 for the two of `dstc_pair`, 1/2 for all others."""
    found = [0.5] * len(passed)
    if chosen := dstc_pair(passed):
        found[chosen[0].code], found[chosen[1].code] = 1.0, 0.0
    return found


_SCORES: dict[Score, Callable[[Matrix], list[float]]] = {
    Score.all: plum,
    Score.share: share,
    Score.codedpo: codedpo,
    Score.b4: b4,
    Score.dstc: dstc,
}
