"""Texts as the means of an encoder's last hidden states.

Dimensions: B rows, T tokens (padded on the right), D of hidden states.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from rlhf.judges.models.held import held
from rlhf.models.batching import Shape, micro_batches, unique
from rlhf.models.files import (
    DTYPES,
    find_directory,
    fingerprint,
    tokenizer_faults,
    weight_faults,
)
from rlhf.models.loading import (
    UNREADABLE,
    first_line,
    most_positions,
    name_faults,
    read_tokenizer,
)
from rlhf.problems import InputError


def encoder_folder(path: str) -> Path:
    """The model's folder, fetched if `path` is a hub id; raises InputError if it cannot be one."""
    directory = find_directory("judge.path", path)
    if faults := weight_faults(directory) or list(tokenizer_faults(directory)):
        raise InputError([f"judge.path={path}: {fault}" for fault in faults])
    return directory


class Encoder:
    """Any model of hidden states, on the GPU if there is one; raises InputError if it cannot be
    used."""

    def __init__(
        self, directory: Path, dtype: str, max_tokens: int, micro_batch_tokens: int
    ) -> None:
        if dtype not in DTYPES:
            raise InputError([f"judge.dtype={dtype}: allowed: {', '.join(DTYPES)}"])
        self.version = f"{directory.name}@{fingerprint(directory)}"
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded = held((Encoder, directory, dtype), partial(_loaded, directory, dtype))
        self._model = loaded.to(self._device).eval()
        self._tokenizer = read_tokenizer(directory)
        limits = (
            max_tokens,
            self._tokenizer.model_max_length,
            most_positions(self._model) or max_tokens,
        )
        self._max_tokens = int(min(limits))
        self._micro_batch_tokens = micro_batch_tokens

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> list[list[float] | None]:
        """`(D,)` each, in fp32; None for a text that is empty or too long. Equal texts are computed
        once."""
        different, places = unique(list(texts))
        rows = [self._tokenizer(text)["input_ids"] if text.strip() else [] for text in different]
        fitting = [i for i, row in enumerate(rows) if 0 < len(row) <= self._max_tokens]
        found: list[list[float] | None] = [None] * len(rows)
        shapes = [Shape(len(rows[i]), 0) for i in fitting]
        for batch in micro_batches(shapes, self._micro_batch_tokens):
            indices = [fitting[position] for position in batch]
            means_BD = self._means([rows[i] for i in indices]).tolist()
            for i, values in zip(indices, means_BD, strict=True):
                found[i] = values if all(map(math.isfinite, values)) else None
        return [found[place] for place in places]

    def _means(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        width_T = max(map(len, rows))
        ids_BT = torch.tensor([[*row, *[0] * (width_T - len(row))] for row in rows])
        lengths_B = torch.tensor([len(row) for row in rows])
        mask_BT = (torch.arange(width_T) < lengths_B[:, None]).long()
        hidden_BTD = self._model(
            input_ids=ids_BT.to(self._device), attention_mask=mask_BT.to(self._device)
        ).last_hidden_state.float()
        kept_BT1 = mask_BT.to(self._device).unsqueeze(-1)
        return (hidden_BTD * kept_BT1).sum(1) / kept_BT1.sum(1)


def _loaded(directory: Path, dtype: str) -> Any:
    try:
        model, loading = AutoModel.from_pretrained(
            directory,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # told below, in words
            output_loading_info=True,
        )
    except UNREADABLE as error:
        raise InputError([f"judge.path={directory}: {first_line(error)}"]) from error
    # Heads are of no use here, and a pooler is not read.
    missing = {name for name in loading["missing_keys"] if not name.startswith("pooler.")}
    if faults := list(name_faults({**loading, "missing_keys": missing, "unexpected_keys": set()})):
        raise InputError([f"judge.path={directory}: {fault}" for fault in faults])
    return model
