"""Tiny models that answer a question with A or B, at once or after a thought."""

from itertools import pairwise
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def write_letter_model(byte_model: Path, directory: Path, letters: str = "AB") -> Path:
    """The byte model, that answers whatever it reads with a letter: which one, depends on that."""
    tokenizer, model = _begun(byte_model)
    ids = tokenizer.convert_tokens_to_ids(list(letters))
    with torch.no_grad():
        # What a text ends with is a part of what its last token's state has: half a question and
        # half of what the layers made of the rest.
        ends = model.model.embed_tokens.weight[tokenizer("\n !")["input_ids"]]
        towards = ends.sum(0) / ends.norm(dim=-1).mean()
        model.lm_head.weight.mul_(0.1)
        seeded = torch.Generator().manual_seed(2)
        for letter in ids:
            apart = torch.randn(towards.shape, generator=seeded)
            model.lm_head.weight[letter] = towards + 0.3 * apart
    return _written(tokenizer, model, directory)


def write_writing_model(
    byte_model: Path, directory: Path, text: str, template: str | None = None, **shape: int
) -> Path:
    """The byte model, that goes on with `text` wherever one of its characters stands; with the
    marks of a thought as tokens.

    Where the text ends, it ends its answer, or, if that is the end of a thought, says A or B, of
    which A's logit is higher by 1.6. No token stands twice in the text, unless it is to go in
    circles.
    """
    tokenizer, model = _begun(byte_model, **shape)
    tokenizer.split_special_tokens = False
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    if shape:
        tokenizer.model_max_length = shape["max_position_embeddings"]
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    a, b = tokenizer.convert_tokens_to_ids(["A", "B"])
    ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        # The text's end is orthogonal to all else.
        model.model.embed_tokens.weight[:, 0] = 0
        model.model.embed_tokens.weight[ids[-1]] = torch.eye(model.config.hidden_size)[0]
        embedded = torch.nn.functional.normalize(model.model.embed_tokens.weight, dim=-1)
        model.model.embed_tokens.weight.copy_(embedded)
        # Without its layers' outputs, a model sees the last token alone.
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for token, following in pairwise(ids):
            model.lm_head.weight[following] += 4 * embedded[token]
        if ids.count(ids[-1]) == 1 and text.rstrip().endswith("</think>"):
            # The last norm makes a state as long as the root of its width, which is 8.
            model.lm_head.weight[a] += 1.5 * embedded[ids[-1]]
            model.lm_head.weight[b] += 1.3 * embedded[ids[-1]]
            for letter in {a, b} - set(ids):
                model.lm_head.weight[tokenizer.eos_token_id] += 4 * embedded[letter]
        elif ids.count(ids[-1]) == 1:
            model.lm_head.weight[tokenizer.eos_token_id] = 4 * embedded[ids[-1]]
    return _written(tokenizer, model, directory)


def _begun(byte_model: Path, **changes: int):
    tokenizer = AutoTokenizer.from_pretrained(byte_model)
    shape = AutoConfig.from_pretrained(byte_model, tie_word_embeddings=False, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return tokenizer, AutoModelForCausalLM.from_config(shape, dtype=torch.float32)


def _written(tokenizer, model, directory: Path) -> Path:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
