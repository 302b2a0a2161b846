"""Sequence classifiers as every judge of models uses them: token ids in, logits out.

Dimensions: B rows, T tokens (padded on the right), D of hidden states, N places, L labels.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf.batching import micro_batches, unique
from rlhf.data.encoding import TextEncoder, special_prefix
from rlhf.problems import InputError
from rlhf.records import Message, transcript

Ids = tuple[int, ...]
"""One row's tokens; none where the chat template refuses the conversation."""
Place = tuple[int, int]
"""One token of several rows: which row, and which token of it."""


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
        positions = getattr(self._text_config, "max_position_embeddings", None)
        self.max_tokens = min(max_tokens, tokenizer.model_max_length, positions or max_tokens)

    @classmethod
    def load(cls, directory: Path, dtype: str, max_tokens: int) -> "Classifier":
        """Refuses a model whose weights lack a part, such as its head: it would judge at random."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                directory,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (ValueError, OSError, SafetensorError) as error:
            raise InputError([f"judge.path={directory}: {str(error).splitlines()[0]}"]) from error
        if missing := sorted(loading["missing_keys"]):
            raise InputError(
                [
                    f"judge.path={directory}: its weights lack {', '.join(missing)}; give a model "
                    "that was trained as a sequence classifier"
                ]
            )
        return cls(model, tokenizer, max_tokens)

    def encode(self, messages: Sequence[Message], completion: str, ended: bool = True) -> Ids:
        """The conversation and its completion by the chat template, or, if there is none, as the
        tokenizer's pair of texts, of which the first has several turns one below the other.

        A completion that has not `ended` stands as a policy has it while it writes: the prompt up
        to where the answer begins, then the text so far, and nothing that closes it, so that the
        text's last token is the row's.
        """
        if not ended:
            prompt = self._begun(messages)
            return (*prompt, *self.texts.text(completion)) if prompt else ()
        if self.tokenizer.chat_template is None:
            return self.texts.whole(transcript(messages), completion)
        return self.chat([*messages, Message("assistant", completion)])

    def chat(self, messages: Sequence[Message], **options: bool) -> Ids:
        """The conversation by the chat template, which must be there."""
        try:
            return self.texts.chat(messages, **options)
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
        distinct, places = unique(rows)
        found: list[list[float] | None] = [None] * len(distinct)
        fitting = [i for i, row in enumerate(distinct) if 0 < len(row) <= self.max_tokens]
        widths = [(len(distinct[i]), 0) for i in fitting]
        for batch in micro_batches(widths, micro_batch_tokens):
            indices = [fitting[position] for position in batch]
            logits_BL = self.logits([distinct[i] for i in indices])
            for i, values in zip(indices, logits_BL.tolist(), strict=True):
                found[i] = values if all(map(math.isfinite, values)) else None
        return [found[place] for place in places]

    def logits(self, rows: Sequence[Ids]) -> Tensor:
        """One forward pass; `(B, L)` in fp32, with a gradient where torch records one."""
        return self.model(**self._padded(rows)).logits.float()

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
        ids_BT = torch.tensor([[*row, *[pad_id] * (width_T - len(row))] for row in rows])
        lengths_B = torch.tensor([len(row) for row in rows])
        mask_BT = (torch.arange(width_T) < lengths_B[:, None]).long()
        return {"input_ids": ids_BT.to(self.device), "attention_mask": mask_BT.to(self.device)}

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
