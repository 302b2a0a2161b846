"""Starting Ray actors, calling many at once with a deadline, and asking them for items."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rlhf.dispatch import WorkerDied
from rlhf.problems import InputError, RunFailed


class WorkerFailed(RunFailed):
    """A worker raised an error of its own. Names worker, node and cause."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """What each worker of a role is given; plain values, from `cluster.placement`."""

    role: str
    count: int
    num_cpus: float
    num_gpus: float
    num_threads: int
    seats: Sequence[Any] = ()
    """A Ray scheduling strategy for each worker; without them, Ray chooses."""


@dataclass(slots=True)
class Worker:
    """One Ray actor and its name in messages."""

    name: str
    handle: ActorHandle
    node_id: str = field(default="unknown")

    async def call(self, requests: Sequence[Any]) -> AsyncIterator[list[tuple[int, Any]]]:
        """Serves the dispatcher: streams the actor's `serve(requests)`."""
        try:
            async for chunk in self.handle.serve.remote(requests):
                yield await chunk
        except (RayActorError, RayTaskError) as error:
            raise self.described(error) from error

    def described(self, error: RayActorError | RayTaskError) -> Exception:
        """What to raise instead: the worker's name, its node, and the cause."""
        where = f"{self.name} on node {self.node_id[:8]}"
        if isinstance(error, RayActorError):
            # Its last line is the cause, also of an actor that could not be created.
            return WorkerDied(f"{where}: {str(error).strip().splitlines()[-1].strip()}")
        if isinstance(error.cause, InputError):
            return error.cause
        return WorkerFailed(f"{where}: {type(error.cause).__name__}: {error.cause}\n{error}")


def start_workers(
    actor: type, allotment: Allotment, *arguments: Any, env: Mapping[str, str] | None = None
) -> list[Worker]:
    """Starts the role's actors; returns at once, before they are ready."""
    variables = {
        "OMP_NUM_THREADS": str(allotment.num_threads),
        # Workers take turns on the same cores: who waits should not keep one busy.
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        **(env or {}),
    }
    remote = ray.remote(actor)
    options = {
        "num_cpus": allotment.num_cpus,
        "num_gpus": allotment.num_gpus,
        # A restarted actor would come back with old weights; the driver decides what to do.
        "max_restarts": 0,
        "max_task_retries": 0,
        "runtime_env": {"env_vars": variables},
    }
    seats = allotment.seats or [None] * allotment.count
    return [
        Worker(
            f"{allotment.role}-{i}",
            remote.options(**options, scheduling_strategy=seat).remote(*arguments),
        )
        for i, seat in enumerate(seats)
    ]


async def call_all(
    workers: Sequence[Worker], method: str, *arguments: Any, timeout_s: float
) -> list[Any]:
    """The results of one method on every worker, in order; the first failure ends the wait.

    Raises WorkerDied if one is lost or silent, and WorkerFailed if one raises; both name it.
    """

    async def one(worker: Worker) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await getattr(worker.handle, method).remote(*arguments)
        except (RayActorError, RayTaskError) as error:
            raise worker.described(error) from error
        except (TimeoutError, GetTimeoutError) as error:
            cause = f"{worker.name} did not finish `{method}` within {timeout_s:g} s"
            raise WorkerDied(cause) from error

    return list(await asyncio.gather(*(one(worker) for worker in workers)))


async def wait_ready(workers: Sequence[Worker], timeout_s: float) -> None:
    """Waits until every worker can serve, and learns where each runs."""
    nodes = await call_all(workers, "ready", timeout_s=timeout_s)
    for worker, node_id in zip(workers, nodes, strict=True):
        worker.node_id = node_id


def stop_workers(workers: Sequence[Worker]) -> None:
    for worker in workers:
        ray.kill(worker.handle)
