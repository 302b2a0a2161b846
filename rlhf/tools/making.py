"""A rollout service with the tools that the configuration names."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from rlhf.config.tools import CalculatorConfig, CallConfig, PythonConfig, ToolsConfig
from rlhf.stages import Rollout
from rlhf.tools import Calculator, PythonInterpreter, Tool
from rlhf.tools.rollout import ToolRollout
from rlhf.tools.sandbox import Limits

QUEUE_S = 60.0
"""For a call to have its turn; what asks has a deadline of its own."""
BUSY = "error: the interpreter is busy"


@dataclass(slots=True)
class Gated:
    """A `Tool` that so many may use at the same time; the memory of all calls adds up."""

    name: str
    tool: Tool
    gate: asyncio.Semaphore

    async def use(self, argument: str) -> str:
        try:
            await asyncio.wait_for(self.gate.acquire(), QUEUE_S)
        except TimeoutError:
            return BUSY
        try:
            return await self.tool.use(argument)
        finally:
            self.gate.release()


def with_tools(
    rollout: Rollout,
    config: ToolsConfig,
    encode: Callable[[str], tuple[int, ...]],
    max_tokens: int,
) -> Rollout:
    """`encode` makes a tool's words tokens of the policy; an answer has `max_tokens` at most.

    To be made once for a run: what may run at the same time is counted for each by itself.
    """
    if not isinstance(config, CallConfig):
        return rollout
    return ToolRollout(rollout, _tool(config), encode, config, max_tokens)


def _tool(config: CallConfig) -> Tool:
    if isinstance(config, CalculatorConfig):
        return Calculator(config.max_chars)
    if isinstance(config, PythonConfig):
        limits = Limits(
            wall_s=config.wall_s,
            cpu_s=math.ceil(config.wall_s),
            memory_bytes=config.memory_mib << 20,
        )
        python = PythonInterpreter(
            limits, max_chars=config.max_chars, allow_unsafe=config.allow_unsafe
        )
        return Gated(python.name, python, asyncio.Semaphore(config.num_parallel))
    raise TypeError(f"no tool for {type(config).__name__}")
