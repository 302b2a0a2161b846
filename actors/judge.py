"""Judge workers: whatever decides, in processes of its own."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from copy import copy
from typing import NamedTuple

import ray

from actors.group import Worker
from rlhf.collecting.dispatch import Dispatcher
from rlhf.judges.groups import Group, GroupJudge
from rlhf.judges.models.held import one_of_each
from rlhf.records import Completion, Prompt, Verdict
from rlhf.stages import Judge


class Asked(NamedTuple):
    """What one of a worker's judges is to judge."""

    judge: int
    """Its place among them."""
    group: Group


class JudgeWorker:
    """A Ray actor around a judge, or several that hold the same model."""

    def __init__(self, *builds: Callable[[], GroupJudge | Judge]) -> None:
        with one_of_each():
            self._judges = [build() for build in builds]

    async def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    async def serve(self, requests: Sequence[Asked]) -> AsyncIterator[list[tuple[int, Verdict]]]:
        """Of a judge that waits for something, each verdict as it comes."""
        for number, judge in enumerate(self._judges):
            places = [i for i, one in enumerate(requests) if one.judge == number]
            groups = [requests[i].group for i in places]
            if not inspect.iscoroutinefunction(judge.judge):
                if groups:
                    yield list(zip(places, judge.judge(groups), strict=True))
                continue

            async def one(place: int, group: Group, judge: Judge) -> tuple[int, Verdict]:
                return place, await judge.judge(*group)

            asked = [one(i, group, judge) for i, group in zip(places, groups, strict=True)]
            for verdict in asyncio.as_completed(asked):
                yield [await verdict]


class JudgeService:
    """`rlhf.stages.Judge` on Ray."""

    def __init__(
        self, workers: Sequence[Worker], timeout_s: float, calls_per_worker: int = 1
    ) -> None:
        """By the first judge of the workers."""
        self._place = 0
        self._dispatcher: Dispatcher[Asked, Verdict] = Dispatcher(
            workers, calls_per_worker=calls_per_worker, timeout_s=timeout_s
        )

    def at(self, place: int) -> "JudgeService":
        """By another judge of the same workers, before which requests queue together."""
        other = copy(self)
        other._place = place
        return other

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        first = completions[0]
        key = (prompt.id, first.policy_version, first.token_ids, self._place)
        asked = Asked(self._place, Group(prompt, tuple(completions)))
        return await self._dispatcher.submit(key, asked)
