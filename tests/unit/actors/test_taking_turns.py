"""Policy and rollout on one GPU: who sleeps when, in a whole training of a few rounds."""

import asyncio
from dataclasses import dataclass, field

from actors.taking_turns import SleepingCollector, WakingCarrier


@dataclass
class Gpu:
    """Notes what happens on it; weights and cache are there only while the engine is awake."""

    awake: bool = True
    events: list[str] = field(default_factory=list)

    async def sleep(self) -> None:
        assert self.awake
        self.awake = False
        self.events.append("sleep")

    async def wake(self) -> None:
        assert not self.awake
        self.awake = True
        self.events.append("wake")

    async def collect(self, round: int) -> list:
        assert self.awake
        self.events.append(f"collect {round}")
        return [round]

    async def carry(self, version: int) -> int:
        assert self.awake
        self.events.append(f"carry {version}")
        return 8


def test_the_engine_sleeps_from_a_round_s_last_answer_until_its_new_weights_come():
    gpu = Gpu()
    collector, carrier = SleepingCollector(gpu, gpu), WakingCarrier(gpu, gpu)  # type: ignore[arg-type]

    async def rounds() -> None:
        await gpu.sleep()  # as a run begins, so that the policy can be loaded
        assert await carrier.carry(0) == 8
        for round in range(2):
            assert await collector.collect(round) == [round]
            assert not gpu.awake
            await carrier.carry(round + 1)

    asyncio.run(rounds())
    assert gpu.events == [
        "sleep", "wake", "carry 0", "collect 0", "sleep", "wake", "carry 1",
        "collect 1", "sleep", "wake", "carry 2",
    ]  # fmt: skip
