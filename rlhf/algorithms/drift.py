"""Learning from users: what they said of logged replies, and fresh replies that heed it."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from rlhf.config.algorithms import Chosen, DriftConfig, Rejected, Truncated
from rlhf.feedback.filters import reason_to_drop
from rlhf.records import (
    LOGGED,
    USER,
    Collected,
    Completion,
    Dropped,
    DropReason,
    Judgement,
    Preference,
    Prompt,
    Sampling,
    UserFeedback,
)
from rlhf.stages import Judge, Rollout


class Side(NamedTuple):
    """A completion that may enter a pair."""

    completion: Completion
    score: float
    """Not a number if the judge failed."""


@dataclass(frozen=True, slots=True)
class Drift:
    """DRIFT (Wang et al. 2025, arXiv 2510.02341) and what it is compared with: they differ in which
    side of a pair is logged and which is sampled, and from which prompt.

    Trained on is the bare prompt, which has neither the complaint nor the instruction.
    """

    rollout: Rollout
    judge: Judge | None
    """Asked only for the margin that pairs need."""
    sampling: Sampling
    config: DriftConfig
    feedback: Mapping[str, UserFeedback]

    async def collect(self, prompt: Prompt, seed: int) -> Collected:
        chosen, rejected = await asyncio.gather(
            self._chosen(prompt, seed), self._rejected(prompt, seed + self.sampling.num_completions)
        )
        # A logged side is one, and stands against every sampled one.
        num_pairs = max(len(chosen), len(rejected))
        pairs = [(chosen[i % len(chosen)], rejected[i % len(rejected)]) for i in range(num_pairs)]
        judged = await asyncio.gather(*(self._judged(prompt, *pair) for pair in pairs))
        reasons = [self._reason_to_drop(*sides) for sides, _ in judged]
        dropped = tuple(
            Dropped(reason, *pair) for pair, reason in zip(pairs, reasons, strict=True) if reason
        )
        preferences = tuple(
            _preference(prompt, *sides, judge, weight=1 / reasons.count(None))
            for (sides, judge), reason in zip(judged, reasons, strict=True)
            if reason is None
        )
        fresh = {
            side.completion: side.score
            for sides, _ in judged
            for side in sides
            if side.completion.policy_version != LOGGED
        }
        verdict = Judgement(tuple(fresh.values()), judged[0][1]) if self.judge else None
        return Collected(prompt, tuple(fresh), verdict, preferences, dropped)

    async def _chosen(self, prompt: Prompt, seed: int) -> tuple[Completion, ...]:
        said = self.feedback[prompt.id]
        if self.config.chosen is Chosen.logged:
            assert said.liked is not None
            return (said.liked,)
        asked = said.guided if self.config.chosen is Chosen.guided else prompt
        assert asked is not None
        return await self.rollout.generate(asked, self.sampling, seed)

    async def _rejected(self, prompt: Prompt, seed: int) -> tuple[Completion, ...]:
        if self.config.rejected is Rejected.logged:
            disliked = self.feedback[prompt.id].disliked
            assert disliked is not None
            return (disliked,)
        drawn = await self.rollout.generate(prompt, self.sampling, seed)
        # Numbered on behind the chosen sides, so that a sample's number is its own.
        return tuple(replace(one, sample=one.sample + len(drawn)) for one in drawn)

    async def _judged(
        self, prompt: Prompt, chosen: Completion, rejected: Completion
    ) -> tuple[tuple[Side, Side], str]:
        """Both sides with their scores, and whose they are."""
        if self.judge is None:
            return (Side(chosen, 1.0), Side(rejected, 0.0)), USER
        verdict = await self.judge.judge(prompt, (chosen, rejected))
        better, worse = verdict.scores
        return (Side(chosen, _number(better)), Side(rejected, _number(worse))), verdict.judge

    def _reason_to_drop(self, chosen: Side, rejected: Side) -> DropReason | None:
        config, first, second = self.config, chosen.completion, rejected.completion
        if config.truncated is Truncated.drop and (first.truncated or second.truncated):
            return DropReason.TRUNCATED
        if first.text == second.text or first.token_ids == second.token_ids:
            return DropReason.IDENTICAL
        if reason := reason_to_drop(first, second, config.filters, config.max_similarity):
            return reason
        if not (math.isfinite(chosen.score) and math.isfinite(rejected.score)):
            return DropReason.JUDGE_FAILED
        if config.min_margin is not None and chosen.score - rejected.score <= config.min_margin:
            return DropReason.TIE
        return None


def can_use(said: UserFeedback | None, config: DriftConfig) -> bool:
    """Whether the log has what the pairs of a prompt need."""
    if said is None:
        return False
    lacks_chosen = (config.chosen is Chosen.guided and said.guided is None) or (
        config.chosen is Chosen.logged and said.liked is None
    )
    return not lacks_chosen and (config.rejected is Rejected.plain or said.disliked is not None)


def seed_pairs(config: DriftConfig) -> DriftConfig:
    """Pairs of the log alone: a reply that displeased, and the next one, which satisfied."""
    return replace(config, chosen=Chosen.logged, rejected=Rejected.logged, min_margin=None)


def _number(score: float | None) -> float:
    return math.nan if score is None else score


def _preference(
    prompt: Prompt, chosen: Side, rejected: Side, judge: str, weight: float
) -> Preference:
    scores = (chosen.score, rejected.score)
    return Preference(prompt, chosen.completion, rejected.completion, *scores, judge, weight)
