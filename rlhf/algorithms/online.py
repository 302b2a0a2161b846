"""Online DPO: n completions from the policy, a judge, and pairs of better and worse."""

from dataclasses import dataclass

from rlhf.collecting.pairing import pair
from rlhf.config.algorithms import OnlineDPOConfig
from rlhf.records import Collected, Prompt, Sampling
from rlhf.stages import Judge, Rollout


@dataclass(frozen=True, slots=True)
class OnlineDPO:
    """Guo et al. 2024 (arXiv 2402.04792), with n completions instead of two."""

    rollout: Rollout
    judge: Judge
    sampling: Sampling
    config: OnlineDPOConfig

    async def collect(self, prompt: Prompt, seed: int) -> Collected:
        completions = await self.rollout.generate(prompt, self.sampling, seed)
        judgement = await self.judge.judge(prompt, completions)
        preferences, dropped = pair(prompt, completions, judgement, self.config, seed)
        return Collected(prompt, completions, judgement, preferences, dropped)
