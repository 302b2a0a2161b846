"""The text alone as a judge: how long it is, and how little it repeats itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import ClassVar

from rlhf.judges.base import JudgeConfig
from rlhf.judges.groups import Group
from rlhf.records import Judgement


class TextScore(Enum):
    length = "length"
    """Tokens of the completion, in hundreds."""
    variety = "variety"
    """Different among all triples of neighbouring tokens, from 0 to 1; 1 if there is none."""
    product = "product"
    """Length times variety, so that it does not pay to go round in circles."""


@dataclass
class TextJudgeConfig(JudgeConfig):
    """Length index, repetition penalty and their product, as in R3 (its open-ended questions)."""

    name: ClassVar[str] = "text"

    score: TextScore = TextScore.product
    sign: float = 1.0
    """Times the score; -1 prefers the short, or the repetitive."""

    def build(self) -> "TextJudge":
        return TextJudge(self)


class TextJudge:
    """Scores a completion by its tokens; the end token counts as one."""

    def __init__(self, config: TextJudgeConfig) -> None:
        self._config = config
        self._name = f"text/{config.score.value}*{config.sign:g}@1"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        return [
            Judgement(tuple(self._score(c.token_ids) for c in completions), self._name)
            for _, completions in groups
        ]

    def _score(self, token_ids: Sequence[int]) -> float:
        length = len(token_ids) / 100
        match self._config.score:
            case TextScore.length:
                score = length
            case TextScore.variety:
                score = variety(token_ids)
            case TextScore.product:
                score = length * variety(token_ids)
        return self._config.sign * score


def variety(token_ids: Sequence[int]) -> float:
    """Different triples of neighbours, as a share of all; 1 of a text too short for any."""
    triples = list(pairwise(pairwise(token_ids)))
    return len(set(triples)) / len(triples) if triples else 1.0
