"""Tools that the policy may call while it answers."""

from dataclasses import dataclass

from rlhf.ranges import number


@dataclass
class ToolsConfig:
    """No tools."""


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


@dataclass
class CalculatorConfig(CallConfig):
    """Exact arithmetic, written as in GSM8K."""


@dataclass
class PythonConfig(CallConfig):
    """Python in a sandbox of its own process, as mathematical agents write it."""

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
