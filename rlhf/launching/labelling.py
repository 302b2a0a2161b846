"""The model of label=llm on Ray workers of its own."""

import asyncio
from collections.abc import Awaitable, Callable

from actors.group import Allotment, stop_workers, wait_ready
from actors.llm_judge import start_answering
from actors.llm_labeller import WorkerWriter
from actors.question_reader import QuestionReader
from cluster.placement import Role
from cluster.session import session
from rlhf.feedback.config import FeedbackConfig
from rlhf.feedback.labeller import Writer
from rlhf.feedback.question import ANSWER_TOKENS, trivial_question
from rlhf.launching.roles import allotments


def use_workers(
    config: FeedbackConfig,
    use: Callable[[Writer], Awaitable[None]],
    note: Callable[[str], None],
) -> None:
    """Runs `use` with the model at `judge.path`, in a Ray session and event loop of its own.

    Raises InputError, before any worker starts, if the model cannot be used or does not fit.
    """
    reader = QuestionReader(config.judge.path, config.judge.max_tokens, ANSWER_TOKENS)
    reader.check(trivial_question())
    num_gpus = float(config.rollout.gpus_per_worker) if config.placement.gpus else 0.0
    role = Role("judge", config.judge.num_workers, 1, num_gpus)
    cluster = config.cluster
    with session(cluster.address, [role], cluster.start_timeout_s, note) as reservation:
        note(reservation.plan.table())
        threads = cluster.threads_per_worker
        allotted = allotments(reservation.plan, reservation.seats, threads)
        asyncio.run(_use(config, reader, allotted[role.name], use))


async def _use(
    config: FeedbackConfig,
    reader: QuestionReader,
    allotment: Allotment,
    use: Callable[[Writer], Awaitable[None]],
) -> None:
    cluster = config.cluster
    # Answers are greedy, so the engine's seed is not used.
    workers = start_answering(config.judge, reader, config.rollout, config.dtype, allotment, seed=0)
    try:
        await wait_ready(workers, cluster.start_timeout_s)
        await use(WorkerWriter(workers, reader, config.rollout, cluster.call_timeout_s))
    finally:
        stop_workers(workers)
