"""Judge workers: whatever decides, in processes of its own."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence

import ray

from actors.group import Worker
from rlhf.collecting.dispatch import Dispatcher
from rlhf.judges.groups import Group, GroupJudge
from rlhf.records import Completion, Prompt, Verdict
from rlhf.stages import Judge


class JudgeWorker:
    """A Ray actor around one judge."""

    def __init__(self, build: Callable[[], GroupJudge | Judge]) -> None:
        self._judge = build()

    async def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    async def serve(self, groups: Sequence[Group]) -> AsyncIterator[list[tuple[int, Verdict]]]:
        """Of a judge that waits for something, each verdict as it comes."""
        if not inspect.iscoroutinefunction(self._judge.judge):
            yield list(enumerate(self._judge.judge(groups)))
            return

        async def one(place: int, group: Group) -> tuple[int, Verdict]:
            return place, await self._judge.judge(*group)

        for verdict in asyncio.as_completed([one(*numbered) for numbered in enumerate(groups)]):
            yield [await verdict]


class JudgeService:
    """`rlhf.stages.Judge` on Ray."""

    def __init__(
        self, workers: Sequence[Worker], timeout_s: float, calls_per_worker: int = 1
    ) -> None:
        self._dispatcher: Dispatcher[Group, Verdict] = Dispatcher(
            workers, calls_per_worker=calls_per_worker, timeout_s=timeout_s
        )

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        key = (prompt.id, completions[0].policy_version, completions[0].token_ids)
        return await self._dispatcher.submit(key, Group(prompt, tuple(completions)))
