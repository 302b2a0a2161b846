"""Rows of a data source into the token ids that the policy reads: the only place that does it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlhf.config.data import INSTRUCTION
from rlhf.config.models import Rendering
from rlhf.data.encoding import TextEncoder, special_prefix
from rlhf.models.turns import MARK, turn_end
from rlhf.problems import InputError
from rlhf.records import Message

if TYPE_CHECKING:  # who types a key wrongly is told before transformers has been imported
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Review:
    """Replies that a conversation got where a row ends, and what was said of them; as in a log."""

    disliked: str | None = None
    complaint: str | None = None
    """About `disliked`."""
    liked: str | None = None
    instruction: str = INSTRUCTION


@dataclass(frozen=True, slots=True)
class Row:
    """A question as its source gives it."""

    id: str
    messages: tuple[Message, ...]
    origin: str
    """Where it stands, for messages to people: `train.jsonl row 17`."""
    answer: str | None = None
    demonstration: str | tuple[Message, ...] | None = None
    """An answer; of several turns, with what the environment says between them as the user's."""
    review: Review | None = None
    whole: Mapping[str, Any] | None = None
    """Every column as it was, where judge or environment read rows."""


def complaint_row(
    id: str,
    history: tuple[Message, ...],
    origin: str,
    review: Review,
) -> Row:
    """A logged prompt whose answer is what its user said they wanted."""
    return Row(id, history, origin, answer=review.complaint, review=review)


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that a source of data gives."""

    train: list[Row]
    heldout: list[Row]
    lessons: list[Row] = field(default_factory=list)
    """Only demonstrated, for a warm start, and never asked."""


class Renderer:
    """Turns conversations into token ids with the policy's own tokenizer.

    Raises InputError if the tokenizer has no end token, or is to chat without a template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", rendering: Rendering) -> None:
        has_template = tokenizer.chat_template is not None
        problems = []
        if tokenizer.eos_token_id is None:
            problems.append(
                "model.path: its tokenizer has no end token, so that completions could never end; "
                "set eos_token in its tokenizer_config.json"
            )
        if rendering is Rendering.chat and not has_template:
            problems.append(
                "model.rendering=chat: the tokenizer has no chat template; add a "
                "chat_template.jinja to the model, or set model.rendering=plain"
            )
        if problems:
            raise InputError(problems)
        self._tokenizer: Any = tokenizer
        self._chat = rendering is Rendering.chat or (rendering is Rendering.auto and has_template)
        self._eos_id: Any = tokenizer.eos_token_id
        self._prefix = special_prefix(tokenizer)
        self._end = turn_end(tokenizer) if self._chat else (self._eos_id,)
        self._texts = TextEncoder(tokenizer)

    def render(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """Token ids that end where the completion is to begin; never an end token of ours.

        By the chat template with its generation prompt, or plainly: one message behind the
        tokenizer's usual first tokens. Raises ValueError if the template refuses the messages, or
        if there are several and no template.
        """
        if not self._chat:
            if len(messages) != 1:
                raise ValueError("plain rendering reads one message, not a conversation")
            return (*self._prefix, *self.text_ids(messages[0].content))
        return self._texts.chat(messages, add_generation_prompt=True)

    def completion_ids(self, text: str) -> tuple[int, ...]:
        """A demonstration as the policy should emit it: the text, then what ends its turn."""
        return (*self.text_ids(text), *self._end)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """A part of an answer, such as what a tool wrote; it speaks of control tokens at most."""
        return self._texts.text(text)

    def observation(self, text: str) -> tuple[tuple[int, ...], str]:
        """What stands between a turn that the policy has ended and its next: token ids, and as
        people read it.

        By the chat template a message of the user, without what ends the policy's own, since it has
        emitted that; plainly the text alone.
        """
        if not self._chat:
            return self.text_ids(text), text
        turns = (Message("user", "1"), Message("assistant", MARK), Message("user", text))
        ids = self._texts.chat(turns, MARK, add_generation_prompt=True)
        has_end = ids[: len(self._end)] == self._end
        between = ids[len(self._end) :] if has_end else ids
        return between, f"\n\nuser:\n{text}\n\nassistant:\n"

    @property
    def reads_turns(self) -> bool:
        """Whether a conversation can be read, and not only a single message."""
        return self._chat

    @property
    def unknown_id(self) -> int | None:
        """The token of characters that the vocabulary lacks; None if that cannot be told."""
        unknown = self._tokenizer.unk_token_id
        # Byte-level tokenizers such as GPT-2's give one token every special role.
        others = (self._tokenizer.eos_token_id, self._tokenizer.bos_token_id)
        return None if unknown in others else unknown
