"""Weights from GPU to GPU, which nobody keeps: who comes back gets them while the policy can."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from actors.weight_sync import GpuCarrier, ProbedPublisher, TransferSetup
from rlhf.config.models import Transport
from rlhf.records import Tokens

PROBE = [Tokens((1,), (2, 3))]


@dataclass(eq=False)
class Worker:
    """Computes what it was sent."""

    name: str
    weights: float = 0.0

    @property
    def handle(self) -> "Worker":
        return self

    async def ask(self, method: str, *_: Any) -> list[list[float]]:
        assert method == "logprobs"
        return [[self.weights] * 2]


@dataclass
class Policy:
    """Its weights are one number, which each update lowers by one."""

    weights: float = -1.0
    num_changes: int = 0
    sent: list[tuple[int, list[str]]] = field(default_factory=list)

    def update(self) -> None:
        self.weights -= 1
        self.num_changes += 1

    async def token_logprobs(self, rows: list[Tokens]) -> list[list[float]]:
        return [[self.weights] * 2 for _ in rows]

    async def send_weights(self, setup: TransferSetup, version: int) -> int:
        self.sent.append((version, [one.name for one in setup.rollout_workers]))  # type: ignore[attr-defined]
        for one in setup.rollout_workers:
            one.weights = self.weights  # type: ignore[attr-defined]
        return 4


def publisher(policy: Any, *living: Worker) -> ProbedPublisher:
    async def each(method: str, *arguments: Any) -> dict[str, Any]:
        return {one.name: await one.ask(method, *arguments) for one in living}

    rollout: Any = SimpleNamespace(living=living, each=each)
    return ProbedPublisher(
        GpuCarrier(policy, rollout, Transport.ipc, 60), policy, rollout, PROBE, 0.1
    )


async def test_who_comes_back_gets_what_the_others_have():
    policy, one, back = Policy(), Worker("rollout-0"), Worker("rollout-1")
    publish = publisher(policy, one)
    await publish.publish(3)
    await publish.bring(back, 60)  # type: ignore[arg-type]
    assert policy.sent == [(3, ["rollout-0"]), (3, ["rollout-1"])]
    assert one.weights == back.weights == -1


async def test_who_comes_back_after_the_policy_has_gone_on_waits_for_what_it_publishes_next():
    policy, one, back = Policy(), Worker("rollout-0"), Worker("rollout-1")
    publish = publisher(policy, one)
    await publish.publish(3)
    policy.update()
    bringing = asyncio.create_task(publish.bring(back, 60))  # type: ignore[arg-type]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not bringing.done() and back.weights == 0
    await publish.publish(4)
    await bringing
    assert policy.sent == [(3, ["rollout-0"]), (4, ["rollout-0"]), (4, ["rollout-1"])]
    assert one.weights == back.weights == -2
