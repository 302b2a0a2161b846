"""Conversations from logs, one at a time; each is kept, or dropped and counted.

Two kinds of rows are read, from JSONL, Parquet or JSON arrays, and told apart row by row:

- A chat: `messages` (objects with `role` and `content`; a user's may have the booleans `satisfied`
  and `dissatisfied`, which judge the assistant's reply before it) and, if there is one, `id`.
- An utterance, as in `sat_dsat_annotation` of WildFeedback (microsoft/WildFeedback, ODC-By): one
  row per turn, in order, without an id of the conversation. Read are `UtteranceId` (from 0, which
  begins a new conversation), `Role` (`User` or `Agent`), `Content`, and on a user's row
  `Satisfaction` and `Disatisfaction` (so spelled), each a boolean or missing. Labels on an agent's
  row repeat those of the user's row before it; they are not read.

Both booleans true is mixed. A missing one is not false: see `given_verdict`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

from rlhf.conversations.labels import Verdict, given_verdict, judging_turns
from rlhf.conversations.turns import LOG_SUFFIXES, Drop, Logged, LogReader, Turn
from rlhf.data.folders import find_files
from rlhf.problems import InputError
from rlhf.records import Message

LISTED = 20
"""Dropped conversations whose place is told, per reason."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of user and assistant that alternate, after at most one system message."""

    id: str
    """The row's own, or a hash of its messages, which is the same in whatever file it stands."""
    messages: tuple[Message, ...]
    given: tuple[Verdict, ...]
    """One for each user's turn that has a reply before it; `unknown` where the log has no label."""
    file: str
    row: int
    """From 1; of utterances, the first."""


@dataclass(slots=True)
class Tally:
    """At all times num_read = num_kept + the sum of `dropped`."""

    num_rows: int = 0
    num_read: int = 0
    num_kept: int = 0
    dropped: Counter[Drop] = field(default_factory=Counter)
    places: dict[Drop, list[str]] = field(default_factory=dict)
    """Files and rows of the first few, per reason."""

    def drop(self, why: Drop, place: str) -> None:
        self.dropped[why] += 1
        if self.dropped[why] <= LISTED:
            self.places.setdefault(why, []).append(place)


class ConversationLog:
    """The conversations of a file, or of all files under a folder; can be iterated once.

    Holds one conversation at a time, and of those before it the counts and a hash of each id.
    """

    def __init__(self, path: Path) -> None:
        """Raises InputError if there is nothing to read."""
        self._files = find_files("path", path, LOG_SUFFIXES)
        self._readers = [LogReader(file) for file in self._files]
        self._ids: set[bytes] = set()
        self.tally = Tally()
        # A link to nothing is told when it is read.
        self.num_bytes = sum(file.stat().st_size for file in self._files if file.exists())

    @property
    def bytes_read(self) -> int:
        return sum(reader.bytes_read for reader in self._readers)

    def __iter__(self) -> Iterator[Conversation]:
        """Those that are kept.

        After the last, raises InputError with every fault of every file; then nothing of what came
        before is to be used.
        """
        for file, reader in zip(self._files, self._readers, strict=True):
            for logged in reader.conversations():
                self.tally.num_read += 1
                if conversation := self._checked(file, logged):
                    self.tally.num_kept += 1
                    yield conversation
            self.tally.num_rows += reader.num_rows
        if problems := [problem for reader in self._readers for problem in reader.problems()]:
            raise InputError(problems)

    def _checked(self, file: Path, logged: Logged) -> Conversation | None:
        name = logged.id or _fingerprint(logged.turns)
        why = logged.drop or irregularity(logged)
        digest = blake2b(name.encode(), digest_size=8).digest()
        if why is None and digest in self._ids:
            why = Drop.duplicate_id
        if why is not None:
            self.tally.drop(why, f"{file} row {logged.row}")
            return None
        self._ids.add(digest)
        messages = tuple(Message(turn.role, turn.content) for turn in logged.turns)
        given = tuple(
            given_verdict(turn, logged.turns[turn].satisfied, logged.turns[turn].dissatisfied)
            for turn in judging_turns(messages)
        )
        return Conversation(name, messages, given, str(file), logged.row)


def _fingerprint(turns: Sequence[Turn]) -> str:
    words = json.dumps([[turn.role, turn.content] for turn in turns])
    return blake2b(words.encode(), digest_size=8).hexdigest()


def irregularity(logged: Logged) -> Drop | None:
    """The first thing that is wrong with the turns themselves."""
    if not logged.turns:
        return Drop.no_messages
    roles = [turn.role for turn in logged.turns]
    if not {"system", "user", "assistant"}.issuperset(roles):
        return Drop.tool_message
    if "system" in roles[1:]:
        return Drop.system_inside
    spoken = logged.turns[roles[0] == "system" :]
    if spoken and spoken[0].role == "assistant":
        return Drop.starts_with_assistant
    if any(a.role == b.role for a, b in pairwise(spoken)):
        return Drop.same_role_twice
    if not all(turn.content for turn in logged.turns):
        return Drop.empty_message
    if spoken and (spoken[0].satisfied or spoken[0].dissatisfied):
        return Drop.label_without_reply
    return None
