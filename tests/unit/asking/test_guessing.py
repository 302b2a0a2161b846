"""Guessing games: what a careless player says, and the words that the environment has for it."""

import importlib.util
import json
from pathlib import Path

import pytest

from rlhf.asking.prompts import load_data
from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.files import FilesConfig
from rlhf.asking.sources.guessing import GuessingConfig
from rlhf.config.models import Rendering, Vocabulary
from rlhf.data.rendering import Renderer, Row
from rlhf.records import Message
from rlhf.tools.syntax import ToolsConfig
from rlhf.toys.tiny import CHAT_TEMPLATE, build_tokenizer

EXAMPLE = Path(__file__).parents[3] / "examples" / "guessing" / "env.py"


@pytest.fixture(scope="module")
def guessing():
    spec = importlib.util.spec_from_file_location("guessing_example", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def turns(row: Row) -> tuple[Message, ...]:
    assert isinstance(row.demonstration, tuple)
    return row.demonstration


def games(config: GuessingConfig) -> tuple[list[Row], list[Row]]:
    source = config.source(Wanted(), seed=1)
    return source.train, source.heldout


def test_demonstrations_are_games_that_the_environment_would_play(guessing) -> None:
    train, heldout = games(GuessingConfig(num_prompts=700, num_heldout=70))
    rows = [*train, *heldout]
    assert len({row.id for row in rows}) == 770
    assert {row.messages for row in rows} == {(Message("user", "1-7"),)}, "which tells nothing"
    assert {row.answer for row in rows} == set("1234567")
    num_won = 0
    for row in rows:
        env, (first, *rest) = guessing.Guessing(), turns(row)
        assert env.reset({"prompt": "1-7", "answer": row.answer}) == "1-7"
        said, done, reward = env.step(first.content)
        for reply, guess in zip(rest[::2], rest[1::2], strict=True):
            assert (reply.role, reply.content, done) == ("user", said, False)
            said, done, reward = env.step(guess.content)
        assert done
        num_won += reward == 1
    assert 0.46 < num_won / 770 < 0.58, "of half careless players 0.52 win"
    always, _ = games(GuessingConfig(highest=3, careless=0))
    assert all(turns(row)[-1].content == row.answer for row in always)


def test_a_demonstration_of_several_turns_trains_on_the_policys_own() -> None:
    tokenizer = build_tokenizer(Vocabulary.bytes)
    tokenizer.chat_template = CHAT_TEMPLATE
    renderer = Renderer(tokenizer, Rendering.chat)
    config = GuessingConfig(num_prompts=20)
    data = load_data(
        config,
        renderer,
        max_prompt_tokens=16,
        max_completion_tokens=32,
        wanted=Wanted(),
        tools=ToolsConfig(),
        seed=1,
    )

    def decoded(ids: tuple[int, ...]) -> str:
        return str(tokenizer.decode(list(ids)))

    for row in games(config)[0]:
        shown = data.demonstrations[row.id]
        observed = [decoded(shown.completion[a:b]) for a, b in shown.observed]
        assert observed == [f"\n?{turn.content}\n!" for turn in turns(row)[1::2]]
        own, end = [], 0
        for start, stop in (*shown.observed, (len(shown.completion),) * 2):
            own.append(decoded(shown.completion[end:start]))
            end = stop
        assert own == [f"{turn.content}<eos>" for turn in turns(row)[::2]]


@pytest.mark.parametrize("end", ["=", "\n", "= "])
def test_a_turn_that_ends_at_a_text_goes_on_behind_what_is_said_to_it(tmp_path, end) -> None:
    call = [("assistant", f"<<1+2{end}"), ("user", "3>>"), ("assistant", "3"), ("user", "sure?"),
            ("assistant", "yes")]  # fmt: skip
    turns = [{"role": role, "content": content} for role, content in call]
    row = json.dumps({"prompt": "1+2", "turns": turns})
    (tmp_path / "a.jsonl").write_text(f"{row}\n{row}\n")
    tokenizer = build_tokenizer(Vocabulary.bytes)
    data = load_data(
        FilesConfig(
            path=str(tmp_path / "a.jsonl"),
            heldout_path=str(tmp_path / "a.jsonl"),
            demonstration_column="turns",
        ),
        Renderer(tokenizer, Rendering.plain),
        max_prompt_tokens=16,
        max_completion_tokens=32,
        wanted=Wanted(),
        tools=ToolsConfig(),
        seed=1,
        stops=(end,),
    )
    shown = next(iter(data.demonstrations.values()))
    assert tokenizer.decode(list(shown.completion)) == f"<<1+2{end}3>>3<eos>sure?yes<eos>"
    first = len(f"<<1+2{end}")
    assert shown.observed == ((first, first + 3), (first + 5, first + 10))
