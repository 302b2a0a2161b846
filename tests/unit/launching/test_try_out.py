"""Functions of the user's own are tried before workers start, and all that is wrong is told."""

from pathlib import Path

import pytest

from rlhf.algorithms.function import FunctionAlgorithmConfig
from rlhf.algorithms.online import OnlineDPOConfig
from rlhf.asking.sources.arithmetic import ArithmeticConfig
from rlhf.config.models import TinyModelConfig, TransformersRolloutConfig
from rlhf.config.run import RoundConfig, TrackingConfig
from rlhf.judges.function import FunctionJudgeConfig
from rlhf.judges.verifier import VerifierConfig
from rlhf.launching.configuration import Config
from rlhf.launching.inputs import read_inputs, try_out
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.function import FunctionObjectiveConfig
from rlhf.problems import InputError
from rlhf.tools.function import FunctionToolConfig


@pytest.fixture
def config() -> Config:
    return Config(
        algorithm=OnlineDPOConfig(),
        objective=DPOConfig(),
        judge=VerifierConfig(),
        model=TinyModelConfig(num_layers=1, width=8, num_heads=2),
        data=ArithmeticConfig(num_prompts=20, num_heldout=5),
        rollout=TransformersRolloutConfig(max_prompt_tokens=16, max_completion_tokens=8),
        round=RoundConfig(prompts=8),
    )


def keys(error: InputError) -> list[str]:
    return [problem.split("=")[0] for problem in error.problems]


def test_what_training_alone_runs(config, tmp_path):
    try_out(config)
    (tmp_path / "own.py").write_text("def f(one, two): return 0\nasync def g(pairs): pass")
    config.algorithm = FunctionAlgorithmConfig(function=f"{tmp_path}/own.py:f")
    config.objective = FunctionObjectiveConfig(function=f"{tmp_path}/own.py:g")
    config.tracking = TrackingConfig(function=f"{tmp_path}/own.py:h")
    with pytest.raises(InputError) as error:
        try_out(config)
    assert keys(error.value) == ["algorithm.function", "objective.function", "tracking.function"]
    config.tracking = TrackingConfig(function=f"{tmp_path}/own.py:f")
    config.algorithm, config.objective = OnlineDPOConfig(), DPOConfig()
    try_out(config)


def test_what_evaluations_run_too(config, tmp_path):
    config.tools = FunctionToolConfig(function="absent.py:use")
    config.judge = FunctionJudgeConfig(function="absent.py:score")
    with pytest.raises(InputError) as error:
        read_inputs(config, tmp_path)
    assert keys(error.value) == ["judge.function", "tools.function"]


def test_a_reward_is_tried_on_a_prompt_of_the_data(config, tmp_path):
    text = "def score(prompt, completions, row): return [len(row['answer'])] * ROWS"
    for size, fails in ((2, False), (3, True)):
        (tmp_path / "own.py").write_text(text.replace("ROWS", str(size)))
        config.judge = FunctionJudgeConfig(function=f"{Path(tmp_path)}/own.py:score")
        if not fails:
            assert read_inputs(config, tmp_path).data.train
            continue
        with pytest.raises(InputError, match=r"called with the prompt \S+ and .*: returned 3 va"):
            read_inputs(config, tmp_path)
