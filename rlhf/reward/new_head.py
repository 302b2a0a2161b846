"""A Hugging Face model of either kind becomes a sequence classifier, as a rule with a new head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from rlhf.judges.models.classifiers import Classifier, left_over_faults
from rlhf.models.files import find_directory, weight_faults
from rlhf.models.loading import UNREADABLE, first_line, read_tokenizer
from rlhf.problems import InputError


def check_start(path: str) -> Path:
    """The directory to start from; raises InputError, without loading any weights."""
    directory = find_directory("model.path", path)
    if faults := weight_faults(directory):
        raise InputError([f"model.path={path}: {what}" for what in faults])
    return directory


def start_classifier(
    directory: Path,
    num_labels: int,
    max_tokens: int,
    seed: int,
    *,
    keep_head: bool = False,
    names: Sequence[str] = (),
) -> Classifier:
    """The model of `directory` in fp32, but for its head, which is seeded and new unless it is to
    be kept; `names` of its labels are kept with it.

    Leaves the global random state alone. Raises InputError if the weights lack anything else.
    """
    try:
        config: Any = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        _declare_labels(config, num_labels, names, keep_head)
        tokenizer = read_tokenizer(directory)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                directory,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # an old head of another size
                output_loading_info=True,
            )
    except UNREADABLE as error:
        raise InputError([f"model.path={directory}: {first_line(error)}"]) from error
    body = f"{model.base_model_prefix}."
    if faults := list(left_over_faults(loading, body)):
        raise InputError([f"model.path={directory}: {fault}" for fault in faults])
    mismatched = {name for name, *_ in loading["mismatched_keys"]}
    unknown = sorted({*loading["missing_keys"], *mismatched})
    # Masked language models come without the pooler, which only a head reads.
    if lost := [n for n in unknown if n.startswith(body) and ".pooler." not in n]:
        raise InputError(
            [f"model.path={directory}: its weights lack {', '.join(lost)}; download it again"]
        )
    if keep_head and (lost := [n for n in unknown if not n.startswith(body)]):
        raise InputError(
            [
                f"keep_head=true: {directory} has no head of {num_labels} labels (it lacks "
                f"{', '.join(lost)}); give a classifier that was trained, or set keep_head=false"
            ]
        )
    if not keep_head:
        _renew_head(model, body, seed)
    _declare_padding(model.config.get_text_config(), tokenizer)
    return Classifier(model, tokenizer, max_tokens)


def _declare_labels(config: Any, num_labels: int, names: Sequence[str], kept: bool) -> None:
    """Raises InputError if the head is kept, and its labels are called otherwise."""
    own = [str(name) for _, name in sorted(config.id2label.items())]
    if names and kept and own != list(names) and len(own) == num_labels:
        raise InputError(
            [
                f"data.score_columns={list(names)}: keep_head=true goes on with the labels {own}; "
                "name the columns so, in that order"
            ]
        )
    config.num_labels = num_labels
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: place for place, name in enumerate(names)}


def _renew_head(model: Any, body: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    std = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.startswith(body):
            nn.init.normal_(module.weight, std=std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _declare_padding(config: Any, tokenizer: Any) -> None:
    """Only a token that never ends a text may pad: see `Classifier`."""
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    if config.pad_token_id is None and tokenizer.pad_token_id not in ends:
        config.pad_token_id = tokenizer.pad_token_id
