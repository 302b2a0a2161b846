"""New log files in a folder, picked up between rounds; each conversation is used once."""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from rlhf.asking.sources.feedback import require_feed
from rlhf.config.data import LabelSource
from rlhf.conversations.labels import Satisfaction
from rlhf.conversations.log import Conversation, ConversationLog
from rlhf.conversations.pairs import complaints, is_heldout
from rlhf.conversations.turns import LOG_SUFFIXES
from rlhf.data.rendering import Review, Row, complaint_row
from rlhf.feedback import rules
from rlhf.problems import InputError
from rlhf.records import Message, Prompt
from rlhf.stages import Schedule
from rlhf.storage.ledger import Page


class Feed:
    """The conversations that have arrived in a folder and were not used yet.

    A file is read when it appears, and again when it has changed: of what it then has, only
    conversations with new ids count. A file that cannot be read is told and left alone until it
    changes. Give files their name when they are complete; those that begin with a dot are not seen.
    """

    def __init__(
        self,
        folder: Path,
        label: LabelSource,
        heldout_share: float,
        used: Collection[str],
        tell: Callable[[str], None],
    ) -> None:
        """`used`: ids of the conversations that have been used before. Raises InputError if there
        is no such folder."""
        require_feed(folder)
        self._folder = folder
        self._label = label
        self._heldout_share = heldout_share
        self._seen = set(used)
        self._tell = tell
        self._read: dict[Path, tuple[int, int]] = {}
        self._waiting: deque[list[dict[str, Any]]] = deque()
        self._is_gone = False

    def take(self, most: int) -> list[dict[str, Any]]:
        """Complaints of whole conversations, the oldest first, and no more than `most` unless one
        conversation alone has more: as `rlhf.conversations.pairs.Complaint.record` has them."""
        for file in self._files():
            is_log = file.suffix in LOG_SUFFIXES and not file.is_dir()
            if is_log and not file.name.startswith("."):
                self._look_at(file)
        taken: list[dict[str, Any]] = []
        while self._waiting and (not taken or len(taken) + len(self._waiting[0]) <= most):
            taken += self._waiting.popleft()
        return taken

    def _files(self) -> list[Path]:
        """Nothing while the folder cannot be read, of which people are told once."""
        try:
            found = sorted(self._folder.iterdir())
        except OSError as error:
            if not self._is_gone:
                why = error.strerror
                self._tell(f"feed: {self._folder} cannot be read ({why}); looked at every round")
            self._is_gone = True
            return []
        self._is_gone = False
        return found

    def _look_at(self, file: Path) -> None:
        try:
            stat = file.stat()
        except FileNotFoundError:  # moved away in this moment
            return
        state = (stat.st_size, stat.st_mtime_ns)
        if self._read.get(file) == state:
            return
        self._read[file] = state
        try:
            conversations = list(ConversationLog(file))
        except InputError as error:
            self._tell(f"feed: {file} is passed over until it changes: {'; '.join(error.problems)}")
            return
        new = [one for one in conversations if one.id not in self._seen]
        kept = [one for one in new if not is_heldout(one.id, self._heldout_share)]
        by_id = {one.id: records for one in kept if (records := self._complaints(one))}
        found = list(by_id.values())
        self._seen |= by_id.keys()  # whoever has not complained may do so yet
        self._waiting += found
        self._tell(
            f"feed: {file}: {len(conversations)} conversations, {len(new)} of them new, "
            f"{len(new) - len(kept)} held out, {len(found)} with complaints"
        )
        if new and self._label is LabelSource.given and not any(map(_is_labelled, new)):
            self._tell(f"feed: {file} has no labels of its own; data.label=rules would find some")

    def _complaints(self, conversation: Conversation) -> list[dict[str, Any]]:
        verdicts = conversation.given
        if self._label is LabelSource.rules:
            verdicts = rules.label(conversation.messages)
        return [one.record() for one in complaints(conversation, verdicts, self._label.value)]


class FeedSchedule:
    """`Schedule`: what has arrived comes first, and the log that the run began with fills up.

    Every round's arrivals are in `ledger`, which is to keep them at once, before they are used: a
    resumed run repeats them, whatever has arrived since, and provenance is kept.
    """

    def __init__(
        self,
        log: Schedule,
        num_per_round: int,
        feed: Feed,
        ledger: Page,
        prepare: Callable[[Row], Prompt | None],
        instruction: str,
        tell: Callable[[str], None],
    ) -> None:
        """`prepare` makes a prompt and keeps what users said of it; None if it is too long."""
        self._log = log
        self._num_per_round = num_per_round
        self._feed = feed
        self._ledger = ledger
        self._prepare = prepare
        self._instruction = instruction
        self._tell = tell

    async def round(self, index: int) -> list[Prompt]:
        records = self._ledger.notes.get(index)
        if records is None:
            records = self._feed.take(self._num_per_round)
            self._ledger.note(index, records)
        rows = [_row(record, self._instruction) for record in records]
        arrived = [prompt for row in rows if (prompt := self._prepare(row))]
        if num_unfit := len(rows) - len(arrived):
            self._tell(f"feed: round {index} leaves out {num_unfit} complaints that do not fit")
        filling = await self._log.round(index)
        return [*arrived, *filling[: max(0, self._num_per_round - len(arrived))]]


def conversations(ledger: Page) -> Iterator[str]:
    """Ids of those that were taken."""
    for taken in ledger.notes.values():
        yield from (complaint["conversation_id"] for complaint in taken)


def _is_labelled(conversation: Conversation) -> bool:
    return any(v.satisfaction is not Satisfaction.unknown for v in conversation.given)


def _row(record: dict[str, Any], instruction: str) -> Row:
    history = tuple(Message(m["role"], m["content"]) for m in record["history"])
    review = Review(record["reply"], record["complaint"], instruction=instruction)
    return complaint_row(record["id"], history, f"{record['file']} row {record['row']}", review)
