"""Known games: their files, and how far a policy is from equilibrium."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from rlhf.asking.sources.game import GameDataConfig, game_rows
from rlhf.judges.game import GameConfig, GameJudge
from rlhf.judges.groups import Group
from rlhf.problems import InputError
from rlhf.records import Completion, Prompt
from rlhf.toys.games import (
    KnownGame,
    exploitability,
    exploitability_bias,
    exploitability_interval,
    nash_gap,
    read_game,
)

CYCLE = [[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]]
ANSWERS = ["rock", "paper", "scissors"]


@pytest.fixture
def write(tmp_path: Path):
    def written(content: object) -> str:
        path = tmp_path / "game.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return written


@pytest.fixture
def game(write) -> KnownGame:
    return read_game(write({"answers": ANSWERS, "win_prob": CYCLE}))


def test_the_base_policy_is_exploited_by_scissors(game):
    # Scissors win .8 * .6 + .3 * .3 + .5 * .1 = .62.
    assert exploitability(game, [0.6, 0.3, 0.1, 0]) == pytest.approx(0.12)
    assert nash_gap(game, [0.6, 0.3, 0.1, 0]) == pytest.approx(0.24)


def test_nobody_gains_against_the_nash_policy(game):
    nash = [2 / 9, 3 / 9, 4 / 9, 0]
    assert exploitability(game, nash) == pytest.approx(0)
    assert nash_gap(game, nash) == pytest.approx(0)


def test_what_is_no_answer_loses_to_every_answer(game):
    # Every answer wins with certainty against the half that is none.
    assert exploitability(game, [0, 0, 0, 1]) == pytest.approx(0.5)
    # Scissors: .5 * 1 + .5 * (.8 + .3 + .5) / 3
    assert exploitability(game, [1 / 6] * 3 + [0.5]) == pytest.approx(0.5 + 0.8 / 3 - 0.5)
    assert (game.place(" rock\n"), game.place("Rock")) == (0, 3)


@given(st.integers(2, 8), st.integers(0, 10_000))
def test_in_every_game_the_linear_program_s_policy_is_not_exploitable(size, seed):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((size, size)), 1)
    win_prob = upper + np.tril(1 - upper.T, -1) + np.eye(size) / 2
    game = KnownGame(tuple("abcdefgh"[:size]), win_prob)
    # Maximise v where every opponent's answer is beaten with probability v at least.
    found = linprog(
        [*[0] * size, -1],
        A_ub=np.hstack([-win_prob.T, np.ones((size, 1))]),
        b_ub=np.zeros(size),
        A_eq=[[*[1] * size, 0]],
        b_eq=[1],
    )
    assert exploitability(game, [*found.x[:size], 0]) == pytest.approx(0, abs=1e-6)
    some = rng.dirichlet(np.ones(size + 1))
    assert exploitability(game, some) >= -1e-12
    assert nash_gap(game, some) == pytest.approx(2 * exploitability(game, some))


NASH = [2 / 9, 3 / 9, 4 / 9, 0]
POLICIES = {
    "equilibrium": NASH,
    "near equilibrium": [0.25, 0.31, 0.44, 0],
    "base": [0.6, 0.3, 0.1, 0],
    "one answer alone": [0, 0, 1, 0],
    "nearly one answer": [0.001, 0.999, 0, 0],
    "often no answer": [0.2, 0.3, 0.4, 0.1],
}


@pytest.mark.parametrize("num_samples", [32, 512, 8192])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_interval_holds_the_truth_as_often_as_it_claims(game, policy, num_samples):
    shares = POLICIES[policy]
    truth, rng = exploitability(game, shares), np.random.default_rng(num_samples)
    held = 0
    for seed, counts in enumerate(rng.multinomial(num_samples, shares, 200)):
        low, high = exploitability_interval(game, counts.tolist(), seed)
        held += low <= truth + 1e-12 and truth <= high + 1e-12
    assert held / 200 >= 0.95


def test_the_interval_narrows_with_samples(game):
    shares = np.array([0.6, 0.3, 0.1, 0.0])
    few, many = (
        exploitability_interval(game, (shares * n).astype(int).tolist(), seed=1)
        for n in (100, 10_000)
    )
    assert few.low < 0.12 < few.high and many.low < 0.12 < many.high
    assert many.high - many.low < (few.high - few.low) / 5
    nash = exploitability_interval(game, [2000, 3000, 4000, 0], seed=1)
    assert nash.low == 0 < nash.high < 0.01


def test_an_estimate_has_a_floor_that_falls_with_the_root_of_samples(game):
    """Those of the page about metrics."""
    floors = [exploitability_bias(game, NASH, n, seed=1) for n in (128, 512, 2048, 8192)]
    assert floors == pytest.approx([0.0220, 0.0110, 0.0055, 0.0027], rel=0.05)
    # Off equilibrium one answer is the best whatever is drawn, and a mean is not biased.
    assert exploitability_bias(game, [0.6, 0.3, 0.1, 0], 2048, seed=1) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ([1], 'must be {"answers"'),
        ({"answers": ["a"], "win_prob": [[0.5]]}, "has 1 answers; allowed are 2 to 8"),
        ({"answers": ["a", "a "], "win_prob": CYCLE}, "two answers are the same"),
        ({"answers": ["a", ""], "win_prob": CYCLE}, "texts that are not empty"),
        ({"answers": ANSWERS, "win_prob": CYCLE[:2]}, "must be 3 rows of 3 numbers"),
        (
            {"answers": ["a", "b"], "win_prob": [[0.5, 0.7], [0.7, 0.5]]},
            "win_prob[1][0]=0.7: must be 0.3, since win_prob[0][1]=0.7",
        ),
        ({"answers": ["a", "b"], "win_prob": [[0.4, 0.7], [0.3, 0.5]]}, "must be 0.5"),
        ({"answers": ["a", "b"], "win_prob": [[0.5, 1.2], [-0.2, 0.5]]}, "between 0 and 1"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(write, content, told):
    with pytest.raises(InputError) as caught:
        read_game(write(content))
    assert told in str(caught.value) and "judge.game=" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"judge\.game=.*nowhere\.json: cannot be read"):
        read_game(str(tmp_path / "nowhere.json"))


def test_the_judge_looks_texts_up(write):
    judge = GameJudge(GameConfig(game=write({"answers": ANSWERS, "win_prob": CYCLE})))
    group = Group(
        Prompt("p", (), (1,)),
        tuple(
            Completion("p", i, (i,), (0.0,), text, False, 0)
            for i, text in enumerate(["paper", "what?", " rock"])
        ),
    )
    (found,) = judge.judge([group])
    assert found.win_prob == ((0.5, 1.0, 0.1), (0.0, 0.5, 0.0), (0.9, 1.0, 0.5))


def test_demonstrations_have_the_shares_of_the_base(write):
    path = write({"answers": ANSWERS, "win_prob": CYCLE})
    config = GameDataConfig(game=path, base=[0.6, 0.3, 0.1], num_prompts=4000)
    train, heldout = game_rows(config, seed=1)
    shares = [sum(row.demonstration == answer for row in train) / 4000 for answer in ANSWERS]
    # The standard deviation is at most sqrt(.24 / 4000) = .008.
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.03)
    assert {row.demonstration for row in heldout} == {None}
    unequal, _ = game_rows(GameDataConfig(game=path, num_prompts=4000), seed=1)
    shares = [sum(row.demonstration == answer for row in unequal) / 4000 for answer in ANSWERS]
    assert shares == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=0.03)
    assert len({row.id for row in (*train, *heldout)}) == len(train) + len(heldout)
    with pytest.raises(InputError, match="a share for each of the 3 answers"):
        game_rows(GameDataConfig(game=path, base=[0.5, 0.5]), seed=1)


def test_a_game_that_comes_with_agon_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(read_game("conf/games/cycle.json").answers) == 3
