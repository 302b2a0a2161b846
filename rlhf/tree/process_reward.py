"""A reward model's opinion of a partial answer."""

import math

from rlhf.records import Completion, Prompt, Verdict
from rlhf.stages import Judge


class ProcessReward:
    """`rlhf.tree.expansion.Evaluator`: σ of the score that a model gives the answer so far."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.name = ""

    async def confidence(self, prompt: Prompt, answer: Completion) -> float | None:
        return (await self.opinion(prompt, answer))[0]

    async def opinion(self, prompt: Prompt, answer: Completion) -> tuple[float | None, Verdict]:
        """The same, and the verdict that it comes of."""
        verdict = await self._judge.judge(prompt, [answer])
        self.name = verdict.judge
        (score,) = verdict.scores
        # By tanh, which overflows nowhere.
        return None if score is None else (1 + math.tanh(score / 2)) / 2, verdict
