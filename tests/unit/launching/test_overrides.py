"""What people type after a key is what the key gets; what cannot be is told by key and value."""

from pathlib import Path

import pytest
from composing import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st

from rlhf.config.reward import RewardTrainingConfig
from rlhf.feedback.config import FeedbackConfig
from rlhf.launching.command_line import typed
from rlhf.launching.configuration import Config
from rlhf.launching.overrides import as_hydra_reads, quoted
from rlhf.problems import InputError
from rlhf.reward import __main__ as reward
from rlhf.tools.calculator import CalculatorConfig

REQUIRED = ("model.path=/models/x", "data.path=/data/x.jsonl", "run.dir=/runs/x")


def config(*words: str) -> Config:
    return typed(compose("train", as_hydra_reads([*REQUIRED, *words], Config)))


def refusal(*words: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        config(*words)
    return caught.value.problems


AWKWARD = ["####", "a=b", "[a", "[a]", "{a", "{a: b}", "a(b)", "a#b", "a&b", "a!b", "a;b", "<a>"]
AWKWARD += [
    "it's",
    'a "b" c',
    "ü/é.jsonl",
    "日本",
    "a,b",
    "a b",
    " a ",
    "a\\b",
    "a\\",
    "\\'",
    "a\nb",
]
AWKWARD += ["2024_01_01", "1e5", "007", "1.10", "true", "inf", "choice(a,b)", "glob(*)", "$x", "%"]


@pytest.mark.parametrize("value", AWKWARD)
def test_a_text_is_what_was_typed(value):
    made = config(f"data.path={value}", f"data.answer_marker={value}", f"run.dir={value}")
    assert (made.data.path, made.data.answer_marker, made.run.dir) == (value,) * 3


def texts(**more) -> st.SearchStrategy[str]:
    some = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.text(some | st.sampled_from("#=[]{}()\"'\\,:$~ \n\tüa1"), **more)


def value_of(word: str) -> object:
    return OverridesParser.create().parse_override(word).value()


@given(value=texts(min_size=1))
def test_any_text_is_what_was_typed(value):
    # These are Hydra's: a backslash, quotes around a text, the value of another key, and nothing.
    assume("\\" not in value and "${" not in value and value.strip().lower() != "null")
    assume(value.strip()[:1] not in ("'", '"'))
    (read,) = as_hydra_reads([f"data.answer_marker={value}"], Config)
    assert value_of(read) == value


@given(value=texts())
def test_any_text_can_be_given_in_quotes(value):
    assert value_of(quoted("run.dir", value)) == value


def test_what_hydra_reads_as_a_text_stays_hydra_s():
    made = config(
        "data.answer_marker=null",
        r"data.id_column=a\,b",
        "data.prompt_column='a, b'",
        "tracking.group=run-${seed}",
    )
    assert (made.data.answer_marker, made.data.id_column) == (None, "a,b")
    assert (made.data.prompt_column, made.tracking.group) == ("a, b", "run-1")


def test_the_user_s_own_folder_is_found_where_a_place_is_asked_for(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    made = config("data.path=~/x.jsonl", "model.path=~/m", "data.answer_marker=~/", "run.dir=~/r")
    assert (made.data.path, made.model.path) == ("/home/me/x.jsonl", "/home/me/m")
    assert (made.run.dir, made.data.answer_marker) == ("/home/me/r", "~/")
    assert as_hydra_reads(["hydra.sweep.dir=~/s"], Config) == ["hydra.sweep.dir='/home/me/s'"]


def test_a_sweep_s_values_are_texts_too():
    words = ["-m", "model.path=a,b", "data.path=ü.jsonl,b#.jsonl", "seed=1,2", "data.id_column=x"]
    assert as_hydra_reads(words, Config) == [
        *words[:2],
        "data.path='ü.jsonl','b#.jsonl'",
        *words[3:],
    ]
    with pytest.raises(InputError) as caught:
        as_hydra_reads(["-m", "model.path=a(1),b"], Config)
    assert caught.value.problems[0].startswith("model.path=a(1),b: cannot be read; put each text")


@pytest.mark.parametrize(
    "word, told",
    [
        ("num_rounds=3,4", "num_rounds=3,4: has several values; add -m for a sweep"),
        ("objective=dpo,ipo", "objective=dpo,ipo: has several values; add -m for a sweep"),
        ("model.words=[#]", "model.words=[#]: cannot be read; put each text in quotes"),
        ("hydra.sweep.dir=", "hydra.sweep.dir=: is empty"),
    ],
)
def test_what_is_no_text_is_told_with_how_to_write_it(word, told):
    (problem,) = refusal(word)
    assert problem.startswith(told) and "\n" not in problem


@pytest.mark.parametrize(
    "words, told",
    [
        (["model.path=", "data.path="], ["model.path", "data.path"]),
        (
            ["data.heldout_path=", "data.answer_marker="],
            ["data.answer_marker", "data.heldout_path"],
        ),
        (["run.dir=", "data.prompt_column="], ["data.prompt_column", "run.dir"]),
        (["judge=reward_model", "judge.path=''"], ["judge.path"]),
        (["judge=llm", "judge.endpoint=", "judge.model="], ["judge.endpoint", "judge.model"]),
    ],
)
def test_a_text_that_a_variable_of_the_shell_left_empty_is_told_by_its_key(words, told):
    assert refusal(*words) == [
        f"{key}=: is empty; give it a value (is a variable of the shell unset?)" for key in told
    ]


def test_texts_that_may_be_empty():
    made = config("tools=calculator", "tools.reply_opens=")
    assert isinstance(made.tools, CalculatorConfig) and made.tools.reply_opens == ""


def test_the_other_commands_know_their_own_keys(tmp_path: Path):
    words = ["data.path=a#b", "model.path=ü", "output=x=y", "data.chosen_column=1_0", "seed=3"]
    composed = compose("reward", as_hydra_reads(words, RewardTrainingConfig))
    made = reward.typed(composed)
    assert (made.data.path, made.model.path, made.output) == ("a#b", "ü", "x=y")
    assert (made.data.chosen_column, made.seed) == ("1_0", 3)
    assert as_hydra_reads(["path=a#b", "out=1_0", "judge.path=ü"], FeedbackConfig) == [
        "path='a#b'",
        "out='1_0'",
        "judge.path='ü'",
    ]


def test_flags_and_what_hydra_alone_knows_stay_as_they_are():
    words = ["--cfg", "job", "~experiment", "+new.key=1", "judge=verifier", "--config-dir=x#y", "x"]
    assert as_hydra_reads(words, Config) == words
