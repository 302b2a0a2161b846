"""Weights from a policy rank to the rollout worker on the same GPU, by CUDA's shared memory.

vLLM has a transport for this too, whose handles are pickled and whose form differs between its
releases; here a handle is plain numbers and bytes. The rank copies weights into one buffer on the
GPU, the worker's engine reads them there, and the buffer is filled anew until all have passed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ray
import torch
from ray.actor import ActorHandle
from torch import Tensor

BUFFER_BYTES = 1 << 28
ALIGNMENT = 16


class SharedTensor(NamedTuple):
    """Where in the buffer a tensor lies."""

    name: str
    dtype: str
    shape: list[int]
    offset: int


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
        self._workers = workers
        self._timeout_s = timeout_s
        self._weights = weights
        sizes = [value.element_size() * value.numel() for _, value in shapes()]
        self._num_bytes = sum(sizes)
        # Never larger than needed: the GPU's memory is shared.
        everything = sum(_aligned(size) for size in sizes)
        self._buffer_bytes = max(min(BUFFER_BYTES, everything), *(_aligned(s) for s in sizes))

    def send(self, version: int) -> int:
        """Sends every weight; returns bytes."""
        buffer = torch.empty(self._buffer_bytes, dtype=torch.uint8, device="cuda")
        self._each("start")
        held: list[SharedTensor] = []
        end = 0
        for name, value in self._weights():
            value = value.detach().contiguous()
            raw = value.flatten().view(torch.uint8)
            if end + len(raw) > len(buffer):
                self._hand_over(buffer, held)
                held, end = [], 0
            buffer[end : end + len(raw)] = raw
            dtype = str(value.dtype).removeprefix("torch.")
            held.append(SharedTensor(name, dtype, list(value.shape), end))
            end += _aligned(len(raw))
        self._hand_over(buffer, held)
        self._each("finish", version)
        del buffer
        torch.cuda.ipc_collect()
        torch.cuda.empty_cache()
        return self._num_bytes

    def _hand_over(self, buffer: Tensor, held: Sequence[SharedTensor]) -> None:
        """Waits until every worker has read its own GPU's buffer."""
        handles = {_gpu(buffer.device): export(buffer)}
        if torch.distributed.get_world_size() > 1:
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, handles)
            handles = {gpu: handle for share in gathered for gpu, handle in share.items()}
        self._each("update", {"handles": handles, "tensors": [list(one) for one in held]})

    def _each(self, step: str, argument: Any = None) -> None:
        rank = torch.distributed.get_rank()
        if rank == 0:
            calls = [worker.weight_transfer.remote(step, argument) for worker in self._workers]
            ray.get(calls, timeout=self._timeout_s)
        torch.distributed.barrier()  # no rank may fill its buffer while a worker still reads it


def export(buffer: Tensor) -> list[Any]:
    """What another process needs to open the buffer's memory: numbers and bytes."""
    torch.cuda.synchronize(buffer.device)
    _, *handle = buffer.untyped_storage()._share_cuda_()
    return handle


def read(handles: dict[str, list[Any]], tensors: Sequence[Sequence[Any]], device: torch.device):
    """Copies of the tensors in this GPU's buffer, `(name, tensor)` each.

    Raises ValueError if none of the policy's ranks is on this GPU.
    """
    if (gpu := _gpu(device)) not in handles:
        raise ValueError(f"no policy rank is on GPU {gpu}, but on {', '.join(sorted(handles))}")
    storage = torch.UntypedStorage._new_shared_cuda(device.index, *handles[gpu])
    buffer = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
    found = []
    for name, dtype_name, shape, offset in tensors:
        dtype = getattr(torch, dtype_name)
        size = dtype.itemsize * torch.Size(shape).numel()
        # The engine may keep what it is given until a layer is complete, hence the copy.
        found.append((name, buffer[offset : offset + size].view(dtype).view(shape).clone()))
    torch.cuda.synchronize(device)
    return found


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _gpu(device: torch.device) -> str:
    """The GPU's own name, whatever number this process knows it by."""
    return str(torch.cuda.get_device_properties(device).uuid)
