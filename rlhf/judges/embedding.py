"""How near an answer is in meaning to its prompt, or to the answer that is right."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

from rlhf.judges.base import HeldModelConfig
from rlhf.judges.groups import Group
from rlhf.options import Fact
from rlhf.ranges import number
from rlhf.records import Judgement, transcript


class Near(Enum):
    prompt = "prompt"
    answer = "answer"
    """The prompt's, from the data."""


@dataclass
class EmbeddingConfig(HeldModelConfig):
    """The product of two texts' embeddings, each the mean of an encoder's last hidden states, as
    Contriever's are (Izacard et al. 2021, arXiv 2112.09118)."""

    name: ClassVar[str] = "embedding"
    loaded_as: ClassVar[str | None] = "encoder"

    near: Near = Near.prompt
    cosine: bool = True
    """Of embeddings of length 1: from -1 to 1."""
    factor: float = number(1.0, above=0)
    """What the product is multiplied with, to bring it to the scale of other members of a panel."""
    max_tokens: int = number(512, at_least=1)
    """Of a text; a longer one is a judge failure."""

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts}

    def needs(self) -> Mapping[Fact, str]:
        if self.near is Near.prompt:
            return {}
        line = "judge.near=answer: this data has no answers to compare with; set judge.near=prompt"
        return {Fact.answers: line}

    def folder(self) -> Path:
        from rlhf.judges.models.encoder import encoder_folder

        return encoder_folder(self.path)

    def build(self) -> "Nearness":
        return Nearness(self)


class Nearness:
    """Scores completions by their embeddings."""

    def __init__(self, config: EmbeddingConfig) -> None:
        from rlhf.judges.models.encoder import Encoder  # brings torch

        directory, dtype = config.held()
        self._encoder = Encoder(directory, dtype, config.max_tokens, config.micro_batch_tokens)
        self._config = config
        kind = f"{config.near.value}{'/cosine' if config.cosine else ''}"
        kind += f"/{config.factor:g}" if config.factor != 1 else ""
        self._name = f"embedding/{kind}/{self._encoder.version}"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """None for an empty text, one that is too long, and where the prompt has no answer."""
        texts = [text for group in groups for text in (self._other(group), *_answers(group))]
        found = iter(self._encoder.embed(texts))
        verdicts = []
        for _, completions in groups:
            other = next(found)
            near = [self._near(other, next(found)) for _ in completions]
            factor = self._config.factor
            scores = tuple(None if one is None else factor * one for one in near)
            verdicts.append(Judgement(scores, self._name))
        return verdicts

    def _other(self, group: Group) -> str:
        if self._config.near is Near.answer:
            return group.prompt.answer or ""
        return transcript(group.prompt.messages)

    def _near(self, one: Sequence[float] | None, other: Sequence[float] | None) -> float | None:
        if one is None or other is None:
            return None
        product = _dot(one, other)
        if not self._config.cosine:
            return product
        lengths = (_dot(one, one) * _dot(other, other)) ** 0.5
        return product / lengths if lengths else 0.0


def _answers(group: Group) -> list[str]:
    return [group.prompt.prefix + completion.text for completion in group.completions]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
