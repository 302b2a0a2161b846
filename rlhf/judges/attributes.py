"""A model of several scores per completion, such as how helpful and how long-winded it is."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar

from rlhf.judges.base import ModelJudgeConfig
from rlhf.judges.groups import Group
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Judgement


@dataclass
class AttributesConfig(ModelJudgeConfig):
    """Each label is an attribute, called as the model's `id2label` calls it, and a part of the
    score (HelpSteer2: Wang et al. 2024, arXiv 2406.08673)."""

    name: ClassVar[str] = "attributes"
    labels: ClassVar[str] = "a model of attributes has one for each"

    weights: dict[str, float] = field(default_factory=dict)
    """Of attributes in the score, which is the weighted sum; those that are not named have none.
    Without any, the score is the mean."""

    @staticmethod
    def fits(num_labels: int) -> bool:
        return num_labels > 0

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts}

    def inspect(self, asked: Set[Fact]) -> None:
        self.weights_of(_names(self))

    def weights_of(self, names: Sequence[str]) -> list[float]:
        """One per attribute; raises InputError for a weight of what is none."""
        problems = []
        for name in self.weights.keys() - set(names):
            near = get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            problems.append(
                f"judge.weights.{name}: is no attribute of {self.path}; {hint}there are "
                f"{', '.join(names)}"
            )
        if problems:
            raise InputError(sorted(problems))
        if not self.weights:
            return [1 / len(names)] * len(names)
        return [self.weights.get(name, 0.0) for name in names]

    def build(self) -> "Attributes":
        return Attributes(self)


def _names(config: AttributesConfig) -> list[str]:
    from transformers import AutoConfig

    found: Any = AutoConfig.from_pretrained(config.folder(), trust_remote_code=False)
    return [str(name) for _, name in sorted(found.id2label.items())]


class Attributes:
    """Scores completions by a sequence-classification model; raises InputError if it cannot."""

    def __init__(self, config: AttributesConfig) -> None:
        # Where it is needed: both bring large libraries along.
        from rlhf.judges.models.classifiers import Classifier
        from rlhf.models.files import fingerprint

        directory = config.folder()
        self._names = _names(config)
        self._weights = config.weights_of(self._names)
        self._classifier = Classifier.load(directory, config.dtype, config.max_tokens)
        self._micro_batch_tokens = config.micro_batch_tokens
        weighted = ",".join(f"{w:g}" for w in self._weights)
        self._name = f"attributes/{directory.name}@{fingerprint(directory)}*{weighted}"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """None for text that is too long, or that the template refuses."""
        rows = [
            self._classifier.encode(prompt.messages, prompt.prefix + completion.text)
            for prompt, completions in groups
            for completion in completions
        ]
        found = iter(self._classifier.read(rows, self._micro_batch_tokens))
        return [self._verdict([next(found) for _ in group.completions]) for group in groups]

    def _verdict(self, values: Sequence[list[float] | None]) -> Judgement:
        parts = {
            name: tuple(None if one is None else one[place] for one in values)
            for place, name in enumerate(self._names)
        }
        return Judgement(tuple(map(self._score, values)), self._name, parts)

    def _score(self, values: list[float] | None) -> float | None:
        if values is None:
            return None
        return sum(w * value for w, value in zip(self._weights, values, strict=True))
