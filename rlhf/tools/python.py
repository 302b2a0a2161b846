"""Python in a sandbox as a tool, as mathematical agents write it."""

import asyncio
import math
from dataclasses import dataclass
from typing import ClassVar

from rlhf.ranges import number
from rlhf.tools.probe import SandboxLevel, probe, require
from rlhf.tools.sandbox import Exit, Limits, Outcome, run_python
from rlhf.tools.syntax import CallConfig
from rlhf.tools.tool import MAX_CHARS, Tool, cut

QUEUE_S = 60.0
"""For a call to have its turn; what asks has a deadline of its own."""
BUSY = "error: the interpreter is busy"


@dataclass
class PythonConfig(CallConfig):
    """Python in a sandbox of its own process, as mathematical agents write it."""

    name: ClassVar[str] = "python"

    opens: str = "```python\n"
    closes: str = "\n```\n"
    reply_opens: str = "```output\n"
    reply_closes: str = "\n```\n"
    max_chars: int = number(2000, at_least=1)
    wall_s: float = number(10.0, at_least=0.1)
    """Longest time that one call may take; of a processor it may take as much."""
    memory_mib: int = number(512, at_least=64)
    num_parallel: int = number(4, at_least=1)
    """Calls that run at the same time, on the driver's node."""
    allow_unsafe: bool = False
    """Run even where the machine cannot shut code in completely."""

    def sandbox(self) -> SandboxLevel:
        level = probe()
        if not self.allow_unsafe:
            require(level)
        return level

    def tool(self) -> "Gated":
        limits = Limits(
            wall_s=self.wall_s, cpu_s=math.ceil(self.wall_s), memory_bytes=self.memory_mib << 20
        )
        python = PythonInterpreter(limits, max_chars=self.max_chars, allow_unsafe=self.allow_unsafe)
        return Gated(python.name, python, asyncio.Semaphore(self.num_parallel))


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


class PythonInterpreter:
    """Runs Python in the sandbox and gives what it printed, or why it failed.

    The same code prints the same, as far as the code itself lets it: hashes are not random. Raises
    SandboxFailed where the sandbox cannot be built; `require` of `rlhf.tools.probe` says so before
    a run begins.
    """

    name = "python"

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        max_chars: int = MAX_CHARS,
        allow_unsafe: bool = False,
    ) -> None:
        self.limits, self._max_chars = limits or Limits(), max_chars
        self._allow_unsafe = allow_unsafe

    async def use(self, argument: str) -> str:
        outcome = await run_python(argument, self.limits, allow_unsafe=self._allow_unsafe)
        return cut(observation(outcome, self.limits), self._max_chars)


def observation(outcome: Outcome, limits: Limits) -> str:
    """What was printed, if the code finished; else one line that begins with `error: `."""
    match outcome.exit:
        case Exit.finished:
            return outcome.stdout
        case Exit.failed:
            lines = outcome.stderr.strip().splitlines()
            return f"error: {lines[-1] if lines else 'the program ended with a failure'}"
        case Exit.timed_out:
            return f"error: stopped after {limits.wall_s:g} s, or {limits.cpu_s} s of computing"
        case Exit.killed:
            return "error: the program crashed"
        case Exit.output_limit:
            return "error: the program printed too much, or wrote too much to files"
