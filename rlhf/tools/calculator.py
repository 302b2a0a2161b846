"""Exact arithmetic as a tool, written as in GSM8K."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.tools.arithmetic import calculate
from rlhf.tools.syntax import CallConfig
from rlhf.tools.tool import MAX_CHARS, cut


@dataclass
class CalculatorConfig(CallConfig):
    """Exact arithmetic, written as in GSM8K."""

    name: ClassVar[str] = "calculator"

    def tool(self) -> "Calculator":
        return Calculator(self.max_chars)


class Calculator:
    """Exact arithmetic; see `calculate`."""

    name = "calculator"

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        self._max_chars = max_chars

    async def use(self, argument: str) -> str:
        return cut(calculate(argument), self._max_chars)
