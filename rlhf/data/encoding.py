"""Texts into token ids: what people or models wrote is text, whatever control tokens it spells."""

import copy
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers import AddedToken

from rlhf.records import Message

_PRIVATE_USE = (*range(0xE000, 0xF8FF, 2), *range(0xF0000, 0xFFFFD, 2))
_TEMPLATE_FAULTS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
"""What a chat template raises by itself, and what its expressions may: it is a program."""

SHORT, MOST = 16, 4096
"""Characters of a text that is remembered, as many questions have one answer; and how many are."""


class TextEncoder:
    """A tokenizer's reading of texts, in which only we and the chat template set control tokens.

    A tokenizer may take `<|im_end|>` in a text for the end of a turn. It is told not to, and where
    its model would still do so (a Unigram model has control tokens among its pieces), the text is
    read in two parts, cut behind the first character of each control token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens = control_tokens(tokenizer)
        longest_first = sorted(self._tokens, key=len, reverse=True)
        # An empty alternative would match everywhere, so there is always one that matches nowhere.
        self._spelled = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # Unknown characters are none of ours, but everybody's.
        self._ids = set(self._tokens.values()) - {tokenizer.unk_token_id}
        self._aliased: dict[str, _Aliased] = {}
        self._short: dict[str, tuple[int, ...]] = {}

    def text(self, text: str) -> tuple[int, ...]:
        """The text alone, without what the tokenizer puts around one by itself."""
        if len(text) > SHORT:
            return self._text(text)
        if text not in self._short:
            if len(self._short) == MOST:
                self._short.clear()
            self._short[text] = self._text(text)
        return self._short[text]

    def _text(self, text: str) -> tuple[int, ...]:
        ids = _read(self._tokenizer, text)
        return tuple(ids) if self._ids.isdisjoint(ids) else self._cut(text)

    def whole(self, *texts: str) -> tuple[int, ...]:
        """A text, or a pair of texts, with what the tokenizer puts around them by itself."""
        if all(self._ids.isdisjoint(_read(self._tokenizer, text)) for text in texts):
            return tuple(_read(self._tokenizer, *texts, around=True))
        return self._cut(*texts, around=True)

    def chat(
        self, messages: Sequence[Message], after: str = "", /, **options: bool
    ) -> tuple[int, ...]:
        """The conversation by the chat template, which must be there; of what it makes, only what
        follows the first `after`.

        Raises ValueError, with the template's reason, if it refuses the conversation.
        """
        said = "".join(message.content for message in messages)
        if self._tokenizer.split_special_tokens or not self._spelled.search(said):
            text = self._rendered(messages, options, after)
            return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        aliased = self._aliases(said + str(self._tokenizer.chat_template))
        hidden = [m._replace(content=self._spelled.sub(aliased.hide, m.content)) for m in messages]
        # What the template spells is meant, and gets an alias; what is hidden is text.
        text = self._rendered(hidden, options, after)
        text = self._spelled.sub(aliased.alias, text)
        is_text = aliased.reads_as_text(text, self._ids)
        return aliased.read(text, cut=not is_text)

    def _rendered(self, messages: Sequence[Message], options: dict[str, bool], after: str) -> str:
        turns = [message._asdict() for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, **options)
        except _TEMPLATE_FAULTS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"the chat template refuses it: {reason}") from error
        return text.partition(after)[2] if after else text

    def _cut(self, *texts: str, around: bool = False) -> tuple[int, ...]:
        aliased = self._aliases("".join(texts))
        hidden = [self._spelled.sub(aliased.hide, text) for text in texts]
        return aliased.read(*hidden, cut=True, around=around)

    def _aliases(self, text: str) -> "_Aliased":
        """With marks that the text does not have."""
        mark = next(chr(n) for n in _PRIVATE_USE if not {chr(n), chr(n + 1)} & set(text))
        if mark not in self._aliased:
            self._aliased[mark] = _Aliased(self._tokenizer, self._tokens, mark)
        return self._aliased[mark]


class _Aliased:
    """A copy of a tokenizer that knows its control tokens by names that no text has.

    It reads text exactly as the original does, since such a name is found just as the control token
    itself is. A text comes with its own control tokens hidden by `hide`, and those that are meant
    named by `alias`.
    """

    def __init__(self, tokenizer: Any, tokens: Mapping[str, int], mark: str) -> None:
        """`mark` and the character after it are in no text."""
        self._tokens = list(tokens)
        self._number = {token: str(number) for number, token in enumerate(tokens)}
        self._open, self._close = mark, chr(ord(mark) + 1)
        self._hidden = re.compile(rf"{self._open}hidden(\d+){self._close}")
        self._tokenizer = copy.deepcopy(tokenizer)
        added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
        names = list(map(self._named, self._number.values()))
        aliases = [_alias(n, added.get(token)) for n, token in zip(names, tokens, strict=True)]
        self._tokenizer.add_tokens([*aliases, _alias(self._named("cut"))])
        ids = self._tokenizer.convert_tokens_to_ids([*names, self._named("cut")])
        self._meant: dict[int, list[int]] = dict(
            zip(ids, [*([id] for id in tokens.values()), []], strict=True)
        )

    def hide(self, found: re.Match[str]) -> str:
        """In place of a control token that is text."""
        return self._named(f"hidden{self._number[found[0]]}")

    def alias(self, found: re.Match[str]) -> str:
        """In place of a control token that is meant."""
        return self._named(self._number[found[0]])

    def reads_as_text(self, text: str, control_ids: Collection[int]) -> bool:
        """Whether no control token comes but from an alias."""
        return not set(control_ids).intersection(_read(self._tokenizer, self._shown(text)))

    def read(self, *texts: str, cut: bool, around: bool = False) -> tuple[int, ...]:
        """The original's ids; with `cut`, what was hidden is read in two parts."""
        ids = _read(self._tokenizer, *(self._shown(text, cut) for text in texts), around=around)
        return tuple(meant for id in ids for meant in self._meant.get(id, [id]))

    def _shown(self, text: str, cut: bool = False) -> str:
        between = self._named("cut") if cut else ""

        def show(found: re.Match[str]) -> str:
            token = self._tokens[int(found[1])]
            return token[0] + between + token[1:]

        return self._hidden.sub(show, text)

    def _named(self, name: str) -> str:
        return f"{self._open}{name}{self._close}"


def _alias(name: str, like: AddedToken | None = None) -> AddedToken:
    if like is None:
        return AddedToken(name, normalized=False)
    options = ("single_word", "lstrip", "rstrip", "normalized")
    return AddedToken(name, **{option: getattr(like, option) for option in options})


def _read(tokenizer: Any, *texts: str, around: bool = False) -> list[int]:
    # `around`: with what the tokenizer puts there by itself.
    return tokenizer(*texts, add_special_tokens=around, split_special_tokens=True)["input_ids"]


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """By their text; those that the tokenizer has names for, and all others that it calls so."""

    def found() -> Iterator[tuple[str, int]]:
        yield from zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
        yield from (
            (t.content, id) for id, t in tokenizer.added_tokens_decoder.items() if t.special
        )

    return {text: id for text, id in found() if text}


def special_prefix(tokenizer: Any) -> list[int]:
    """What the tokenizer puts in front of a text by itself, such as a begin token.

    Found on a probe, because a tokenizer may also append an end token, and does not say which of
    its special tokens goes where.
    """
    plain = tokenizer("1", add_special_tokens=False)["input_ids"]
    full = tokenizer("1")["input_ids"]
    starts = (i for i in range(len(full)) if full[i : i + len(plain)] == plain)
    return full[: next(starts, 0)]
