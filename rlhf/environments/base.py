"""What every environment says of itself, and what it may leave as it is here; alone it is none."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from rlhf.data.rendering import Renderer, Row
from rlhf.options import Fact, Option
from rlhf.records import Message, Prompt
from rlhf.stages import Judge, Rollout


class EnvironmentFailed(Exception):
    """What was asked of an episode gave nothing, and why, in one line."""


class Step(NamedTuple):
    """What an environment makes of one turn of the policy."""

    observation: str
    """What the policy reads before its next turn."""
    done: bool
    reward: float


class Episode(Protocol):
    """One answer's own environment."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the policy is asked."""
        ...

    async def step(self, text: str) -> Step:
        """After a turn of the policy; raises EnvironmentFailed."""
        ...

    def close(self) -> None:
        """Lets it go, without waiting for anything."""
        ...


class Environment(Protocol):
    async def begin(self, prompt: Prompt) -> Episode:
        """An episode of its own; raises EnvironmentFailed."""
        ...


@dataclass
class EnvironmentConfig(Option):
    """No environment: an answer is one turn."""

    name: ClassVar[str] = "none"

    def gives(self) -> Set[Fact]:
        return {Fact.one_turn}

    @property
    def reads_rows(self) -> bool:
        """Whether it is to find the whole row of a prompt's file in `Prompt.row`."""
        return False

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end a turn, beside the end token."""
        return ()

    def inspect(self) -> None:
        """Reads its files, as far as that is quick; raises InputError if they cannot be used."""

    def opened(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with what the policy is asked in each; raises InputError if that fails."""
        return list(rows)

    def rehearse(self, prompt: Prompt, renderer: Renderer) -> None:
        """Takes one turn in that prompt, where it is a stranger's code; raises InputError if that
        fails, or if what it says cannot be rendered."""

    def played(self, rollout: Rollout, renderer: Renderer) -> Rollout:
        """Answers of as many turns as it takes, by one that draws a turn; to be made once for a
        run."""
        return rollout

    def judged(self, judge: Judge, gives_matrix: bool) -> Judge:
        """A judge that is not asked about answers whose environment has failed."""
        return judge
