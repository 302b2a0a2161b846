"""Answers step by step (kind=steps): which rows a classifier reads, and where in them steps end.

What it learns from is what it will be asked: the prompt and the partial answer, encoded as one text
by `Classifier.encode` with ended=False. As a rule one row per side holds all of them, since a
partial answer's tokens begin the tokens of what follows; where they do not, because a tokenizer
joins characters across the end of a step, the partial answer has a row of its own.
"""

from collections.abc import Sequence

import torch

from rlhf.data.preference_files import Example
from rlhf.judges.models.classifiers import Classifier, Ids, Place
from rlhf.models.batching import unique
from rlhf.problems import InputError

Layout = tuple[tuple[Ids, ...], tuple[Place, ...]]
"""An example's rows, and the places in them where steps end."""

_TOLERANCE = 1e-2
"""Relative; rounding stays far below it, and a model that looks ahead far above."""


def step_rows(classifier: Classifier, example: Example) -> Layout:
    """Rows, and the places where steps end, in the order of `Example.partial_texts`; rows are empty
    where the template refuses the prompt.
    """
    texts = [text for both in example.partial_texts for text in both]
    rows = [classifier.encode(example.messages, text, ended=False) for text in texts]
    return fold(rows) if all(rows) else (tuple(rows), ())


def fold(rows: Sequence[Ids]) -> Layout:
    """The rows that begin no other one, and in them the last token of each of `rows`."""
    host: dict[Ids, Ids] = {}
    following: Ids = ()
    # In this order, a row that others begin with comes right after one of them.
    for row in sorted(set(rows), reverse=True):
        host[row] = host[following] if following[: len(row)] == row else row
        following = row
    kept, numbers = unique([host[row] for row in rows])
    places = ((number, len(row) - 1) for number, row in zip(numbers, rows, strict=True))
    return tuple(kept), tuple(places)


def check_left_to_right(classifier: Classifier, path: str) -> None:
    """Raises InputError if a score in the midst of a row is not that of the row cut there."""
    model = classifier.model
    if hasattr(model, "score"):
        row = tuple(classifier.tokenizer("12+34=46", add_special_tokens=False)["input_ids"]) * 2
        places = [(0, token) for token in range(len(row))]
        with torch.inference_mode():
            within = classifier.logits_at([row], places)
            alone = classifier.logits([row[: token + 1] for _, token in places])
        if (within - alone).norm() <= _TOLERANCE * alone.norm():
            return
    raise InputError(
        [
            f"model.path={path}: a {type(model).__name__} cannot score the beginning of a text "
            "without regard to the rest, as kind=steps does; give a model that reads from left to "
            "right, such as a Llama or Qwen"
        ]
    )
