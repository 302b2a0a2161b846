"""Weights from a policy rank to the rollout worker on the same GPU, by CUDA's shared memory.

vLLM has a transport for this too, whose handles are pickled and whose form differs between its
releases; here a handle is plain numbers and bytes. The rank copies weights into one buffer on the
GPU, the worker's engine reads them there, and the buffer is filled anew until all have passed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError
from torch import Tensor

from actors.buckets import Place, aligned, fill, num_bytes, views
from actors.deaths import is_death

BUFFER_BYTES = 1 << 28


class CudaIpcSender:
    """One policy rank's part in sending; every rank takes part, rank 0 speaks with the workers."""

    def __init__(
        self,
        workers: Sequence[ActorHandle],
        timeout_s: float,
        weights: Callable[[], Iterator[tuple[str, Tensor]]],
        shapes: Callable[[], Iterator[tuple[str, Tensor]]],
    ) -> None:
        """`shapes`: what `weights` will yield, as meta tensors."""
        self._workers = list(workers)
        self._timeout_s = timeout_s
        self._weights = weights
        sizes = [num_bytes(value) for _, value in shapes()]
        self._num_bytes = sum(sizes)
        # Never larger than needed: the GPU's memory is shared.
        everything = sum(aligned(size) for size in sizes)
        self._buffer_bytes = max(min(BUFFER_BYTES, everything), *(aligned(s) for s in sizes))

    def send(self, version: int) -> int:
        """Sends every weight; returns bytes. Who dies on the way is left out from then on."""
        buffer = torch.empty(self._buffer_bytes, dtype=torch.uint8, device="cuda")
        self._each("start")
        for places, _ in fill(self._weights(), buffer):
            self._hand_over(buffer, places)
        self._each("finish", version)
        del buffer
        torch.cuda.ipc_collect()
        torch.cuda.empty_cache()
        return self._num_bytes

    def _hand_over(self, buffer: Tensor, places: Sequence[Place]) -> None:
        """Waits until every worker has read its own GPU's buffer."""
        handles = {_gpu(buffer.device): export(buffer)}
        if torch.distributed.get_world_size() > 1:
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, handles)
            handles = {gpu: handle for share in gathered for gpu, handle in share.items()}
        self._each("update", {"handles": handles, "places": [list(one) for one in places]})

    def _each(self, step: str, argument: Any = None) -> None:
        rank = torch.distributed.get_rank()
        if rank == 0:
            deadline = time.monotonic() + self._timeout_s
            calls = [worker.weight_transfer.remote(step, argument) for worker in self._workers]
            for worker, call in zip(tuple(self._workers), calls, strict=True):
                try:
                    ray.get(call, timeout=max(0.0, deadline - time.monotonic()))
                except RayError as error:
                    if not is_death(error):
                        raise
                    self._workers.remove(worker)
        torch.distributed.barrier()  # no rank may fill its buffer while a worker still reads it


def export(buffer: Tensor) -> list[Any]:
    """What another process needs to open the buffer's memory: numbers and bytes."""
    torch.cuda.synchronize(buffer.device)
    _, *handle = buffer.untyped_storage()._share_cuda_()
    return handle


def read(handles: dict[str, list[Any]], places: Sequence[Sequence[Any]], device: torch.device):
    """Copies of the tensors in this GPU's buffer, `(name, tensor)` each.

    Raises ValueError if none of the policy's ranks is on this GPU.
    """
    if (gpu := _gpu(device)) not in handles:
        raise ValueError(f"no policy rank is on GPU {gpu}, but on {', '.join(sorted(handles))}")
    storage = torch.UntypedStorage._new_shared_cuda(device.index, *handles[gpu])
    buffer = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
    # The engine may keep what it is given until a layer is complete, hence the copies.
    found = [(name, value.clone()) for name, value in views(places, buffer)]
    torch.cuda.synchronize(device)
    return found


def _gpu(device: torch.device) -> str:
    """The GPU's own name, whatever number this process knows it by."""
    return str(torch.cuda.get_device_properties(device).uuid)
