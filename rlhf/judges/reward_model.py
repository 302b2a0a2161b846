"""A reward model: prompt and completion in, one number out."""

from collections.abc import Sequence
from typing import NamedTuple

from rlhf.config.judges import RewardModelConfig
from rlhf.config.reward import Kind
from rlhf.judges.classifiers import Classifier
from rlhf.judges.groups import Group
from rlhf.models.files import find_model, fingerprint, trained_kind
from rlhf.records import Judgement, Message


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
        directory = find_model(config)
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
