"""How likely the user is to go on as one who was served well, rather than badly."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import fmean
from typing import ClassVar

from rlhf.judges.base import LanguageModelJudgeConfig
from rlhf.judges.groups import Group
from rlhf.options import Fact
from rlhf.records import Judgement, Tokens

SATISFIED = (
    "Thank you, that is exactly what I wanted to know.",
    "Great, that is clear and it answers my question.",
    "Perfect, everything I asked for is there.",
    "That is right, I checked it.",
    "Good, this is just as detailed as I needed it.",
)
DISSATISFIED = (
    "No, that is not what I wanted to know.",
    "I do not understand this, and it does not answer my question.",
    "Something that I asked for is missing.",
    "That is wrong, I checked it.",
    "This is far too long and says hardly anything.",
)


@dataclass
class FollowUpConfig(LanguageModelJudgeConfig):
    """Follow-up likelihood as reward, FLR (Zhang et al. 2024, arXiv 2409.13948): the mean
    log-probability per token of the satisfied follow-ups minus that of the dissatisfied ones."""

    name: ClassVar[str] = "follow_up"

    satisfied: list[str] = field(default_factory=lambda: list(SATISFIED))
    """What a user may say next who got what they wanted."""
    dissatisfied: list[str] = field(default_factory=lambda: list(DISSATISFIED))
    """What one may say who did not."""

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts}

    def problems(self) -> Iterator[str]:
        for key in ("satisfied", "dissatisfied"):
            texts = getattr(self, key)
            if not texts or not all(one.strip() for one in texts):
                yield f"judge.{key}={texts}: give at least one follow-up, and none that is empty"

    def build(self) -> "FollowUp":
        return FollowUp(self)


class FollowUp:
    """Scores completions by what may be said after them."""

    def __init__(self, config: FollowUpConfig) -> None:
        from rlhf.judges.models.language import LanguageModel  # brings torch

        self._model = LanguageModel(config)
        self._model.require_turns()
        self._lists = (config.satisfied, config.dissatisfied)
        digest = sha256(str(self._lists).encode()).hexdigest()[:8]
        self._name = f"follow_up/{self._model.version}+{digest}"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """None where one follow-up is too long behind the answer, or the template refuses it."""
        from rlhf.judges.models.language import grouped

        rows, sizes = [], [len(completions) for _, completions in groups]
        said = [self._model.text(one) for texts in self._lists for one in texts]
        for prompt, completions in groups:
            for completion in completions:
                text = prompt.prefix + completion.text
                before = self._model.going_on(prompt.messages, text)
                rows += [None if before is None else Tokens(before, ids) for ids in said]
        means = [None if nats is None else fmean(nats) for nats in self._model.nats(rows)]
        scores = [self._score(each) for each in grouped(means, [len(said)] * sum(sizes))]
        return [Judgement(found, self._name) for found in grouped(scores, sizes)]

    def _score(self, means: Sequence[float | None]) -> float | None:
        known = [one for one in means if one is not None]
        if len(known) < len(means):
            return None
        middle = len(self._lists[0])
        return fmean(known[:middle]) - fmean(known[middle:])
