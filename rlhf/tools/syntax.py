"""How a tool is called, and where in a text its words stand."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rlhf.options import Option
from rlhf.ranges import number
from rlhf.tools.probe import SandboxLevel
from rlhf.tools.tool import Tool


@dataclass
class ToolsConfig(Option):
    """No tools."""

    name: ClassVar[str] = "none"

    def sandbox(self) -> SandboxLevel | None:
        """How well model-written code is locked in here, where such code is to run.

        Raises InputError if that is not well enough.
        """
        return None


@dataclass
class CallConfig(ToolsConfig):
    """How a call is written, and its result: `<<12+34=` by the policy, `46>>` by the tool."""

    opens: str = "<<"
    closes: str = "="
    reply_opens: str = ""
    """Stands before the result."""
    reply_closes: str = ">>"
    """Stands after the result."""
    max_calls: int = number(8, at_least=1)
    """Per answer; one that calls more often is truncated."""
    max_chars: int = number(200, at_least=1)
    """Of a result; a longer one is cut, and says so."""

    def problems(self) -> Iterator[str]:
        for name in ("opens", "closes", "reply_closes"):
            if not getattr(self, name):
                yield f"tools.{name}: is empty; calls and results must be told from other text"

    def tool(self) -> Tool:
        """What answers the calls of a whole run; what runs at a time is counted for each alone."""
        raise NotImplementedError


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
