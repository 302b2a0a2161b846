"""Your own tool: a function from the text of a call to the text that the policy reads."""

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from rlhf.config.texts import text
from rlhf.functions.process import FunctionFailed, FunctionProcess
from rlhf.functions.source import FunctionSource, read_source, shown, taking
from rlhf.ranges import number
from rlhf.tools.syntax import CallConfig
from rlhf.tools.tool import cut

PARAMETERS = ("text",)
KEY = "tools.function"


@dataclass
class FunctionToolConfig(CallConfig):
    """`def use(text)`, plain or async, which returns text and runs in processes of its own on the
    driver's node. It is not locked in: it does what it makes of the policy's words.
    """

    name: ClassVar[str] = "function"

    function: str = text(MISSING)
    """`tool.py:use`, or `package.module:use`."""
    timeout_s: float = number(10.0, above=0)
    """Of one call."""
    num_workers: int = number(1, at_least=1)
    """Processes; a plain function has a call at a time in each."""
    overlap: int = number(64, at_least=1)
    """Calls at a time in a process, of an async function."""

    def try_out(self) -> None:
        source = read_source(KEY, self.function)
        FunctionProcess(source, taking(*PARAMETERS), self.timeout_s, self.overlap).close()

    def tool(self) -> "FunctionTool":
        return FunctionTool(self, read_source(KEY, self.function))


class FunctionTool:
    """`Tool` by a user's function; raises InputError if that cannot be used.

    What it fails at, the policy reads after `error: `, as of other tools.
    """

    name = "function"

    def __init__(self, config: FunctionToolConfig, source: FunctionSource) -> None:
        settings = (source, taking(*PARAMETERS), config.timeout_s, config.overlap)
        self._asked = {FunctionProcess(*settings): 0 for _ in range(config.num_workers)}
        """How many calls each process has."""
        self._max_chars = config.max_chars

    async def use(self, argument: str) -> str:
        return cut(await self._told(argument), self._max_chars)

    async def _told(self, argument: str) -> str:
        process = min(self._asked, key=lambda one: self._asked[one])
        self._asked[process] += 1
        try:
            found = await process.call(argument)
        except FunctionFailed as error:
            return f"error: {error}"
        finally:
            self._asked[process] -= 1
        return found if isinstance(found, str) else f"error: returned {shown(found)}, not text"

    def close(self) -> None:
        for process in self._asked:
            process.close()
