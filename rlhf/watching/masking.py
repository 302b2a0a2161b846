"""Keeping secrets of a configuration from what is shown of it."""

import re
from collections.abc import Mapping
from typing import Any

# Not `tokens`, which is a unit.
_SECRET = re.compile(
    r"(?i)(?:^|_)(?:(?:api|access|private)?keys?|token|secrets?|password|passwd|credentials?)(?:_|$)"
)


def mask_secrets(config: Any) -> Any:
    """The same configuration, with `***` for what a key calls secret and for logins in URLs."""
    if isinstance(config, Mapping):
        return {
            key: "***" if value and _SECRET.search(str(key)) else mask_secrets(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [mask_secrets(value) for value in config]
    if isinstance(config, str):
        return re.sub(r"://[^/@\s]+@", "://***@", config)
    return config
