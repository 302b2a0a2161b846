"""How good the published policy is on prompts that it never trains on."""

import asyncio
from collections.abc import Sequence

from rlhf.config import EvalConfig
from rlhf.metrics import Group, evaluation_metrics
from rlhf.records import Prompt, Sampling
from rlhf.seeds import derive_seed
from rlhf.stages import Judge, Metrics, Rollout


class HeldoutEvaluation:
    """`rlhf.stages.Evaluation`: the same prompts and seeds each time, so that differences are the
    policy's."""

    def __init__(
        self,
        rollout: Rollout,
        judge: Judge,
        prompts: Sequence[Prompt],
        config: EvalConfig,
        sampled: Sampling,
        seed: int,
        *,
        is_verifier: bool,
    ) -> None:
        """`sampled`: how training samples, but for the number of completions."""
        self._rollout = rollout
        self._judge = judge
        self._prompts = prompts[: config.num_prompts]
        self._sampled = Sampling(
            config.num_samples, sampled.max_tokens, sampled.temperature, sampled.top_p
        )
        self._greedy = Sampling(1, sampled.max_tokens, temperature=0.0)
        self._seed = seed
        self._is_verifier = is_verifier

    async def evaluate(self) -> Metrics:
        sampled = [self._ask(prompt, self._sampled) for prompt in self._prompts]
        greedy = [self._ask(prompt, self._greedy) for prompt in self._prompts]
        groups = await asyncio.gather(*sampled, *greedy)
        middle = len(sampled)
        return evaluation_metrics(groups[:middle], groups[middle:], is_verifier=self._is_verifier)

    async def _ask(self, prompt: Prompt, sampling: Sampling) -> Group:
        seed = derive_seed(self._seed, "evaluation", prompt.id)
        completions = await self._rollout.generate(prompt, sampling, seed)
        return prompt, completions, await self._judge.judge(prompt, completions)
