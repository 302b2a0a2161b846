"""Starting Ray actors, calling many at once with a deadline, and asking them for items."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from actors.deaths import is_death
from rlhf import imports
from rlhf.collecting.dispatch import WorkerDied
from rlhf.problems import InputError, RunFailed, one_line
from rlhf.records.pickling import Pickled
from rlhf.storage.disk import DiskFailed

UNKNOWN = "unknown"
"""The node of a worker that has not said where it is."""
BEAT = "beat"
"""The concurrency group of what is asked apart from all work."""
_ADDRESS = re.compile(r"\bip[:=] ?([^\s,)]+)")
_COLOUR = re.compile(r"\x1b\[\d*m")
_FAILED_START = re.compile(r"^\S*\bCannotStart: (\{.*\})$", re.MULTILINE)


class WorkerFailed(RunFailed):
    """A worker raised an error of its own. Names worker, node and cause."""


class WorkerRaised(WorkerFailed):
    """It raised one that nobody foresaw, which in another process may not happen again."""


class GivenLost(RunFailed):
    """What a worker was to read is gone, with the process or the node that held it."""


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
    memory_bytes: float = 0.0
    """Of its node, which is reserved with its seat."""

    @property
    def needs(self) -> dict[str, float]:
        """One worker's share of a node, by Ray's names."""
        found = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory_bytes}
        return {name: need for name, need in found.items() if need}


class Keeper(Protocol):
    """Brings the lost workers of a role back; `actors.supervision.Supervisor` is such."""

    def bring_back(self, worker: "Worker") -> None:
        """Begins to; the worker's `cause` says what it died of."""
        ...

    async def watch(self, worker: "Worker", done: asyncio.Event) -> None:
        """Until it is done, finds out when the worker is silent."""
        ...

    async def is_back(self, worker: "Worker") -> None:
        """Waits until it can be asked again; raises WorkerDied if it never will."""
        ...

    def has_answered(self, worker: "Worker") -> None:
        """It has done what it was asked."""
        ...

    @property
    def start_timeout_s(self) -> float:
        """Longest wait for a worker to be ready."""
        ...


@dataclass(slots=True, eq=False)
class Worker:
    """One place for a Ray actor, its name in messages, and the actor that has the place now."""

    name: str
    handle: ActorHandle
    again: Callable[[Sequence[str] | None], ActorHandle] | None = None
    """Starts another actor like the first: on its seat, or wherever there is room but on these
    nodes."""
    node_id: str = field(default=UNKNOWN)
    home: str = field(default=UNKNOWN)
    """The node of its seat, where its first actor ran."""
    keeper: Keeper | None = None
    """Without one, a worker that is lost stays so."""
    makes_room: Callable[[], None] | None = None
    """Called before it starts elsewhere, since the node of its seat is gone."""
    cause: str | None = None
    """Why the actor is lost, while it is."""
    details: str = ""
    """Of that cause: the actor's traceback, if it has raised an error."""
    is_given_up: bool = False

    async def call(self, requests: Sequence[Any]) -> AsyncIterator[list[tuple[int, Any]]]:
        """Serves the dispatcher: streams the actor's `serve(requests)`."""
        handle = self.handle
        try:
            async for chunk in handle.serve.remote(Pickled(requests)):
                yield await chunk
        except RayError as error:
            raise self.failed(error, handle) from error
        self._has_answered()

    async def ask(self, method: str, *arguments: Any) -> Any:
        """What one method of the actor returns."""
        handle = self.handle
        try:
            answer = await getattr(handle, method).remote(*arguments)
        except GetTimeoutError:
            raise
        except RayError as error:
            raise self.failed(error, handle) from error
        self._has_answered()
        return answer

    def runs_on(self, node_id: str) -> None:
        self.node_id = node_id
        if self.home == UNKNOWN:
            self.home = node_id

    async def beat(self) -> None:
        """Returns if the actor's process lives; raises WorkerDied if it does not."""
        handle = self.handle
        try:
            await handle.beat.remote()
        except RayError as error:
            raise self.failed(error, handle) from error

    def _has_answered(self) -> None:
        if self.keeper is not None and self.cause is None:
            self.keeper.has_answered(self)

    @property
    def comes_back(self) -> bool:
        """Whether somebody sees to it that the place is taken again."""
        return self.keeper is not None and not self.is_given_up

    async def is_back(self) -> None:
        """Waits until it can be asked again; raises WorkerDied if it never will."""
        keeper = self.keeper
        assert keeper is not None  # or nobody would wait
        while True:
            if self.cause is not None:
                await keeper.is_back(self)
            handle = self.handle
            try:  # it may have been slow, and have other things to do still
                async with asyncio.timeout(keeper.start_timeout_s):
                    await handle.ready.remote()
            except TimeoutError:  # by then, another would have been
                limit = f"{keeper.start_timeout_s:g} s (cluster.start_timeout_s)"
                self.lose(handle, f"{self.name} lives, and was not ready again within {limit}")
            except RayError as error:
                if not isinstance(told := self.failed(error, handle), WorkerDied):
                    raise told from error
            else:
                return

    def failed(self, error: RayError, handle: ActorHandle) -> Exception:
        """What to raise instead of an error of that actor; its death is known from then on. Where
        another takes its place, an error that nobody foresaw is one."""
        told = self.described(error)
        if isinstance(told, WorkerRaised) and self.keeper is not None:
            told = WorkerDied(str(told), details=told.details)
        if isinstance(told, WorkerDied):
            self.lose(handle, str(told), told.details)
        return told

    def lose(self, handle: ActorHandle, cause: str, details: str = "") -> None:
        """That actor is of no more use, unless another has its place already."""
        if handle is self.handle and self.cause is None:
            self.cause, self.details = cause, details
            if self.keeper is not None:
                self.keeper.bring_back(self)

    def described(self, error: RayError) -> Exception:
        """What to raise instead: the worker's name, its node, and the cause."""
        cause = error.cause if isinstance(error, RayTaskError) else None
        if isinstance(error, RayActorError) and cause is None:
            return self._lost(str(error))
        if isinstance(cause, InputError):
            return cause
        if isinstance(cause, DiskFailed):
            return DiskFailed(f"{self.name} on node {self.node_id[:8]}: {cause}")
        # Of an error that cannot be sent, there is the text alone.
        told = one_line(cause) if cause else str(error).strip().splitlines()[-1].strip()
        where = f"{self.name} on node {self.node_id[:8]}"
        if is_death(error):
            return WorkerDied(f"{where}: {told}", details=_traceback(error) if cause else "")
        if isinstance(cause, ObjectLostError):
            return GivenLost(f"{where}: what it was given is lost: {told}")
        kind = WorkerFailed if isinstance(cause, RunFailed) else WorkerRaised
        return kind(f"{where}: {told}", details=_traceback(error))

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


def _traceback(error: RayError) -> str:
    """The worker's own, which Ray colours."""
    return _COLOUR.sub("", str(error))


class CannotStart(Exception):
    """A worker's constructor failed; where and why, as JSON in one line.

    Of an actor that could not be created, Ray hands over the text of the error and nothing else.
    """


def telling(actor: type) -> type:
    """The same actor, whose constructor says in one line where and why it failed, and which says
    that it lives from a thread of its own."""

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

        @ray.method(concurrency_group=BEAT)
        def beat(self) -> None:
            """Says that the process lives, whatever else it does."""

    Telling.__name__ = Telling.__qualname__ = actor.__name__
    return Telling


def start_workers(
    actor: type,
    allotment: Allotment,
    *arguments: Any,
    env: Mapping[str, str] | None = None,
    first: int = 0,
) -> list[Worker]:
    """Starts the role's actors, which are numbered from `first`; returns at once, before they are
    ready."""
    variables = {
        "OMP_NUM_THREADS": str(allotment.num_threads),
        **imports.WORKER_ENV,
        imports.STARTING: "1",
        **(env or {}),
    }
    options = {
        "num_cpus": allotment.num_cpus,
        "num_gpus": allotment.num_gpus,
        # A restarted actor would come back with old weights; the driver decides what to do.
        "max_restarts": 0,
        "max_task_retries": 0,
        "runtime_env": {"env_vars": variables},
    }
    remote = ray.remote(concurrency_groups={BEAT: 1})(telling(actor))
    workers = []
    for i, seat in enumerate(allotment.seats or [None] * allotment.count):
        again = partial(_start, remote, options, seat, arguments)
        workers.append(Worker(f"{allotment.role}-{first + i}", again(None), again))
    return workers


def _start(
    remote: Any,
    options: Mapping[str, Any],
    seat: Any,
    arguments: Sequence[Any],
    but_on: Sequence[str] | None,
) -> ActorHandle:
    placed: dict[str, Any] = {"scheduling_strategy": seat if but_on is None else "SPREAD"}
    if but_on:
        placed["label_selector"] = {"ray.io/node-id": f"!in({','.join(but_on)})"}
    return remote.options(**options, **placed).remote(*arguments)


async def call_all(
    workers: Sequence[Worker], method: str, *arguments: Any, timeout_s: float
) -> list[Any]:
    """The results of one method on every worker, in order; the first failure ends the wait.

    Raises WorkerDied if one is lost or silent, and WorkerFailed if one raises; both name it.
    """

    async def one(worker: Worker) -> Any:
        handle = worker.handle
        try:
            async with asyncio.timeout(timeout_s):
                return await worker.ask(method, *arguments)
        except (TimeoutError, GetTimeoutError) as error:
            cause = f"{worker.name} did not finish `{method}` within {timeout_s:g} s"
            worker.lose(handle, cause)
            raise WorkerDied(cause) from error

    return list(await asyncio.gather(*(one(worker) for worker in workers)))


async def wait_ready(workers: Sequence[Worker], timeout_s: float) -> None:
    """Waits until every worker can serve, and learns where each runs."""
    nodes = await call_all(workers, "ready", timeout_s=timeout_s)
    for worker, node_id in zip(workers, nodes, strict=True):
        worker.runs_on(node_id)


def stop_workers(workers: Sequence[Worker]) -> None:
    for worker in workers:
        ray.kill(worker.handle)
