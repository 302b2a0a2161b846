"""Texts and conversations as files have them; what would be lost of them is refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.rows import is_text, shown
from rlhf.records import Message

ROLES = ("system", "user", "assistant")
CALLS = ("tool_calls", "function_call")


def read_text(value: object) -> str:
    if value is None:
        raise ValueError("is null or missing")
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {type(value).__name__}")
    if not value.strip():
        raise ValueError("is empty")
    if not is_text(value):
        raise ValueError("has half a surrogate pair, which is no character")
    return value


def white_or_text(value: object) -> str:
    """Text, which may be empty or blank."""
    return value if isinstance(value, str) and not value.strip() else read_text(value)


def read_messages(value: object) -> tuple[Message, ...]:
    """A prompt: text, or a conversation that ends with the user's turn."""
    if not isinstance(value, list):
        return (Message("user", read_text(value)),)
    if not value:
        raise ValueError("is a conversation without messages")
    messages = read_turns(value)
    if messages[-1].role != "user":
        raise ValueError(f"must end with a message of the user, not of the {messages[-1].role}")
    read_text(messages[-1].content)
    return messages


def read_turns(value: Sequence[object]) -> tuple[Message, ...]:
    """Turns in order, of which any may be blank."""
    messages = []
    for item in value:
        if not isinstance(item, dict) or not {"role", "content"} <= item.keys():
            raise ValueError("must be text, or a list of messages with `role` and `content`")
        if item["role"] not in ROLES:
            raise ValueError(f"has the role {shown(item['role'])}; allowed: {', '.join(ROLES)}")
        if calls := [name for name in CALLS if item.get(name)]:
            raise ValueError(
                f"has a message with `{calls[0]}`, which are not read; write calls into `content`"
            )
        messages.append(Message(item["role"], white_or_text(item["content"])))
    return tuple(messages)


def read_reply(value: object) -> tuple[tuple[Message, ...], str]:
    """A side of a preference: the turns before its last, if it has any, and the last one's text.

    The text may be empty or blank.
    """
    if not isinstance(value, list):
        return (), white_or_text(value)
    last = value[-1] if value else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise ValueError("must be text, or a list of messages that ends with the assistant's")
    *before, reply = read_turns(value)
    if before and before[-1].role != "user":
        raise ValueError("must have a turn of the user before the assistant's last")
    return tuple(before), reply.content


def read_dialogue(value: object) -> str | tuple[Message, ...]:
    """An answer: text, or the turns of one, the assistant's and the user's in turn."""
    if not isinstance(value, list):
        return read_text(value)
    turns = read_turns(value)
    if len(turns) % 2 == 0 or any(
        turn.role != ("assistant", "user")[i % 2] for i, turn in enumerate(turns)
    ):
        raise ValueError(
            "must begin and end with the assistant's turn, and the user's between them"
        )
    return turns


def whole_conversation(
    prompt: tuple[Message, ...], before: Sequence[Message]
) -> tuple[Message, ...] | None:
    """A prompt and the turns that stand before a reply to it, which may repeat it or go on from it.

    None if they are two conversations.
    """
    before = tuple(before)
    if any(before[i : i + len(prompt)] == prompt for i in range(len(before))):
        return before
    for overlap in range(min(len(prompt), len(before)), 0, -1):
        if prompt[-overlap:] == before[:overlap]:
            return prompt + before[overlap:]
    return prompt + before if not before or before[0].role == "assistant" else None


def with_criterion(messages: tuple[Message, ...], criterion: str) -> tuple[Message, ...]:
    """A conversation whose last turn ends with what its answers are judged by, if that is said."""
    if not criterion:
        return messages
    *before, last = messages
    return (*before, last._replace(content=f"{last.content}\n\nCriterion: {criterion}"))


def asked(messages: Sequence[Message]) -> Any:
    """A prompt as users' functions get it: text, or a list of messages if it has several."""
    first, *more = messages
    if not more and first.role == "user":
        return first.content
    return [message._asdict() for message in messages]


def whole_row(
    id: str, messages: Sequence[Message], answer: str | None, row: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """The row of a file as users' functions get it; of what is generated, a row of its question
    and its answer."""
    return {"id": id, "prompt": asked(messages), "answer": answer} if row is None else row
