"""Policy and rollout on the same GPUs: vLLM's memory is given back while the policy trains."""

from dataclasses import dataclass

from actors.group import Worker
from actors.rollout import RolloutService
from actors.weight_sync import Carrier
from rlhf.records import Collected
from rlhf.stages import Collector, Tell, nobody


@dataclass(frozen=True, slots=True)
class SleepingCollector:
    """`rlhf.stages.Collector` after whose rounds the rollout workers sleep; before, there is no
    room for anything else to be done."""

    collector: Collector
    rollout: RolloutService

    async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
        collected = await self.collector.collect(round)
        await self.rollout.sleep()
        return collected


@dataclass(frozen=True, slots=True)
class WakingCarrier:
    """`actors.weight_sync.Carrier` that wakes the rollout workers, whose weights it then brings."""

    carrier: Carrier
    rollout: RolloutService

    async def carry(self, version: int) -> int:
        await self.rollout.wake()
        return await self.carrier.carry(version)

    async def carry_to(self, worker: Worker, timeout_s: float) -> None:
        await self.carrier.carry_to(worker, timeout_s)
