"""Both ends of publishing: the policy's weights reach every rollout worker, and are checked there.

Loading weights can go wrong without any error (a tied output layer that keeps its old values is
the classic), so after every publish each rollout worker's log-probabilities on a fixed probe are
compared with the policy's own.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import ray
import torch
from ray.actor import ActorHandle
from torch import Tensor

from actors.buckets import Bucket, fill
from actors.policy import PolicyService
from actors.rollout import RolloutService
from rlhf.config.models import Transport
from rlhf.problems import PolicyBroken, RunFailed
from rlhf.records import Prompt, Tokens
from rlhf.seeds import derive_seed
from rlhf.stages import Metrics

BUCKET_BYTES = 1 << 26
"""Filled again and again: memory that is in use already is quicker to write than new memory."""


class WeightsDiffer(RunFailed):
    """A rollout worker does not compute what the policy computes; says which."""


class PolicyNotFinite(PolicyBroken):
    """The policy itself has diverged; nothing is wrong with how its weights travel."""


class Carrier(Protocol):
    """Takes the policy's weights to the rollout workers."""

    async def carry(self, version: int) -> int:
        """Returns how many bytes the weights come to."""
        ...


class ObjectStoreCarrier:
    """By Ray's object store: shared memory within a node, the network between nodes."""

    def __init__(self, policy: PolicyService, rollout: RolloutService, as_saved: bool) -> None:
        """`as_saved`: the engine reads weights as they stand in files, as vLLM does."""
        self._policy = policy
        self._rollout = rollout
        self._as_saved = as_saved

    async def carry(self, version: int) -> int:
        buckets, num_bytes = await self._policy.put_weights(self._as_saved)
        await self._rollout.each("load_weights", buckets, version)
        return num_bytes


@dataclass(frozen=True, slots=True)
class AdapterCarrier:
    """Of a policy with LoRA the adapter alone: rollout workers have its base, which stays."""

    policy: PolicyService
    rollout: RolloutService

    async def carry(self, version: int) -> int:
        buckets, num_bytes = await self.policy.put_adapter()
        await self.rollout.each("load_adapter", buckets, version)
        return num_bytes


@dataclass(frozen=True, slots=True)
class TransferSetup:
    """What every policy rank needs to know to send weights from its GPU."""

    transport: Transport
    rollout_workers: Sequence[ActorHandle]
    gpus_per_worker: int
    timeout_s: float


class GpuCarrier:
    """From GPU to GPU: `nccl`, or `ipc` where both share a GPU."""

    def __init__(self, policy: PolicyService, setup: TransferSetup) -> None:
        self._policy = policy
        self._setup = setup

    async def carry(self, version: int) -> int:
        return await self._policy.send_weights(self._setup, version)


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

    async def publish(self, version: int) -> Metrics:
        num_bytes = await self._carrier.carry(version)
        expected = await self._policy.token_logprobs(self._probe)
        if not all(math.isfinite(value) for row in expected for value in row):
            raise PolicyNotFinite(
                f"the policy of version {version} has log-probabilities that are not finite: its "
                "training has diverged; lower policy.learning_rate or policy.max_grad_norm, and "
                "go on from an earlier checkpoint"
            )
        answers = await self._rollout.each("logprobs", self._probe)
        gaps = {name: _mean_gap(expected, found) for name, found in answers.items()}
        worst = max(gaps, key=lambda name: gaps[name])
        if not gaps[worst] <= self._max_logprob_gap:  # nan is a difference too
            raise WeightsDiffer(
                f"{worst} differs from the policy by {gaps[worst]:.3g} nats per token after "
                f"version {version} was published (limit {self._max_logprob_gap:g}, "
                "weights.max_logprob_gap): its weights are not the policy's"
            )
        metrics = {
            "weights/version": float(version),
            "weights/bytes": float(num_bytes),
            "weights/logprob_gap": gaps[worst],
        }
        if self._merges and (lost := await self._policy.merge_lost()) is not None:
            metrics["weights/merge_lost"] = lost
        return metrics


def make_probe(
    prompts: Sequence[Prompt], vocabulary_size: int, num_tokens: int, seed: int
) -> list[Tokens]:
    """Eight prompts, each continued by seeded random tokens, so that many embeddings count."""
    rng = random.Random(derive_seed(seed, "probe"))
    return [
        Tokens(prompt.token_ids, tuple(rng.randrange(vocabulary_size) for _ in range(num_tokens)))
        for prompt in prompts[:8]
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
