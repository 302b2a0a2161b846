"""Judge workers: whatever decides, in processes of its own."""

from collections.abc import AsyncIterator, Sequence

import ray

from actors.group import Worker
from rlhf.collecting.dispatch import Dispatcher
from rlhf.judges.base import JudgeConfig
from rlhf.judges.groups import Group
from rlhf.records import Completion, Prompt, Verdict


class JudgeWorker:
    """A Ray actor around one judge."""

    def __init__(self, config: JudgeConfig) -> None:
        self._judge = config.build()

    async def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    async def serve(self, groups: Sequence[Group]) -> AsyncIterator[list[tuple[int, Verdict]]]:
        yield list(enumerate(self._judge.judge(groups)))


class JudgeService:
    """`rlhf.stages.Judge` on Ray."""

    def __init__(self, workers: Sequence[Worker], timeout_s: float) -> None:
        self._dispatcher: Dispatcher[Group, Verdict] = Dispatcher(workers, timeout_s=timeout_s)

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]) -> Verdict:
        key = (prompt.id, completions[0].policy_version, completions[0].token_ids)
        return await self._dispatcher.submit(key, Group(prompt, tuple(completions)))
