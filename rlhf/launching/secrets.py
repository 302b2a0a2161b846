"""Keeps logins and keys out of commands and configurations, which end up in logs and files.

Nothing here repeats what it found.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HOLDERS = (
    "AGON_JUDGE_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "RAY_AUTH_TOKEN",
    "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY",
)  # fmt: skip
"""Variables of the environment whose values are secret."""
SHORTEST = 8
"""Of a value that is looked for: shorter ones stand in other words by chance."""

_LOGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]*@")
_IN_QUERY = re.compile(
    r"[?&](?:[a-z_-]*(?:key|token|secret|signature|password)|sig|auth)=[^&\s]", re.IGNORECASE
)
_KEY = re.compile(r"\b(?:hf_[A-Za-z0-9]{24,}|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16})\b")
_WORD = re.compile(r"(?P<key>\+{0,2}[A-Za-z_~][\w.@/:]*)=")


def secret_in(text: str) -> str | None:
    """What kind of secret stands in a text, and where it belongs instead; None if none does."""
    if _LOGIN.search(text):
        return "a URL with a user name; give it without, and the key in the environment"
    if _IN_QUERY.search(text):
        return "a URL with a key in it; give it without, and the key in the environment"
    if _KEY.search(text):
        return "what looks like a key; give it in the environment"
    for name in HOLDERS:
        value = os.environ.get(name, "").strip()
        if len(value) >= SHORTEST and value in text:
            return f"the value of {name}; leave it in the environment alone"
    return None


def in_words(words: Sequence[str]) -> Iterator[str]:
    """One line for each word of a command that holds a secret."""
    for word in words:
        if found := secret_in(word):
            key = _WORD.match(word)
            yield f"{key['key'] if key else 'a word of the command'}: holds {found}"


def in_values(value: Any, key: str = "") -> Iterator[str]:
    """One line for each text of a configuration that holds a secret, names of mappings included."""
    if isinstance(value, str):
        if found := secret_in(value):
            yield f"{key}: holds {found}"
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from in_values(getattr(value, field.name), f"{key}.{field.name}".lstrip("."))
    elif isinstance(value, Mapping):
        for name, one in value.items():
            if secret_in(str(name)):
                yield f"{key}: holds a name that is a secret"
            else:
                yield from in_values(one, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for one in value:
            yield from in_values(one, key)
