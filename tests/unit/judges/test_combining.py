"""Several verdicts as one, by numbers worked out by hand, and what must hold of any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.judges.combining import (
    OF_MATRICES,
    OF_SCORES,
    Combine,
    as_matrix,
    first_difference,
    mean_win_prob,
    minimum,
    most_preferred,
    most_right,
    product,
    product_win_prob,
    standardised,
    weighted_sum,
)
from rlhf.records import Comparison, Judgement

ONES = {"a": 1.0, "b": 1.0, "c": 1.0}
INF = float("inf")


def two(probability: float | None) -> tuple[tuple[float | None, ...], ...]:
    """The first of two completions wins so often."""
    return ((0.5, probability), (None if probability is None else 1 - probability, 0.5))


def test_a_sum_is_of_each_score_times_its_weight():
    found = weighted_sum({"maths": (1.0, 0.0), "taste": (2.0, -3.0)}, {"maths": 1, "taste": 0.1})
    assert found == pytest.approx((1.2, -0.3))


def test_what_is_missing_makes_a_sum_a_product_and_a_minimum_missing_and_never_zero():
    members = {"a": (1.0, None, INF, 2.0), "b": (2.0, 1.0, 1.0, 3.0)}
    weights = {"a": 1.0, "b": 1.0}
    assert weighted_sum(members, weights) == (3.0, None, None, 5.0)
    assert product(members, weights) == (2.0, None, None, 6.0)
    assert minimum(members, weights) == (1.0, None, None, 2.0)


@pytest.mark.parametrize("combine", [weighted_sum, product, minimum, most_right])
def test_a_member_of_weight_0_is_as_if_it_were_not_there(combine):
    members = {"a": (1.0, 0.0), "lag": (None, 7.0)}
    assert combine(members, {"a": 1.0, "lag": 0.0}) == combine({"a": (1.0, 0.0)}, {"a": 1.0})


def test_the_length_relevance_and_repetition_of_r3_are_multiplied():
    """An open question: LI 1.2, QR 0.8, RP 0.95."""
    parts = {"a": (1.2,), "b": (0.8,), "c": (0.95,)}
    assert product(parts, ONES) == pytest.approx((0.912,))


def test_the_log_probabilities_of_a_strong_and_a_weak_model_are_subtracted():
    """CDR: -40 - (-46); the same model twice says nothing."""
    members = {"strong": (-40.0, -40.0), "weak": (-46.0, -40.0)}
    assert weighted_sum(members, {"strong": 1, "weak": -1}) == (6.0, 0.0)


def test_four_aspects_are_averaged_by_a_quarter_each():
    """UltraFeedback: aspects 4, 3, 5, 4."""
    members = {"a": (4.0,), "b": (3.0,), "c": (5.0,), "d": (4.0,)}
    assert weighted_sum(members, dict.fromkeys("abcd", 0.25)) == (4.0,)


def test_scores_are_standardised_within_their_group():
    assert standardised((1.0, 3.0)) == (-1.0, 1.0)
    assert standardised((2.0, 4.0, 6.0)) == pytest.approx((-1.224745, 0.0, 1.224745))
    assert standardised((0.1, 0.1, None, 0.1)) == (0.0, 0.0, None, 0.0)
    assert standardised((1.0, None, 3.0, INF)) == (-1.0, None, 1.0, None)
    assert standardised((None,)) == (None,)


def test_most_decide_what_is_right():
    members = {"a": (1.0, 0.0, 1.0), "b": (1.0, 0.0, 0.0), "c": (0.0, 1.0, None)}
    assert most_right(members, ONES) == (1.0, 0.0, None)
    assert most_right(members, {"a": 1, "b": 1, "c": 3}) == (0.0, 1.0, None)
    assert most_right({"a": (None,), "b": (None,)}, ONES) == (None,)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=7), st.integers(0, 6))
def test_who_abstains_can_bring_about_a_tie_but_not_the_opposite(votes: list[float], who: int):
    who %= len(votes)
    names = [str(number) for number in range(len(votes))]
    ones = dict.fromkeys(names, 1.0)
    (before,) = most_right({n: (v,) for n, v in zip(names, votes, strict=True)}, ones)
    votes = [None if place == who else vote for place, vote in enumerate(votes)]  # type: ignore
    (after,) = most_right({n: (v,) for n, v in zip(names, votes, strict=True)}, ones)
    assert after is None or before is None or after == before


def test_contexts_are_averaged_by_their_probabilities():
    """Context-aware preferences: P(z) of .6 and .4, preferences of .9 and .2."""
    weights = {"a": 0.6, "b": 0.4}
    found = mean_win_prob({"a": two(0.9), "b": two(0.2)}, weights)
    assert (found[0][1], found[1][0]) == pytest.approx((0.62, 0.38))
    doubled = {"a": 1.2, "b": 0.8}  # divided by their sum
    assert mean_win_prob({"a": two(0.9), "b": two(0.2)}, doubled)[0][1] == pytest.approx(0.62)
    assert mean_win_prob({"a": two(0.9), "b": two(None)}, weights)[0][1] is None


def test_equal_jurors_are_as_one():
    for combine in (mean_win_prob, most_preferred):
        assert combine(dict.fromkeys("abc", two(1.0)), ONES) == two(1.0)
    assert mean_win_prob(dict.fromkeys("abc", two(0.7)), ONES)[0][1] == pytest.approx(0.7)


def test_win_probabilities_are_multiplied_as_odds():
    """Odds of 4 and of 1.5 make 6, so 6/7; two that are certain of opposites say nothing."""
    found = product_win_prob({"a": two(0.8), "b": two(0.6)}, ONES)
    assert found[0][1] == pytest.approx(6 / 7)
    assert product_win_prob({"a": two(1.0), "b": two(0.0)}, ONES)[0][1] == 0.5


def test_most_decide_which_is_better_and_who_prefers_neither_has_no_vote():
    assert most_preferred({"a": two(0.9), "b": two(0.4), "c": two(0.4)}, ONES) == two(0.0)
    assert most_preferred({"a": two(0.9), "b": two(0.4), "c": two(0.5)}, ONES) == two(0.5)
    assert most_preferred({"a": two(0.9), "b": two(0.4), "c": two(None)}, ONES) == two(0.5)
    assert most_preferred({"a": two(None)}, ONES) == two(None)


def test_the_first_that_sees_a_difference_decides():
    weights = {"maths": 2.0, "taste": 1.0}
    maths, taste = Judgement((1.0, 1.0, 0.0), "m"), Judgement((0.2, 0.3, 9.0), "t")
    members = {"taste": as_matrix(taste), "maths": as_matrix(maths)}
    assert first_difference(members, weights) == ((0.5, 0, 1), (1, 0.5, 1), (0, 0, 0.5))
    unknown = {"maths": as_matrix(Judgement((None, 1.0, 0.0), "m")), "taste": as_matrix(taste)}
    assert first_difference(unknown, weights)[0] == (0.5, None, None)


def test_scores_are_compared_by_which_is_larger():
    assert as_matrix(Judgement((2.0, 1.0, 2.0), "j")) == ((0.5, 1, 0.5), (0, 0.5, 0), (0.5, 1, 0.5))
    assert as_matrix(Judgement((None, 1.0), "j")) == two(None)
    assert as_matrix(Comparison(two(0.3), "j")) == two(0.3)


PROBABILITIES = st.none() | st.floats(0, 1)


@given(st.lists(PROBABILITIES, min_size=6, max_size=6), st.sampled_from(list(OF_MATRICES)))
def test_any_combination_of_win_probabilities_is_one(drawn, combine: Combine):
    """So that `Comparison` takes it: what one side wins the other loses, or both are missing."""

    def matrix(ab, ac, bc):
        less = [None if p is None else 1 - p for p in (ab, ac, bc)]
        return ((0.5, ab, ac), (less[0], 0.5, bc), (less[1], less[2], 0.5))

    members = {"a": matrix(*drawn[:3]), "b": matrix(*drawn[3:])}
    found = OF_MATRICES[combine](members, {"a": 2.0, "b": 0.5})
    Comparison(found, "checked")
    assert all(0 <= p <= 1 for row in found for p in row if p is not None)


def test_there_is_a_way_to_combine_for_every_name():
    assert OF_SCORES.keys() | OF_MATRICES.keys() == set(Combine) - {Combine.function}
