"""A pair model: a prompt and two completions in, the logit of preferring the first out.

Jiang et al. 2023 (LLM-Blender, PairRM), arXiv 2306.02561. It can prefer in cycles, and asks every
two completions in both orders, so K completions take K(K-1) rows.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rlhf.config.texts import text
from rlhf.data.messages import with_criterion
from rlhf.judges.base import ModelJudgeConfig
from rlhf.judges.groups import Group
from rlhf.judges.programs.answers import with_bare_programs
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Comparison, Completion, Message, transcript

if TYPE_CHECKING:
    from rlhf.judges.models.classifiers import Classifier

Ids = tuple[int, ...]

Places = tuple[int, int]
"""Of the completion that is read first, and of the other."""


@dataclass
class PairModelConfig(ModelJudgeConfig):
    """A model that reads a prompt and two completions: the logit of preferring the first (as
    PairRM). `max_tokens` counts both."""

    name: ClassVar[str] = "pair_model"
    labels: ClassVar[str] = "a pair model has 1"

    criterion: str | None = text()
    """What to judge by, read behind the prompt, of a model that was trained with
    `data.criterion_column` (CodeFavor: Liu et al. 2024, arXiv 2410.03837)."""
    strip_comments: bool = False
    """Read programs in Python without their comments, so that these change no verdict."""

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.matrix}

    def build(self) -> "PairModel":
        return PairModel(self)


class PairLayout:
    """Puts a prompt and two completions into one row; the same for training and for judging.

    The row is the prompt, the first completion and the second, each closed by the tokenizer's
    separator (its end token if it has none), which no completion's text can contain. The prompt is
    rendered by the chat template up to where the assistant speaks; without a template, it is the
    text of its turns behind the tokenizer's usual first tokens. A model with token types sees in
    them where the second completion begins.
    """

    def __init__(self, classifier: "Classifier", key: str) -> None:
        """`key` is what names the model in an InputError, for a tokenizer without separator."""
        tokenizer = classifier.tokenizer
        separators = (tokenizer.sep_token_id, tokenizer.eos_token_id)
        self._separator: int | None = next((id for id in separators if id is not None), None)
        if self._separator is None:
            raise InputError(
                [
                    f"{key}: its tokenizer has neither a separator nor an end token to tell two "
                    "completions apart; set sep_token in its tokenizer_config.json"
                ]
            )
        self._classifier = classifier

    def rows(self, messages: Sequence[Message], texts: Sequence[str]) -> dict[Places, Ids]:
        """Every two different texts in both orders; empty where the template refuses the prompt."""
        prompt = self._prompt(messages)
        start, join = self._closed(prompt), self._classifier.two_texts
        closed = [self._closed(self._classifier.texts.text(text)) for text in texts]
        return {
            (i, j): join((*start, *closed[i]), closed[j]) if prompt else ()
            for i in range(len(texts))
            for j in range(len(texts))
            if texts[i] != texts[j]
        }

    def _prompt(self, messages: Sequence[Message]) -> Ids:
        if self._classifier.tokenizer.chat_template is None:
            return self._classifier.texts.whole(transcript(messages))
        return self._classifier.chat(messages, add_generation_prompt=True)

    def _closed(self, ids: Ids) -> Ids:
        assert self._separator is not None
        return ids if ids[-1:] == (self._separator,) else (*ids, self._separator)


class PairModel:
    """Compares completions by a sequence-classification model with one label.

    On the GPU if there is one. Raises InputError if the model cannot be used.
    """

    def __init__(self, config: PairModelConfig) -> None:
        # Where it is needed: both bring large libraries along.
        from rlhf.judges.models.classifiers import Classifier
        from rlhf.models.files import fingerprint

        directory = config.folder()
        self._classifier = Classifier.load(directory, config.dtype, config.max_tokens)
        self._layout = PairLayout(self._classifier, f"judge.path={config.path}")
        self._micro_batch_tokens = config.micro_batch_tokens
        self._criterion = config.criterion or ""
        about = f"*{self._criterion}" if self._criterion else ""
        self._strips = config.strip_comments
        about += "*bare" if self._strips else ""
        self._name = f"pair_model/{directory.name}@{fingerprint(directory)}{about}"

    def judge(self, groups: Sequence[Group]) -> list[Comparison]:
        """The mean of both orders; 1/2 for equal texts, which are not asked about.

        None for a pair that is too long, whose prompt the template refuses, or whose logit is not
        finite in either order.
        """
        asked = [
            self._layout.rows(
                with_criterion(group.prompt.messages, self._criterion),
                list(map(self._read, group.completions)),
            )
            for group in groups
        ]
        rows = [row for one in asked for row in one.values()]
        answers = iter(self._first_wins(rows))
        return [
            self._comparison(len(group.completions), {places: next(answers) for places in one})
            for group, one in zip(groups, asked, strict=True)
        ]

    def _read(self, completion: Completion) -> str:
        return with_bare_programs(completion.text) if self._strips else completion.text

    def _first_wins(self, rows: Sequence[Ids]) -> list[float | None]:
        """The probability that the completion that is read first is preferred."""
        found = self._classifier.read(rows, self._micro_batch_tokens)
        return [
            None if logits is None else 0.5 * (1 + math.tanh(logits[0] / 2)) for logits in found
        ]

    def _comparison(self, size: int, first_wins: Mapping[Places, float | None]) -> Comparison:
        matrix: list[list[float | None]] = [[0.5] * size for _ in range(size)]
        distances = []
        for (i, j), wins in first_wins.items():
            if i > j:
                continue
            loses = first_wins[j, i]
            if wins is None or loses is None:
                matrix[i][j] = matrix[j][i] = None
                continue
            mean = (wins + (1 - loses)) / 2
            matrix[i][j], matrix[j][i] = mean, 1 - mean
            distances.append(abs(wins - (1 - loses)))
        disagreement = sum(distances) / len(distances) if distances else None
        return Comparison(tuple(map(tuple, matrix)), self._name, disagreement)
