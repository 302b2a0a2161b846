"""Where in a text a tool's words stand."""

import re
from collections.abc import Iterator

from rlhf.config.tools import CallConfig, ToolsConfig


def parts(text: str, config: ToolsConfig) -> Iterator[tuple[str, bool]]:
    """The text in parts, in order, each with whether a tool wrote it: the results of calls.

    A call begins at the last `opens` before its end; white space behind that is its writer's.
    """
    if not isinstance(config, CallConfig):
        yield text, False
        return
    opens, closes, reply_opens, reply_closes = map(
        re.escape, (config.opens, config.closes, config.reply_opens, config.reply_closes)
    )
    call = re.compile(f"{opens}(?:(?!{opens}).)*?{closes}", re.DOTALL)
    within = "." if reply_opens else f"(?!{opens})."
    result = re.compile(rf"\s*({reply_opens}(?:{within})*?{reply_closes})", re.DOTALL)
    end = 0
    while (called := call.search(text, end)) is not None:
        found = result.match(text, called.end())
        written = found.start(1) if found else called.end()
        yield text[end:written], False
        end = written
        if found:
            yield found[1], True
            end = found.end()
    if text[end:]:
        yield text[end:], False
