"""How likely a language model is to say what the policy has said."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from math import fsum
from typing import ClassVar

from rlhf.config.texts import text
from rlhf.judges.base import LanguageModelJudgeConfig
from rlhf.judges.groups import Group
from rlhf.options import Fact
from rlhf.records import Judgement, Message, Tokens


@dataclass
class LikelihoodConfig(LanguageModelJudgeConfig):
    """The completion's log-probability under the model at `path`, in nats; without the end token.

    Two of them, with the weights 1 and -1, are the density ratio of CDR (Xu et al. 2024, arXiv
    2411.02481): a strong model's log-probability minus that of a weak one.
    """

    name: ClassVar[str] = "likelihood"

    mean: bool = False
    """Per token instead of summed: it does not fall with length."""
    system: str | None = text()
    """Put before the conversation, for a model that is to judge as somebody."""

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts}

    def build(self) -> "Likelihood":
        return Likelihood(self)


class Likelihood:
    """Scores completions by one language model, with its own chat template and tokenizer."""

    def __init__(self, config: LikelihoodConfig) -> None:
        from rlhf.judges.models.language import LanguageModel  # brings torch

        self._model = LanguageModel(config)
        self._mean = config.mean
        self._system = [Message("system", config.system)] if config.system else []
        kind = "mean" if config.mean else "sum"
        self._name = f"likelihood/{kind}/{self._model.version}"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """None for an empty text, one that is too long, or that the template refuses."""
        from rlhf.judges.models.language import grouped

        rows = [self._row(group, place) for group in groups for place in range(len(group[1]))]
        scores = [None if nats is None else self._score(nats) for nats in self._model.nats(rows)]
        sizes = [len(completions) for _, completions in groups]
        return [Judgement(found, self._name) for found in grouped(scores, sizes)]

    def _row(self, group: Group, place: int) -> Tokens | None:
        prompt, completions = group
        asked = self._model.answering((*self._system, *prompt.messages))
        answer = self._model.text(prompt.prefix + completions[place].text)
        return None if asked is None else Tokens(asked, answer)

    def _score(self, nats: Sequence[float]) -> float:
        return fsum(nats) / (len(nats) if self._mean else 1)
