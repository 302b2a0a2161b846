"""Every choice under `conf/` composes, and whatever is wrong is told at once, with a way out."""

import math
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import zip_longest
from pathlib import Path

import composing
import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.asking.sources.arithmetic import ArithmeticConfig
from rlhf.asking.sources.files import FilesConfig
from rlhf.collecting.curators.strength import StrengthConfig
from rlhf.config.models import (
    ModelConfig,
    PolicyConfig,
    TransformersRolloutConfig,
    Transport,
    WeightsConfig,
)
from rlhf.config.run import PlacementConfig, RoundConfig, WarmupConfig
from rlhf.environments.base import EnvironmentConfig
from rlhf.environments.function import FunctionEnvironmentConfig
from rlhf.judges.panel import PanelConfig
from rlhf.judges.text import TextJudgeConfig
from rlhf.judges.verifier import VerifierConfig
from rlhf.launching.checks import config_problems, contradictions, out_of_range, plain, unknown_keys
from rlhf.launching.command_line import hydra_problem, typed
from rlhf.launching.configuration import SCHEMAS, Config
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.gpo import GPOConfig
from rlhf.objectives.ipo import IPOConfig
from rlhf.objectives.kto import KTOConfig
from rlhf.problems import InputError

CONF = Path(__file__).parents[3] / "conf"
COLUMNS: dict[str, list[str]] = {}
"""Every option, as `group=option`. An algorithm may set values of the objective that it names, so
that these two groups are never chosen from at once."""
for _file in sorted(CONF.glob("*/*.yaml")):
    if (_group := _file.parent.name) != "experiment":
        _column = "algorithm" if _group == "objective" else _group
        COLUMNS.setdefault(_column, []).append(f"{_group}={_file.stem}")
TOGETHER = [[*filter(None, row)] for row in zip_longest(*COLUMNS.values())]
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


@pytest.fixture(scope="module")
def something(tmp_path_factory) -> str:
    """A path for whatever is required: a folder that looks like a model."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    return str(folder)


@pytest.fixture
def demo() -> Config:
    return deepcopy(_demo())


@cache
def _demo() -> Config:
    return typed(composed("experiment=demo"))


def composed(*overrides: str) -> DictConfig:
    return composing.compose("train", ["run.dir=/tmp/run", *overrides])


def made(something: str, *overrides: str) -> Config:
    """A whole configuration; what is required is filled in."""
    config = composed(*overrides)
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, something)
    return typed(config)


def refused(overrides: Sequence[str]) -> str:
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        composing.composed("train", ["run.dir=/tmp/run", *overrides])
    return hydra_problem(caught.value)


# --- what there is ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", TOGETHER, ids="-".join)
def test_every_option_composes_to_a_schema_of_its_group(something, options: list[str]):
    config = made(something, *options)
    assert type(config) is Config
    for option in options:
        group, _ = option.split("=")
        assert type(getattr(config, group)) in SCHEMAS[group].values()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_recipe_composes_and_is_free_of_problems(something, experiment):
    config = made(something, f"experiment={experiment}")
    assert config_problems(config) == []
    assert config.experiment == experiment
    for group, schemas in SCHEMAS.items():
        assert type(getattr(config, group)) in schemas.values()


def test_the_demo_needs_nothing_else(demo):
    assert (demo.experiment, demo.model.path) == ("demo", "tiny")
    assert isinstance(demo.data, ArithmeticConfig)


def test_every_schema_has_an_option_that_uses_it():
    used = " ".join(file.read_text() for file in CONF.glob("*/*.yaml"))
    for group, schemas in SCHEMAS.items():
        for name in schemas:
            assert f"/schema/{group}/{name}@" in used


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([], DPOConfig(nll_coef=1.0)),
        (["algorithm=online_dpo"], DPOConfig()),
        (["objective=dpo"], DPOConfig()),
        (["algorithm=gpo"], GPOConfig()),
        (["algorithm=online_rpo", "objective=ipo"], IPOConfig()),
    ],
)
def test_another_algorithm_in_the_demo_brings_its_own_objective(choices, expected):
    assert typed(composed("experiment=demo", *choices)).objective == expected


def test_a_configuration_is_plain_values_for_files(demo):
    values = plain(demo)
    assert values["model"]["dtype"] == "float32" and values["run"]["resume"] == "auto"
    assert values["algorithm"]["min_group"] == 2


# --- what there is not --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, told",
    [
        ("objective.betta=1", "did you mean objective.beta? objective has beta, label_smoothing"),
        ("algorithm.ruel=x", "did you mean algorithm.rule? algorithm has"),
        ("run_dir=x", "there is no such key; did you mean round? there are algorithm, objective"),
        ("objctive=dpo", "objctive"),
        ("policy.batch_size=1.5", "could not be converted to Integer"),
        ("objective.beta=large", "could not be converted to Float"),
        ("model.dtype=float16", "expected one of [float32, bfloat16]"),
        ("tracking.wandb=maybe", "expected one of [offline, online, disabled]"),
    ],
)
def test_unknown_keys_and_wrong_types_are_told_in_one_line(override, told):
    problem = refused([override])
    assert override in problem or override.split("=")[0] in problem
    assert told in problem and "\n" not in problem


def test_what_a_recipe_sets_and_an_option_does_not_know_is_told():
    problem = refused(["experiment=demo", "algorithm=prune"])
    assert problem.startswith("In 'experiment/demo', algorithm.rule: there is no such key; ")


@pytest.mark.parametrize(
    "override, told",
    [
        ("objective=dppo", "objective=dppo: no such choice; did you mean objective=dpo? there"),
        ("experiment=demmo", "did you mean experiment=demo?"),
        ("judge=verifyer", "did you mean judge=verifier?"),
        ("rollout=vlm", "did you mean rollout=vllm?"),
        ("placement=xyzzy", "placement=xyzzy: no such choice; there are colocated, cpu, "),
    ],
)
def test_an_unknown_choice_names_the_nearest(override, told):
    assert told in refused([override])


def test_all_that_is_required_is_told_at_once():
    with pytest.raises(InputError) as caught:
        typed(composed("judge=reward_model"))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "data.path",
        "judge.path",
        "model.path",
    ]
    assert "data.path=..." in caught.value.problems[0]


# --- what cannot be -----------------------------------------------------------------------------


def problems(*overrides: str) -> list[str]:
    return config_problems(typed(composed("experiment=demo", *overrides)))


def test_every_problem_is_told_at_once_with_key_value_and_limit():
    assert problems(
        "objective=dpo",
        "objective.beta=0",
        "policy.zero_stage=4",
        "algorithm.min_group=1",
        "objective.label_smoothing=0.5",
        "num_rounds=-3",
    ) == [
        "algorithm.min_group=1: must be at least 2",
        "objective.beta=0.0: must be above 0",
        "objective.label_smoothing=0.5: must be below 0.5",
        "policy.zero_stage=4: must be at most 3",
        "num_rounds=-3: must be at least 1",
    ]


def test_keys_that_are_added_by_force_and_that_nothing_reads_are_told():
    assert problems("objective=dpo", "+objective.betta=3", "+foo=1", "++policy.num_rank=2") == [
        "foo=1: there is no such key",
        "objective.betta=3: there is no such key; did you mean objective.beta?",
        "policy.num_rank=2: there is no such key; did you mean policy.num_ranks?",
    ]


def test_further_arguments_of_the_engine_come_by_their_own_names():
    added = ("+rollout.engine.max_num_seqs=4", "+rollout.engine.speculative_config={method: ngram}")
    config = typed(composed("experiment=demo", "rollout=vllm", *added))
    assert config.rollout.engine == {"max_num_seqs": 4, "speculative_config": {"method": "ngram"}}
    assert problems("rollout=vllm", "+rollout.engine.max_num_seq=4") == [
        "rollout.engine.max_num_seq=4: vLLM has no such argument; did you mean "
        "rollout.engine.max_num_seqs?"
    ]


def test_an_adapter_does_not_travel_as_weights_do():
    colocated = ("rollout=vllm", "placement=colocated", "max_staleness=0")
    lora = ("policy.lora_rank=600", "weights.transport=ipc")
    assert problems(*colocated, *lora) == [
        "weights.transport=ipc: the adapter of policy.lora_rank=600 travels by the object store; "
        "leave it out, or set weights.lora=merged to send every weight",
        "policy.lora_rank=600: vLLM serves adapters of at most 512; lower it, or set "
        "weights.lora=merged",
    ]
    assert problems(*colocated, *lora, "weights.lora=merged") == []


def test_rollout_workers_come_and_go_where_their_weights_can_follow():
    assert problems("rollout.max_workers=4") == []
    assert problems("rollout=vllm", "placement=disaggregated", "rollout.max_workers=4") == [
        "rollout.max_workers=4: GPUs that send weights to each other are connected once, when the "
        "run begins; set weights.transport=object_store"
    ]
    by_store = ("rollout=vllm", "placement=disaggregated", "weights.transport=object_store")
    assert problems(*by_store, "rollout.max_workers=4") == []
    (line,) = problems("rollout=vllm", "placement=colocated", "rollout.max_workers=4")
    assert line.startswith("rollout.max_workers=4: with placement=colocated each rollout worker")
    few = ("rollout.num_workers=2", "rollout.max_workers=1", "cluster.max_restarts=0")
    assert problems(*few) == [
        "rollout.max_workers=1: must be at least rollout.num_workers=2, with which the run begins",
        "rollout.max_workers=1: needs cluster.max_restarts of at least 1; leave it out, or raise "
        "that",
    ]


def test_what_is_not_a_number_is_in_no_range(demo):
    demo.policy.learning_rate = math.nan
    assert config_problems(demo) == ["policy.learning_rate=nan: must be above 0"]


def test_what_is_infinite_is_no_number_of_anything(demo):
    demo.policy.learning_rate = demo.objective.beta = math.inf
    demo.judge = TextJudgeConfig(sign=math.nan)
    demo.policy.micro_batch_tokens = 10**400  # larger than any float
    assert sorted(config_problems(demo))[-3:] == [
        "judge.sign=nan: must be a finite number",
        "objective.beta=inf: must be a finite number",
        "policy.learning_rate=inf: must be a finite number",
    ]


def test_a_marker_is_looked_for_in_a_column(demo):
    demo.data = FilesConfig(path="x.jsonl", answer_marker="####")
    (told,) = [line for line in config_problems(demo) if "marker" in line]
    assert told.startswith("data.answer_marker=####: is looked for in data.answer_column, which is")


def test_a_curator_needs_several_judges_and_a_loss_that_takes_its_labels(demo):
    demo.curator = StrengthConfig()
    (line,) = config_problems(demo)
    assert line.startswith("curator=strength: needs a judge that asks others")
    demo.judge = PanelConfig(members={"a": VerifierConfig(), "b": VerifierConfig()})
    assert config_problems(demo) == []
    demo.objective = KTOConfig()
    (line,) = config_problems(demo)
    assert line.startswith("curator.right=0.9: objective=kto takes the chosen side")
    demo.curator.right = 1.0
    assert config_problems(demo) == []


@pytest.mark.parametrize(
    "batch_size, ranks, nearest",
    [(10, 4, 8), (11, 4, 12), (9, 4, 8), (1, 4, 4), (3, 4, 4), (65, 64, 64), (6, 4, 4)],
)
def test_a_batch_that_ranks_cannot_share_names_the_nearest_that_they_can(
    demo, batch_size, ranks, nearest
):
    demo.policy.batch_size, demo.policy.num_ranks = batch_size, ranks
    (problem,) = config_problems(demo)
    assert problem.startswith(f"policy.batch_size={batch_size}: must be divisible")
    assert problem.endswith(f"policy.num_ranks={ranks}; the nearest is {nearest}")


@pytest.mark.parametrize("ranks", [0, -2])
def test_an_impossible_number_of_ranks_is_told_like_any_other(demo, ranks):
    demo.policy.num_ranks, demo.seed = ranks, -1
    assert config_problems(demo) == [
        f"policy.num_ranks={ranks}: must be at least 1",
        "seed=-1: must be at least 0",
    ]


@pytest.mark.parametrize("algorithm", sorted(path.stem for path in (CONF / "algorithm").iterdir()))
def test_any_options_fit_together_or_are_refused_in_lines(something, algorithm: str):
    config = made(something, "model=tiny", f"algorithm={algorithm}")
    for group in ("objective", "judge", "data"):
        for schema in SCHEMAS[group].values():
            setattr(config, group, schema())
            assert [*unknown_keys(config, ""), *out_of_range(config, "")] == []
    # So that everything that is told of them is what they cannot be together.
    for objective in SCHEMAS["objective"].values():
        for judge in SCHEMAS["judge"].values():
            for data in SCHEMAS["data"].values():
                config.objective, config.judge, config.data = objective(), judge(), data()
                lines = list(contradictions(config))
                assert len(set(lines)) == len(lines)
                assert all(re.match(r"[a-z_]+(\.[a-z_]+)*(=|:|,| )", line) for line in lines)


@pytest.mark.parametrize("algorithm", sorted(path.stem for path in (CONF / "algorithm").iterdir()))
def test_what_wants_answers_of_one_turn_refuses_an_environment(something, algorithm: str):
    of_one_turn = {
        "mcts",
        "tree_plv",
        "tpo",
        "itool",
        "prune",
        "dstc",
        "drift",
        "spin",
        "wildfeedback",
        "iterative_dpo",
    }
    config = made(something, "model=tiny", f"algorithm={algorithm}")
    config.data = ArithmeticConfig()
    told = []
    for environment in (EnvironmentConfig(), FunctionEnvironmentConfig(function=something)):
        config.environment = environment
        told.append(" ".join(config_problems(config)))
    counts = [lines.count("in an environment an answer has several turns") for lines in told]
    assert counts == [0, algorithm in of_one_turn]


def test_who_goes_by_an_environments_rewards_needs_one(something):
    chosen = ("model=tiny", "data=arithmetic", "judge=environment")
    (line,) = config_problems(made(something, *chosen))
    assert line.startswith("judge=environment: there is no environment to reward answers; set ")
    assert config_problems(made(something, *chosen, "environment=function")) == []


def test_only_a_log_is_said_to_lack_replies_that_satisfied(something):
    config = made(something, "data=arithmetic", "model=tiny", "algorithm=spin", "judge=none")
    (line,) = config_problems(config)
    assert line.startswith("algorithm: it learns from what users said")


def test_optimism_without_completions_of_the_initial_policy_is_no_traceback(something):
    config = made(something, "data=arithmetic", "model=tiny", "objective=vpo")
    assert config_problems(config) == []


def test_a_group_that_no_padded_batch_can_hold(demo):
    demo.algorithm.num_completions = 8
    demo.rollout = TransformersRolloutConfig(
        max_prompt_tokens=16, max_completion_tokens=8, max_batch_tokens=8 * (16 + 8)
    )
    assert config_problems(demo) == []
    demo.rollout.max_batch_tokens -= 1
    (problem,) = config_problems(demo)
    assert "8 completions may come to 192 tokens" in problem


@pytest.mark.parametrize(
    "changes, told",
    [
        (
            {"weights": WeightsConfig(Transport.nccl)},
            "weights.transport=nccl: needs rollout=vllm and placement=disaggregated",
        ),
        (
            {"data": FilesConfig(path="x"), "warmup": WarmupConfig(steps=7)},
            "warmup.steps=7: needs demonstrations",
        ),
        (
            {"max_staleness": 2, "round": RoundConfig(hardest_share=0.3)},
            "max_staleness=2: with round.hardest_share=0.3 a round's prompts follow from the "
            "policy before it; set max_staleness=0, or round.hardest_share=1",
        ),
        ({"round": RoundConfig(hardest_share=0.0)}, "round.hardest_share=0.0: must be above 0"),
        ({"round": RoundConfig(hardest_share=1.5)}, "round.hardest_share=1.5: must be at most 1"),
        ({"model": ModelConfig(path="/no/where")}, "model.path=/no/where: no such directory"),
        (
            {"placement": PlacementConfig(gpus=True, colocated=True), "policy": PolicyConfig(2)},
            "set rollout.num_workers=2",
        ),
        (
            {"placement": PlacementConfig(gpus=True, colocated=True), "max_staleness": 1},
            "max_staleness=1: with placement=colocated policy and rollout take turns",
        ),
    ],
)
def test_choices_that_contradict_each_other(demo, changes, told):
    (problem,) = config_problems(replace(demo, **changes))
    assert told in problem


def test_a_model_of_pickles_is_refused(demo, tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    demo.model = ModelConfig(path=str(tmp_path))
    assert config_problems(demo) == [
        f"model.path={tmp_path}: has no config.json, so it is not a Hugging Face model",
        f"model.path={tmp_path}: has no *.safetensors; pickled weights are not loaded",
    ]


USERS = ("experiment=users",)
LOG = ("data=feedback", "data.path=x", "judge=none")
GUIDED_JUDGE = (
    "judge=llm",
    "judge.endpoint=http://j/v1",
    "judge.model=m",
    "judge.user_guided=true",
)


@pytest.mark.parametrize(
    "overrides, told",
    [
        (("experiment=demo", "judge=none"), "judge=none: someone has to compare completions"),
        (
            (*USERS, "data=arithmetic", "judge=verifier"),
            "algorithm: it learns from what",
        ),
        (("experiment=demo", "judge=simulated_users"), "knows the wishes of data=simulated_users"),
        (
            (*USERS, "algorithm.chosen=plain", "algorithm.rejected=plain"),
            "nothing tells the two sides apart",
        ),
        ((*USERS, "algorithm.truncated=penalise"), "there are no scores to lower"),
        ((*USERS, "judge=none", "algorithm.min_margin=0.5"), "algorithm.min_margin=0.5: needs a"),
        (
            (*USERS, *GUIDED_JUDGE),
            "judge.user_guided=true: needs what users said; set data=feedback",
        ),
        (
            (*USERS, *LOG, "warmup.steps=0", "data.label=llm"),
            "data.label=llm: a run asks no model",
        ),
        (
            (*USERS, *LOG, "warmup.steps=0", "data.feed=new", "algorithm=spin"),
            "algorithm.chosen=logged: needs replies that satisfied",
        ),
        (
            (*USERS, *LOG, "warmup.steps=7"),
            "warmup.steps=7: data=feedback demonstrates nothing",
        ),
        (
            (*USERS, *LOG, "warmup.steps=0", "round.hardest_share=0.3"),
            "round.hardest_share=0.3: data=feedback demonstrates nothing; set it to 1",
        ),
    ],
)
def test_what_cannot_be_learnt_from_users_is_told(overrides, told):
    (problem,) = config_problems(typed(composed(*overrides)))
    assert told in problem


def test_lists_of_choices_are_plain_values_too():
    found = plain(typed(composed(*USERS, "algorithm.filters=[empty,refusal]")))
    assert found["algorithm"]["filters"] == ["empty", "refusal"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["judge=none"], "algorithm.value=outcome: whole answers must be right or wrong"),
        (["algorithm.value=judge"], "algorithm.value=judge: the judge must score partial answers"),
        (["algorithm.truncated=drop"], "algorithm.truncated=drop: a tree has no gaps"),
        (["algorithm.stop=['']"], "algorithm.stop=['']: needs texts that end a step"),
        (
            ["algorithm.num_completions=1", "algorithm.num_root_completions=1"],
            "algorithm.num_completions=1 algorithm.num_root_completions=1: without siblings",
        ),
        (
            ["algorithm.search=best_first", "algorithm.value=self_evaluation"],
            "algorithm.value=self_evaluation: best-first search goes by look-aheads",
        ),
        (["algorithm.search=best_first"], "algorithm.smooth_labels=true: best-first search tries"),
        (["max_staleness=1"], "max_staleness=1"),
        (["objective=simpo"], "algorithm.smooth_labels=true: objective=simpo"),
        (["objective=kto"], "algorithm.smooth_labels=true: objective=kto"),
        (["objective=ln_dpo"], "algorithm.smooth_labels=true: objective=ln_dpo"),
        (["objective=tpo"], "objective=tpo: needs a ranked list"),
    ],
)
def test_what_a_tree_search_cannot_do_is_told(overrides, problem):
    assert any(line.startswith(problem) for line in of_sums("algorithm=mcts", *overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm=inpo", "objective.tau=0.01"],
        ["algorithm=online_dpo", "objective=inpo", "objective.tau=0.01"],
        [
            "algorithm=inpo",
            "objective=lcpo",
            "objective@objective.of=inpo",
            "objective.of.tau=0.01",
        ],
    ],
)
def test_a_blend_of_anchors_has_no_weight_below_zero(overrides):
    told = "objective.tau=0.01: tau·step_size = 1.33333 is the weight of the initial policy"
    assert any(line.startswith(told) for line in of_sums(*overrides))


def test_certain_labels_and_ranked_lists_have_their_objectives():
    for overrides in (
        ["algorithm=mcts", "objective=simpo", "algorithm.smooth_labels=false"],
        ["algorithm=tpo"],
        ["algorithm=tree_plv", "objective=kto"],
    ):
        assert of_sums(*overrides) == []
    assert of_sums("objective=tpo") == [
        "objective=tpo: needs a ranked list per prompt; set algorithm=tpo"
    ]


def test_calls_need_marks():
    told = of_sums("tools=calculator", "tools.closes=''")
    assert told == ["tools.closes: is empty; calls and results must be told from other text"]
    assert of_sums("tools=calculator") == of_sums("algorithm=mcts") == []
    assert of_sums("tools=calculator", "algorithm=mcts") == []


def test_a_call_of_python_takes_a_while():
    assert of_sums("tools=python", "tools.wall_s=60") == []
    (told,) = of_sums("tools=python", "tools.wall_s=0.05")
    assert told.startswith("tools.wall_s=0.05: ") and "0.1" in told


def test_the_published_settings_of_itool(something):
    config = made(something, "algorithm=itool")
    assert of_sums("algorithm=itool") == []
    assert config.algorithm.stop == [". ", ", ", "=", "("]
    assert config.objective.beta * config.objective.margin == pytest.approx(0.5)
    assert (config.round.hardest_share, config.round.epochs) == (0.3, 2)
    assert config.policy.lora_rank == 8 and config.warmup.easy_first


def of_sums(*overrides: str) -> list[str]:
    base = ("model=tiny", "data=sums", "rollout=transformers", "rollout.max_prompt_tokens=16")
    return config_problems(typed(composed(*base, *overrides)))


@pytest.mark.parametrize("metric", ["eval/sampled_accuracy", "-policy/loss", "judge/part_tone"])
def test_the_best_checkpoint_is_that_of_a_metric_there_is(metric):
    assert problems(f"run.keep_best={metric}") == []
    (line,) = problems(f"run.keep_best={metric.replace('/', '_')}")
    assert line.startswith(f"run.keep_best={metric.replace('/', '_')}: there is no such metric")
