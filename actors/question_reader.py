"""Questions as the token ids of the model that is asked, and where its answers begin."""

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.config.models import Rendering
from rlhf.data.rendering import Renderer
from rlhf.judges.questions.thoughts import MARKS, THOUGHT_TOKENS, end_of_thought, is_open
from rlhf.models.checks import require_causal
from rlhf.models.files import fingerprint
from rlhf.models.loading import read_config, read_tokenizer
from rlhf.problems import InputError
from rlhf.records import Message


class QuestionReader:
    """Questions as a model's token ids, with room for an answer of `answer_tokens`, and where the
    model may think before it answers, for a thought.

    Raises InputError, naming `key`, if the model's files or tokenizer cannot be used.
    """

    def __init__(
        self,
        path: str | None,
        max_tokens: int,
        answer_tokens: int,
        key: str = "judge.path",
        window: float = math.inf,
    ) -> None:
        """`max_tokens`: of a question; `window`: of it and its answer, if the engine sets a limit
        of its own."""
        assert path is not None
        self.where = where = f"{key}={path}"
        self.answer_tokens = answer_tokens
        directory = require_causal(key, path)
        self.model = f"{Path(path).name}-{fingerprint(directory)}"
        tokenizer, model = read_tokenizer(directory), read_config(directory)
        if tokenizer.eos_token_id is None:
            raise InputError([f"{where}: its tokenizer has no end token; set its eos_token"])
        self._tokenizer: Any = tokenizer
        self._renderer = Renderer(tokenizer, Rendering.auto)
        longest = min(window, getattr(model, "max_position_embeddings", None) or math.inf)
        self.thought_tokens = int(min(THOUGHT_TOKENS, longest / 2)) if _may_think(tokenizer) else 0
        """The most that a thought may have; 0 for a model that does not know how to think."""
        room = longest - self.thought_tokens - answer_tokens
        limits = (max_tokens, room, tokenizer.model_max_length)
        self.max_tokens = int(min(limits))
        # It would warn of texts that are too long, as if they went on to the model.
        tokenizer.model_max_length = int(1e30)
        special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        # An empty alternative would match everywhere, so there is always one that matches nowhere.
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self.begins_with_thought = bool(self.thought_tokens) and is_open(self._turn_begin())
        """Whether the chat template itself opens a thought where the answer is to begin."""

    def _turn_begin(self) -> str:
        """What stands between a question and its answer."""
        question = "1"
        text = self._decode(self.tokens(question) or ())
        return text.rpartition(question)[2]

    def tokens(self, question: str) -> tuple[int, ...] | None:
        """Up to where the answer begins: by the chat template, or plainly if there is none.

        None for a question that is too long, or that the chat template refuses.
        """
        try:
            ids = self._renderer.render((Message("user", question),))
        except ValueError:
            return None
        return ids if len(ids) <= self.max_tokens else None

    def clean(self, text: str) -> str:
        """Breaks the model's special tokens written out in a text, which would end a turn."""
        return self._special.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)

    def check(self, question: str) -> None:
        """Raises InputError unless it takes this trivial question."""
        if self.tokens(question) is None:
            raise InputError(
                [
                    f"{self.where}: does not take a trivial question: it is longer than its "
                    f"max_tokens or the model allow ({self.max_tokens} tokens), or its chat "
                    "template refuses a user's message"
                ]
            )

    def thought(self, token_ids: Sequence[int]) -> tuple[int, ...] | None:
        """Of what the model wrote, everything before its answer: the thought, the mark that ends
        it, and white space. None if no thought ends in it.
        """
        count = bisect_left(
            range(len(token_ids) + 1),
            True,
            key=lambda n: end_of_thought(self._decode(token_ids[:n])) is not None,
        )
        if count > len(token_ids):
            return None
        while count < len(token_ids) and not self._decode(token_ids[count : count + 1]).strip():
            count += 1
        return tuple(token_ids[:count])

    def is_thinking(self, token_ids: Sequence[int]) -> bool:
        """Of what the model wrote, whether it ends in a thought."""
        return is_open(self._turn_begin() + self._decode(token_ids))

    def encode(self, text: str) -> tuple[int, ...]:
        """A text that is to stand in an answer, control tokens that it spells included."""
        return self._renderer.text_ids(text)

    def text(self, token_ids: Sequence[int]) -> str:
        """Of an answer, without special tokens."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def label_ids(self, labels: Sequence[str]) -> tuple[int, ...]:
        """The labels' tokens; raises InputError if they are more than one token each."""
        tokenizer = self._tokenizer
        encoded = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
        for label, ids in zip(labels, encoded, strict=True):
            if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
                raise InputError(
                    [
                        f"{self.where}: {label!r} is not one token of its vocabulary, so it "
                        "cannot answer with it (got "
                        f"{tokenizer.convert_ids_to_tokens(ids)}); take another model"
                    ]
                )
        return tuple(ids[0] for ids in encoded)


def _may_think(tokenizer: Any) -> bool:
    """Whether the end of a thought is one of its tokens, or stands in its chat template."""
    known = {token.content for token in tokenizer.added_tokens_decoder.values()}
    template = str(tokenizer.chat_template or "")
    return any(end in known or end in template for _, end in MARKS)
