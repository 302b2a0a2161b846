"""Rollout workers beyond those that a run begins with: they come where there is room, and leave
with their nodes.

Who comes starts apart from the run. The next publish brings it the weights, proves that they
arrived, and from then on it is asked like the others, and comes back like them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import ray

from actors.group import Worker, wait_ready
from actors.rollout import RolloutService
from actors.supervision import Supervisor, pause
from cluster import room
from rlhf.problems import InputError, RunFailed, one_line
from rlhf.stages import Metrics, Publisher
from rlhf.watching.metrics import NUM_ROLLOUT_WORKERS


@dataclass(frozen=True, slots=True)
class Rules:
    """How many rollout workers there may be, and how one more begins."""

    least: int
    """So many come back wherever there is room; who is above that leaves with its node."""
    most: int
    needs: Mapping[str, float]
    """One worker's share of a node, by Ray's names."""
    start: Callable[[str, int], Worker]
    """On the node of that id, with that number in its name."""
    prepare: Callable[[Worker], Awaitable[object]]
    """Brings who is ready whatever a publish does not."""
    timeout_s: float
    """Longest wait until one is ready."""


class ElasticWorkers:
    """Of one run; `workers` are all of its rollout workers, and stay so as they come and go."""

    def __init__(
        self,
        rollout: RolloutService,
        workers: list[Worker],
        rules: Rules,
        tell: Callable[[str], None],
    ) -> None:
        self._rollout = rollout
        self._workers = workers
        self._rules = rules
        self._tell = tell
        self._roles: Mapping[str, Sequence[Worker]] = {}
        self._supervisor: Supervisor | None = None
        self._number = len(workers)
        self._refused: set[str] = set()
        """Nodes on which one could not start."""
        self._coming: list[Worker] = []
        self._ready: list[Worker] = []
        self._joined: list[Worker] = []
        """Of the workers, those that came later."""
        self._unasked: list[Worker] = []
        """Of these, those that have yet to get the weights."""
        self._watching: asyncio.TaskGroup | None = None
        self._done = asyncio.Event()

    def keep_with(self, roles: Mapping[str, Sequence[Worker]], supervisor: Supervisor) -> None:
        """Whoever of another role loses its node may have the room of one of these."""
        self._roles, self._supervisor = roles, supervisor
        for role, workers in roles.items():
            for worker in workers:
                if role != "rollout":
                    worker.makes_room = self.make_room

    # --- coming --------------------------------------------------------------------------------

    async def watch(self, done: asyncio.Event) -> None:
        """Until it is done, looks for room, and watches those who join meanwhile."""
        self._done = done
        async with asyncio.TaskGroup() as self._watching:
            while not done.is_set():
                await self._look()
                await pause(done, self._rules.timeout_s)

    def _watch(self, worker: Worker) -> None:
        assert self._watching is not None and worker.keeper is not None
        self._watching.create_task(worker.keeper.watch(worker, self._done))

    async def _look(self) -> None:
        kept = [one for one in self._workers if not one.is_given_up]
        missing = self._rules.most - len(kept) - len(self._ready)
        every = [one for own in self._roles.values() for one in own]
        lost = [one for one in every if one.cause is not None and not one.is_given_up]
        if missing <= 0 or lost:  # who is lost may need the room
            return
        nodes = await asyncio.to_thread(room.with_room, self._rules.needs, missing)
        nodes = [node for node in nodes if node not in self._refused]
        begun = {self._rules.start(node, self._number + i): node for i, node in enumerate(nodes)}
        self._number += len(begun)
        self._coming = list(begun)
        bringing = asyncio.gather(*(self._bring(one, node) for one, node in begun.items()))
        ending = asyncio.ensure_future(self._done.wait())
        try:
            await asyncio.wait((bringing, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            bringing.cancel()
            for worker in self._coming:
                ray.kill(worker.handle)
            self._coming = []

    async def _bring(self, worker: Worker, node_id: str) -> None:
        try:
            await wait_ready([worker], self._rules.timeout_s)
            await self._rules.prepare(worker)
        except (RunFailed, InputError) as error:
            if not worker.is_given_up:
                self._refused.add(node_id)
                told = one_line(error) if isinstance(error, InputError) else str(error)
                self._tell(f"warning: {told}; no more rollout workers start on that node")
        else:
            self._coming.remove(worker)
            self._ready.append(worker)

    def join(self) -> None:
        """Who is ready counts among the workers from now on, and gets what is published."""
        for worker in self._ready:
            worker.keeper = self._supervisor
            self._workers.append(worker)
            self._joined.append(worker)
            self._unasked.append(worker)
            self._rollout.join(worker)
            self._watch(worker)
        self._ready = []

    def ask(self) -> int:
        """Who has joined is asked from now on; returns how many workers are."""
        for worker in self._unasked:
            self._rollout.ask(worker)
            self._tell(f"{worker.name} on node {worker.node_id[:8]}: is asked from now on")
        self._unasked = []
        return len(self._living())

    # --- leaving -------------------------------------------------------------------------------

    def lets_go(self, worker: Worker) -> bool:
        """Whether a lost worker leaves: with its node, and while there are enough others."""
        num_left = len(self._living())
        if num_left < self._rules.least or room.is_there(worker.node_id):
            return False
        self._leave(worker)
        self._tell(f"{worker.cause}; it leaves, and {num_left} rollout workers go on")
        return True

    def make_room(self) -> None:
        """The last who came ends, if there is one and it is not the last that lives."""
        spare = [*self._coming, *self._ready]
        if len(self._living()) > 1:
            spare = [one for one in self._joined if one.cause is None] + spare
        if spare:
            worker = spare[-1]
            worker.cause = f"{worker.name} on node {worker.node_id[:8]}: makes room"
            self._leave(worker)
            self._tell(f"{worker.cause} for one whose node is gone")

    def _leave(self, worker: Worker) -> None:
        worker.is_given_up = True
        ray.kill(worker.handle)
        for place in (self._workers, self._joined, self._unasked, self._ready):
            if worker in place:
                place.remove(worker)

    def _living(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.cause is None]


@dataclass(frozen=True, slots=True)
class ElasticPublisher:
    """`rlhf.stages.Publisher` at whose publishes they join."""

    publisher: Publisher
    elastic: ElasticWorkers

    async def publish(self, version: int) -> Metrics:
        self.elastic.join()
        metrics = await self.publisher.publish(version)
        return metrics | {NUM_ROLLOUT_WORKERS: float(self.elastic.ask())}
