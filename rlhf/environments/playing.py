"""Episodes of a user's environment, as those see them who play: calls to processes of its own."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Protocol

from rlhf.data.messages import read_messages
from rlhf.data.rows import shown
from rlhf.environments.base import EnvironmentFailed, Step
from rlhf.environments.episodes import CLOSE, RESET, STEP, hosted
from rlhf.functions.process import FunctionFailed, FunctionProcess
from rlhf.functions.source import FunctionSource, is_finite
from rlhf.records import Message, Prompt


class Settings(Protocol):
    """How many processes, how long a call may take, and how many of them overlap."""

    num_workers: int
    timeout_s: float
    overlap: int


class FunctionEnvironment:
    """`rlhf.environments.base.Environment`: a new episode goes where the fewest are.

    Raises InputError if the class cannot be used.
    """

    def __init__(self, config: Settings, source: FunctionSource) -> None:
        start = partial(FunctionProcess, source, hosted, config.timeout_s, config.overlap)
        first = start()
        with ThreadPoolExecutor() as pool:  # each waits for its file to be run
            others = [pool.submit(start) for _ in range(config.num_workers - 1)]
        self._processes = [first, *(other.result() for other in others)]
        self._num_open: Counter[int] = Counter()
        self._numbers = count()
        self._closing: set[asyncio.Task[None]] = set()

    async def begin(self, prompt: Prompt) -> "FunctionEpisode":
        assert prompt.row is not None, "rows are kept for an environment"
        place = min(range(len(self._processes)), key=lambda place: self._num_open[place])
        self._num_open[place] += 1
        episode = FunctionEpisode(self, place, next(self._numbers))
        try:
            episode.messages = _messages(await episode.call(RESET, dict(prompt.row)))
        except BaseException:
            episode.close()
            raise
        return episode

    async def call(self, place: int, method: str, number: int, argument: Any) -> Any:
        calling = asyncio.ensure_future(self._processes[place].call(method, number, argument))
        try:
            return await asyncio.shield(calling)
        except asyncio.CancelledError:
            # Nobody waits for it any more; to end it could take other episodes along.
            calling.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        except FunctionFailed as error:
            raise EnvironmentFailed(f"{method} {error}") from error

    def let_go(self, place: int, number: int) -> None:
        """Closes an episode, beside everything else."""
        self._num_open[place] -= 1
        closing = asyncio.create_task(self._close(place, number))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close(self, place: int, number: int) -> None:
        with suppress(EnvironmentFailed):  # told by the process; the episode is over all the same
            await self.call(place, CLOSE, number, None)

    async def idle(self) -> None:
        """Returns when everything that was let go is closed."""
        await asyncio.gather(*self._closing)

    def end(self) -> None:
        """Ends the processes; they end with this one, too."""
        for process in self._processes:
            process.close()


class FunctionEpisode:
    """`rlhf.environments.base.Episode`."""

    messages: tuple[Message, ...] = ()

    def __init__(self, environment: FunctionEnvironment, place: int, number: int) -> None:
        self._environment, self._place, self._number = environment, place, number

    async def call(self, method: str, argument: Any) -> Any:
        return await self._environment.call(self._place, method, self._number, argument)

    async def step(self, text: str) -> Step:
        return _step(await self.call(STEP, text))

    def close(self) -> None:
        self._environment.let_go(self._place, self._number)


def _messages(found: Any) -> tuple[Message, ...]:
    try:
        return read_messages(found)
    except ValueError as error:
        why = f"returned {shown(found)}, which is no prompt: it {error}"
        raise EnvironmentFailed(f"reset {why}") from error


def _step(found: Any) -> Step:
    match found:
        case [str() | None as observation, bool() as done, int() | float() as reward]:
            if is_finite(reward):
                return Step(observation or "", done, float(reward))
    wanted = "not observation, done, reward: a text, True or False, and a number"
    raise EnvironmentFailed(f"step returned {shown(found)}, {wanted}")
