"""Python in a sandbox as a tool, as mathematical agents write it."""

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from rlhf.ranges import number
from rlhf.tools.packages import installed
from rlhf.tools.probe import SandboxLevel, probe, require
from rlhf.tools.sandbox import Exit, Limits, Outcome, run_python
from rlhf.tools.syntax import CallConfig
from rlhf.tools.tool import MAX_CHARS, Tool, ToolFailed, cut


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
    queue_s: float = number(600.0, above=0)
    """Longest time that a call may wait for its turn; an answer whose call waits longer counts as
    failed."""
    packages: list[str] = field(default_factory=lambda: ["mpmath", "numpy", "sympy"])
    """What may be imported beside the standard library, with all that it imports itself; each must
    be installed here. A call that names one starts 12 ms later."""
    allow_unsafe: bool = False
    """Run even where the machine cannot shut code in completely."""

    def sandbox(self) -> SandboxLevel:
        level = probe()
        if not self.allow_unsafe:
            require(level)
        return level

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        for name in self.packages:
            try:
                installed([name])
            except ValueError:
                yield (
                    f"tools.packages: no package {name} is installed here; install it, or leave it "
                    "out"
                )

    def tool(self) -> "Gated":
        limits = Limits(
            wall_s=self.wall_s, cpu_s=math.ceil(self.wall_s), memory_bytes=self.memory_mib << 20
        )
        python = PythonInterpreter(
            limits,
            max_chars=self.max_chars,
            allow_unsafe=self.allow_unsafe,
            packages=installed(self.packages),
        )
        return Gated(python.name, python, asyncio.Semaphore(self.num_parallel), self.queue_s)


@dataclass(slots=True)
class Gated:
    """A `Tool` that so many may use at the same time; the memory of all calls adds up."""

    name: str
    tool: Tool
    gate: asyncio.Semaphore
    queue_s: float

    async def use(self, argument: str) -> str:
        """Raises ToolFailed for a call that has waited too long."""
        try:
            await asyncio.wait_for(self.gate.acquire(), self.queue_s)
        except TimeoutError as error:
            raise ToolFailed(
                f"no turn within tools.queue_s={self.queue_s:g}; raise it, or tools.num_parallel"
            ) from error
        try:
            return await self.tool.use(argument)
        finally:
            self.gate.release()


class PythonInterpreter:
    """Runs Python in the sandbox and gives what it printed, or why it failed.

    The same code prints the same, as far as the code itself lets it: hashes are not random. Raises
    SandboxFailed where the sandbox cannot be built; `require` of `rlhf.tools.probe` says so before
    a run begins. Raises ToolFailed where the machine has no process or file to spare.
    """

    name = "python"

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        max_chars: int = MAX_CHARS,
        allow_unsafe: bool = False,
        packages: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.limits, self._max_chars = limits or Limits(), max_chars
        self._allow_unsafe, self._packages = allow_unsafe, packages

    async def use(self, argument: str) -> str:
        try:
            outcome = await run_python(
                argument, self.limits, allow_unsafe=self._allow_unsafe, packages=self._packages
            )
        except OSError as error:
            raise ToolFailed(f"no process could be started ({error.strerror})") from error
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
