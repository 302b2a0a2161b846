"""Self-play: completions of one prompt play against each other before a pairwise judge."""

import asyncio
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import ClassVar

from rlhf.algorithms.base import AlgorithmConfig, Services
from rlhf.collecting.baseline import against_one
from rlhf.collecting.matching import Label, Matching, SelfPlayRule, compared, match
from rlhf.options import Fact
from rlhf.ranges import number
from rlhf.records import Asked, Collected, Completion, Prompt, Sampling
from rlhf.stages import Judge, Rollout


@dataclass
class SelfPlayConfig(Matching, AlgorithmConfig):
    """Completions play against each other, and against those of the initial policy if asked for."""

    name: ClassVar[str] = "self_play"

    num_completions: int = number(8, at_least=0)
    num_initial: int = number(0, at_least=0)
    """Completions of the initial policy per prompt (XPO)."""
    num_mixture: int = number(0, at_least=0)
    """Completions of the token-level mixture of policy and initial policy (Nash-MD, IPO-MD)."""
    mixture: float = number(0.125, at_least=0, at_most=1)
    """Weight of the initial policy in the mixture."""

    @property
    def most_completions(self) -> int:
        return max(1, self.num_completions, self.num_mixture, self.num_initial)

    @property
    def samples_initial_policy(self) -> bool:
        return self.num_initial + self.num_mixture > 0

    @property
    def soft_labels(self) -> tuple[str, str] | None:
        if self.label is Label.soft:
            return "algorithm.label=soft", "set algorithm.label=hard or sampled"
        return None

    def gives(self) -> Set[Fact]:
        return {Fact.games, Fact.parts}

    def needs(self) -> Mapping[Fact, str]:
        needed = dict(super().needs())
        if self.samples_initial_policy:
            needed[Fact.initial_policy] = (
                "algorithm.num_initial, algorithm.num_mixture: the initial policy is sampled by "
                "rollout=transformers only, which runs it beside the policy; set "
                "rollout=transformers"
            )
        return needed

    def problems(self) -> Iterator[str]:
        players = self.num_completions + self.num_mixture + self.num_initial
        if players < 2:
            yield (
                f"algorithm.num_completions={self.num_completions}: with num_mixture and "
                f"num_initial there are {players} completions per prompt; at least 2 must play"
            )

    def make(self, services: Services) -> "SelfPlay":
        assert services.judge is not None
        ties = services.learns_from_ties
        return SelfPlay(services.rollout, services.judge, services.sampling, self, ties)


@dataclass(frozen=True, slots=True)
class SelfPlay:
    """SPPO, INPO, GPO, online IPO, IPO-MD, Nash-MD, XPO, VPO and OSP: they differ in who plays, in
    which pairs are made and labelled how, and in the objective."""

    rollout: Rollout
    judge: Judge
    sampling: Sampling
    config: SelfPlayConfig
    learns_from_ties: bool
    """The objective's: whether it wants pairs that nobody wins."""

    async def collect(self, asked: Asked) -> Collected:
        prompt, seed = asked.prompt, asked.seed
        completions = await self._players(prompt, seed)
        if self.config.rule is SelfPlayRule.ranked:
            verdict = await against_one(self.judge, prompt, completions, self.config)
        else:
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
