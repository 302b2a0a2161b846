"""The model in training, as the driver sees it: all policy ranks together."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.group import Worker, WorkerFailed, WorkerRaised, call_all
from actors.supervision import beats, pause, start_anew
from rlhf.collecting.dispatch import WorkerDied
from rlhf.problems import PolicyBroken, PolicyLost, PolicyRaised
from rlhf.records import Columns, PreferenceBatch, Tokens
from rlhf.records.pickling import Pickled
from rlhf.stages import Metrics


class PolicyService:
    """`rlhf.stages.Policy` on Ray: every rank is called together."""

    def __init__(self, ranks: Sequence[Worker], timeout_s: float, silence_s: float = 60.0) -> None:
        self._ranks = ranks
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self.is_connected = False
        """The ranks have met each other."""
        self.num_changes = 0
        """Calls so far that may leave other weights than there were."""

    @property
    def ranks(self) -> list[Worker]:
        return list(self._ranks)

    async def _call(self, method: str, *arguments: Any) -> list[Any]:
        """Raises PolicyLost if a rank is dead, whatever the others then raise of it, and
        PolicyRaised if none is, and one raised an error that nobody foresaw."""
        return await self._call_some(self._ranks, method, *arguments)

    async def _call_some(self, ranks: Sequence[Worker], method: str, *arguments: Any) -> list[Any]:
        try:
            return await call_all(ranks, method, *arguments, timeout_s=self._timeout_s)
        except WorkerDied as death:
            raise PolicyLost(str(death), details=death.details) from death
        except WorkerFailed as failure:
            if lost := await self.loss():
                raise lost from failure
            if isinstance(failure, WorkerRaised):
                raise PolicyRaised(str(failure), details=failure.details) from failure
            raise

    async def loss(self) -> PolicyLost | None:
        """Of a rank that is dead, if one is."""
        dead = await asyncio.gather(*map(self._beats, self._ranks), return_exceptions=True)
        return next((PolicyLost(str(one)) for one in dead if isinstance(one, WorkerDied)), None)

    async def watch(self, done: asyncio.Event) -> None:
        """Until it is done: raises PolicyLost once a rank is dead, though nobody asks it
        anything."""
        while not done.is_set():
            if lost := await self.loss():
                raise lost
            await pause(done, self._silence_s)

    async def _beats(self, rank: Worker) -> None:
        await beats(rank, self._silence_s)

    def start_anew(self) -> None:
        """A new group of ranks, which have yet to connect; the old ones end, if they live."""
        self.is_connected = False
        for worker in self._ranks:
            start_anew(worker)
            worker.cause = None

    async def connect(self) -> None:
        """Rendezvous of the ranks."""
        (address,) = await self._call_some(self._ranks[:1], "rendezvous")
        ranks = {worker.handle._actor_id.hex(): i for i, worker in enumerate(self._ranks)}
        nodes = await self._call("connect", ranks, address)
        for worker, node_id in zip(self._ranks, nodes, strict=True):
            worker.runs_on(node_id)
        self.is_connected = True

    async def start(self, path: str, warm_up: bool = False) -> None:
        """Training begins from the weights in `path`; called again, it begins anew."""
        self.num_changes += 1
        await self._call("start", path, warm_up)

    async def rest(self) -> None:
        """Every rank gives its memory back; only `start` may follow."""
        await self._call("rest")

    async def supervise(self, rows: Sequence[Tokens], learning_rate: float) -> float:
        self.num_changes += 1
        return (await self._call("supervise", rows, learning_rate))[0]

    async def accumulate(self, portion: PreferenceBatch) -> None:
        """Raises PolicyBroken if a rank fails: the others wait for it, and nothing can be saved."""
        try:
            await self._call("accumulate", ray.put(Pickled(Columns.of(portion))))
        except WorkerFailed as failure:
            raise PolicyBroken(str(failure), details=failure.details) from failure

    async def update(self, batch: PreferenceBatch) -> Metrics:
        self.num_changes += 1
        return (await self._call("update", ray.put(Pickled(Columns.of(batch)))))[0]

    async def token_logprobs(
        self, sequences: Sequence[Tokens], initial: bool = False
    ) -> list[list[float]]:
        """Per-token nats, in order; `initial`: of a LoRA policy with its adapter off."""
        shares = await self._call("token_logprobs", ray.put(list(sequences)), initial)
        merged = {i: values for share in shares for i, values in share.items()}
        return [merged[i] for i in range(len(sequences))]

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        return [sum(values) for values in await self.token_logprobs(sequences)]

    async def put_weights(self, as_saved: bool) -> tuple[list[ray.ObjectRef], int]:
        """`as_saved`: by the names of the model's files rather than of transformers' modules."""
        return (await self._call("put_weights", as_saved))[0]

    async def put_adapter(self) -> tuple[list[ray.ObjectRef], int]:
        """Of a policy with LoRA, the adapter alone."""
        return (await self._call("put_adapter"))[0]

    async def merge_lost(self) -> float | None:
        """Of a LoRA adapter's change, the share that publishing lost in rounding; else None."""
        return (await self._call("merge_lost"))[0]

    async def send_weights(self, setup: Any, version: int) -> int:
        return (await self._call("send_weights", setup, version))[0]

    async def export(self, directory: Path) -> None:
        await self._call("export", str(directory))

    async def save(self, directory: Path) -> None:
        await self._call("save", str(directory))

    async def snapshot(self, most_bytes: float) -> dict[str, Any] | None:
        """The files that `save` would write, in this process's node's memory; None if they would
        take more."""
        shares = await self._call("snapshot", most_bytes)
        if None in shares:
            return None
        return {name: content for share in shares for name, content in share.items()}

    async def load(self, directory: Path) -> None:
        self.num_changes += 1
        await self._call("load", str(directory))


@dataclass(frozen=True, slots=True)
class InitialPolicy:
    """`rlhf.stages.Logprobs` of the `initial` anchor under LoRA: the policy, adapter off."""

    policy: PolicyService

    async def logprobs(self, sequences: Sequence[Tokens]) -> list[float]:
        return [sum(values) for values in await self.token_logprobs(sequences)]

    async def token_logprobs(self, sequences: Sequence[Tokens]) -> list[list[float]]:
        return await self.policy.token_logprobs(sequences, initial=True)
