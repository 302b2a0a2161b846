"""A reward model's opinion of a partial answer."""

import math

from rlhf.records import Completion, Prompt
from rlhf.stages import Judge
from rlhf.tree.evaluator import Opinion


class ProcessReward:
    """`rlhf.tree.evaluator.Evaluator`: σ of the score that a model gives the answer so far."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def opinion(self, prompt: Prompt, answer: Completion) -> Opinion:
        verdict = await self._judge.judge(prompt, [answer])
        (score,) = verdict.scores
        # By tanh, which overflows nowhere.
        return Opinion(None if score is None else (1 + math.tanh(score / 2)) / 2, verdict)
