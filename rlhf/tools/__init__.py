"""Tools that a model may use while it answers: each takes a text, and gives one back."""

from typing import Protocol

from rlhf.tools.calculator import calculate
from rlhf.tools.sandbox import Exit, Limits, Outcome, run_python

MAX_CHARS = 2000
"""Of an observation, its mark included where it is cut."""


class Tool(Protocol):
    name: str
    """By which the model calls it."""

    async def use(self, argument: str) -> str:
        """The text that the model reads. What the argument does wrong is said in it, after
        `error: `; an exception means that the tool itself is out of order."""
        ...


class Calculator:
    """Exact arithmetic; see `calculate`."""

    name = "calculator"

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        self._max_chars = max_chars

    async def use(self, argument: str) -> str:
        return cut(calculate(argument), self._max_chars)


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


def cut(text: str, max_chars: int) -> str:
    """The beginning of a text, and a mark with the number of characters that it leaves out."""
    if len(text) <= max_chars:
        return text
    # The mark's own length depends on the number, which is at most that of the text.
    room = max(0, max_chars - len(_mark(len(text))))
    return (text[:room] + _mark(len(text) - room))[:max_chars]


def _mark(num_chars: int) -> str:
    return f"... [{num_chars} characters left out]"
