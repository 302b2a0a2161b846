"""What can be wrong with a configuration by itself; everything is reported at once."""

import dataclasses
import operator
from collections.abc import Iterator
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

from rlhf.config import Config
from rlhf.config.algorithms import (
    Chosen,
    DriftConfig,
    Label,
    Rejected,
    Search,
    SelfPlayConfig,
    StepValue,
    TreeConfig,
    TreePairs,
    Truncated,
)
from rlhf.config.data import FeedbackDataConfig, SimulatedUsersConfig
from rlhf.config.feedback import LabelSource
from rlhf.config.judges import (
    LLMJudgeConfig,
    NoJudgeConfig,
    RewardModelConfig,
    SimulatedUserJudgeConfig,
    VerifierConfig,
)
from rlhf.config.models import (
    TinyModelConfig,
    TransformersRolloutConfig,
    Transport,
    VllmRolloutConfig,
)
from rlhf.config.tools import CallConfig, ToolsConfig
from rlhf.judges.llm import llm_judge_problems

_LIMITS = {
    "above": ("above", operator.gt),
    "at_least": ("at least", operator.ge),
    "below": ("below", operator.lt),
    "at_most": ("at most", operator.le),
}


def config_problems(config: Config) -> list[str]:
    """One line for each thing that cannot be: key, value, what is allowed, how to fix it."""
    return [*unknown_keys(config, ""), *out_of_range(config, ""), *_contradictions(config)]


def unknown_keys(section: Any, prefix: str) -> Iterator[str]:
    """Keys that `+key=value` put where nothing reads them."""
    known = {field.name for field in dataclasses.fields(section)}
    for name in sorted(vars(section).keys() - known):
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {prefix}{near[0]}?" if near else ""
        yield f"{prefix}{name}={getattr(section, name)}: there is no such key{hint}"
    for name in sorted(known):
        if dataclasses.is_dataclass(value := getattr(section, name)):
            yield from unknown_keys(value, f"{prefix}{name}.")


def out_of_range(section: Any, prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(section):
        key, value = f"{prefix}{field.name}", getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from out_of_range(value, f"{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            for name, (words, holds) in _LIMITS.items():
                limit = field.metadata.get(name)
                if limit is not None and not holds(value, limit):
                    yield f"{key}={value}: must be {words} {limit}"


def _contradictions(config: Config) -> Iterator[str]:
    policy, rollout = config.policy, config.rollout
    ranks = max(1, policy.num_ranks)  # fewer than one is out of range already
    if policy.batch_size % ranks:
        nearest = max(1, (policy.batch_size + (ranks - 1) // 2) // ranks) * ranks
        yield (
            f"policy.batch_size={policy.batch_size}: must be divisible by "
            f"policy.num_ranks={ranks}; the nearest is {nearest}"
        )
    on_gpus = config.placement.gpus and isinstance(rollout, VllmRolloutConfig)
    where = {Transport.nccl: "disaggregated", Transport.ipc: "colocated"}
    if (needed := where.get(config.weights.transport)) is not None and not (
        on_gpus and config.placement.colocated == (needed == "colocated")
    ):
        yield (
            f"weights.transport={config.weights.transport.value}: needs rollout=vllm and "
            f"placement={needed}; weights.transport=object_store works everywhere"
        )
    if config.placement.colocated and (
        rollout.num_workers != policy.num_ranks or getattr(rollout, "tensor_parallel", 1) != 1
    ):
        yield (
            f"placement=colocated: needs one rollout worker of one GPU per policy rank; "
            f"set rollout.num_workers={policy.num_ranks} rollout.tensor_parallel=1"
        )
    if config.placement.colocated and config.max_staleness:
        yield (
            f"max_staleness={config.max_staleness}: with placement=colocated policy and rollout "
            "take turns on a GPU; set it to 0, or placement=disaggregated"
        )
    if isinstance(rollout, TransformersRolloutConfig):
        longest = rollout.max_prompt_tokens + rollout.max_completion_tokens
        algorithm = config.algorithm
        rows = max(1, algorithm.num_completions)
        if isinstance(algorithm, SelfPlayConfig):
            rows = max(rows, algorithm.num_mixture, algorithm.num_initial)
        if isinstance(algorithm, TreeConfig):
            rows = max(rows, algorithm.num_root_completions, algorithm.num_lookaheads)
        if longest * rows > rollout.max_batch_tokens:
            yield (
                f"rollout.max_batch_tokens={rollout.max_batch_tokens}: one prompt's "
                f"{rows} completions may come to {longest * rows} tokens; raise it to that"
            )
    yield from _self_play_problems(config)
    yield from _feedback_problems(config)
    yield from _tool_problems(config.tools)
    if isinstance(config.algorithm, TreeConfig):
        yield from _tree_problems(config, config.algorithm)
    pairs = getattr(config.algorithm, "pairs", None)
    if config.objective.needs_whole_lists and pairs is not TreePairs.ranked:
        name = config.objective.name
        yield f"objective={name}: needs a ranked list per prompt; set algorithm=tpo"
    if isinstance(config.judge, LLMJudgeConfig):
        yield from llm_judge_problems(config.judge)
    yield from _demonstration_problems(config)
    if not isinstance(config.model, TinyModelConfig):
        yield from _model_problems(config.model.path)


def _demonstration_problems(config: Config) -> Iterator[str]:
    steps, share = config.warmup.steps, config.round.hardest_share
    demonstrated = getattr(config.data, "demonstration_column", "") is not None
    if steps and isinstance(config.data, FeedbackDataConfig):
        yield f"warmup.steps={steps}: data=feedback demonstrates nothing; set it to 0"
    if steps and not demonstrated:
        yield (
            f"warmup.steps={steps}: needs demonstrations; name their column in "
            "data.demonstration_column, or set warmup.steps=0"
        )
    if share < 1 and isinstance(config.data, FeedbackDataConfig):
        yield f"round.hardest_share={share:g}: data=feedback demonstrates nothing; set it to 1"
    if share < 1 and config.max_staleness:
        yield (
            f"max_staleness={config.max_staleness}: with round.hardest_share={share:g} a round's "
            "prompts follow from the policy before it; set max_staleness=0, or "
            "round.hardest_share=1"
        )


def _self_play_problems(config: Config) -> Iterator[str]:
    algorithm, objective = config.algorithm, config.objective
    name = objective.name
    if objective.needs_self_play and not isinstance(algorithm, SelfPlayConfig):
        yield f"objective={name}: needs an algorithm of self-play, such as algorithm={name}"
        return
    yield from objective.problems(algorithm)
    if not isinstance(algorithm, SelfPlayConfig):
        return
    players = algorithm.num_completions + algorithm.num_mixture + algorithm.num_initial
    if players < 2:
        yield (
            f"algorithm.num_completions={algorithm.num_completions}: with num_mixture and "
            f"num_initial there are {players} completions per prompt; at least 2 must play"
        )
    if algorithm.samples_initial_policy and not isinstance(
        config.rollout, TransformersRolloutConfig
    ):
        yield (
            "algorithm.num_initial, algorithm.num_mixture: the initial policy is sampled by "
            "rollout=transformers only, which runs it beside the policy; set rollout=transformers"
        )
    if algorithm.label is Label.soft and objective.takes_certain_labels:
        yield (
            f"algorithm.label=soft: objective={name} takes the chosen side for the winner; set "
            "algorithm.label=hard or sampled"
        )
    wanted = objective.needs_score
    if wanted and algorithm.score.value != wanted:
        yield f"algorithm.score={algorithm.score.value}: objective={name} needs {wanted}"
    if objective.explores and not algorithm.num_initial:
        yield f"algorithm.num_initial=0: objective={name} explores away from the initial policy"


def _feedback_problems(config: Config) -> Iterator[str]:
    algorithm, data, judge = config.algorithm, config.data, config.judge
    if isinstance(data, FeedbackDataConfig) and data.label is LabelSource.llm:
        yield (
            "data.label=llm: a run asks no model about what arrives in data.feed; let "
            "python -m rlhf.feedback do that before, or set data.label=rules"
        )
    learns = isinstance(algorithm, DriftConfig)
    guided = isinstance(judge, LLMJudgeConfig) and judge.user_guided
    if guided and not (learns and isinstance(data, FeedbackDataConfig)):
        yield "judge.user_guided=true: needs what users said; set data=feedback algorithm=drift"
    if isinstance(data, FeedbackDataConfig) and isinstance(judge, VerifierConfig):
        yield (
            "judge=verifier: compares with solutions, and logs have none; set judge=none, or "
            "judge=llm judge.user_guided=true to measure by what users said"
        )
    if isinstance(judge, SimulatedUserJudgeConfig) and not isinstance(data, SimulatedUsersConfig):
        yield "judge=simulated_users: knows the wishes of data=simulated_users only"
    if isinstance(judge, NoJudgeConfig) and not learns:
        yield "judge=none: someone has to compare completions, but for algorithm=drift"
    if isinstance(algorithm, DriftConfig):
        yield from _drift_problems(config, algorithm)


def _drift_problems(config: Config, algorithm: DriftConfig) -> Iterator[str]:
    data, judge = config.data, config.judge
    if not isinstance(data, FeedbackDataConfig | SimulatedUsersConfig):
        yield (
            "algorithm: it learns from what users said of logged replies; set data=feedback "
            "data.path=<out of python -m rlhf.feedback>, or data=simulated_users to try it"
        )
    if algorithm.chosen is Chosen.plain and algorithm.rejected is Rejected.plain:
        yield (
            "algorithm.chosen=plain algorithm.rejected=plain: nothing tells the two sides apart; "
            "set algorithm.chosen=guided or algorithm.rejected=logged"
        )
    if algorithm.seed_epochs and config.num_rounds < 2:
        yield (
            f"num_rounds={config.num_rounds}: round 0 is the warm start on the log's own pairs; "
            "set 2 or more, or algorithm.seed_epochs=0"
        )
    feed = data.feed if isinstance(data, FeedbackDataConfig) else None
    if algorithm.chosen is Chosen.logged and feed is not None:
        yield (
            f"data.feed={feed}: brings complaints alone, and algorithm.chosen=logged needs "
            "replies that satisfied; set data.feed=null, or algorithm.chosen=guided"
        )
    if algorithm.truncated is Truncated.penalise:
        yield "algorithm.truncated=penalise: there are no scores to lower; set drop or keep"
    if algorithm.min_margin is not None and isinstance(judge, NoJudgeConfig):
        yield f"algorithm.min_margin={algorithm.min_margin:g}: needs a judge, not judge=none"


def _tool_problems(tools: ToolsConfig) -> Iterator[str]:
    if isinstance(tools, CallConfig):
        for name in ("opens", "closes", "reply_closes"):
            if not getattr(tools, name):
                yield f"tools.{name}: is empty; calls and results must be told from other text"


def _tree_problems(config: Config, algorithm: TreeConfig) -> Iterator[str]:
    scores_outcomes = isinstance(config.judge, VerifierConfig | SimulatedUserJudgeConfig)
    if algorithm.value is StepValue.judge and not isinstance(config.judge, RewardModelConfig):
        yield (
            "algorithm.value=judge: the judge must score partial answers; set judge=reward_model, "
            "trained by python -m rlhf.reward kind=steps"
        )
    if algorithm.value is not StepValue.judge and not scores_outcomes:
        yield (
            f"algorithm.value={algorithm.value.value}: whole answers must be right or wrong; set "
            "judge=verifier, or algorithm.value=judge with judge=reward_model"
        )
    if algorithm.truncated is Truncated.drop:
        yield "algorithm.truncated=drop: a tree has no gaps; set penalise or keep"
    if config.max_staleness:
        yield (
            f"max_staleness={config.max_staleness}: what a tree knows is of one policy; set it to 0"
        )
    if algorithm.smooth_labels and config.objective.takes_certain_labels:
        yield (
            f"algorithm.smooth_labels=true: objective={config.objective.name} takes the chosen "
            "side to be better for certain; set algorithm.smooth_labels=false"
        )
    if not algorithm.stop or not all(algorithm.stop):
        yield f"algorithm.stop={algorithm.stop}: needs texts that end a step, none of them empty"
    if algorithm.num_completions < 2 and algorithm.num_root_completions < 2:
        yield (
            "algorithm.num_completions=1 algorithm.num_root_completions=1: without siblings there "
            "is no pair; set one of them to 2 or more"
        )
    if algorithm.search is Search.best_first and algorithm.value is not StepValue.outcome:
        yield (
            f"algorithm.value={algorithm.value.value}: best-first search goes by look-aheads "
            "alone; set algorithm.value=outcome"
        )


def _model_problems(path: str) -> Iterator[str]:
    directory = Path(path)
    if not directory.is_dir():
        looks_local = directory.is_absolute() or path.startswith(("./", "../", "~"))
        if looks_local:
            yield f"model.path={path}: no such directory"
        return
    if not (directory / "config.json").exists():
        yield f"model.path={path}: has no config.json, so it is not a Hugging Face model"
    if not list(directory.glob("*.safetensors")):
        yield f"model.path={path}: has no *.safetensors; pickled weights are not loaded"


def plain(section: Any) -> Any:
    """A configuration as plain values, for JSON and YAML."""
    if dataclasses.is_dataclass(section) and not isinstance(section, type):
        return {f.name: plain(getattr(section, f.name)) for f in dataclasses.fields(section)}
    if isinstance(section, list):
        return [plain(item) for item in section]
    return section.value if isinstance(section, Enum) else section
