"""What workers use, measured in real Ray actors."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.group import Worker
from actors.usage import GpuUse, UsageMeter, Use, measure, role_metrics

MIB = 2**20

# Workers do not have this file's folder on their path.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Plain:
    def __init__(self) -> None:
        self._kept: list = []

    def keep(self, num_bytes: int) -> None:
        self._kept.append(np.ones(num_bytes, dtype=np.uint8))

    def start_child(self, num_bytes: int) -> None:
        code = f"kept = b'1' * {num_bytes}; print(flush=True); input()"
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        child.stdout.readline()
        self._kept.append(child)


class Asynchronous(Plain):
    async def keep(self, num_bytes: int) -> None:
        super().keep(num_bytes)

    async def work(self, seconds: float) -> None:
        """As an engine does that computes on the event loop."""
        time.sleep(seconds)


class Publishing:
    """`rlhf.stages.Publisher` without workers."""

    async def publish(self, version: int) -> dict[str, float]:
        await asyncio.sleep(0.5)
        return {"weights/version": float(version)}


@pytest.fixture
def workers(ray_session) -> dict[str, list[Worker]]:
    started = {
        "policy": [Worker("policy-0", ray.remote(Plain).remote())],
        "rollout": [Worker(f"rollout-{i}", ray.remote(Asynchronous).remote()) for i in range(2)],
    }
    everybody = [worker for role in started.values() for worker in role]
    # The first call imports the module.
    ray.get([worker.handle.__ray_call__.remote(measure) for worker in everybody], timeout=60)
    return started


async def test_memory_is_that_of_a_role_s_workers_and_their_children(workers):
    meter = UsageMeter(Publishing(), workers, every_s=0)
    before = await meter.publish(0)
    assert before["weights/version"] == 0
    assert before.keys() == {
        "weights/version", "system/policy_memory_bytes", "system/rollout_memory_bytes"
    }  # fmt: skip
    await asyncio.gather(
        workers["policy"][0].handle.start_child.remote(200 * MIB),
        *(worker.handle.keep.remote(100 * MIB) for worker in workers["rollout"]),
    )
    after = await meter.publish(1)
    for role in workers:
        grown = after[f"system/{role}_memory_bytes"] - before[f"system/{role}_memory_bytes"]
        assert 195 * MIB < grown < 260 * MIB


async def test_between_measurements_there_are_the_last_values(workers):
    meter = UsageMeter(Publishing(), workers, every_s=3600)
    before = await meter.publish(0)
    await workers["rollout"][0].handle.keep.remote(100 * MIB)
    assert await meter.publish(1) == before | {"weights/version": 1}


async def test_a_busy_worker_delays_nobody_and_its_role_has_no_value(workers):
    meter = UsageMeter(Publishing(), workers, every_s=0)
    busy = workers["rollout"][0].handle.work.remote(6.0)
    await asyncio.sleep(0.2)
    start = time.perf_counter()
    metrics = [await meter.publish(version) for version in (1, 2)]
    assert time.perf_counter() - start < 3.0
    for found in metrics:
        assert found.keys() == {"weights/version", "system/policy_memory_bytes"}
    await busy
    assert "system/rollout_memory_bytes" in await meter.publish(3)


async def test_a_lost_worker_counts_no_more(workers):
    meter = UsageMeter(Publishing(), workers, every_s=0)
    before = (await meter.publish(1))["system/rollout_memory_bytes"]
    ray.kill(workers["rollout"][0].handle)
    deadline = time.monotonic() + 30
    while (after := await meter.publish(2)).get("system/rollout_memory_bytes", before) >= before:
        assert time.monotonic() < deadline
    assert after["system/rollout_memory_bytes"] == pytest.approx(before / 2, rel=0.2)
    ray.kill(workers["policy"][0].handle)
    while "system/policy_memory_bytes" in await meter.publish(3):
        assert time.monotonic() < deadline


def test_each_gpu_counts_once():
    """Two workers share the first GPU; the second cannot tell how busy it is."""
    first, second = GpuUse("a", 10, 0.5), GpuUse("b", 5, None)
    uses = [Use(100, (first,)), Use(50, (first, second))]
    assert role_metrics("rollout", uses) == {
        "system/rollout_memory_bytes": 150,
        "system/rollout_gpu_memory_bytes": 15,
        "system/rollout_gpu_utilization": 0.5,
    }
    assert role_metrics("rollout", []) == {}


DRIVER = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Rates;
static int gpus[2] = {0, 1};
static int looks = 0;
int nvmlInitWithFlags(unsigned int flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **gpu) { *gpu = &gpus[i]; return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **gpu) {
    *gpu = &gpus[uuid[4] - '0']; return 0;
}
int nvmlDeviceGetUUID(void *gpu, char *uuid, unsigned int length) {
    strcpy(uuid, "GPU-0"); uuid[4] += *(int *)gpu; return 0;
}
int nvmlDeviceGetMemoryInfo(void *gpu, Memory *memory) {
    memory->total = 80; memory->free = 80; memory->used = 7 + *(int *)gpu; return 0;
}
int nvmlDeviceGetUtilizationRates(void *gpu, Rates *rates) {
    if (*(int *)gpu == 1) return 3;  /* not supported */
    rates->gpu = looks++ ? 90 : 30; return 0;
}
"""
"""A driver with two GPUs; the second does not tell how busy it is, as parts of GPUs do not."""

ASK = """
import sys, time
import actors.usage as usage
usage.SAMPLE_S = 0.01
by_index, by_uuid = usage._watch_gpus(("0", "GPU-1"))
deadline = time.monotonic() + 30
first = by_index.read()
while (later := by_index.read()).utilization != 0.9:
    assert time.monotonic() < deadline
    time.sleep(0.05)
assert (later.uuid, later.memory_bytes) == ("GPU-0", 7), later
assert tuple(by_uuid.read()) == ("GPU-1", 8, None)
"""


def test_gpus_are_read_through_nvidia_s_library(tmp_path):
    """Against a driver of ours, for machines without a GPU; the library in between is real."""
    source = tmp_path / "driver.c"
    source.write_text(DRIVER)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    subprocess.run(
        [sys.executable, "-c", ASK],
        env={"LD_LIBRARY_PATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=60,
    )


def test_a_measurement_is_cheap(workers):
    """In computing, beside a round of the demo, which takes 0.3 s."""

    def ten_times(actor: object) -> float:
        measure(actor)
        before = time.thread_time()
        for _ in range(10):
            measure(actor)
        return time.thread_time() - before

    handle = workers["policy"][0].handle
    assert ray.get(handle.__ray_call__.remote(ten_times)) < 0.3
