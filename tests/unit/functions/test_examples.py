"""The examples do what their page says, by the commands that stand there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from composing import compose

from rlhf.asking.sources.base import Wanted
from rlhf.judges.function import FunctionJudgeConfig, Returns
from rlhf.judges.groups import Group
from rlhf.judges.verifier import Verifier, VerifierConfig
from rlhf.launching.checks import config_problems
from rlhf.launching.command_line import typed
from rlhf.launching.configuration import CONF, Config
from rlhf.launching.inputs import try_out
from rlhf.launching.overrides import as_hydra_reads
from rlhf.records import Completion, Judgement, Message, Prompt
from rlhf.watching.tracking_function import FunctionTracker

ROOT = CONF.parent
PAGE = (ROOT / "examples" / "README.md").read_text()
COMMANDS = re.findall(r"^python -m rlhf (.*)$", PAGE, re.MULTILINE)
REWARDS = ROOT / "examples" / "own_reward"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def composed(command: str) -> Config:
    words = as_hydra_reads([*shlex.split(command), "run.dir=/tmp/run"], Config)
    return typed(compose("train", words))


def test_every_function_of_an_example_has_a_command():
    named = set(re.findall(r"(examples/\S+\.py):\w+", " ".join(COMMANDS)))
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "examples").glob("*/*.py")}
    assert named == files
    assert all(f"`{Path(file).parent.name}/`" in PAGE for file in files)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_is_accepted_with_its_function(command):
    config = composed(command)
    assert config_problems(config) == []
    try_out(config)
    config.tools.try_out()
    config.judge.rehearse(Prompt("1", (Message("user", "12+34="),), (1,), answer="46"))


def judged(texts: list[str], function: str, **settings):
    prompt = Prompt("1", (Message("user", "12+34="),), (1,), answer="46")
    group = tuple(Completion("1", i, (1,), (0.0,), t, False, 0) for i, t in enumerate(texts))
    judge = FunctionJudgeConfig(function=f"{REWARDS}/{function}", **settings).builder()()
    return prompt, group, judge


TEXTS = ["46", " 46\n", "+046", "47", "-46", "46.0", "46 46", "", "٤٦", "4 6"]


async def test_the_reward_is_the_verifier():
    assert len((REWARDS / "rewards.py").read_text().splitlines()) == 10
    (expected,) = Verifier(VerifierConfig()).judge([Group(*judged(TEXTS, "rewards.py:score")[:2])])
    for function in ("rewards.py:score", "forms.py:score_elsewhere"):
        prompt, group, judge = judged(TEXTS, function)
        found = await judge.judge(prompt, group)
        judge.close()
        assert isinstance(found, Judgement) and found.scores == expected.scores


async def test_its_other_forms_say_what_they_say():
    prompt, group, judge = judged(["46", "50", "x"], "forms.py:parts")
    found = await judge.judge(prompt, group)
    judge.close()
    assert found.parts == {"right": (1.0, 0.0, 0.0), "brief": (-0.02, -0.02, -0.01)}
    prompt, group, judge = judged(["50", "46", "45"], "forms.py:matrix", returns=Returns.matrix)
    compared = await judge.judge(prompt, group)
    judge.close()
    assert found.scores == (0.98, -0.02, -0.01)
    assert compared.scores == (0.0, 1.0, 0.5)


async def test_a_combination_of_judges_weighs_length_among_what_is_right():
    (command,) = (one for one in COMMANDS if "own_combination" in one)
    config = composed(command).judge
    said = {"right": (1.0, 1.0, 0.0, None), "length": (0.03, 0.02, 0.01, 0.02)}

    class Says:
        def __init__(self, name: str) -> None:
            self.name = name

        async def judge(self, prompt, completions):
            return Judgement(said[self.name], self.name)

    prompt, group, judge = judged(["46", "46", "47", "x"], "rewards.py:score")
    judge.close()
    found = await config.over({name: Says(name) for name in config.asks()}).judge(prompt, group)
    assert found.scores == (pytest.approx(0.97), pytest.approx(0.98), 0.0, None)
    assert found.parts.keys() == said.keys()


def test_the_prompts_are_sums_with_their_answers():
    (command,) = (one for one in COMMANDS if "own_data" in one)
    config = composed(command)
    source = config.data.source(Wanted(answers=True), 1)
    rows = [*source.train, *source.heldout]
    assert len(rows) == len({row.id for row in rows}) == 3000
    for row in rows:
        first, second = row.messages[0].content.removesuffix("=").split("+")
        assert row.answer == str(int(first) + int(second))


def test_the_tracker_writes_the_judge_s_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORES", str(tmp_path / "scores.jsonl"))
    warnings: list[str] = []
    own = FunctionTracker("examples/own_tracking/track.py:log", warnings.append)
    own.log(3, {"judge/score_mean": 0.5, "policy/loss": 1.0})
    own.close()
    found = json.loads((tmp_path / "scores.jsonl").read_text())
    assert found == {"round": 3, "judge/score_mean": 0.5} and not warnings
