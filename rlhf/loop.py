"""The whole of training: rounds."""

import asyncio
from dataclasses import dataclass
from functools import partial

from rlhf.collecting.collecting import Ahead
from rlhf.learning.portions import Portions
from rlhf.progress import kept, noted
from rlhf.stages import Checkpoints, Collector, Evaluation, Policy, Publisher, Stop, Store, Tracker
from rlhf.watching.timing import Stopwatch


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run consists of, and how far it is to go."""

    collector: Collector
    portions: Portions
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
    rounds = range(run.first_round, run.num_rounds)
    keeping = kept(run.checkpoints, run.first_round, run.num_rounds)
    async with keeping as progress, asyncio.TaskGroup() as tasks:
        ahead = Ahead(tasks, run.collector, rounds, run.max_staleness)
        clock = Stopwatch()
        for round in rounds:
            collecting = ahead.next()
            preparing = tasks.create_task(run.portions.prepare(round, collecting))
            with clock("collect"):
                if await run.stop.comes_before(collecting.whole):
                    collecting.whole.cancel()
                    return ahead.cancel()
                collected = await collecting.whole
            with clock("anchor"):
                batch = await preparing
            with clock("update"):
                progress.begin()
                noting = tasks.create_task(noted(run.store, run.tracker, round, collected))
                updated = await run.policy.update(batch)
            metrics = (await noting).kept() | updated
            progress.end(done := round + 1, partial(run.tracker.log, round, metrics))
            with clock("publish"):
                published = await run.publisher.publish(version=done)

            if due(done, run.evaluate_every, run.num_rounds):
                with clock("evaluate"):
                    run.tracker.log_eval(done, await run.evaluation.evaluate())
            run.tracker.log(round, metrics | published | clock.metrics())
            progress.told()
            if due(done, run.checkpoint_every, run.num_rounds):
                with clock("checkpoint"):  # of the next round, since this one is told
                    await run.checkpoints.save(done)
            else:
                tasks.create_task(run.checkpoints.remember(done))


def due(done: int, every: int, last: int) -> bool:
    """Whether something that happens every so many rounds, and after the last, happens now."""
    return done == last or (every > 0 and done % every == 0)
