"""A reward model: prompt and completion in, one number out."""

from collections.abc import Sequence

from rlhf.config.judges import RewardModelConfig
from rlhf.judges import Group
from rlhf.judges.classifiers import Classifier
from rlhf.judges.model_files import find_model, fingerprint
from rlhf.records import Judgement


class RewardModel:
    """Scores completions by a sequence-classification model with one label.

    On the GPU if there is one. Raises InputError if the model cannot be used.
    """

    def __init__(self, config: RewardModelConfig) -> None:
        directory = find_model(config)
        self._classifier = Classifier.load(directory, config.dtype, config.max_tokens)
        self._micro_batch_tokens = config.micro_batch_tokens
        self._name = f"reward_model/{directory.name}@{fingerprint(directory)}"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Raw scores; None for text that is too long, that the template refuses, or a score that
        is not finite.
        """
        rows = [
            self._classifier.encode(group.prompt.messages, completion.text)
            for group in groups
            for completion in group.completions
        ]
        found = self._classifier.read(rows, self._micro_batch_tokens)
        scores = iter([None if logits is None else logits[0] for logits in found])
        return [Judgement(tuple(next(scores) for _ in g.completions), self._name) for g in groups]
