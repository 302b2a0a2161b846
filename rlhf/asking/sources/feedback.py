"""What `python -m rlhf.feedback` has written, into rows to learn from and held-out ones."""

import json
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rlhf.asking.sources.base import DataConfig, Wanted
from rlhf.config.data import INSTRUCTION, LabelSource, Overlong
from rlhf.config.texts import location
from rlhf.conversations.pairs import next_turn
from rlhf.data.files import Column, FileReader
from rlhf.data.messages import read_messages, read_text
from rlhf.data.rendering import Review, Row, Source, complaint_row
from rlhf.data.rows import shown
from rlhf.options import Fact
from rlhf.problems import InputError


@dataclass
class FeedbackDataConfig(DataConfig):
    """What users said of logged replies, as `python -m rlhf.feedback` has written it."""

    name: ClassVar[str] = "feedback"

    path: str = location()
    """The folder that was its `out`."""
    feed: str | None = location(None)
    """A folder of log files: those that appear in it while the run goes on are used too."""
    label: LabelSource = LabelSource.given
    """Who labels what is in `feed`: its own labels, or rules."""
    instruction: str = INSTRUCTION
    """Ends a guided conversation, after the complaint."""
    overlong: Overlong = Overlong.error
    """What to do with conversations whose last turn and replies are too long for `rollout`; of
    others that are too long, the first turns are left out."""

    @property
    def drops_overlong(self) -> bool:
        return self.overlong is Overlong.drop

    def gives(self) -> Set[Fact]:
        given = {Fact.feedback, Fact.wishes}
        # What arrives are complaints alone.
        return given if self.feed is not None else given | {Fact.praised_replies}

    def problems(self) -> Iterator[str]:
        if self.label is LabelSource.llm:
            yield (
                "data.label=llm: a run asks no model about what arrives in data.feed; let "
                "python -m rlhf.feedback do that before, or set data.label=rules"
            )

    def source(self, wanted: Wanted, seed: int) -> Source:
        if self.feed is not None:
            require_feed(Path(self.feed))
        return open_folder(self).source()


def require_feed(folder: Path) -> None:
    """Raises InputError where new logs cannot appear."""
    if not folder.is_dir():
        raise InputError([f"data.feed={folder}: no such folder; make it, or correct the path"])


@dataclass(frozen=True, slots=True)
class FeedbackFolder:
    """The complaints, praises and seed pairs of one log."""

    path: Path
    instruction: str
    heldout_share: float
    """Of its conversations; whoever reads more conversations has to hold out the same."""

    def source(self) -> Source:
        """Raises InputError with everything that is wrong.

        The answer of a row is the complaint: what its user wanted.
        """
        problems: list[str] = []
        pairs = self._read("seed_pairs.jsonl", "prompt", "chosen", problems)
        train = self._complaints("train", pairs, problems) + self._praises(pairs, problems)
        pairs = self._read("seed_pairs.heldout.jsonl", "prompt", "chosen", problems)
        heldout = self._complaints("heldout", pairs, problems)
        if not problems and not heldout:
            problems.append(
                f"data.path={self.path}: no complaint is held out; run python -m rlhf.feedback "
                "with a larger heldout_share, or on more conversations"
            )
        if problems:
            raise InputError(problems)
        return Source(train, heldout)

    def _complaints(self, side: str, pairs: list["_Found"], problems: list[str]) -> list[Row]:
        liked = {pair.row.id: pair.reply for pair in pairs}
        rows = self._read(f"complaints.{side}.jsonl", "history", "reply", problems, "complaint")
        return [
            complaint_row(
                found.row.id,
                found.row.messages,
                found.row.origin,
                Review(found.reply, found.remark, liked.get(found.row.id), self.instruction),
            )
            for found in rows
        ]

    def _praises(self, pairs: list["_Found"], problems: list[str]) -> list[Row]:
        """Those that end no seed pair: what ends one is learnt from already."""
        ended = {next_turn(pair.row.id) for pair in pairs}
        rows = self._read("praises.train.jsonl", "history", "reply", problems)
        praised = [found for found in rows if found.row.id not in ended]
        return [replace(found.row, review=Review(liked=found.reply)) for found in praised]

    def _read(
        self, name: str, messages: str, reply: str, problems: list[str], remark: str | None = None
    ) -> list["_Found"]:
        file = self.path / name
        if not file.exists():
            problems.append(
                f"data.path={self.path}: has no {name}; write the folder anew with "
                "python -m rlhf.feedback"
            )
            return []
        reader = _RemarkReader(file, messages, reply, remark)
        reader.read(problems)
        return reader.found


def open_folder(config: FeedbackDataConfig) -> FeedbackFolder:
    """Raises InputError if `data.path` is not what the command writes."""
    path = Path(config.path)
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        share = float(summary["heldout_share"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        place = "FOLDER, and give that as data.path" if path.exists() else path
        raise InputError(
            [
                f"data.path={path}: must be a folder that python -m rlhf.feedback has written, "
                f"with its summary.json; run it with path=LOGS out={place}"
            ]
        ) from None
    return FeedbackFolder(path, config.instruction, share)


@dataclass(frozen=True, slots=True)
class _Found:
    row: Row
    reply: str
    remark: str | None


def _place(value: object) -> str:
    """A conversation and a turn of it, as `Origin.id` writes them."""
    text = read_text(value)
    if not re.fullmatch(r".*:[0-9]{1,9}", text, re.DOTALL):
        raise ValueError(f"is {shown(text)}, not a conversation and its turn, such as c17:2")
    return text


class _RemarkReader(FileReader):
    """Reads one file into `found`."""

    def __init__(self, file: Path, messages: str, reply: str, remark: str | None) -> None:
        columns: dict[str, Column] = {
            "id": ("id", "id", _place),
            "messages": (messages, messages, read_messages),
            "reply": (reply, reply, read_text),
        }
        if remark is not None:
            columns["remark"] = (remark, remark, read_text)
        super().__init__(file, columns, prefix="")
        self.found: list[_Found] = []

    def _row(self, number: int, record: Mapping[str, Any]) -> None:
        if values := self._values(number, record, self._columns):
            row = Row(values["id"], values["messages"], f"{self._file} row {number}")
            self.found.append(_Found(row, values["reply"], values.get("remark")))
