"""Where in a text a tool's words stand."""

import re
from collections.abc import Iterator

from rlhf.config.tools import CallConfig, ToolsConfig


def parts(text: str, config: ToolsConfig) -> Iterator[tuple[str, bool]]:
    """The text in parts, in order, each with whether a tool wrote it: the results of calls."""
    if not isinstance(config, CallConfig):
        yield text, False
        return
    opens, closes, reply_opens, reply_closes = map(
        re.escape, (config.opens, config.closes, config.reply_opens, config.reply_closes)
    )
    result = re.compile(f"(?<={closes}){reply_opens}.*?{reply_closes}", re.DOTALL)
    call = re.compile(f"{opens}.*?{closes}", re.DOTALL)
    end = 0
    while (called := call.search(text, end)) is not None:
        yield text[end : called.end()], False
        end = called.end()
        if found := result.match(text, end):
            yield found[0], True
            end = found.end()
    if text[end:]:
        yield text[end:], False
