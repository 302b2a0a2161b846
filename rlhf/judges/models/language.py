"""A causal language model that says how likely a text is where others have stood before it."""

from collections.abc import Sequence
from functools import cached_property, partial
from itertools import islice

import torch
from jinja2 import TemplateError

from rlhf.config.models import Rendering
from rlhf.data.rendering import Renderer
from rlhf.judges.base import LanguageModelJudgeConfig
from rlhf.judges.models.held import held
from rlhf.learning.reading import row_logprobs
from rlhf.models.files import fingerprint
from rlhf.models.loading import load_causal, read_tokenizer
from rlhf.problems import InputError
from rlhf.records import Message, Tokens, transcript

Ids = tuple[int, ...]
_MARK = "x7q"
"""A text that no template has of its own."""


class LanguageModel:
    """On the GPU if there is one; raises InputError if the model cannot be used."""

    def __init__(self, config: LanguageModelJudgeConfig) -> None:
        directory, dtype = config.held()
        self.version = f"{directory.name}@{fingerprint(directory)}"
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        load = partial(load_causal, directory, dtype)  # type: ignore[arg-type]
        self._model = held((LanguageModel, directory, dtype), load).to(self._device).eval()
        self._tokenizer = read_tokenizer(directory)
        self._renderer = Renderer(self._tokenizer, Rendering.auto)
        longest = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self._max_tokens = min(config.max_tokens, longest or config.max_tokens)
        self._micro_batch_tokens = config.micro_batch_tokens
        self._where = f"judge.path={config.path}"

    def text(self, text: str) -> Ids:
        """As tokens, control tokens that it spells included as text."""
        return self._renderer.text_ids(text)

    def answering(self, messages: Sequence[Message]) -> Ids | None:
        """Up to where an answer begins; None for a conversation that the template refuses."""
        if not self._renderer.reads_turns:
            messages = (Message("user", transcript(messages)),)
        try:
            return self._renderer.render(tuple(messages))
        except ValueError:
            return None

    def going_on(self, messages: Sequence[Message], answer: str) -> Ids | None:
        """Up to where the user's next turn begins, behind a whole answer; None as above."""
        begun = self.answering(messages)
        if begun is None:
            return None
        if not self._renderer.reads_turns:
            return (*begun, *self.text(f"\n\n{answer}\n\n"))
        return (*begun, *self.text(answer), *self._between)

    def require_turns(self) -> None:
        """Raises InputError if nothing of the user's can follow an answer."""
        if self._renderer.reads_turns:
            assert self._between is not None

    @cached_property
    def _between(self) -> Ids:
        """What the chat template writes between an answer and the user's next words."""
        turns = [("user", "1"), ("assistant", _MARK), ("user", _MARK)]
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            whole = self._tokenizer.apply_chat_template(messages, tokenize=False)
        except (TemplateError, TypeError, ValueError) as error:
            told = f"its chat template refuses a second turn of the user ({error})"
            raise InputError([f"{self._where}: {told}; take another model"]) from error
        parts = whole.split(_MARK)
        if len(parts) != 3:
            raise InputError(
                [
                    f"{self._where}: its chat template does not write out every turn, so that no "
                    "turn can follow an answer; take another model"
                ]
            )
        return tuple(self._tokenizer(parts[1], add_special_tokens=False)["input_ids"])

    def nats(self, rows: Sequence[Tokens | None]) -> list[list[float] | None]:
        """Per-token log-probabilities of every row's completion; None where there is no row, or one
        that is empty or too long. Equal rows are computed once.
        """
        fitting = dict.fromkeys(row for row in rows if row is not None and self._fits(row))
        found = row_logprobs(self._model, list(fitting), self._micro_batch_tokens, self._device)
        known = dict(zip(fitting, found, strict=True))
        return [None if row is None else known.get(row) for row in rows]

    def _fits(self, row: Tokens) -> bool:
        return bool(row.completion) and len(row.prompt) + len(row.completion) <= self._max_tokens


def grouped(values: Sequence[float | None], sizes: Sequence[int]) -> list[tuple[float | None, ...]]:
    """The values of each group, in order."""
    each = iter(values)
    return [tuple(islice(each, size)) for size in sizes]
