"""The whole of training: rounds."""

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial

from rlhf.collecting.collecting import Collecting
from rlhf.collecting.turns import let_go
from rlhf.learning.lessons import Lessons
from rlhf.progress import kept, noted
from rlhf.stages import Checkpoints, Collector, Evaluation, Policy, Publisher, Stop, Store, Tracker
from rlhf.watching.timing import Stopwatch


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run consists of, and how far it is to go."""

    collector: Collector
    lessons: Lessons
    policy: Policy
    publisher: Publisher
    evaluation: Evaluation
    checkpoints: Checkpoints
    store: Store
    tracker: Tracker
    stop: Stop
    first_round: int
    num_rounds: int
    max_staleness: int
    evaluate_every: int
    checkpoint_every: int


async def train(run: Run) -> None:
    """Collect, compare with the anchors as prompts are done, update, publish, until a stop is asked
    for; `max_staleness` rounds are collected ahead while the policy trains: 0 is on-policy."""
    ahead: deque[Collecting] = deque()
    keeping = kept(run.checkpoints, run.first_round, run.num_rounds)
    async with keeping as progress, asyncio.TaskGroup() as tasks:
        for round in range(run.first_round, run.num_rounds):
            last = min(round + run.max_staleness, run.num_rounds - 1)
            for upcoming in range(round + len(ahead), last + 1):
                ahead.append(Collecting(tasks, run.collector, upcoming))

            clock = Stopwatch()
            preparing = tasks.create_task(run.lessons.prepare(round, ahead[0]))
            with clock("collect"):
                if await run.stop.comes_before(ahead[0].whole):
                    for collecting in ahead:
                        collecting.whole.cancel()
                    return
                collected = await ahead.popleft().whole
            noting = tasks.create_task(noted(run.store, round, collected))
            with clock("anchor"):
                batch = await preparing
            with clock("update"):
                progress.begin()
                updated = await run.policy.update(batch)
            found, keep = await noting
            keep()
            metrics = found | updated
            progress.end(done := round + 1, partial(run.tracker.log, round, collected, metrics))
            with clock("publish"):
                published = await run.publisher.publish(version=done)
            if due(done, run.evaluate_every, run.num_rounds):
                with clock("evaluate"):
                    run.tracker.log_eval(done, await run.evaluation.evaluate())
            run.tracker.log(round, collected, metrics | published | clock.metrics())
            progress.told()
            if due(done, run.checkpoint_every, run.num_rounds):
                await run.checkpoints.save(done)
            del batch, preparing, noting
            await let_go(collected)


def due(done: int, every: int, last: int) -> bool:
    """Whether something that happens every so many rounds, and after the last, happens now."""
    return done == last or (every > 0 and done % every == 0)
