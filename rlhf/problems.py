"""The exceptions that `python -m rlhf` puts into words rather than into a traceback."""

from collections.abc import Sequence

MAX_ERROR_CHARS = 1000
"""Of an error's own text in a line of ours."""


class InputError(Exception):
    """What the user gave cannot be used; `main` prints the problems and exits with 2."""

    problems: list[str]
    """One line each: key or file, value, what is allowed, how to fix it."""

    def __init__(self, problems: Sequence[str]) -> None:
        # The list itself is the argument, so that the exception survives pickling between actors.
        super().__init__(list(problems))
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class RunFailed(Exception):
    """The run cannot go on; `main` prints the message and exits with 1. Each way to fail is a
    subclass, and names the worker, the node and the cause where there are such."""

    def __init__(self, *arguments: object, details: str = "") -> None:
        """`details`: lines that stand below the message, such as a worker's own traceback."""
        super().__init__(*arguments)
        self.details = details


class PolicyBroken(RunFailed):
    """What the policy has become is of no use, so it is not kept; an earlier checkpoint is."""


class Collapsed(PolicyBroken):
    """The run has come to nothing, and was to be stopped then."""

    def __init__(self, text: str, since: int) -> None:
        """`since`: the first round, from 0, that was already so."""
        super().__init__(text, since)
        self.text, self.since = text, since

    def __str__(self) -> str:
        return self.text


class PolicyLost(RunFailed):
    """A rank of the policy is dead, and with it what it had learnt since the newest checkpoint."""


class PolicyRaised(PolicyLost):
    """A rank lives, and has raised an error that nobody foresaw: what it holds is not relied on."""


class Stopped(BaseException):
    """The run was asked to stop, and has; says where. Starting it again goes on from there.

    No Exception, like KeyboardInterrupt: what goes on after a failure, as a sweep does, ends.
    """


def some(values: Sequence[object], limit: int = 5) -> str:
    """The first few values, for a message, with dots if there are more."""
    shown = ", ".join(str(value) for value in values[:limit])
    return f"{shown}, ..." if len(values) > limit else shown


def one_line(error: BaseException) -> str:
    """What kind of error it is and what it says, for a message or a log of one line; of a group,
    the first.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    told = printable(" ".join(str(error).split())[:MAX_ERROR_CHARS])
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def printable(text: str) -> str:
    """The text as a terminal or a log may show it: what would move a cursor, ring, or turn the
    direction of writing is spelled out, for it may be a model's."""
    return "".join(one if one.isprintable() or one in _SPACES else ascii(one)[1:-1] for one in text)


_SPACES = "\n\t\u00a0\u3000"
