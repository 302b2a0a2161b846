"""Online DPO: n completions from the policy, a judge, and pairs of better and worse."""

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar

from rlhf.algorithms.base import AlgorithmConfig, Services
from rlhf.collecting.pairing import Pairing, pair
from rlhf.options import Fact
from rlhf.records import Asked, Collected, Sampling
from rlhf.stages import Judge, Rollout


@dataclass
class OnlineDPOConfig(Pairing, AlgorithmConfig):
    name: ClassVar[str] = "online_dpo"

    def gives(self) -> Set[Fact]:
        return {Fact.parts}

    def make(self, services: Services) -> "OnlineDPO":
        assert services.judge is not None
        return OnlineDPO(services.rollout, services.judge, services.sampling, self)


@dataclass(frozen=True, slots=True)
class OnlineDPO:
    """Guo et al. 2024 (arXiv 2402.04792), with n completions instead of two."""

    rollout: Rollout
    judge: Judge
    sampling: Sampling
    config: OnlineDPOConfig

    async def collect(self, asked: Asked) -> Collected:
        prompt, seed = asked.prompt, asked.seed
        completions = await self.rollout.generate(prompt, self.sampling, seed)
        judgement = await self.judge.judge(prompt, completions)
        preferences, dropped = pair(prompt, completions, judgement, self.config, seed)
        return Collected(prompt, completions, judgement, preferences, dropped)
