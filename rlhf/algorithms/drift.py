"""Learning from users: what they said of logged replies, and fresh replies that heed it."""

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import ClassVar

from rlhf.algorithms.base import AlgorithmConfig, Services
from rlhf.collecting.truncated import Truncated
from rlhf.feedback.filters import Filter, reason_to_drop
from rlhf.options import TURNS, Fact
from rlhf.problems import InputError
from rlhf.ranges import number
from rlhf.records import (
    LOGGED,
    USER,
    Asked,
    Collected,
    Completion,
    Dropped,
    DropReason,
    Preference,
    Prompt,
    Sampling,
    Side,
    UserFeedback,
    Verdict,
    failures_of,
    gathered,
    said_of,
)
from rlhf.stages import Judge, Rollout


class Chosen(Enum):
    guided = "guided"
    """Sampled from the prompt, the reply that displeased, the complaint and an instruction."""
    plain = "plain"
    """Sampled from the prompt."""
    logged = "logged"
    """A reply of the log that satisfied."""


class Rejected(Enum):
    logged = "logged"
    """The reply of the log that displeased."""
    plain = "plain"
    """Sampled from the prompt."""


@dataclass
class DriftConfig(AlgorithmConfig):
    """One side or both are what users said something about, the other is sampled afresh."""

    name: ClassVar[str] = "drift"

    num_completions: int = number(1, at_least=1)
    """Completions per prompt of either sampled side; each makes a pair."""
    chosen: Chosen = Chosen.guided
    rejected: Rejected = Rejected.logged
    filters: list[Filter] = field(
        default_factory=lambda: [
            Filter.empty,
            Filter.role_marker,
            Filter.near_copy,
            Filter.refers_back,
        ]
    )
    """What of the chosen side is dropped; what is not listed is kept."""
    max_similarity: float = number(0.9, at_least=0, at_most=1)
    """Shared pairs of neighbouring tokens, beyond which a reply is a near copy."""
    min_margin: float | None = None
    """By how much the judge has to score the chosen side higher; without it no judge is asked."""
    seed_epochs: int = number(3, at_least=0)
    """Passes of round 0 over the log's own pairs: a reply that displeased and the next one, which
    satisfied. 0 leaves that round out."""

    @property
    def first_epochs(self) -> int:
        return self.seed_epochs

    def warm_start(self) -> "DriftConfig":
        return seed_pairs(self)

    def gives(self) -> Set[Fact]:
        return {Fact.user_replies} | ({Fact.parts} if self.min_margin is not None else set())

    def needs(self) -> Mapping[Fact, str]:
        needed = {
            Fact.feedback: "algorithm: it learns from what users said of logged replies; set "
            "data=feedback data.path=<out of python -m rlhf.feedback>, or data=simulated_users to "
            "try it",
            Fact.one_turn: "algorithm: it learns from what users said of one reply, and " + TURNS,
        }
        if self.chosen is Chosen.logged:
            needed[Fact.praised_replies] = (
                "algorithm.chosen=logged: needs replies that satisfied, and what arrives in "
                "data.feed are complaints alone; set data.feed=null, or algorithm.chosen=guided"
            )
        if self.min_margin is not None:
            needed[Fact.verdicts] = (
                f"algorithm.min_margin={self.min_margin:g}: needs a judge, not judge=none"
            )
        return needed

    def problems(self) -> Iterator[str]:
        if self.chosen is Chosen.plain and self.rejected is Rejected.plain:
            yield (
                "algorithm.chosen=plain algorithm.rejected=plain: nothing tells the two sides "
                "apart; set algorithm.chosen=guided or algorithm.rejected=logged"
            )
        if self.truncated is Truncated.penalise:
            yield "algorithm.truncated=penalise: there are no scores to lower; set drop or keep"

    def usable(
        self, prompts: Sequence[Prompt], feedback: Mapping[str, UserFeedback]
    ) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
        """Those of which the log has replies for both sides."""
        both = [prompt for prompt in prompts if can_use(feedback.get(prompt.id), self)]
        first = self.warm_start()
        seeds = [prompt for prompt in prompts if can_use(feedback.get(prompt.id), first)]
        problems = []
        if not both:
            problems.append(
                f"algorithm.chosen={self.chosen.value} algorithm.rejected={self.rejected.value}: "
                f"none of the {len(prompts)} logged prompts has replies for both sides; choose "
                "others, or give another log"
            )
        if self.seed_epochs and not seeds:
            problems.append(
                f"algorithm.seed_epochs={self.seed_epochs}: the log has no reply that displeased "
                "with a next one that satisfied; set algorithm.seed_epochs=0"
            )
        if problems:
            raise InputError(problems)
        return both, seeds if self.seed_epochs else ()

    def make(self, services: Services) -> "Drift":
        judge = services.judge if self.min_margin is not None else None
        return Drift(services.rollout, judge, services.sampling, self, services.feedback)


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

    async def collect(self, asked: Asked) -> Collected:
        prompt, seed = asked.prompt, asked.seed
        chosen, rejected = await asyncio.gather(
            self._chosen(prompt, seed), self._rejected(prompt, seed + self.sampling.num_completions)
        )
        # A logged side is one, and stands against every sampled one.
        num_pairs = max(len(chosen), len(rejected))
        pairs = [(chosen[i % len(chosen)], rejected[i % len(rejected)]) for i in range(num_pairs)]
        judged = await asyncio.gather(*(self._judged(prompt, *pair) for pair in pairs))
        reasons = [self._reason_to_drop(*sides) for sides, _ in judged]
        verdicts = [verdict for _, verdict in judged if verdict is not None]
        dropped = tuple(
            Dropped(reason, *pair) for pair, reason in zip(pairs, reasons, strict=True) if reason
        )
        preferences = tuple(
            Preference(*sides, verdict.judge if verdict else USER, 1 / reasons.count(None))
            for (sides, verdict), reason in zip(judged, reasons, strict=True)
            if reason is None
        )
        said = {
            side.completion: said_of(verdict, place)
            for sides, verdict in judged
            if verdict is not None
            for place, side in enumerate(sides)
        }
        fresh = {
            side.completion: side.score
            for sides, _ in judged
            for side in sides
            if side.completion.policy_version != LOGGED
        }
        judgement = None
        if verdicts:
            told = [said[completion] for completion in fresh]
            judgement = gathered(
                list(fresh.values()),
                verdicts[0].judge,
                told,
                failures_of(verdicts),
                sum(verdict.num_written_tokens for verdict in verdicts),
            )
        return Collected(prompt, tuple(fresh), judgement, preferences, dropped, said=said)

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
    ) -> tuple[tuple[Side, Side], Verdict | None]:
        """Both sides with their scores, not numbers where the judge failed, and its verdict; the
        user's word, without one, if there is no judge."""
        if self.judge is None:
            return (Side(prompt, chosen, 1.0), Side(prompt, rejected, 0.0)), None
        verdict = await self.judge.judge(prompt, (chosen, rejected))
        better, worse = verdict.scores
        sides = Side(prompt, chosen, _number(better)), Side(prompt, rejected, _number(worse))
        return sides, verdict

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
