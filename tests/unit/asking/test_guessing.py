"""Guessing games: what a careless player says, and the words that the environment has for it."""

import importlib.util
from pathlib import Path

import pytest

from rlhf.asking.prompts import load_data
from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.guessing import GuessingConfig, guessing_rows
from rlhf.config.models import Rendering, Vocabulary
from rlhf.data.rendering import Renderer
from rlhf.problems import InputError
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


def test_demonstrations_are_games_that_the_environment_would_play(guessing) -> None:
    train, heldout = guessing_rows(GuessingConfig(num_prompts=200, num_heldout=50), seed=1)
    ids = [row.id for row in (*train, *heldout)]
    assert len(set(ids)) == len(ids) == 250
    num_won = 0
    for row in train:
        env, (first, *rest) = guessing.Guessing(), row.demonstration
        assert env.reset({"prompt": row.messages[0].content, "answer": row.answer})
        said, done, reward = env.step(first.content)
        for reply, guess in zip(rest[::2], rest[1::2], strict=True):
            assert (reply.role, reply.content, done) == ("user", said, False)
            said, done, reward = env.step(guess.content)
        assert done
        num_won += reward == 1
    assert 0.3 < num_won / len(train) < 0.55, "0.41 are won by half careless guesses"
    perfect, _ = guessing_rows(GuessingConfig(width=4, careless=0, num_prompts=200), seed=1)
    assert all(row.demonstration[-1].content == row.answer for row in perfect)


def test_more_games_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match=r"with data\.width=2 there are 178 games, not 1100"):
        guessing_rows(GuessingConfig(width=2), seed=1)


def test_a_demonstration_of_several_turns_trains_on_the_policys_own() -> None:
    tokenizer = build_tokenizer(Vocabulary.bytes)
    tokenizer.chat_template = CHAT_TEMPLATE
    renderer = Renderer(tokenizer, Rendering.chat)
    config = GuessingConfig(num_prompts=20)
    limits = {"max_prompt_tokens": 16, "max_completion_tokens": 32}
    data = load_data(config, renderer, **limits, wanted=Wanted(), tools=ToolsConfig(), seed=1)
    rows, _ = guessing_rows(config, seed=1)
    for row in rows:
        shown = data.demonstrations[row.id]
        observed = [tokenizer.decode(shown.completion[a:b]) for a, b in shown.observed]
        assert observed == [f"\n?{turn.content}\n!" for turn in row.demonstration[1::2]]
        own, end = [], 0
        for start, stop in (*shown.observed, (len(shown.completion),) * 2):
            own.append(tokenizer.decode(shown.completion[end:start]))
            end = stop
        assert own == [f"{turn.content}<eos>" for turn in row.demonstration[::2]]
