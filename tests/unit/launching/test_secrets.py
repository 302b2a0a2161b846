"""Logins and keys are refused before anything is written, and never repeated."""

import sys

import pytest

from rlhf.judges.llm import LLMJudgeConfig
from rlhf.launching import secrets
from rlhf.launching.command_line import begin
from rlhf.launching.configuration import Config
from rlhf.launching.overrides import as_hydra_reads
from rlhf.problems import InputError

HELD = {
    "a login": "http://me:sesame-open@judge:8000/v1",
    "a user alone": "https://sesame-open@judge/v1",
    "a login of another kind": "s3+x://me:sesame-open@host/file.jsonl",
    "a key in a query": "https://judge/v1?model=a&api_key=sesame-open",
    "a signature": "https://store/data.jsonl?sig=sesame-open",
    "a token of a hub": "hf_" + "sesameopen" * 3,
    "a key of a service": "sk-sesame-open-sesame-open",
    "a variable's value": "before-sesame-open-behind",
}
FREE = ["http://judge:8000/v1", "data/a@b.jsonl", "me@host", "sk-learn", "hf_model", "a?key", "x"]


@pytest.fixture(autouse=True)
def variable(monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "sesame-open")


@pytest.mark.parametrize("what", HELD)
@pytest.mark.parametrize("key", ["judge.endpoint", "+anything.else", "data.path", "hydra.run.dir"])
def test_a_command_that_holds_a_secret_is_refused_without_repeating_it(key, what):
    with pytest.raises(InputError) as caught:
        as_hydra_reads(["experiment=demo", f"{key}={HELD[what]}"], Config)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{key}: holds ") and "sesame" not in problem


@pytest.mark.parametrize("text", FREE)
def test_what_only_looks_alike_is_free(text):
    assert secrets.secret_in(text) is None


def test_short_values_of_variables_are_not_looked_for(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "demo")
    assert secrets.secret_in("experiment=demo") is None


def test_it_is_refused_before_hydra_begins(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rlhf", "-m", f"judge.endpoint={HELD['a login']},x"])

    def hydra_main() -> None:
        raise AssertionError("Hydra writes the command to a file")

    with pytest.raises(SystemExit) as ended:
        begin(hydra_main, Config)
    told = capsys.readouterr()
    assert ended.value.code == 2 and told.err.startswith("error: judge.endpoint: holds a URL with")
    assert "sesame" not in told.err + told.out and not list(tmp_path.iterdir())


def test_a_recipe_that_holds_one_is_refused_too():
    config = LLMJudgeConfig(endpoint=HELD["a login"], model="m")
    (problem,) = secrets.in_values({"judge": {"members": [config]}}, "config")
    assert problem.startswith("config.judge.members.endpoint: holds") and "sesame" not in problem
    (problem,) = secrets.in_values({"judge": {HELD["a login"]: 1}}, "config")
    assert problem == "config.judge: holds a name that is a secret"


@pytest.mark.parametrize("endpoint", ["me:sesame@judge/v1", "http://judge/v1?sesame"])
def test_an_endpoint_that_holds_one_in_another_way_is_not_repeated(endpoint):
    (problem,) = LLMJudgeConfig(endpoint=endpoint, model="m").problems()
    assert problem.startswith("judge.endpoint: contains a login") and "sesame" not in problem
