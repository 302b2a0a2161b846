"""One round of collecting: the algorithm's coroutine on every prompt, bounded, with deadlines."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.collecting.deadlines import Deadlines, TooLate
from rlhf.collecting.dispatch import RequestFailed
from rlhf.collecting.turns import begun, pause
from rlhf.config.run import RoundConfig
from rlhf.problems import RunFailed, one_line
from rlhf.records import Asked, Collected, Prompt, Verdict
from rlhf.seeds import seeds_after
from rlhf.stages import Algorithm, Collector, Outcome, Schedule, Tell, nobody
from rlhf.tools.tool import cut

SHOWN_CHARS = 300
"""Of a judge's reason, where it has failed."""


class PromptsFailed(RunFailed):
    """More prompts of a round failed than `round.max_failed` allows."""


class JudgeFailed(RunFailed):
    """More judgements of a round failed than `judge.max_failure_rate` allows."""


@dataclass(frozen=True, slots=True)
class OneRound:
    """A `Schedule` that asks the same prompts in every round."""

    prompts: Sequence[Prompt]

    async def round(self, index: int) -> list[Prompt]:
        return list(self.prompts)


@dataclass(frozen=True, slots=True)
class WarmStarted:
    """`rlhf.stages.Collector`: round 0 by one collector, all others by another."""

    first: Collector
    rest: Collector

    async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
        return await (self.rest if round else self.first).collect(round, tell)


@dataclass(frozen=True, slots=True)
class Untold:
    """`rlhf.stages.Collector` whose rounds nobody hears of before they are whole."""

    collector: Collector

    async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
        return await self.collector.collect(round)


class RoundCollector:
    """Collects whole rounds; a prompt that fails, fails alone and is counted."""

    def __init__(
        self,
        algorithm: Algorithm,
        schedule: Schedule,
        config: RoundConfig,
        failure_limits: Mapping[str, float],
        seed: int,
        num_rounds: int,
    ) -> None:
        """`failure_limits`: the share of a round's judgements that may fail, by the empty name,
        and likewise of those of members by theirs."""
        self._algorithm = algorithm
        self._failure_limits = failure_limits
        self._schedule = schedule
        self._config = config
        self._seed = seed
        self._num_rounds = num_rounds

    async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
        """What came of the round's prompts, without those that failed.

        Prompts begin, and come back, in the order of their seeds: one at random, since schedules
        may have any, and the same again.
        """
        asked = await self._asked(round, await self._schedule.round(round))
        done: list[Collected | None] = [None] * len(asked)
        left = enumerate(asked)
        deadlines = Deadlines(self._config.deadline_s)
        failures: list[str] = []

        async def one_after_another() -> None:
            for place, one in left:
                try:
                    with deadlines:
                        done[place] = await self._algorithm.collect(one)
                except RequestFailed as error:
                    failures.append(f"{one.prompt.id}: {error}")
                except TooLate as error:
                    failures.append(f"{one.prompt.id}: {error}")
                except TimeoutError as error:  # of the algorithm's own
                    failures.append(f"{one.prompt.id}: {one_line(error)}")
                if done[place] is None:
                    self._check_failures(round, failures)
                tell(Outcome(place, done[place]))

        num_at_once = min(self._config.concurrency, len(asked))
        async with asyncio.TaskGroup() as tasks:
            await begun(tasks, (one_after_another() for _ in range(num_at_once)))
        collected = [one for one in done if one is not None]
        self._check_judge(round, collected)
        return collected

    def _check_failures(self, round: int, failures: Sequence[str]) -> None:
        if len(failures) > self._config.max_failed:
            raise PromptsFailed(
                f"round {round}: {len(failures)} prompts failed and round.max_failed="
                f"{self._config.max_failed}: " + "; ".join(failures[:10])
            )

    async def _asked(self, round: int, prompts: Sequence[Prompt]) -> list[Asked]:
        progress = round / self._num_rounds
        seed_of, seeds = seeds_after(self._seed, round), []
        for prompt in prompts:
            seeds.append(seed_of(prompt.id))
            await pause(len(seeds))
        order = sorted(range(len(prompts)), key=lambda i: (seeds[i], prompts[i].id))
        return [Asked(prompts[i], seeds[i], progress) for i in order]

    def _check_judge(self, round: int, collected: Sequence[Collected]) -> None:
        for member, limit in self._failure_limits.items():
            verdicts = (one.judgement for one in collected if one.judgement)
            failed = [failed for verdict in verdicts for failed in _failed(verdict, member)]
            if not failed or sum(failed) / len(failed) <= limit:
                continue
            judged = [(one.prompt, one.judgement) for one in collected if one.judgement]
            reasons = [
                (prompt, why)
                for prompt, verdict in judged
                if any(_failed(verdict, member))
                for why in verdict.reasons
                if why
            ]
            first = f": {_shortly(reasons[0][1])} (prompt {reasons[0][0].id})" if reasons else ""
            key = "".join(f".members.{name}" for name in member.split(".") if name)
            raise JudgeFailed(
                f"round {round}: {member or judged[0][1].judge} failed on {sum(failed)} of "
                f"{len(failed)} and judge{key}.max_failure_rate={limit:g}{first}"
            )


def _shortly(reason: str) -> str:
    """Judges that write give reasons of many lines."""
    return cut(" ".join(reason.split()), SHOWN_CHARS)


def _failed(verdict: Verdict, member: str) -> Sequence[bool]:
    return verdict.member_failures.get(member, ()) if member else verdict.failed
