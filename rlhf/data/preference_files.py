"""JSONL and Parquet files into preferences; whatever is wrong is told by file, column and row."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

from rlhf.config.reward import PREFIX, PreferenceFilesConfig
from rlhf.data import preference_values as read
from rlhf.data.files import SUFFIXES, Column, FileReader
from rlhf.data.folders import find_files
from rlhf.data.messages import read_messages, whole_conversation
from rlhf.problems import InputError
from rlhf.records import PROMPT_MESSAGES, Message

_DROPPED = "dropped"
_ATTRIBUTE = "attribute:"
_VOTE = "vote:"
_OTHER_PROMPT = (
    "has another conversation before its last turn than column {!r}; give the same one, or the "
    "last turn alone"
)
_OTHER_SIDE = (
    "differs from column {!r} before the last turn; both sides must answer the same conversation, "
    "so cut both where they part"
)


@dataclass(frozen=True, slots=True)
class Example:
    """One row that a judge can learn from."""

    messages: tuple[Message, ...]
    prefix: str
    """How the answers begin."""
    sides: tuple[tuple[str, ...], ...]
    """Of the chosen side, and of the rejected one if there is one: the steps after the prefix."""
    targets: tuple[float, ...]
    """One score per text, if the files have scores; of several attributes, each, nan where it is
    unknown; of several criteria, how likely the chosen side is the better one, likewise."""
    margin: float | None
    file: str
    row: int
    """From 1."""
    label: float = 1.0
    """How likely the chosen side is the better one, at least 1/2."""
    strengths: tuple[float, ...] = ()
    """By how much each of an ensemble prefers the chosen side."""
    source: str = ""
    criterion: str = ""
    """What it was judged by."""

    def exchanged(self) -> "Example":
        """The same preference with its sides in each other's places."""
        return replace(
            self,
            sides=self.sides[::-1],
            label=1 - self.label,
            strengths=tuple(-one for one in self.strengths),
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """Whole answers."""
        return tuple(self.prefix + "".join(steps) for steps in self.sides)

    @property
    def partial_texts(self) -> list[tuple[str, ...]]:
        """Both answers after each step that both have, but for those that are still equal."""
        begun = ([self.prefix + text for text in accumulate(steps)] for steps in self.sides)
        return [both for both in zip(*begun, strict=False) if len(set(both)) > 1]


@dataclass(frozen=True, slots=True)
class Examples:
    """All rows of the files, but for those that a run had dropped."""

    train: list[Example]
    heldout: list[Example]
    num_passed_over: int
    """Rows whose column `dropped` is set."""


def read_examples(config: PreferenceFilesConfig, in_steps: bool = False) -> Examples:
    """With `in_steps` a side may be a list of its steps. Raises InputError with everything that is
    wrong.
    """
    problems: list[str] = []
    columns = _columns(config, read.in_steps if in_steps else read.one_step)
    train, num_passed_over = _read("path", config.path, columns, problems)
    heldout: list[Example] = []
    if config.heldout_path is not None:
        heldout, passed_over = _read("heldout_path", config.heldout_path, columns, problems)
        num_passed_over += passed_over
    if problems:
        raise InputError(list(dict.fromkeys(problems)))  # both paths may name one file
    if config.heldout_path is None:
        train, heldout = _split(train, config.heldout_share)
    return Examples(train, heldout, num_passed_over)


def _columns(
    config: PreferenceFilesConfig, read_side: Callable[[object], read.Side]
) -> dict[str, Column]:
    wanted = {
        "messages": ("prompt_column", config.prompt_column, read_messages),
        "prefix": ("prefix_column", config.prefix_column, read.optional_text),
        "chosen": ("chosen_column", config.chosen_column, read_side),
        "rejected": ("rejected_column", config.rejected_column, read_side),
        "margin": ("margin_column", config.margin_column, read.margin),
        "chosen_score": ("chosen_score_column", config.chosen_score_column, read.finite),
        "rejected_score": ("rejected_score_column", config.rejected_score_column, read.finite),
        "label": ("label_column", config.label_column, read.probability),
        "strengths": ("strength_column", config.strength_column, read.strengths),
        "source": ("source_column", config.source_column, read.source),
        "criterion": ("criterion_column", config.criterion_column, read.optional_text),
    }
    wanted |= {
        f"{_ATTRIBUTE}{name}": ("score_columns", name, read.attribute)
        for name in config.score_columns
    }
    wanted |= {f"{_VOTE}{name}": ("vote_columns", name, read.vote) for name in config.vote_columns}
    return {field: (k, name, to) for field, (k, name, to) in wanted.items() if name is not None}


def _split(rows: list[Example], heldout_share: float) -> tuple[list[Example], list[Example]]:
    """By a hash of the prompt, so that no prompt is on both sides."""
    train, heldout = [], []
    for row in rows:
        digest = sha256(repr(row.messages).encode("utf-8", "surrogatepass")).digest()
        share = int.from_bytes(digest[:8]) / 2**64
        (heldout if share < heldout_share else train).append(row)
    if not (train and heldout):
        raise InputError(
            [
                f"data.heldout_share={heldout_share}: of {len(rows)} rows it holds out "
                f"{len(heldout)}; both parts need rows, so change it or give data.heldout_path"
            ]
        )
    return train, heldout


# --- files ---------------------------------------------------------------------------------------


def _read(
    key: str, path: str, columns: Mapping[str, Column], problems: list[str]
) -> tuple[list[Example], int]:
    """Every row under `path`, and how many were passed over; what is wrong goes to `problems`."""
    root = Path(path)
    try:
        # Of a run's directory only its preferences: it has other JSONL files too.
        of_a_run = os.path.isdir(root / "preferences")
        files = find_files(f"data.{key}", root / "preferences" if of_a_run else root, SUFFIXES)
    except InputError as error:
        problems += error.problems
        return [], 0
    known = len(problems)
    readers = [_PreferenceReader(file, columns) for file in files]
    for reader in readers:
        reader.read(problems)
    examples = [example for reader in readers for example in reader.examples]
    num_passed_over = sum(reader.num_passed_over for reader in readers)
    if not examples and len(problems) == known:
        dropped = f" but {num_passed_over} that a run dropped" if num_passed_over else ""
        problems.append(f"data.{key}={path}: it has no rows{dropped}; give a file of preferences")
    return examples, num_passed_over


class _PreferenceReader(FileReader):
    """Reads one file into `examples`."""

    def __init__(self, file: Path, columns: Mapping[str, Column]) -> None:
        extra = {name: (name, name, str) for name in (_DROPPED, PROMPT_MESSAGES)}
        super().__init__(file, {**columns, **extra}, prefix="")
        self._fields = columns
        self.examples: list[Example] = []
        self.num_passed_over = 0

    def _row(self, number: int, record: dict[str, Any]) -> None:
        if record.get(_DROPPED):
            self.num_passed_over += 1
            return
        _, prompt, _ = self._fields["messages"]
        if prompt == "prompt" and record.get(PROMPT_MESSAGES) is not None:  # a run's own file
            record = {**record, prompt: record[PROMPT_MESSAGES]}
        if (values := self._values(number, record, self._fields)) is None:
            return
        attributes = [value for field, value in values.items() if field.startswith(_ATTRIBUTE)]
        if attributes and all(map(math.isnan, attributes)):
            self._fault(None, "no attribute of data.score_columns has a score", number)
            return
        votes = [value for field, value in values.items() if field.startswith(_VOTE)]
        if votes and all(map(math.isnan, votes)):
            self._fault(None, "no criterion of data.vote_columns has a vote", number)
            return
        if messages := self._conversation(values, number):
            example = _example({**values, "messages": messages}, str(self._file), number)
            self.examples.append(example)

    def _conversation(self, values: Mapping[str, Any], number: int) -> tuple[Message, ...] | None:
        """What both sides answer; None if that is not one conversation, which is noted."""
        prompt, whole = values["messages"], {}
        for side in (side for side in ("chosen", "rejected") if side in values):
            whole[side] = whole_conversation(prompt, values[side].before)
            if whole[side] is None:
                other = self._fields["messages"][1]
                self._fault(self._fields[side][1], _OTHER_PROMPT.format(other), number)
                return None
        longest = max(whole.values(), key=len)
        for side, messages in whole.items():
            # A side without turns of its own answers the prompt, be it in a longer conversation.
            fits = not values[side].before and longest[-len(prompt) :] == prompt
            if messages != longest and not fits:
                column, other = self._fields["rejected"][1], self._fields["chosen"][1]
                self._fault(column, _OTHER_SIDE.format(other), number)
                return None
        return longest

    def _missing(self) -> Iterator[str]:
        # What a run's files have, and others need not.
        self._columns = {f: c for f, c in self._fields.items() if c[1] != PREFIX}
        return super()._missing()


def _example(values: Mapping[str, Any], file: str, number: int) -> Example:
    sides = tuple(values[side].steps for side in ("chosen", "rejected") if side in values)
    scores = ("chosen_score", "rejected_score")
    several = [name for name in values if name.startswith((_ATTRIBUTE, _VOTE))]
    targets = tuple(values[score] for score in (*scores, *several) if score in values)
    example = Example(
        values["messages"],
        values["prefix"],
        sides,
        targets,
        values.get("margin"),
        file,
        number,
        values.get("label", 1.0),
        values.get("strengths", ()),
        values.get("source", ""),
        values.get("criterion", ""),
    )
    return example if example.label >= 0.5 else example.exchanged()
