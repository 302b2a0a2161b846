"""Several verdicts on the same completions as one, in plain arithmetic.

Scores are a number per completion, matrices win probabilities of every two; None, or a number that
is not finite, where a judge failed. A member of weight 0 is watched only: nothing here reads it.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from itertools import combinations
from math import fsum, isfinite, prod
from statistics import fmean, pstdev
from typing import TypeGuard, TypeVar

from rlhf.records import Comparison, Verdict

Scores = tuple[float | None, ...]
Matrix = tuple[Scores, ...]
Weights = Mapping[str, float]
Form = TypeVar("Form", Scores, Matrix)

EVEN = 1e-9
"""Votes that differ by less are as many: weights are floats."""


class Combine(Enum):
    sum = "sum"
    """Each score times its weight, added up; of win probabilities the weighted mean."""
    product = "product"
    """All scores multiplied; of win probabilities likewise, over that plus its opposite's."""
    minimum = "minimum"
    """The smallest of the scores, each times its weight."""
    majority = "majority"
    """What most say, by weight, of those who say something. If all say right or wrong, that is
    right or wrong; else every two completions are compared, and each member votes for the one
    that it prefers."""
    lexicographic = "lexicographic"
    """The member of the largest weight decides between two completions, where it sees no
    difference the next one, and so on."""
    function = "function"
    """Your own, of the named scores: `judge.function`."""


# --- scores --------------------------------------------------------------------------------------


def weighted_sum(members: Mapping[str, Scores], weights: Weights) -> Scores:
    """Σ weight·score; missing where one that counts is."""
    return _of_each(_weighted(members, weights), fsum)


def product(members: Mapping[str, Scores], weights: Weights) -> Scores:
    """Π score; missing where one that counts is."""
    return _of_each(_counting(members, weights).values(), prod)


def minimum(members: Mapping[str, Scores], weights: Weights) -> Scores:
    """min weight·score; missing where one that counts is."""
    return _of_each(_weighted(members, weights), min)


def most_right(members: Mapping[str, Scores], weights: Weights) -> Scores:
    """1 where more weight says right, 0 where more says wrong, of those who say something.

    Missing where as much says either, which one who fails can bring about, but not the opposite.
    """
    voting = _counting(members, weights)

    def decided(scores: Scores) -> float | None:
        votes = [
            weights[name] if score >= 1 else -weights[name]
            for name, score in zip(voting, scores, strict=True)
            if _is_known(score)
        ]
        return None if (balance := _balance(votes)) == 0 else float(balance > 0)

    return tuple(decided(scores) for scores in zip(*voting.values(), strict=True))


def standardised(scores: Scores) -> Scores:
    """(score - mean) / sd over the scores of the group that are known, with the sd of a population;
    0 where all of those are equal, and missing where the score is."""
    there = [score for score in scores if _is_known(score)]
    if not there or min(there) == max(there):
        return tuple(0.0 if _is_known(score) else None for score in scores)
    mean, sd = fmean(there), pstdev(there)
    return tuple((score - mean) / sd if _is_known(score) else None for score in scores)


# --- win probabilities ---------------------------------------------------------------------------


def mean_win_prob(members: Mapping[str, Matrix], weights: Weights) -> Matrix:
    """Σ weight·P / Σ weight; missing where one that counts is."""
    voting = _counting(members, weights)
    total = fsum(weights[name] for name in voting)

    def mean(wins: Mapping[str, float | None]) -> float | None:
        if (there := _all_known(wins.values())) is None:
            return None
        return fsum(weights[n] * p for n, p in zip(wins, there, strict=True)) / total

    return _of_every_two(voting, mean)


def product_win_prob(members: Mapping[str, Matrix], weights: Weights) -> Matrix:
    """Π P / (Π P + Π (1 - P)), and 1/2 where two are certain of opposites; missing where one that
    counts is."""

    def share(wins: Mapping[str, float | None]) -> float | None:
        if (there := _all_known(wins.values())) is None:
            return None
        wins_all, loses_all = prod(there), prod(1 - p for p in there)
        both = wins_all + loses_all
        return wins_all / both if both else 0.5

    return _of_every_two(_counting(members, weights), share)


def most_preferred(members: Mapping[str, Matrix], weights: Weights) -> Matrix:
    """1 where more weight prefers the first, 0 the second, 1/2 where as much does, of those who
    say something; who prefers neither has no vote. Missing where nobody says anything."""

    def decided(wins: Mapping[str, float | None]) -> float | None:
        votes = [
            weights[name] * ((p > 0.5) - (p < 0.5)) for name, p in wins.items() if p is not None
        ]
        balance = _balance(votes)
        return 0.5 + 0.5 * ((balance > 0) - (balance < 0)) if votes else None

    return _of_every_two(_counting(members, weights), decided)


def first_difference(members: Mapping[str, Matrix], weights: Weights) -> Matrix:
    """P of the member of the largest weight for which it is not 1/2; missing where it, or one
    before it, is."""
    voting = _counting(members, weights)
    ordered = {name: voting[name] for name in sorted(voting, key=lambda n: -weights[n])}

    def first(wins: Mapping[str, float | None]) -> float | None:
        return next((p for p in wins.values() if p is None or p != 0.5), 0.5)

    return _of_every_two(ordered, first)


def as_matrix(verdict: Verdict) -> Matrix:
    """Win probabilities as they are; of scores 1 for the higher, 1/2 for equals, missing where
    either is."""
    if isinstance(verdict, Comparison):
        return tuple(tuple(p if _is_known(p) else None for p in row) for row in verdict.win_prob)
    scores = [score if _is_known(score) else None for score in verdict.scores]
    return tuple(
        tuple(
            0.5 if i == j else None if a is None or b is None else (a > b) + 0.5 * (a == b)
            for j, b in enumerate(scores)
        )
        for i, a in enumerate(scores)
    )


OF_SCORES: Mapping[Combine, Callable[[Mapping[str, Scores], Weights], Scores]] = {
    Combine.sum: weighted_sum,
    Combine.product: product,
    Combine.minimum: minimum,
    Combine.majority: most_right,
}
OF_MATRICES: Mapping[Combine, Callable[[Mapping[str, Matrix], Weights], Matrix]] = {
    Combine.sum: mean_win_prob,
    Combine.product: product_win_prob,
    Combine.majority: most_preferred,
    Combine.lexicographic: first_difference,
}


def _counting(members: Mapping[str, Form], weights: Weights) -> dict[str, Form]:
    return {name: verdict for name, verdict in members.items() if weights[name]}


def _weighted(members: Mapping[str, Scores], weights: Weights) -> list[Scores]:
    return [
        tuple(weights[name] * score if _is_known(score) else None for score in scores)
        for name, scores in _counting(members, weights).items()
    ]


def _of_each(members: Iterable[Scores], one: Callable[[Iterable[float]], float]) -> Scores:
    """By completion."""
    each = (_all_known(scores) for scores in zip(*members, strict=True))
    return tuple(None if scores is None else one(scores) for scores in each)


def _of_every_two(
    members: Mapping[str, Matrix], one: Callable[[Mapping[str, float | None]], float | None]
) -> Matrix:
    size = len(next(iter(members.values())))
    rows: list[list[float | None]] = [[0.5] * size for _ in range(size)]
    for i, j in combinations(range(size), 2):
        found = one({name: matrix[i][j] for name, matrix in members.items()})
        rows[i][j], rows[j][i] = found, None if found is None else 1 - found
    return tuple(map(tuple, rows))


def _all_known(values: Iterable[float | None]) -> list[float] | None:
    listed = list(values)
    there = [value for value in listed if _is_known(value)]
    return there if len(there) == len(listed) else None


def _is_known(score: float | None) -> TypeGuard[float]:
    return score is not None and isfinite(score)


def _balance(votes: Iterable[float]) -> float:
    total = fsum(votes)
    return 0.0 if abs(total) < EVEN else total
