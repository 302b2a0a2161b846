"""Everybody who judges, from the command line: composed, checked, seated, told by their keys."""

from pathlib import Path

import pytest
import yaml
from composing import compose
from hydra.errors import HydraException

from rlhf.config.models import TinyModelConfig
from rlhf.judges.llm import LLMJudgeConfig
from rlhf.judges.verifier import VerifierConfig
from rlhf.launching.assembly import make_evaluation, require_answers
from rlhf.launching.checks import config_problems, plain
from rlhf.launching.command_line import checked, hydra_problem, typed
from rlhf.launching.configuration import Config
from rlhf.launching.fingerprints import fingerprints, require_same
from rlhf.launching.inputs import read_inputs
from rlhf.launching.judging import Judges, judge_problems, need_answers, read_rows
from rlhf.launching.overrides import as_hydra_reads
from rlhf.launching.roles import paths_by_role, roles
from rlhf.problems import InputError
from rlhf.storage.run_directory import flat
from rlhf.toys.tiny import build_tiny_model
from rlhf.watching.gold import GoldEvaluation

TYPED = [
    "judge=panel", "+judge@judge.members.maths=verifier",
    "+judge@judge.members.taste=reward_model", "judge.members.taste.path=M",
]  # fmt: skip
WEIGHED = "judge.weights={maths: 1, taste: 0.1}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("tiny")
    build_tiny_model(TinyModelConfig(num_layers=1, width=16, num_heads=2), directory, seed=1)
    return str(directory)


def config(*words: str) -> Config:
    small = ["data=arithmetic", "run.dir=x", "model=tiny", "model.path=tiny"]
    return typed(compose("train", as_hydra_reads([*small, *words], Config)))


def told(*words: str) -> str:
    with pytest.raises(HydraException) as caught:
        config(*words)
    return hydra_problem(caught.value)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_members_and_weights_are_what_was_typed(plus: str):
    made = config(*TYPED, plus + WEIGHED)
    assert config_problems(made) == []
    judge = plain(made)["judge"]
    assert judge["members"]["taste"]["path"] == "M" and judge["combine"] == "sum"
    assert judge["weights"] == {"maths": 1.0, "taste": 0.1}
    kept = yaml.safe_load(yaml.safe_dump(plain(made), sort_keys=False))
    assert kept["judge"] == judge
    assert flat(kept)["judge.members.maths.check"] == "integer"


@pytest.mark.parametrize("value", ["a#1", "x=2", "[a", "1e5", "a,b", "ü"])
@pytest.mark.parametrize("place", ["judge.members.taste.path", "eval.gold.path"])
def test_a_member_s_text_is_what_was_typed(place: str, value: str):
    gold = ["+judge@eval.gold=reward_model", "eval.gold.path=G"]
    assert flat(plain(config(*TYPED, *gold, f"{place}={value}")))[place] == value


def test_a_place_in_a_member_of_a_member_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    inner = ["judge=panel", "+judge@judge.members.o=panel",
             "+judge@judge.members.o.members.i=reward_model"]  # fmt: skip
    made = config(*inner, "judge.members.o.members.i.path=~/m", "judge.members.o.weights.i=2")
    assert flat(plain(made))["judge.members.o.members.i.path"] == "/home/me/m"
    assert made.judge.asks()["o"].asks()["i"].loads == "/home/me/m"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["judge@judge.members.a=verifier"],
         "judge@judge.members.a=verifier: nothing is chosen there yet; write "
         "+judge@judge.members.a=verifier"),
        (["judge.members.a=verifier"],
         "judge.members.a: no judge is chosen there; write +judge@judge.members.a=NAME"),
        (["+judge.members.a.check=math"],
         "judge.members.a: no judge is chosen there; write +judge@judge.members.a=NAME"),
        (["+judge@judge.members.a=verifer"], "did you mean judge=verifier?"),
        (["+judge@judge.members.a=verifier", "judge.members.a.chek=math"],
         "judge.members.a.chek: there is no such key; did you mean judge.members.a.check?"),
        (["+judge@eval.gold=verifier", "eval.gold.chek=math"], "did you mean eval.gold.check?"),
    ],
)  # fmt: skip
def test_what_hydra_refuses_is_told_with_what_to_type(words: list[str], line: str):
    assert line in told("judge=panel", *words)


def test_whatever_is_wrong_with_a_member_is_told_by_its_key():
    problems = config_problems(
        config(
            *TYPED, "judge.members.taste.max_tokens=0", "+judge.members.taste.pth=1",
            "judge.weights.math=1", "+judge@judge.members.ask=llm",
            "+judge@eval.gold=llm", "+eval.gold.modle=1", "eval.gold.concurrency=0",
        )
    )  # fmt: skip
    assert [problem.partition(": ")[0] for problem in problems] == [
        "eval.gold.modle=1", "judge.members.taste.pth=1", "judge.members.taste.max_tokens=0",
        "eval.gold.concurrency=0",
        "judge.members.ask.path, judge.members.ask.endpoint", "judge.weights.math=1",
        "eval.gold.path, eval.gold.endpoint",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"^judge.members.taste.path=: is empty"):
        config(*TYPED[:3], "judge.members.taste.path=''")
    with pytest.raises(InputError, match=r"^judge.members.taste.path: is required"):
        config(*TYPED[:3])


def test_what_members_and_gold_need_has_to_be_there(tmp_path: Path):
    logs = ["data=feedback", f"data.path={tmp_path}", "algorithm=drift"]
    (line,) = config_problems(config(*logs, "judge=panel", "+judge@judge.members.m=verifier"))
    assert line.startswith("+judge@judge.members.m=verifier: compares with solutions")
    (line,) = config_problems(config(*logs, "judge=none", "+judge@eval.gold=verifier"))
    assert line.startswith("+judge@eval.gold=verifier: compares with solutions")
    # What gold gives is nobody's to learn from.
    right = ["algorithm=prune", "judge=text"]
    assert config_problems(config(*right)) == config_problems(
        config(*right, "+judge@eval.gold=verifier")
    )


def test_each_member_has_a_role_of_its_own_and_gold_another(model: str, tmp_path: Path):
    typed = ["judge=panel", "+judge@judge.members.maths=verifier",
             "judge.members.maths.num_workers=3", "+judge@judge.members.ask=llm",
             f"judge.members.ask.path={model}", "+judge@judge.members.far=llm",
             "judge.members.far.endpoint=http://x/v1", "judge.members.far.model=m",
             "+judge@eval.gold=panel", "+judge@eval.gold.members.text=text"]  # fmt: skip
    made = config(*typed, "placement=disaggregated")
    found = {role.name: (role.count, role.num_gpus) for role in roles(made, model)}
    assert {name: found[name] for name in found if name.partition(".")[0] in ("judge", "gold")} == {
        "judge.maths": (3, 0), "judge.ask": (1, 1), "gold.text": (1, 0),
    }  # fmt: skip
    assert paths_by_role(made, tmp_path, model)["judge.ask"] == [Path(model)]
    missing = config(*TYPED)
    with pytest.raises(InputError, match=r"^judge.members.taste.path=M: no such folder"):
        roles(missing, model)
    assert need_answers(made) and not read_rows(made)
    assert read_rows(config("judge=text", "+judge@eval.gold=function", "eval.gold.function=a:b"))


def test_members_of_one_model_share_a_role_and_its_memory(model: str, tmp_path: Path):
    same = ["judge=cdr", f"judge.members.strong.path={model}", f"judge.members.weak.path={model}",
            "judge.members.weak.system=Be brief.", "judge.members.weak.num_workers=2"]  # fmt: skip
    gpus = "placement=disaggregated"
    (one,) = [r for r in roles(config(*same, gpus), model) if r.name.startswith("judge")]
    assert (one.name, one.count, one.num_gpus) == ("judge.strong", 2, 1)
    assert one.memory_parts.endswith("; judge.weak too")
    apart = config(*same, "judge.members.weak.dtype=float64", gpus)
    assert [r.name for r in roles(apart, model) if r.name.startswith("judge")] == [
        "judge.strong", "judge.weak",
    ]  # fmt: skip
    asked = ["judge=panel", "+judge@judge.members.a=llm", f"judge.members.a.path={model}",
             "+judge@judge.members.b=rubric", f"judge.members.b.path={model}",
             "+judge@eval.gold=llm", f"eval.gold.path={model}"]  # fmt: skip
    names = [r.name for r in roles(config(*asked), model)]
    assert names[-2:] == ["judge.a", "gold"] and "judge.b" not in names


def test_files_of_members_and_gold_are_read_before_a_run_and_known_by_content(
    model: str, tmp_path: Path
):
    mine = tmp_path / "mine.py"
    mine.write_text("def score(prompt, completions, row): return [1 / 0]\n")
    functions = ["judge=panel", "+judge@judge.members.mine=function",
                 f"judge.members.mine.function={mine}:scor", "+judge@judge.members.text=text",
                 "+judge@eval.gold=reward_model", f"eval.gold.path={model}"]  # fmt: skip
    small = ["rollout.max_prompt_tokens=16", "rollout.max_completion_tokens=16",
             f"model.path={model}", "data.num_prompts=200", "data.num_heldout=20"]  # fmt: skip
    wrong = config(*functions, *small)
    assert [line.partition(": it has")[0] for line in judge_problems(wrong, "")] == [
        f"eval.gold.path={model}"
    ]
    right = config(*functions[:-2], *small)
    with pytest.raises(InputError, match=r"^judge.members.mine.function=.*did you mean score"):
        read_inputs(right, tmp_path)
    known = fingerprints(plain(wrong))
    assert known.keys() >= {"judge.members.mine.function", "eval.gold.path"}
    require_same(tmp_path, known, [], resumes=False)
    del known["eval.gold.path"]  # gold may come and go
    require_same(tmp_path, known, [], resumes=True)
    mine.write_text("")
    with pytest.raises(InputError, match=r"^judge.members.mine.function: what it names"):
        require_same(tmp_path, fingerprints(plain(wrong)), [], resumes=True)


def test_gold_has_an_evaluation_beside_the_judge_s(model: str, tmp_path: Path):
    small = ["rollout.max_prompt_tokens=16", "rollout.max_completion_tokens=16",
             f"model.path={model}", "data.num_prompts=200", "data.num_heldout=20"]  # fmt: skip
    made = checked(
        compose("train", ["data=arithmetic", "run.dir=x", *small, "+judge@eval.gold=verifier"])
    )
    assert made.eval.gold == VerifierConfig()
    inputs = read_inputs(made, tmp_path)
    judges = Judges(object(), object())  # type: ignore[arg-type]
    found = make_evaluation(made, inputs, None, judges, tmp_path, begins=True)  # type: ignore
    assert isinstance(found, GoldEvaluation)
    assert found.own.heldout.initial == tmp_path / "initial_completions.json"  # type: ignore
    # Of a run that goes on, one that compares is refused where nothing is kept.
    require_answers(made, inputs, tmp_path)
    made.eval.gold = LLMJudgeConfig(path="m")
    with pytest.raises(InputError, match=r"^eval\.gold=llm: compares with what the initial"):
        require_answers(made, inputs, tmp_path)
