"""Both ends of publishing: the policy's weights reach every rollout worker, and are checked there.

Loading weights can go wrong without any error (a tied output layer that keeps its old values is
the classic), so after every publish each rollout worker's log-probabilities on a fixed probe are
compared with the policy's own.
"""

import asyncio
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, cycle, islice
from typing import Any, ClassVar, Protocol

import ray
import torch
from ray.actor import ActorHandle
from torch import Tensor

from actors.buckets import Bucket, fill
from actors.group import GivenLost, Worker, call_all
from actors.policy import PolicyService
from actors.rollout import RolloutService
from rlhf.config.models import Transport
from rlhf.problems import PolicyBroken, PolicyLost, RunFailed
from rlhf.records import Prompt, Tokens
from rlhf.seeds import derive_seed
from rlhf.stages import Metrics

PROBE_ROWS, PROBE_PROMPT_TOKENS = 8, 1024
"""Of the probe, and of all its prompts together: every publication reads them on both sides."""
DIVERGED = 1000.0
"""Nats per token of the probe: no policy that learns finds even random tokens so unlikely."""
BUCKET_BYTES = 1 << 26
"""Filled again and again: memory that is in use already is quicker to write than new memory."""


class WeightsDiffer(RunFailed):
    """A rollout worker does not compute what the policy computes; says which."""


class PolicyDiverged(PolicyBroken):
    """The policy itself is of no use; nothing is wrong with how its weights travel."""

    def __init__(self, version: int, logprobs: str) -> None:
        super().__init__(
            f"the policy of version {version} has log-probabilities {logprobs}: its training has "
            "diverged; lower policy.learning_rate or policy.max_grad_norm, and go on from an "
            "earlier checkpoint"
        )


class Carrier(Protocol):
    """Takes the policy's weights to the rollout workers."""

    async def carry(self, version: int) -> int:
        """Returns how many bytes the weights come to."""
        ...

    async def carry_to(self, worker: Worker, timeout_s: float) -> None:
        """What was carried last, to one worker more; raises GivenLost if nobody has it any
        longer."""
        ...


class ObjectStoreCarrier:
    """By Ray's object store: shared memory within a node, the network between nodes.

    What was carried last stays there, for workers that come back meanwhile: at any time the store
    holds the weights once, and while they are being published, twice.
    """

    load: ClassVar[str] = "load_weights"
    """What a rollout worker is called to do."""

    def __init__(self, policy: PolicyService, rollout: RolloutService, as_saved: bool) -> None:
        """`as_saved`: the engine reads weights as they stand in files, as vLLM does."""
        self._policy = policy
        self._rollout = rollout
        self._as_saved = as_saved
        self._carried: tuple[Any, ...] = ()

    async def carry(self, version: int) -> int:
        buckets, num_bytes = await self._put()
        self._carried = (buckets, version)
        await self._rollout.each(self.load, *self._carried)
        return num_bytes

    async def carry_to(self, worker: Worker, timeout_s: float) -> None:
        await call_all([worker], self.load, *self._carried, timeout_s=timeout_s)

    async def _put(self) -> tuple[list[ray.ObjectRef], int]:
        return await self._policy.put_weights(self._as_saved)


class AdapterCarrier(ObjectStoreCarrier):
    """Of a policy with LoRA the adapter alone: rollout workers have its base, which stays."""

    load: ClassVar[str] = "load_adapter"

    def __init__(self, policy: PolicyService, rollout: RolloutService) -> None:
        super().__init__(policy, rollout, as_saved=False)

    async def _put(self) -> tuple[list[ray.ObjectRef], int]:
        return await self._policy.put_adapter()


@dataclass(frozen=True, slots=True)
class TransferSetup:
    """What every policy rank needs to know to send weights from its GPU."""

    transport: Transport
    rollout_workers: Sequence[ActorHandle]
    gpus_per_worker: int
    timeout_s: float


class GpuCarrier:
    """From GPU to GPU: `nccl`, or `ipc` where both share a GPU. Nothing is kept but by the
    policy itself, and until it changes."""

    def __init__(
        self,
        policy: PolicyService,
        rollout: RolloutService,
        transport: Transport,
        timeout_s: float,
        gpus_per_worker: int = 1,
    ) -> None:
        self._policy = policy
        self._rollout = rollout
        self._setup = TransferSetup(transport, (), gpus_per_worker, timeout_s)
        self._version = 0
        self._num_changes = 0
        """Of the policy, when that version was carried."""

    async def carry(self, version: int) -> int:
        self._version, self._num_changes = version, self._policy.num_changes
        return await self._send(self._rollout.living)

    async def carry_to(self, worker: Worker, timeout_s: float) -> None:
        if self._policy.num_changes != self._num_changes:
            raise GivenLost(f"{worker.name}: the policy has gone on since it was published")
        await self._send([worker])

    async def _send(self, workers: Sequence[Worker]) -> int:
        handles = [worker.handle for worker in workers]
        setup = replace(self._setup, rollout_workers=handles)
        return await self._policy.send_weights(setup, self._version)


class ProbedPublisher:
    """`rlhf.stages.Publisher`: carries weights, then proves that they arrived."""

    def __init__(
        self,
        carrier: Carrier,
        policy: PolicyService,
        rollout: RolloutService,
        probe: Sequence[Tokens],
        max_logprob_gap: float,
        merges: bool = False,
    ) -> None:
        """`merges`: an adapter is merged into the weights, and rounding may take its changes."""
        self._merges = merges
        self._carrier = carrier
        self._policy = policy
        self._rollout = rollout
        self._probe = list(probe)
        self._max_logprob_gap = max_logprob_gap
        self._published: _Published | None = None

    async def publish(self, version: int) -> Metrics:
        begun = self._begin(version)
        # The policy says what it computes while the rollout workers load.
        num_bytes, expected = await asyncio.gather(
            self._carrier.carry(version), self._policy.token_logprobs(self._probe)
        )
        if not all(math.isfinite(value) for row in expected for value in row):
            raise PolicyDiverged(version, "that are not finite")
        begun.expected.set_result(expected)
        answers = await self._rollout.each("logprobs", self._probe)
        begun.gaps.update({name: _mean_gap(expected, found) for name, found in answers.items()})
        begun.check(begun.gaps, self._max_logprob_gap)
        while not begun.gaps:  # all are lost, and who comes back is brought here by `bring`
            await self._rollout.until_one_is_back()
        metrics = {
            "weights/version": float(version),
            "weights/bytes": float(num_bytes),
            "weights/logprob_gap": max(begun.gaps.values()),
        }
        if self._merges and (lost := await self._policy.merge_lost()) is not None:
            metrics["weights/merge_lost"] = lost
        return metrics

    def _begin(self, version: int) -> "_Published":
        """From now on, who comes back waits for these weights."""
        if self._published is not None:
            self._published.expected.cancel()
            self._published.is_old.set()
        expected = asyncio.get_running_loop().create_future()
        self._published = _Published(version, expected, asyncio.Event())
        return self._published

    async def bring(self, worker: Worker, timeout_s: float) -> None:
        """Gives the newest published weights to a worker that no publish reaches yet, and proves
        that they arrived; what is published meanwhile, it gets too.

        Raises what publishing raises.
        """
        while True:
            published = self._published
            assert published is not None
            await asyncio.wait([published.expected], timeout=timeout_s)
            if published is not self._published or not published.expected.done():
                continue
            try:
                await self._carrier.carry_to(worker, timeout_s)
                (found,) = await call_all([worker], "logprobs", self._probe, timeout_s=timeout_s)
            except (GivenLost, PolicyLost):
                # The policy is ahead, or is started anew: it publishes again, however long it waits
                # for a place of its own, or the run ends.
                await published.is_old.wait()
                continue
            if published is self._published:
                gap = {worker.name: _mean_gap(published.expected.result(), found)}
                published.check(gap, self._max_logprob_gap)
                published.gaps.update(gap)
                return


@dataclass(frozen=True, slots=True)
class _Published:
    """One version, and how far workers were from it."""

    version: int
    expected: asyncio.Future[list[list[float]]]
    """The policy's own log-probabilities; cancelled if it was lost before it gave them."""
    is_old: asyncio.Event
    """Another is published in its place."""
    gaps: dict[str, float] = field(default_factory=dict)

    def check(self, gaps: Mapping[str, float], limit: float) -> None:
        beyond = {name: gap for name, gap in gaps.items() if not gap <= limit}  # nan is so too
        if beyond:
            values = [abs(value) for row in self.expected.result() for value in row]
            if (size := sum(values) / len(values)) > DIVERGED:
                raise PolicyDiverged(self.version, f"of {-size:.3g} nats per token")
            worst = max(beyond, key=lambda name: beyond[name])
            raise WeightsDiffer(
                f"{worst} differs from the policy by {beyond[worst]:.3g} nats per token after "
                f"version {self.version} was published (limit {limit:g}, weights.max_logprob_gap): "
                "its weights are not the policy's"
            )


def make_probe(
    prompts: Sequence[Prompt], vocabulary_size: int, num_tokens: int, longest: int, seed: int
) -> list[Tokens]:
    """Eight rows: a prompt each, or fewer prompts where they are long, continued by seeded random
    tokens, so that many embeddings count. `longest`: tokens of a row and of one more, which some
    engines sample; of a longer prompt, its end."""
    rng = random.Random(derive_seed(seed, "probe"))
    num_tokens = max(1, min(num_tokens, longest - 2))
    num_kept = max(1, longest - 1 - num_tokens)
    ends = accumulate(len(prompt.token_ids) for prompt in prompts[:PROBE_ROWS])
    num_prompts = max(1, sum(end <= PROBE_PROMPT_TOKENS for end in ends))
    return [
        Tokens(
            prompt.token_ids[-num_kept:],
            tuple(rng.randrange(vocabulary_size) for _ in range(num_tokens)),
        )
        for prompt in islice(cycle(prompts[:num_prompts]), PROBE_ROWS)
    ]


def _mean_gap(expected: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> float:
    gaps = [
        abs(a - b)
        for row_a, row_b in zip(expected, found, strict=True)
        for a, b in zip(row_a, row_b, strict=True)
    ]
    return sum(gaps) / len(gaps)


# --- the policy's end ----------------------------------------------------------------------------


def put_buckets(
    weights: Iterator[tuple[str, Tensor]], *, keep: bool
) -> tuple[list[ray.ObjectRef], int] | None:
    """Puts weights into the object store, some at a time; ranks that do not keep only iterate."""
    if not keep:
        for _ in weights:
            pass
        return None
    references, total = [], 0
    for places, filled in fill(weights, torch.empty(BUCKET_BYTES, dtype=torch.uint8)):
        references.append(ray.put(Bucket(places, filled.numpy())))
        total += len(filled)
    return references, total
