"""Labelled conversations into complaints to learn from, and pairs that need no learning first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from rlhf.conversations.labels import Satisfaction, Verdict
from rlhf.conversations.log import Conversation
from rlhf.records import Message


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a reply and the words about it were found."""

    conversation_id: str
    file: str
    row: int
    """From 1."""
    turn: int
    """The user's turn that says so, counted from 0 among the conversation's messages."""
    label_source: str
    """`given`, `rules` or `llm`."""
    reason: str
    """What told whether the user is satisfied."""

    @property
    def id(self) -> str:
        """Unique in its log."""
        return f"{self.conversation_id}:{self.turn}"

    def record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "conversation_id": self.conversation_id,
            "file": self.file,
            "row": self.row,
            "turn": self.turn,
            "label_source": self.label_source,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Complaint:
    """A reply that displeased, and what the user said of it."""

    origin: Origin
    history: tuple[Message, ...]
    """Up to and including the user's turn that was answered badly: the prompt to train on."""
    reply: str
    """Exactly as in the log."""
    complaint: str

    def record(self) -> dict[str, Any]:
        """One line of `complaints.*.jsonl`."""
        texts = {"reply": self.reply, "complaint": self.complaint}
        return {**self.origin.record(), "history": plain(self.history), **texts}


@dataclass(frozen=True, slots=True)
class Praise:
    """A reply that satisfied, and what the user said of it."""

    origin: Origin
    history: tuple[Message, ...]
    """Up to and including the user's turn that was answered well."""
    reply: str
    """Exactly as in the log."""
    praise: str

    def record(self) -> dict[str, Any]:
        """One line of `praises.*.jsonl`."""
        texts = {"reply": self.reply, "praise": self.praise}
        return {**self.origin.record(), "history": plain(self.history), **texts}


@dataclass(frozen=True, slots=True)
class SeedPair:
    """A reply that displeased, and the next one, which satisfied."""

    origin: Origin
    prompt: tuple[Message, ...]
    """Up to and including the turn that was answered badly."""
    chosen: str
    rejected: str
    chosen_reason: str
    """What said that the user is satisfied with it."""

    def record(self) -> dict[str, Any]:
        """One line of `seed_pairs*.jsonl`, which `python -m rlhf.reward` reads as well."""
        return {
            **self.origin.record(),
            "chosen_reason": self.chosen_reason,
            "prompt": plain(self.prompt),
            "chosen": self.chosen,
            "rejected": self.rejected,
        }


def complaints(
    conversation: Conversation, verdicts: Sequence[Verdict], label_source: str
) -> Iterator[Complaint]:
    """One for each turn that is dissatisfied; mixed ones are left out."""
    for origin in _origins(conversation, verdicts, label_source, Satisfaction.dissatisfied):
        yield Complaint(origin, *_exchange(conversation, origin.turn))


def praises(
    conversation: Conversation, verdicts: Sequence[Verdict], label_source: str
) -> Iterator[Praise]:
    """One for each turn that is satisfied; mixed ones are left out."""
    for origin in _origins(conversation, verdicts, label_source, Satisfaction.satisfied):
        yield Praise(origin, *_exchange(conversation, origin.turn))


def seed_pairs(
    conversation: Conversation, verdicts: Sequence[Verdict], label_source: str
) -> Iterator[SeedPair]:
    """One for each dissatisfied turn whose next reply is judged satisfied, and is another text."""
    messages = conversation.messages
    by_turn = {verdict.turn: verdict for verdict in verdicts}
    for verdict in verdicts:
        after = by_turn.get(verdict.turn + 2)
        if (
            verdict.satisfaction is Satisfaction.dissatisfied
            and after is not None
            and after.satisfaction is Satisfaction.satisfied
            and messages[verdict.turn + 1].content != messages[verdict.turn - 1].content
        ):
            yield SeedPair(
                origin=_origin(conversation, verdict, label_source),
                prompt=messages[: verdict.turn - 1],
                chosen=messages[verdict.turn + 1].content,
                rejected=messages[verdict.turn - 1].content,
                chosen_reason=after.reason,
            )


def next_turn(id: str) -> str:
    """The id of what the same user says next: a seed pair's complaint, and the praise after it."""
    conversation, _, turn = id.rpartition(":")
    return f"{conversation}:{int(turn) + 2}"


def _origins(
    conversation: Conversation,
    verdicts: Sequence[Verdict],
    label_source: str,
    wanted: Satisfaction,
) -> Iterator[Origin]:
    for verdict in verdicts:
        if verdict.satisfaction is wanted:
            yield _origin(conversation, verdict, label_source)


def _exchange(conversation: Conversation, turn: int) -> tuple[tuple[Message, ...], str, str]:
    """What was asked, the reply, and what this turn says of it."""
    *history, reply = conversation.messages[:turn]
    return tuple(history), reply.content, conversation.messages[turn].content


def _origin(conversation: Conversation, verdict: Verdict, label_source: str) -> Origin:
    place = (conversation.id, conversation.file, conversation.row)
    return Origin(*place, verdict.turn, label_source, verdict.reason)


def is_heldout(conversation_id: str, heldout_share: float) -> bool:
    """By a hash of the id: a conversation is wholly on one side, whatever else is in the log."""
    digest = sha256(conversation_id.encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < heldout_share


def plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    """As chat messages in JSON."""
    return [message._asdict() for message in messages]
