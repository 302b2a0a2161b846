"""How often a policy beats its initial self: against what it said first, and nothing else."""

import json
from pathlib import Path

import pytest

from rlhf.problems import InputError
from rlhf.records import Comparison, Completion, Message, Prompt, Sampling
from rlhf.watching.evaluation import Heldout, WinRateEvaluation

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
    heldout = Heldout(Answers(text), PROMPTS[:num], Sampling(1, 4), 1)
    return WinRateEvaluation(heldout, LongerWins(), kept, begins)


async def test_the_run_s_first_answers_are_kept_and_later_ones_compared_with_them(tmp_path):
    kept = tmp_path / "initial.json"
    assert (await evaluation("aa", kept, begins=True).evaluate())["win_rate"] == 0.5
    assert (await evaluation("aaa", kept, begins=False).evaluate())["win_rate"] == 1
    assert (await evaluation("a", kept, begins=False).evaluate())["win_rate"] == 0
    assert json.loads(kept.read_text()) == {"p0": "aa", "p1": "aa"}


@pytest.mark.parametrize("has_begun", [False, True])
async def test_prompts_that_the_initial_policy_never_answered_are_refused(tmp_path, has_begun):
    kept = tmp_path / "initial.json"
    if has_begun:
        await evaluation("aa", kept, begins=True).evaluate()
    with pytest.raises(InputError, match=r"eval\.num_prompts=3") as caught:
        await evaluation("aaa", kept, begins=False, num=3).evaluate()
    assert ("p2" if has_begun else "p0, p1, p2") in str(caught.value)
    assert kept.exists() == has_begun
