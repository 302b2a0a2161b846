"""The text alone as a judge: how long it is, how little it repeats itself, and what is in it."""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import ClassVar

from rlhf.config.texts import text
from rlhf.judges.base import JudgeConfig
from rlhf.judges.groups import Group
from rlhf.options import Fact
from rlhf.records import Completion, Judgement, Prompt


class TextScore(Enum):
    length = "length"
    """Tokens of the completion, in hundreds."""
    variety = "variety"
    """Different among all triples of neighbouring tokens, from 0 to 1; 1 if there is none."""
    product = "product"
    """Length times variety, so that it does not pay to go round in circles."""
    pattern = "pattern"
    """1 where the text has something that `pattern` matches, else 0."""


@dataclass
class TextJudgeConfig(JudgeConfig):
    """Length index, repetition penalty and their product, as in R3 (its open-ended questions), or
    whether a pattern is met, such as a form that answers are to have."""

    name: ClassVar[str] = "text"

    score: TextScore = TextScore.product
    sign: float = 1.0
    """Times the score; -1 prefers the short, the repetitive, or what does not match."""
    pattern: str | None = text()
    """A regular expression of Python's `re`, looked for anywhere in the answer; `^` and `$` are
    ends of lines, and `.` is no end of one unless it begins with `(?s)`."""

    def gives(self) -> Set[Fact]:
        is_outcome = self.score is TextScore.pattern and self.sign == 1
        return {Fact.verdicts} | ({Fact.outcomes} if is_outcome else set())

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.score is TextScore.pattern and self.pattern is None:
            yield "judge.pattern: is required with judge.score=pattern, such as '####'"
        if self.pattern is None:
            return
        if self.score is not TextScore.pattern:
            yield f"judge.pattern={self.pattern}: is read with judge.score=pattern only; remove it"
        try:
            re.compile(self.pattern)
        except re.error as error:
            yield f"judge.pattern={self.pattern}: is no regular expression ({error})"

    def build(self) -> "TextJudge":
        return TextJudge(self)


class TextJudge:
    """Scores a completion by its tokens, of which the end token is one, or by its text."""

    def __init__(self, config: TextJudgeConfig) -> None:
        self._config = config
        self._pattern = re.compile(config.pattern or "", re.MULTILINE)
        what = f"({config.pattern})" if config.pattern else ""
        self._name = f"text/{config.score.value}{what}*{config.sign:g}@1"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        return [
            Judgement(tuple(self._score(prompt, one) for one in completions), self._name)
            for prompt, completions in groups
        ]

    def _score(self, prompt: Prompt, completion: Completion) -> float:
        length = len(completion.token_ids) / 100
        match self._config.score:
            case TextScore.length:
                score = length
            case TextScore.variety:
                score = variety(completion.token_ids)
            case TextScore.product:
                score = length * variety(completion.token_ids)
            case TextScore.pattern:
                score = float(bool(self._pattern.search(prompt.prefix + completion.text)))
        return self._config.sign * score


def variety(token_ids: Sequence[int]) -> float:
    """Different triples of neighbours, as a share of all; 1 of a text too short for any."""
    triples = list(pairwise(pairwise(token_ids)))
    return len(set(triples)) / len(triples) if triples else 1.0
