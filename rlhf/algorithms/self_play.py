"""Self-play: completions of one prompt play against each other before a pairwise judge."""

import asyncio
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from rlhf.collecting.matching import compared, match
from rlhf.config.algorithms import SelfPlayConfig
from rlhf.records import Collected, Completion, Prompt, Sampling
from rlhf.stages import Judge, Rollout


@dataclass(frozen=True, slots=True)
class SelfPlay:
    """SPPO, INPO, GPO, online IPO, IPO-MD, Nash-MD, XPO and VPO: they differ in who plays, in which
    pairs are made and labelled how, and in the objective."""

    rollout: Rollout
    judge: Judge
    sampling: Sampling
    config: SelfPlayConfig
    learns_from_ties: bool
    """The objective's: whether it wants pairs that nobody wins."""

    async def collect(self, prompt: Prompt, seed: int) -> Collected:
        completions = await self._players(prompt, seed)
        verdict = await self.judge.judge(prompt, completions)
        comparison = compared(verdict, completions, self.config)
        preferences, dropped = match(
            prompt, completions, comparison, self.config, self.learns_from_ties, seed
        )
        return Collected(prompt, completions, comparison, preferences, dropped)

    async def _players(self, prompt: Prompt, seed: int) -> tuple[Completion, ...]:
        """Policy, mixture and initial policy take turns, so that neighbours are opponents."""
        config = self.config
        teams = [
            (config.num_completions, 0.0),
            (config.num_mixture, config.mixture),
            (config.num_initial, 1.0),
        ]
        asked, first = [], seed
        for count, mixture in teams:
            if count:
                sampling = replace(self.sampling, num_completions=count, mixture=mixture)
                asked.append(self.rollout.generate(prompt, sampling, first))
                first += count
        drawn = zip_longest(*await asyncio.gather(*asked))
        players = [one for one in chain.from_iterable(drawn) if one is not None]
        return tuple(replace(player, sample=i) for i, player in enumerate(players))
