"""A reward model: prompt and completion in, one number out."""

import json
import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.batching import micro_batches
from rlhf.config import RewardModelConfig
from rlhf.judges import Group
from rlhf.problems import InputError
from rlhf.records import Completion, Judgement, Prompt

DTYPES = ("auto", "float32", "bfloat16")
_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")


class RewardModel:
    """Scores completions by a sequence-classification model with one label.

    On the GPU if there is one. Raises InputError if the model cannot be used.
    """

    def __init__(self, config: RewardModelConfig) -> None:
        directory = find_reward_model(config)
        self._model, self._tokenizer = _load(directory, config.dtype)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device).eval()
        self._text_config = self._model.config.get_text_config()
        self._pad_id: int | None = self._text_config.pad_token_id
        self._max_tokens = min(
            config.max_tokens,
            self._tokenizer.model_max_length,
            getattr(self._text_config, "max_position_embeddings", None) or config.max_tokens,
        )
        self._micro_batch_tokens = config.micro_batch_tokens
        self._name = f"reward_model/{directory.name}@{_fingerprint(directory)}"

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Raw scores; None for text that is too long, that the template refuses, or a score that
        is not finite.
        """
        pairs = [(group.prompt, c) for group in groups for c in group.completions]
        scores = iter(self._score([self._encode(prompt, c) for prompt, c in pairs]))
        return [Judgement(tuple(next(scores) for _ in g.completions), self._name) for g in groups]

    def _encode(self, prompt: Prompt, completion: Completion) -> list[int]:
        """Token ids; none where the chat template refuses the conversation."""
        if self._tokenizer.chat_template is None:
            return self._tokenizer(prompt.text, completion.text)["input_ids"]
        turns = [message._asdict() for message in prompt.messages]
        turns.append({"role": "assistant", "content": completion.text})
        try:
            return self._tokenizer.apply_chat_template(turns, return_dict=False)
        except TemplateError:
            return []

    def _score(self, rows: Sequence[list[int]]) -> list[float | None]:
        scores: list[float | None] = [None] * len(rows)
        fitting = [i for i, row in enumerate(rows) if 0 < len(row) <= self._max_tokens]
        widths = [(len(rows[i]), 0) for i in fitting]
        for batch in micro_batches(widths, self._micro_batch_tokens):
            indices = [fitting[position] for position in batch]
            values = self._forward([rows[i] for i in indices])
            for i, value in zip(indices, values, strict=True):
                scores[i] = value if math.isfinite(value) else None
        return scores

    @torch.inference_mode()
    def _forward(self, rows: Sequence[list[int]]) -> list[float]:
        """One score per row; rows are padded on the right."""
        pad_id = self._padding(rows)
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(width) < lengths[:, None]).long()
        output = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        return output.logits.squeeze(-1).float().tolist()

    def _padding(self, rows: Sequence[list[int]]) -> int:
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


def find_reward_model(config: RewardModelConfig) -> Path:
    """The model's directory, fetched if `path` is a hub id; without loading any weights.

    Raises InputError if files are missing, weights are pickled, or there is not one label.
    """
    problems = []
    if config.dtype not in DTYPES:
        problems.append(f"judge.dtype={config.dtype}: allowed: {', '.join(DTYPES)}")
    try:
        directory = _directory(config.path)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        problems.append(
            f"judge.path={config.path}: no such folder, and not to be had as a hub id ({reason}); "
            "give the folder of a Hugging Face model"
        )
        raise InputError(problems) from error
    problems += [f"judge.path={config.path}: {what}" for what in _faults(directory)]
    if problems:
        raise InputError(problems)
    return directory


def _directory(path: str) -> Path:
    if Path(path).is_dir():
        return Path(path).resolve()
    return Path(snapshot_download(path, allow_patterns=list(_FILES)))


def _faults(directory: Path) -> list[str]:
    found = []
    if not (directory / "config.json").is_file():
        found.append("it has no config.json; give the folder of a Hugging Face model")
    if not list(directory.glob("*.safetensors")):
        pickled = sorted(f.name for f in directory.glob("*") if f.suffix in (".bin", ".pt", ".pth"))
        found.append(
            f"its weights are pickled ({', '.join(pickled)}), which can run any code; convert them "
            "with save_pretrained to safetensors"
            if pickled
            else "it has no *.safetensors weights; download or convert them"
        )
    if found:
        return found
    try:
        num_labels = AutoConfig.from_pretrained(directory, trust_remote_code=False).num_labels
    except (ValueError, OSError) as error:
        return [f"its config.json cannot be used: {str(error).splitlines()[0]}"]
    if num_labels != 1:
        found.append(
            f"it has num_labels={num_labels}, and a reward model has 1; give a "
            "sequence-classification model with one label"
        )
    return found


def _load(directory: Path, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer; a model whose weights lack a part, such as its score head, is refused,
    because it would score at random.
    """
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
                f"judge.path={directory}: its weights lack {', '.join(missing)}; give a model that "
                "was trained as a sequence classifier"
            ]
        )
    return model, tokenizer


def _fingerprint(directory: Path) -> str:
    """Changes with the configuration and the weights' sizes, and is quick for any size."""
    weights = sorted(directory.glob("*.safetensors"))
    sizes = json.dumps([(file.name, file.stat().st_size) for file in weights])
    return sha256((directory / "config.json").read_bytes() + sizes.encode()).hexdigest()[:8]
