"""The self-play coroutine: who plays, with which seeds, and what becomes of a verdict."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rlhf.algorithms.self_play import SelfPlay, SelfPlayConfig
from rlhf.collecting.matching import SelfPlayRule
from rlhf.records import Asked, Comparison, Completion, Judgement, Message, Prompt, Sampling

PROMPT = Prompt("p", (Message("user", "?"),), (1,))


class Recorder:
    """A rollout and a judge that remember what they were asked."""

    def __init__(self, verdict=None) -> None:
        self.seeds: list[int] = []
        self.judged: Sequence[Completion] = ()
        self.verdict = verdict

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        self.seeds += range(seed, seed + sampling.num_completions)
        return tuple(
            Completion(prompt.id, i, (seed + i,), (0.0,), f"{seed + i}", False, 3, sampling.mixture)
            for i in range(sampling.num_completions)
        )

    async def judge(self, prompt: Prompt, completions: Sequence[Completion]):
        self.judged = completions
        return self.verdict or Judgement(tuple(map(float, range(len(completions)))), "test@1")


async def play(stage: Recorder, ties: bool = False, **settings):
    config = SelfPlayConfig(**settings)
    sampling = Sampling(config.num_completions, 4)
    return await SelfPlay(stage, stage, sampling, config, ties).collect(Asked(PROMPT, seed=100))


async def test_opponents_take_turns_and_no_two_completions_share_a_seed():
    stage = Recorder()
    await play(stage, num_completions=3, num_mixture=2, num_initial=1, mixture=0.25)
    assert [one.mixture for one in stage.judged] == [0, 0.25, 1, 0, 0.25, 0]
    assert [one.sample for one in stage.judged] == list(range(6))
    assert sorted(stage.seeds) == list(range(100, 106))


async def test_a_policy_meets_the_initial_policy_pair_by_pair():
    collected = await play(Recorder(), num_completions=2, num_initial=2, rule=SelfPlayRule.iid)
    for preference in collected.preferences:
        assert {preference.chosen.completion.mixture, preference.rejected.completion.mixture} == {
            0,
            1,
        }
    assert len(collected.preferences) == 2


async def test_scores_are_turned_into_a_matrix_and_a_matrix_is_taken_as_it_is():
    scored = await play(Recorder(), num_completions=2)
    assert isinstance(scored.judgement, Comparison)
    assert scored.preferences[0].win_prob == pytest.approx(0.7310586)
    matrix = Comparison(((0.5, 0.9), (pytest.approx(0.1).expected, 0.5)), "pair@1", 0.2)
    compared = await play(Recorder(matrix), num_completions=2)
    assert compared.judgement is matrix and compared.preferences[0].win_prob == 0.9


class Alike(Recorder):
    """Whose completions all say the same."""

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        drawn = await super().generate(prompt, sampling, seed)
        return tuple(replace(one, text="same", token_ids=(7,)) for one in drawn)


@pytest.mark.parametrize(("ties", "kept"), [(False, 0), (True, 1)])
async def test_the_objective_says_whether_equal_answers_make_a_pair(ties, kept):
    collected = await play(Alike(), ties, num_completions=2, rule=SelfPlayRule.iid)
    assert [one.win_prob for one in collected.preferences] == [0.5] * kept
    assert [one.reason.value for one in collected.dropped] == ["identical"] * (1 - kept)
