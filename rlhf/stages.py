"""The services that algorithms and the loop stand on: one Protocol each.

`actors/` implements them on Ray; a test implements them in ten lines.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from rlhf.records import (
    Asked,
    Collected,
    Completion,
    PreferenceBatch,
    Prompt,
    Sampling,
    Tokens,
    Verdict,
)

Metrics = dict[str, float]
"""Numbers by `stage/name`."""


class Outcome(NamedTuple):
    """What came of one prompt of a round."""

    place: int
    """The prompt's, in the order of the round."""
    collected: Collected | None
    """None if it failed."""


Tell = Callable[[Outcome], None]
"""Hears what came of a prompt."""


def nobody(outcome: Outcome) -> None:
    """Whom it is told in vain."""


class Rollout(Protocol):
    """Samples completions from the newest published policy."""

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seed: int
    ) -> tuple[Completion, ...]:
        """`sampling.num_completions` completions; sample i is drawn with `seed + i`."""
        ...


class Judge(Protocol):
    """Decides how good completions are."""

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        """In the order of `completions`."""
        ...


class Logprobs(Protocol):
    """A policy, frozen or not, that says how likely completions are."""

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        """Nats, summed over each completion's tokens, in order."""
        ...

    async def token_logprobs(self, sequences: Sequence[Tokens]) -> Sequence[Sequence[float]]:
        """The same token by token: a number per completion token, as many times as it counts."""
        ...


class Schedule(Protocol):
    """Says which prompts belong to which round; always the same, so that a resumed run asks them
    again."""

    async def round(self, index: int) -> list[Prompt]:
        """Rounds are counted from 0."""
        ...


class Algorithm(Protocol):
    """One way to turn a prompt into preferences; thousands of these run at once."""

    async def collect(self, asked: Asked) -> Collected:
        """Awaits completions and judgements, and pairs them."""
        ...


class Collector(Protocol):
    """Runs the algorithm over the prompts of a round."""

    async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
        """In an order that is the round's, however long each takes. Of all of them `tell` may hear
        before, each as soon as it is done, or of none."""
        ...


class Policy(Logprobs, Protocol):
    """The model in training."""

    async def accumulate(self, portion: PreferenceBatch) -> None:
        """Some of the next update's preferences, in the order of the calls, which need not wait for
        each other; what can be computed of its first step is, and no weight changes."""
        ...

    async def update(self, batch: PreferenceBatch) -> Metrics:
        """Trains on what was accumulated and the batch; its weights stay private until
        published."""
        ...


class Publisher(Protocol):
    """Carries weights from the policy to the rollout workers, and checks that they arrived."""

    async def publish(self, version: int) -> Metrics:
        """Raises if a rollout worker's log-probabilities differ from the policy's."""
        ...


class Evaluation(Protocol):
    """Measures the published policy on prompts that it never trains on."""

    async def evaluate(self) -> Metrics:
        """Keys without a prefix: `sampled_accuracy`, `greedy_accuracy`, ..."""
        ...


class Checkpoints(Protocol):
    """Keeps what a run needs to go on after a crash."""

    async def save(self, num_rounds: int) -> Path:
        """Complete or absent, never half; what is there already is not saved again."""
        ...

    async def remember(self, num_rounds: int) -> None:
        """Keeps it in memory alone, if that is cheap, for when the policy is lost."""
        ...


class Stop(Protocol):
    """Knows whether the run has been asked to stop."""

    async def comes_before(self, task: asyncio.Future) -> bool:
        """Waits until the task is done or a stop is asked for; says whether it is the latter."""
        ...


class Store(Protocol):
    """Keeps every preference, with where it came from."""

    def prepare(self, round: int, collected: Sequence[Collected]) -> Callable[[], None]:
        """One round's; it is kept once what is returned has been called, which takes no time.

        Written anew if the round is repeated after a crash. Called in a thread.
        """
        ...


class Tracker(Protocol):
    """Shows people what happens."""

    def show(self, round: int, collected: Sequence[Collected]) -> None:
        """Some of what was collected, to read; it is not kept beyond the call."""
        ...

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Records one finished round."""
        ...

    def log_eval(self, num_rounds: int, metrics: Mapping[str, float]) -> None:
        """Records an evaluation of the policy after that many rounds."""
        ...
