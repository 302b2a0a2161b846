"""The composition root: a configuration becomes workers, services and a run.

What may know actors and clusters is listed in tests/unit/test_layers.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.version import Version

from actors.group import Allotment, Worker, start_workers
from actors.policy import InitialPolicy, PolicyService
from actors.policy_rank import PolicyPlan, PolicyRank
from actors.reference import ReferenceService, ReferenceWorker
from actors.rollout import RolloutService, RolloutWorker
from actors.self_evaluation import start_self_evaluation
from actors.taking_turns import SleepingCollector, WakingCarrier
from actors.weight_sync import (
    AdapterCarrier,
    Carrier,
    GpuCarrier,
    ObjectStoreCarrier,
    ProbedPublisher,
    make_probe,
)
from rlhf.algorithms.base import Services
from rlhf.asking.selection import HardestSchedule
from rlhf.collecting.collector import OneRound, RoundCollector, Untold, WarmStarted
from rlhf.collecting.curators.base import Curated
from rlhf.config.models import MAX_LOGPROB_GAP, Transport
from rlhf.data.rendering import Renderer
from rlhf.judges.base import JudgeConfig, Measure
from rlhf.judges.members import failure_limits
from rlhf.judges.running import OWNER, Learning, learners
from rlhf.launching.configuration import Config
from rlhf.launching.inputs import Inputs
from rlhf.launching.judging import Judges, first_of_all
from rlhf.launching.roles import (
    needs_reference_workers,
)
from rlhf.launching.transports import served_lora, sleeps, transport
from rlhf.learning.anchors import Anchors
from rlhf.learning.portions import Portions
from rlhf.problems import InputError
from rlhf.records import Collected, Sampling
from rlhf.stages import Collector, Evaluation, Judge, Logprobs, Rollout, Schedule, Store
from rlhf.storage.ledger import Ledger
from rlhf.storage.store import PreferenceStore, read_metrics
from rlhf.tools.rollout import with_tools
from rlhf.toys.games import read_game
from rlhf.tree.evaluator import Evaluator
from rlhf.watching.evaluation import (
    GameEvaluation,
    Heldout,
    ScoreEvaluation,
    UnjudgedEvaluation,
    WinRateEvaluation,
    earlier_shares,
    require_initial,
)
from rlhf.watching.gold import GoldEvaluation, SharedAnswers
from rlhf.watching.metrics import ACCURACY, GOLD_PREFIX, SATISFACTION

PROBE_TOKENS = 16
FIRST_VLLM_WITH_NCCL_SENDER = "0.32"
INITIAL = "initial_completions.json"


# --- services ------------------------------------------------------------------------------------


def start_policy(config: Config, allotment: Allotment) -> PolicyService:
    plan = PolicyPlan(
        dtype=config.model.dtype,
        policy=config.policy,
        objective=config.objective.shipped(),
        epochs=config.round.epochs,
        first_epochs=config.algorithm.first_epochs or config.round.epochs,
        num_rounds=config.num_rounds,
        seed=config.seed,
        shares_gpu=config.placement.colocated,
    )
    env = {} if config.placement.gpus else {"DS_ACCELERATOR": "cpu"}
    ranks = start_workers(PolicyRank, allotment, plan, env=env)
    return PolicyService(ranks, config.cluster.call_timeout_s, config.cluster.silence_s)


def start_rollout(
    config: Config, path: str, allotment: Allotment
) -> tuple[RolloutService, list[Worker]]:
    workers = start_workers(RolloutWorker, allotment, *rollout_arguments(config, path))
    calls, timeout_s = config.rollout.calls_per_worker, config.cluster.call_timeout_s
    return RolloutService(workers, calls_per_worker=calls, timeout_s=timeout_s), workers


def rollout_arguments(config: Config, path: str) -> tuple[Any, ...]:
    """What each worker is started with."""
    first = (path, config.model.dtype, config.rollout, transport(config), config.seed)
    return (*first, sleeps(config), served_lora(config))


def start_reference(config: Config, allotted: Mapping[str, Allotment]) -> list[Worker]:
    """Workers of the `initial` anchor, which have yet to load it; none where none are needed."""
    if not needs_reference_workers(config):
        return []
    return start_workers(
        ReferenceWorker, allotted["reference"], config.model.dtype, config.reference
    )


def make_portions(config: Config, policy: PolicyService, reference: Sequence[Worker]) -> Portions:
    """With the anchors that the objective needs."""
    sources: dict[str, Logprobs] = {}
    for name in config.objective.anchor_names:
        if name == "previous":
            sources[name] = policy
        elif reference:
            share, timeout_s = config.reference.micro_batch_tokens, config.cluster.call_timeout_s
            sources[name] = ReferenceService(reference, share, timeout_s)
        else:
            sources[name] = InitialPolicy(policy)
    tokens = config.policy.num_ranks * config.policy.micro_batch_tokens
    return Portions(Anchors(sources, config.objective), policy, tokens, config.policy.packing)


# --- what runs on them ---------------------------------------------------------------------------


def require_transport(config: Config) -> None:
    """Raises InputError where the vLLM that is installed here lacks the sending side."""
    if transport(config) is not Transport.nccl:
        return
    try:
        found = metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return  # the driver's machine need not have it
    if Version(found) < Version(FIRST_VLLM_WITH_NCCL_SENDER):
        raise InputError(
            [
                f"weights.transport=nccl: needs vLLM {FIRST_VLLM_WITH_NCCL_SENDER} or newer, and "
                f"{found} is installed; upgrade it, or set weights.transport=object_store"
            ]
        )


def make_publisher(
    config: Config, inputs: Inputs, policy: PolicyService, rollout: RolloutService
) -> ProbedPublisher:
    longest = config.rollout.max_prompt_tokens + config.rollout.max_completion_tokens
    probe = make_probe(
        inputs.data.train, inputs.vocabulary_size, PROBE_TOKENS, longest, config.seed
    )
    carrier = _carrier(config, policy, rollout)
    merges = config.policy.lora is not None and served_lora(config) is None
    return ProbedPublisher(carrier, policy, rollout, probe, max_logprob_gap(config), merges)


def _carrier(config: Config, policy: PolicyService, rollout: RolloutService) -> Carrier:
    carrier = _awake_carrier(config, policy, rollout)
    return WakingCarrier(carrier, rollout) if sleeps(config) else carrier


def _awake_carrier(config: Config, policy: PolicyService, rollout: RolloutService) -> Carrier:
    if served_lora(config) is not None:
        return AdapterCarrier(policy, rollout)
    chosen = transport(config)
    if chosen is Transport.object_store:
        return ObjectStoreCarrier(policy, rollout, config.rollout.reads_saved)
    timeout_s, gpus = config.cluster.call_timeout_s, config.rollout.gpus_per_worker
    return GpuCarrier(policy, rollout, chosen, timeout_s, gpus)


def max_logprob_gap(config: Config) -> float:
    limit = config.weights.max_logprob_gap
    return MAX_LOGPROB_GAP[config.model.dtype] if limit is None else limit


def sampling(config: Config) -> Sampling:
    algorithm = config.algorithm
    return Sampling(
        algorithm.num_completions,
        config.rollout.max_completion_tokens,
        algorithm.temperature,
        algorithm.top_p,
    )


@dataclass(frozen=True, slots=True)
class RunStores:
    """What a run keeps, and finds again after a crash."""

    preferences: PreferenceStore
    algorithms: Store | None
    """What the algorithm keeps beside them."""

    @classmethod
    def of(cls, config: Config, directory: Path, first_round: int) -> "RunStores":
        own = config.algorithm.store(directory, first_round, config.num_rounds)
        return cls(PreferenceStore(directory, first_round), own)

    def prepare(self, round: int, collected: Sequence[Collected]) -> Callable[[], None]:
        """`rlhf.stages.Store`."""
        stores = [self.algorithms, self.preferences] if self.algorithms else [self.preferences]
        prepared = [store.prepare(round, collected) for store in stores]

        def keep() -> None:
            for one in prepared:
                one()

        return keep


def answering(config: Config, inputs: Inputs, rollout: RolloutService) -> Rollout:
    """Answers with the tools that the policy may use, in its environment; one for all of a run,
    whose calls queue."""
    renderer = Renderer(inputs.tokenizer, config.model.rendering)
    max_tokens = config.rollout.max_completion_tokens
    turns = with_tools(rollout, config.tools, renderer.text_ids, max_tokens)
    return config.environment.played(turns, renderer)


def services(
    config: Config,
    inputs: Inputs,
    rollout: RolloutService,
    answers: Rollout,
    judge: Judge | None,
    stores: RunStores,
) -> Services:
    def self_evaluation(see_solution: bool) -> Evaluator:
        timeout_s = config.cluster.call_timeout_s
        path = inputs.model_path
        return start_self_evaluation(rollout, path, config.rollout, see_solution, timeout_s)

    return Services(
        answers,
        judge,
        sampling(config),
        inputs.data.feedback,
        config.objective.learns_from_ties,
        stores.algorithms,
        self_evaluation,
        Renderer(inputs.tokenizer, config.model.rendering).completion_ids,
    )


def make_schedule(
    config: Config, inputs: Inputs, schedule: Schedule, policy: PolicyService
) -> Schedule:
    """The schedule itself, or one that asks the hardest of its prompts."""
    if config.round.hardest_share == 1:
        return schedule
    return HardestSchedule(schedule, inputs.data.demonstrations, policy, config.round.prompts)


def make_collector(
    config: Config,
    inputs: Inputs,
    schedule: Schedule,
    rollout: RolloutService,
    answers: Rollout,
    judge: Judge | None,
    stores: RunStores,
    ledger: Ledger,
) -> Collector:
    """`answers` are those of `answering`, by this rollout service; `ledger` is the run's."""
    offered = services(config, inputs, rollout, answers, judge, stores)
    algorithm = config.algorithm.make(offered)
    limits = dict(failure_limits(config.judge))
    last = (config.round, limits, config.seed, config.num_rounds)
    collector: Collector = RoundCollector(algorithm, schedule, *last)
    if inputs.seeds:
        first = config.algorithm.warm_start().make(offered)
        collector = WarmStarted(RoundCollector(first, OneRound(inputs.seeds), *last), collector)
    if learning := learners(config.judge):
        collector = Learning(collector, learning, ledger.page(OWNER), config.max_staleness)
    curator = config.curator.make(ledger.page("curator"), config.max_staleness)
    if curator is not None:
        collector = Curated(collector, curator)
    if not config.round.overlap:
        collector = Untold(collector)
    return SleepingCollector(collector, rollout) if sleeps(config) else collector


def make_evaluation(
    config: Config,
    inputs: Inputs,
    answers: Rollout,
    judges: Judges,
    directory: Path,
    *,
    begins: bool,
) -> Evaluation:
    """What suits the judge, and that of `eval.gold`; `directory` is the run's, where earlier
    evaluations are found, unless the run `begins` now."""
    sampled = replace(sampling(config), num_completions=config.eval.num_samples)
    if config.eval.temperature is not None:
        sampled = replace(sampled, temperature=config.eval.temperature)
    prompts = inputs.data.heldout[: config.eval.num_prompts]
    last = (config.seed, directory / INITIAL if begins else None)
    if judges.gold is None or config.eval.gold is None:
        heldout = Heldout(answers, prompts, sampled, *last)
        return _evaluation(config.judge, judges.judge, heldout, directory, "")
    shared = SharedAnswers(answers)
    heldout = Heldout(shared, prompts, sampled, *last)
    own = _evaluation(config.judge, judges.judge, heldout, directory, "")
    other = _evaluation(config.eval.gold, judges.gold, heldout, directory, GOLD_PREFIX)
    return GoldEvaluation(own, other, shared)


def require_answers(config: Config, inputs: Inputs, directory: Path) -> None:
    """Of a run that goes on, or is measured again: raises InputError where a judge compares with
    answers of the initial policy that were not kept."""
    prompts = inputs.data.heldout[: config.eval.num_prompts]
    for key, _, judge in first_of_all(config):
        if judge.measure is Measure.win_rate and judge.known_game is None:
            require_initial(directory / INITIAL, f"{key}={judge.name}", prompts)


def _evaluation(
    config: JudgeConfig,
    judge: Judge | None,
    heldout: Heldout,
    directory: Path,
    prefix: str,
) -> Evaluation:
    """By one judge; `prefix`: of its metrics' names."""
    if judge is None:
        return UnjudgedEvaluation(heldout)
    if (known := config.known_game) is not None:
        game = read_game(known)
        history = earlier_shares(game, read_metrics(directory / "metrics.jsonl"), prefix)
        return GameEvaluation(heldout, game, history)
    match config.measure:
        case Measure.accuracy:
            return ScoreEvaluation(heldout, judge, ACCURACY)
        case Measure.satisfaction:
            return ScoreEvaluation(heldout, judge, SATISFACTION)
        case Measure.score:
            return ScoreEvaluation(heldout, judge, None)
        case Measure.parts:
            return ScoreEvaluation(heldout, judge, None, is_relative=True)
        case Measure.win_rate:
            return WinRateEvaluation(heldout, judge, directory / INITIAL)
