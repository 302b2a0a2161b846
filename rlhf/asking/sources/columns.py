"""What rows of prompts are made of: keys that name their columns, whatever the rows come from."""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from rlhf.asking.sources.base import DataConfig, Wanted
from rlhf.config.data import Overlong
from rlhf.config.texts import text
from rlhf.data.files import Column
from rlhf.data.messages import read_dialogue, read_messages, read_text
from rlhf.data.rendering import Row
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.ranges import number

_SEPARATOR = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass
class ColumnsConfig(DataConfig):
    """Rows with columns; those that are held out are so by a key of the subclass, or by share."""

    heldout_share: float = number(0.05, above=0, below=1)
    prompt_column: str = text("prompt")
    """Text, or a list of chat messages with `role` and `content`."""
    answer_column: str | None = text()
    answer_marker: str | None = text()
    """If given, the answer is what follows it in the column: `####` in GSM8K."""
    demonstration_column: str | None = text()
    """A model answer, for `warmup`: text, or for an environment a list of messages, the policy's as
    the assistant's and the environment's as the user's."""
    id_column: str | None = text()
    """Without it, rows are numbered."""
    overlong: Overlong = Overlong.error
    """What to do with prompts beyond `rollout.max_prompt_tokens`."""

    def problems(self) -> Iterator[str]:
        if self.answer_marker is not None and self.answer_column is None:
            yield (
                f"data.answer_marker={self.answer_marker}: is looked for in data.answer_column, "
                "which is not given; name the column, or remove it"
            )

    @property
    def drops_overlong(self) -> bool:
        return self.overlong is Overlong.drop

    @property
    def demonstration_key(self) -> str:
        return "data.demonstration_column"

    def gives(self) -> Set[Fact]:
        found = {Fact.answers}  # whether there is a column of them is seen as they are read
        return found if self.demonstration_column is None else found | {Fact.demonstrations}


def lacking(config: ColumnsConfig, wanted: Wanted) -> Iterator[str]:
    """What the judge wants of rows and no key names, in words."""
    if wanted.answers and config.answer_column is None:
        yield (
            "data.answer_column=null: judge=verifier, the default, compares completions with an "
            "answer; name the column that has it, or choose another judge"
        )


def columns_of(config: ColumnsConfig) -> dict[str, Column]:
    """By field of `Row`."""
    answer = partial(_answer, marker=config.answer_marker)
    wanted = {
        "messages": ("prompt_column", config.prompt_column, read_messages),
        "answer": ("answer_column", config.answer_column, answer),
        "demonstration": ("demonstration_column", config.demonstration_column, read_dialogue),
        "id": ("id_column", config.id_column, _scalar),
    }
    return {field: (k, name, to) for field, (k, name, to) in wanted.items() if name is not None}


def split(rows: list[Row], heldout_share: float, instead: str) -> tuple[list[Row], list[Row]]:
    """By a hash of the id, so that neither a seed nor a new row moves another across."""
    train, heldout = [], []
    for row in rows:
        digest = sha256(row.id.encode()).digest()
        share = int.from_bytes(digest[:8]) / 2**64
        (heldout if share < heldout_share else train).append(row)
    if rows and not (train and heldout):
        raise InputError(
            [
                f"data.heldout_share={heldout_share}: of {len(rows)} rows it holds out "
                f"{len(heldout)}; both parts need rows, so change it or give {instead}"
            ]
        )
    return train, heldout


def _scalar(value: object) -> str:
    """Text, or a whole number written as one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        raise ValueError("must be text or a whole number, not float; write it as text")
    return read_text(value)


def _answer(value: object, marker: str | None) -> str:
    text = _scalar(value)
    if marker is None:
        return text.strip()
    _, found, tail = text.rpartition(marker)
    answer = _SEPARATOR.sub("", tail.strip())
    if not found or not answer:
        raise ValueError(f"has no answer after data.answer_marker={marker!r}")
    return answer
