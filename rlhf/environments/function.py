"""Your own environment: a class whose objects are episodes."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import ClassVar

from omegaconf import MISSING

from rlhf.config.texts import text
from rlhf.data.messages import whole_row
from rlhf.data.rendering import Renderer, Row
from rlhf.environments.base import EnvironmentConfig, EnvironmentFailed
from rlhf.environments.judging import EpisodeJudge
from rlhf.environments.playing import FunctionEnvironment
from rlhf.environments.rollout import EnvironmentRollout
from rlhf.functions.source import FunctionSource, read_source
from rlhf.options import Fact
from rlhf.problems import InputError, some
from rlhf.ranges import number
from rlhf.records import Message, Prompt, TokenIds
from rlhf.stages import Judge, Rollout

KEY = "environment.function"
MOST_FAILED = 5
"""Rows whose `reset` may fail before the rest is left alone."""


class Reward(Enum):
    sum = "sum"
    """Of all steps."""
    last = "last"
    """The last step's."""


@dataclass
class FunctionEnvironmentConfig(EnvironmentConfig):
    """A class with `reset(self, row)` and `step(self, text)`, plain or async, whose objects live in
    processes on the driver's machine, `num_workers` of them. They are not locked in.

    An object is one episode, made without arguments. `reset` gets the whole row of the data file
    and returns what the policy is asked, a text or a list of messages, for equal rows the same;
    `step`, after each turn of the policy, `observation, done, reward`. `close(self)` is called at
    the end if there is one.
    """

    name: ClassVar[str] = "function"

    function: str = text(MISSING)
    """`env.py:Env`, or `package.module:Env`."""
    reward: Reward = Reward.sum
    """An episode's, of its steps'."""
    max_turns: int = number(8, at_least=1)
    """Of the policy; an episode that is not done with them is truncated."""
    stop: list[str] = field(default_factory=list)
    """Texts that end a turn too, as calls of tools do: the observation follows in the same
    message."""
    num_workers: int = number(1, at_least=1)
    """Processes; an episode stays in one."""
    timeout_s: float = number(60.0, above=0)
    """Of one call; if it takes longer the episode has failed, and of a class that is not async all
    others in that process have, too."""
    overlap: int = number(64, at_least=1)
    """Calls at a time in a process, of async methods."""

    def gives(self) -> Set[Fact]:
        return {Fact.rewards}

    @property
    def reads_rows(self) -> bool:
        return True

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(self.stop)

    def inspect(self) -> None:
        self._source()
        if not all(self.stop):
            raise InputError([f"environment.stop={self.stop}: an empty text ends no turn"])

    def opened(self, rows: Sequence[Row]) -> list[Row]:
        prompts = [
            Prompt(
                row.id, (), TokenIds(), row=whole_row(row.id, row.messages, row.answer, row.whole)
            )
            for row in rows
        ]
        openings = asyncio.run(self._openings(prompts))
        return [
            replace(row, messages=messages, whole=prompt.row, review=None)
            for row, prompt, messages in zip(rows, prompts, openings, strict=True)
        ]

    async def _openings(self, prompts: Sequence[Prompt]) -> list[tuple[Message, ...]]:
        source, failed = self._source(), defaultdict[str, list[str]](list)
        environment = FunctionEnvironment(self, source)
        gate = asyncio.Semaphore(self.num_workers)

        async def one(prompt: Prompt) -> tuple[Message, ...]:
            async with gate:
                if sum(map(len, failed.values())) < MOST_FAILED:
                    try:
                        episode = await environment.begin(prompt)
                        episode.close()
                        return episode.messages
                    except EnvironmentFailed as error:
                        failed[str(error)].append(prompt.id)
                return ()

        try:
            openings = await asyncio.gather(*map(one, prompts))
            await environment.idle()
        finally:
            environment.end()
        if failed:
            told = [f"{why} (rows {some(ids)})" for why, ids in failed.items()]
            raise InputError([line for why in told for line in source.refused(why).problems])
        return openings

    def rehearse(self, prompt: Prompt, renderer: Renderer) -> None:
        source, said = self._source(), prompt.answer or "1"

        async def turn() -> None:
            environment = FunctionEnvironment(self, source)
            try:
                episode = await environment.begin(prompt)
                renderer.observation((await episode.step(said)).observation)
                episode.close()
                await environment.idle()
            finally:
                environment.end()

        try:
            asyncio.run(turn())
        except (EnvironmentFailed, ValueError) as error:  # the latter of the chat template
            why = f"tried on row {prompt.id} with the turn {said!r}: {error}"
            raise source.refused(why) from error

    def played(self, rollout: Rollout, renderer: Renderer) -> Rollout:
        environment = FunctionEnvironment(self, self._source())
        return EnvironmentRollout(
            rollout,
            environment,
            renderer,
            self.max_turns,
            self.stops,
            self.reward is Reward.last,
        )

    def judged(self, judge: Judge, gives_matrix: bool) -> Judge:
        return EpisodeJudge(judge, gives_matrix)

    def _source(self) -> FunctionSource:
        return read_source(KEY, self.function)
