"""The environment's own word: the reward that it gave in the course of an answer."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from rlhf.judges.base import JudgeConfig, Seat
from rlhf.options import Fact
from rlhf.records import Completion, Judgement, Prompt

NAME = "environment"


class Rewards(Enum):
    scores = "scores"
    """Numbers, higher is better."""
    outcomes = "outcomes"
    """1 for success, 0 for none: evaluations tell how often there is success."""


@dataclass
class EnvironmentJudgeConfig(JudgeConfig):
    """The reward that `environment` gave an answer is its score."""

    name: ClassVar[str] = "environment"

    returns: Rewards = Rewards.scores

    def gives(self) -> Set[Fact]:
        outcomes = {Fact.outcomes} if self.returns is Rewards.outcomes else set()
        return {Fact.verdicts} | outcomes

    def needs(self) -> Mapping[Fact, str]:
        return {
            Fact.rewards: "judge=environment: there is no environment to reward answers; set "
            "environment=function environment.function=env.py:Env, or choose another judge"
        }

    @property
    def seat(self) -> Seat:
        return Seat.nowhere

    def elsewhere(self) -> "EnvironmentJudge":
        return EnvironmentJudge(self.returns)


@dataclass(frozen=True, slots=True)
class EnvironmentJudge:
    """`rlhf.stages.Judge` by `Completion.reward`; None where there is none."""

    returns: Rewards

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Judgement:
        found = [self._score(one) for one in completions]
        scores, reasons = tuple(score for score, _ in found), tuple(why for _, why in found)
        return Judgement(scores, NAME, reasons=reasons if any(reasons) else ())

    def _score(self, completion: Completion) -> tuple[float | None, str]:
        reward = completion.reward
        if reward is None:
            return None, completion.failure or "no environment has rewarded it"
        if self.returns is Rewards.outcomes and reward not in (0.0, 1.0):
            return None, f"has a reward of {reward:g}, and with judge.returns=outcomes 0 or 1"
        return reward, ""
