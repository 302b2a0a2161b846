"""Preferences into the rows of token ids that a classifier learns from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlhf.config.data import Overlong
from rlhf.config.reward import Kind, Margin, RewardTrainingConfig
from rlhf.data.messages import with_criterion
from rlhf.data.preference_files import Example
from rlhf.judges.models.classifiers import Classifier, Ids, Place
from rlhf.judges.pair_model import PairLayout
from rlhf.problems import some
from rlhf.records import Message
from rlhf.reward.labels import strength
from rlhf.reward.steps import Layout, check_left_to_right, step_rows


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as the classifier reads it; but for kind=steps, all have equally many rows."""

    prompt: tuple[Message, ...]
    rows: tuple[Ids, ...]
    """Chosen and rejected; for kind=pair both texts, first the chosen one first; for kind=steps
    what `places` are in."""
    targets: tuple[float, ...]
    """One per row, for kind=regression; for kind=attributes, of which there is one row, one per
    label, nan where it is unknown; with votes, how likely the chosen side is the better one."""
    margin: float | None
    places: tuple[Place, ...] = ()
    """For kind=steps, where steps end: the chosen side's first, the rejected side's first, the
    chosen side's second, and so on."""
    label: float = 1.0
    """How likely the chosen side is the better one."""
    source: str = ""


class Encoder:
    """Encodes examples as the judge will, and gathers those that cannot be learnt from."""

    def __init__(self, config: RewardTrainingConfig, classifier: Classifier) -> None:
        """Raises InputError if the tokenizer cannot separate the completions of a pair, or the
        model cannot score steps.
        """
        self._config = config
        self._classifier = classifier
        self._layout = _layout(config, classifier)
        # Other vocabularies have a token for rare characters by design; this one lacks words.
        made = config.model.is_made
        self._unknown_id = classifier.tokenizer.unk_token_id if made else None
        self._num_identical = 0
        self._overlong: list[Example] = []
        self._unknown: list[Example] = []
        self._refused: list[Example] = []

    @property
    def left_out(self) -> dict[str, int]:
        """Examples so far that have two equal texts, as far as they are compared, or more tokens
        than fit.
        """
        return {"identical": self._num_identical, "overlong": len(self._overlong)}

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Those that can be learnt from, in order."""
        return [encoded for example in examples if (encoded := self._encode(example))]

    def _encode(self, example: Example) -> Encoded | None:
        if self._is_identical(example):
            self._num_identical += 1
            return None
        rows, places = self._layout(example)
        if not all(rows):
            self._refused.append(example)
        elif max(map(len, rows)) > self._classifier.max_tokens:
            self._overlong.append(example)
        elif any(self._unknown_id in row for row in rows):
            self._unknown.append(example)
        else:
            return Encoded(
                example.messages,
                rows,
                example.targets,
                self._margin(example),
                places,
                example.label,
                example.source,
            )
        return None

    def _margin(self, example: Example) -> float | None:
        if self._config.margin is Margin.strength:
            return strength(example.strengths).mean
        return example.margin

    def _is_identical(self, example: Example) -> bool:
        kind = self._config.kind
        if kind is Kind.regression or self._config.data.score_columns:
            return False
        if kind is Kind.steps and not example.partial_texts:
            return True
        return len(set(example.texts)) == 1

    def problems(self) -> Iterator[str]:
        """What is wrong with the examples that were encoded so far, one line each."""
        limit = self._classifier.max_tokens
        if self._overlong and self._config.data.overlong is Overlong.error:
            yield (
                f"max_tokens={self._config.max_tokens}: {_these(self._overlong)} are longer than "
                f"{limit} tokens, the most that it and the model allow; raise it, or set "
                "data.overlong=drop"
            )
        if self._unknown:
            yield (
                f"model: {_these(self._unknown)} have characters that its vocabulary lacks; use "
                "model.vocabulary=bytes or another model"
            )
        if self._refused:
            yield (
                f"data: {_these(self._refused)} have a conversation that the chat template "
                "refuses; correct them"
            )


def _layout(config: RewardTrainingConfig, classifier: Classifier) -> Callable[[Example], Layout]:
    if config.kind is Kind.steps:
        check_left_to_right(classifier, config.model.path)
        return lambda example: step_rows(classifier, example)
    if config.kind is Kind.pair:
        layout = PairLayout(classifier, f"model.path={config.model.path}")
        return lambda example: (
            tuple(layout.rows(_judged_by(example), example.texts).values()),
            (),
        )
    return lambda example: (
        tuple(classifier.encode(example.messages, text) for text in example.texts),
        (),
    )


def _judged_by(example: Example) -> tuple[Message, ...]:
    return with_criterion(example.messages, example.criterion)


def _these(examples: Sequence[Example]) -> str:
    rows = [f"{example.file} row {example.row}" for example in examples]
    return f"{len(rows)} rows ({some(rows)})"
