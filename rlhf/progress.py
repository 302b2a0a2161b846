"""How far a run has come, and what is kept of it however it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from rlhf.collecting.turns import let_go
from rlhf.problems import PolicyBroken, PolicyLost, RunFailed, Stopped
from rlhf.records import Collected
from rlhf.stages import Checkpoints, Metrics, Store, Tracker
from rlhf.storage.disk import DiskFailed
from rlhf.storage.threads import in_thread
from rlhf.watching.metrics import collection_metrics


@dataclass(slots=True)
class Progress:
    """How far a run has come."""

    done: int
    """Rounds trained on, whose preferences are stored."""
    between: bool = True
    """No round is half trained, so that the policy may be kept."""
    tell: Callable[[], None] | None = None
    """Logs the last round, which is trained on and not published yet."""

    def begin(self) -> None:
        """The policy is about to be changed."""
        self.between = False

    def end(self, done: int, tell: Callable[[], None]) -> None:
        self.done, self.between, self.tell = done, True, tell

    def told(self) -> None:
        self.tell = None


@dataclass(frozen=True, slots=True)
class Noted:
    """A round that the store has only to keep."""

    metrics: Metrics
    """Of what was collected."""
    _keep: Callable[[], None]

    def kept(self) -> Metrics:
        """Keeps it in the store; returns its metrics."""
        self._keep()
        return self.metrics


async def noted(store: Store, tracker: Tracker, round: int, collected: list[Collected]) -> Noted:
    """What was collected is counted and written, in a thread, shown, and let go of: the policy
    trains meanwhile."""

    def work() -> Noted:
        metrics = collection_metrics(collected, policy_version=round)
        return Noted(metrics, store.prepare(round, collected))

    await asyncio.sleep(0)  # first the policy is asked: the thread would hold that up
    found = await in_thread(work)
    tracker.show(round, collected)
    await let_go(collected)
    return found


@asynccontextmanager
async def kept(
    checkpoints: Checkpoints, first_round: int, num_rounds: int
) -> AsyncIterator[Progress]:
    """Within it, the rounds that were done are kept when a worker is lost or another fails, unless
    the policy itself is lost or of no more use, or nothing can be written; and when it is left
    early, which raises Stopped."""
    progress = Progress(first_round)
    try:
        yield progress
    except* RunFailed as failed:
        is_kept = failed.split((PolicyBroken, PolicyLost, DiskFailed))[0] is None
        if progress.between and is_kept:
            if progress.tell is not None:
                progress.tell()
            with suppress(RunFailed):  # it may be the policy that is lost
                await checkpoints.save(progress.done)
        raise
    if progress.done < num_rounds:
        await checkpoints.save(progress.done)
        raise Stopped(f"after {progress.done} of {num_rounds} rounds")
