"""Groups that are ranked beside one of theirs: K - 1 questions, and what follows for all pairs."""

import math
from collections.abc import Sequence

import pytest

from rlhf.algorithms.self_play import SelfPlay, SelfPlayConfig
from rlhf.collecting.baseline import LEAST_PROB, against_one
from rlhf.collecting.matching import Matching, SelfPlayRule
from rlhf.collecting.truncated import Truncated
from rlhf.records import Asked, Comparison, Completion, Judgement, Message, Prompt, Sampling

PROMPT = Prompt("p", (Message("user", "?"),), (1,))


def group(*texts: str, cut: Sequence[int] = ()) -> tuple[Completion, ...]:
    drawn = enumerate(texts)
    return tuple(Completion("p", i, (i, 9), (0.0, 0.0), t, i in cut, 0) for i, t in drawn)


class Prefers:
    """A judge of pairs, by how likely a text beats the baseline; None where it fails."""

    def __init__(self, **wins: float | None) -> None:
        self.wins = wins
        self.asked: list[tuple[str, ...]] = []

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Comparison:
        self.asked.append(tuple(one.text for one in completions))
        win = self.wins[completions[0].text]
        lost = None if win is None else 1 - win
        rows = ((0.5, win), (lost, 0.5))
        parts = {"taste": (win, lost)}
        failures = {"taste": (win is None,)}
        return Comparison(rows, "pair@1", 0.2, parts, ("so", "else"), failures, 7)


async def test_each_is_asked_about_beside_one_and_the_rest_follows():
    """b beats a with .8 and c with .4: odds of 4 and 2/3, so that b beats c with 6 : 1."""
    judge = Prefers(b=0.8, c=0.4)
    found = await against_one(judge, PROMPT, group("a", "b", "c"), Matching())
    assert judge.asked == [("b", "a"), ("c", "a")]
    assert found.win_prob[0] == pytest.approx((0.5, 0.2, 0.6))
    assert found.win_prob[1] == pytest.approx((0.8, 0.5, 6 / 7))
    assert found.order_disagreement == pytest.approx(0.2) and found.num_written_tokens == 14
    # Of the baseline a part of one comparison says nothing in general.
    assert found.parts == {"taste": (None, 0.8, 0.4)}
    assert found.reasons == ("", "so", "so")
    assert found.member_failures == {"taste": (False, False)}


async def test_who_fails_beside_it_is_compared_with_nobody_and_nothing_is_certain():
    found = await against_one(Prefers(b=None, c=1.0), PROMPT, group("a", "b", "c"), Matching())
    assert found.win_prob[1] == (None, None, None)
    assert found.win_prob[2][0] == pytest.approx(1 - LEAST_PROB)


@pytest.mark.parametrize(
    ("truncated", "asked"),
    [
        (Truncated.drop, [("c", "b"), ("d", "b")]),
        (Truncated.penalise, [("a", "b"), ("c", "b"), ("d", "b")]),
    ],
)
async def test_a_completion_that_was_cut_is_no_baseline(truncated, asked):
    judge = Prefers(a=0.9, c=0.8, d=0.5)
    found = await against_one(
        judge, PROMPT, group("a", "b", "c", "d", cut=[0]), Matching(truncated=truncated)
    )
    assert judge.asked == asked
    assert found.win_prob[2][1] == pytest.approx(0.8)
    lost = None if truncated is Truncated.drop else pytest.approx(LEAST_PROB)
    assert found.win_prob[0][1] == lost
    alone = Prefers(b=0.5)
    await against_one(alone, PROMPT, group("a", "b", cut=[0, 1]), Matching(truncated=truncated))
    assert alone.asked == [("b", "a")]


async def test_a_judge_of_scores_gives_the_win_probabilities_that_they_always_have():
    class Scores:
        async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Judgement:
            scores = tuple(float(len(one.text)) for one in completions)
            return Judgement(scores, "length@1", {"length": scores})

    found = await against_one(Scores(), PROMPT, group("a", "bb", "cccc"), Matching())
    assert found.win_prob[2][1] == pytest.approx(1 / (1 + math.exp(-2)))
    assert found.parts == {"length": (1.0, 2.0, 4.0)}


async def test_the_best_meets_the_worst_and_the_next_the_next():
    class Rollout:
        async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
            return group("a", "b", "c", "d", "e")

    judge = Prefers(b=0.9, c=0.2, d=0.7, e=0.3)
    config = SelfPlayConfig(num_completions=5, rule=SelfPlayRule.ranked)
    played = SelfPlay(Rollout(), judge, Sampling(5, 4), config, learns_from_ties=False)
    found = await played.collect(Asked(PROMPT, 1))
    sides = [(one.chosen.text, one.rejected.text) for one in found.preferences]
    assert sides == [("b", "c"), ("d", "e")]
    # Odds of 9 against 1/4, and of 7/3 against 3/7.
    assert [one.win_prob for one in found.preferences] == pytest.approx([36 / 37, 49 / 58])
    assert [one.weight for one in found.preferences] == [0.5, 0.5]
    assert len(judge.asked) == 4
