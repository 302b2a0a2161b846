"""What the workers of each role use of their machines, measured in the workers' own processes."""

import asyncio
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import psutil
import pynvml
import ray
from ray.exceptions import RayError

from actors.group import Worker
from rlhf.stages import Metrics, Publisher

GRACE_S = 0.1
"""How long a round waits for answers once its weights are published."""
EVERY_S = 5.0
"""Between two measurements, each of which looks at every process of a node: rounds in between have
the last one's values."""
SAMPLE_S = 1.0
"""Between looks at a GPU: its driver's own reading covers up to a second."""


class GpuUse(NamedTuple):
    """What happens on one GPU, whoever does it."""

    uuid: str
    memory_bytes: int
    utilization: float | None
    """Share of the time since the last measurement; None where the driver does not tell."""


class Use(NamedTuple):
    """What one worker holds at this moment."""

    memory_bytes: int
    """Resident, of its process and all below it; pages that they share count in each."""
    gpus: tuple[GpuUse, ...]


class UsageMeter:
    """`rlhf.stages.Publisher`: publishes, and meanwhile asks the workers what they use.

    Its cost is hidden behind the publishing, but for `GRACE_S` at most. A worker that is too busy
    to answer is not asked again before it has; until then its role has no value.
    """

    def __init__(
        self,
        publisher: Publisher,
        workers: Mapping[str, Sequence[Worker]],
        every_s: float = EVERY_S,
    ) -> None:
        """`workers` by role."""
        self._publisher = publisher
        self._workers = workers
        self._every_s, self._due_s = every_s, 0.0
        self._asked: dict[str, asyncio.Task[Use | None]] = {}
        self._measured: Metrics = {}

    async def publish(self, version: int) -> Metrics:
        if (now_s := time.monotonic()) < self._due_s:
            return await self._publisher.publish(version) | self._measured
        self._due_s = now_s + self._every_s
        for worker in (worker for role in self._workers.values() for worker in role):
            if worker.name not in self._asked:
                self._asked[worker.name] = asyncio.create_task(_ask(worker))
        metrics = dict(await self._publisher.publish(version))
        if self._asked:
            await asyncio.wait(self._asked.values(), timeout=GRACE_S)
        answered = {name: task.result() for name, task in self._asked.items() if task.done()}
        for name in answered:
            del self._asked[name]
        self._measured = {}
        for role, workers in self._workers.items():
            if all(worker.name in answered for worker in workers):
                uses = [use for worker in workers if (use := answered[worker.name]) is not None]
                self._measured |= role_metrics(role, uses)
        return metrics | self._measured


def role_metrics(role: str, uses: Sequence[Use]) -> Metrics:
    """Sums over the role's workers, and over its GPUs, each once; utilization is their mean."""
    if not uses:
        return {}
    metrics = {f"system/{role}_memory_bytes": float(sum(use.memory_bytes for use in uses))}
    gpus = {gpu.uuid: gpu for use in uses for gpu in use.gpus}.values()
    if gpus:
        metrics[f"system/{role}_gpu_memory_bytes"] = float(sum(gpu.memory_bytes for gpu in gpus))
    shares = [gpu.utilization for gpu in gpus if gpu.utilization is not None]
    if shares:
        metrics[f"system/{role}_gpu_utilization"] = statistics.fmean(shares)
    return metrics


async def _ask(worker: Worker) -> Use | None:
    try:
        return await worker.handle.__ray_call__.remote(measure)
    except RayError:  # who needs the worker will say what is wrong with it
        return None


# --- in the worker's process ---------------------------------------------------------------------


def measure(actor: Any) -> Use:
    """What the process that this runs in, and those that it started, use now."""
    process, memory_bytes = psutil.Process(), 0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            memory_bytes += one.memory_info().rss
    try:
        watches = _watch_gpus(tuple(ray.get_runtime_context().get_accelerator_ids()["GPU"]))
        return Use(memory_bytes, tuple(watch.read() for watch in watches))
    except pynvml.NVMLError:  # the driver does not tell, which is no reason to tell nothing
        return Use(memory_bytes, ())


@cache
def _watch_gpus(ids: tuple[str, ...]) -> "tuple[GpuWatch, ...]":
    if not ids:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:  # no driver of NVIDIA's, so GPUs of another maker
        return ()
    return tuple(GpuWatch(id) for id in ids)


class GpuWatch:
    """Looks at one GPU from a thread, since a moment between two stages says little of a round."""

    def __init__(self, id: str) -> None:
        """`id`: as in `CUDA_VISIBLE_DEVICES`, an index or a UUID."""
        by_index = pynvml.nvmlDeviceGetHandleByIndex
        self._gpu = by_index(int(id)) if id.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(id)
        self._seen: list[float] = []
        threading.Thread(target=self._look_on, daemon=True, name=f"gpu-{id}").start()

    def read(self) -> GpuUse:
        seen, self._seen = self._seen or self._look(), []
        memory_bytes = pynvml.nvmlDeviceGetMemoryInfo(self._gpu).used
        utilization = statistics.fmean(seen) if seen else None
        return GpuUse(pynvml.nvmlDeviceGetUUID(self._gpu), memory_bytes, utilization)

    def _look(self) -> list[float]:
        try:
            return [pynvml.nvmlDeviceGetUtilizationRates(self._gpu).gpu / 100]
        except pynvml.NVMLError_NotSupported:  # such as a part of a GPU (MIG)
            return []

    def _look_on(self) -> None:
        while True:
            self._seen.extend(self._look())
            time.sleep(SAMPLE_S)
