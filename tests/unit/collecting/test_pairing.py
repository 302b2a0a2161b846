"""Pairing by each rule on groups small enough to pair by eye, and what holds for any group."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.algorithms.online import OnlineDPOConfig
from rlhf.collecting.pairing import PairRule, pair
from rlhf.collecting.truncated import Truncated
from rlhf.records import (
    Comparison,
    Completion,
    Dropped,
    DropReason,
    Judgement,
    Message,
    Preference,
    Prompt,
)

PROMPT = Prompt(id="p7", messages=(Message("user", "1+1="),), token_ids=(1, 2))

Group = tuple[list[Completion], Judgement]
Paired = tuple[tuple[Preference, ...], tuple[Dropped, ...]]


def completion(
    sample: int, text: str | None = None, truncated: bool = False, prompt_id: str = "p7"
) -> Completion:
    """With a text of its own unless given one."""
    text = f"answer {sample}" if text is None else text
    return Completion(
        prompt_id=prompt_id,
        sample=sample,
        token_ids=tuple(text.encode()) + (() if truncated else (0,)),
        logprobs=(),
        text=text,
        truncated=truncated,
        policy_version=3,
    )


def judged(*scores: float | None) -> Judgement:
    return Judgement(scores=scores, judge="verifier/integer@1")


def group(*scores: float | None, truncated: Sequence[int] = ()) -> Group:
    """Distinct completions with these scores, of which some are truncated."""
    return [completion(i, truncated=i in truncated) for i in range(len(scores))], judged(*scores)


def samples(preferences: Sequence[Preference]) -> list[tuple[int, int]]:
    return [(one.chosen.completion.sample, one.rejected.completion.sample) for one in preferences]


def drops(dropped: Sequence[Dropped]) -> list[tuple[str, int | None, int | None]]:
    return [
        (
            one.reason.value,
            one.chosen.sample if one.chosen else None,
            one.rejected.sample if one.rejected else None,
        )
        for one in dropped
    ]


def pair_up(given_group: Group, config: OnlineDPOConfig, seed: int = 0) -> Paired:
    return pair(PROMPT, *given_group, config, seed)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Up to seven completions in any order, with failures, repeats and truncation."""
    num_completions = draw(st.integers(0, 7))
    completions = [
        completion(
            sample,
            text=draw(st.sampled_from(["a", "b", "c", "d", "e", "f"])),
            truncated=draw(st.booleans()),
        )
        for sample in draw(st.permutations(range(num_completions)))
    ]
    scores = st.sampled_from([None, math.nan, -1.0, 0.0, 0.2, 0.3, 1.0])
    return completions, judged(*(draw(scores) for _ in completions))


configs = st.builds(
    OnlineDPOConfig,
    rule=st.sampled_from(PairRule),
    truncated=st.sampled_from(Truncated),
    min_margin=st.sampled_from([0.0, 0.15, 1.0]),
    min_group=st.integers(2, 4),
)
seeds = st.integers(0, 2**32)


# --- the rules ----------------------------------------------------------------------------------


def test_best_worst_takes_the_extremes() -> None:
    preferences, dropped = pair_up(group(0.4, -2.0, 3.0, 0.0), OnlineDPOConfig())
    (only,) = preferences
    assert (only.prompt, only.chosen.text, only.rejected.text) == (
        PROMPT,
        "answer 2",
        "answer 1",
    )
    assert (only.chosen.score, only.rejected.score, only.margin) == (3.0, -2.0, 5.0)
    assert (only.judge, only.weight) == ("verifier/integer@1", 1.0)
    assert dropped == ()


def test_best_worst_breaks_ties_by_sample_index() -> None:
    preferences, _ = pair_up(group(0.0, 1.0, 0.0, 1.0), OnlineDPOConfig())
    assert samples(preferences) == [(1, 2)]


def test_all_pairs_takes_every_strict_order() -> None:
    config = OnlineDPOConfig(rule=PairRule.all_pairs)
    preferences, dropped = pair_up(group(1.0, 0.0, 2.0, 1.0), config)
    assert set(samples(preferences)) == {(2, 0), (2, 3), (2, 1), (0, 1), (3, 1)}
    assert [one.weight for one in preferences] == pytest.approx([0.2] * 5)
    assert drops(dropped) == [("tie", 0, 3)]


def test_all_pairs_of_two_are_best_worst() -> None:
    both = group(0.0, 1.0)
    assert pair_up(both, OnlineDPOConfig(rule=PairRule.all_pairs)) == pair_up(
        both, OnlineDPOConfig()
    )


def test_correct_wrong_draws_from_both_sets_alike() -> None:
    config = OnlineDPOConfig(rule=PairRule.correct_wrong)
    mixed = group(1.0, 0.0, 1.0, 0.5, 0.0)
    drawn = Counter(
        pair for seed in range(600) for pair in samples(pair_up(mixed, config, seed)[0])
    )
    assert set(drawn) == {(best, lower) for best in (0, 2) for lower in (1, 3, 4)}
    assert all(60 < count < 140 for count in drawn.values())  # 100 expected, standard deviation 9


def test_correct_wrong_passes_over_what_ties_with_the_best() -> None:
    config = OnlineDPOConfig(rule=PairRule.correct_wrong, min_margin=0.5)
    near = group(1.0, 0.9, 0.8, 0.0)
    assert all(samples(pair_up(near, config, seed)[0]) == [(0, 3)] for seed in range(20))


@pytest.mark.parametrize("rule", PairRule)
def test_rules_follow_the_seed_alone(rule: PairRule) -> None:
    config = OnlineDPOConfig(rule=rule)
    random.seed(1)
    first = pair_up(group(1.0, 0.0, 1.0, 0.0), config, seed=11)
    state = random.getstate()
    random.seed(2)
    assert pair_up(group(1.0, 0.0, 1.0, 0.0), config, seed=11) == first
    random.setstate(state)
    pair_up(group(1.0, 0.0, 1.0, 0.0), config, seed=12)
    assert random.getstate() == state


# --- what is dropped ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [PairRule.best_worst, PairRule.correct_wrong])
def test_a_tied_group_drops_one_pair(rule: PairRule) -> None:
    preferences, dropped = pair_up(group(1.0, 1.0, 1.0), OnlineDPOConfig(rule=rule))
    assert preferences == ()
    assert drops(dropped) == [("tie", 0, 2)]


@pytest.mark.parametrize(("gap", "num_kept"), [(0.25, 0), (0.5, 0), (0.75, 1)])
@pytest.mark.parametrize("rule", PairRule)
def test_margins_up_to_the_minimum_are_ties(rule: PairRule, gap: float, num_kept: int) -> None:
    config = OnlineDPOConfig(rule=rule, min_margin=0.5)
    preferences, dropped = pair_up(group(gap, 0.0), config)
    assert len(preferences) == num_kept
    assert [one.reason for one in dropped] == [DropReason.TIE] * (1 - num_kept)


@pytest.mark.parametrize("scores", [(1.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("rule", PairRule)
def test_identical_sides_are_dropped(rule: PairRule, scores: tuple[float, float]) -> None:
    same = [completion(0, "2"), completion(1, "2")], judged(*scores)
    preferences, dropped = pair_up(same, OnlineDPOConfig(rule=rule))
    assert preferences == ()
    assert drops(dropped) == [("identical", 0, 1)]


def test_text_alone_or_tokens_alone_make_sides_identical() -> None:
    config = OnlineDPOConfig(truncated=Truncated.keep)
    same_text = [completion(0, "2"), completion(1, "2", truncated=True)]
    assert same_text[0].token_ids != same_text[1].token_ids
    same_tokens = [
        Completion("p7", sample, (9, 0), (), text, False, 0)
        for sample, text in ((0, "x"), (1, "y"))
    ]
    for completions in (same_text, same_tokens):
        preferences, dropped = pair_up((completions, judged(1.0, 0.0)), config)
        assert preferences == ()
        assert drops(dropped) == [("identical", 0, 1)]


def test_weights_count_kept_pairs_only() -> None:
    config = OnlineDPOConfig(rule=PairRule.all_pairs)
    completions = [completion(0, "2"), completion(1, "2"), completion(2, "3")]
    preferences, dropped = pair_up((completions, judged(1.0, 0.5, 0.0)), config)
    assert [(one.chosen.completion.sample, one.weight) for one in preferences] == [
        (0, 0.5),
        (1, 0.5),
    ]
    assert drops(dropped) == [("identical", 0, 1)]


def test_truncated_completions_are_dropped() -> None:
    preferences, dropped = pair_up(group(5.0, 1.0, 0.0, -5.0, truncated=(0, 3)), OnlineDPOConfig())
    assert samples(preferences) == [(1, 2)]
    assert drops(dropped) == [("truncated", None, 0), ("truncated", None, 3)]


def test_who_is_cut_off_counts_in_no_score_of_a_matrix() -> None:
    """a beats b; against c, which beats a and loses to b, b would be the better one."""
    rows = ((0.5, 0.7, 0.0), (0.3, 0.5, 0.9), (1.0, 0.1, 0.5))
    completions, _ = group(0.0, 0.0, 0.0, truncated=(2,))
    preferences, dropped = pair_up((completions, Comparison(rows, "pair@1")), OnlineDPOConfig())
    assert samples(preferences) == [(0, 1)]
    assert (preferences[0].chosen.score, preferences[0].rejected.score) == (0.7, 0.3)
    assert drops(dropped) == [("truncated", None, 2)]
    completions, _ = group(0.0, 0.0, 0.0, truncated=(0, 2))
    _, dropped = pair_up((completions, Comparison(rows, "pair@1")), OnlineDPOConfig())
    assert drops(dropped) == [
        ("truncated", None, 0),
        ("truncated", None, 2),
        ("short_group", None, None),
    ]


def test_penalised_truncation_takes_the_lowest_score() -> None:
    config = OnlineDPOConfig(truncated=Truncated.penalise)
    preferences, dropped = pair_up(group(1.0, 0.25, 5.0, truncated=(2,)), config)
    (only,) = preferences
    assert (only.chosen.completion.sample, only.rejected.completion.sample) == (0, 2)
    assert (only.chosen.score, only.rejected.score) == (1.0, 0.25)
    assert dropped == ()


@pytest.mark.parametrize("rule", PairRule)
def test_all_penalised_is_a_tie(rule: PairRule) -> None:
    config = OnlineDPOConfig(rule=rule, truncated=Truncated.penalise)
    preferences, dropped = pair_up(group(1.0, 0.0, truncated=(0, 1)), config)
    assert preferences == ()
    assert [one.reason for one in dropped] == [DropReason.TIE]


def test_kept_truncation_may_win() -> None:
    config = OnlineDPOConfig(truncated=Truncated.keep)
    preferences, dropped = pair_up(group(1.0, 0.0, truncated=(0,)), config)
    assert samples(preferences) == [(0, 1)]
    assert dropped == ()


@pytest.mark.parametrize("failure", [None, math.nan, math.inf, -math.inf])
def test_a_failed_judgement_is_missing_rather_than_bad(failure: float | None) -> None:
    preferences, dropped = pair_up(group(1.0, failure, 0.0), OnlineDPOConfig())
    assert samples(preferences) == [(0, 2)]
    assert drops(dropped) == [("judge_failed", None, 1)]


def test_a_failed_judgement_is_not_penalised_either() -> None:
    config = OnlineDPOConfig(truncated=Truncated.penalise)
    preferences, dropped = pair_up(group(1.0, 0.0, None, truncated=(2,)), config)
    assert samples(preferences) == [(0, 1)]
    assert drops(dropped) == [("judge_failed", None, 2)]


@pytest.mark.parametrize("rule", PairRule)
def test_a_short_group_is_dropped_once(rule: PairRule) -> None:
    config = OnlineDPOConfig(rule=rule, min_group=3)
    preferences, dropped = pair_up(group(1.0, 0.0, None, 0.5, truncated=(3,)), config)
    assert preferences == ()
    assert drops(dropped) == [
        ("judge_failed", None, 2),
        ("truncated", None, 3),
        ("short_group", None, None),
    ]
    assert len(pair_up(group(1.0, 0.0, 0.0), OnlineDPOConfig(min_group=3))[0]) == 1


# --- what does not belong together --------------------------------------------------------------


def test_a_strangers_completion_is_refused() -> None:
    completions = [completion(0), completion(1, prompt_id="p8"), completion(2)]
    mixed = completions, judged(1.0, 0.5, 0.0)
    with pytest.raises(ValueError, match=r"prompt 'p7' was given completions of \['p8'\]"):
        pair_up(mixed, OnlineDPOConfig())


@pytest.mark.parametrize("scores", [(1.0,), (1.0, 0.0, 0.5)])
def test_a_wrong_number_of_scores_is_refused(scores: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="'p7' has 2 completions"):
        pair_up(([completion(0), completion(1)], judged(*scores)), OnlineDPOConfig())


def test_a_repeated_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="'p7' has two completions with the same sample"):
        pair_up(([completion(0, "a"), completion(0, "b")], judged(1.0, 0.0)), OnlineDPOConfig())


def test_a_completion_without_tokens_is_refused() -> None:
    empty = [completion(0), completion(1, text="", truncated=True)], judged(1.0, 0.0)
    with pytest.raises(ValueError, match="'p7' has a completion without tokens"):
        pair_up(empty, OnlineDPOConfig())


# --- what holds for any group -------------------------------------------------------------------


@given(any_group=groups(), config=configs, seed=seeds)
def test_preferences_are_sound(any_group: Group, config: OnlineDPOConfig, seed: int) -> None:
    preferences, _ = pair_up(any_group, config, seed)
    for one in preferences:
        assert one.chosen.score - one.rejected.score > config.min_margin
        assert one.chosen.text != one.rejected.text
        assert config.truncated is Truncated.keep or not one.chosen.completion.truncated
        assert config.truncated is not Truncated.drop or not one.rejected.completion.truncated
    assert sum(one.weight for one in preferences) == pytest.approx(1.0 if preferences else 0.0)
    assert len(set(samples(preferences))) == len(preferences)


@given(any_group=groups(), config=configs, seed=seeds)
def test_scores_are_the_judges_unless_penalised(
    any_group: Group, config: OnlineDPOConfig, seed: int
) -> None:
    completions, judgement = any_group
    said = {one.sample: score for one, score in zip(completions, judgement.scores, strict=True)}
    for one in pair_up(any_group, config, seed)[0]:
        assert one.chosen.score == said[one.chosen.completion.sample]
        if not (one.rejected.completion.truncated and config.truncated is Truncated.penalise):
            assert one.rejected.score == said[one.rejected.completion.sample]


@given(any_group=groups(), config=configs, seed=seeds)
def test_counts_add_up(any_group: Group, config: OnlineDPOConfig, seed: int) -> None:
    completions, judgement = any_group
    preferences, dropped = pair_up(any_group, config, seed)
    counts = Counter(one.reason for one in dropped)
    num_truncated = sum(one.truncated for one in completions)
    assert counts[DropReason.TRUNCATED] == (
        num_truncated if config.truncated is Truncated.drop else 0
    )
    assert counts[DropReason.JUDGE_FAILED] == sum(
        (score is None or math.isnan(score))
        and not (one.truncated and config.truncated is Truncated.drop)
        for one, score in zip(completions, judgement.scores, strict=True)
    )
    alone = counts[DropReason.TRUNCATED] + counts[DropReason.JUDGE_FAILED]
    num_usable = len(completions) - alone
    short = num_usable < config.min_group
    all_pairs = config.rule is PairRule.all_pairs
    would_be = 0 if short else math.comb(num_usable, 2) if all_pairs else 1
    paired = len(preferences) + counts[DropReason.TIE] + counts[DropReason.IDENTICAL]
    assert counts[DropReason.SHORT_GROUP] == short
    assert paired == would_be


@given(any_group=groups(), config=configs, seed=seeds, order=st.randoms(use_true_random=False))
def test_order_of_completions_does_not_matter(
    any_group: Group, config: OnlineDPOConfig, seed: int, order: random.Random
) -> None:
    completions, judgement = any_group
    rows = list(zip(completions, judgement.scores, strict=True))
    order.shuffle(rows)
    shuffled = [row[0] for row in rows], judged(*(row[1] for row in rows))
    assert pair_up(shuffled, config, seed) == pair_up(any_group, config, seed)


@pytest.mark.parametrize("rule", PairRule)
def test_order_does_not_matter_among_ties(rule: PairRule) -> None:
    completions, judgement = group(1.0, 0.0, 1.0, 0.0)
    rows = list(zip(completions, judgement.scores, strict=True))
    outcomes = {
        pair_up(([c for c, _ in some], judged(*(s for _, s in some))), OnlineDPOConfig(rule=rule))
        for some in permutations(rows)
    }
    assert len(outcomes) == 1
