"""Your own algorithm: a coroutine function that turns one prompt into preferences."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import MISSING

from rlhf.algorithms.base import AlgorithmConfig, Services
from rlhf.collecting.dispatch import RequestFailed
from rlhf.config.texts import text
from rlhf.functions.source import (
    FunctionSource,
    callable_with,
    failure,
    is_async,
    is_finite,
    read_source,
    shown,
)
from rlhf.options import Fact
from rlhf.problems import InputError, RunFailed
from rlhf.records import Asked, Collected, Comparison, Completion, Dropped, Judgement, Preference

PARAMETERS = ("asked", "services")
KEY = "algorithm.function"


@dataclass
class FunctionAlgorithmConfig(AlgorithmConfig):
    """`async def collect(asked, services)`, of `rlhf.records.Asked` and
    `rlhf.algorithms.base.Services` to `rlhf.records.Collected`.

    It runs in the driver's event loop, once per prompt and thousands at a time, and is not locked
    in. Where it fails, its prompt has failed (`round.max_failed`).
    """

    name: ClassVar[str] = "function"

    function: str = text(MISSING)
    """`pairs.py:collect`, or `package.module:collect`."""
    samples_initial: bool = False
    """It asks for completions of the initial policy, or of a mixture with it:
    `Sampling.mixture`."""

    @property
    def samples_initial_policy(self) -> bool:
        return self.samples_initial

    def gives(self) -> Set[Fact]:
        return {Fact.parts}

    def needs(self) -> Mapping[Fact, str]:
        if not self.samples_initial:
            return {}
        return {
            Fact.initial_policy: "algorithm.samples_initial=true: the initial policy is sampled by "
            "rollout=transformers only, which runs it beside the policy; set rollout=transformers"
        }

    def try_out(self) -> None:
        self._loaded()

    def make(self, services: Services) -> "FunctionAlgorithm":
        return FunctionAlgorithm(*self._loaded(), services)

    def _loaded(self) -> tuple[FunctionSource, Callable[..., Any]]:
        source = read_source(KEY, self.function)
        call = callable_with(source, PARAMETERS)
        if not is_async(call):
            raise source.refused(f"is not async; write async def {source.name}(asked, services)")
        return source, call


@dataclass(frozen=True, slots=True)
class FunctionAlgorithm:
    """`rlhf.stages.Algorithm` by a user's function."""

    source: FunctionSource
    call: Callable[..., Any]
    services: Services

    async def collect(self, asked: Asked) -> Collected:
        """Raises RequestFailed, in one line, where the function fails or returns something else."""
        try:
            found = await self.call(asked, self.services)
        except (RunFailed, InputError):
            raise  # a service's own
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # by us
            raise self._failed("was cancelled by itself") from error
        except (Exception, SystemExit) as error:  # whatever a stranger's function does is told
            raise self._failed(failure(error, self.source.file)) from error
        if why := next(faults(found, asked), None):
            raise self._failed(why)
        return found

    def _failed(self, why: str) -> RequestFailed:
        return RequestFailed(f"{KEY}={self.source.version}: {why}")


def faults(found: Any, asked: Asked) -> Iterator[str]:
    """What is wrong with what a function returned for a prompt."""
    if not isinstance(found, Collected):
        yield f"returned {shown(found)}, not an rlhf.records.Collected"
        return
    if found.prompt is not asked.prompt:
        yield f"returned what it collected of {shown(found.prompt)}, not of asked.prompt"
    if not isinstance(found.judgement, Judgement | Comparison | None):
        yield f"returned the judgement {shown(found.judgement)}, not what a judge gives, or None"
    wanted = {"completions": Completion, "preferences": Preference, "dropped": Dropped}
    for name, kind in wanted.items():
        values = getattr(found, name)
        if not isinstance(values, tuple):
            yield f"returned {name} as {shown(values)}, not a tuple of {kind.__name__}"
            return
        yield from (
            f"returned {shown(value)} among {name}, not a {kind.__name__}"
            for value in values
            if not isinstance(value, kind)
        )
    for pair in found.preferences:
        if pair.prompt.id != asked.prompt.id:
            yield f"returned a preference of {pair.prompt.id!r}, asked for {asked.prompt.id!r}"
        numbers = (pair.chosen.score, pair.rejected.score, pair.weight, pair.win_prob)
        are_numbers = all(isinstance(one, int | float) and is_finite(one) for one in numbers)
        if not (are_numbers and pair.weight >= 0 and 0 <= pair.win_prob <= 1):
            yield (
                "returned a preference whose scores, weight and win_prob are "
                f"{', '.join(map(shown, numbers))}"
            )
    if found.judgement and len(found.judgement.scores) != len(found.completions):
        yield (
            f"returned a judgement of {len(found.judgement.scores)} completions, and "
            f"{len(found.completions)} completions"
        )
