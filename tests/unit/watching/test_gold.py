"""A gold judge sees the same answers as the judge, and its numbers stand beside, not instead."""

import asyncio
from collections.abc import Sequence

import pytest

from rlhf.records import Comparison, Completion, Judgement, Message, Prompt, Sampling, Verdict
from rlhf.report.plots import sections
from rlhf.watching.evaluation import Heldout, ScoreEvaluation, WinRateEvaluation
from rlhf.watching.gold import GoldEvaluation, SharedAnswers
from rlhf.watching.metric_names import describe
from rlhf.watching.metrics import ACCURACY, headline
from rlhf.watching.panels import read_curves

PROMPTS = [Prompt(id, (Message("user", "?"),), (1,)) for id in "abc"]


class Counts:
    """A rollout that says which generation of answers it has, and how often it was asked."""

    def __init__(self) -> None:
        self.version = self.asked = 0

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        self.asked += 1
        await asyncio.sleep(0)
        return tuple(
            Completion(prompt.id, i, (i, 5), (0.0, 0.0), f"{i}", False, self.version)
            for i in range(sampling.num_completions)
        )


class Likes:
    """Scores all answers alike, by the version of the policy."""

    def __init__(self, sign: float) -> None:
        self.sign, self.seen = sign, []

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        self.seen += completions
        scores = tuple(self.sign * one.policy_version for one in completions)
        return Judgement(scores, "likes@1", {"tone": scores})


class Prefers:
    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        return Comparison(((0.5, 0.75), (0.25, 0.5)), "prefers@1")


def both(rollout: Counts, gold_judge, tmp_path, shares=None) -> GoldEvaluation:
    shared = SharedAnswers(rollout)
    kept = tmp_path / "initial.json"
    heldout = Heldout(shared, PROMPTS, Sampling(2, 8), 1, kept)
    own = ScoreEvaluation(heldout, Likes(1.0), shares)
    if isinstance(gold_judge, Prefers):
        return GoldEvaluation(own, WinRateEvaluation(heldout, gold_judge, kept), shared)
    return GoldEvaluation(own, ScoreEvaluation(heldout, gold_judge, None), shared)


def test_both_judge_the_same_answers_which_are_drawn_once_an_evaluation(tmp_path):
    rollout, gold = Counts(), Likes(-2.0)
    evaluation = both(rollout, gold, tmp_path)
    asyncio.run(evaluation.evaluate())
    assert rollout.asked == 2 * len(PROMPTS)  # sampled and greedy
    rollout.version = 3
    found = asyncio.run(evaluation.evaluate())
    assert rollout.asked == 4 * len(PROMPTS)
    assert (found["score_mean"], found["gold_score_mean"]) == (3.0, -6.0)
    assert (found["part_tone"], found["gold_part_tone"]) == (3.0, -6.0)
    assert {one.policy_version for one in gold.seen} == {0, 3}


@pytest.mark.parametrize("gold", [Likes(1.0), Prefers()])
def test_what_is_told_once_is_not_told_of_gold_and_the_rest_is_documented(gold, tmp_path):
    found = asyncio.run(both(Counts(), gold, tmp_path, ACCURACY).evaluate())
    of_gold = {name for name in found if name.startswith("gold_")}
    assert of_gold & {"gold_score_mean", "gold_win_rate"}
    assert "gold_length_mean" not in of_gold and "length_mean" in found
    assert all(describe(f"eval/{name}") for name in found)
    assert headline(found) in of_gold


def test_where_both_measure_alike_their_curves_are_in_one_plot():
    names = {"eval/score_mean": 1.0, "eval/gold_score_mean": 0.5}
    (section,) = sections(read_curves([{"round": 0, **names}]), None)
    (plot,) = section.plots
    assert [line.label for line in plot.lines] == ["mean score of the judge", "the gold judge"]
