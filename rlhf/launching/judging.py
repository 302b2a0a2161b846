"""Everybody who judges in a run: found in its configuration, checked, seated and started.

Who asks others has no workers; who asks nobody goes its own way by what it says of itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from actors.group import Allotment, Worker, start_workers
from actors.judge import JudgeService, JudgeWorker
from actors.llm_judge import check_llm_judge, start_llm_judges
from actors.rollout import RolloutService
from actors.self_evaluation import PolicyWriter, check_policy_judge, policy_judge
from cluster.placement import Role
from rlhf.config.texts import from_anywhere
from rlhf.environments.judging import EpisodeJudge
from rlhf.judges.base import JudgeConfig, Seat
from rlhf.judges.members import Builder, Placed, everyone, joined, seated, told_at
from rlhf.judges.questions.asking import AskingConfig
from rlhf.launching.configuration import Config
from rlhf.launching.memory import (
    DTYPE_BYTES,
    Memory,
    causal_shape,
    dtype_bytes,
    frozen_memory,
    num_weights,
    told,
)
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.records import Prompt
from rlhf.stages import Judge
from rlhf.watching.settings import GOLD


@dataclass(frozen=True, slots=True)
class AskPolicy:
    """The policy, as judges ask it; its tokenizer is in `path`."""

    config: Config
    rollout: RolloutService
    path: str

    def judge(self, judge: AskingConfig) -> Judge:
        timeout_s = self.config.cluster.call_timeout_s
        return policy_judge(judge, self.rollout, self.path, self.config.rollout, timeout_s)

    def writer(self) -> PolicyWriter:
        rendering = self.config.model.rendering
        return PolicyWriter(self.rollout, self.path, rendering, self.config.rollout)


def first_of_all(config: Config) -> Iterator[Placed]:
    """Whom a run asks directly: its judge, and that of `eval.gold` if there is one."""
    yield Placed("judge", "judge", config.judge)
    if config.eval.gold is not None:
        yield Placed(GOLD, "gold", config.eval.gold)


def all_judges(config: Config) -> list[Placed]:
    """These, and whoever they ask."""
    return [one for first in first_of_all(config) for one in everyone(*first)]


def need_answers(config: Config) -> bool:
    return any(Fact.answers in one.config.needs() for one in first_of_all(config))


def read_rows(config: Config) -> bool:
    return any(one.config.reads_rows for one in all_judges(config))


def judge_problems(config: Config, path: str) -> Iterator[str]:
    """Why their files or endpoints, or the policy in `path`, cannot be used."""
    needed = config.algorithm.needs().keys()
    for key, role, judge in all_judges(config):
        trained_on = role.partition(".")[0] == "judge"
        try:
            with told_at(key):
                judge.inspect(needed if trained_on else frozenset())
                if judge.seat is Seat.engine:
                    check_llm_judge(_asked(judge))
                if judge.seat is Seat.policy:
                    check_policy_judge(_asked(judge), path, config.rollout.longest)
        except InputError as error:
            yield from error.problems


def rehearse(config: Config, prompts: Sequence[Prompt]) -> None:
    """All prompts are looked at by each, and strangers' code is tried on the first; raises
    InputError."""
    for key, _, judge in all_judges(config):
        with told_at(key):
            judge.inspect_prompts(prompts)
            judge.rehearse(prompts[0])


def judge_roles(config: Config, gpu: float) -> Iterator[Role]:
    """The workers of each who has some; `gpu`: how many such as need one get."""
    for sharing in (one for first in first_of_all(config) for one in seated(first)):
        key, role, judge = sharing[0]
        with told_at(key):
            if (needed := _memory(config, judge)) is None:
                continue
        memory, num_gpus = needed
        count = max(one.config.num_workers for one in sharing)
        size, words = told(memory)
        others = ", ".join(one.role for one in sharing[1:])
        yield Role(role, count, 1, gpu * num_gpus, size, words + (others and f"; {others} too"))


def _memory(config: Config, judge: JudgeConfig) -> tuple[Memory, int] | None:
    """Of one worker, and its GPUs; None if there is none."""
    match judge.seat:
        case Seat.nowhere | Seat.policy:
            return None
        case Seat.cpu:
            return Memory({}), 0
        case Seat.engine:
            gpus = config.rollout.gpus_per_worker
            shape = causal_shape("judge.path", judge.loads or "")
            return frozen_memory(shape.num_weights, DTYPE_BYTES[config.model.dtype], gpus), gpus
        case Seat.gpu:
            found, dtype = judge.held()
            return frozen_memory(num_weights(found), dtype_bytes(found, dtype)), 1


@dataclass(frozen=True, slots=True)
class Judges:
    """Who judges, ready to be asked once their workers are."""

    judge: Judge | None
    """None if nobody does."""
    gold: Judge | None = None
    workers: Mapping[str, Sequence[Worker]] = field(default_factory=dict)
    """Of all that each of the two asks: `judge` and `gold`."""

    @property
    def all_workers(self) -> list[Worker]:
        return [worker for own in self.workers.values() for worker in own]


def start_judges(
    config: Config, allotted: Mapping[str, Allotment], rollout: RolloutService, path: str
) -> Judges:
    """With workers that are not yet ready; the policy, whose tokenizer is in `path`, is asked by
    its rollout workers."""
    policy = AskPolicy(config, rollout, path)
    started = {
        first.role: _start_all(config, first, allotted, policy) for first in first_of_all(config)
    }
    judge, gold = (started.get(role, (None, []))[0] for role in ("judge", "gold"))
    return Judges(judge, gold, {role: workers for role, (_, workers) in started.items()})


def _start_all(
    config: Config, first: Placed, allotted: Mapping[str, Allotment], policy: AskPolicy
) -> tuple[Judge | None, list[Worker]]:
    """One of `first_of_all`, and the workers of all that it asks."""
    judges: dict[str, Judge | None] = {}
    workers: list[Worker] = []
    for sharing in seated(first):
        found, own = _start(config, sharing, allotted, policy)
        judges |= {one.role: judge for one, judge in zip(sharing, found, strict=True)}
        workers += own
    judge = joined(first, judges)
    if judge is not None:
        gives_matrix = Fact.matrix in first.config.gives()
        judge = config.environment.judged(judge, gives_matrix)
        if config.tools.may_fail:
            judge = EpisodeJudge(judge, gives_matrix, "tools")
    return judge, workers


def _start(
    config: Config, sharing: Sequence[Placed], allotted: Mapping[str, Allotment], policy: AskPolicy
) -> tuple[Sequence[Judge | None], list[Worker]]:
    """Judges that share workers, if they have any."""
    key, role, judge = sharing[0]
    timeout_s = config.cluster.call_timeout_s
    with told_at(key):
        match judge.seat:
            case Seat.nowhere:
                return [judge.elsewhere()], []
            case Seat.policy:
                return [policy.judge(_asked(judge))], []
            case Seat.engine:
                path = from_anywhere(judge.loads or "")
                asked = [replace(_asked(one.config), path=path) for one in sharing]
                model = (config.rollout, config.model.dtype)
                return start_llm_judges(asked, *model, allotted[role], timeout_s, config.seed)
            case Seat.cpu | Seat.gpu:
                builds = [Builder(one.key, one.config.builder()) for one in sharing]
                workers = start_workers(JudgeWorker, allotted[role], *builds)
                calls = max(one.config.calls_per_worker for one in sharing)
                service = JudgeService(workers, timeout_s, calls)
                judges = [
                    one.config.with_policy(service.at(place), policy.writer, config.seed)
                    for place, one in enumerate(sharing)
                ]
                return judges, workers


def _asked(judge: JudgeConfig) -> AskingConfig:
    """Whoever sits on an engine, or in the policy's place, is one."""
    assert isinstance(judge, AskingConfig)
    return judge
