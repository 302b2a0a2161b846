"""How a turn of the assistant's ends, which the chat template knows and the tokenizer may not."""

from typing import Any

from jinja2 import TemplateError

MARK = "x7q"
"""A text that no template has of its own."""


def turn_end(tokenizer: Any) -> tuple[int, ...]:
    """What the chat template writes behind an assistant's text, up to the control token that ends
    the turn; the tokenizer's end token where there is no template, or it closes no turn.

    Gemma's `<end_of_turn>`, or ChatML on the tokenizer of a base model, are not `eos_token`.
    """
    own = (tokenizer.eos_token_id,)
    if tokenizer.chat_template is None:
        return own
    conversation = [{"role": "user", "content": "1"}, {"role": "assistant", "content": MARK}]
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
    except (TemplateError, TypeError, ValueError):  # told where a prompt is rendered
        return own
    _, mark, closing = text.rpartition(MARK)
    if not mark:
        return own
    ids = tokenizer(closing, add_special_tokens=False)["input_ids"]
    control = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    control |= set(tokenizer.all_special_ids)
    ends = (i for i, id in enumerate(ids) if id in control)
    last = next(ends, None)
    return own if last is None else tuple(ids[: last + 1])


def end_token_ids(tokenizer: Any, generation_config: Any) -> tuple[int, ...]:
    """Every token that ends a completion: the tokenizer's, the chat template's, and those of the
    generation config, which may be None."""
    extra = getattr(generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, turn_end(tokenizer)[-1]}
    ids |= set(extra if isinstance(extra, list) else [extra])
    return tuple(sorted(ids - {None}))
