"""A small language model made from nothing, for runs without a download.

A Llama, because AutoTokenizer reads a Llama's tokenizer.json as it stands. For the Qwen2 model type
transformers 5 keeps the vocabulary alone and puts Qwen2's own rules around it: characters that the
vocabulary lacks would vanish instead of becoming `<unk>`, and bytes would be normalised.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from rlhf.config.models import TinyModelConfig, Vocabulary
from rlhf.problems import InputError
from rlhf.toys.games import read_game

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
ARITHMETIC = "0123456789+-*/=() \nabcdefgxyz"
"""With the three special tokens, 32."""
MAX_POSITIONS = 2048
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ {'system': '#', 'user': '?', 'assistant': '!'}[message.role] + message.content + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}!{%- endif -%}
"""
"""Roles by their first character, since no text of this tokenizer becomes a special token."""


def build_tiny_model(config: TinyModelConfig, directory: Path, seed: int) -> None:
    """Writes a Llama with seeded random weights and its tokenizer in Hugging Face format.

    Leaves the global random state alone. Raises InputError if width and heads do not fit together.
    """
    if config.width % (2 * config.num_heads):
        raise InputError(
            [
                f"model.width={config.width}: must be a multiple of 2 x model.num_heads="
                f"{2 * config.num_heads}, so that every head has an even width"
            ]
        )
    answers = read_game(config.game).answers if config.game else ()
    words = tuple(dict.fromkeys((*answers, *config.words)))
    tokenizer = build_tokenizer(config.vocabulary, words)
    if config.chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    special: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        **special,
    )
    logging.disable_progress_bar()  # of a megabyte
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(shape)
    model.generation_config = GenerationConfig(bos_token_id=None, **special)
    directory.mkdir(parents=True, exist_ok=True)
    model.to(getattr(torch, config.dtype.value)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def build_tokenizer(vocabulary: Vocabulary, words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token per character, or per byte, and per word; decoding gives back what was encoded.

    Text never becomes a special token, not even `<eos>` written out; characters that the
    arithmetic vocabulary lacks become `<unk>`.
    """
    # The longest first: of "a" and "ab", "ab" is to be found in "abc".
    patterns = [re.escape(word) for word in sorted(words, key=len, reverse=True)]
    every = pre_tokenizers.Split(Regex("|".join([*patterns, r"[\s\S]"])), "isolated")
    if vocabulary is Vocabulary.arithmetic:
        tokens = [PAD, EOS, UNKNOWN, *ARITHMETIC, *words]
        tokenizer = Tokenizer(WordLevel(_numbered(tokens), unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = every
        tokenizer.decoder = decoders.Fuse()
    else:
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        spelled = [to_bytes.pre_tokenize_str(word)[0][0] for word in words]
        tokens = [PAD, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *spelled]
        # Without merges a word would fall into its bytes, if it were not looked up first.
        tokenizer = Tokenizer(BPE(_numbered(tokens), merges=[], ignore_merges=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([every, to_bytes])
        tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN if vocabulary is Vocabulary.arithmetic else None,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}
