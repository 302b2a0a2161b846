"""How often a policy beats its initial self: against what it said first, and nothing else."""

import json
from pathlib import Path

import pytest

from rlhf.problems import InputError
from rlhf.records import Comparison, Completion, Judgement, Message, Prompt, Sampling
from rlhf.watching.evaluation import (
    Heldout,
    ScoreEvaluation,
    UnjudgedEvaluation,
    WinRateEvaluation,
    require_initial,
)

PROMPTS = [Prompt(f"p{i}", (Message("user", "?"),), (i,)) for i in range(3)]


class Answers:
    """Answers every prompt with one text."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        return (Completion(prompt.id, 0, (1,), (-1.0,), self.text, False, 0),)


class LongerWins:
    async def judge(self, prompt: Prompt, completions):
        first, second = (len(completion.text) for completion in completions)
        chance = 0.5 if first == second else float(first > second)
        return Comparison(((0.5, chance), (1 - chance, 0.5)), "longer@1", None)


def evaluation(text: str, kept: Path, begins: bool, num: int = 2) -> WinRateEvaluation:
    heldout = Heldout(Answers(text), PROMPTS[:num], Sampling(1, 4), 1, kept if begins else None)
    return WinRateEvaluation(heldout, LongerWins(), kept)


async def test_the_run_s_first_answers_are_kept_and_later_ones_compared_with_them(tmp_path):
    kept = tmp_path / "initial.json"
    assert (await evaluation("aa", kept, begins=True).evaluate())["win_rate"] == 0.5
    assert (await evaluation("aaa", kept, begins=False).evaluate())["win_rate"] == 1
    assert (await evaluation("a", kept, begins=False).evaluate())["win_rate"] == 0
    answer = {"text": "aa", "token_ids": [1], "truncated": False}
    assert json.loads(kept.read_text()) == {"p0": answer, "p1": answer}


class AlikeInTokens:
    """Says which of two has more of them."""

    async def judge(self, prompt: Prompt, completions):
        more = len(completions[0].token_ids) - len(completions[1].token_ids)
        chance = 0.5 + more / 8
        return Comparison(((0.5, chance), (1 - chance, 0.5)), "tokens@1", None)


async def test_judges_that_read_tokens_find_those_of_the_first_answers(tmp_path):
    kept = tmp_path / "initial.json"
    await evaluation("aa", kept, begins=True).evaluate()
    heldout = Heldout(Answers("b"), PROMPTS[:2], Sampling(1, 4), 1, None)
    assert (await WinRateEvaluation(heldout, AlikeInTokens(), kept).evaluate())["win_rate"] == 0.5


async def test_of_older_runs_there_is_the_text_alone(tmp_path):
    kept = tmp_path / "initial.json"
    kept.write_text(json.dumps({"p0": "aa", "p1": None}))
    found = await evaluation("aaa", kept, begins=False).evaluate()
    assert found["win_rate"] == 1


async def test_prompts_that_the_initial_policy_never_answered_are_refused(tmp_path):
    kept = tmp_path / "initial.json"
    with pytest.raises(InputError, match=r"^eval\.gold=llm: compares with .* has not kept that"):
        require_initial(kept, "eval.gold=llm", PROMPTS)
    await evaluation("aa", kept, begins=True).evaluate()
    require_initial(kept, "eval.gold=llm", PROMPTS[:2])
    with pytest.raises(InputError, match=r"^eval\.num_prompts=3: .* to 1 of them \(p2\)"):
        require_initial(kept, "eval.gold=llm", PROMPTS)


class Scores:
    async def judge(self, prompt: Prompt, completions):
        return Judgement((1.0,) * len(completions), "scores@1")


@pytest.mark.parametrize("scores", [True, False])
async def test_a_judge_that_compares_may_come_later_whoever_judged_first(tmp_path, scores: bool):
    kept = tmp_path / "initial.json"
    heldout = Heldout(Answers("aa"), PROMPTS, Sampling(1, 4), 1, kept)
    first = ScoreEvaluation(heldout, Scores(), None) if scores else UnjudgedEvaluation(heldout)
    await first.evaluate()
    require_initial(kept, "eval.gold=llm", PROMPTS)
    assert (await evaluation("aaa", kept, begins=False).evaluate())["win_rate"] == 1
