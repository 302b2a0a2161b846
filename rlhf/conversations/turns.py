"""Rows of a log into turns as they are written; `rlhf.conversations.log` says which rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.data.messages import CALLS, read_text
from rlhf.data.rows import RowReader, shown
from rlhf.problems import some

LOG_SUFFIXES = (".jsonl", ".parquet", ".json")
ROLES = ("system", "user", "assistant", "tool", "function")
"""Conversations with the last two are dropped; any other role is a fault."""
UTTERANCE_ROLES = {"User": "user", "Agent": "assistant"}
MAX_KINDS = 20
"""Kinds of fault that are told apart in one file."""
_UTTERANCE = ("UtteranceId", "Role", "Content", "Satisfaction", "Disatisfaction")


class Drop(StrEnum):
    """Why a conversation is not used; the first that holds."""

    starts_midway = "starts_midway"
    """Its first utterance is not number 0."""
    utterance_missing = "utterance_missing"
    """Its utterance numbers do not follow each other."""
    no_messages = "no_messages"
    tool_message = "tool_message"
    system_inside = "system_inside"
    """A system message after the first place."""
    starts_with_assistant = "starts_with_assistant"
    same_role_twice = "same_role_twice"
    """Two turns of the same role in a row."""
    empty_message = "empty_message"
    label_without_reply = "label_without_reply"
    """A label on a user's turn that has no assistant's turn before it."""
    duplicate_id = "duplicate_id"
    """Another conversation before it has the same id or, without one, the same messages."""


class Turn(NamedTuple):
    role: str
    content: str
    """Exactly as in the log; empty if it is null or blank."""
    satisfied: bool | None
    dissatisfied: bool | None


@dataclass(slots=True)
class Logged:
    """One conversation before it is checked."""

    row: int
    """The first, from 1."""
    id: str | None = None
    turns: list[Turn] = field(default_factory=list)
    drop: Drop | None = None
    """What the rows themselves show; then there are no turns."""

    def add(self, number: int, turn: Turn) -> None:
        """An utterance; after a fault in the numbers no more are kept."""
        if self.drop is None and number == len(self.turns):
            self.turns.append(turn)
        elif self.drop is None:
            self.drop = Drop.utterance_missing if self.turns else Drop.starts_midway
            self.turns.clear()


class _FieldFault(Exception):
    def __init__(self, name: str, what: str) -> None:
        super().__init__(name, what)
        self.name, self.what = name, what


class LogReader(RowReader):
    """Reads one file once; its faults are in `problems` when it is through."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, {"id", "messages", *_UTTERANCE})
        self.num_rows = 0
        self._other_faults = 0
        self._broken: list[str] = []

    def conversations(self) -> Iterator[Logged]:
        """In the file's order; a row with a fault is left out, and told in `problems`."""
        utterances: Logged | None = None
        try:
            for row, record in self._records():
                self.num_rows += 1
                try:
                    number, read = _read(row, record)
                except _FieldFault as fault:
                    self._fault(fault.name, fault.what, row)
                    continue
                if utterances is not None and not number:
                    yield utterances
                    utterances = None
                if isinstance(read, Logged):
                    yield read
                else:
                    utterances = utterances or Logged(row)
                    utterances.add(number or 0, read)
        except OSError as error:
            self._broken.append(self._unreadable(error))
        if utterances is not None:
            yield utterances

    def problems(self) -> list[str]:
        """One line for each kind of fault: file, field, value, what is allowed, rows."""
        told = [
            f"{self._file}: {f'`{name}` ' if name else ''}{what}; "
            f"{len(numbers)} rows: {some(numbers)}"
            for (name, what), numbers in self._faults.items()
        ]
        if self._other_faults:
            told.append(f"{self._file}: other faults in {self._other_faults} more rows")
        return self._broken + told

    def _fault(self, column: str | None, what: str, number: int) -> None:
        if (column, what) in self._faults or len(self._faults) < MAX_KINDS:
            super()._fault(column, what, number)
        else:
            self._other_faults += 1


def _read(row: int, record: Mapping[str, Any]) -> tuple[int | None, Logged | Turn]:
    """A conversation, or an utterance and its number; raises _FieldFault."""
    if record.get("messages") is not None:
        return None, Logged(row, _id(record.get("id")), _turns(record["messages"]))
    if record.get("UtteranceId") is None:
        raise _FieldFault(
            "messages",
            "is null or missing, and so is `UtteranceId`; each row must have one of the two",
        )
    number, role = record["UtteranceId"], record.get("Role")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise _FieldFault("UtteranceId", f"must be a whole number from 0, not {shown(number)}")
    if not isinstance(role, str) or role not in UTTERANCE_ROLES:
        raise _FieldFault("Role", f"is {shown(role)}; allowed: {', '.join(UTTERANCE_ROLES)}")
    content = _text(record, "Content", "Content")
    labels = [None, None]
    if role == "User":
        labels = [_boolean(record, name, name) for name in ("Satisfaction", "Disatisfaction")]
    return number, Turn(UTTERANCE_ROLES[role], content, *labels)


def _turns(messages: object) -> list[Turn]:
    if not isinstance(messages, list):
        raise _FieldFault("messages", f"must be a list of messages, not {shown(messages)}")
    return [_turn(message) for message in messages]


def _turn(message: object) -> Turn:
    if not isinstance(message, dict):
        raise _FieldFault("messages", f"must hold objects, not {shown(message)}")
    role = message.get("role")
    if role not in ROLES:
        raise _FieldFault("messages.role", f"is {shown(role)}; allowed: {', '.join(ROLES)}")
    content = _text(message, "content", "messages.content")
    labels = [_boolean(message, n, f"messages.{n}") for n in ("satisfied", "dissatisfied")]
    if role != "user" and labels != [None, None]:
        raise _FieldFault(
            "messages.satisfied",
            f"or `dissatisfied` is on a message of the {role}; put it on the user's turn after it",
        )
    # A call beside the text is a tool's business, even where no tool answers.
    called = any(message.get(name) for name in CALLS)
    return Turn("tool" if called else role, content, *labels)


# --- values --------------------------------------------------------------------------------------


def _text(record: Mapping[str, Any], key: str, name: str) -> str:
    if key not in record:
        raise _FieldFault(name, "is missing; a turn without text has null or an empty one")
    value = record[key]
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    try:
        return read_text(value)
    except ValueError as error:
        raise _FieldFault(name, str(error)) from None


def _boolean(record: Mapping[str, Any], key: str, name: str) -> bool | None:
    value = record.get(key)
    if value is None or isinstance(value, bool):
        return value
    raise _FieldFault(name, f"must be true, false or left out, not {shown(value)}")


def _id(value: object) -> str | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return None if value is None else str(value)
    try:
        return read_text(value)
    except ValueError as error:
        raise _FieldFault("id", f"{error}; give text or a whole number, or leave it out") from None
