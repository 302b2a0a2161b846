"""Starting Ray actors, calling many at once with a deadline, and asking them for items."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    GetTimeoutError,
    RayActorError,
    RayError,
    RayTaskError,
    UnserializableException,
)

from rlhf import imports
from rlhf.collecting.dispatch import WorkerDied
from rlhf.problems import InputError, RunFailed, one_line

UNKNOWN = "unknown"
"""The node of a worker that has not said where it is."""
_ADDRESS = re.compile(r"\bip[:=] ?([^\s,)]+)")
_FAILED_START = re.compile(r"^\S*\bCannotStart: (\{.*\})$", re.MULTILINE)


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
    node_id: str = field(default=UNKNOWN)

    async def call(self, requests: Sequence[Any]) -> AsyncIterator[list[tuple[int, Any]]]:
        """Serves the dispatcher: streams the actor's `serve(requests)`."""
        try:
            async for chunk in self.handle.serve.remote(requests):
                yield await chunk
        except (RayActorError, RayTaskError, UnserializableException) as error:
            raise self.described(error) from error

    def described(self, error: RayError) -> Exception:
        """What to raise instead: the worker's name, its node, and the cause."""
        if isinstance(error, RayActorError):
            return self._lost(str(error))
        cause = getattr(error, "cause", None)
        if isinstance(cause, InputError):
            return cause
        # Of an error that cannot be sent, there is the text alone.
        told = one_line(cause) if cause else str(error).strip().splitlines()[-1].strip()
        return WorkerFailed(f"{self.name} on node {self.node_id[:8]}: {told}\n{error}")

    def _lost(self, text: str) -> Exception:
        """By what Ray says of the actor."""
        if told := _FAILED_START.findall(text):
            failed = json.loads(told[-1])
            if failed["problems"]:
                return InputError(failed["problems"])
            return WorkerDied(f"{self.name} on node {failed['node'][:8]}: {failed['cause']}")
        # Below the cause, Ray may say once more that an actor whose constructor died never ran.
        lines = [line.strip() for line in text.splitlines() if "actor never ran" not in line]
        address = _ADDRESS.search(text) if self.node_id == UNKNOWN else None
        node = address[1] if address else self.node_id[:8]
        return WorkerDied(f"{self.name} on node {node}: {next(filter(None, reversed(lines)))}")


class CannotStart(Exception):
    """A worker's constructor failed; where and why, as JSON in one line.

    Of an actor that could not be created, Ray hands over the text of the error and nothing else.
    """


def telling(actor: type) -> type:
    """The same actor, whose constructor says in one line where and why it failed."""

    class Telling(actor):
        def __init__(self, *arguments: Any) -> None:
            imports.end()  # begun in `actors`, which Ray imported to find this class
            try:
                super().__init__(*arguments)
            except Exception as error:  # whatever it is, it goes on, in other words
                told = {
                    "node": ray.get_runtime_context().get_node_id(),
                    "cause": one_line(error),
                    "problems": error.problems if isinstance(error, InputError) else None,
                }
                raise CannotStart(json.dumps(told)) from error

    Telling.__name__ = Telling.__qualname__ = actor.__name__
    return Telling


def start_workers(
    actor: type, allotment: Allotment, *arguments: Any, env: Mapping[str, str] | None = None
) -> list[Worker]:
    """Starts the role's actors; returns at once, before they are ready."""
    variables = {
        "OMP_NUM_THREADS": str(allotment.num_threads),
        **imports.WORKER_ENV,
        imports.STARTING: "1",
        **(env or {}),
    }
    remote = ray.remote(telling(actor))
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
        except (RayActorError, RayTaskError, UnserializableException) as error:
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
