"""Which signs of ruin are found, after how many rounds, and which are none."""

import pytest

from rlhf.watching.collapse import PATIENCE, Collapse

WELL = {
    "preference/count": 8,
    "preference/dropped_tie": 2,
    "rollout/truncated_rate": 0.1,
    "rollout/entropy": 0.5,
}


def lasting(*rounds: dict) -> list[tuple[str, int]]:
    """What counts after those rounds: title, and rounds in a row."""
    collapse = Collapse()
    for number, one in enumerate(rounds):
        signs = collapse.signs(WELL | {"judge/score_mean": 0.1 * number} | one)
    return [(sign.title, sign.rounds) for sign in signs if sign.is_lasting]


@pytest.mark.parametrize(
    "wrong, title",
    [
        ({"preference/count": 0}, "Nothing is left to learn from"),
        ({"rollout/truncated_rate": 1.0}, "The policy does not end its answers"),
        ({"rollout/entropy": 1e-4}, "The policy says one thing only"),
        ({"judge/score_mean": 0.25}, "The judge says one thing only"),
    ],
)
def test_a_sign_counts_once_it_has_lasted(wrong, title):
    # Of a score that stays the same, the second round is the first to say so.
    first = "judge" in next(iter(wrong))
    needed = PATIENCE + first
    assert lasting({}, *[wrong] * (needed - 1)) == []
    assert lasting({}, *[wrong] * needed) == [(title, PATIENCE)]
    assert lasting({}, *[wrong] * needed, wrong) == [(title, PATIENCE + 1)]
    assert lasting({}, *[wrong] * needed, {}) == []
    assert lasting({}, *[wrong] * (needed - 1), {}, wrong) == []


def test_scores_that_differ_may_have_the_same_mean():
    """As those that are standardised within each group, of whatever size."""
    assert lasting(*[{"judge/score_mean": 0.0, "preference/margin_mean": 2.0}] * 9) == []


def test_what_a_run_was_like_from_the_start_is_no_collapse():
    assert lasting(*[{"rollout/truncated_rate": 1.0, "rollout/entropy": 0.0}] * 9) == []


@pytest.mark.parametrize(
    "verdicts, counts",
    [
        ({"judge/tie_rate": 1.0}, True),
        ({"judge/tie_rate": 0.5, "judge/order_disagreement": 1.0}, True),
        ({"judge/tie_rate": 0.5, "judge/order_disagreement": 0.4}, False),
        ({"judge/tie_rate": 0.5}, False),
    ],
)
def test_a_judge_of_pairs_says_one_thing_by_ties_or_by_order(verdicts, counts):
    collapse = Collapse()
    for _ in range(PATIENCE):
        signs = collapse.signs(WELL | verdicts)
    assert any(sign.is_lasting for sign in signs) == counts


def test_ties_that_are_not_in_a_row_are_none():
    collapse, counted = Collapse(), []
    for ties in (1, 0.2) * PATIENCE + (1,) * PATIENCE + (0.2,):
        signs = collapse.signs(WELL | {"judge/tie_rate": ties})
        counted += [s.rounds for s in signs if s.title == "The judge says one thing only"]
    assert counted == [1, 0] * PATIENCE + [*range(1, PATIENCE + 1), 0]


def test_an_evaluation_that_falls_to_nothing_counts_at_once():
    collapse = Collapse()
    values = (0.0, 0.04, 0.0, 0.5, 0.1, 0.0)
    found = [collapse.signs({"eval/sampled_accuracy": value}) for value in values]
    assert [sign.is_lasting for (sign,) in found] == [False] * 5 + [True]
    assert "is 0, after 0.5 at best" in found[-1][0].text
    # 0 is what a score or an exploitability may well be.
    assert not any(
        collapse.signs({f"eval/{name}": 0.0}) for name in ("exploitability", "score_mean")
    )


def test_that_nothing_is_stored_at_all_has_words_of_its_own():
    collapse = Collapse()
    (sign,) = collapse.signs({"preference/count": 0, "preference/dropped_tie": 0})
    assert "what is stored does not grow" in sign.text
    (sign,) = collapse.signs({"preference/count": 0, "preference/dropped_tie": 3})
    assert sign.text.startswith("no preference in 2 rounds: a prompt's completions")
