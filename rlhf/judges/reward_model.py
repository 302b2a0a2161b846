"""A reward model: prompt and completion in, one number out."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from rlhf.config.reward import Kind
from rlhf.judges.base import ModelJudgeConfig
from rlhf.judges.groups import Group
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Judgement, Message


@dataclass
class RewardModelConfig(ModelJudgeConfig):
    """An answer that has not ended is scored at the last token of its text, as `python -m
    rlhf.reward kind=steps` teaches."""

    name: ClassVar[str] = "reward_model"
    labels: ClassVar[str] = "a reward model has 1"

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.partial_scores}

    def inspect(self, asked: Set[Fact]) -> None:
        from rlhf.models.files import trained_kind

        kind = trained_kind(self.folder())
        if Fact.partial_scores in asked and kind not in (Kind.steps, None):
            raise InputError(
                [
                    f"judge.path={self.path}: with algorithm.value=judge it scores partial "
                    "answers, and was not trained to; train one by python -m rlhf.reward kind=steps"
                ]
            )

    def build(self) -> "RewardModel":
        return RewardModel(self)


class Answer(NamedTuple):
    """What is to be scored: an answer, or how one begins."""

    messages: Sequence[Message]
    text: str
    """From the answer's very beginning."""
    ended: bool = True
    """False if something is still to follow."""


class RewardModel:
    """Scores completions by a sequence-classification model with one label.

    A whole answer stands as in a finished conversation, and is scored at the end of that. An answer
    that has not ended stands open, and is scored at the last token of its text; so is every answer
    by a model that was trained with kind=steps, which has seen no other place.

    On the GPU if there is one. Raises InputError if the model cannot be used.
    """

    def __init__(self, config: RewardModelConfig) -> None:
        # Where it is needed: both bring large libraries along.
        from rlhf.judges.models.classifiers import Classifier
        from rlhf.models.files import fingerprint, trained_kind

        directory = config.folder()
        self._classifier = Classifier.load(directory, config.dtype, config.max_tokens)
        self._micro_batch_tokens = config.micro_batch_tokens
        self._scores_steps = trained_kind(directory) is Kind.steps
        self._name = f"reward_model/{directory.name}@{fingerprint(directory)}"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """The scores of each group's answers, as `score` gives them."""
        answers = [
            Answer(prompt.messages, prompt.prefix + completion.text, not completion.stopped)
            for prompt, completions in groups
            for completion in completions
        ]
        scores = iter(self.score(answers))
        return [Judgement(tuple(next(scores) for _ in g.completions), self._name) for g in groups]

    def score(self, answers: Sequence[Answer]) -> list[float | None]:
        """Raw scores; None for text that is too long, that the template refuses, or a score that
        is not finite.
        """
        rows = [
            self._classifier.encode(messages, text, ended and not self._scores_steps)
            for messages, text, ended in answers
        ]
        found = self._classifier.read(rows, self._micro_batch_tokens)
        return [None if logits is None else logits[0] for logits in found]
