"""Sequence classifiers as every judge of models uses them: token ids in, logits out.

Dimensions: B rows, T tokens (padded on the right), D of hidden states, N places, L labels.
"""

import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from rlhf.data.encoding import TextEncoder, special_prefix
from rlhf.judges.models.held import held
from rlhf.models.batching import Shape, micro_batches, unique
from rlhf.models.loading import (
    UNREADABLE,
    first_line,
    mismatch_faults,
    most_positions,
    read_tokenizer,
)
from rlhf.problems import InputError, some
from rlhf.records import Message, transcript

Ids = tuple[int, ...]
"""One row's tokens; none where the chat template refuses the conversation. It may be `Typed`."""
Place = tuple[int, int]
"""One token of several rows: which row, and which token of it."""


class Typed(tuple[int, ...]):
    """One row's tokens for a model that tells texts apart by token types, as BERT does."""

    types: Ids

    def __new__(cls, ids: Iterable[int], types: Iterable[int]) -> "Typed":
        row = super().__new__(cls, ids)
        row.types = tuple(types)
        assert len(row.types) == len(row)
        return row


def distinct(rows: Sequence[Ids]) -> tuple[list[Ids], list[int]]:
    """The rows that differ, in tokens or in their types, and for each of `rows` where it stands."""
    found, places = unique([(row, _types(row)) for row in rows])
    return [row for row, _ in found], places


def _types(row: Ids) -> Ids:
    return row.types if isinstance(row, Typed) else (0,) * len(row)


class Classifier:
    """A sequence classifier and the tokenizer that belongs to it, on the GPU if there is one."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        """`max_tokens` is lowered to what model and tokenizer allow."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.texts = TextEncoder(tokenizer)
        self._first = special_prefix(tokenizer)
        self._text_config = model.config.get_text_config()
        self._pad_id: int | None = self._text_config.pad_token_id
        self._has_types = _has_types(model, self._text_config, tokenizer)
        positions = most_positions(model) or max_tokens
        self.max_tokens = min(max_tokens, tokenizer.model_max_length, positions)

    @classmethod
    def load(cls, directory: Path, dtype: str, max_tokens: int) -> "Classifier":
        """Refuses a model whose weights lack a part, such as its head: it would judge at random."""
        key = (cls, directory, dtype)
        model, tokenizer = held(key, partial(_loaded, directory, dtype))
        return cls(model, tokenizer, max_tokens)

    def encode(self, messages: Sequence[Message], completion: str, ended: bool = True) -> Ids:
        """The conversation and its completion by the chat template, or, if there is none, as the
        tokenizer's pair of texts, of which the first has several turns one below the other.

        A completion that has not `ended` stands as a policy has it while it writes: the prompt up
        to where the answer begins, then the text so far, and nothing that closes it, so that the
        text's last token is the row's.
        """
        if not ended:
            prompt, text = self._begun(messages), self.texts.text(completion)
            if self.tokenizer.chat_template is None:
                return self.two_texts(prompt, text)
            return (*prompt, *text) if prompt else ()
        if self.tokenizer.chat_template is None:
            return self._pair(transcript(messages), completion)
        return self.chat([*messages, Message("assistant", completion)])

    def _pair(self, first: str, second: str) -> Ids:
        ids = self.texts.whole(first, second)
        if not self._has_types:
            return ids
        options = {"return_token_type_ids": True, "split_special_tokens": True}
        types = self.tokenizer(first, second, **options)["token_type_ids"]
        if len(types) != len(ids):  # a control token in a text was read in two parts
            begun = len(self.texts.whole(first))
            types = [0] * begun + [1] * (len(ids) - begun)
        return Typed(ids, types)

    def two_texts(self, first: Ids, second: Ids) -> Ids:
        """One row of both, of which a model with token types sees where the second begins."""
        ids = (*first, *second)
        return Typed(ids, [0] * len(first) + [1] * len(second)) if self._has_types else ids

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> Ids:
        """The conversation by the chat template, which must be there."""
        try:
            return self.texts.chat(messages, add_generation_prompt=add_generation_prompt)
        except ValueError:
            return ()

    def _begun(self, messages: Sequence[Message]) -> Ids:
        """The prompt as `rlhf.data.rendering` has it; none where the template refuses it."""
        if self.tokenizer.chat_template is None:
            return (*self._first, *self.texts.text(transcript(messages)))
        return self.chat(messages, add_generation_prompt=True)

    @torch.inference_mode()
    def read(self, rows: Sequence[Ids], micro_batch_tokens: int) -> list[list[float] | None]:
        """Every row's logits; None for a row that is empty or too long, and for logits that are
        not finite. Equal rows are computed once.
        """
        different, places = distinct(rows)
        found: list[list[float] | None] = [None] * len(different)
        fitting = [i for i, row in enumerate(different) if 0 < len(row) <= self.max_tokens]
        shapes = [Shape(len(different[i]), 0) for i in fitting]
        for batch in micro_batches(shapes, micro_batch_tokens):
            indices = [fitting[position] for position in batch]
            logits_BL = self.logits([different[i] for i in indices])
            for i, values in zip(indices, logits_BL.tolist(), strict=True):
                found[i] = values if all(map(math.isfinite, values)) else None
        return [found[place] for place in places]

    def logits(self, rows: Sequence[Ids]) -> Tensor:
        """One forward pass; `(B, L)` in fp32, with a gradient where torch records one."""
        return self.model(**self._padded(rows)).logits.float()

    def logits_and_states(self, rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """One forward pass; `logits`, and the last hidden state of each row's last token, `(B, D)`
        in fp32."""
        found = self.model(**self._padded(rows), output_hidden_states=True)
        last_B = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        states_BTD = found.hidden_states[-1]
        states_BD = states_BTD[torch.arange(len(rows), device=self.device), last_B]
        return found.logits.float(), states_BD.float()

    def logits_at(self, rows: Sequence[Ids], places: Sequence[Place]) -> Tensor:
        """One forward pass; `(N, L)`, for each place what `logits` gives for its row cut after it,
        if the model has a `score` head and reads from left to right.
        """
        hidden_BTD = self.model.base_model(**self._padded(rows)).last_hidden_state
        row_N, token_N = torch.tensor(places, device=self.device).unbind(-1)
        return self.model.score(hidden_BTD[row_N, token_N]).float()

    def _padded(self, rows: Sequence[Ids]) -> dict[str, Tensor]:
        pad_id = self._padding(rows)
        width_T = max(len(row) for row in rows)
        ids_BT = _padded_with(pad_id, rows, width_T)
        lengths_B = torch.tensor([len(row) for row in rows])
        mask_BT = (torch.arange(width_T) < lengths_B[:, None]).long()
        padded = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if self._has_types:
            padded["token_type_ids"] = _padded_with(0, [_types(row) for row in rows], width_T)
        return {name: value.to(self.device) for name, value in padded.items()}

    def save(self, directory: Path) -> None:
        """Writes model and tokenizer in Hugging Face format, without a padding token of ours."""
        self._text_config.pad_token_id = self._pad_id
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def _padding(self, rows: Sequence[Ids]) -> int:
        """The padding token, by which Hugging Face classifiers find the last token of a row.

        A model without one reads the very last token. The end token as padding would make it read
        the one before wherever a template ends with the end token, so any token that ends no row
        of this batch pads instead; attention never sees it.
        """
        if self._pad_id is not None:
            return self._pad_id
        last = {row[-1] for row in rows}
        pad_id = next(token for token in range(len(last) + 1) if token not in last)
        self._text_config.pad_token_id = pad_id
        return pad_id


def _loaded(directory: Path, dtype: str) -> tuple[Any, Any]:
    """The model, and its tokenizer."""
    try:
        tokenizer = read_tokenizer(directory)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            directory,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # told below, in words
            output_loading_info=True,
        )
    except UNREADABLE as error:
        raise InputError([f"judge.path={directory}: {first_line(error)}"]) from error
    if faults := [
        *_lacking_faults(loading),
        *mismatch_faults(loading),
        *left_over_faults(loading, f"{model.base_model_prefix}."),
    ]:
        raise InputError([f"judge.path={directory}: {fault}" for fault in faults])
    return model, tokenizer


def _lacking_faults(loading: Any) -> Iterator[str]:
    """Of transformers' loading info, what would make a classifier judge at random."""
    if missing := sorted(loading["missing_keys"]):
        yield (
            f"its weights lack {', '.join(missing)}; give a model that was trained as a sequence "
            "classifier"
        )


def left_over_faults(loading: Any, body: str) -> Iterator[str]:
    """Of transformers' loading info, what would make a model of a part of its files' body alone."""
    left = [n for n in loading["unexpected_keys"] if n.startswith(body) and ".pooler." not in n]
    if left:
        yield (
            f"its files have {len(left)} weights that a model of its config.json has no place for "
            f"({some(sorted(left))}); download both again, from one model"
        )


def _padded_with(value: int, rows: Sequence[Ids], width_T: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (width_T - len(row))] for row in rows])


def _has_types(model: Any, config: Any, tokenizer: Any) -> bool:
    """Whether the model has more than one token type, and its tokenizer gives them."""
    # One that is no model's own does not say what its model takes.
    is_general = type(tokenizer) is PreTrainedTokenizerFast
    is_silent = is_general and "model_input_names" not in tokenizer.init_kwargs
    return (
        (getattr(config, "type_vocab_size", None) or 0) > 1
        and "token_type_ids" in inspect.signature(model.forward).parameters
        and (is_silent or "token_type_ids" in tokenizer.model_input_names)
    )
