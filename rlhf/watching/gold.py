"""A second judge of the same held-out answers, which nothing is trained on.

Where the judge's numbers rise and these fall, the policy has learnt to please the judge alone (Gao
et al. 2023, arXiv 2210.10760, call them proxy and gold).
"""

import asyncio
from dataclasses import dataclass, field

from rlhf.records import Completion, Prompt, Sampling
from rlhf.stages import Evaluation, Metrics, Rollout
from rlhf.watching.metrics import APPEARANCE, GOLD_PREFIX

_Request = tuple[str, Sampling, int]


@dataclass(frozen=True, slots=True)
class SharedAnswers:
    """`rlhf.stages.Rollout` that asks for the same completions once, until it is to forget them."""

    rollout: Rollout
    _asked: "dict[_Request, asyncio.Task[tuple[Completion, ...]]]" = field(default_factory=dict)

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seed: int
    ) -> tuple[Completion, ...]:
        request = (prompt.id, sampling, seed)
        if request not in self._asked:
            asking = self.rollout.generate(prompt, sampling, seed)
            self._asked[request] = asyncio.ensure_future(asking)
        return await self._asked[request]

    def forget(self) -> None:
        self._asked.clear()


@dataclass(frozen=True, slots=True)
class GoldEvaluation:
    """`rlhf.stages.Evaluation`: the judge's, and what the other finds as `gold_*`."""

    own: Evaluation
    gold: Evaluation
    answers: SharedAnswers
    """Of both."""

    async def evaluate(self) -> Metrics:
        """What completions look like is told once."""
        self.answers.forget()  # they are of an earlier policy
        own, gold = await asyncio.gather(self.own.evaluate(), self.gold.evaluate())
        self.answers.forget()
        return own | {
            f"{GOLD_PREFIX}{name}": value for name, value in gold.items() if name not in APPEARANCE
        }
