"""A worker that comes back gets what is published, also where that is long after."""

import asyncio
from types import SimpleNamespace

from actors.group import GivenLost, Worker
from actors.weight_sync import ProbedPublisher


class Gone:
    """Carries nothing of the first version, whose owner has ended."""

    def __init__(self) -> None:
        self.num_tries = 0

    async def carry_to(self, worker: Worker, timeout_s: float) -> None:
        self.num_tries += 1
        if self.num_tries == 1:
            raise GivenLost("what it was given is lost")


async def answers(probe: object) -> list[list[float]]:
    return [[0.25]]


async def test_it_waits_for_the_next_version_however_late_the_policy_is_back():
    carrier = Gone()
    publisher = ProbedPublisher(carrier, None, None, [], 1.0)
    publisher._begin(1).expected.set_result([[0.0]])
    worker = Worker("rollout-0", SimpleNamespace(logprobs=SimpleNamespace(remote=answers)))
    bringing = asyncio.create_task(publisher.bring(worker, timeout_s=0.01))
    await asyncio.sleep(0.1)
    assert not bringing.done()
    later = publisher._begin(2)
    later.expected.set_result([[0.0]])
    async with asyncio.timeout(60):
        await bringing
    assert later.gaps == {"rollout-0": 0.25} and carrier.num_tries == 2
