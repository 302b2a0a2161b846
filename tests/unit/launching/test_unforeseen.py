"""Options that nobody foresaw: judges get their role, evaluation and refusals by what they say."""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from composing import compose

from actors.judge import JudgeWorker
from rlhf.config.models import TinyModelConfig
from rlhf.judges.base import JudgeConfig, Measure, Seat
from rlhf.launching.assembly import make_evaluation
from rlhf.launching.checks import config_problems
from rlhf.launching.command_line import typed
from rlhf.launching.configuration import Config
from rlhf.launching.inputs import read_inputs
from rlhf.launching.judging import Judges
from rlhf.launching.roles import paths_by_role, roles
from rlhf.options import Fact
from rlhf.records import Completion, Judgement, Message, Prompt
from rlhf.toys.tiny import build_tiny_model
from rlhf.watching.evaluation import ScoreEvaluation, WinRateEvaluation

PROMPT = Prompt("1", (Message("user", "?"),), (1,))


@dataclass
class Vowels(JudgeConfig):
    """A score each: how many vowels there are."""

    name: ClassVar[str] = "vowels"

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts}

    def build(self) -> "Vowels":
        return self

    def judge(self, groups) -> list[Judgement]:
        counts = [[float(sum(map(c.text.count, "aeiou"))) for c in g.completions] for g in groups]
        return [Judgement(tuple(scores), "vowels@1") for scores in counts]


@dataclass
class Heavy(Vowels):
    """One that holds a model on a GPU, reads a file of its own, and compares every two."""

    name: ClassVar[str] = "heavy"

    path: str = ""

    @property
    def seat(self) -> Seat:
        return Seat.gpu

    @property
    def loads(self) -> str:
        return self.path

    def held(self) -> tuple[Path, str]:
        return Path(self.path), "float32"

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.matrix}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("tiny")
    build_tiny_model(TinyModelConfig(num_layers=1, width=16, num_heads=2), directory, seed=1)
    return str(directory)


def judged_by(judge: JudgeConfig, model: str, *overrides: str) -> Config:
    wanted = ["run.dir=x", "data=arithmetic", f"model.path={model}", *overrides]
    config = typed(compose("train", wanted))
    config.judge = judge
    return config


def test_they_get_workers_where_they_say(model: str, tmp_path: Path):
    found = {r.name: r for r in roles(judged_by(Vowels(num_workers=3), model), model)}
    assert (found["judge"].count, found["judge"].num_gpus) == (3, 0)
    heavy = judged_by(Heavy(path=model), model, "placement=disaggregated")
    found = {r.name: r for r in roles(heavy, model)}
    assert found["judge"].num_gpus == 1 and found["judge"].memory_bytes > 0
    assert paths_by_role(heavy, tmp_path, model)["judge"] == [Path(model)]


def test_a_worker_is_built_from_what_they_say():
    sides = tuple(Completion("1", i, (1,), (0.0,), t, False, 0) for i, t in enumerate(("ae", "b")))
    worker = JudgeWorker(Vowels().builder())
    (verdict,) = worker._judges[0].judge([type("Group", (), {"completions": sides})()])
    assert verdict.scores == (2.0, 0.0)


def test_they_are_measured_by_what_they_give(model: str, tmp_path: Path):
    overrides = ("rollout.max_prompt_tokens=16", "rollout.max_completion_tokens=16",
                 "data.num_prompts=200", "data.num_heldout=20")  # fmt: skip

    def measured(judge: JudgeConfig):
        config = judged_by(judge, model, *overrides)
        config.judge.inspect = lambda asked: None  # type: ignore[method-assign]
        inputs = read_inputs(config, tmp_path)
        return make_evaluation(config, inputs, None, Judges(object()), tmp_path, begins=True)  # type: ignore

    assert isinstance(measured(Vowels()), ScoreEvaluation)
    assert isinstance(measured(Heavy(path=model)), WinRateEvaluation)
    assert (Vowels().measure, Heavy().measure) == (Measure.score, Measure.win_rate)


@pytest.mark.parametrize(
    ("overrides", "begins"),
    [
        (("algorithm=mcts",), "algorithm.value=outcome: whole answers must be right or wrong"),
        (("algorithm=tree_plv",), "algorithm.value=outcome: whole answers must be right or wrong"),
        (("algorithm=prune",), "algorithm=prune: endings must be right or wrong"),
    ],
)
def test_what_needs_more_of_them_is_refused(model: str, overrides: tuple[str, ...], begins: str):
    problems = config_problems(judged_by(Vowels(), model, *overrides))
    assert any(problem.startswith(begins) for problem in problems), problems
    assert not any("judge=none" in problem for problem in problems)


def test_who_gives_what_is_needed_is_not_refused(model: str):
    assert config_problems(judged_by(Vowels(), model, "algorithm=online_dpo")) == []
    assert config_problems(judged_by(Vowels(), model, "algorithm=sppo")) == []
