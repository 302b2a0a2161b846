"""How a tool is called, and where in a text its words stand."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from rlhf.options import Option
from rlhf.ranges import number
from rlhf.tools.probe import SandboxLevel
from rlhf.tools.tool import Tool


class Instrument(NamedTuple):
    """A tool, and how it is called."""

    tool: Tool
    syntax: "CallConfig"

    @property
    def told(self) -> str:
        """How a model is told of it."""
        opens, closes = self.syntax.opens, self.syntax.closes
        return (
            f"You may use the tool {self.tool.name}, as often as you need: write {opens}INPUT"
            f"{closes} with your input in place of INPUT, and what it finds will stand behind that."
        )

    def called(self, text: str) -> tuple[int, str] | None:
        """Where the first call in a text ends, and what it asks; None if there is none."""
        found = _calls(self.syntax).search(text)
        return (found.end(), found[1]) if found else None

    async def reply(self, argument: str) -> str:
        """What stands behind a call."""
        result = await self.tool.use(argument)
        return f"{self.syntax.reply_opens}{result}{self.syntax.reply_closes}"


@dataclass
class ToolsConfig(Option):
    """No tools."""

    name: ClassVar[str] = "none"
    may_fail: ClassVar[bool] = False
    """Whether answers may be left without an end by no fault of theirs."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Texts by which calls are found in answers."""
        return ()

    def instrument(self) -> Instrument | None:
        """What answers calls, made once for all who share it; None if there is none."""
        return None

    def sandbox(self) -> SandboxLevel | None:
        """How well model-written code is locked in here, where such code is to run.

        Raises InputError if that is not well enough.
        """
        return None


@dataclass
class CallConfig(ToolsConfig):
    """How a call is written, and its result: `<<12+34=` by the policy, `46>>` by the tool."""

    may_fail: ClassVar[bool] = True

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

    @property
    def ends(self) -> tuple[str, ...]:
        return self.opens, self.closes

    def problems(self) -> Iterator[str]:
        for name in ("opens", "closes", "reply_closes"):
            if not getattr(self, name):
                yield f"tools.{name}: is empty; calls and results must be told from other text"

    def instrument(self) -> Instrument:
        return Instrument(self.tool(), self)

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
    opens, reply_opens, reply_closes = map(
        re.escape, (config.opens, config.reply_opens, config.reply_closes)
    )
    call = _calls(config)
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


def _calls(config: CallConfig) -> re.Pattern[str]:
    """A whole call; its group is what is asked."""
    opens, closes = re.escape(config.opens), re.escape(config.closes)
    return re.compile(f"{opens}((?:(?!{opens}).)*?){closes}", re.DOTALL)
