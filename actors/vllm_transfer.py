"""The policy's end of vLLM's own weight transport between GPUs, NCCL (vLLM 0.32 and newer)."""

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from actors.weight_sync import TransferSetup


class PolicyWeights(WeightSource):
    """The policy's weights as vLLM wants them: announced first, then gathered one at a time."""

    def __init__(
        self,
        shapes: Callable[[], Iterator[tuple[str, Tensor]]],
        weights: Callable[[], Iterator[tuple[str, Tensor]]],
    ) -> None:
        self._shapes = shapes
        self._weights = weights

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, value.dtype, tuple(value.shape)) for name, value in self._shapes()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._weights()


class RolloutWorkers:
    """vLLM's control plane over Ray: every step on every rollout worker, with a deadline."""

    def __init__(self, setup: TransferSetup) -> None:
        self._setup = setup
        self.version = 0

    def _each(self, step: str, arguments: Sequence[Any]) -> None:
        calls = [
            worker.weight_transfer.remote(step, argument)
            for worker, argument in zip(self._setup.rollout_workers, arguments, strict=True)
        ]
        ray.get(calls, timeout=self._setup.timeout_s)

    def _all(self, step: str, argument: Any = None) -> None:
        self._each(step, [argument] * len(self._setup.rollout_workers))

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = [dict(init_info) for _ in self._setup.rollout_workers]
        if "rank_offset" in init_info:  # each worker's GPUs follow those of the one before
            for i, info in enumerate(infos):
                info["rank_offset"] += i * self._setup.gpus_per_worker
        self._each("init", infos)

    def start_weight_update(self) -> None:
        self._all("start")

    def update_weights(self, update_info: Any) -> None:
        self._all("update", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._all("finish", self.version)


class WeightSender:
    """One policy rank's part in sending; every rank takes part, rank 0 transmits."""

    def __init__(self, setup: TransferSetup, rank: int, source: PolicyWeights) -> None:
        self._client = RolloutWorkers(setup)
        self._num_bytes = sum(
            meta.dtype.itemsize * _numel(meta.shape) for meta in source.metadata()
        )
        self._engine = WeightTransferTrainerFactory.trainer_init(
            _init_info(setup, rank), client=self._client, source=source
        )

    def send(self, version: int) -> int:
        """Sends every weight; returns bytes."""
        self._client.version = version
        self._engine.send_weights()
        return self._num_bytes


def _init_info(setup: TransferSetup, rank: int) -> NCCLTrainerInitInfo:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return NCCLTrainerInitInfo(
        master_address=ray.util.get_node_ip_address(),
        master_port=port,
        world_size=1 + len(setup.rollout_workers) * setup.gpus_per_worker,
        rank=rank,
    )


def _numel(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
