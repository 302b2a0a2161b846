"""What decides how good completions are; each judge runs inside a worker process."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from rlhf.config import JudgeConfig, RewardModelConfig, VerifierConfig
from rlhf.records import Completion, Judgement, Prompt


class Group(NamedTuple):
    """The completions of one prompt that are judged together."""

    prompt: Prompt
    completions: tuple[Completion, ...]


class GroupJudge(Protocol):
    """Judges groups, called by one worker for whatever became ready together."""

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """One judgement per group, in order; a score is None where the judge itself failed."""
        ...


# Imported where they are built: a verifier's worker needs no torch, a reward model's no sympy.


def _verifier(config: VerifierConfig) -> GroupJudge:
    from rlhf.judges.verifiers import Verifier

    return Verifier(config)


def _reward_model(config: RewardModelConfig) -> GroupJudge:
    from rlhf.judges.reward_model import RewardModel

    return RewardModel(config)


JUDGES: dict[type, Callable[..., GroupJudge]] = {
    VerifierConfig: _verifier,
    RewardModelConfig: _reward_model,
}


def build_judge(config: JudgeConfig) -> GroupJudge:
    """The judge of this configuration; raises InputError if its files cannot be used."""
    return JUDGES[type(config)](config)


def needs_answers(config: JudgeConfig) -> bool:
    """Whether every prompt needs an answer, as verifiers do."""
    return isinstance(config, VerifierConfig)
