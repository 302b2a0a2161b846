"""Guessing games: what a careless player says, and the words that the environment has for it."""

import importlib.util
from pathlib import Path

import pytest

from rlhf.asking.prompts import load_data
from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.guessing import GuessingConfig, guessing_rows
from rlhf.config.models import Rendering, Vocabulary
from rlhf.data.rendering import Renderer, Row
from rlhf.problems import InputError
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


def test_demonstrations_are_games_that_the_environment_would_play(guessing) -> None:
    train, heldout, lessons = guessing_rows(GuessingConfig(num_heldout=4, num_lessons=100), seed=1)
    ids = [row.id for row in (*train, *heldout, *lessons)]
    assert len(set(ids)) == len(ids) == 84 * 7 + 100
    ranges = [{row.messages for row in rows} for rows in (train, heldout, lessons)]
    assert [len(one) for one in ranges[:2]] == [80, 4]
    assert not ranges[1] & (ranges[0] | ranges[2]), "held-out ranges are not shown"
    num_won = 0
    for row in (*train, *lessons):
        env, (first, *rest) = guessing.Guessing(), turns(row)
        assert env.reset({"prompt": row.messages[0].content, "answer": row.answer})
        said, done, reward = env.step(first.content)
        for reply, guess in zip(rest[::2], rest[1::2], strict=True):
            assert (reply.role, reply.content, done) == ("user", said, False)
            said, done, reward = env.step(guess.content)
        assert done
        num_won += reward == 1
    assert 0.45 < num_won / 660 < 0.65, "careless guesses win 0.43, careful ones 0.68"
    perfect, *_ = guessing_rows(GuessingConfig(width=3, careless=0), seed=1)
    assert all(turns(row)[-1].content == row.answer for row in perfect)


def test_not_every_range_can_be_held_out() -> None:
    with pytest.raises(InputError, match=r"with data\.width=7 there are 84 ranges; hold out fewer"):
        guessing_rows(GuessingConfig(num_heldout=84), seed=1)


def test_a_demonstration_of_several_turns_trains_on_the_policys_own() -> None:
    tokenizer = build_tokenizer(Vocabulary.bytes)
    tokenizer.chat_template = CHAT_TEMPLATE
    renderer = Renderer(tokenizer, Rendering.chat)
    config = GuessingConfig(width=2, num_lessons=10)
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

    rows, _, lessons = guessing_rows(config, seed=1)
    for row in (*rows, *lessons):
        shown = data.demonstrations[row.id]
        observed = [decoded(shown.completion[a:b]) for a, b in shown.observed]
        assert observed == [f"\n?{turn.content}\n!" for turn in turns(row)[1::2]]
        own, end = [], 0
        for start, stop in (*shown.observed, (len(shown.completion),) * 2):
            own.append(decoded(shown.completion[end:start]))
            end = stop
        assert own == [f"{turn.content}<eos>" for turn in turns(row)[::2]]
