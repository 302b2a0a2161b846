"""From a pairwise judge's matrix to labelled pairs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.algorithms.self_play import SelfPlayConfig
from rlhf.collecting.matching import Label, Score, SelfPlayRule, compared, match, side_scores
from rlhf.collecting.truncated import Truncated
from rlhf.records import Comparison, Completion, DropReason, Judgement, Message, Prompt

PROMPT = Prompt("p", (Message("user", "?"),), (1,))


def drawn(*texts: str, truncated: frozenset[int] = frozenset()) -> tuple[Completion, ...]:
    return tuple(
        Completion("p", i, (ord(text[0]), len(text)), (0.0, 0.0), text, i in truncated, 0)
        for i, text in enumerate(texts)
    )


def matrix(*upper: float | None) -> Comparison:
    """From the entries above the diagonal, row by row."""
    size = next(n for n in range(1, 10) if n * (n - 1) // 2 == len(upper))
    values = iter(upper)
    rows: list[list[float | None]] = [[0.5] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1, size):
            value = next(values)
            rows[i][j], rows[j][i] = value, None if value is None else 1 - value
    return Comparison(tuple(map(tuple, rows)), "test@1")


def play(comparison: Comparison, seed: int = 0, ties: bool = False, **settings):
    texts = "abcdefgh"[: len(comparison.win_prob)]
    return match(PROMPT, drawn(*texts), comparison, SelfPlayConfig(**settings), ties, seed)


def scores(comparison: Comparison, **settings) -> list[float | None]:
    everyone = range(len(comparison.win_prob))
    return side_scores(comparison, SelfPlayConfig(**settings), everyone)


def sides(preferences) -> list[tuple[str, str, float]]:
    return [(p.chosen.text, p.rejected.text, pytest.approx(p.win_prob)) for p in preferences]


# --- matrices -----------------------------------------------------------------------------------


def test_scores_become_bradley_terry_probabilities():
    verdict = Judgement((2.0, 1.0, 0.0, -1.0, -0.5), "test@1")
    found = compared(verdict, drawn(*"abcde"), SelfPlayConfig())
    assert found.win_prob[0][3] == pytest.approx(0.952574, abs=1e-6)
    means = scores(found)
    assert means == pytest.approx([0.797714, 0.639674, 0.448332, 0.262622, 0.351657], abs=1e-6)
    assert sum(means) == pytest.approx(5 / 2)
    others = scores(found, include_self=False)
    assert (others[0], others[3]) == pytest.approx((0.872143, 0.203278), abs=1e-6)


def test_at_temperature_0_the_higher_score_wins_and_equal_ones_tie():
    verdict = Judgement((1.0, 0.0, 1.0, None), "test@1")
    found = compared(verdict, drawn(*"abcd"), SelfPlayConfig(bt_temperature=0))
    assert found.win_prob[:3] == (
        (0.5, 1.0, 0.5, None),
        (0.0, 0.5, 0.0, None),
        (0.5, 1.0, 0.5, None),
    )
    assert found.win_prob[3] == (None,) * 4
    # Of the six pairs, the three with the last completion.
    assert sum(found.failed) == 3


def test_log_odds_are_those_of_each_opponent_and_0_against_oneself():
    # Embeddings v=(1,.2),(.6,.5),(-.3,.8) score .38, .86 and .63: sigma of those are the matrix.
    comparison = matrix(0.5938731, 0.7026606, 0.6524895)
    assert scores(comparison, score=Score.log_odds) == pytest.approx(
        [0.413333, 0.083333, -0.496667], abs=1e-5
    )


def test_certain_wins_have_finite_log_odds():
    (won, lost) = scores(matrix(1.0), score=Score.log_odds)
    # Mean of ln(10^6) and, against oneself, 0.
    assert won == pytest.approx(6.9077554, abs=1e-5) and lost == pytest.approx(-won, abs=1e-5)


def test_a_matrix_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match=r"prefers 0 to 1 with 0\.7 and 1 to 0 with 0\.7"):
        Comparison(((0.5, 0.7), (0.7, 0.5)), "test@1")


def test_a_penalised_completion_loses_to_all_that_ended():
    cut = drawn("a", "b", "c", truncated=frozenset({0, 2}))
    config = SelfPlayConfig(truncated=Truncated.penalise)
    found = compared(matrix(0.9, 0.8, 0.3), cut, config).win_prob
    assert found == ((0.5, 0.0, 0.8), (1.0, 0.5, 1.0), (pytest.approx(0.2), 0.0, 0.5))


# --- pairs --------------------------------------------------------------------------------------

CYCLE = matrix(0.9, 0.2, 0.7)
"""a beats b, b beats c, c beats a; means with itself: .5333, .4333, .5333."""


def test_soft_labels_keep_the_probability():
    preferences, dropped = play(CYCLE, rule=SelfPlayRule.all_pairs)
    assert sides(preferences) == [("a", "b", 0.9), ("c", "a", 0.8), ("b", "c", 0.7)]
    assert [p.weight for p in preferences] == [1 / 3] * 3 and not dropped
    assert preferences[0].chosen.score == pytest.approx(1.6 / 3)


def test_hard_labels_are_certain():
    preferences, _ = play(CYCLE, rule=SelfPlayRule.all_pairs, label=Label.hard)
    assert sides(preferences) == [("a", "b", 1), ("c", "a", 1), ("b", "c", 1)]


def test_all_pairs_of_two_sides_are_those_between_them():
    own, mixed = drawn("a", "b"), drawn("c", "d")
    mixed = tuple(replace(one, mixture=0.125) for one in mixed)
    config = SelfPlayConfig(rule=SelfPlayRule.all_pairs)
    preferences, dropped = match(PROMPT, own + mixed, matrix(*[0.6] * 6), config, False, 0)
    assert sides(preferences) == [(a, b, 0.6) for a in "ab" for b in "cd"] and not dropped


def test_sampled_labels_follow_the_probability_and_the_seed():
    wins = sum(
        play(matrix(0.7), seed, rule=SelfPlayRule.iid, label=Label.sampled)[0][0].chosen.text == "a"
        for seed in range(2000)
    )
    # 1400 expected; the standard deviation is sqrt(2000 * .21) = 20.5.
    assert abs(wins - 1400) < 82
    again = [play(CYCLE, 5, label=Label.sampled) for _ in range(2)]
    assert again[0] == again[1]


def test_best_meets_worst_by_mean_even_where_the_pair_itself_says_otherwise():
    # Means against the others: a .55, b .5, c .45; and yet c beats a.
    preferences, _ = play(matrix(0.7, 0.4, 0.7))
    assert sides(preferences) == [("a", "c", 0.4)]
    hard, _ = play(matrix(0.7, 0.4, 0.7), label=Label.hard)
    assert sides(hard) == [("a", "c", 1)]


def test_iid_pairs_are_neighbours_and_an_odd_one_stays_out():
    preferences, _ = play(matrix(*[0.6] * 10), rule=SelfPlayRule.iid)
    assert sides(preferences) == [("a", "b", 0.6), ("c", "d", 0.6)]


def test_what_is_dropped_is_counted():
    same = drawn("same", "same")
    identical = match(PROMPT, same, matrix(0.5), SelfPlayConfig(rule=SelfPlayRule.iid), False, 0)
    assert [one.reason for one in identical[1]] == [DropReason.IDENTICAL]
    tie = play(matrix(0.5), rule=SelfPlayRule.iid, label=Label.hard)
    assert [one.reason for one in tie[1]] == [DropReason.TIE]
    failed = play(matrix(None, 0.6, 0.6), rule=SelfPlayRule.all_pairs)
    assert [one.reason for one in failed[1]] == [DropReason.JUDGE_FAILED]
    assert [p.weight for p in failed[0]] == [0.5, 0.5]
    alone = play(matrix(None))
    assert [one.reason for one in alone[1]] == [DropReason.JUDGE_FAILED] * 2 + [
        DropReason.SHORT_GROUP
    ]
    cut = drawn("a", "b", "c", truncated=frozenset({1}))
    every_two = SelfPlayConfig(rule=SelfPlayRule.all_pairs)
    preferences, dropped = match(PROMPT, cut, CYCLE, every_two, False, 0)
    assert sides(preferences) == [("c", "a", 0.8)]
    assert [(one.reason, one.rejected.text) for one in dropped] == [(DropReason.TRUNCATED, "b")]


def test_who_drops_out_leaves_the_other_pairs_as_they_were():
    cut = drawn(*"abcd", truncated=frozenset({1}))
    config = SelfPlayConfig(rule=SelfPlayRule.iid)
    preferences, dropped = match(PROMPT, cut, matrix(*[0.6] * 6), config, False, 0)
    assert sides(preferences) == [("c", "d", 0.6)] and len(dropped) == 1


def test_a_soft_tie_of_a_pair_is_kept_since_it_draws_the_sides_together():
    preferences, dropped = play(matrix(0.5), rule=SelfPlayRule.iid)
    assert sides(preferences) == [("a", "b", 0.5)] and not dropped


# --- who learns from ties -----------------------------------------------------------------------


@pytest.mark.parametrize("label", Label)
@pytest.mark.parametrize("rule", SelfPlayRule)
def test_equal_texts_are_kept_as_a_draw_where_they_have_a_gradient(rule, label):
    """Whatever the judge says of a text against itself, and though it fails."""
    same, config = drawn("same", "same"), SelfPlayConfig(rule=rule, label=label)
    (kept,), dropped = match(PROMPT, same, matrix(0.9), config, True, 0)
    assert (kept.win_prob, kept.weight, dropped) == (0.5, 1.0, ())
    three = drawn("same", "same", "other")
    failed = matrix(None, 0.5, 0.5)
    pairs, _ = match(PROMPT, three, failed, replace(config, rule=SelfPlayRule.all_pairs), True, 0)
    assert sides(pairs)[0] == ("same", "same", 0.5) and pairs[0].weight == pytest.approx(1 / 3)


def test_hard_ties_are_kept_as_a_draw_and_soft_ones_of_the_ranking_with_their_probability():
    (hard,), _ = play(matrix(0.5), ties=True, rule=SelfPlayRule.iid, label=Label.hard)
    assert sides([hard]) == [("a", "b", 0.5)]
    # a and b have .7 and .3 against each other, and .5 all in all, as c has.
    level = matrix(0.7, 0.3, 0.7)
    assert scores(level) == pytest.approx([0.5] * 3)
    (soft,), _ = play(level, ties=True)
    assert sides([soft]) == [("a", "c", 0.3)]
    (certain,), _ = play(level, ties=True, label=Label.hard)
    assert sides([certain]) == [("a", "c", 0.5)]
    assert [one.reason for one in play(level)[1]] == [DropReason.TIE]


# --- who takes no part --------------------------------------------------------------------------


@pytest.mark.parametrize("score", Score)
def test_who_is_cut_off_counts_in_nobody_s_score(score):
    """a loses to c, which beats everybody but met the token limit."""
    judged, config = matrix(0.8, 0.0, 0.0), SelfPlayConfig(score=score)
    cut = drawn("a", "b", "c", truncated=frozenset({2}))
    (with_cut,), dropped = match(PROMPT, cut, judged, config, False, 0)
    (alone,), _ = match(PROMPT, drawn("a", "b"), matrix(0.8), config, False, 0)
    assert with_cut.chosen.score == pytest.approx(alone.chosen.score)
    assert with_cut.rejected.score == pytest.approx(alone.rejected.score)
    assert [one.reason for one in dropped] == [DropReason.TRUNCATED]
    if score is Score.win_prob:
        assert with_cut.chosen.score == pytest.approx((0.8 + 0.5) / 2)


def test_who_is_left_alone_was_not_failed_by_the_judge():
    cut = drawn("a", "b", truncated=frozenset({1}))
    preferences, dropped = match(PROMPT, cut, matrix(0.6), SelfPlayConfig(), False, 0)
    assert not preferences
    assert [one.reason for one in dropped] == [DropReason.TRUNCATED, DropReason.SHORT_GROUP]


def test_a_failure_on_one_that_is_cut_off_costs_nobody():
    cut = drawn("a", "b", "c", truncated=frozenset({2}))
    (kept,), dropped = match(PROMPT, cut, matrix(0.6, None, None), SelfPlayConfig(), False, 0)
    assert sides([kept]) == [("a", "b", 0.6)] and len(dropped) == 1
    # But who was compared with nobody else has no score.
    judged = matrix(None, None, 0.6)
    assert [one.reason for one in match(PROMPT, cut, judged, SelfPlayConfig(), False, 0)[1]] == [
        DropReason.JUDGE_FAILED,
        DropReason.JUDGE_FAILED,
        DropReason.TRUNCATED,
        DropReason.SHORT_GROUP,
    ]


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=6, max_size=6),
    st.sampled_from(SelfPlayRule),
    st.sampled_from(Label),
    st.integers(0, 99),
)
def test_weights_are_one_prompt_s_and_every_pair_ends_somewhere(values, rule, label, seed):
    preferences, dropped = play(matrix(*values), seed, rule=rule, label=label)
    if preferences:
        assert sum(p.weight for p in preferences) == pytest.approx(1)
    for preference in preferences:
        assert 0 <= preference.win_prob <= 1
        assert label is Label.soft or preference.win_prob == 1
        assert rule is SelfPlayRule.best_worst or preference.win_prob >= 0.5
        assert preference.chosen.text != preference.rejected.text
    assert preferences or dropped
